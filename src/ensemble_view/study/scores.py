"""One number per plan and example, whatever was measured, and the effects that follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble_view.statistics.bounded import bounded_mean
from ensemble_view.statistics.paired import mcnemar_test, tango_interval
from ensemble_view.statistics.ratios import RatioMean, ratio_mean

__all__ = ["Effect", "Scores"]


@dataclass(frozen=True)
class Effect:
    """A paired change, positive for worse, with its interval and test.

    Attributes:
        value: the mean change over the examples.
        low: lower limit.
        high: upper limit.
        p_value: of the hypothesis that it is zero.
    """

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, eq=False)
class Scores:
    """One number per plan and example, whose mean over examples is what a study reports.

    Of a classifier it is the error (0 or 1). Of a language model it is the loss per token,
    linearised: ``r + (L - r T) / mean(T)`` of a sequence of T tokens with the summed loss L, where
    r is the mean per token of all, so that the mean over sequences is r and its variance that of
    the ratio (Cochran 1977, chapter 6).

    Attributes:
        name: what it is: ``"error"``, ``"loss per token"``, or a user's own measure.
        values: shape ``[plans, examples]``.
        baseline: shape ``[examples]``, of the full net.
        higher_is_better: whether a larger value is better.
        chance: the error of the best constant guess, a proportion; None where it has none.

    Example:
        >>> right = np.array([[0.0, 1.0, 1.0, 0.0]])
        >>> scores = Scores("error", right, np.zeros(4), chance=0.9)
        >>> effect = scores.effect(scores.worsening[0], 0.95)
        >>> effect.value, effect.p_value
        (0.5, 0.5)
    """

    name: str
    values: npt.NDArray[np.float64]
    baseline: npt.NDArray[np.float64]
    higher_is_better: bool = False
    chance: float | None = None

    @property
    def worsening(self) -> npt.NDArray[np.float64]:
        """By how much each plan is worse than the full net, on each example."""
        difference = self.values - self.baseline
        return -difference if self.higher_is_better else difference

    @property
    def are_errors(self) -> bool:
        """Whether an example is right or wrong, so that changes are -1, 0 or 1."""
        return self.chance is not None

    @property
    def drop_of(self) -> str:
        """What a drop is a drop of: the accuracy, where these are errors."""
        return "accuracy" if self.are_errors else self.name

    def effect(self, change: npt.NDArray[np.float64], level: float) -> Effect:
        """Give the mean of a paired change, by the statistics that suit these scores.

        Of errors the interval is Tango's (1998) and the test McNemar's exact one; else both are
        those of the paired t test.

        Args:
            change: Of each example, a difference of two plans' scores.
            level: Of the interval.

        Returns:
            The effect.
        """
        if self.are_errors:
            n, lost = len(change), int((change > 0).sum())
            gained = int((change < 0).sum())
            limits = tango_interval(lost, gained, n, level)
            p_value = mcnemar_test(lost, gained).p_value
            return Effect((lost - gained) / n, limits.low, limits.high, p_value)
        mean = ratio_mean(change, level=level)
        return Effect(mean.value, mean.low, mean.high, mean.p_value)

    def mean(self, change: npt.NDArray[np.float64], level: float, most: float = 1.0) -> RatioMean:
        """Give the mean of a change that is itself a mean over plans.

        Args:
            change: Of each example.
            level: Of the interval.
            most: How large it can be where these are errors; the interval stays within.

        Returns:
            The mean with its interval.
        """
        if self.are_errors:
            return bounded_mean(change, level=level, ends=(-most, most))
        return ratio_mean(change, level=level)
