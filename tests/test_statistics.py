"""Paired statistics against published tables, slow oracles, and simulation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.contrasts import contrast_score
from ensemble_view.statistics.paired import (
    PairedCounts,
    accuracy_interval,
    holm,
    mcnemar_test,
    normalised_drop,
    paired_counts,
    tango_interval,
)

Z = stats.norm.ppf(0.975)

# Sources of the 95 % intervals, lost - gained over n, as (lost, gained, n, low, high, decimals).
PUBLISHED = [
    # Tango 1998, cross-over clinical trial; also in the tests of the R package ratesci 1.0.
    (9, 3, 32, -0.027, 0.390, 3),
    # Agresti and Min 2005, Statistics in Medicine 24:729-740; also in the tests of ratesci.
    (16, 8, 86, -0.020, 0.207, 3),
    # Fagerland, Lydersen and Laake 2014, Statistics in Medicine 33:2850-2875 (Bentur et al. 2009).
    (1, 7, 21, -0.517, -0.026, 3),
    # Tang, Ling, Ling and Tian 2010, Statistics in Medicine 29:46-62; also in ratesci's tests.
    (3, 1, 14, -0.1670, 0.4327, 4),
    # Chang et al. 2024; in the tests of ratesci.
    (25, 2, 102, 0.139, 0.321, 3),
    # Cavo et al. 2012 in Fagerland, Lydersen and Laake 2017, Statistical Analysis of Contingency
    # Tables, chapter 8; in the tests of the R package contingencytables.
    (6, 16, 161, -0.1240, -0.0054, 4),
]


@pytest.mark.parametrize(("lost", "gained", "n", "low", "high", "decimals"), PUBLISHED)
def test_tango_equals_published_intervals(
    lost: int, gained: int, n: int, low: float, high: float, decimals: int
) -> None:
    interval = tango_interval(lost, gained, n)
    assert (round(interval.low, decimals), round(interval.high, decimals)) == (low, high)


def test_tango_equals_published_interval_at_90_percent() -> None:
    # Tango 1998, soft contact lenses, 43 of 44 pairs concordant; in the tests of ratesci.
    interval = tango_interval(0, 1, 44, level=0.90)
    assert (round(interval.low, 3), round(interval.high, 3)) == (-0.096, 0.037)


def most_likely_cells(counts: tuple[int, ...], contrast: tuple[float, ...]) -> np.ndarray:
    """Maximise the multinomial likelihood under the contrast numerically."""
    n, a = sum(counts), np.array(contrast)
    shares = np.array(counts) / n

    def loss(p: np.ndarray) -> float:
        return -float(np.sum(shares * np.log(np.maximum(p, 1e-300)), where=shares > 0))

    def slope(p: np.ndarray) -> np.ndarray:
        return np.where(shares > 0, -shares / np.maximum(p, 1e-300), 0.0)

    # Start from the feasible point nearest to the cells mixed with the uniform distribution.
    start = 0.9 * shares + 0.1 / len(shares)
    constraints = [
        {"type": "eq", "fun": lambda p: p.sum() - 1, "jac": lambda p: np.ones_like(p)},
        {"type": "eq", "fun": lambda p: a @ p, "jac": lambda p: a},
    ]
    found = optimize.minimize(
        loss, start, jac=slope, method="SLSQP", bounds=[(1e-12, 1)] * len(shares),
        constraints=constraints, options={"ftol": 1e-15, "maxiter": 1000},
    )  # fmt: skip
    return found.x


def slow_score(counts: tuple[int, ...], contrast: tuple[float, ...]) -> float:
    n, a = sum(counts), np.array(contrast)
    cells = most_likely_cells(counts, contrast)
    estimate = a @ np.array(counts) / n
    return float(estimate**2 / (a**2 @ cells / n))


def drop_contrast(drop: float) -> tuple[float, ...]:
    return (-drop, 1 - drop, -1 - drop, -drop)


def ratio_contrast(ratio: float, chance: float) -> tuple[float, ...]:
    before, after = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])
    return tuple(before - after - ratio * (before - chance))


TABLES = [
    (700, 12, 5, 80),
    (700, 0, 0, 97),
    (90, 7, 0, 3),
    (40, 0, 4, 56),
    (300, 350, 20, 130),
    (10, 3, 1, 6),
    (100, 690, 4, 3),
    (780, 3, 14, 3),
    (95, 5, 0, 0),
]


@pytest.mark.parametrize("table", TABLES)
def test_tango_limits_are_where_the_slow_score_crosses_the_quantile(
    table: tuple[int, int, int, int],
) -> None:
    _, lost, gained, _ = table
    n = sum(table)
    interval = tango_interval(lost, gained, n)
    for drop in np.linspace(-0.95, 0.95, 39):
        inside = interval.low <= drop <= interval.high
        assert (slow_score(table, drop_contrast(drop)) <= Z**2) == inside
    for limit in (interval.low, interval.high):
        if abs(limit) < 0.999:
            assert slow_score(table, drop_contrast(limit)) == pytest.approx(Z**2, rel=1e-4)


@pytest.mark.parametrize("chance", [0.0, 0.1, 0.3])
@pytest.mark.parametrize("table", TABLES)
def test_normalised_limits_are_where_the_slow_score_crosses_the_quantile(
    table: tuple[int, int, int, int], chance: float
) -> None:
    result = normalised_drop(PairedCounts(*table), chance)
    if accuracy_interval(table[0] + table[1], sum(table)).low <= chance:
        assert math.isnan(result.low)
        return
    width = result.high - result.low
    outside = [result.low - width * k for k in (0.02, 0.3, 1, 4)]
    outside += [result.high + width * k for k in (0.02, 0.3, 1, 4)]
    for ratio in np.linspace(result.low + 0.02 * width, result.high - 0.02 * width, 9):
        assert slow_score(table, ratio_contrast(ratio, chance)) < Z**2
    for ratio in outside:
        # After the lesion no accuracy lies below 0, so that some ratios contradict all cells.
        possible = min(ratio_contrast(ratio, chance)) < 0 < max(ratio_contrast(ratio, chance))
        assert not possible or slow_score(table, ratio_contrast(ratio, chance)) > Z**2


@pytest.mark.parametrize("table", TABLES)
def test_normalised_drop_reduces_to_tango_when_the_denominator_is_known(
    table: tuple[int, int, int, int],
) -> None:
    # With chance at minus a million the denominator is a million whatever the baseline accuracy.
    million = 1e6
    interval = tango_interval(table[1], table[2], sum(table))
    for limit in (interval.low, interval.high):
        if abs(limit) < 1:
            score = contrast_score(table, ratio_contrast(limit / million, -million))
            assert score == pytest.approx(Z**2, rel=1e-4)


counts = st.builds(
    PairedCounts,
    both=st.integers(0, 2000),
    lost=st.integers(0, 300),
    gained=st.integers(0, 300),
    neither=st.integers(1, 2000),
)


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_tango_contains_the_drop_and_mirrors_when_lost_and_gained_swap(
    c: PairedCounts, level: float
) -> None:
    interval = tango_interval(c.lost, c.gained, c.n, level)
    mirror = tango_interval(c.gained, c.lost, c.n, level)
    assert -1 <= interval.low <= c.drop <= interval.high <= 1
    assert (mirror.low, mirror.high) == (-interval.high, -interval.low)


@given(counts)
def test_tango_contains_no_drop_exactly_where_the_chi_squared_mcnemar_test_accepts(
    c: PairedCounts,
) -> None:
    interval = tango_interval(c.lost, c.gained, c.n)
    chi_squared = (c.lost - c.gained) ** 2 / max(1, c.lost + c.gained)
    assume(abs(chi_squared - Z**2) > 1e-6)
    assert (interval.low <= 0 <= interval.high) == (chi_squared < Z**2)


@given(counts, st.floats(0, 0.9), st.sampled_from([0.8, 0.95]))
@settings(deadline=None)
def test_normalised_drop_agrees_with_tango_on_zero_and_with_wilson_on_one(
    c: PairedCounts, chance: float, level: float
) -> None:
    result = normalised_drop(c, chance, level)
    assume(not math.isnan(result.value))
    tango = tango_interval(c.lost, c.gained, c.n, level)
    after = accuracy_interval(c.both + c.gained, c.n, level)
    assume(min(abs(tango.low), abs(tango.high)) > 1e-9)
    assume(min(abs(after.low - chance), abs(after.high - chance)) > 1e-9)
    assert result.low <= result.value <= result.high
    assert math.isfinite(result.low)
    assert math.isfinite(result.high)
    assert (result.low <= 0 <= result.high) == (tango.low <= 0 <= tango.high)
    assert (result.low <= 1 <= result.high) == (after.low <= chance <= after.high)


@given(counts, st.floats(0, 0.9), st.floats(-1, 2))
@settings(deadline=None)
def test_normalised_drop_holds_exactly_the_ratios_that_the_score_test_accepts(
    c: PairedCounts, chance: float, ratio: float
) -> None:
    result = normalised_drop(c, chance)
    assume(not math.isnan(result.value))
    score = contrast_score((c.both, c.lost, c.gained, c.neither), ratio_contrast(ratio, chance))
    assume(abs(score - Z**2) > 1e-6)
    assert (score < Z**2) == (result.low <= ratio <= result.high)


@pytest.mark.parametrize(
    ("table", "chance"),
    [((0, 0, 5, 5), 0.1), ((10, 2, 0, 88), 0.1), ((50, 0, 0, 50), 0.5), ((1, 1, 1, 1), 1.0)],
)
def test_normalised_drop_is_undefined_where_the_baseline_touches_chance(
    table: tuple[int, int, int, int], chance: float
) -> None:
    result = normalised_drop(PairedCounts(*table), chance)
    assert all(math.isnan(value) for value in (result.value, result.low, result.high))


@pytest.mark.parametrize("n", [1, 5, 797])
def test_tango_at_its_ends_has_the_closed_form(n: int) -> None:
    none, all_lost = tango_interval(0, 0, n), tango_interval(n, 0, n)
    assert none.high == pytest.approx(Z**2 / (n + Z**2))
    assert none.low == -none.high
    assert all_lost.high == 1.0
    assert all_lost.low == pytest.approx((n - Z**2) / (n + Z**2))
    # The slow score approaches the same limit from inside the parameter space.
    assert tango_interval(n, 0, n, 0.5).low > all_lost.low


@given(st.integers(1, 3000), st.data(), st.sampled_from([0.5, 0.9, 0.95]))
def test_accuracy_interval_is_wilsons(n: int, data: st.DataObject, level: float) -> None:
    correct = data.draw(st.integers(0, n))
    expected = stats.binomtest(correct, n).proportion_ci(level, method="wilson")
    interval = accuracy_interval(correct, n, level)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


# Fagerland, Lydersen and Laake 2017, chapter 8, data of Cavo et al. 2012.
def test_mcnemar_equals_published_p_values() -> None:
    test = mcnemar_test(6, 16)
    assert round(test.p_value, 6) == 0.052479
    assert round(test.mid_p, 6) == 0.034690


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_is_the_binomial_test_on_discordant_examples(lost: int, gained: int) -> None:
    test = mcnemar_test(lost, gained)
    expected = 1.0 if lost + gained == 0 else stats.binomtest(lost, lost + gained).pvalue
    assert test.p_value == pytest.approx(expected, rel=1e-9)
    half = stats.binom.pmf(lost, lost + gained, 0.5)
    assert test.mid_p == pytest.approx(1.0 if lost == gained else expected - half, rel=1e-6)
    assert mcnemar_test(gained, lost) == test


def test_mcnemar_without_discordant_examples_is_one() -> None:
    test = mcnemar_test(0, 0)
    assert (test.p_value, test.mid_p) == (1.0, 1.0)


@pytest.mark.parametrize("discordant", range(1, 80))
def test_mcnemar_keeps_its_level(discordant: int) -> None:
    rejected = [mcnemar_test(k, discordant - k).p_value <= 0.05 for k in range(discordant + 1)]
    size = stats.binom.pmf(np.flatnonzero(rejected), discordant, 0.5).sum()
    assert size <= 0.05


def closed_testing(p: list[float]) -> list[float]:
    """Holm's adjustment by its definition: close Bonferroni's test over all subsets."""
    subsets = [
        s for size in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), size)
    ]
    return [
        max(min(1.0, len(s) * min(p[j] for j in s)) for s in subsets if i in s)
        for i in range(len(p))
    ]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=7))
@settings(deadline=None)
def test_holm_is_closed_bonferroni_testing(p: list[float]) -> None:
    assert holm(p) == pytest.approx(closed_testing(p))


@given(st.lists(st.floats(0, 1) | st.just(math.nan), max_size=12))
def test_holm_leaves_out_what_was_not_tested(p: list[float]) -> None:
    adjusted = holm(p)
    tested = [value for value in p if not math.isnan(value)]
    assert np.array_equal(np.isnan(adjusted), np.isnan(np.array(p, dtype=float)))
    assert np.array_equal(adjusted[~np.isnan(adjusted)], holm(tested))


def test_holm_with_mcnemar_bounds_the_family_wise_error() -> None:
    rng = np.random.default_rng(20160520)
    families, true_nulls, false_nulls = 1500, 20, 7
    wrong = 0
    for _ in range(families):
        flips = rng.binomial(400, 0.05, size=true_nulls)
        harmless = [(int(lost), int(d - lost)) for d in flips for lost in [rng.binomial(d, 0.5)]]
        harmful = [(int(rng.binomial(400, 0.2)), 5) for _ in range(false_nulls)]
        p = [mcnemar_test(lost, gained).p_value for lost, gained in harmless + harmful]
        wrong += bool(np.any(holm(p)[:true_nulls] <= 0.05))
    assert wrong / families <= 0.05


def test_paired_counts_counts_every_example_once() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.random(500) < 0.8, rng.random(500) < 0.6
    c = paired_counts(before, after)
    assert c.n == 500
    assert c.before == before.mean()
    assert c.after == after.mean()
    assert c.drop == pytest.approx(before.mean() - after.mean())
    assert c.both == sum(1 for b, a in zip(before, after, strict=True) if b and a)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_counts(np.ones(3, bool), np.ones(4, bool)), r"shape \(3,\).*\(4,\)"),
        (lambda: paired_counts(np.ones(3, bool), np.ones(3)), "float64; expected boolean"),
        (lambda: paired_counts(np.ones(0, bool), np.ones(0, bool)), "at least one example"),
        (lambda: PairedCounts(1, -1, 0, 0), r"\(1, -1, 0, 0\); expected four whole counts"),
        (lambda: tango_interval(3, 2, 4), "3 lost and 2 gained of 4 examples is impossible"),
        (lambda: tango_interval(-1, 2, 4), "-1 lost and 2 gained"),
        (lambda: tango_interval(0, 0, 0), r"n from 1 to 2\^53"),
        (lambda: tango_interval(1.5, 0, 3), "1.5 lost and 0 gained of 3 examples is impossible"),
        (lambda: PairedCounts(2**53, 1, 0, 0), r"expected four whole counts .* at most 2\^53"),
        (lambda: PairedCounts(0.5, 1, 0, 0), r"\(0.5, 1, 0, 0\); expected four whole counts"),
        (lambda: accuracy_interval(2**54, 2**54), r"with n from 1 to 2\^53"),
        (lambda: tango_interval(1, 0, 4, level=95), "level is 95; expected a proportion"),
        (lambda: accuracy_interval(5, 4), "5 correct of 4 examples is impossible"),
        (lambda: mcnemar_test(-1, 0), "-1 lost and 0 gained is impossible"),
        (lambda: holm([0.1, 1.2]), "from 0.1 to 1.2; expected one dimension"),
        (lambda: normalised_drop(PairedCounts(1, 0, 0, 0), 10), "Chance is 10; expected"),
    ],
)
def test_impossible_input_is_one_sentence(call: object, message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        call()  # type: ignore[operator]
