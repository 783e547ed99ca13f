"""A lesion study of a classifier: drops in accuracy, paired and corrected."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ensemble_view.statistics.paired import (
    PairedCounts,
    accuracy_interval,
    mcnemar_test,
    normalised_drop,
    paired_counts,
    tango_interval,
)
from ensemble_view.statistics.simultaneous import drop_limits, error_ratio, share_limits
from ensemble_view.studies.lesion import words as text
from ensemble_view.studies.lesion.base import LesionStudyResult
from ensemble_view.studies.lesion.sizes import size_of
from ensemble_view.study.outcomes import Outcomes

__all__ = ["Baseline", "LesionResult"]


@dataclass(frozen=True, repr=False)
class LesionResult(LesionStudyResult[Outcomes]):
    """A lesion study of a classifier.

    In ``frame``, intervals of one lesion by itself are Tango's for the drop and Fieller's score
    interval for the normalised drop; those of ``error_ratio`` (the error after over the error
    before) and all simultaneous ones are of :mod:`ensemble_view.statistics.simultaneous`. ``size``
    is the lesion's class by its simultaneous limits (:mod:`ensemble_view.studies.lesion.sizes`).
    ``p_value`` is McNemar's exact test and ``p_adjusted`` the same after Holm's correction over all
    rows. ``loss_change``, ``divergence`` and ``loss`` are means in nats.

    Example:
        One block, four examples, of which its deletion loses one.

        >>> from ensemble_view.study.lesions import Lesion
        >>> from ensemble_view.study.provenance import Cost, Provenance
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

    kind = "lesion"
    outcomes_type = Outcomes
    columns = (
        "blocks", "names", "count", "accuracy", "drop", "drop_low", "drop_high",
        "drop_simultaneous_low", "drop_simultaneous_high",
        "p_value", "mid_p_value", "p_adjusted",
        "normalised_drop", "normalised_drop_low", "normalised_drop_high",
        "normalised_drop_simultaneous_low", "normalised_drop_simultaneous_high",
        "error_ratio", "error_ratio_low", "error_ratio_high",
        "error_ratio_simultaneous_low", "error_ratio_simultaneous_high", "size",
        "loss", "loss_change", "agreement", "divergence",
        "changes_shape", "shortcut_kind", "lost", "gained", "n",
    )  # fmt: skip

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

    def _row(self, index: int) -> dict[str, Any]:
        outcomes = self.outcomes
        counts = paired_counts(outcomes.baseline_correct, outcomes.correct[index])
        drop = tango_interval(counts.lost, counts.gained, counts.n, self.level)
        test = mcnemar_test(counts.lost, counts.gained)
        share = normalised_drop(counts, self.baseline.chance, self.level)
        all_drops = drop_limits(counts, self._joint_level)
        all_shares = share_limits(counts, self.baseline.chance, self._joint_level)
        ratio = error_ratio(counts, self.level)
        all_ratios = error_ratio(counts, self._joint_level)
        loss = float(outcomes.loss[index].mean(dtype=np.float64))
        return {
            "accuracy": counts.after,
            "drop": counts.drop,
            "drop_low": drop.low,
            "drop_high": drop.high,
            "drop_simultaneous_low": all_drops.low,
            "drop_simultaneous_high": all_drops.high,
            "p_value": test.p_value,
            "mid_p_value": test.mid_p,
            "normalised_drop": share.value,
            "normalised_drop_low": share.low,
            "normalised_drop_high": share.high,
            "normalised_drop_simultaneous_low": all_shares.low,
            "normalised_drop_simultaneous_high": all_shares.high,
            "error_ratio": ratio.value,
            "error_ratio_low": ratio.low,
            "error_ratio_high": ratio.high,
            "error_ratio_simultaneous_low": all_ratios.low,
            "error_ratio_simultaneous_high": all_ratios.high,
            "size": size_of(all_shares.low, all_shares.high, all_ratios.high),
            "loss": loss,
            "loss_change": loss - self.baseline.loss,
            "agreement": float(outcomes.agreement[index].mean()),
            "divergence": float(outcomes.divergence[index].mean(dtype=np.float64)),
            "lost": counts.lost,
            "gained": counts.gained,
            "n": counts.n,
        }

    @property
    def summary(self) -> str:
        """The result in plain words: lesions by the size of their effect, and the largest."""
        baseline = self.baseline
        right = round(baseline.accuracy * baseline.n)
        unchanged = PairedCounts(right, 0, 0, baseline.n - right)
        subject = (
            f"{self._net} classifies {baseline.accuracy:.1%} of {baseline.n:,} examples of "
            f"{self._data} correctly; the best constant guess would reach {baseline.chance:.1%}"
            f"{self._cut_short}"
        )
        return (
            text.summary(
                self.frame,
                subject=subject,
                chance=baseline.chance,
                level=self.level,
                examples=baseline.n,
                least=(
                    error_ratio(unchanged, self._joint_level).high,
                    share_limits(unchanged, baseline.chance, self._joint_level).high,
                ),
            )
            + self._not_deletable_sentence
        )


@dataclass(frozen=True)
class Baseline:
    """The full net on the same examples.

    Attributes:
        accuracy: a proportion.
        accuracy_low: lower limit of Wilson's interval.
        accuracy_high: upper limit of Wilson's interval.
        chance: accuracy of the best constant guess: the largest class's share of the labels.
        loss: mean cross-entropy in nats.
        n: number of examples.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    chance: float
    loss: float
    n: int
