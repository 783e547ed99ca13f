"""The donor: another example's change leaves a block in the place of its own, as large as that."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ensemble_view.core.parts import resample

__all__ = ["donated", "norms_of", "weights_for"]

_DOUBLINGS = 24
_STEPS = 80
_MISSED = 0.01
"""A donor's change whose norm is further from the wanted one than this share is none."""


def weights_for(counted: Tensor | None, value: Tensor) -> Tensor | None:
    """Say which entries of a trunk value count.

    Args:
        counted: (examples, positions), zero where a position is padding; None: all count.
        value: (examples, ...).

    Returns:
        Something to multiply the value by, of its dimensions; None where all of it counts, also
        where it is not laid out by positions.
    """
    if counted is None or value.shape[:2] != counted.shape:
        return None
    return counted.reshape(*counted.shape, *[1] * (value.ndim - 2))


def norms_of(value: Tensor, weights: Tensor | None) -> Tensor:
    """Return the norm of each example's value, in double precision.

    Args:
        value: (examples, ...).
        weights: What counts of it, as :func:`weights_for` gives it.

    Returns:
        (examples,).
    """
    if weights is not None:
        value = value * weights.to(value)
    # In half precision a sum of squares overflows.
    exact = torch.promote_types(value.dtype, torch.float32)
    norms: Tensor = torch.linalg.vector_norm(value.flatten(1), dim=1, dtype=exact)
    return norms.double()


def donated(
    output: Tensor,
    total: Tensor,
    branch: Tensor,
    after: Callable[[Tensor], Tensor],
    norms: Tensor,
    seed: tuple[int, ...],
    counted: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Take another example's branch away from a block's sum, scaled to change its output as much.

    With T the block's sum S + B and B° the branch of the example's donor, the output becomes
    ``x'' = after(T - s B°)``, where s > 0 is such that ``‖after(T) - x''‖`` is the wanted norm. It
    is found for each example by doubling and then by the Illinois variant of regula falsi (Dowell
    and Jarratt 1971, BIT 11:168-174). Donors are drawn as :func:`ensemble_view.core.parts.resample`
    does: along a random cycle through the batch, so that each example gives once and none to
    itself. Of texts only positions that count in both change.

    Args:
        output: after(T), (examples, ...).
        total: T.
        branch: B, of T's shape.
        after: What follows the sum.
        norms: The wanted norms, (examples,).
        seed: Of the donors.
        counted: (examples, positions), zero where a position is padding.

    Returns:
        x'', and the norms of output - x'', nan for an example for which no s gives the wanted one.

    Raises:
        MeasurementError: If the batch is of a single example.

    Example:
        >>> branch = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> changed, norms = donated(
        ...     branch, branch, branch, lambda x: x, branch.norm(dim=1).double(), (0,))
        >>> (branch - changed).tolist()
        [[0.0, 3.0], [1.0, 0.0]]
    """
    donor = resample(branch, seed)
    seen = weights_for(counted, branch)
    if seen is not None:
        donor = donor * (seen * resample(seen, seed)).to(donor)
    weights = weights_for(counted, output)
    shape = (-1, *[1] * (total.ndim - 1))
    tolerance = min(max(1e-10, 100 * torch.finfo(output.dtype).eps), _MISSED)

    def changed(scale: Tensor) -> Tensor:
        return after(total - scale.to(total.dtype).reshape(shape) * donor)

    own = norms_of(donor, seen)
    scale = torch.where(own > 0, norms / own, torch.zeros_like(norms))
    low, high = torch.zeros_like(norms), torch.full_like(norms, torch.inf)
    low_gap, high_gap = -norms, torch.full_like(norms, torch.inf)
    last_side = torch.zeros_like(norms)
    found, reached = changed(scale), torch.full_like(norms, torch.nan)
    for step in range(_STEPS):
        reached = norms_of(output - found, weights)
        gap = reached - norms
        open_ = (gap.abs() > tolerance * norms) & (own > 0) & (norms > 0)
        if step >= _DOUBLINGS:
            open_ &= high.isfinite()
        if not bool(open_.any()):
            break
        side = gap.sign()
        # Where one end stays for a second time, its weight is halved, or it would stay for long.
        again = open_ & (side == last_side)
        high_gap = torch.where(again & (side < 0), high_gap / 2, high_gap)
        low_gap = torch.where(again & (side > 0), low_gap / 2, low_gap)
        under, over = open_ & (side < 0), open_ & (side > 0)
        low, low_gap = torch.where(under, scale, low), torch.where(under, gap, low_gap)
        high, high_gap = torch.where(over, scale, high), torch.where(over, gap, high_gap)
        last_side = torch.where(open_, side, last_side)
        between = (low * high_gap - high * low_gap) / (high_gap - low_gap)
        following = torch.where(high.isfinite(), between, 2 * scale)
        scale = torch.where(open_, following, scale)
        found = changed(scale)
    missed = ~((reached - norms).abs() <= _MISSED * norms) | (norms == 0)
    return found, torch.where(missed, torch.nan, reached)
