"""A chain's forward pass on one batch, kept so that cotangents can go back through its parts.

Each part (before, shortcut, branch, after, link) keeps its own graph at the activations of the full
net, so that vector–Jacobian products (VJPs) can be taken of each alone and as often as wanted.
Nothing is written to the model: no gradient is accumulated, no flag is changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ensemble_view.core.chain import Block, Chain, arguments_of
from ensemble_view.core.parts import Context
from ensemble_view.errors import MeasurementError
from ensemble_view.paths.losses import Loss, cross_entropy

__all__ = ["Passage", "Trace", "TracedBlock", "refuse_random_blocks", "trace"]

Cotangents: TypeAlias = list[Tensor]


@dataclass(frozen=True, eq=False)
class Passage:
    """One part of the net between two kept activations.

    Args:
        name: What it is, for an error.
        entry: Its input, a leaf of its graph.
        exit: Its output; the same tensor where the part does nothing.
    """

    name: str
    entry: Tensor
    exit: Tensor

    def back(self, cotangents: Cotangents, *, vectorised: bool = False) -> Cotangents:
        """Take cotangents of the output back to the input.

        Args:
            cotangents: Each of the output's shape.
            vectorised: All in one call, where every operation in the part can do that.

        Returns:
            One for each, of the input's shape.
        """
        if self.exit is self.entry:
            return list(cotangents)
        if vectorised and len(cotangents) > 1:
            try:
                return list(self._gradient(torch.stack(cotangents), batched=True).unbind())
            except MeasurementError:
                # Not every operation can; one that has no gradient at all fails below as well.
                pass
        return [self._gradient(cotangent) for cotangent in cotangents]

    def _gradient(self, cotangent: Tensor, *, batched: bool = False) -> Tensor:
        try:
            (found,) = torch.autograd.grad(
                self.exit,
                self.entry,
                cotangent.to(self.exit.dtype),
                retain_graph=True,
                is_grads_batched=batched,
                allow_unused=True,
            )
        except (RuntimeError, NotImplementedError) as error:
            raise _not_differentiable(self.name, str(error)) from error
        if found is None:
            raise _not_differentiable(self.name, "its output does not depend on its input")
        return found


def _not_differentiable(name: str, reason: str) -> MeasurementError:
    first = reason.strip().splitlines()[0].rstrip(".")
    return MeasurementError(
        f"The {name} is not differentiable ({first}); gradients by path need every part between "
        "input and loss to be. Use a differentiable form of it."
    )


@dataclass(frozen=True, eq=False)
class TracedBlock:
    """A block's parts at the full net's activations.

    Args:
        link: What lies before the block and belongs to no block.
        before: What shortcut and branch share.
        shortcut: The way round.
        branch: The residual function.
        after: What follows the addition.
    """

    link: Passage
    before: Passage
    shortcut: Passage
    branch: Passage
    after: Passage


@dataclass(eq=False)
class Trace:
    """The whole net at one batch.

    Args:
        stem: From the model's input to the first block's (or link's) input.
        blocks: Those that paths go through, in order; the first one's link is left out, since the
            gradient is taken at the block's own input.
        start: Gradient of the summed loss at the last block's output.
        vectorised: Whether several cotangents go back in one call.
        branch_vjps: How many cotangents went back through a branch so far.
    """

    stem: Passage | None
    blocks: tuple[TracedBlock, ...]
    start: Tensor
    vectorised: bool = False
    branch_vjps: int = 0

    def back(self, passage: Passage, cotangents: Cotangents) -> Cotangents:
        """Take cotangents back through one part.

        Args:
            passage: The part.
            cotangents: Each of the shape of its output.

        Returns:
            One for each, of the shape of its input.
        """
        return passage.back(cotangents, vectorised=self.vectorised)

    def through(self, block: TracedBlock, cotangents: Cotangents) -> Cotangents:
        """Take cotangents of a block's sum back through its branch, and count them.

        Args:
            block: One of the trace's.
            cotangents: Each of the sum's shape.

        Returns:
            One for each, of the branch's input.
        """
        self.branch_vjps += len(cotangents)
        return self.back(block.branch, cotangents)

    def leave(self, cotangents: Cotangents) -> Cotangents:
        """Take cotangents of the first block's input to where the gradient is taken.

        Args:
            cotangents: Each of that input's shape.

        Returns:
            One for each.
        """
        return cotangents if self.stem is None else self.back(self.stem, cotangents)


def trace(
    chain: Chain,
    inputs: Any,
    labels: Any,
    *,
    loss: Loss = cross_entropy,
    at: int | None = 0,
    vectorised: bool | None = None,
) -> Trace:
    """Run a chain on a batch and keep what the gradients need.

    Args:
        chain: Of residual blocks of one sum each (granularity ``branch``), whose model is in
            evaluation mode.
        inputs: The model's input: a tensor, a tuple of positional arguments or a dictionary.
        labels: What the loss takes.
        loss: One loss per example. The gradient is that of their sum, so that each example's is
            its own.
        at: Index of the block at whose input gradients are taken; None: at the model's input.
        vectorised: Several cotangents in one call; None: not on a CPU, which one keeps busy.

    Returns:
        The trace.

    Raises:
        MeasurementError: If a block has no shortcut or several sums, a part is not differentiable,
            or the loss is not one number per example.

    Example:
        >>> blocks = [Block(0, "F", branch=lambda x, context: 3 * x)]
        >>> chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
        >>> traced = trace(chain, torch.ones(2, 1), None, loss=lambda output, *_: output.sum(1))
        >>> traced.blocks[0].branch.back([traced.start])
        [tensor([[3.],
                [3.]])]
    """
    first = at or 0
    _check(chain, first)
    args, named = arguments_of(inputs)
    with torch.inference_mode(False), torch.enable_grad():
        stem, x, context = _stem(chain, args, named, wanted=at is None)
        examples = len(x)
        traced: list[TracedBlock] = []
        for position, block in enumerate(chain.blocks):
            link = chain.links.get(position)
            if position < first or (position == first and at is not None):
                with torch.no_grad():
                    x = link(x, context) if link is not None else x
                    x = block(x, context) if position < first else x
                link = None
            if position >= first:
                traced.append(_traced_block(block, link, x, context))
                x = traced[-1].after.exit
        head = _leaf(x)
        output = chain.head(head, context)
        losses = loss(output, _moved(labels, head.device), inputs)
        if losses.shape != (examples,):
            raise MeasurementError(
                f"The loss has shape {tuple(losses.shape)} for {examples} examples; expected one "
                "number per example, so that each example's gradient is its own. Do not average."
            )
        (start,) = Passage("head with the loss", head, losses).back([torch.ones_like(losses)])
    if vectorised is None:
        vectorised = head.device.type != "cpu"
    return Trace(stem, tuple(traced), start, vectorised)


def refuse_random_blocks(chain: Chain, inputs: Any) -> None:
    """Refuse a chain with a block that gives another value when it is run again.

    Args:
        chain: Any chain.
        inputs: The model's input for a few examples.

    Raises:
        MeasurementError: If there is one; it is named.

    Example:
        >>> chain = Chain.from_parts(
        ...     lambda x: x, [Block(0, "F", branch=lambda x, context: x + torch.rand(1))],
        ...     lambda x: x)
        >>> refuse_random_blocks(chain, torch.ones(2, 1))
        Traceback (most recent call last):
        ensemble_view.errors.MeasurementError: Block 0 (F) gives another value each time ...
    """
    args, named = arguments_of(inputs)
    with torch.no_grad():
        x, context = chain.stem(*args, **named)
        for position, block in enumerate(chain.blocks):
            x = chain.links[position](x, context) if position in chain.links else x
            first, second = block(x, context), block(x, context)
            # Sums in another order, as on a GPU, differ by rounding only.
            if not torch.allclose(first, second, rtol=1e-3, atol=1e-6, equal_nan=True):
                raise MeasurementError(
                    f"Block {block.index} ({block.name}) gives another value each time it is run; "
                    "gradients by path need a deterministic net. Put it into evaluation mode."
                )
            x = first


def _check(chain: Chain, first: int) -> None:
    if not 0 <= first < len(chain):
        raise MeasurementError(
            f"There is no block {first} to take the gradient at: this chain has {len(chain)} "
            f"blocks, 0 to {len(chain) - 1}."
        )
    for block in chain.blocks[first:]:
        if not block.is_residual:
            raise MeasurementError(
                f"Block {block.index} ({block.name}) has no shortcut, so that there is one way "
                "through it and no choice of paths; gradients by path need residual blocks."
            )
        if block.units:
            raise MeasurementError(
                f"Block {block.index} ({block.name}) is made of {len(block.units)} residual sums, "
                "whose paths differ; unravel the model with granularity='branch'."
            )


def _stem(
    chain: Chain, args: tuple[Any, ...], named: dict[str, Any], *, wanted: bool
) -> tuple[Passage | None, Tensor, Context]:
    if not wanted:
        with torch.no_grad():
            x, context = chain.stem(*args, **named)
        return None, x, context
    values = [*args, *named.values()]
    floats = [v for v in values if isinstance(v, Tensor) and v.is_floating_point()]
    if len(floats) != 1:
        raise MeasurementError(
            f"The model takes {len(floats)} inputs of floating-point numbers; a gradient at its "
            "input needs exactly one. Take the gradient at a block instead: at=0."
        )
    leaf = _leaf(floats[0])
    args = tuple(leaf if value is floats[0] else value for value in args)
    named = {name: leaf if value is floats[0] else value for name, value in named.items()}
    x, context = chain.stem(*args, **named)
    context = tuple(v.detach() if isinstance(v, Tensor) else v for v in context)
    return _passage("stem", leaf, x), x, context


def _traced_block(block: Block, link: Any, x: Tensor, context: Context) -> TracedBlock:
    name = f"block {block.index} ({block.name})"
    entry = _leaf(x)
    try:
        linked = link(entry, context) if link is not None else entry
        outside = _passage(f"link before {name}", entry, linked)
        entry = _leaf(linked) if link is not None else entry
        shared = block.before(entry, context)
        before = _passage(f"part that branch and shortcut of {name} share", entry, shared)
        entry = entry if shared is entry else _leaf(shared)
        shortcut = _passage(f"shortcut of {name}", entry, block.shortcut(entry, context))
        branch = _passage(f"branch of {name}", entry, block.branch(entry, context))
        total = _leaf(shortcut.exit + branch.exit)
        after = _passage(f"part after {name}", total, block.after(total, context))
    except RuntimeError as error:
        raise _not_differentiable(name, str(error)) from error
    return TracedBlock(outside, before, shortcut, branch, after)


def _passage(name: str, entry: Tensor, found: Tensor) -> Passage:
    if found is not entry and not found.requires_grad:
        raise _not_differentiable(name, "its output is cut off from its input")
    return Passage(name, entry, found)


def _leaf(x: Tensor) -> Tensor:
    return x.detach().requires_grad_()


def _moved(labels: Any, device: torch.device) -> Any:
    return labels.to(device) if isinstance(labels, Tensor) else labels
