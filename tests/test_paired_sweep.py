"""The intervals of a lesion on every small table, on huge ones, and where chance is hit exactly."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ensemble_view.statistics.contrasts import contrast_accepted, contrast_score
from ensemble_view.statistics.paired import (
    PairedCounts,
    accuracy_interval,
    normalised_drop,
    tango_interval,
)

Floats = npt.NDArray[np.float64]

CHANCES = (0.0, 0.1, 1 / 3, 0.5)


def scores(tables: Floats, ratios: Floats, chances: Floats) -> Floats:
    """Score statistics of all tables at once, the multiplier found by halving in shares.

    q_j = p_j / (1 + m a_j), with m such that sum a_j q_j = 0, or the mass that is missing put on
    the lowest coefficient; the statistic is the square of the estimate over its variance.
    """
    n = tables.sum(axis=1)
    p = tables / n[:, None]
    t, c = ratios[:, None], chances[:, None]
    a = np.array([0.0, 1.0, -1.0, 0.0]) - t * (np.array([1.0, 1.0, 0.0, 0.0]) - c)
    estimate = np.sum(a * p, axis=1)
    a = a * np.where(estimate < 0, -1.0, 1.0)[:, None]
    lowest = a.min(axis=1)
    with np.errstate(all="ignore"):
        left, right = np.zeros(len(n)), -1 / lowest
        for _ in range(80):
            m = (left + right) / 2
            above = np.nansum(np.where(p > 0, a * p / (1 + m[:, None] * a), 0.0), axis=1) > 0
            left, right = np.where(above, m, left), np.where(above, right, m)
        q = np.where(p > 0, p / (1 + left[:, None] * a), 0.0)
        missing = np.clip(1 - q.sum(axis=1), 0, None)
        variance = np.sum(a**2 * q, axis=1) + lowest**2 * missing
        found = np.where(lowest < 0, n * estimate**2 / variance, np.inf)
    return np.where(estimate == 0, 0.0, found)


def test_the_smallest_table_that_falls_to_chance_exactly() -> None:
    found = normalised_drop(PairedCounts(both=2, lost=16, gained=0, neither=2), 0.1)
    assert found.value == pytest.approx(1, abs=1e-15)
    # Wilson's interval of the accuracy after, 2 of 20, has chance inside; so has this one 1.
    assert 0.7 < found.low < 1 < found.high < 1.2
    ends = np.array([found.low, found.high])
    tables = np.array([[2.0, 16, 0, 2]] * 2)
    assert scores(tables, ends, np.full(2, 0.1)) == pytest.approx([stats.chi2.isf(0.05, 1)] * 2)


def swept(n: int) -> list[tuple[PairedCounts, float]]:
    """All tables of n examples, with chances that are round and that a net hits exactly."""
    found = []
    for number, (both, lost, gained) in enumerate(itertools.product(range(n + 1), repeat=3)):
        if both + lost + gained <= n:
            counts = PairedCounts(both, lost, gained, n - both - lost - gained)
            kinds = (counts.after, CHANCES[number % len(CHANCES)], 1 - counts.before)
            # Of the many larger tables each is tried at one of them.
            chosen = kinds if n <= 14 else kinds[:1] if number % 2 else kinds[1:2]
            found += [(counts, chance) for chance in chosen]
    return found


@pytest.mark.parametrize("n", range(1, 31))
def test_every_table_has_limits_where_the_score_test_has_its_quantile(n: int) -> None:
    tables, limits, chances = [], [], []
    for counts, chance in swept(n):
        found = normalised_drop(counts, chance)
        if accuracy_interval(counts.both + counts.lost, n).low <= chance:
            assert math.isnan(found.value)
            continue
        assert math.isfinite(found.low)
        assert math.isfinite(found.high)
        assert found.low <= found.value <= found.high
        tables.append([counts.both, counts.lost, counts.gained, counts.neither])
        limits.append([found.low, found.high])
        chances.append(chance)
    if not tables:
        return
    cells, ends, given_chances = np.array(tables, float), np.array(limits), np.array(chances)
    critical = stats.chi2.isf(0.05, 1)
    width = ends[:, 1] - ends[:, 0]
    assert width.min() > 0
    for end, outward in ((ends[:, 0], -1), (ends[:, 1], 1)):
        step = outward * 1e-6 * width
        assert (scores(cells, end - step, given_chances) <= critical).all()
        assert (scores(cells, end + step, given_chances) >= critical * (1 - 1e-9)).all()


huge = st.integers(0, 2**51) | st.integers(0, 40)


@given(huge, huge, huge, huge, st.floats(0, 1), st.booleans(), st.sampled_from([0.95, 1e-9, 0.5]))
@settings(deadline=None, max_examples=300)
def test_huge_tables_and_exact_chances_have_finite_limits(
    both: int, lost: int, gained: int, neither: int, chance: float, exact: bool, level: float
) -> None:
    counts = PairedCounts(both, lost, gained, neither + 1)
    chance = counts.after if exact else chance
    found = normalised_drop(counts, chance, level)
    tango = tango_interval(counts.lost, counts.gained, counts.n, level)
    assert -1 <= tango.low <= counts.drop <= tango.high <= 1
    if not math.isnan(found.value):
        assert math.isfinite(found.low)
        assert math.isfinite(found.high)
        assert found.low <= found.value <= found.high


@given(st.tuples(*[st.integers(0, 60)] * 4), st.sampled_from([1e-300, 1e-12, 1 - 1e-12, 1 - 1e-16]))
@settings(deadline=None)
def test_extreme_levels_have_limits(table: tuple[int, int, int, int], level: float) -> None:
    counts = PairedCounts(table[0] + 1, *table[1:])
    wilson = accuracy_interval(counts.both, counts.n, level)
    tango = tango_interval(counts.lost, counts.gained, counts.n, level)
    assert 0 <= wilson.low <= counts.both / counts.n <= wilson.high <= 1
    assert -1 <= tango.low <= counts.drop <= tango.high <= 1
    found = normalised_drop(counts, 0.1, level)
    assert math.isnan(found.value) or found.low <= found.value <= found.high


@given(
    st.lists(st.integers(0, 50), min_size=2, max_size=5).filter(any),
    st.data(),
    st.floats(0, 30),
)
@settings(deadline=None)
def test_accepting_without_a_root_is_comparing_the_score(
    counts: list[int], data: st.DataObject, critical: float
) -> None:
    size = len(counts)
    contrast = data.draw(st.lists(st.floats(-2, 2), min_size=size, max_size=size))
    score = contrast_score(counts, contrast)
    if abs(score - critical) > 1e-6 * (1 + critical):
        assert contrast_accepted(counts, contrast, critical) == (score <= critical)


def test_counts_from_numpy_do_not_overflow() -> None:
    few = np.array([3, 5, 2, 4], dtype=np.int8) * np.int8(10)
    found = normalised_drop(PairedCounts(*few), 0.1)
    assert found == normalised_drop(PairedCounts(30, 50, 20, 40), 0.1)
    assert accuracy_interval(few[0], few[3]) == accuracy_interval(30, 40)
