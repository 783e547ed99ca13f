"""Subsets of blocks, whole or in even shares of groups: counted, listed, drawn, averaged over."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from ensemble_view.errors import InterventionError

__all__ = ["Subsets"]


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

    def mean_product(self, factors: Mapping[int, float], taken: int) -> float:
        """Give the mean, over all subsets of a size, of the product of their blocks' factors.

        That of a group is an elementary symmetric polynomial of its factors over a binomial
        coefficient.

        Args:
            factors: A number for every block.
            taken: How many blocks.

        Returns:
            The exact mean, but for rounding.

        Example:
            >>> pairs = Subsets(((0, 1, 2),))
            >>> round(pairs.mean_product({0: 0.5, 1: 1.0, 2: 0.0}, 2), 4)
            0.1667
        """
        level, more = self._level(taken)
        # Entry m: of the groups so far, subsets in which m of them give one more.
        products = [1.0]
        for group in self.groups:
            sums = _symmetric_sums([factors[block] for block in group], level + 1)
            base = min(len(group), level)
            products = _with_one_more(products, sums[base], sums[level + 1])
        return products[more] / self._ways(level)[0][more]

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


def _symmetric_sums(factors: Sequence[float], most: int) -> list[float]:
    """Entry j: the sum, over all subsets of j factors, of their product."""
    sums = [1.0] + [0.0] * most
    for factor in factors:
        for j in range(most, 0, -1):
            sums[j] += factor * sums[j - 1]
    return sums


def _with_one_more(of_others: Sequence[float], base: float, one: float) -> list[float]:
    """The polynomial ``of_others`` times ``base + one u``."""
    kept = [*(base * n for n in of_others), 0.0]
    taken = [0.0, *(one * n for n in of_others)]
    return [n + m for n, m in zip(kept, taken, strict=True)]
