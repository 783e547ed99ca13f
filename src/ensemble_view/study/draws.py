"""Stages of blocks, and random orders, drawn without repetition, or all there are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from ensemble_view.core.plan import Slot

__all__ = ["draw_swaps", "exchanges", "stages_of", "swapped"]


def stages_of(slots: Sequence[Slot]) -> tuple[tuple[int, ...], ...]:
    """Divide blocks into stages: runs of blocks whose outputs have one shape.

    Args:
        slots: What is known of each block.

    Returns:
        The indices of each stage's blocks.

    Example:
        >>> slots = [Slot("F", (s,), (t,), True) for s, t in [(4, 4), (4, 8), (8, 8)]]
        >>> stages_of(slots)
        ((0,), (1, 2))
    """
    runs = itertools.groupby(range(len(slots)), key=lambda index: slots[index].shape_out)
    return tuple(tuple(run) for _, run in runs)


def exchanges(slots: Sequence[Slot]) -> tuple[tuple[int, int], ...]:
    """List the pairs of places whose blocks can be exchanged: of one shape, which they keep.

    Args:
        slots: What is known of each block.

    Returns:
        Pairs of places, the earlier one first.

    Example:
        >>> slots = [Slot("F", (s,), (t,), True) for s, t in [(4, 4), (4, 8), (4, 4)]]
        >>> exchanges(slots)
        ((0, 2),)
    """
    keeping = [index for index, slot in enumerate(slots) if not slot.changes_shape]
    pairs = itertools.combinations(keeping, 2)
    return tuple((i, j) for i, j in pairs if slots[i].shapes == slots[j].shapes)


def swapped(count: int, swaps: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Exchange what stands at two places, time after time.

    Args:
        count: Number of blocks.
        swaps: Pairs of places.

    Returns:
        The index of the block at each place.

    Example:
        >>> swapped(3, [(0, 1), (1, 2)])
        (1, 2, 0)
    """
    order = list(range(count))
    for i, j in swaps:
        order[i], order[j] = order[j], order[i]
    return tuple(order)


def draw_swaps(
    pairs: Sequence[tuple[int, int]], swaps: int, trials: int, rng: np.random.Generator
) -> tuple[list[tuple[tuple[int, int], ...]], bool]:
    """Draw sequences of swaps, each swap any pair with equal probability, no sequence twice.

    Args:
        pairs: Places that can be exchanged, at least one pair.
        swaps: How many in a sequence.
        trials: How many sequences.
        rng: The source of all randomness.

    Returns:
        The sequences, and whether these are all there are.

    Example:
        >>> draw_swaps([(0, 1), (1, 2)], 1, 50, np.random.default_rng(0))
        ([((0, 1),), ((1, 2),)], True)
    """
    if len(pairs) ** swaps <= trials:
        return list(itertools.product(pairs, repeat=swaps)), True
    found: dict[tuple[tuple[int, int], ...], None] = {}
    while len(found) < trials:
        found[tuple(pairs[i] for i in rng.integers(len(pairs), size=swaps))] = None
    return list(found), False
