"""The result of deleting each block and looking at the end of its stage: do later blocks react?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.study import files
from ensemble_view.study.outcomes import ExampleArrays
from ensemble_view.study.provenance import Cost, Provenance
from ensemble_view.study.result import StudyResult

__all__ = ["NULLS", "VARIANTS", "ReactionBlock", "ReactionResult", "Reactions"]

VARIANTS = ("", "_frozen", "_all_frozen")
"""Endings of columns: the net itself, with the junctions' nonlinearities held, with all held."""

NULLS = ("untrained", "donor")
"""What the net's reaction is compared with; their columns end in ``_untrained``, ``_donor``."""

_ENDINGS = (*VARIANTS, *(f"_{null}" for null in NULLS))

_MEASURED = ("reaction", "norm_ratio")


@dataclass(frozen=True)
class ReactionBlock:
    """A block and where it stands.

    Attributes:
        index: from 0.
        name: module path.
        stage: number of its stage, from 0.
        later: how many blocks follow in its stage; with none, nothing can react.
        changes_shape: whether it changes the shape.
    """

    index: int
    name: str
    stage: int
    later: int
    changes_shape: bool = False


@dataclass(frozen=True, eq=False)
class Reactions(ExampleArrays):
    """The reaction to each block's deletion, of each example; nan where it is undefined.

    Attributes:
        reaction: ``⟨h - h', D⟩ / ‖D‖²``, shape ``[blocks, examples]``.
        norm_ratio: ``‖h - h'‖ / ‖D‖``, same shape.
        reaction_frozen: the same with the nonlinearities of the junctions held at the full net's.
        norm_ratio_frozen: likewise.
        reaction_all_frozen: the same with those in the branches held, too.
        norm_ratio_all_frozen: likewise.
        reaction_untrained: the reaction of the untrained net to its own deletion.
        norm_ratio_untrained: likewise.
        reaction_donor: the net's reaction to another example's change of the same norm.
        norm_ratio_donor: likewise.
        positions: which examples of the data these are, shape ``[examples]``.
    """

    of_examples = ("positions",)

    reaction: npt.NDArray[np.float64]
    norm_ratio: npt.NDArray[np.float64]
    reaction_frozen: npt.NDArray[np.float64]
    norm_ratio_frozen: npt.NDArray[np.float64]
    reaction_all_frozen: npt.NDArray[np.float64]
    norm_ratio_all_frozen: npt.NDArray[np.float64]
    reaction_untrained: npt.NDArray[np.float64]
    norm_ratio_untrained: npt.NDArray[np.float64]
    reaction_donor: npt.NDArray[np.float64]
    norm_ratio_donor: npt.NDArray[np.float64]
    positions: npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class ReactionResult(StudyResult):
    """How the later blocks of a stage answer to the deletion of each of its blocks.

    With D the change that leaves a block when its branch is deleted, ``after(S + B) - after(S)``, h
    the trunk at the end of its stage and h' the same after the deletion, the reaction is
    ⟨h - h', D⟩ / ‖D‖² and the ratio of norms ‖h - h'‖ / ‖D‖. Where later blocks only add to what
    passes them, both are 1; where each turns it to another direction, the reaction is 0 and the
    ratio 1. A reaction below 1 is repair only if it also lies below two nulls: the reaction of the
    untrained net, and the net's own reaction to a *donor*, another example's change of the same
    norm.

    Attributes:
        blocks: those that were deleted, in the order of the rows.
        outcomes: of every example.
        undefined: ways of freezing (``"frozen"``, ``"all_frozen"``) that mean nothing for this net,
            and nulls (``"untrained"``, ``"donor"``) that were not measured, with the reason.
        nulls: how each null that was measured was made.
        cost: block evaluations.
        seconds: wall-clock time.
        provenance: net, data, versions, seed.
        level: confidence level of all intervals, a proportion.
        interrupted: whether it was stopped early; what is here is of the examples done by then.

    Example:
        Two blocks, the second of which undoes half of what the first adds.

        >>> values = np.array([[0.5, 0.4, 0.6], [1.0, 1.0, 1.0]])
        >>> outcomes = Reactions(*[values] * 6, *[np.ones((2, 3))] * 4, np.arange(3))
        >>> blocks = ReactionBlock(0, "a", 0, later=1), ReactionBlock(1, "b", 0, later=0)
        >>> provenance = Provenance({"name": "net"}, {"name": "three"}, {}, seed=0, command="",
        ...                         date="", device="cpu", threads=1, batch_size=3)
        >>> result = ReactionResult(blocks, outcomes, {}, {}, Cost(3, 4, 1), 0.1, provenance)
        >>> result.frame[["block", "later", "reaction", "reaction_donor", "n"]]
           block  later  reaction  reaction_donor  n
        0      0      1       0.5             1.0  3
        1      1      0       1.0             1.0  3
        >>> result.stages_frame[["stage", "blocks", "reaction", "minus_donor"]]
          stage  blocks  reaction  minus_donor
        0     0       1       0.5         -0.5
    """

    kind = "reaction"
    file_name = "reaction"

    blocks: tuple[ReactionBlock, ...]
    outcomes: Reactions
    undefined: Mapping[str, str]
    nulls: Mapping[str, str]
    cost: Cost
    seconds: float
    provenance: Provenance
    level: float = 0.95
    interrupted: bool = False

    def __post_init__(self) -> None:
        if len(self.blocks) != self.outcomes.lesions:
            raise MeasurementError(
                f"There are {len(self.blocks)} blocks but reactions to {self.outcomes.lesions}; "
                "expected one row of reactions per block; give both in the same order."
            )

    @property
    def examples(self) -> int:
        """How many examples were measured."""
        return len(self.outcomes.positions)

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per block: means over the examples with t intervals; ``n`` counts them."""
        rows = []
        for row, block in enumerate(self.blocks):
            values = {
                name: array[row]
                for name, array in self.outcomes.arrays.items()
                if name != "positions"
            }
            place = {"block": block.index, "name": block.name, "stage": block.stage}
            rows.append({**place, "later": block.later, **self._means(values)})
        return pd.DataFrame(rows)

    @cached_property
    def stages_frame(self) -> pd.DataFrame:
        """One row per stage, then one of all: means over those blocks that others follow.

        Of each example the mean over the blocks is taken first, so that the interval is that of the
        examples, whose reactions to different blocks hang together. ``minus_one``,
        ``minus_untrained`` and ``minus_donor`` are the paired differences between the reaction and
        what it is compared with; their intervals are simultaneous at the result's level, by
        Bonferroni's correction over all that are in the table (``comparisons`` of them). All others
        are each of that level by itself.
        """
        stages = sorted({block.stage for block in self.blocks})
        groups: list[tuple[int | str, list[int]]] = [(stage, [stage]) for stage in stages]
        if len(stages) > 1:
            groups.append(("all", stages))
        rows, differences = [], []
        for name, members in groups:
            chosen = [i for i, b in enumerate(self.blocks) if b.stage in members and b.later]
            arrays = {
                column: array[chosen]
                for column, array in self.outcomes.arrays.items()
                if column != "positions"
            }
            indices = [self.blocks[i].index for i in chosen]
            span = {"first": min(indices, default=None), "last": max(indices, default=None)}
            values = {column: _mean_over_blocks(array) for column, array in arrays.items()}
            rows.append({"stage": name, **span, "blocks": len(chosen), **self._means(values)})
            own = arrays["reaction"]
            others = {null: arrays[f"reaction_{null}"] for null in NULLS}
            differences.append(
                {
                    f"minus_{null}": _known(_mean_over_blocks(own - other))
                    for null, other in {"one": np.ones_like(own), **others}.items()
                }
            )
        comparisons = sum(bool(each.size) for row in differences for each in row.values())
        for row, found in zip(rows, differences, strict=True):
            for column, each in found.items():
                level = 1 - (1 - self.level) / max(comparisons, 1)
                row |= _with_limits(column, each, level)
            row["comparisons"] = comparisons
        return pd.DataFrame(rows)

    def _means(self, values: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for ending in _ENDINGS:
            for name in _MEASURED:
                found |= _with_limits(name + ending, _known(values[name + ending]), self.level)
        found["n"] = int(np.count_nonzero(~np.isnan(values["reaction"])))
        return found

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The blocks' table and the stages'."""
        return {"reaction": self.frame, "stages": self.stages_frame}

    @property
    def stopped_after(self) -> int | None:
        """How many examples the result is of, if the user stopped the study early."""
        return self.examples if self.interrupted else None

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The reactions of every example."""
        return self.outcomes.arrays

    def _record(self) -> dict[str, Any]:
        return {
            **self.provenance.to_json(),
            "cost": asdict(self.cost),
            "seconds": self.seconds,
            "level": self.level,
            "interrupted": self.interrupted,
            "undefined": dict(self.undefined),
            "nulls": dict(self.nulls),
            "blocks": [asdict(block) for block in self.blocks],
            "rows": self.frame.to_dict("records"),
            "stages": self.stages_frame.to_dict("records"),
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        names = [field.name for field in fields(Reactions)]
        return cls(
            blocks=tuple(ReactionBlock(**block) for block in content["blocks"]),
            outcomes=Reactions(**files.read_arrays(folder / "outcomes.npz", names)),
            undefined=content["undefined"],
            nulls=content["nulls"],
            cost=Cost(**content["cost"]),
            seconds=content["seconds"],
            provenance=Provenance.from_json(content),
            level=content["level"],
            interrupted=content["interrupted"],
        )


def _known(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return values[~np.isnan(values)]


def _with_limits(column: str, values: npt.NDArray[np.float64], level: float) -> dict[str, float]:
    """The mean with its t interval, nan where there is no value."""
    mean = ratio_mean(values, level=level) if values.size else None
    return {
        f"{column}{end}": getattr(mean, attribute, np.nan)
        for end, attribute in (("", "value"), ("_low", "low"), ("_high", "high"))
    }


def _mean_over_blocks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Each example's mean over the blocks where it is defined, nan where there is none."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice")
        return np.asarray(np.nanmean(values, axis=0), np.float64)
