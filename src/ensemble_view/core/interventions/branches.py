"""Interventions on what single blocks compute: on the branch, on the shortcut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from ensemble_view.core.interventions.arrangement import Arrangement, Treatment
from ensemble_view.core.interventions.base import Intervention, Written
from ensemble_view.core.interventions.text import BlockName, parse_block, parse_blocks
from ensemble_view.errors import InterventionError

__all__ = ["Delete", "DropShortcut", "Keep", "Replace", "Scale"]


@dataclass(frozen=True, init=False, repr=False)
class _Named(Written):
    """An intervention on blocks listed by name."""

    blocks: tuple[BlockName, ...]

    usage: ClassVar = "BLOCKS, such as 3,7-9"

    def __init__(self, *blocks: BlockName) -> None:
        object.__setattr__(self, "blocks", blocks)

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.blocks

    @classmethod
    def parse(cls, words: Sequence[str]) -> Intervention:
        return cls(*parse_blocks(" ".join(words)))

    def __str__(self) -> str:
        return f"{type(self).__name__.lower()} {','.join(map(str, self.blocks))}"


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
        return _branch(arrangement, arrangement.find_all(self.blocks), branch="zero")


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
        kept = arrangement.find_all(self.blocks)
        for index in kept:
            arrangement.positions(index)
        return _branch(arrangement, set(arrangement.order) - set(kept), branch="zero")


def _branch(arrangement: Arrangement, blocks: Any, **values: Any) -> Arrangement:
    """Say what stands for branches, whatever was done with them; shortcuts are as they were."""
    return arrangement.treat(
        blocks, lambda done: replace(done, **{"factor": 1.0, "seed": 0, **values})
    )


@dataclass(frozen=True, repr=False)
class Scale(Written):
    """Multiply a block's branch: after(shortcut(u) + α branch(u)).

    With α = 0 the branch is still computed; :class:`Delete` leaves it out. In a plain unit G, which
    has no shortcut, x + α(G(x) - x) is computed, so that 0 lets the input pass there, too.

    Args:
        block: Index or module path; wildcards may mean several.
        factor: α, finite.

    Raises:
        InterventionError: If the factor is not finite.

    Example:
        >>> Delete(3) | Scale(7, 0.5)
        Delete(3) | Scale(7, 0.5)
    """

    block: BlockName
    factor: float

    usage: ClassVar = "BLOCK FACTOR"
    readers: ClassVar = (parse_block, float)

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", float(self.factor))
        if not math.isfinite(self.factor):
            raise InterventionError(f"A branch is scaled by a finite factor; got {self.factor}.")

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Multiply what the branch contributes by now.

        Args:
            arrangement: Before.

        Returns:
            After.

        Raises:
            InterventionError: If the factors' product is not finite.
        """
        return arrangement.treat(arrangement.find(self.block), self._scaled)

    def _scaled(self, done: Treatment) -> Treatment:
        factor = done.factor * self.factor
        if not math.isfinite(factor):
            raise InterventionError(
                f"A branch is scaled by a finite factor; {done.factor} times {self.factor} is "
                f"{factor}."
            )
        return done if done.branch == "zero" else replace(done, factor=factor)


@dataclass(frozen=True, repr=False)
class DropShortcut(Written):
    """Let the branch alone pass: after(branch(u)), the control of a deletion.

    Args:
        block: Index or module path; wildcards may mean several.

    Example:
        >>> DropShortcut("layer1.*")
        DropShortcut('layer1.*')
    """

    block: BlockName

    usage: ClassVar = "BLOCK"
    readers: ClassVar = (parse_block,)

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Leave the shortcut out.

        Args:
            arrangement: Before.

        Returns:
            After.
        """
        found = arrangement.find(self.block)
        return arrangement.treat(found, lambda done: replace(done, shortcut=False))


@dataclass(frozen=True, repr=False)
class Replace(Written):
    """Put another value in the place of a branch's output.

    Args:
        block: Index or module path; wildcards may mean several.
        value: ``"mean"``, the branch's mean over data in the unmodified net; ``"resample"``, the
            branch's output for another example of the same batch, chosen by a random cycle through
            the batch; ``"perturbed"``, its own output and beside it noise of the same norm in a
            direction that is uniform over all its entries, each example's its own (the control of
            Chang et al. 2017: a change of the trunk as large as a deletion's); ``"constant"``, the
            same with one direction that all examples share; ``"zero"``, which is what
            :class:`Delete` does.
        seed: Of the choice of other examples, or of the directions.

    Raises:
        InterventionError: If the value is none of these.

    Example:
        >>> Replace(5, "mean") | Replace(6, "resample", 1)
        Replace(5, 'mean') | Replace(6, 'resample', 1)
    """

    block: BlockName
    value: Literal["mean", "resample", "perturbed", "constant", "zero"]
    seed: int = 0

    usage: ClassVar = "BLOCK mean|resample|perturbed|constant|zero [SEED]"
    readers: ClassVar = (parse_block, str, int)

    def __post_init__(self) -> None:
        drawn = ("resample", "perturbed", "constant")
        if self.value not in ("mean", *drawn, "zero"):
            raise InterventionError(
                "A branch is replaced by mean, resample, perturbed, constant or zero; got "
                f"{self.value!r}."
            )
        if not 0 <= self.seed < 2**63 or (self.seed and self.value not in drawn):
            raise InterventionError(
                f"A seed, from 0, is that of resample, perturbed or constant; got {self.seed} with "
                f"{self.value}."
            )

    def apply(self, arrangement: Arrangement) -> Arrangement:
        """Say what stands for the branch, whatever was done with it before.

        Args:
            arrangement: Before.

        Returns:
            After.
        """
        found = arrangement.find(self.block)
        return _branch(arrangement, found, branch=self.value, seed=self.seed)
