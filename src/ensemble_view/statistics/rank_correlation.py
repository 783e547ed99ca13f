"""Rank correlations: error against dose, and how much of an order is left after reordering."""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit
from scipy.stats import rankdata

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.student import check_level

__all__ = ["RankCorrelation", "discordant_pairs", "kendall_tau", "spearman"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's correlation with its interval.

    Attributes:
        value: the correlation; nan if a variable is constant.
        low: lower limit; nan for fewer than four trials or a constant variable.
        high: upper limit; nan likewise.
        n: number of trials.
    """

    value: float
    low: float
    high: float
    n: int


def spearman(x: npt.ArrayLike, y: npt.ArrayLike, level: float = 0.95) -> RankCorrelation:
    """Estimate Spearman's correlation of two values per trial, with an interval.

    The correlation of midranks. Its interval is symmetric on Fisher's scale ``atanh(rho)``, with
    t of n - 2 degrees of freedom and the larger of two standard errors: that of Bonett and Wright
    (2000, Psychometrika 65:23-28), ``sqrt((1 + rho^2 / 2) / (n - 3))``, and the jackknife's (Tukey
    1958, Annals of Mathematical Statistics 29:614), which leaves each trial out. The former alone
    falls short where the error saturates, the latter where x has few values that never overlap
    in y. By simulation (``tests/test_rank_correlation.py``) a 95 % interval covers at least 93.5 %
    from 20 trials on, and up to 100 % where the doses are balanced and the relation is steep. At a
    correlation of ±1 the scale is infinite: all correlations are held half the smallest
    possible change away from it, which bounds the inner limit; the outer one is then ±1.

    Args:
        x: the dose, such as the number of deleted blocks or Kendall's tau, shape ``[trials]``;
            ties are expected.
        y: the response, same shape.
        level: confidence level, a proportion.

    Returns:
        Estimate and limits.

    Raises:
        MeasurementError: if the arrays do not fit each other, are empty or not finite, or the level
            is no proportion.

    Example:
        >>> found = spearman([1, 1, 2, 2, 3, 3], [0.1, 0.3, 0.2, 0.5, 0.4, 0.9])
        >>> round(found.value, 3)
        0.717
    """
    check_level(level)
    dose, response = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if dose.ndim != 1 or dose.shape != response.shape or not dose.size:
        raise MeasurementError(
            f"The two variables have shapes {dose.shape} and {response.shape}; expected one value "
            "of each per trial, at least one trial."
        )
    if not (np.isfinite(dose).all() and np.isfinite(response).all()):
        raise MeasurementError(
            "A value is not finite; leave out the trials in which nothing was measured."
        )
    n = dose.size
    rank_x, rank_y = rankdata(dose), rankdata(response)
    value = _correlation(rank_x, rank_y)
    if n < 4 or math.isnan(value):
        return RankCorrelation(value, math.nan, math.nan, n)
    # A swap of two neighbours changes the correlation by 12 / (n (n^2 - 1)).
    most = 1 - 6 / (n * (n**2 - 1))
    left_out = np.arctanh(np.clip(_leaving_each_out(rank_x, rank_y), -most, most))
    jackknife = math.sqrt((n - 1) * float(np.var(left_out)))
    error = max(math.sqrt((1 + value**2 / 2) / (n - 3)), jackknife)
    centre, half = math.atanh(min(max(value, -most), most)), float(stdtrit(n - 2, (1 + level) / 2))
    low, high = math.tanh(centre - half * error), math.tanh(centre + half * error)
    return RankCorrelation(value, -1.0 if value < -most else low, 1.0 if value > most else high, n)


def discordant_pairs(order: Sequence[int]) -> int:
    """Count the pairs that an order turns round: Kendall's distance from the identity.

    Args:
        order: a permutation of 0 to n - 1; ``order[i]`` is what comes at place i.

    Returns:
        The number of pairs of places i < j with ``order[i] > order[j]``, exact.

    Raises:
        MeasurementError: if it is no permutation.

    Example:
        >>> discordant_pairs([2, 0, 1])
        2
    """
    if sorted(order) != list(range(len(order))):
        raise MeasurementError(
            f"The order {list(order)} is no permutation; expected each of 0 to {len(order) - 1} "
            "once."
        )
    before: list[int] = []
    count = 0
    for place, block in enumerate(order):
        count += place - bisect.bisect(before, block)
        bisect.insort(before, block)
    return count


def kendall_tau(order: Sequence[int]) -> float:
    """Kendall's rank correlation of an order with the original one.

    ``1 - 4 D / (n (n - 1))`` with D discordant pairs (Kendall 1938, Biometrika 30:81-93), over all
    blocks, also those that no swap can reach: the measure of figure 5(b) of Veit, Wilber and
    Belongie (2016).

    Args:
        order: a permutation of 0 to n - 1, n at least 2.

    Returns:
        1 for the original order, -1 for the reverse.

    Raises:
        MeasurementError: if it is no permutation of at least two.

    Example:
        >>> kendall_tau([0, 2, 1, 3])
        0.6666666666666667
    """
    pairs = math.comb(len(order), 2)
    if not pairs:
        raise MeasurementError(
            f"Kendall's tau of an order of {len(order)} was asked for; expected at least two "
            "blocks."
        )
    return 1 - 2 * discordant_pairs(order) / pairs


def _correlation(rank_x: Floats, rank_y: Floats) -> float:
    x, y = rank_x - rank_x.mean(), rank_y - rank_y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return min(1.0, max(-1.0, float(x @ y) / scale)) if scale > 0 else math.nan


def _leaving_each_out(rank_x: Floats, rank_y: Floats) -> Floats:
    """The correlation without each trial in turn; where it is constant then, as if unrelated."""
    found = np.zeros(rank_x.size)
    for left in range(rank_x.size):
        # Whoever ranked above the trial comes down by one, whoever was level with it by a half.
        without = [
            np.delete(rank - (np.sign(rank - rank[left]) + 1) / 2, left)
            for rank in (rank_x, rank_y)
        ]
        correlation = _correlation(without[0], without[1])
        found[left] = 0.0 if math.isnan(correlation) else correlation
    return found
