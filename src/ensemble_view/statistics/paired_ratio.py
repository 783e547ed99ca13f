"""The ratio of two means over the same examples, with an interval that knows both errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from ensemble_view.errors import MeasurementError

__all__ = ["PairedRatio", "paired_ratio"]


@dataclass(frozen=True)
class PairedRatio:
    """An estimate with its limits; all nan where the denominator cannot be told from zero."""

    value: float
    low: float
    high: float


def paired_ratio(
    numerators: npt.ArrayLike,
    denominators: npt.ArrayLike,
    level: float = 0.95,
    sizes: npt.ArrayLike | None = None,
) -> PairedRatio:
    """Estimate the ratio of two means of paired values with Fieller's interval.

    The values r for which a t test of ``mean(a - r b) = 0`` does not reject: the roots of
    ``(A - r B)² = t² (v_aa - 2 r v_ab + r² v_bb) / n`` (Fieller 1954, Journal of the Royal
    Statistical Society B 16:175-185). They bound an interval exactly where a t test tells B from
    zero; elsewhere the ratio has no meaning and all three values are nan. For sums over groups of
    unequal sizes, A, B, variances and degrees of freedom are those of
    :func:`ensemble_view.statistics.ratios.ratio_mean`.

    Args:
        numerators: a, shape ``[examples]``.
        denominators: b, of the same examples.
        level: confidence level, a proportion.
        sizes: of the groups, if a and b are sums over groups; by default one each.

    Returns:
        The estimate and its limits.

    Raises:
        MeasurementError: if the arrays do not fit each other or the level is no proportion.

    Example:
        >>> ratio = paired_ratio([1.0, 3.0, 2.0, 4.0], [2.0, 5.0, 5.0, 8.0])
        >>> round(ratio.value, 3), round(ratio.low, 3), round(ratio.high, 3)
        (0.5, 0.293, 0.707)
    """
    a, b = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    m = np.ones_like(a) if sizes is None else np.asarray(sizes, np.float64)
    if not a.shape == b.shape == m.shape or a.ndim != 1 or not a.size:
        raise MeasurementError(
            f"The numerators have shape {a.shape} and the denominators {b.shape}; expected two "
            "one-dimensional arrays of equal length; measure both on the same examples."
        )
    if not 0 < level < 1:
        raise MeasurementError(
            f"The confidence level is {level}; expected a proportion between 0 and 1, such as 0.95."
        )
    n = a.size
    undefined = PairedRatio(math.nan, math.nan, math.nan)
    if n < 2:
        return undefined
    whole = float(m.sum())
    freedom = max(1.0, float(np.sum(m**2)) ** 2 / float(np.sum(m**4)) - 1)
    t2 = float(stdtrit(freedom, (1 + level) / 2)) ** 2
    mean_a, mean_b = float(a.sum()) / whole, float(b.sum()) / whole
    left = np.stack([a - mean_a * m, b - mean_b * m]) / (1 - m / whole)
    (v_aa, v_ab), (_, v_bb) = ((n - 1) / n * (left @ left.T) / whole**2).tolist()
    square = mean_b**2 - t2 * v_bb
    if square <= 0:
        return undefined
    linear = mean_a * mean_b - t2 * v_ab
    # Never below zero where the square is above it, but for rounding.
    root = math.sqrt(max(0.0, linear**2 - square * (mean_a**2 - t2 * v_aa)))
    return PairedRatio(mean_a / mean_b, (linear - root) / square, (linear + root) / square)
