"""The score test of one linear contrast of multinomial cells: pure arithmetic on counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from scipy.optimize import brentq

__all__ = ["contrast_accepted", "contrast_score", "last_accepted"]

_ROOT_TOLERANCE = 1e-13
# Halvings of an interval of floating-point numbers; 60 leave rounding of its wider end.
_HALVINGS = 60


def contrast_score(counts: Sequence[int], contrast: Sequence[float]) -> float:
    """Score statistic of the hypothesis that a linear contrast of cell probabilities is zero.

    ``(sum_j a_j n_j / n)^2 / (sum_j a_j^2 q_j / n)``, where q are the maximum-likelihood cell
    probabilities under ``sum_j a_j q_j = 0`` (Rao 1948, Proceedings of the Cambridge Philosophical
    Society 44:50-57). Asymptotically chi-squared with one degree of freedom.

    Args:
        counts: the number of observations n_j in each cell, at least one observation in all.
        contrast: the coefficients a_j, one for each cell.

    Returns:
        The statistic; infinity where no cell probabilities with a variance satisfy the hypothesis.

    Example:
        Sixteen heads and four tails, tested against a fair coin:

        >>> round(contrast_score((16, 4), (1, -1)), 9)
        7.2
    """
    # By Lagrange's method q_j = n_j / (n (1 + m a_j)), with m such that the contrast vanishes.
    # Multiplying by a_j (1 + m a_j) and summing shows that sum_j a_j^2 q_j is the estimate over m,
    # so that the statistic is n m times the estimate.
    shares, estimate, coefficients = _oriented(counts, contrast)
    if estimate == 0:
        return 0.0
    lowest = min(coefficients)
    if _impossible(coefficients):
        return math.inf
    # Coefficients that differ by rounding only would put two poles where there is one.
    coefficients = [lowest if math.isclose(a, lowest, rel_tol=1e-12) else a for a in coefficients]
    return sum(counts) * estimate * _multiplier(shares, coefficients, lowest)


def contrast_accepted(counts: Sequence[int], contrast: Sequence[float], critical: float) -> bool:
    """Say whether the score statistic of a contrast is at most a critical value.

    The statistic is ``n m`` times the estimate, where ``sum_j a_j n_j / (1 + m a_j) = 0`` and that
    sum falls as m grows. So the statistic is at most the critical value where the sum is not above
    zero at ``m = critical / (n |estimate|)``: one evaluation, and no root to be bracketed.

    Args:
        counts: as for :func:`contrast_score`.
        contrast: as for :func:`contrast_score`.
        critical: of the statistic, at least 0.

    Returns:
        What ``contrast_score(counts, contrast) <= critical`` says, but for rounding.

    Example:
        >>> contrast_accepted((16, 4), (1, -1), 7.3), contrast_accepted((16, 4), (1, -1), 7.1)
        (True, False)
    """
    shares, estimate, coefficients = _oriented(counts, contrast)
    if estimate == 0:
        return True
    if _impossible(coefficients):
        return False
    multiplier = critical / sum(counts) / estimate
    # Beyond the pole of the lowest coefficient no cell is left to carry the contrast.
    if 1 + multiplier * min(coefficients) <= 0:
        return True
    terms = zip(coefficients, shares, strict=True)
    return sum(a * share / (1 + multiplier * a) for a, share in terms if share > 0) <= 0


def last_accepted(accepted: Callable[[float], bool], inside: float, outside: float) -> float:
    """Halve the way from an accepted to a rejected value down to rounding.

    Args:
        accepted: whether a test accepts a value; true up to some point on the way, then false.
        inside: a value that is accepted.
        outside: a value that is rejected.

    Returns:
        The last value on the way that is accepted; ``inside`` where none beyond it is.

    Example:
        >>> round(last_accepted(lambda x: x * x < 2, 0.0, 4.0), 12)
        1.414213562373
    """
    for _ in range(_HALVINGS):
        middle = inside + (outside - inside) / 2
        if middle in (inside, outside):
            break
        if accepted(middle):
            inside = middle
        else:
            outside = middle
    return inside


def _oriented(
    counts: Sequence[int], contrast: Sequence[float]
) -> tuple[list[float], float, list[float]]:
    """The cells' shares, and estimate and coefficients with the sign that makes m positive."""
    n = sum(counts)
    shares = [count / n for count in counts]
    estimate = math.fsum(a * share for a, share in zip(contrast, shares, strict=True))
    sign = math.copysign(1.0, estimate)
    return shares, abs(estimate), [sign * a for a in contrast]


def _impossible(coefficients: Sequence[float]) -> bool:
    """Whether no cell probabilities make a contrast zero whose estimate is above zero."""
    return min(coefficients) >= -_ROOT_TOLERANCE * max(coefficients)


def _multiplier(shares: list[float], coefficients: list[float], lowest: float) -> float:
    """The m with ``sum_j p_j a_j / (1 + m a_j) = 0``, or the largest that keeps cells >= 0."""
    largest = -1.0 / lowest
    occupied = [(a, share) for a, share in zip(coefficients, shares, strict=True) if share > 0]

    def constraint(m: float) -> float:
        return sum(a * share / (1 + m * a) for a, share in occupied)

    def without_pole(m: float) -> float:
        factor = 1 + m * lowest
        return sum(
            a * share * (1.0 if a == lowest else factor / (1 + m * a)) for a, share in occupied
        )

    pole = any(a == lowest for a, _ in occupied)
    # An estimate that only rounding keeps from zero may have either sign when summed again.
    if (without_pole(0.0) if pole else constraint(0.0)) <= 0:
        return 0.0
    if pole:
        return float(brentq(without_pole, 0.0, largest, xtol=_ROOT_TOLERANCE))
    # The cell with the lowest coefficient was never seen: it may take the mass that is missing.
    if constraint(largest) >= 0:
        return largest
    return float(brentq(constraint, 0.0, largest, xtol=_ROOT_TOLERANCE))
