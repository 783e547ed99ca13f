"""What every lesion result shares: lesions beside outcomes, table, record, files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.paired import holm
from ensemble_view.statistics.simultaneous import adjusted_level
from ensemble_view.studies.lesion import words as text
from ensemble_view.study import files
from ensemble_view.study.lesions import Lesion, NotDeletable
from ensemble_view.study.outcomes import ExampleArrays
from ensemble_view.study.provenance import Cost, Provenance
from ensemble_view.study.result import StudyResult

__all__ = ["LesionStudyResult"]

OutcomesT = TypeVar("OutcomesT", bound=ExampleArrays)


@dataclass(frozen=True, repr=False)
class LesionStudyResult(StudyResult, Generic[OutcomesT]):
    """Each lesion's outcomes beside the full net's, with provenance and cost.

    Attributes:
        lesions: what was deleted, in the order of the outcomes' rows.
        outcomes: the measurements of every example.
        cost: block evaluations.
        seconds: wall-clock time of the measurement.
        provenance: net, data, versions, seed.
        block_count: number of blocks in the chain, those not deletable included.
        not_deletable: blocks that were not lesioned because they cannot be.
        level: confidence level of all intervals, a proportion.
        interrupted: whether the study was stopped early; the outcomes then hold fewer examples.
    """

    file_name = "lesion"
    outcomes_type: ClassVar[type[ExampleArrays]]
    columns: ClassVar[tuple[str, ...]]

    lesions: tuple[Lesion, ...]
    outcomes: OutcomesT
    cost: Cost
    seconds: float
    provenance: Provenance
    block_count: int
    not_deletable: tuple[NotDeletable, ...] = ()
    level: float = 0.95
    interrupted: bool = False

    def __post_init__(self) -> None:
        if len(self.lesions) != self.outcomes.lesions:
            raise MeasurementError(
                f"There are {len(self.lesions)} lesions but outcomes of {self.outcomes.lesions}; "
                "expected one row of outcomes per lesion; give both in the same order."
            )

    @property
    @abstractmethod
    def baseline(self) -> Any:
        """The full net on the same examples; ``n`` counts them."""

    @abstractmethod
    def _row(self, index: int) -> dict[str, Any]:
        """What one lesion's outcomes say; ``p_value`` is corrected afterwards."""

    @property
    def _wording(self) -> text.Wording:
        return text.ACCURACY

    @property
    def _joint_level(self) -> float:
        """The level of each interval with which all lesions' hold at once."""
        return adjusted_level(self.level, len(self.lesions))

    @property
    def frame(self) -> pd.DataFrame:
        """One row per lesion; ``p_adjusted`` is Holm's correction over all rows.

        Limits under ``_low`` and ``_high`` are each lesion's own, at the result's level; those
        under ``_simultaneous_low`` and ``_simultaneous_high`` hold for all rows at once, as the
        adjusted p-values do (:mod:`ensemble_view.statistics.simultaneous`).
        """
        return pd.DataFrame(self._rows, columns=list(self.columns))

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        rows = [
            {
                "blocks": lesion.label,
                "names": ", ".join(lesion.names),
                "count": len(lesion.blocks),
                "changes_shape": lesion.changes_shape,
                "shortcut_kind": lesion.shortcut_kind,
                **self._row(index),
            }
            for index, lesion in enumerate(self.lesions)
        ]
        adjusted = holm(np.array([row["p_value"] for row in rows], dtype=np.float64))
        for row, p in zip(rows, adjusted, strict=True):
            row["p_adjusted"] = float(p)
        return [{column: row[column] for column in self.columns} for row in rows]

    @property
    def _net(self) -> str:
        return str(self.provenance.model.get("name", "the net"))

    @property
    def _data(self) -> str:
        return str(self.provenance.data.get("name", "the data"))

    @property
    def _cut_short(self) -> str:
        if not self.interrupted:
            return ""
        return " (the study was interrupted: these are the examples done so far)"

    @property
    def _not_deletable_sentence(self) -> str:
        if not self.not_deletable:
            return ""
        return f" Not deletable: {len(self.not_deletable)} of {self.block_count} blocks."

    @property
    def _own(self) -> dict[str, Any]:
        """The fields that a kind of result adds."""
        shared = {field.name for field in fields(LesionStudyResult)}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in shared}

    def _record(self) -> dict[str, Any]:
        return {
            "baseline": asdict(self.baseline),
            **self.provenance.to_json(),
            "cost": asdict(self.cost),
            "seconds": self.seconds,
            "level": self.level,
            "interrupted": self.interrupted,
            "block_count": self.block_count,
            **self._own,
            "lesions": [
                {**row, "names": lesion.names, "indices": lesion.blocks}
                for row, lesion in zip(self._rows, self.lesions, strict=True)
            ],
            "not_deletable": [asdict(block) for block in self.not_deletable],
        }

    @property
    def stopped_after(self) -> int | None:
        """How many examples the result is of, if the user stopped the study early."""
        return self.baseline.n if self.interrupted else None

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The outcomes of every example."""
        return self.outcomes.arrays

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        arrays = files.read_arrays(
            folder / "outcomes.npz", [field.name for field in fields(cls.outcomes_type)]
        )
        shared = {field.name for field in fields(LesionStudyResult)}
        found: dict[str, Any] = {
            "lesions": tuple(_lesion_from_json(row) for row in content["lesions"]),
            "outcomes": cls.outcomes_type(**arrays),
            "cost": Cost(**content["cost"]),
            "provenance": Provenance.from_json(content),
            "not_deletable": tuple(NotDeletable(**b) for b in content["not_deletable"]),
        }
        as_they_are = ("seconds", "block_count", "level", "interrupted")
        own = [field.name for field in fields(cls) if field.name not in shared]
        return cls(**found, **{name: content[name] for name in (*as_they_are, *own)})

    @property
    def table(self) -> str:
        """One row per lesion, simultaneous limits; a star marks those of a shape-changing block."""
        return text.text_table(self.frame, self._wording, self.level)


def _lesion_from_json(row: Mapping[str, Any]) -> Lesion:
    return Lesion(
        label=row["blocks"],
        names=tuple(row["names"]),
        blocks=tuple(row["indices"]),
        changes_shape=row["changes_shape"],
        shortcut_kind=row["shortcut_kind"],
    )
