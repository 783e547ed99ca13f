"""A crossed mean in units of what the examples allow: the normalised drop of random trials."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.crossed import crossed_mean
from ensemble_view.statistics.paired import NormalisedDrop
from ensemble_view.statistics.ratios import ratio_mean

__all__ = ["crossed_ratio"]

_MOST_DOUBLINGS = 40
_TOLERANCE = 1e-9


def crossed_ratio(
    table: npt.ArrayLike, units: npt.ArrayLike, level: float = 0.95, *, trials_fixed: bool = False
) -> NormalisedDrop:
    """Estimate the mean of crossed trials and examples over a mean of the same examples.

    Fieller's interval (1954, Journal of the Royal Statistical Society B 16:175-185): all ratios R
    for which the interval of the crossed mean (:func:`~ensemble_view.statistics.crossed.
    crossed_mean`) of ``table - R units`` holds zero. So the uncertainty of the denominator counts,
    and that both are of the same examples.

    Args:
        table: numerator of every trial on every example, shape ``[trials, examples]``.
        units: denominator of every example, shape ``[examples]``.
        level: confidence level, a proportion.
        trials_fixed: whether the trials are all there are.

    Returns:
        Estimate and limits; nan where the interval of the mean unit touches zero, limits nan where
        nothing was sampled twice, infinite where the data set no bound.

    Raises:
        MeasurementError: if the shapes do not fit each other.

    Example:
        >>> found = crossed_ratio([[1, 0, 0, 1], [1, 0, 1, 0]], [1.0, 0.8, 1.0, 0.9])
        >>> round(found.value, 3)
        0.541
    """
    y, d = np.asarray(table, dtype=np.float64), np.asarray(units, dtype=np.float64)
    if y.ndim != 2 or d.shape != y.shape[1:]:
        raise MeasurementError(
            f"The table has shape {y.shape} and the units {d.shape}; expected one unit per example "
            "of a table [trials, examples]."
        )
    if not ratio_mean(d, level=level).low > 0:
        return NormalisedDrop(math.nan, math.nan, math.nan)
    estimate = float(y.mean()) / float(d.mean())

    def upper(ratio: float) -> float:
        return crossed_mean(y - ratio * d, level, trials_fixed=trials_fixed).high

    def lower(ratio: float) -> float:
        return -crossed_mean(y - ratio * d, level, trials_fixed=trials_fixed).low

    if math.isnan(upper(estimate)):
        return NormalisedDrop(estimate, math.nan, math.nan)
    step = max(upper(estimate) / float(d.mean()), _TOLERANCE)
    return NormalisedDrop(estimate, _root(lower, estimate, -step), _root(upper, estimate, step))


def _root(excess: Callable[[float], float], inside: float, step: float) -> float:
    """Where an excess that is positive inside becomes negative, beyond it in a direction."""
    if excess(inside) <= _TOLERANCE:
        return inside
    for doubling in range(_MOST_DOUBLINGS):
        outside = inside + step * 2**doubling
        if excess(outside) <= 0:
            return float(brentq(excess, inside, outside, xtol=_TOLERANCE))
    return math.copysign(math.inf, step)
