"""Interventions: small frozen values that say what to change in a chain, whichever chain it is.

An intervention acts on an :class:`Arrangement`, the order in which blocks run and which of them are
deleted. ``|`` composes: ``Delete(3) | Swap(7, 8)`` deletes block 3, then exchanges 7 and 8. A block
keeps its number wherever it is moved. Blocks are named by index from 0 or by module path, with the
wildcards of :mod:`fnmatch` (``"layer3.*"``).
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import SupportsIndex, TypeAlias

from ensemble_view.errors import InterventionError

__all__ = [
    "Arrangement",
    "BlockName",
    "Compose",
    "Delete",
    "Intervention",
    "Keep",
    "Reorder",
    "Swap",
    "format_blocks",
    "parse_blocks",
]

BlockName: TypeAlias = int | str
"""A block's index from 0, or its module path with wildcards."""


@dataclass(frozen=True)
class Arrangement:
    """The order in which blocks run and which of them are deleted.

    Args:
        names: Module path of each block, by index.
        order: ``order[p]`` is the index of the block that runs at position p.
        deleted: Indices of blocks whose branch contributes nothing.

    Example:
        >>> Delete(1).apply(Arrangement.of(["a", "b"])).deleted
        frozenset({1})
    """

    names: tuple[str, ...]
    order: tuple[int, ...]
    deleted: frozenset[int] = frozenset()

    @classmethod
    def of(cls, names: Sequence[str]) -> Arrangement:
        """The unmodified arrangement of blocks with these module paths.

        Args:
            names: Module paths in order.

        Returns:
            All blocks kept, in their own order.
        """
        return cls(tuple(names), tuple(range(len(names))))

    def find(self, name: BlockName) -> tuple[int, ...]:
        """Find the blocks that a name means.

        Args:
            name: An index or a path, which may hold wildcards.

        Returns:
            Their indices, ascending.

        Raises:
            InterventionError: If there is no such block.
        """
        count = len(self.names)
        if isinstance(name, SupportsIndex):
            index = operator.index(name)
            if not 0 <= index < count:
                raise InterventionError(
                    f"There is no block {index}: this chain has {count} blocks, 0 to {count - 1}."
                )
            return (index,)
        if not isinstance(name, str):
            raise InterventionError(
                f"A block is named by its index or its module path; {name!r} is neither."
            )
        found = tuple(i for i, path in enumerate(self.names) if fnmatch.fnmatchcase(path, name))
        if not found:
            some = ", ".join(self.names[:3]) + (", …" if count > 3 else "")
            raise InterventionError(
                f"No block is called {name!r}; the blocks of this chain are called {some}"
            )
        return found

    def find_all(self, names: Sequence[BlockName]) -> tuple[int, ...]:
        """Find the blocks that any of several names means.

        Args:
            names: Indices or paths.

        Returns:
            Their indices, ascending, each once.
        """
        return tuple(sorted({index for name in names for index in self.find(name)}))

    def find_one(self, name: BlockName) -> int:
        """Find the one block that a name means.

        Args:
            name: An index or a path.

        Returns:
            Its index.

        Raises:
            InterventionError: If the name means several blocks.
        """
        found = self.find(name)
        if len(found) > 1:
            raise InterventionError(
                f"{name!r} means {len(found)} blocks ({format_blocks(found)}), where one is needed."
            )
        return found[0]


class Intervention:
    """What all interventions have in common: they apply to an arrangement and compose by ``|``."""

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Change an arrangement.

        Args:
            arrangement: Before.

        Returns:
            After.
        """
        raise NotImplementedError

    def __or__(self, other: Intervention) -> Compose:
        """Compose with a second intervention, which acts after this one.

        Args:
            other: The second one.

        Returns:
            Both in order.
        """
        return Compose(_parts(self) + _parts(other))


def _parts(intervention: Intervention) -> tuple[Intervention, ...]:
    return intervention.parts if isinstance(intervention, Compose) else (intervention,)


@dataclass(frozen=True, repr=False)
class Compose(Intervention):
    """Several interventions, one after another.

    Args:
        parts: The interventions; none leaves the chain as it is.

    Raises:
        InterventionError: If a part is no intervention.

    Example:
        >>> Delete(3) | Swap(7, 8)
        Delete(3) | Swap(7, 8)
    """

    parts: tuple[Intervention, ...] = ()

    def __post_init__(self) -> None:
        for part in self.parts:
            if not isinstance(part, Intervention):
                raise InterventionError(
                    f"{part!r} is no intervention; write what to do with it, such as Delete(3)."
                )

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Apply all parts in order.

        Args:
            arrangement: Before.

        Returns:
            After the last part.
        """
        for part in self.parts:
            arrangement = part.apply(arrangement)
        return arrangement

    def __repr__(self) -> str:
        """As it is written in Python.

        Returns:
            The parts with ``|`` between.
        """
        return " | ".join(map(repr, self.parts)) or "Compose()"


@dataclass(frozen=True, init=False, repr=False)
class _Named(Intervention):
    """An intervention on blocks listed by name."""

    blocks: tuple[BlockName, ...]

    def __init__(self, *blocks: BlockName) -> None:
        object.__setattr__(self, "blocks", blocks)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.blocks))})"


class Delete(_Named):
    """Delete blocks: their branches contribute nothing; shortcut and ``after`` stay.

    Veit, Wilber and Belongie (2016), section 4.1. A projection shortcut survives.

    Args:
        *blocks: Indices or module paths.

    Example:
        >>> Delete(3, "layer3.*")
        Delete(3, 'layer3.*')
    """

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Mark the blocks as deleted.

        Args:
            arrangement: Before.

        Returns:
            After.
        """
        found = arrangement.find_all(self.blocks)
        return replace(arrangement, deleted=arrangement.deleted | frozenset(found))


class Keep(_Named):
    """Delete all blocks but these.

    Args:
        *blocks: Indices or module paths.

    Example:
        >>> sorted(Keep(1).apply(Arrangement.of(["a", "b", "c"])).deleted)
        [0, 2]
    """

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Mark all other blocks as deleted.

        Args:
            arrangement: Before.

        Returns:
            After.
        """
        others = set(range(len(arrangement.names))) - set(arrangement.find_all(self.blocks))
        return replace(arrangement, deleted=arrangement.deleted | others)


@dataclass(frozen=True, repr=False)
class Swap(Intervention):
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

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Exchange the two.

        Args:
            arrangement: Before.

        Returns:
            After.
        """
        first, second = arrangement.find_one(self.first), arrangement.find_one(self.second)
        exchange = {first: second, second: first}
        return replace(arrangement, order=tuple(exchange.get(i, i) for i in arrangement.order))

    def __repr__(self) -> str:
        """As it is written in Python.

        Returns:
            The call.
        """
        return f"Swap({self.first!r}, {self.second!r})"


@dataclass(frozen=True, repr=False)
class Reorder(Intervention):
    """Run the blocks in another order.

    Args:
        order: ``order[p]`` is the index of the block to run at position p; a permutation of all.

    Example:
        >>> Reorder([1, 0]).apply(Arrangement.of(["a", "b"])).order
        (1, 0)
    """

    order: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "order", tuple(self.order))

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
        return replace(arrangement, order=tuple(int(index) for index in self.order))

    def __repr__(self) -> str:
        """As it is written in Python.

        Returns:
            The call.
        """
        return f"Reorder({list(self.order)})"


def parse_blocks(text: str) -> tuple[BlockName, ...]:
    """Read a list of blocks as it is written on the command line.

    Args:
        text: Indices, ranges with both ends included, and module paths, separated by commas.

    Returns:
        Indices and paths in the order written.

    Raises:
        InterventionError: If an item is empty or a range runs backwards.

    Example:
        >>> parse_blocks("3,7-9,layer3.*")
        (3, 7, 8, 9, 'layer3.*')
    """
    names: list[BlockName] = []
    for item in (part.strip() for part in text.split(",")):
        numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if numbers:
            first = int(numbers[1])
            last = int(numbers[2]) if numbers[2] else first
            if last < first:
                raise InterventionError(f"The range {item} runs backwards; write {last}-{first}.")
            names.extend(range(first, last + 1))
        elif item and not re.match(r"[-\d]", item):
            names.append(item)
        else:
            raise InterventionError(
                f"{text!r} is no list of blocks: {item!r} is neither an index, a range such as 7-9 "
                "nor a module path such as layer3.*."
            )
    return tuple(names)


def format_blocks(blocks: Sequence[int]) -> str:
    """Write block indices as :func:`parse_blocks` reads them, runs as ranges.

    Args:
        blocks: Indices.

    Returns:
        For example ``"3,7-9"``.

    Example:
        >>> format_blocks([9, 3, 7, 8])
        '3,7-9'
    """
    runs: list[list[int]] = []
    for index in sorted(set(blocks)):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
