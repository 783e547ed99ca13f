"""The part that a step of a plan runs, put together from the parts of the chain's blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ensemble_view.core.chain import Chain, arguments_of
from ensemble_view.core.parts import DRAWS, Constant, Drawn, InTurn, Part, Sum
from ensemble_view.core.plan import Action, Step
from ensemble_view.errors import InterventionError, MeasurementError

__all__ = ["alter", "branch_means"]


def alter(chain: Chain, step: Step, means: Mapping[int, Tensor]) -> Part:
    """Put together what a step runs.

    Of one block that is after(shortcut(u) + factor branch(u)) or what is left of it; of parallel
    blocks it is after(way(x) + Σ factor branch(before(x))), where the way goes through all of them
    without their branches up to the last sum, and ``after`` is the last one's.

    Args:
        chain: Whose blocks the step runs.
        step: Any step but a link's.
        means: Of the blocks whose branches are replaced by their mean (:func:`branch_means`).

    Returns:
        From the trunk's value before to that after.

    Raises:
        InterventionError: If a mean is needed that is not given.
    """
    blocks = [chain.blocks[member.index].residual for member in step.blocks]
    terms = []
    for block, member in zip(blocks, step.blocks, strict=True):
        branch: Part = block.branch if not step.members else InTurn((block.before, block.branch))
        value, seed = member.treatment.branch, (member.treatment.seed, member.index)
        if value == "mean":
            branch = Constant(mean_of(block.index, block.name, means))
        elif value in DRAWS:
            branch = Drawn(branch, DRAWS[value], seed)
        if member.action is not Action.DELETE:
            share = len(blocks) if step.mean else 1
            terms.append((member.treatment.factor / share, branch))
    *earlier, last = blocks
    if not step.members:
        way, before = last.shortcut, last.before
    else:
        way = InTurn((*(block.way for block in earlier), last.before, last.shortcut))
        before = InTurn(())
    if step.treatment.shortcut:
        terms.append((1.0, way))
    return InTurn((before, Sum(tuple(terms)), last.after))


def mean_of(index: int, name: str, means: Mapping[int, Tensor]) -> Tensor:
    """The mean of a block's branch.

    Args:
        index: Of the block.
        name: Of the block.
        means: All that are known.

    Returns:
        (1, ...).

    Raises:
        InterventionError: If it is not among them.
    """
    if index not in means:
        raise InterventionError(
            f"The branch of block {index} ({name}) is to be replaced by its mean, which is not "
            "known; give means=branch_means(chain, batches), over the data that it is to be of."
        )
    return means[index]


@torch.no_grad()
def branch_means(
    chain: Chain, batches: Iterable[tuple[Any, Any]], blocks: Iterable[int] | None = None
) -> dict[int, Tensor]:
    """Average what the branches of the unmodified chain give, place by place, over examples.

    Args:
        chain: Any chain; the batches are sent to where its model's weights are.
        batches: As :meth:`ensemble_view.Engine.measure` takes them; labels are not looked at.
        blocks: Indices of the blocks whose means are needed; by default all that can be deleted.

    Returns:
        By index a mean (1, ...), for ``Replace(index, "mean")``.

    Raises:
        MeasurementError: If there is no example, or a branch's shape differs between batches.

    Example:
        >>> from ensemble_view import Block, Chain
        >>> double = Block(0, "F", branch=lambda x, context: 2 * x)
        >>> chain = Chain.from_parts(lambda x: x, [double], lambda x: x)
        >>> branch_means(chain, [(torch.tensor([[1.0], [2.0]]), None)])
        {0: tensor([[3.]])}
    """
    wanted = set(blocks) if blocks is not None else {b.index for b in chain if b.deletable}
    parameter = next(chain.model.parameters(), None) if chain.model is not None else None
    totals: dict[int, Tensor] = {}
    count = 0
    for inputs, _ in batches:
        args, kwargs = arguments_of(inputs)
        if parameter is not None:
            args = tuple(_placed(value, parameter.device) for value in args)
            kwargs = {name: _placed(value, parameter.device) for name, value in kwargs.items()}
        x, context = chain.stem(*args, **kwargs)
        for position, block in enumerate(chain.blocks):
            if position in chain.links:
                x = chain.links[position](x, context)
            if block.index in wanted:
                whole = block.residual
                values = whole.branch(whole.before(x, context), context)
                total = values.double().sum(0, keepdim=True)
                known = totals.setdefault(block.index, torch.zeros_like(total))
                if known.shape != total.shape:
                    raise MeasurementError(
                        f"The branch of block {block.index} ({block.name}) has the shape "
                        f"{tuple(known.shape[1:])} in one batch and {tuple(total.shape[1:])} in "
                        "another, so it has no mean; use inputs of one size."
                    )
                totals[block.index] = known + total
                dtype = values.dtype
            x = block(x, context)
        count += x.shape[0]
    if not count:
        raise MeasurementError("The data hold no example, so branches have no mean over them.")
    return {index: (total / count).to(dtype) for index, total in totals.items()}


def _placed(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
