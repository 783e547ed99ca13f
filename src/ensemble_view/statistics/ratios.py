"""A mean per unit of size over independent groups: tokens in sequences, or examples by themselves.

The tokens of a sequence are not independent, so that the sequence is what was sampled, and an
average over tokens is a ratio of two sums over sequences (Cochran 1977, Sampling Techniques,
chapter 6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.student import check_level, student_interval

__all__ = ["RatioMean", "ratio_mean"]


@dataclass(frozen=True)
class RatioMean:
    """An estimate with its t interval and the two-sided p-value of zero.

    Attributes:
        value: the mean per unit of size.
        low: lower limit; nan for a single group.
        high: upper limit; nan for a single group.
        p_value: of the hypothesis that the mean is zero; nan for a single group.
    """

    value: float
    low: float
    high: float
    p_value: float


def ratio_mean(
    totals: npt.ArrayLike, sizes: npt.ArrayLike | None = None, level: float = 0.95
) -> RatioMean:
    """Estimate the ratio of two sums over independent groups, with a t interval and test.

    With totals y and sizes m of n groups and ``M = sum m``, ``R = sum y / M``. Its variance is the
    linearised one from the residuals ``e_i = y_i - R m_i`` (Cochran 1977, chapter 6), each divided
    by ``1 - m_i / M``, which makes it the jackknife's (Tukey 1958, Annals of Mathematical
    Statistics 29:614): ``v = (n - 1) / n sum (e_i / (1 - m_i / M))^2 / M^2``. Without the division
    it falls short where sizes differ. The degrees of freedom are ``(sum m^2)^2 / sum m^4 - 1``, at
    least 1: Satterthwaite's (1946, Biometrics Bulletin 2:110-114) where a group's standard
    deviation grows with its size; compare the effective number of clusters of Carter, Schnepel and
    Steigerwald (2017, Review of Economics and Statistics 99:698-709). For equal sizes all of this
    is the t interval of a mean, with n - 1.

    For a paired difference give the differences of the totals. By simulation (``tests/
    test_ratio_coverage.py``) a 95 % interval covers at least 93.5 % from 50 groups on where the
    groups' means are moderately skewed (lognormal, sigma 0.5); where they are strongly skewed
    (sigma 1: few groups carry the effect) 88 % at 50, 91 % at 200 and 93 % at 500.

    Args:
        totals: y, one per group, shape ``[groups]``.
        sizes: m, above zero; by default one each.
        level: confidence level, a proportion.

    Returns:
        The estimate. Where all groups agree exactly, the interval is a point.

    Raises:
        MeasurementError: if the arrays do not fit each other, are empty or not finite, a size is
            not above zero, or the level is no proportion.

    Example:
        Two right of four tokens, one of two, none of four:

        >>> estimate = ratio_mean([2, 1, 0], [4, 2, 4])
        >>> round(estimate.value, 3), round(estimate.low, 3), round(estimate.high, 3)
        (0.3, -0.96, 1.56)
    """
    y = np.asarray(totals, dtype=np.float64)
    m = np.ones_like(y) if sizes is None else np.asarray(sizes, dtype=np.float64)
    if y.ndim != 1 or y.shape != m.shape or not y.size:
        raise MeasurementError(
            f"The totals have shape {y.shape} and the sizes {m.shape}; expected two "
            "one-dimensional arrays of equal length, with at least one group."
        )
    if not (np.isfinite(y).all() and np.isfinite(m).all() and m.min() > 0):
        raise MeasurementError(
            "A total is not finite or a size not above zero; leave out groups in which nothing was "
            "measured."
        )
    check_level(level)
    n, whole = y.size, float(m.sum())
    value = float(y.sum()) / whole
    if n == 1:
        return RatioMean(value, math.nan, math.nan, math.nan)
    residuals = (y - value * m) / (1 - m / whole)
    error = math.sqrt((n - 1) / n * float(np.sum(residuals**2))) / whole
    # Where all groups agree, only rounding is left of the residuals.
    if error <= 1e-12 * max(abs(value), float(np.abs(y).max()) / whole):
        return RatioMean(value, value, value, 1.0 if value == 0 else 0.0)
    freedom = max(1.0, float(np.sum(m**2)) ** 2 / float(np.sum(m**4)) - 1)
    low, high, p_value = student_interval(value, error, freedom, level)
    return RatioMean(value, float(low), float(high), float(p_value))
