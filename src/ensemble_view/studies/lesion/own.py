"""A lesion study by a user's own measure: one number per example."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.studies.lesion import words as text
from ensemble_view.studies.lesion.base import LesionStudyResult
from ensemble_view.study.outcomes import MeasuredOutcomes
from ensemble_view.study.words import about

__all__ = ["MeasuredBaseline", "MeasuredResult"]


@dataclass(frozen=True)
class MeasuredBaseline:
    """The full net on the same examples.

    Attributes:
        value: the measure's mean, with its interval.
        value_low: lower limit.
        value_high: upper limit.
        n: number of examples.
    """

    value: float
    value_low: float
    value_high: float
    n: int


@dataclass(frozen=True, repr=False)
class MeasuredResult(LesionStudyResult[MeasuredOutcomes]):
    """A lesion study by a user's own measure.

    In ``frame``, ``value`` is the measure's mean over examples and ``worsening`` by how much it is
    worse than the full net's: positive is worse, whichever way the measure runs. Its interval and
    ``p_value`` are those of the paired t test (:func:`ensemble_view.statistics.ratios.ratio_mean`);
    the simultaneous interval is the same at Bonferroni's level. There is no class of size: a
    measure of one's own has neither chance nor errors, so that nothing says which change is small.

    Attributes:
        measure: what was measured.
        higher_is_better: whether a larger value is better.

    Example:
        One block, three examples.

        >>> import numpy as np
        >>> from ensemble_view.study.outcomes import MeasuredOutcomes
        >>> from ensemble_view.study.provenance import Cost, Provenance
        >>> from ensemble_view.study.lesions import Lesion
        >>> outcomes = MeasuredOutcomes(np.array([[0.5, 0.6, 0.4]]), np.array([0.9, 0.8, 0.7]))
        >>> provenance = Provenance({"name": "net"}, {"name": "three"}, {}, seed=0, command="",
        ...                         date="", device="cpu", threads=1, batch_size=3)
        >>> result = MeasuredResult((Lesion("0", ("F",), (0,), False, "identity"),), outcomes,
        ...                         Cost(1, 1, 1), 0.1, provenance, block_count=1, measure="IoU")
        >>> result.frame[["blocks", "value", "worsening", "n"]]
          blocks  value  worsening  n
        0      0    0.5        0.3  3
    """

    kind = "measured lesion"
    outcomes_type = MeasuredOutcomes
    columns = (
        "blocks", "names", "count", "value", "worsening", "worsening_low", "worsening_high",
        "worsening_simultaneous_low", "worsening_simultaneous_high",
        "p_value", "p_adjusted", "changes_shape", "shortcut_kind", "n",
    )  # fmt: skip

    measure: str = "measure"
    higher_is_better: bool = True

    @property
    def _wording(self) -> text.Wording:
        return text.Wording(
            value=("value", self.measure[:10]),
            effect=("worsening", "worsening"),
            change="worsening",
            formats=("#10.4g", "+#9.3g"),
            test="paired t test",
            worse=f"worsens {self.measure}",
            worsen=f"worsen {self.measure}",
            better=f"improves {self.measure}",
        )

    @cached_property
    def baseline(self) -> MeasuredBaseline:
        """The measure's mean of the full net on the same examples."""
        found = ratio_mean(self.outcomes.baseline, level=self.level)
        return MeasuredBaseline(found.value, found.low, found.high, len(self.outcomes.baseline))

    def _row(self, index: int) -> dict[str, Any]:
        values = self.outcomes.values[index]
        sign = 1.0 if self.higher_is_better else -1.0
        change = sign * (self.outcomes.baseline - values)
        worsening = ratio_mean(change, level=self.level)
        joint = ratio_mean(change, level=self._joint_level)
        return {
            "value": float(values.mean()),
            "worsening": worsening.value,
            "worsening_low": worsening.low,
            "worsening_high": worsening.high,
            "worsening_simultaneous_low": joint.low,
            "worsening_simultaneous_high": joint.high,
            "p_value": worsening.p_value,
            "n": len(values),
        }

    @property
    def summary(self) -> str:
        """The result in plain words: the full net's mean, and which blocks matter."""
        baseline = self.baseline
        direction = "higher" if self.higher_is_better else "lower"
        sentences = [
            f"The {self.measure} of {self._net} is {baseline.value:.4g} on average over "
            f"{baseline.n:,} examples of {self._data}{self._cut_short}; {direction} is better.",
            *text.mattering(self.frame, self.level, self._wording),
            *text.largest(self.frame, self._wording),
            f"The effects are in no classes of size, because no scale of {self.measure} is known "
            "on which a change is small.",
            about(baseline.n, "examples"),
        ]
        return " ".join(sentences) + self._not_deletable_sentence
