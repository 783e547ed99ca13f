"""Limits of a mean of proportions, which lie in its range and leave room for what was not seen."""

from __future__ import annotations

import math

from scipy.special import ndtri, stdtrit

from ensemble_view.statistics.contrasts import last_accepted
from ensemble_view.statistics.student import check_level

__all__ = ["bounded_limits", "unseen"]


def bounded_limits(
    value: float,
    variance: float,
    freedom: float,
    examples: int,
    level: float = 0.95,
    *,
    lowest: float = 0.0,
) -> tuple[float, float]:
    """Give the limits of a mean over examples that lie between 0 and 1, or between -1 and 1.

    The values c with ``(c - value)^2 <= t^2 variance + z^2 max(0, w(c) - w(value)) / examples``,
    where ``w(c) = |c| (1 - |c|)`` is the least variance that an example has whose mean is c and
    whose values are 0 and 1 (or -1). Where one measurement of each example is averaged this is
    Wilson's interval (1927, Journal of the American Statistical Association 22:209-212) on the
    side of one half, and Student's, cut off at the range, on the other. Where all examples agree
    the variance is 0, and the limit is Wilson's at the number of examples, however often each was
    measured: a kind of example that is rare was perhaps not drawn.

    Args:
        value: the estimate.
        variance: of the estimate, without that of what was not seen.
        freedom: degrees of freedom of the variance.
        examples: how many were drawn.
        level: confidence level, a proportion.
        lowest: end of the range: 0 of a mean of proportions, -1 of a mean of their differences.

    Returns:
        The limits, within the range; nan where the variance is.

    Example:
        >>> low, high = bounded_limits(0.0, 0.0, 99, 100)
        >>> low, round(high, 4)
        (0.0, 0.037)
    """
    check_level(level)
    if math.isnan(variance):
        return math.nan, math.nan
    # Rounding must not keep a mean of ones from its end.
    value = min(max(round(value, 12), lowest), 1.0)
    known = float(stdtrit(freedom, (1 + level) / 2)) ** 2 * variance
    z2 = float(ndtri((1 + level) / 2)) ** 2

    def accepted(candidate: float) -> bool:
        return (candidate - value) ** 2 <= known + z2 * unseen(candidate, value, examples)

    # Halving comes close to an end of the range that is accepted, and no further.
    low = lowest if accepted(lowest) else last_accepted(accepted, value, lowest)
    return low, 1.0 if accepted(1.0) else last_accepted(accepted, value, 1.0)


def unseen(candidate: float, value: float, examples: int) -> float:
    """Say what variance a mean would have beyond that of its estimate.

    Args:
        candidate: a value of the mean, between -1 and 1.
        value: the estimate.
        examples: how many were drawn.

    Returns:
        The excess of the least variance, over the number of examples; at least 0.

    Example:
        >>> unseen(0.1, 0.0, 100)
        0.0009000000000000001
    """
    at, here = min(abs(candidate), 1.0), min(abs(value), 1.0)
    return max(0.0, at * (1 - at) - here * (1 - here)) / examples
