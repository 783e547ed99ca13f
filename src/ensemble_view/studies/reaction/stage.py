"""How the blocks of a stage answer when one of them is deleted (the reaction, per example)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from ensemble_view.core.chain import Block, Chain, arguments_of
from ensemble_view.core.parts import Context
from ensemble_view.errors import MeasurementError
from ensemble_view.studies.reaction.donors import donated, norms_of, weights_for
from ensemble_view.studies.reaction.freezing import Frozen
from ensemble_view.studies.reaction.gains import Held, Holding, Recording

__all__ = ["Stage", "reactions", "stages_of"]

_Key: TypeAlias = tuple[int, str]
_Around: TypeAlias = Callable[[_Key], AbstractContextManager[Any]]
_Later: TypeAlias = "tuple[Block, _Visit]"


@dataclass(frozen=True)
class Stage:
    """A run of blocks whose outputs have one shape, with nothing between them.

    Attributes:
        first: position of its first block, which may change the shape.
        last: position of its last block.
    """

    first: int
    last: int

    @property
    def blocks(self) -> range:
        """The positions of its blocks."""
        return range(self.first, self.last + 1)

    @property
    def continuations(self) -> int:
        """Block evaluations of deleting each in turn and going on to the end of the stage."""
        count = len(self.blocks)
        return count * (count - 1) // 2


@dataclass(eq=False)
class _Visit:
    """A block at the full net's activations.

    Args:
        entry: Its input.
        output: Its output.
        total: Its last sum.
        branch: What that holds beyond the way round all branches.
        held: What its nonlinearities did, by unit and part.
    """

    entry: Tensor
    output: Tensor
    total: Tensor
    branch: Tensor
    held: dict[_Key, Held] = field(default_factory=dict)

    def around(self, frozen: Frozen) -> _Around:
        """What each part runs in, so that its nonlinearities do what they did."""

        def holding(key: _Key) -> AbstractContextManager[Any]:
            held = self.held.get(key)
            if not held or frozen == "nothing" or (key[1] == "branch" and frozen != "all"):
                return nullcontext()
            return Holding(held)

        return holding


def _unchanged(key: _Key) -> AbstractContextManager[Any]:
    return nullcontext()


def _run(
    block: Block, x: Tensor, context: Context, around: _Around, *, deleted: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A block's output, its last sum, and the branch of the last sum."""
    branch, total = None, x
    for number, unit in enumerate(block.units or (block,)):
        if not unit.is_residual:
            if not deleted:
                with around((number, "branch")):
                    x = unit(x, context)
            branch, total = None, x
            continue
        with around((number, "before")):
            shared = unit.before(x, context)
        if not deleted:
            with around((number, "branch")):
                branch = unit.branch(shared, context)
        with around((number, "shortcut")):
            way = unit.shortcut(shared, context)
        total = way if branch is None else way + branch
        with around((number, "after")):
            x = unit.after(total, context)
    return x, total, branch


def _visit(block: Block, x: Tensor, context: Context, *, record: bool) -> tuple[Tensor, _Visit]:
    """Run a block in the full net, and keep what its deletion is held against."""
    held: dict[_Key, Held] = {}

    def recording(key: _Key) -> AbstractContextManager[Any]:
        mode = Recording()
        held[key] = mode.held
        return mode

    output, total, branch = _run(block, x, context, recording if record else _unchanged)
    if block.units or branch is None:
        # The branch of several sums is what the last one holds beyond the way round all of them.
        if block.deletable:
            branch = total - _run(block, x, context, _unchanged, deleted=True)[1]
        else:
            branch = total
    return output, _Visit(x, output, total, branch, held)


def _has_donors(block: Block) -> bool:
    """Whether another example's branch can be put into its sum, and what follows it runs after."""
    return block.by_example and (block.units or (block,))[-1].is_residual


@torch.no_grad()
def stages_of(chain: Chain, inputs: Any) -> tuple[Stage, ...]:
    """Cut a chain into stages: where a link runs, and where a block changes the shape.

    Args:
        chain: Any chain.
        inputs: As the model is called with them; a few examples suffice.

    Returns:
        The stages, in order; each block is in one.

    Example:
        >>> def narrow(x, context):
        ...     return x[:, :1]
        >>> blocks = [Block(0, "a"), Block(1, "b"), Block(2, "c", shortcut=narrow, branch=narrow),
        ...           Block(3, "d")]
        >>> chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
        >>> stages_of(chain, torch.ones(2, 3))
        (Stage(first=0, last=1), Stage(first=2, last=3))
    """
    args, named = arguments_of(inputs)
    x, context = chain.stem(*args, **named)
    firsts: list[int] = []
    for position, block in enumerate(chain.blocks):
        if position in chain.links:
            x = chain.links[position](x, context)
        before, x = x.shape, block(x, context)
        if not firsts or position in chain.links or x.shape != before:
            firsts.append(position)
    lasts = [*(first - 1 for first in firsts[1:]), len(chain) - 1]
    return tuple(Stage(first, last) for first, last in zip(firsts, lasts, strict=True))


@torch.no_grad()
def reactions(
    chain: Chain,
    stages: Sequence[Stage],
    inputs: Any,
    *,
    frozen: Sequence[Frozen] = ("nothing",),
    donors: tuple[int, ...] | None = None,
    counted: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Measure how the rest of a stage answers when one of its blocks is deleted.

    With S and B what the shortcut and the branch of block i give in the full net, the change that
    leaves the block when its branch is deleted is ``D_i = after(S + B) - after(S)``; of a plain
    unit G it is ``G(x) - x``. With h the trunk at the end of the stage and h' the same after the
    deletion, the reaction is ``⟨h - h', D_i⟩ / ‖D_i‖²`` and the ratio of norms
    ``‖h - h'‖ / ‖D_i‖``. Where later blocks let pass what they get, and where branches add up, both
    are 1, whatever follows a sum. The prefix is the full net's, so that each deletion costs the
    later blocks of its stage only.

    The donor is the same with a change that is not the block's own: the branch of another example
    of the batch is taken away from the block's sum, scaled so that the change D'' of its output has
    the norm of D_i, and the reaction is ``⟨h - h'', D''⟩ / ‖D''‖²``. See
    :func:`ensemble_view.studies.reaction.donors.donated` for how donors are drawn; each block draws
    anew.

    Args:
        chain: Any chain.
        stages: Its stages.
        inputs: A batch of what the model is called with.
        frozen: Which nonlinearities are held at the full net's, each way in turn, also in D_i. Of
            layer normalisation its mean and deviation are held.
        donors: Seed of the donors, which are measured after all ways of freezing; None: not.
        counted: (examples, positions), zero where the trunk's values at a position do not count.
        progress: Told of the block evaluations done, times examples.

    Returns:
        (ways of freezing and donor, 2, blocks, examples), float64: reactions and ratios of norms;
        nan for a block that cannot be deleted, an example for which D_i is zero up to rounding
        (four units in the last place of the output's norm), and an output of another shape than the
        trunk's at the end of the stage. The donor is nan also for an example that is alone in its
        batch or for which no scale gives the norm, for a block whose sum does not count
        examples in its first dimension, and for a unit without shortcut, which has no sum to put
        another's branch in.

    Raises:
        MeasurementError: If the trunk's first dimension is not that of the examples.

    Example:
        >>> blocks = [Block(i, "half", branch=lambda x, context: -x / 2) for i in range(3)]
        >>> chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
        >>> reactions(chain, stages_of(chain, torch.ones(1, 4)), torch.ones(1, 4))[0, 0, :, 0]
        tensor([0.2500, 0.5000, 1.0000], dtype=torch.float64)
    """
    args, named = arguments_of(inputs)
    told = progress or (lambda amount: None)
    x, context = chain.stem(*args, **named)
    examples = len(x) if counted is None else len(counted)
    ways = len(frozen) + (donors is not None)
    found = torch.full(
        (ways, 2, len(chain), examples), torch.nan, dtype=torch.float64, device=x.device
    )
    record = any(each != "nothing" for each in frozen)
    for stage in stages:
        visits: list[_Visit] = []
        for position in stage.blocks:
            if position in chain.links:
                x = chain.links[position](x, context)
            x, visit = _visit(chain.blocks[position], x, context, record=record)
            visits.append(visit)
        if len(x) != examples:
            raise MeasurementError(
                f"The trunk has {len(x)} rows for {examples} examples at block {stage.last} "
                f"({chain.blocks[stage.last].name}); the reaction needs one row per example."
            )
        told(len(visits) * examples)
        for number, position in enumerate(stage.blocks):
            visit, block = visits[number], chain.blocks[position]
            if not block.deletable:
                continue
            told(ways * (stage.last - position) * examples)
            if visit.output.shape != x.shape:
                continue
            later = [
                (chain.blocks[position + 1 + k], each)
                for k, each in enumerate(visits[number + 1 :])
            ]

            def end(y: Tensor, way: Frozen, later: Sequence[_Later] = later) -> Tensor:
                for block, visit in later:
                    y, *_ = _run(block, y, context, visit.around(way))
                return y

            for way, each in enumerate(frozen):
                left, *_ = _run(block, visit.entry, context, visit.around(each), deleted=True)
                found[way, :, position] = _compared(x, visit.output, left, end(left, each), counted)
            if donors is None or examples < 2 or not _has_donors(block):
                continue
            left, *_ = _run(block, visit.entry, context, _unchanged, deleted=True)
            norms = norms_of(visit.output - left, weights_for(counted, left))
            left, reached = _donated(block, visit, context, norms, (*donors, position), counted)
            compared = _compared(x, visit.output, left, end(left, "nothing"), counted)
            found[-1, :, position] = torch.where(reached.isnan(), torch.nan, compared)
    return found


def _donated(
    block: Block,
    visit: _Visit,
    context: Context,
    norms: Tensor,
    seed: tuple[int, ...],
    counted: Tensor | None,
) -> tuple[Tensor, Tensor]:
    after = (block.units or (block,))[-1].after
    return donated(
        visit.output,
        visit.total,
        visit.branch,
        lambda total: after(total, context),
        norms,
        seed,
        counted,
    )


def _compared(
    end: Tensor, output: Tensor, left: Tensor, changed_end: Tensor, counted: Tensor | None
) -> Tensor:
    """(2, examples): the reaction, and the ratio of norms."""
    weights = weights_for(counted, end)

    def flat(value: Tensor) -> Tensor:
        return (value if weights is None else value * weights.to(value)).flatten(1).double()

    # The differences are taken in the number format of the net, so that where nothing follows both
    # are the same number.
    h, d = flat(end - changed_end), flat(output - left)
    rounding = 4 * torch.finfo(output.dtype).eps * flat(output).norm(dim=1)
    square = d.square().sum(1)
    # Zero over zero is nan: where nothing leaves the block, nothing can answer to it.
    square[square.sqrt() <= rounding] = torch.nan
    return torch.stack([(h * d).sum(1) / square, h.norm(dim=1) / square.sqrt()])
