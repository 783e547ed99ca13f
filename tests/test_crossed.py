"""Means over crossed trials and examples: against the two-way table written out, and coverage."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.crossed import crossed_mean

Floats = npt.NDArray[np.float64]

tables = arrays.arrays(
    np.float64,
    st.tuples(st.integers(2, 5), st.integers(2, 6)),
    elements=st.integers(-20, 20).map(float),
)


def components(table: Floats) -> tuple[float, float, float]:
    """Mean squares of trials, examples and the rest, one cell at a time."""
    trials, examples = table.shape
    grand = sum(map(sum, table)) / table.size
    rows = [sum(row) / examples for row in table]
    columns = [sum(column) / trials for column in table.T]
    rest = sum(
        (table[t, e] - rows[t] - columns[e] + grand) ** 2
        for t in range(trials)
        for e in range(examples)
    )
    return (
        examples * sum((row - grand) ** 2 for row in rows) / (trials - 1),
        trials * sum((column - grand) ** 2 for column in columns) / (examples - 1),
        rest / ((trials - 1) * (examples - 1)),
    )


@given(tables, st.sampled_from([0.5, 0.95]))
def test_the_interval_is_that_of_the_two_way_table(table, level):
    of_trials, of_examples, rest = components(table)
    assume(min(of_trials, of_examples) > rest > 1e-9)
    trials, examples = table.shape
    variance = of_trials + of_examples - rest
    freedom = variance**2 / (
        of_trials**2 / (trials - 1)
        + of_examples**2 / (examples - 1)
        + rest**2 / ((trials - 1) * (examples - 1))
    )
    found = crossed_mean(table, level)
    assert found.sampled == "trials and examples"
    assert found.error == pytest.approx(math.sqrt(variance / table.size), rel=1e-9)
    assert found.freedom == pytest.approx(max(1, freedom), rel=1e-9)
    half = stats.t.ppf((1 + level) / 2, found.freedom) * found.error
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))
    assert found.p_value == pytest.approx(
        2 * stats.t.sf(abs(found.value) / found.error, found.freedom), abs=1e-9
    )


@given(tables)
def test_a_negative_component_is_zero_and_never_makes_the_error_smaller(table):
    of_trials, of_examples, rest = components(table)
    expected = max(of_trials, rest) + max(of_examples, rest) - rest
    found = crossed_mean(table)
    assert found.error**2 * table.size == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert found.freedom >= 1


@given(tables)
def test_trials_and_examples_are_treated_alike(table):
    one, other = crossed_mean(table), crossed_mean(table.T)
    assert dataclasses.astuple(one)[:-1] == pytest.approx(dataclasses.astuple(other)[:-1], abs=1e-9)


@given(tables)
def test_enumerated_trials_leave_the_t_interval_over_the_means_of_examples(table):
    found = crossed_mean(table, trials_fixed=True)
    means = table.mean(axis=0)
    assert found.sampled == "examples"
    assert found.freedom == pytest.approx(len(means) - 1) or found.error == 0
    known = stats.ttest_1samp(means, 0).confidence_interval() if np.ptp(means) > 1e-9 else means[:2]
    assert (found.low, found.high) == pytest.approx(tuple(known), abs=1e-7)
    alone = crossed_mean(means[None])
    assert (alone.low, alone.high, alone.sampled) == (
        pytest.approx(found.low, abs=1e-7),
        pytest.approx(found.high, abs=1e-7),
        "examples",
    )


def test_one_example_speaks_of_trials_and_one_cell_of_nothing():
    found = crossed_mean([[1.0], [2.0], [4.0]])
    known = stats.ttest_1samp([1, 2, 4], 0)
    assert found.sampled == "trials"
    assert (found.low, found.high) == pytest.approx(tuple(known.confidence_interval()))
    assert found.p_value == pytest.approx(known.pvalue)
    cell = crossed_mean([[3.0]])
    assert (cell.value, cell.sampled) == (3.0, "nothing")
    assert all(map(math.isnan, (cell.low, cell.high, cell.error, cell.p_value)))
    assert crossed_mean([[1.0], [2.0]], trials_fixed=True).sampled == "nothing"


@pytest.mark.parametrize("value", [0.0, 0.1, 7.0])
def test_where_all_are_equal_the_interval_is_a_point(value):
    found = crossed_mean(np.full((5, 7), value))
    assert found.error == 0
    assert found.low == found.value == found.high == pytest.approx(value)
    assert found.p_value == (1 if value == 0 else 0)


@pytest.mark.parametrize(
    ("table", "level", "message"),
    [
        ([1, 2], 0.95, r"^The table has shape \(2,\) and 0 values that are not finite; expected"),
        (np.ones((0, 3)), 0.95, r"^The table has shape \(0, 3\) and 0 values .* at least one of"),
        ([[1, math.nan]], 0.95, r"^The table has shape \(1, 2\) and 1 values that are not finite"),
        ([[1, 2]], 95, r"^The confidence level is 95; expected a proportion between 0 and 1"),
    ],
)
def test_what_is_no_table_is_refused_in_words(table, level, message):
    with pytest.raises(MeasurementError, match=message):
        crossed_mean(table, level)


def binary(
    rng: np.random.Generator, trials: int, examples: int, severity: float, difficulty: float
) -> Floats:
    """Errors whose log-odds are a trial's severity plus an example's difficulty."""
    odds = severity * rng.normal(size=(trials, 1)) + difficulty * rng.normal(size=(1, examples)) - 1
    return (rng.random((trials, examples)) < 1 / (1 + np.exp(-odds))).astype(float)


def binary_mean(severity: float, difficulty: float) -> float:
    at, weight = np.polynomial.hermite_e.hermegauss(200)
    odds = math.hypot(severity, difficulty) * at - 1
    return float(np.average(1 / (1 + np.exp(-odds)), weights=weight))


def coverage(
    trials: int, examples: int, severity: float, difficulty: float, repetitions: int = 1500
) -> float:
    rng = np.random.default_rng(trials)
    truth = binary_mean(severity, difficulty)
    found = [
        crossed_mean(binary(rng, trials, examples, severity, difficulty))
        for _ in range(repetitions)
    ]
    return float(np.mean([each.low <= truth <= each.high for each in found]))


@pytest.mark.parametrize("trials", [5, 10, 50])
@pytest.mark.parametrize(("severity", "difficulty"), [(0.5, 1.0), (1.0, 2.0), (0.0, 2.0)])
def test_coverage_of_binary_outcomes(trials, severity, difficulty):
    assert 0.93 <= coverage(trials, 200, severity, difficulty) <= 0.98


def test_coverage_falls_short_where_few_severe_trials_carry_the_mean():
    """The limit of any t interval over few skewed trials, stated in the docstring."""
    assert 0.85 <= coverage(5, 200, 2.0, 0.5) <= 0.92
    assert 0.90 <= coverage(10, 200, 2.0, 0.5) <= 0.94
    assert 0.93 <= coverage(50, 200, 2.0, 0.5) <= 0.965


def test_an_interval_over_trials_alone_would_fall_short():
    """Why the table is crossed: examples are a sample too."""
    rng = np.random.default_rng(0)
    truth, hits = binary_mean(0.3, 2.0), []
    for _ in range(500):
        means = binary(rng, 20, 100, 0.3, 2.0).mean(axis=1)
        interval = stats.ttest_1samp(means, 0).confidence_interval()
        hits.append(interval.low <= truth <= interval.high)
    assert np.mean(hits) < 0.75
