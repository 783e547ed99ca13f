"""Random subsets of blocks and random orders, drawn without repetition, or all there are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ensemble_view.errors import InterventionError
from ensemble_view.plan import Slot

__all__ = ["Subsets", "draw_swaps", "exchanges", "stages_of", "swapped"]


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


@dataclass(frozen=True)
class Subsets:
    """All subsets of some blocks in which the groups have even shares.

    Even: the numbers taken from two groups differ by one at most, unless the smaller group is taken
    whole. With a single group these are all subsets.

    Args:
        groups: Indices of blocks, each once.

    Example:
        >>> two_stages = Subsets(((0, 1), (2, 3, 4)))
        >>> two_stages.count(3), len(list(two_stages.all(3))), math.comb(5, 3)
        (9, 9, 10)
    """

    groups: tuple[tuple[int, ...], ...]

    @property
    def size(self) -> int:
        """How many blocks there are."""
        return sum(map(len, self.groups))

    def count(self, taken: int) -> int:
        """Count the subsets of a size.

        Args:
            taken: How many blocks, at most :attr:`size`.

        Returns:
            The exact number.
        """
        level, more = self._level(taken)
        return self._ways(level)[0][more]

    def all(self, taken: int) -> Iterator[tuple[int, ...]]:
        """List the subsets of a size.

        Args:
            taken: How many blocks.

        Yields:
            Indices, ascending.
        """
        level, more = self._level(taken)
        larger = [g for g, group in enumerate(self.groups) if len(group) > level]
        for chosen in itertools.combinations(larger, more):
            parts = [
                itertools.combinations(group, min(len(group), level) + (g in chosen))
                for g, group in enumerate(self.groups)
            ]
            for part in itertools.product(*parts):
                yield tuple(sorted(itertools.chain(*part)))

    def draw(
        self, taken: int, trials: int, rng: np.random.Generator
    ) -> tuple[list[tuple[int, ...]], bool]:
        """Draw subsets of a size, each with equal probability and no two the same.

        Args:
            taken: How many blocks.
            trials: How many subsets.
            rng: The source of all randomness.

        Returns:
            The subsets, and whether these are all there are.

        Raises:
            InterventionError: If there are fewer blocks.
        """
        if taken > self.size:
            raise InterventionError(
                f"{taken} blocks are to be deleted, but there are {self.size} to draw from; ask "
                f"for at most {self.size}."
            )
        if self.count(taken) <= trials:
            return sorted(self.all(taken)), True
        found: dict[tuple[int, ...], None] = {}
        while len(found) < trials:
            found[self._one(taken, rng)] = None
        return list(found), False

    def _one(self, taken: int, rng: np.random.Generator) -> tuple[int, ...]:
        level, more = self._level(taken)
        ways = self._ways(level)
        blocks: list[int] = []
        for g, group in enumerate(self.groups):
            number = min(len(group), level)
            if more and len(group) > level:
                # Among the subsets that are left, the share in which this group gives one more.
                with_one = math.comb(len(group), level + 1) * ways[g + 1][more - 1]
                if rng.random() < Fraction(with_one, ways[g][more]):
                    number, more = number + 1, more - 1
            blocks += [group[i] for i in rng.choice(len(group), number, replace=False)]
        return tuple(sorted(blocks))

    def _level(self, taken: int) -> tuple[int, int]:
        """How many each group gives if it has so many, and how many groups give one more."""
        level = 0
        while sum(min(len(group), level + 1) for group in self.groups) <= taken:
            level += 1
            if level >= max(map(len, self.groups)):
                break
        return level, taken - sum(min(len(group), level) for group in self.groups)

    def _ways(self, level: int) -> list[list[int]]:
        """``ways[g][m]``: subsets of the groups from g on in which m give one more."""
        ways = [[1, *[0] * len(self.groups)]]
        for group in reversed(self.groups):
            base = math.comb(len(group), min(len(group), level))
            one = math.comb(len(group), level + 1)
            after = ways[0]
            ways.insert(
                0,
                [base * n + (one * after[m - 1] if m else 0) for m, n in enumerate(after)],
            )
        return ways


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
