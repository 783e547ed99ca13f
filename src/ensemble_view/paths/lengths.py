"""Exact numbers of paths by length, and the paths themselves one at a time. No torch here.

With n blocks, C(n, k) of the 2^n paths go through k branches (Veit, Wilber and Belongie 2016,
section 3). In layers, the numbers are the coefficients of the product over the blocks of
x^(layers of the shortcut) + x^(layers of the branch).
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

from ensemble_view.errors import EnsembleViewError

__all__ = [
    "PathLengths",
    "PathLengthsError",
    "iterate_paths",
    "path_lengths",
    "sample_paths",
    "smallest_interval",
    "surviving_share",
    "surviving_weight",
]


class PathLengthsError(EnsembleViewError):
    """There are no such paths, lengths or weights."""


@dataclass(frozen=True)
class PathLengths:
    """How many paths there are of each length.

    Args:
        counts: ``counts[k]`` is the number of paths of length k; exact integers.

    Example:
        >>> lengths = path_lengths(54)
        >>> lengths.total == 2**54, lengths.mean
        (True, 27.0)
        >>> f"{lengths.share(19, 35):.3f} of the paths are of length 19 to 35"
        '0.980 of the paths are of length 19 to 35'
    """

    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """The number of all paths."""
        return sum(self.counts)

    @property
    def shortest(self) -> int:
        """Length of the shortest path."""
        return next(length for length, count in enumerate(self.counts) if count)

    @property
    def longest(self) -> int:
        """Length of the longest path."""
        return len(self.counts) - 1

    @property
    def mean(self) -> float:
        """Mean length over all paths."""
        return sum(length * count for length, count in enumerate(self.counts)) / self.total

    def share(self, low: int, high: int) -> float:
        """Give the share of all paths whose length lies in an interval.

        Args:
            low: Shortest length.
            high: Longest length, included.

        Returns:
            A proportion, rounded once.
        """
        return sum(self.counts[max(low, 0) : high + 1]) / self.total

    def quantile(self, probability: float) -> int:
        """Find the shortest length that at least this share of the paths does not exceed.

        Args:
            probability: From 0 to 1.

        Returns:
            The length.

        Raises:
            PathLengthsError: If the probability lies outside.

        Example:
            >>> path_lengths(54).quantile(0.5)
            27
        """
        if not 0 <= probability <= 1:
            raise PathLengthsError(
                f"A quantile of probability {probability} was asked for; expected 0 to 1."
            )
        least = Fraction(probability) * self.total
        return next(
            length
            for length, below in enumerate(itertools.accumulate(self.counts))
            if below >= least and below
        )

    def weights(self, magnitudes: Sequence[float]) -> tuple[float, ...]:
        """Weigh each length by the number of its paths times a magnitude per path.

        Args:
            magnitudes: One per length, none negative.

        Returns:
            The weights, which sum to one.

        Raises:
            PathLengthsError: If there is not one magnitude per length, or no positive one.

        Example:
            >>> path_lengths(2).weights([1.0, 0.5, 0.0])
            (0.5, 0.5, 0.0)
        """
        if len(magnitudes) != len(self.counts) or not any(each > 0 for each in magnitudes):
            raise PathLengthsError(
                f"Got {len(magnitudes)} magnitudes for {len(self.counts)} lengths; expected one "
                "per length, at least one of them above zero."
            )
        # By logarithms, since a count may exceed the largest floating-point number.
        logarithms = [
            math.log(count) + math.log(magnitude) if count and magnitude > 0 else -math.inf
            for count, magnitude in zip(self.counts, magnitudes, strict=True)
        ]
        largest = max(logarithms)
        scaled = [math.exp(each - largest) for each in logarithms]
        total = math.fsum(scaled)
        return tuple(each / total for each in scaled)


def path_lengths(blocks: int | Sequence[tuple[int, int]]) -> PathLengths:
    """Count the paths of each length.

    Args:
        blocks: The number of blocks, each of which adds one by its branch; or for each block the
            layers of its shortcut (0, or 1 for a projection) and of its branch (2 for a basic
            block, 3 for a bottleneck).

    Returns:
        The numbers.

    Raises:
        PathLengthsError: If a number is negative.

    Example:
        >>> path_lengths(3).counts
        (1, 3, 3, 1)
        >>> path_lengths([(0, 2), (1, 2)]).counts
        (0, 1, 1, 1, 1)
    """
    pairs = [(0, 1)] * blocks if isinstance(blocks, int) else list(blocks)
    if (isinstance(blocks, int) and blocks < 0) or any(min(pair) < 0 for pair in pairs):
        raise PathLengthsError(
            f"Found {blocks!r} as blocks; expected a number of blocks, or for each block how many "
            "layers its shortcut and its branch have, none of them negative."
        )
    counts = [1]
    # Equal blocks together: their polynomial is a binomial one, and few kinds are left.
    for (shortcut, branch), number in Counter(pairs).items():
        kind = [0] * (number * max(shortcut, branch) + 1)
        for taken in range(number + 1):
            kind[shortcut * (number - taken) + branch * taken] += math.comb(number, taken)
        product = [0] * (len(counts) + len(kind) - 1)
        for (i, first), (j, second) in itertools.product(enumerate(counts), enumerate(kind)):
            if first and second:
                product[i + j] += first * second
        counts = product
    return PathLengths(tuple(counts))


def surviving_share(blocks: int, length: int, deleted: int) -> float:
    """Give the share of the paths of one length that are left when blocks are deleted.

    C(n - d, k) / C(n, k): a path survives if it goes through none of the d deleted branches.

    Args:
        blocks: How many there are, n.
        length: Of the paths, k.
        deleted: How many are deleted, d.

    Returns:
        A proportion, rounded once.

    Raises:
        PathLengthsError: If length or deleted lies outside 0 to n.

    Example:
        >>> f"{surviving_share(54, length=5, deleted=10):.3f}"
        '0.343'
    """
    if not (0 <= length <= blocks and 0 <= deleted <= blocks):
        raise PathLengthsError(
            f"Of {blocks} blocks, {deleted} deleted and paths of length {length} were asked for; "
            f"expected both from 0 to {blocks}."
        )
    return math.comb(blocks - deleted, length) / math.comb(blocks, length)


def surviving_weight(weights: Sequence[float], deleted: int) -> float:
    """Give the weight that is left on average when blocks are deleted at random.

    ``sum over k of w_k C(n - d, k) / C(n, k)``: how a net decays whose paths carry these weights
    and do not depend on each other.

    Args:
        weights: One per length 0 to n of all paths of that length together; they may be negative,
            as projections of gradients are.
        deleted: How many blocks are deleted, d.

    Returns:
        The weight; that of all paths where none is deleted, that of length 0 where all are.

    Raises:
        PathLengthsError: If there are no weights, or deleted lies outside 0 to n.

    Example:
        >>> surviving_weight([0.0, 0.5, 0.5], deleted=1)
        0.25
    """
    blocks = len(weights) - 1
    if not 0 <= deleted <= max(blocks, 0) or blocks < 0:
        raise PathLengthsError(
            f"Found {len(weights)} weights and {deleted} deleted blocks; expected a weight for "
            "each length from 0 to the number of blocks, and no more deleted than there are."
        )
    return math.fsum(
        weight * surviving_share(blocks, length, deleted) for length, weight in enumerate(weights)
    )


def iterate_paths(blocks: int, length: int | None = None) -> Iterator[tuple[int, ...]]:
    """Go through all paths, or through those of one length, one at a time.

    Args:
        blocks: How many there are.
        length: Only paths through so many branches.

    Returns:
        An iterator over paths, each the ascending indices of the blocks whose branch it takes;
        the short ones first.

    Example:
        >>> list(iterate_paths(3, length=2))
        [(0, 1), (0, 2), (1, 2)]
        >>> next(iterate_paths(1000))
        ()
    """
    lengths = range(blocks + 1) if length is None else [length]
    return itertools.chain.from_iterable(
        itertools.combinations(range(blocks), each) for each in lengths
    )


def sample_paths(
    blocks: int, number: int, *, length: int | None = None, seed: int = 0
) -> Iterator[tuple[int, ...]]:
    """Draw paths uniformly and independently, from all or from those of one length.

    Args:
        blocks: How many there are.
        number: Of draws.
        length: Only paths through so many branches.
        seed: Of the draws.

    Yields:
        Paths, each the ascending indices of the blocks whose branch it takes.

    Raises:
        PathLengthsError: If no path has that length.

    Example:
        >>> [len(path) for path in sample_paths(54, 3, length=11, seed=1)]
        [11, 11, 11]
    """
    if length is not None and not 0 <= length <= blocks:
        raise PathLengthsError(
            f"No path through {blocks} blocks has length {length}; expected 0 to {blocks}."
        )
    generator = random.Random(seed)
    for _ in range(number):
        if length is None:
            coins = generator.getrandbits(blocks) if blocks else 0
            yield tuple(index for index in range(blocks) if coins >> index & 1)
        else:
            yield tuple(sorted(generator.sample(range(blocks), length)))


def smallest_interval(weights: Sequence[float], share: float = 0.95) -> tuple[int, int]:
    """Find the smallest interval of lengths that holds a share of the weight.

    Args:
        weights: One per length. Of intervals of one size, that of the shortest lengths is
            taken.
        share: Of the sum of all weights.

    Returns:
        The shortest and the longest length in it.

    Raises:
        PathLengthsError: If the weights do not sum to something positive.

    Example:
        >>> smallest_interval([0.01, 0.6, 0.37, 0.02])
        (1, 2)
    """
    sums = [0.0, *itertools.accumulate(weights)]
    least = share * sums[-1]
    if not least > 0:
        raise PathLengthsError(
            f"The weights of {len(weights)} lengths sum to {sums[-1]}; expected more than zero."
        )
    for size in range(1, len(weights) + 1):
        for low in range(len(sums) - size):
            if sums[low + size] - sums[low] >= least:
                return low, low + size - 1
    return 0, len(weights) - 1
