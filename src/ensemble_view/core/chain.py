"""A residual net as a value: stem, then blocks and links in order, then head.

Each block computes ``after(shortcut(u) + branch(u))`` with ``u = before(x)`` (He et al. 2016,
"Identity Mappings in Deep Residual Networks", equation 1), and its parts can be had apart. A part
is any callable of ``(x, context)``; those found by :func:`ensemble_view.unravel` are graph modules
that share the model's parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from torch import Tensor, nn

from ensemble_view.core.parts import Context, InTurn, Part, Sum, identity
from ensemble_view.core.plan import Outline, Slot
from ensemble_view.errors import DiscoveryError

__all__ = ["Block", "Chain", "ShortcutKind", "arguments_of"]

ShortcutKind: TypeAlias = Literal[
    "identity", "scaling", "projection", "zero-pad", "pooling", "none"
]


@dataclass(frozen=True, eq=False, repr=False)
class Block:
    """One residual block ``after(shortcut(u) + branch(u))``, ``u = before(x)``, of a chain.

    A *plain unit*, which has no shortcut (``shortcut_kind == "none"``), computes
    ``after(branch(before(x)))``, and deleting it lets ``x`` pass; it can be deleted only where it
    keeps the shape.

    Args:
        index: Position in the unmodified chain, from 0.
        name: Module path, for example ``"layer1.0"``.
        before: What shortcut and branch share.
        shortcut: The way round.
        branch: The residual function F.
        after: What follows the addition.
        shortcut_kind: ``identity``, ``scaling`` (a factor, nothing else), ``projection``,
            ``zero-pad``, ``pooling`` or ``none``.
        shape_in: Shape of the block's input without the batch dimension.
        shape_out: Shape of its output without the batch dimension.
        units: The residual sums that the block is made of, where these are several.
        by_example: Whether the first dimension of its sum counts examples: not where a model joins
            it with positions, or puts these first.
        sums_as_output: Whether that sum has the shape of the output: not where values are laid out
            anew after it, as windows of an image are.

    Example:
        >>> import torch
        >>> block = Block(0, "double", branch=lambda x, context: x)
        >>> block(torch.ones(1, 1))
        tensor([[2.]])
        >>> block.deleted(torch.ones(1, 1))
        tensor([[1.]])
    """

    index: int
    name: str
    before: Part = identity
    shortcut: Part = identity
    branch: Part = identity
    after: Part = identity
    shortcut_kind: ShortcutKind = "identity"
    shape_in: tuple[int, ...] = ()
    shape_out: tuple[int, ...] = ()
    units: tuple[Block, ...] = ()
    by_example: bool = True
    sums_as_output: bool = True

    @classmethod
    def of_units(cls, index: int, name: str, units: Sequence[Block]) -> Block:
        """Make one block of residual sums that follow each other, such as a transformer layer's.

        Its shortcut is the way through all of them with all branches deleted, up to the last sum;
        its branch is what the last sum holds beyond that; its ``after`` is the last one's. So to
        scale it is to scale all that its sums add together, and without its shortcut that is left.

        Args:
            index: Of the block.
            name: Of the block.
            units: At least one; a single one stays as it is.

        Returns:
            The block.

        Example:
            >>> double = Block(0, "double", branch=lambda x, context: x)
            >>> layer = Block.of_units(0, "layer", [double, double])
            >>> layer(1.0), layer.deleted(1.0), layer.branch(1.0, ())
            (4.0, 1.0, 3.0)
        """
        *earlier, last = units
        if not earlier:
            return replace(last, index=index, name=name)
        whole = replace(last, after=identity)
        shortcut = InTurn((*(unit.way for unit in earlier), whole.way))
        full = InTurn((*(unit.whole for unit in earlier), whole.whole))
        kinds = [unit.shortcut_kind for unit in units if unit.shortcut_kind != "identity"]
        return cls(
            index=index,
            name=name,
            shortcut=shortcut,
            branch=Sum(((1.0, full), (-1.0, shortcut))),
            after=last.after,
            shortcut_kind=kinds[0] if kinds else "identity",
            shape_in=units[0].shape_in,
            shape_out=last.shape_out,
            units=tuple(units),
            by_example=last.by_example,
            sums_as_output=last.sums_as_output,
        )

    def preceded_by(self, link: Part, shape_in: tuple[int, ...]) -> Block:
        """The same block with something more in front of ``before``.

        Args:
            link: What runs first.
            shape_in: Shape of its input without the batch dimension.

        Returns:
            The block.
        """
        return replace(self, before=InTurn((link, self.before)), shape_in=shape_in)

    @property
    def way(self) -> Part:
        """What is left without the branch: before, shortcut and after, one after another."""
        return InTurn((self.before, self.shortcut, self.after))

    @property
    def whole(self) -> Part:
        """The whole block in one part. The branch comes first, so that it can be added to."""
        terms = ((1.0, self.branch), (1.0, self.shortcut))
        total = Sum(terms) if self.is_residual else self.branch
        return InTurn((self.before, total, self.after))

    @property
    def residual(self) -> Block:
        """The block as one residual sum, whose branch can be scaled, replaced, or left alone.

        A plain unit G that keeps its shape reads x + (G(x) - x), so that deleting its branch lets
        its input pass; the branch of a block of several sums is what the last sum holds beyond the
        shortcut's way (:meth:`of_units`).
        """
        if self.is_residual:
            return self
        return replace(
            self,
            before=identity,
            shortcut=identity,
            branch=Sum(((1.0, self.whole), (-1.0, identity))),
            after=identity,
            shortcut_kind="identity",
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """Before, shortcut, branch and after, of each residual sum in turn."""
        if self.units:
            return tuple(part for unit in self.units for part in unit.parts)
        return (self.before, self.shortcut, self.branch, self.after)

    @property
    def changes_shape(self) -> bool:
        """Whether the output's shape differs from the input's (a downsampling block)."""
        return self.shape_in != self.shape_out

    @property
    def is_residual(self) -> bool:
        """Whether the block has a shortcut; a plain unit has none."""
        return self.shortcut_kind != "none"

    @property
    def deletable(self) -> bool:
        """Whether something of the right shape is left when the branch is deleted."""
        return self.is_residual or not self.changes_shape

    def __call__(self, x: Tensor, context: Context = ()) -> Tensor:
        """Compute the whole block.

        Args:
            x: The block's input, batch first.
            context: Values that do not depend on the trunk.

        Returns:
            The block's output.
        """
        if self.units:
            for unit in self.units:
                x = unit(x, context)
            return x
        shared = self.before(x, context)
        branch = self.branch(shared, context)
        total = self.shortcut(shared, context) + branch if self.is_residual else branch
        return self.after(total, context)

    def deleted(self, x: Tensor, context: Context = ()) -> Tensor:
        """Compute what is left of the block when its branch contributes nothing.

        Args:
            x: The block's input, batch first.
            context: Values that do not depend on the trunk.

        Returns:
            ``after(shortcut(before(x)))``; for a plain unit ``x`` itself.

        Raises:
            DiscoveryError: For a plain unit that changes the shape.
        """
        if self.is_residual:
            return self.after(self.shortcut(self.before(x, context), context), context)
        if self.changes_shape:
            raise DiscoveryError(
                f"Block {self.index} ({self.name}) has no shortcut and changes the shape from "
                f"{self.shape_in} to {self.shape_out}; it cannot be deleted."
            )
        return x

    def __repr__(self) -> str:
        """One line.

        Returns:
            Index, name and shapes.
        """
        shapes = "×".join(map(str, self.shape_in))
        if self.changes_shape:
            shapes += " → " + "×".join(map(str, self.shape_out))
        return f"Block({self.index}, {self.name!r}, {self.shortcut_kind}, {shapes})"


@dataclass(frozen=True)
class Addition:
    """Why one addition of the model is, or is not, the sum of a block.

    Args:
        place: Where in the code it is made.
        shape: Its shape without the batch dimension.
        block: Index of the block whose sum it is, or None.
        reason: In words.
        residual: Whether it adds a branch to a shortcut, in a block or not.
        within: Index of the block inside whose branch it lies, or None. A residual sum that is
            neither a block's nor within one is part of a link, of the stem or of the head.
    """

    place: str
    shape: tuple[int, ...]
    block: int | None
    reason: str
    residual: bool = False
    within: int | None = None

    @property
    def beside(self) -> bool:
        """Whether it is a residual sum outside all blocks."""
        return self.residual and self.block is None and self.within is None


@dataclass(frozen=True, eq=False, repr=False)
class Chain:
    """Stem, blocks, links and head; equals the model it was found in.

    Args:
        stem: Called with the model's own arguments; gives the first block's (or link's) input and
            the context.
        blocks: In the order in which the model runs them.
        head: From the last block's output to the model's output.
        links: What lies between two blocks and belongs to neither; ``links[i]`` runs before the
            block at position i.
        model: The model behind the chain, if there is one.
        additions: Of each addition in the model, why it is or is not a block.
        provenance: What the hooks need to find the blocks in the model's code (private).
        output: Key or position of the output that is followed; empty for a model of one output.
        other_outputs: Those of the others.
        output_chosen: Whether somebody named it, or it is called ``logits``.
        whole: From the last block's output to all that the model returns, in its own form; None
            unless that was asked for (``unravel(..., output="all")``).

    Example:
        >>> import torch
        >>> chain = Chain.from_parts(
        ...     torch.nn.Flatten(), [Block(0, "F", branch=lambda x, context: -x)], lambda x: x
        ... )
        >>> chain(torch.ones(1, 2))
        tensor([[0., 0.]])
    """

    stem: Callable[..., tuple[Tensor, Context]]
    blocks: tuple[Block, ...]
    head: Part
    links: Mapping[int, Part] = field(default_factory=dict)
    model: nn.Module | None = None
    additions: tuple[Addition, ...] = ()
    provenance: Any = None
    output: str = ""
    other_outputs: tuple[str, ...] = ()
    output_chosen: bool = True
    whole: Callable[[Tensor, Context], Any] | None = None

    @classmethod
    def from_parts(
        cls,
        stem: Callable[..., Tensor],
        blocks: Sequence[Block],
        head: Callable[[Tensor], Tensor],
    ) -> Chain:
        """Build a chain by hand, for a model that :func:`ensemble_view.unravel` refuses.

        Args:
            stem: From the model's arguments to the first block's input.
            blocks: Blocks in order; their indices are set anew.
            head: From the last block's output to the logits.

        Returns:
            A chain without links and without a model behind it: the engine runs it, the hooks
            cannot.

        Raises:
            DiscoveryError: If there is no block.

        Example:
            >>> from torch import nn
            >>> branches = [nn.Linear(4, 4) for _ in range(3)]
            >>> chain = Chain.from_parts(
            ...     nn.Linear(8, 4),
            ...     [Block(i, f"F{i}", branch=lambda x, context, f=f: f(x))
            ...      for i, f in enumerate(branches)],
            ...     nn.Linear(4, 2),
            ... )
            >>> len(chain.blocks)
            3
        """
        if not blocks:
            raise DiscoveryError("A chain needs at least one block; none was given.")
        return cls(
            stem=lambda *args, **kwargs: (stem(*args, **kwargs), ()),
            blocks=tuple(replace(block, index=index) for index, block in enumerate(blocks)),
            head=lambda x, context: head(x),
        )

    @property
    def residual_sums(self) -> str:
        """How many of the model's residual sums the blocks hold, and where the others lie.

        Empty for a model without residual sums and for a chain that was built by hand.
        """
        sums = [addition for addition in self.additions if addition.residual]
        if not sums:
            return ""
        held = sum(addition.block is not None for addition in sums)
        noun = "block holds" if len(self) == 1 else "blocks hold"
        total = "the only residual sum" if len(sums) == 1 else f"{len(sums)} residual sums"
        if held == len(sums):
            whole = total if held == 1 else f"all {total}"
            return f"{len(self)} {noun} {whole} of the model."
        inside = sum(addition.within is not None for addition in sums)
        beside = len(sums) - held - inside
        places = {"inside branches": inside, "in stem, links or head": beside}
        where = [f"{count} {place}" for place, count in places.items() if count]
        if len(where) == 1:
            where = [place for place, count in places.items() if count]
        return (
            f"{len(self)} {noun} {held} of {total} of the model; no block stands for the other "
            f"{len(sums) - held} ({', '.join(where)})."
        )

    @property
    def outline(self) -> Outline:
        """What a plan must know of the chain: names, shapes, what can be deleted, links."""
        return Outline(
            tuple(
                Slot(
                    block.name,
                    block.shape_in,
                    block.shape_out,
                    block.deletable,
                    block.is_residual,
                    block.by_example,
                    block.sums_as_output,
                )
                for block in self.blocks
            ),
            frozenset(self.links),
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run the whole chain on the model's own arguments.

        Args:
            *args: As the model takes them.
            **kwargs: As the model takes them.

        Returns:
            The model's output (the one that was followed).
        """
        x, context = self.stem(*args, **kwargs)
        for position, block in enumerate(self.blocks):
            if position in self.links:
                x = self.links[position](x, context)
            x = block(x, context)
        return self.head(x, context)

    def __len__(self) -> int:
        """Count the blocks.

        Returns:
            Their number.
        """
        return len(self.blocks)

    def __iter__(self) -> Iterator[Block]:
        """Go through the blocks.

        Returns:
            An iterator over them, in order.
        """
        return iter(self.blocks)

    def __repr__(self) -> str:
        """One line per block.

        Returns:
            The blocks in order.
        """
        name = type(self.model).__name__ if self.model is not None else "parts"
        lines = [f"Chain of {len(self)} blocks from {name}"]
        for block in self.blocks:
            if block.index in self.links:
                lines.append("  link")
            lines.append(f"  {block!r}")
        return "\n".join(lines)


def arguments_of(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Say what a model is called with for a batch's inputs.

    Args:
        inputs: Several come as a tuple or list, those with names as a dictionary.

    Returns:
        Positional arguments and keyword arguments.

    Example:
        >>> arguments_of({"rows": 1}), arguments_of([1, 2]), arguments_of(1)
        (((), {'rows': 1}), ((1, 2), {}), ((1,), {}))
    """
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}
