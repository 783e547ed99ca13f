"""Coverage of the paired intervals, by exact enumeration of the discordant counts."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from scipy import stats

from ensemble_view.statistics.contrasts import contrast_score
from ensemble_view.statistics.paired import accuracy_interval, tango_interval

Z = stats.norm.ppf(0.975)


def ratio_contrast(ratio: float, chance: float) -> tuple[float, ...]:
    before, after = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])
    return tuple(before - after - ratio * (before - chance))


@cache
def cached_tango(lost: int, gained: int, n: int) -> tuple[float, float]:
    interval = tango_interval(lost, gained, n)
    return interval.low, interval.high


def discordant_tables(p_lost: float, p_gained: float, n: int) -> list[tuple[int, int, float]]:
    """All (lost, gained, probability) but for a mass below 1e-6."""
    lost_law = stats.binom(n, p_lost)
    tables = []
    for lost in range(int(lost_law.ppf(2e-7)), int(lost_law.isf(2e-7)) + 1):
        law = stats.binom(n - lost, p_gained / (1 - p_lost))
        gained = (
            np.arange(int(law.ppf(2e-7)), int(law.isf(2e-7)) + 1) if p_gained else np.array([0])
        )
        weights = lost_law.pmf(lost) * law.pmf(gained)
        tables += [(lost, int(g), float(w)) for g, w in zip(gained, weights, strict=True)]
    return tables


def tango_coverage(p_lost: float, p_gained: float, n: int) -> float:
    covered = total = 0.0
    for lost, gained, weight in discordant_tables(p_lost, p_gained, n):
        low, high = cached_tango(lost, gained, n)
        covered += weight * (low - 1e-12 <= p_lost - p_gained <= high + 1e-12)
        total += weight
    return covered / total


def normalised_coverage(
    before: float, p_lost: float, p_gained: float, chance: float, n: int
) -> float:
    """Coverage with the concordant cells at 15 quantiles of their conditional distribution."""
    ratio = (p_lost - p_gained) / (before - chance)
    contrast = ratio_contrast(ratio, chance)
    levels = (np.arange(15) + 0.5) / 15
    p_both = (before - p_lost) / (1 - p_lost - p_gained)
    covered = total = 0.0
    for lost, gained, weight in discordant_tables(p_lost, p_gained, n):
        if weight < 1e-6:
            continue
        rest = n - lost - gained
        for both in stats.binom.ppf(levels, rest, p_both).astype(int):
            table = (int(both), lost, gained, rest - int(both))
            defined = accuracy_interval(table[0] + lost, n).low > chance
            accepted = contrast_score(table, contrast) <= Z**2 * (1 + 1e-9)
            covered += weight / 15 * (defined and accepted)
        total += weight
    return covered / total


# Expected discordant examples and the share of them that is gained. The last six lie on the ridge
# where Tango's interval is weakest, found on a grid of 2,000 points for each n.
FEW = [*itertools.product((0.3, 1, 2, 3, 8), (0, 0.1, 0.25, 0.5)), (5, 0.3), (6, 0.5), (9, 0.4)]
RIDGE = [(4.25, 0.025), (4.5, 0.05), (5, 0.1), (5.75, 0.15), (6.75, 0.15), (7.25, 0.175)]
MANY = [*itertools.product((10, 13, 21, 39), (0, 0.05, 0.15, 0.35, 0.5))]


def rates(expected: float, share: float, n: int) -> tuple[float, float]:
    return expected * (1 - share) / n, expected * share / n


@pytest.mark.parametrize("n", [200, 1000, 10_000])
class TestCoverageOfTango:
    def test_few_discordant_examples(self, n: int) -> None:
        coverage = {point: tango_coverage(*rates(*point, n), n) for point in FEW}
        assert min(coverage.values()) >= 0.935, coverage

    def test_ridge_of_few_examples_that_go_one_way(self, n: int) -> None:
        coverage = {point: tango_coverage(*rates(*point, n), n) for point in RIDGE}
        # Short of 93.5 %: the method's own limit, stated in the docstring.
        assert 0.928 <= min(coverage.values()) < 0.935, coverage

    def test_ten_discordant_examples_or_more(self, n: int) -> None:
        coverage = {point: tango_coverage(*rates(*point, n), n) for point in MANY}
        two_way = [value for (_, share), value in coverage.items() if share > 0]
        assert min(two_way) >= 0.94, coverage
        assert max(two_way) <= 0.965, coverage
        # Where nothing can be gained, the counts are so few-valued that coverage jumps more.
        assert min(coverage.values()) >= 0.935, coverage
        assert max(coverage.values()) <= 0.97, coverage


NETS = [(0.97, 0.1), (0.83, 0.1), (0.7, 0.5)]


@pytest.mark.parametrize(("before", "chance"), NETS)
class TestCoverageOfTheNormalisedDrop:
    def test_few_discordant_examples(self, before: float, chance: float) -> None:
        points = [(1, 0.1), (3, 0), (3, 0.5), (5, 0.3), (7, 0), (7, 0.4)]
        coverage = {p: normalised_coverage(before, *rates(*p, 797), chance, 797) for p in points}
        assert min(coverage.values()) >= 0.935, coverage

    def test_ridge_of_few_examples_that_go_one_way(self, before: float, chance: float) -> None:
        points = [(4.5, 0.05), (5, 0.1), (6.75, 0.15)]
        coverage = {p: normalised_coverage(before, *rates(*p, 797), chance, 797) for p in points}
        assert min(coverage.values()) >= 0.928, coverage

    def test_ten_discordant_examples_or_more(self, before: float, chance: float) -> None:
        points = [(10, 0.1), (10, 0.35), (20, 0.05), (20, 0.3), (30, 0.15)]
        coverage = {p: normalised_coverage(before, *rates(*p, 797), chance, 797) for p in points}
        assert min(coverage.values()) >= 0.94, coverage
        assert max(coverage.values()) <= 0.965, coverage
