"""The result of scaling branches step by step, with perturbations as large as each deletion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.results import dose_text
from ensemble_view.results.run import Run
from ensemble_view.results.study import StudyResult
from ensemble_view.statistics import tango_interval
from ensemble_view.statistics.paired_ratio import paired_ratio
from ensemble_view.statistics.ratios import ratio_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Dose", "DoseResult"]


@dataclass(frozen=True)
class Dose:
    """What one plan does to branches.

    Attributes:
        label: which blocks, ``"3"`` or ``"3,7-9"``; ``"all"`` for all that can be deleted.
        blocks: their indices.
        dose: what their branches are multiplied by; None where one is perturbed instead.
        draw: which of the random perturbations.
        changes_shape: whether any of the blocks changes the shape.
    """

    label: str
    blocks: tuple[int, ...]
    dose: float | None
    draw: int = 0
    changes_shape: bool = False


@dataclass(frozen=True, repr=False)
class DoseResult(StudyResult):
    """What a net loses as branches are scaled, and as noise of a branch's norm is added instead.

    Attributes:
        doses: one per plan, in the order of the run's outcomes.
        run: every example's outcomes.

    Example:
        One block, deleted and perturbed, and a measure of one's own.

        >>> from ensemble_view.results.own import MeasuredOutcomes
        >>> from ensemble_view.results.records import Cost, Provenance
        >>> outcomes = MeasuredOutcomes(np.array([[0.5, 0.6, 0.4], [0.7, 0.7, 0.6]]),
        ...                             np.array([0.9, 0.9, 0.9]))
        >>> provenance = Provenance({"name": "net"}, {"name": "three"}, {}, seed=0, command="",
        ...                         date="", device="cpu", threads=1, batch_size=3)
        >>> run = Run(outcomes, Cost(2, 2, 1), 0.1, provenance, measure="IoU")
        >>> result = DoseResult((Dose("0", (0,), 0.0), Dose("0", (0,), None)), run)
        >>> result.frame[["blocks", "dose", "value", "worsening"]].round(3)
          blocks  dose  value  worsening
        0      0   0.0    0.5        0.4
        1      0   1.0    0.9        0.0
        >>> result.random_frame[["blocks", "deleted", "perturbed", "ratio"]].round(3)
          blocks  deleted  perturbed  ratio
        0      0      0.4      0.233  0.583
    """

    kind = "dose and response"
    table_name = "dose"
    figure_name = "dose"

    doses: tuple[Dose, ...]
    run: Run

    def __post_init__(self) -> None:
        if len(self.doses) != self.run.plans:
            raise MeasurementError(
                f"There are {len(self.doses)} doses but outcomes of {self.run.plans} plans; "
                "expected one dose per plan; give both in the same order."
            )

    @property
    def labels(self) -> tuple[str, ...]:
        """The sets of blocks whose branches were scaled, in order."""
        return tuple(dict.fromkeys(each.label for each in self.doses))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per set of blocks and dose, with the full net's at dose 1.

        ``value`` is the mean of what is measured (the error of a classifier, the loss per token of
        a language model), ``worsening`` its paired change for the worse: with Tango's score
        interval for errors, else a t interval over the examples.
        """
        scores = self.run.scores
        rows = []
        for label in self.labels:
            plans = {d.dose: i for i, d in enumerate(self.doses) if d.label == label}
            plans.pop(None, None)
            for dose in sorted({*plans, 1.0}, key=float):  # type: ignore[arg-type]
                row = plans.get(dose)
                values = scores.baseline if row is None else scores.values[row]
                change = (0.0, 0.0, 0.0) if row is None else self._change(scores.worsening[row])
                rows.append(
                    {
                        "blocks": label,
                        "dose": dose,
                        "value": float(values.mean()),
                        **dict(zip(_columns("worsening"), change, strict=True)),
                        "n": self.run.examples,
                    }
                )
        return pd.DataFrame(rows)

    @cached_property
    def random_frame(self) -> pd.DataFrame:
        """One row per perturbed block, then one of their mean: deletion beside perturbation.

        ``deleted`` and ``perturbed`` are what each makes worse, the latter averaged over the draws;
        ``ratio`` is perturbed over deleted with Fieller's interval, nan where deletion's effect
        cannot be told from zero.
        """
        worsening = self.run.scores.worsening
        deleted: list[npt.NDArray[np.float64]] = []
        perturbed: list[npt.NDArray[np.float64]] = []
        rows = []
        for label in self.labels:
            draws = [i for i, d in enumerate(self.doses) if d.label == label and d.dose is None]
            without = [i for i, d in enumerate(self.doses) if d.label == label and d.dose == 0]
            if not (draws and without):
                continue
            deleted.append(worsening[without[0]])
            perturbed.append(worsening[draws].mean(0))
            rows.append(
                {
                    "blocks": label,
                    "changes_shape": self.doses[draws[0]].changes_shape,
                    "draws": len(draws),
                    **self._beside(deleted[-1], perturbed[-1], tango=True),
                }
            )
        keeping = [i for i, row in enumerate(rows) if not row["changes_shape"]]
        if len(keeping) > 1:
            means = (np.mean([each[i] for i in keeping], 0) for each in (deleted, perturbed))
            place = {"blocks": "mean", "changes_shape": False, "draws": rows[0]["draws"]}
            rows.append({**place, **self._beside(*means, tango=False)})
        return pd.DataFrame(rows)

    def _beside(
        self,
        deleted: npt.NDArray[np.float64],
        perturbed: npt.NDArray[np.float64],
        *,
        tango: bool,
    ) -> dict[str, Any]:
        ratio = paired_ratio(perturbed, deleted, self.run.level)
        ends = (ratio.value, ratio.low, ratio.high)
        first = self._change(deleted) if tango else self._mean(deleted)
        return {
            **dict(zip(_columns("deleted"), first, strict=True)),
            **dict(zip(_columns("perturbed"), self._mean(perturbed), strict=True)),
            **dict(zip(_columns("ratio"), ends, strict=True)),
            "n": self.run.examples,
        }

    def _change(self, worsening: npt.NDArray[np.float64]) -> tuple[float, float, float]:
        """The mean worsening of one plan with its paired interval."""
        if self.run.scores.chance is None:
            return self._mean(worsening)
        lost, gained = int((worsening > 0).sum()), int((worsening < 0).sum())
        interval = tango_interval(lost, gained, len(worsening), self.run.level)
        return float(worsening.mean()), interval.low, interval.high

    def _mean(self, worsening: npt.NDArray[np.float64]) -> tuple[float, float, float]:
        found = ratio_mean(worsening, level=self.run.level)
        return found.value, found.low, found.high

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Doses, and perturbations where there are some."""
        random = {} if self.random_frame.empty else {"perturbations": self.random_frame}
        return {"dose": self.frame, **random}

    @property
    def table(self) -> str:
        """A row per set of blocks and a column per dose; then deletion beside perturbation."""
        return dose_text.table(self)

    @property
    def summary(self) -> str:
        """The result in plain words: how fast the net gets worse, and worse than by noise?"""
        return dose_text.summary(self)

    def plot(self) -> Figure:
        """Draw what is measured against the dose, and deletions beside perturbations.

        Returns:
            A matplotlib figure that belongs to no window.
        """
        from ensemble_view.figures.dose import dose_figure

        return dose_figure(self)

    @property
    def stopped_after(self) -> int | None:
        """How many examples the result is of, if the user stopped the study early."""
        return self.run.stopped_after

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The outcomes of every example."""
        return self.run.outcomes.arrays

    def _record(self) -> dict[str, Any]:
        return {
            **self.run.to_json(),
            "doses": [asdict(dose) for dose in self.doses],
            "rows": self.frame.to_dict("records"),
            "perturbations": self.random_frame.to_dict("records"),
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        doses = ({**each, "blocks": tuple(each["blocks"])} for each in content["doses"])
        return cls(tuple(Dose(**each) for each in doses), Run.restored(content, folder))


def _columns(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"
