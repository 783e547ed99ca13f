"""Interventions on which blocks run where: repeated, in another order, beside each other."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from ensemble_view.core.interventions.arrangement import Arrangement, Place
from ensemble_view.core.interventions.base import Intervention, Written
from ensemble_view.core.interventions.text import BlockName, parse_block, parse_blocks
from ensemble_view.errors import InterventionError

__all__ = ["MiddleRepeat", "Parallel", "Reorder", "Repeat", "Reverse", "Swap"]


@dataclass(frozen=True, repr=False)
class Repeat(Written):
    """Run a block several times, each time on what it gave before.

    Args:
        block: Index or module path; wildcards may mean several.
        times: How often, at least once.

    Raises:
        InterventionError: If that is no positive whole number.

    Example:
        >>> Repeat(3, 2)
        Repeat(3, 2)
    """

    block: BlockName
    times: int

    usage: ClassVar = "BLOCK TIMES"
    readers: ClassVar = (parse_block, int)

    def __post_init__(self) -> None:
        if not isinstance(self.times, int) or self.times < 1:
            raise InterventionError(
                f"A block is repeated a whole number of times, at least once; got {self.times!r}."
            )

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Repeat what the block does by now.

        Args:
            arrangement: Before.

        Returns:
            After.
        """
        found = arrangement.find(self.block)
        times = tuple(
            count * self.times if index in found else count
            for index, count in enumerate(arrangement.times)
        )
        return replace(arrangement.treat(found, lambda done: done), times=times)


@dataclass(frozen=True, repr=False)
class Swap(Written):
    """Exchange the places of two blocks.

    Args:
        first: Index or module path.
        second: Index or module path.

    Example:
        >>> Swap(0, 2).apply(Arrangement.of(["a", "b", "c"])).order
        (2, 1, 0)
    """

    first: BlockName
    second: BlockName

    usage: ClassVar = "BLOCK BLOCK"
    readers: ClassVar = (parse_block, parse_block)

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Exchange the two.

        Args:
            arrangement: Before.

        Returns:
            After.
        """
        first, second = arrangement.find_one(self.first), arrangement.find_one(self.second)
        exchange = {first: second, second: first}
        arrangement = arrangement.treat(exchange, lambda done: done)
        return arrangement.relabel(lambda index: exchange.get(index, index))


@dataclass(frozen=True, repr=False)
class Reorder(Written):
    """Run the blocks in another order.

    Args:
        order: ``order[p]`` is the index of the block to run at position p; a permutation of all.

    Example:
        >>> Reorder([1, 0]).apply(Arrangement.of(["a", "b"])).order
        (1, 0)
    """

    order: Sequence[int]

    usage: ClassVar = "ORDER, such as 1,0,2"

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", tuple(self.order))

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The order as a list."""
        return (list(self.order),)

    @classmethod
    def parse(cls, words: Sequence[str]) -> Intervention:
        """Read an order.

        Args:
            words: Indices and ranges, separated by commas.

        Returns:
            The intervention.
        """
        return cls([operator.index(name) for name in parse_blocks(" ".join(words))])  # type: ignore[arg-type]

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Set the order, whatever it was before.

        Args:
            arrangement: Before.

        Returns:
            After.

        Raises:
            InterventionError: If the order is no permutation of all blocks.
        """
        count = len(arrangement.names)
        if sorted(self.order) != list(range(count)):
            raise InterventionError(
                f"Reorder needs each block from 0 to {count - 1} exactly once; got "
                f"{list(self.order)}."
            )
        return replace(arrangement, places=tuple(Place((int(index),)) for index in self.order))

    def __str__(self) -> str:
        """As it is written on the command line.

        Returns:
            The name and the order.
        """
        return f"reorder {','.join(map(str, self.order))}"


@dataclass(frozen=True, repr=False)
class _Run(Written):
    """An intervention on all that runs from one block to another."""

    first: BlockName
    last: BlockName

    usage: ClassVar = "FIRST LAST"
    readers: ClassVar[tuple[Callable[[str], Any], ...]] = (parse_block, parse_block)

    def apply(self, arrangement: Arrangement) -> Arrangement:
        run = arrangement.run(self.first, self.last)
        places = list(arrangement.places)
        places[run.start : run.stop] = self._changed(arrangement, run)
        return replace(arrangement, places=tuple(places))

    def _changed(self, arrangement: Arrangement, run: range) -> list[Place]:
        raise NotImplementedError


class Reverse(_Run):
    """Run the blocks from one to another in the opposite order.

    Sun et al. (2024), "Transformer Layers as Painters", arXiv 2407.09298.

    Args:
        first: Index or module path.
        last: Index or module path of one that runs later.

    Example:
        >>> Reverse(1, 3).apply(Arrangement.of("abcde")).order
        (0, 3, 2, 1, 4)
    """

    def _changed(self, arrangement: Arrangement, run: range) -> list[Place]:
        return [arrangement.places[position] for position in reversed(run)]


class MiddleRepeat(_Run):
    """Run the middle one in the place of each of the blocks from one to another.

    Sun et al. (2024), "Transformer Layers as Painters", arXiv 2407.09298: with layers N to T - N
    given, layer T / 2 is run in all their places. Of an even number, the one before the middle.

    Args:
        first: Index or module path.
        last: Index or module path of one that runs later.

    Example:
        >>> MiddleRepeat(1, 3).apply(Arrangement.of("abcde")).order
        (0, 2, 2, 2, 4)
    """

    def _changed(self, arrangement: Arrangement, run: range) -> list[Place]:
        places = [arrangement.places[position] for position in run]
        blocks = [index for place in places for index in place.blocks]
        middle = blocks[(len(blocks) - 1) // 2]
        return [replace(place, blocks=(middle,) * len(place.blocks)) for place in places]


@dataclass(frozen=True, repr=False)
class Parallel(_Run):
    """Let the blocks from one to another read the same input, and add up their branches.

    The sum's shortcut is the way through all of them with all branches deleted, up to the last
    one's sum; its ``after`` is the last one's. With ``"mean"`` the branches are averaged: with
    identity shortcuts and nothing after the sums, that is the average of the blocks' outputs of Sun
    et al. (2024), "Transformer Layers as Painters", arXiv 2407.09298. A block that is repeated
    counts as often, a deleted one contributes nothing to the sum of that many.

    Args:
        first: Index or module path.
        last: Index or module path of one that runs later.
        combine: ``"sum"`` or ``"mean"``.

    Raises:
        InterventionError: If the branches are to be combined otherwise.

    Example:
        >>> Parallel(1, 3, "mean").apply(Arrangement.of("abcde")).places[1]
        Place(blocks=(1, 2, 3), mean=True)
    """

    combine: Literal["sum", "mean"] = "sum"

    usage: ClassVar = "FIRST LAST [sum|mean]"
    readers: ClassVar = (parse_block, parse_block, str)

    def __post_init__(self) -> None:
        if self.combine not in ("sum", "mean"):
            raise InterventionError(
                f"Parallel branches are combined by sum or mean; got {self.combine!r}."
            )

    def _changed(self, arrangement: Arrangement, run: range) -> list[Place]:
        between = sorted(arrangement.links & set(run[1:]))
        if between:
            raise InterventionError(
                f"Blocks {self.first} to {self.last} cannot read the same input: something that "
                f"belongs to none of them runs before position {between[0]}."
            )
        blocks = [index for position in run for index in arrangement.places[position].blocks]
        merged = Place(tuple(blocks), mean=self.combine == "mean")
        return [merged, *[Place(())] * (len(run) - 1)]
