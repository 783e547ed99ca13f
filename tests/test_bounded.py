"""Intervals of bounded means: within their range, never a point, and covering."""

from __future__ import annotations

import math

import bounded_means as analysis
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.bounded import bounded_mean
from ensemble_view.statistics.paired import accuracy_interval, tango_interval


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 50)), min_size=2, max_size=60),
    st.sampled_from([(0.0, 1.0), (-1.0, 1.0), (-2.0, 2.0)]),
    st.booleans(),
    st.sampled_from([0.5, 0.95, 0.999]),
)
@settings(deadline=None)
def test_limits_lie_within_the_range_and_apart(values, ends, whole, level):
    means = np.array([round(v) if whole else v for v, _ in values]) * (ends[1] - ends[0]) + ends[0]
    sizes = np.array([size for _, size in values])
    found = bounded_mean(means * sizes, sizes, level, ends=ends)
    assert ends[0] <= found.low <= found.high <= ends[1]
    assert found.low - 1e-12 <= found.value <= found.high + 1e-12
    assert found.high > found.low


@pytest.mark.parametrize("n", [60, 200, 1000])
def test_where_all_agree_it_is_as_wide_as_wilsons_and_tangos(n):
    none = bounded_mean([0.0] * n)
    assert none.low == 0
    assert none.high == pytest.approx(accuracy_interval(0, n).high, rel=0.15)
    same = bounded_mean([0.0] * n, ends=(-1.0, 1.0))
    assert (same.low, same.high) == pytest.approx((-same.high, -same.low))
    assert same.high == pytest.approx(tango_interval(0, 0, n).high, rel=0.15)


@pytest.mark.parametrize("correct", [50, 150, 180, 198])
def test_of_right_and_wrong_it_is_nearly_wilsons(correct):
    found = bounded_mean([1.0] * correct + [0.0] * (200 - correct))
    expected = accuracy_interval(correct, 200)
    width = expected.high - expected.low
    assert found.low == pytest.approx(expected.low, abs=0.06 * width)
    assert found.high == pytest.approx(expected.high, abs=0.06 * width)


@pytest.mark.parametrize("kind", analysis.KINDS)
@pytest.mark.parametrize(("mean", "examples"), [(0.01, 200), (0.1, 50), (0.9, 50)])
def test_coverage(kind, mean, examples):
    """A miniature of ``analyses/bounded_means.py``."""
    row = analysis.cell(kind, mean, examples, repetitions=200)
    # At least 91 %, less two standard errors of 200 repetitions.
    assert float(row["coverage"]) >= 0.87
    assert (row["outside"], row["points"]) == (0, 0)


def test_single_examples_have_no_interval_and_values_outside_are_refused():
    assert math.isnan(bounded_mean([1.0]).low)
    with pytest.raises(MeasurementError, match=r"lie from 0 to 1\.5; expected them between"):
        bounded_mean([0.0, 1.5])
