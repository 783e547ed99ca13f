"""Confidence limits of a lesion that hold for all lesions of a run at once.

Of m lesions the interval of each has level ``1 - alpha / m`` (Bonferroni), so that all m cover
their true values with probability at least ``1 - alpha``: the same error rate that Holm's method
keeps for the p-values. So far out in the tails a plain score interval, such as Tango's, misses at
one end up to three times as often as it should where few answers change, because counts are skewed
and discrete. The limits here invert the score test with both corrected (measured by
``analyses/simultaneous.py``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy.optimize import brentq
from scipy.special import ndtri

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.paired import Interval, NormalisedDrop, PairedCounts
from ensemble_view.statistics.paired_ratio import PairedRatio
from ensemble_view.statistics.student import check_level

__all__ = ["adjusted_level", "drop_limits", "error_ratio", "share_limits"]

_ROOT_TOLERANCE = 1e-13
_FARTHEST = 1e9
_INWARD = 0.7
_STEPS = 60
Contrast = tuple[float, float, float, float]


def adjusted_level(level: float, tests: int) -> float:
    """Give the level of one interval such that several hold at once.

    ``1 - (1 - level) / tests`` (Bonferroni; Dunn 1961, Journal of the American Statistical
    Association 56:52-64).

    Args:
        level: that all intervals together shall have, a proportion.
        tests: how many there are; 0 counts as 1.

    Returns:
        The level of each, a proportion.

    Raises:
        MeasurementError: if the level is no proportion.

    Example:
        >>> round(adjusted_level(0.95, 10), 6)
        0.995
    """
    check_level(level)
    return 1 - (1 - level) / max(1, tests)


def drop_limits(counts: PairedCounts, level: float = 0.95) -> Interval:
    r"""Limits of the paired drop in accuracy that hold in the far tails.

    The values d with ``|Z(d)| <= z``, where ``Z = (T +- 1/(2n)) / s - g (z^2 - 1) / 6`` with
    ``T = drop - d``: the score statistic with a continuity correction and the first term of Cornish
    and Fisher's expansion (Gart and Nam 1988, Biometrics 44:323-338, for independent proportions).
    Variance ``s^2`` and skewness ``g`` of T are those at the maximum-likelihood cell probabilities
    under ``drop = d``.

    Args:
        counts: the paired table.
        level: confidence level, a proportion.

    Returns:
        The interval, within [-1, 1]; positive values mean accuracy lost.

    Raises:
        MeasurementError: if the level is no proportion.

    Example:
        >>> limits = drop_limits(PairedCounts(both=90, lost=6, gained=1, neither=3), 0.999)
        >>> round(limits.low, 3), round(limits.high, 3)
        (-0.063, 0.175)
    """

    def contrast(drop: float) -> Contrast:
        return (-drop, 1 - drop, -1 - drop, -drop)

    test = _Test(counts, contrast, level)
    return Interval(test.lower(counts.drop, -1.0), test.upper(counts.drop, 1.0))


def share_limits(counts: PairedCounts, chance: float, level: float = 0.95) -> NormalisedDrop:
    r"""Limits of the normalised drop that hold in the far tails.

    As :func:`drop_limits`, of ``T = drop - t (before - chance)``, after Fieller's method (1954,
    Journal of the Royal Statistical Society B 16:175-185).

    Args:
        counts: the paired table.
        chance: accuracy of the best constant guess, a proportion.
        level: confidence level, a proportion.

    Returns:
        Estimate and limits; all nan where the full net's accuracy cannot be told from chance.

    Raises:
        MeasurementError: if chance or the level is no proportion.

    Example:
        >>> share = share_limits(PairedCounts(both=850, lost=60, gained=10, neither=80), 0.1, 0.999)
        >>> round(share.value, 3), round(share.low, 3), round(share.high, 3)
        (0.062, 0.029, 0.099)
    """
    if not 0 <= chance <= 1:
        raise MeasurementError(
            f"Chance is {chance}; expected a proportion in [0, 1]; give the largest class share."
        )

    def contrast(share: float) -> Contrast:
        both = share * (chance - 1)
        return (both, 1 + both, share * chance - 1, share * chance)

    test = _Test(counts, contrast, level)
    # As t grows, the tested statement becomes ``before = chance``.
    if counts.before <= chance or not test.too_high(_FARTHEST):
        return NormalisedDrop(math.nan, math.nan, math.nan)
    estimate = counts.drop / (counts.before - chance)
    far = max(1.0, abs(estimate))
    low, high = estimate - far, estimate + far
    while not test.too_low(low) and low > -_FARTHEST:
        low = estimate - 2 * (estimate - low)
    while not test.too_high(high) and high < _FARTHEST:
        high = estimate + 2 * (high - estimate)
    return NormalisedDrop(estimate, test.lower(estimate, low), test.upper(estimate, high))


def error_ratio(counts: PairedCounts, level: float = 0.95) -> PairedRatio:
    r"""The error after the lesion over the error before it, with limits.

    As :func:`drop_limits`, of ``T = error after - r (error before)``: the score interval for a
    ratio of paired proportions (Nam and Blackwelder 2002, Statistics in Medicine 21:689-699) with
    the corrections of the tails. It needs no value in place of zero: without an error before,
    nothing bounds the ratio from above; without one after, nothing from below.

    Args:
        counts: the paired table.
        level: confidence level, a proportion.

    Returns:
        Estimate and limits. The estimate is infinite where only the full net makes no error, nan
        where neither does.

    Raises:
        MeasurementError: if the level is no proportion.

    Example:
        >>> ratio = error_ratio(PairedCounts(both=880, lost=20, gained=10, neither=90))
        >>> round(ratio.value, 3), round(ratio.low, 3), round(ratio.high, 3)
        (1.1, 0.988, 1.234)
    """

    def contrast(ratio: float) -> Contrast:
        return (0.0, 1.0, -ratio, 1 - ratio)

    test = _Test(counts, contrast, level)
    before, after = counts.gained + counts.neither, counts.lost + counts.neither
    if before == 0:
        far = 1.0
        while test.too_low(far) and far < _FARTHEST:
            far *= 2
        low = test.lower(far, 0.0) if after else 0.0
        return PairedRatio(math.inf if after else math.nan, low, math.inf)
    value = after / before
    high = value + 1
    while not test.too_high(high) and high < _FARTHEST:
        high *= 2
    return PairedRatio(value, test.lower(value, 0.0) if after else 0.0, test.upper(value, high))


class _Test:
    """The corrected score test of ``contrast(value) = 0``, whose estimate falls with the value."""

    def __init__(
        self, counts: PairedCounts, contrast: Callable[[float], Contrast], level: float
    ) -> None:
        check_level(level)
        self._n = counts.n
        cells = (counts.both, counts.lost, counts.gained, counts.neither)
        self._shares = tuple(cell / counts.n for cell in cells)
        self._contrast = contrast
        self._z = float(ndtri((1 + level) / 2))

    def too_high(self, value: float) -> bool:
        """Whether the value is rejected because the estimate is so much lower."""
        return self._above(value) < 0

    def too_low(self, value: float) -> bool:
        """Whether the value is rejected because the estimate is so much higher."""
        return self._below(value) > 0

    def upper(self, estimate: float, far: float) -> float:
        """The largest value that is not rejected, at least the estimate and at most ``far``."""
        return self._limit(self._above, estimate, far)

    def lower(self, estimate: float, far: float) -> float:
        """The smallest value that is not rejected, at most the estimate and at least ``far``."""
        return self._limit(lambda value: -self._below(value), estimate, far)

    def _above(self, value: float) -> float:
        return self._score(value, 0.5) + self._z

    def _below(self, value: float) -> float:
        return self._score(value, -0.5) - self._z

    def _score(self, value: float, continuity: float) -> float:
        contrast = self._contrast(value)
        estimate = sum(a * share for a, share in zip(contrast, self._shares, strict=True))
        cells = _restricted(self._shares, contrast, estimate)
        variance = sum(a**2 * q for a, q in zip(contrast, cells, strict=True)) / self._n
        if variance <= 0:
            return math.copysign(math.inf, estimate) if estimate else 0.0
        third = sum(a**3 * q for a, q in zip(contrast, cells, strict=True)) / self._n**2
        deviation = math.sqrt(variance)
        skewness = third / (variance * deviation)
        return (estimate + continuity / self._n) / deviation - skewness * (self._z**2 - 1) / 6

    @staticmethod
    def _limit(accepted: Callable[[float], float], estimate: float, far: float) -> float:
        # Near the estimate the skewness of few counts can reject what lies between values that are
        # not rejected; the limit is the outermost one, found from outside.
        if accepted(far) >= 0:
            return far
        outer = far
        for step in range(1, _STEPS):
            inner = estimate + (far - estimate) * _INWARD**step
            if accepted(inner) >= 0:
                return _root(accepted, inner, outer)
            outer = inner
        return estimate


def _root(function: Callable[[float], float], inner: float, outer: float) -> float:
    # The root finder divides by differences, so that infinity must become merely large.
    def bounded(value: float) -> float:
        return max(-_FARTHEST, min(_FARTHEST, function(value)))

    return float(brentq(bounded, inner, outer, xtol=_ROOT_TOLERANCE, rtol=1e-12))


def _restricted(
    shares: Sequence[float], contrast: Sequence[float], estimate: float
) -> Sequence[float]:
    """Maximum-likelihood probabilities of the cells for which the contrast vanishes.

    ``q_j = p_j / (1 + m a_j)``, with m such that ``sum_j a_j q_j = 0`` (Lagrange); a cell that was
    never seen takes what is missing if no such m leaves all cells at or above zero.

    Returns:
        The probabilities; all zero where none with a variance satisfy the hypothesis.
    """
    if estimate == 0:
        return shares
    sign = math.copysign(1.0, estimate)
    coefficients = [sign * a for a in contrast]
    lowest = min(coefficients)
    if lowest >= 0:
        return [0.0] * len(shares)
    largest = -1.0 / lowest
    at = coefficients.index(lowest)
    pairs = [(a, p) for a, p in zip(coefficients, shares, strict=True) if p > 0 and a != lowest]
    seen = sum(p for a, p in zip(coefficients, shares, strict=True) if a == lowest)

    def constraint(m: float) -> float:
        # Multiplied by the factor that has its pole at the end of the range.
        factor = 1 + m * lowest
        return seen * lowest + factor * sum(a * p / (1 + m * a) for a, p in pairs)

    if seen == 0:
        rest = sum(a * p / (1 + largest * a) for a, p in pairs)
        if rest >= 0:
            cells = [p / (1 + largest * a) if p else 0.0
                     for a, p in zip(coefficients, shares, strict=True)]  # fmt: skip
            cells[at] = 1 - sum(cells)
            return cells
        m = float(brentq(lambda m: sum(a * p / (1 + m * a) for a, p in pairs), 0.0, largest))
    else:
        # Positive at zero, where it is the estimate, and negative at the end.
        m = float(brentq(constraint, 0.0, largest, xtol=_ROOT_TOLERANCE))
    return [p / (1 + m * a) if p else 0.0 for a, p in zip(coefficients, shares, strict=True)]
