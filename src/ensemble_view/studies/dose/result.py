"""The result of scaling branches step by step, with other changes beside each deletion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.paired_ratio import paired_ratio
from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.study.run import Run
from ensemble_view.study.run_result import RunResult

__all__ = ["NULLS", "Dose", "DoseResult"]

NULLS = ("noise", "constant", "donor", "mean", "flipped")
"""What is done to a branch instead of deleting it; see :func:`ensemble_view.dose`."""


@dataclass(frozen=True)
class Dose:
    """What one plan does to branches.

    Attributes:
        label: which blocks, ``"3"`` or ``"3,7-9"``; ``"all"`` for all that can be deleted.
        blocks: their indices.
        dose: what their branches are multiplied by; None where a null is put in instead.
        draw: which of the null's random draws.
        changes_shape: whether any of the blocks changes the shape.
        null: which null, one of ``NULLS``.
    """

    label: str
    blocks: tuple[int, ...]
    dose: float | None
    draw: int = 0
    changes_shape: bool = False
    null: str = "noise"


@dataclass(frozen=True, repr=False)
class DoseResult(RunResult):
    """What a net loses as branches are scaled, and as nulls are put in instead of a deletion.

    Attributes:
        doses: one per plan, in the order of the run's outcomes.
        run: every example's outcomes.
        undefined: nulls that were not measured, with the reason.

    Example:
        One block, deleted and with noise instead, and a measure of one's own.

        >>> from ensemble_view.study.outcomes import MeasuredOutcomes
        >>> from ensemble_view.study.provenance import Cost, Provenance
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
        >>> result.nulls_frame[["blocks", "null", "deleted", "instead", "ratio"]].round(3)
          blocks   null  deleted  instead  ratio
        0      0  noise      0.4    0.233  0.583
    """

    kind = "dose"
    file_name = "dose"

    doses: tuple[Dose, ...]
    run: Run
    undefined: Mapping[str, str] = field(default_factory=dict)

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
    def nulls_frame(self) -> pd.DataFrame:
        """One row per block and null, then one per null of the mean: deletion beside the null.

        ``deleted`` and ``instead`` are what each makes worse, the latter averaged over the draws;
        ``ratio`` is instead over deleted with Fieller's interval, nan where deletion's effect
        cannot be told from zero. The mean is over blocks that keep the shape.
        """
        worsening = self.run.scores.worsening
        rows: list[dict[str, Any]] = []
        means: dict[str, list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]] = {}
        for label in self.labels:
            own = [(i, d) for i, d in enumerate(self.doses) if d.label == label]
            without = [i for i, d in own if d.dose == 0]
            for null in NULLS:
                draws = [i for i, d in own if d.dose is None and d.null == null]
                if not (draws and without):
                    continue
                pair = worsening[without[0]], worsening[draws].mean(0)
                changes = self.doses[draws[0]].changes_shape
                place = {"blocks": label, "changes_shape": changes, "null": null}
                rows.append({**place, "draws": len(draws), **self._beside(*pair, tango=True)})
                if not changes:
                    means.setdefault(null, []).append(pair)
        draws_of = {row["null"]: row["draws"] for row in rows}
        for null, pairs in means.items():
            if len(pairs) > 1:
                mean = (np.mean([pair[k] for pair in pairs], 0) for k in range(2))
                place = {"blocks": "mean", "changes_shape": False, "null": null}
                beside = self._beside(*mean, tango=False)
                rows.append({**place, "draws": draws_of[null], **beside})
        return pd.DataFrame(rows)

    @cached_property
    def ranges_frame(self) -> pd.DataFrame:
        """One row per block, then of the mean: over how wide a range of ratios the nulls lie.

        ``lowest`` and ``highest`` are the smallest and largest ratio, ``low`` the smallest lower
        and ``high`` the largest upper limit; ``least_high`` and ``most_low`` are the smallest upper
        and the largest lower one. All are nan where deletion's effect cannot be told from zero.
        """
        rows = []
        if not self.nulls_frame.empty:
            for label, each in self.nulls_frame.groupby("blocks", sort=False):
                rows.append(
                    {
                        "blocks": label,
                        "nulls": len(each),
                        "lowest": each["ratio"].min(),
                        "highest": each["ratio"].max(),
                        "low": each["ratio_low"].min(),
                        "most_low": each["ratio_low"].max(),
                        "least_high": each["ratio_high"].min(),
                        "high": each["ratio_high"].max(),
                    }
                )
        return pd.DataFrame(rows)

    def _beside(
        self,
        deleted: npt.NDArray[np.float64],
        instead: npt.NDArray[np.float64],
        *,
        tango: bool,
    ) -> dict[str, Any]:
        ratio = paired_ratio(instead, deleted, self.run.level)
        ends = (ratio.value, ratio.low, ratio.high)
        first = self._change(deleted) if tango else self._mean(deleted)
        return {
            **dict(zip(_columns("deleted"), first, strict=True)),
            **dict(zip(_columns("instead"), self._mean(instead), strict=True)),
            **dict(zip(_columns("ratio"), ends, strict=True)),
            "n": self.run.examples,
        }

    def _change(self, worsening: npt.NDArray[np.float64]) -> tuple[float, float, float]:
        """The mean worsening of one plan with its paired interval."""
        found = self.run.scores.effect(worsening, self.run.level)
        return found.value, found.low, found.high

    def _mean(self, worsening: npt.NDArray[np.float64]) -> tuple[float, float, float]:
        found = ratio_mean(worsening, level=self.run.level)
        return found.value, found.low, found.high

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """Doses, and where there are nulls these and their ranges."""
        if self.nulls_frame.empty:
            return {"dose": self.frame}
        return {"dose": self.frame, "nulls": self.nulls_frame, "ranges": self.ranges_frame}

    def _record(self) -> dict[str, Any]:
        return {
            **self.run.to_json(),
            "doses": [asdict(dose) for dose in self.doses],
            "rows": self.frame.to_dict("records"),
            "nulls": self.nulls_frame.to_dict("records"),
            "ranges": self.ranges_frame.to_dict("records"),
            "undefined": dict(self.undefined),
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        doses = ({**each, "blocks": tuple(each["blocks"])} for each in content["doses"])
        found = tuple(Dose(**each) for each in doses)
        return cls(found, Run.restored(content, folder), content["undefined"])


def _columns(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"
