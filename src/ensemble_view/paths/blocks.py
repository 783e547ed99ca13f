"""What each block does to the gradient and to the stream, example by example.

The gradient parts at every block: what passes through the branch, Bᵀ Aᵀ c, and what passes through
the shortcut, Sᵀ Aᵀ c, with c the net's own cotangent. Beside it stand the measures of those who
explain resilience otherwise: small branches (Chang et al. 2017, arXiv 1710.10348) and iterative
refinement (Greff et al. 2016, arXiv 1612.07771; Jastrzębski et al. 2017, arXiv 1710.04773).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ensemble_view.core.chain import Chain, arguments_of
from ensemble_view.paths.trace import Trace, TracedBlock

__all__ = ["MEASURES", "block_measures", "early_outputs", "last_stage"]

MEASURES = ("branch_gradient", "shortcut_gradient", "branch_share", "norm_ratio", "cosine")
"""Names of what is measured of each block and example."""


def block_measures(trace: Trace) -> dict[str, Tensor]:
    """Take the net's gradient back through all blocks, and measure each on the way.

    With c the gradient of the loss at a block's output and u = before(h) what shortcut and branch
    share of its input h: *branch_gradient* ‖Bᵀ Aᵀ c‖ and *shortcut_gradient* ‖Sᵀ Aᵀ c‖ at u;
    *branch_share*, the first over the sum of both; *norm_ratio* ‖F(u)‖ / ‖h‖; *cosine*
    cos(F(u), −∂L/∂h), where the two have one shape. It costs one ordinary backward pass.

    Args:
        trace: Of n blocks on B examples.

    Returns:
        By name from :data:`MEASURES`, (B, n) in float64; nan where a measure is undefined.

    Example:
        >>> from ensemble_view import Block, Chain
        >>> from ensemble_view.paths.trace import trace
        >>> blocks = [Block(i, str(i), branch=lambda x, context: -3 * x) for i in range(2)]
        >>> chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
        >>> traced = trace(chain, torch.ones(1, 1), None, loss=lambda output, *_: output.sum(1))
        >>> found = block_measures(traced)
        >>> [found[name].tolist() for name in ("branch_gradient", "norm_ratio", "cosine")]
        [[[6.0, 3.0]], [[3.0, 3.0]], [[1.0, 1.0]]]
    """
    found: list[Mapping[str, Tensor]] = []
    cotangents = [trace.start]
    for block in reversed(trace.blocks):
        joined = trace.back(block.after, cotangents)
        (around,) = trace.back(block.shortcut, joined)
        (through,) = trace.through(block, joined)
        (gradient,) = trace.back(block.before, [around + through])
        found.append(_measured(block, around, through, gradient))
        cotangents = trace.back(block.link, [gradient])
    return {name: torch.stack([each[name] for each in found[::-1]], 1) for name in MEASURES}


def last_stage(chain: Chain) -> range:
    """Say which blocks end at the shape of the last one.

    Args:
        chain: Any chain.

    Returns:
        The positions of the last stage's blocks, the one that begins it included.

    Example:
        >>> from ensemble_view import Block
        >>> shapes = [((8,), (8,)), ((8,), (4,)), ((4,), (4,))]
        >>> blocks = [Block(i, str(i), shape_in=a, shape_out=b) for i, (a, b) in enumerate(shapes)]
        >>> last_stage(Chain.from_parts(lambda x: x, blocks, lambda x: x))
        range(1, 3)
    """
    first = len(chain) - 1
    while (
        first > 0
        and chain.blocks[first - 1].shape_out == chain.blocks[-1].shape_out
        and not chain.blocks[first].changes_shape
    ):
        first -= 1
    return range(first, len(chain))


def early_outputs(chain: Chain, inputs: Any) -> Iterator[tuple[int, Tensor]]:
    """Give the head what each block of the last stage says, as if the later ones were deleted.

    Their branches contribute nothing; shortcuts, what follows the additions, and links stay.

    Args:
        chain: Of residual blocks.
        inputs: The model's input.

    Yields:
        The block's position, and the model's output; the last is the full net's.

    Example:
        >>> from ensemble_view import Block
        >>> blocks = [Block(i, str(i), branch=lambda x, context: x) for i in range(3)]
        >>> chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
        >>> [output.item() for _, output in early_outputs(chain, torch.ones(1))]
        [2.0, 4.0, 8.0]
    """
    args, named = arguments_of(inputs)
    stage = last_stage(chain)
    with torch.no_grad():
        x, context = chain.stem(*args, **named)
        for position, block in enumerate(chain.blocks):
            x = chain.links[position](x, context) if position in chain.links else x
            x = block(x, context)
            if position not in stage:
                continue
            early = x
            for later in range(position + 1, len(chain)):
                if later in chain.links:
                    early = chain.links[later](early, context)
                early = chain.blocks[later].deleted(early, context)
            yield position, chain.head(early, context)


def _measured(
    block: TracedBlock, around: Tensor, through: Tensor, gradient: Tensor
) -> dict[str, Tensor]:
    with torch.no_grad():
        entry, branch = _rows(block.before.entry), _rows(block.branch.exit)
        to_branch, to_shortcut = _rows(through).norm(dim=1), _rows(around).norm(dim=1)
        cosine = torch.full_like(to_branch, torch.nan)
        if block.branch.exit.shape == gradient.shape:
            downhill = -_rows(gradient)
            # Zero over zero is nan: no direction.
            cosine = (branch * downhill).sum(1) / (branch.norm(dim=1) * downhill.norm(dim=1))
        return {
            "branch_gradient": to_branch,
            "shortcut_gradient": to_shortcut,
            "branch_share": to_branch / (to_branch + to_shortcut),
            "norm_ratio": branch.norm(dim=1) / entry.norm(dim=1),
            "cosine": cosine,
        }


def _rows(values: Tensor) -> Tensor:
    return values.flatten(1).double()
