"""What interventions act on: which blocks run at each place of a chain, and what is done with each.

What is done with a block (:class:`Treatment`) goes with it wherever it is moved, and holds for each
time that it runs; what lies between two blocks stays in its place. No tensors here.
"""

from __future__ import annotations

import fnmatch
import operator
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal, SupportsIndex, TypeAlias

from ensemble_view.core.interventions.text import BlockName, format_blocks
from ensemble_view.errors import InterventionError

__all__ = [
    "Arrangement",
    "BranchValue",
    "Place",
    "Treatment",
]

BranchValue: TypeAlias = Literal["own", "zero", "mean", "resample", "perturbed", "constant"]
"""What stands for a branch's output: itself, nothing, its mean, another example's, with noise of
each example's own direction, with noise of one direction."""


@dataclass(frozen=True, order=True)
class Treatment:
    """What is done with one block: after(shortcut(u) + factor · branch(u)), or part of that.

    Args:
        branch: What stands for the branch's output.
        factor: What that is multiplied by.
        shortcut: Whether the shortcut stays.
        seed: Of the choice of other examples, or of the noise.
    """

    branch: BranchValue = "own"
    factor: float = 1.0
    shortcut: bool = True
    seed: int = 0

    def written(self, block: int) -> str:
        """Write what is done with a block as on the command line.

        Args:
            block: Its index.

        Returns:
            Interventions that do this to an unmodified block.

        Example:
            >>> Treatment("mean", 0.5).written(3)
            'replace 3 mean; scale 3 0.5'
        """
        words = []
        if self.branch != "own":
            words.append(f"replace {block} {self.branch}" + f" {self.seed}" * bool(self.seed))
        if self.factor != 1:
            words.append(f"scale {block} {self.factor}")
        if not self.shortcut:
            words.append(f"dropshortcut {block}")
        return "; ".join(words)


@dataclass(frozen=True)
class Place:
    """What runs at one place of a chain.

    Args:
        blocks: As a rule one; several read the same input, their branches are added up; none lets
            the value pass.
        mean: Whether the branches of several are averaged instead.
    """

    blocks: tuple[int, ...]
    mean: bool = False


@dataclass(frozen=True)
class Arrangement:
    """Which blocks run at each place of a chain, and what is done with each.

    Args:
        names: Module path of each block, by index.
        places: ``places[p]`` is what runs at position p.
        treatments: What is done with each block, by index.
        times: How often each block runs wherever it stands, by index.
        links: Positions before which a link runs.

    Example:
        >>> Arrangement.of(["a", "b"]).order
        (0, 1)
    """

    names: tuple[str, ...]
    places: tuple[Place, ...]
    treatments: tuple[Treatment, ...]
    times: tuple[int, ...]
    links: frozenset[int] = frozenset()

    @classmethod
    def of(cls, names: Sequence[str], links: Collection[int] = ()) -> Arrangement:
        """The unmodified arrangement of blocks with these module paths.

        Args:
            names: Module paths in order.
            links: Positions before which a link runs.

        Returns:
            All blocks kept, in their own order.
        """
        count = len(names)
        return cls(
            names=tuple(names),
            places=tuple(Place((index,)) for index in range(count)),
            treatments=(Treatment(),) * count,
            times=(1,) * count,
            links=frozenset(links),
        )

    @property
    def order(self) -> tuple[int, ...]:
        """Indices of the blocks from the first place to the last."""
        return tuple(index for place in self.places for index in place.blocks)

    @property
    def deleted(self) -> frozenset[int]:
        """Indices of blocks whose branch contributes nothing."""
        return frozenset(i for i, done in enumerate(self.treatments) if done.branch == "zero")

    def treat(
        self, blocks: Collection[int], change: Callable[[Treatment], Treatment]
    ) -> Arrangement:
        """Change what is done with some blocks.

        Args:
            blocks: Their indices.
            change: From what is done with a block now to what is to be done.

        Returns:
            The arrangement after that.

        Raises:
            InterventionError: If one of them does not run any more.
        """
        for index in blocks:
            self.positions(index)
        return replace(
            self,
            treatments=tuple(
                change(done) if index in blocks else done
                for index, done in enumerate(self.treatments)
            ),
        )

    def relabel(self, change: Callable[[int], int]) -> Arrangement:
        """Let other blocks run in the places of blocks.

        Args:
            change: From the index of a block to that of the block that takes its place.

        Returns:
            The arrangement after that.
        """
        return replace(
            self,
            places=tuple(
                replace(place, blocks=tuple(map(change, place.blocks))) for place in self.places
            ),
        )

    def run(self, first: BlockName, last: BlockName) -> range:
        """Find the positions from one block to another.

        Args:
            first: Index or module path of the block where the run begins.
            last: That of the block where it ends.

        Returns:
            Positions, both ends included.

        Raises:
            InterventionError: If the first runs after the last, or one runs in several places.
        """
        ends = []
        for index in (self.find_one(first), self.find_one(last)):
            found = self.positions(index)
            if len(found) > 1:
                raise InterventionError(
                    f"{self._title(index)} runs in {len(found)} places here, where one is needed."
                )
            ends.append(found[0])
        if ends[0] > ends[1]:
            raise InterventionError(
                f"Block {first} runs after block {last} here; name first the one that runs first."
            )
        return range(ends[0], ends[1] + 1)

    def positions(self, index: int) -> list[int]:
        """Find where a block runs.

        Args:
            index: Of the block.

        Returns:
            Positions, ascending.

        Raises:
            InterventionError: If it does not run any more.
        """
        found = [p for p, place in enumerate(self.places) if index in place.blocks]
        if not found:
            raise InterventionError(
                f"{self._title(index)} does not run any more: another block has taken its place."
            )
        return found

    def _title(self, index: int) -> str:
        return f"Block {index} ({self.names[index]})"

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
