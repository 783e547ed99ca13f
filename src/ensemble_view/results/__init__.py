"""Typed results of a lesion study: what was deleted, what was measured, and what follows from it.

A result keeps the measurements of every example; all statistics derive from them when asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.results import files, text
from ensemble_view.results.files import ResultError
from ensemble_view.results.records import Baseline, Cost, Lesion, NotDeletable, Outcomes, Provenance
from ensemble_view.statistics import (
    accuracy_interval,
    holm,
    mcnemar_test,
    normalised_drop,
    paired_counts,
    tango_interval,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "Baseline",
    "Cost",
    "Lesion",
    "LesionResult",
    "NotDeletable",
    "Outcomes",
    "Provenance",
    "ResultError",
]

_KIND, _VERSION = "lesion", 1


@dataclass(frozen=True, repr=False)
class LesionResult:
    """A lesion study: each lesion's outcomes beside the full net's, with provenance and cost.

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

    Example:
        One block, four examples, of which its deletion loses one.

        >>> right, labels = np.array([True, True, True, False]), np.array([0, 1, 0, 1])
        >>> worse, ones = np.array([[True, True, False, False]]), np.ones(4, np.float32)
        >>> outcomes = Outcomes(worse, ones[None], worse, ones[None], right, ones, labels)
        >>> provenance = Provenance({"name": "net"}, {"name": "four"}, {}, seed=0, command="",
        ...                         date="", device="cpu", threads=1, batch_size=4)
        >>> result = LesionResult((Lesion("0", ("layer1.0",), (0,), False, "identity"),), outcomes,
        ...                       Cost(1, 1, 1), 0.1, provenance, block_count=1)
        >>> result.baseline.accuracy, result.baseline.chance
        (0.75, 0.5)
        >>> result.frame[["blocks", "accuracy", "drop", "p_value"]]
          blocks  accuracy  drop  p_value
        0      0       0.5  0.25      1.0
    """

    lesions: tuple[Lesion, ...]
    outcomes: Outcomes
    cost: Cost
    seconds: float
    provenance: Provenance
    block_count: int
    not_deletable: tuple[NotDeletable, ...] = ()
    level: float = 0.95
    interrupted: bool = False

    def __post_init__(self) -> None:
        if len(self.lesions) != len(self.outcomes.correct):
            raise MeasurementError(
                f"There are {len(self.lesions)} lesions but outcomes of "
                f"{len(self.outcomes.correct)}; expected one row of outcomes per lesion; give "
                "both in the same order."
            )

    @cached_property
    def baseline(self) -> Baseline:
        """The full net's accuracy and loss, and chance, on the same examples."""
        outcomes = self.outcomes
        correct, n = int(np.count_nonzero(outcomes.baseline_correct)), len(outcomes.labels)
        interval = accuracy_interval(correct, n, self.level)
        _, shares = np.unique(outcomes.labels, return_counts=True)
        return Baseline(
            accuracy=correct / n,
            accuracy_low=interval.low,
            accuracy_high=interval.high,
            chance=int(shares.max()) / n,
            loss=float(outcomes.baseline_loss.mean(dtype=np.float64)),
            n=n,
        )

    @property
    def frame(self) -> pd.DataFrame:
        """One row per lesion: accuracy, paired drop, tests, normalised drop, loss, divergence.

        Intervals are Tango's for the drop and Fieller's score interval for the normalised drop;
        ``p_value`` is McNemar's exact test and ``p_adjusted`` the same after Holm's correction
        over all rows. ``loss_change``, ``divergence`` and ``loss`` are means in nats.
        """
        return pd.DataFrame(self._rows, columns=list(_COLUMNS))

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        rows = [self._row(index) for index in range(len(self.lesions))]
        adjusted = holm(np.array([row["p_value"] for row in rows], dtype=np.float64))
        for row, p in zip(rows, adjusted, strict=True):
            row["p_adjusted"] = float(p)
        return [{column: row[column] for column in _COLUMNS} for row in rows]

    def _row(self, index: int) -> dict[str, Any]:
        lesion, outcomes = self.lesions[index], self.outcomes
        counts = paired_counts(outcomes.baseline_correct, outcomes.correct[index])
        drop = tango_interval(counts.lost, counts.gained, counts.n, self.level)
        test = mcnemar_test(counts.lost, counts.gained)
        share = normalised_drop(counts, self.baseline.chance, self.level)
        loss = float(outcomes.loss[index].mean(dtype=np.float64))
        return {
            "blocks": lesion.label,
            "names": ", ".join(lesion.names),
            "count": len(lesion.blocks),
            "accuracy": counts.after,
            "drop": counts.drop,
            "drop_low": drop.low,
            "drop_high": drop.high,
            "p_value": test.p_value,
            "mid_p_value": test.mid_p,
            "normalised_drop": share.value,
            "normalised_drop_low": share.low,
            "normalised_drop_high": share.high,
            "loss": loss,
            "loss_change": loss - self.baseline.loss,
            "agreement": float(outcomes.agreement[index].mean()),
            "divergence": float(outcomes.divergence[index].mean(dtype=np.float64)),
            "changes_shape": lesion.changes_shape,
            "shortcut_kind": lesion.shortcut_kind,
            "lost": counts.lost,
            "gained": counts.gained,
            "n": counts.n,
        }

    @property
    def summary(self) -> str:
        """The result in plain words: how many deletions are harmless, which ones matter."""
        net = self.provenance.model.get("name", "the net")
        data = self.provenance.data.get("name", "the data")
        baseline = self.baseline
        subject = (
            f"{net} classifies {baseline.accuracy:.1%} of {baseline.n:,} examples of {data} "
            f"correctly; the best constant guess would reach {baseline.chance:.1%}"
        )
        if self.interrupted:
            subject += " (the study was interrupted: these are the examples done so far)"
        words = text.summary(self.frame, subject=subject, chance=baseline.chance, level=self.level)
        if self.not_deletable:
            words += f" Not deletable: {len(self.not_deletable)} of {self.block_count} blocks."
        return words

    def plot(self) -> Figure:
        """Draw the error after each deletion, as in figure 3 of Veit, Wilber and Belongie (2016).

        Returns:
            A matplotlib figure that belongs to no window.
        """
        from ensemble_view.figures import lesion_figure

        return lesion_figure(self)

    def to_json(self) -> dict[str, Any]:
        """Give the content of ``results.json``.

        Returns:
            Plain JSON values; nan is None.
        """
        return dict(
            files.plain(
                {
                    "kind": _KIND,
                    "version": _VERSION,
                    "baseline": asdict(self.baseline),
                    **{field.name: getattr(self.provenance, field.name)
                       for field in fields(Provenance)},
                    "cost": asdict(self.cost),
                    "seconds": self.seconds,
                    "level": self.level,
                    "interrupted": self.interrupted,
                    "block_count": self.block_count,
                    "lesions": [
                        {**row, "names": lesion.names, "indices": lesion.blocks}
                        for row, lesion in zip(self._rows, self.lesions, strict=True)
                    ],
                    "not_deletable": [asdict(block) for block in self.not_deletable],
                    "summary": self.summary,
                }
            )
        )  # fmt: skip

    def save(self, folder: str | Path) -> None:
        """Write the table, the record, the outcomes and the figure into a folder.

        Args:
            folder: made if missing; receives ``lesions.csv``, ``results.json``, ``outcomes.npz``,
                ``lesion.pdf`` and ``lesion.png``. Equal results give equal files.

        Raises:
            ResultError: if the folder cannot be written to.
        """
        from ensemble_view.figures import save_figure

        folder = Path(folder)
        files.prepare_folder(folder)
        outcomes = {field.name: getattr(self.outcomes, field.name) for field in fields(Outcomes)}
        files.write_arrays(folder / "outcomes.npz", outcomes)
        files.write_text(
            folder / "lesions.csv", self.frame.to_csv(index=False, lineterminator="\n")
        )
        figure = self.plot()
        for suffix in ("pdf", "png"):
            with files.writing(folder / f"lesion.{suffix}"):
                save_figure(figure, folder / f"lesion.{suffix}")
        # Last, because its presence marks a complete result.
        files.write_json(folder / "results.json", self.to_json())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read back what :meth:`save` wrote.

        Args:
            folder: a folder with ``results.json`` and ``outcomes.npz``.

        Returns:
            A result equal to the saved one; its statistics derive anew from the outcomes.

        Raises:
            ResultError: if the folder holds no result, or one of another kind or version.
        """
        folder = Path(folder)
        content = files.read_json(folder / "results.json", _KIND, _VERSION)
        arrays = files.read_arrays(
            folder / "outcomes.npz", [field.name for field in fields(Outcomes)]
        )
        try:
            return cls(
                lesions=tuple(_lesion_from_json(row) for row in content["lesions"]),
                outcomes=Outcomes(**arrays),
                cost=Cost(**content["cost"]),
                seconds=content["seconds"],
                provenance=Provenance(**{f.name: content[f.name] for f in fields(Provenance)}),
                block_count=content["block_count"],
                not_deletable=tuple(NotDeletable(**block) for block in content["not_deletable"]),
                level=content["level"],
                interrupted=content["interrupted"],
            )
        except (KeyError, TypeError, MeasurementError) as error:
            raise ResultError(
                f"The files in {folder} do not fit together ({error}); expected results.json and "
                "outcomes.npz of one run; run the study again."
            ) from error

    def __repr__(self) -> str:
        return f"{text.text_table(self.frame)}\n\n{text.wrapped(self.summary)}"

    def _repr_html_(self) -> str:
        return text.html_table(self.frame, self.summary)


_COLUMNS = (
    "blocks", "names", "count", "accuracy", "drop", "drop_low", "drop_high",
    "p_value", "mid_p_value", "p_adjusted",
    "normalised_drop", "normalised_drop_low", "normalised_drop_high",
    "loss", "loss_change", "agreement", "divergence",
    "changes_shape", "shortcut_kind", "lost", "gained", "n",
)  # fmt: skip


def _lesion_from_json(row: Mapping[str, Any]) -> Lesion:
    return Lesion(
        label=row["blocks"],
        names=tuple(row["names"]),
        blocks=tuple(row["indices"]),
        changes_shape=row["changes_shape"],
        shortcut_kind=row["shortcut_kind"],
    )
