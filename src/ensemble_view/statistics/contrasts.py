"""The score test of one linear contrast of multinomial cells: pure arithmetic on counts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.optimize import brentq

__all__ = ["contrast_score"]

_ROOT_TOLERANCE = 1e-13


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
    n = sum(counts)
    shares = [count / n for count in counts]
    estimate = sum(a * share for a, share in zip(contrast, shares, strict=True))
    if estimate == 0:
        return 0.0
    # The statistic is even in the contrast: with a positive estimate, m is positive too.
    coefficients = [math.copysign(1.0, estimate) * a for a in contrast]
    lowest = min(coefficients)
    if lowest >= -_ROOT_TOLERANCE * max(coefficients):
        return math.inf
    # Coefficients that differ by rounding only would put two poles where there is one.
    coefficients = [lowest if math.isclose(a, lowest, rel_tol=1e-12) else a for a in coefficients]
    return n * abs(estimate) * _multiplier(shares, coefficients, lowest)


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

    if any(a == lowest for a, _ in occupied):
        return float(brentq(without_pole, 0.0, largest, xtol=_ROOT_TOLERANCE))
    # The cell with the lowest coefficient was never seen: it may take the mass that is missing.
    if constraint(largest) >= 0:
        return largest
    return float(brentq(constraint, 0.0, largest, xtol=_ROOT_TOLERANCE))
