"""The ratio estimator's interval: against definitions, and its coverage by simulation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.ratios import ratio_mean

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], tuple[Floats, Floats]]

numbers = st.floats(-50, 50)


@given(st.lists(st.tuples(numbers, st.integers(1, 40)), min_size=2, max_size=12))
def test_the_interval_is_the_jackknife_done_by_leaving_out(groups):
    totals, sizes = [y for y, _ in groups], [m for _, m in groups]
    count, whole = len(groups), sum(sizes)
    value = sum(totals) / whole
    left = [(sum(totals) - y) / (whole - m) for y, m in groups]
    error = math.sqrt((count - 1) / count * sum((one - value) ** 2 for one in left))
    freedom = max(1, sum(m**2 for m in sizes) ** 2 / sum(m**4 for m in sizes) - 1)
    found = ratio_mean(totals, sizes)
    assert found.value == pytest.approx(value, abs=1e-9)
    half = stats.t.ppf(0.975, freedom) * error
    assert found.low == pytest.approx(value - half, rel=1e-6, abs=1e-8)
    assert found.high == pytest.approx(value + half, rel=1e-6, abs=1e-8)


@given(st.lists(numbers, min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.99]))
def test_with_equal_sizes_it_is_the_t_interval_of_a_mean(values, level):
    found = ratio_mean(values, level=level)
    scaled = ratio_mean([7 * value for value in values], [7] * len(values), level=level)
    assert (scaled.low, scaled.high) == pytest.approx((found.low, found.high), abs=1e-9)
    if np.std(values) > 1e-9:
        known = stats.ttest_1samp(values, 0)
        interval = known.confidence_interval(level)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
        assert found.p_value == pytest.approx(known.pvalue, rel=1e-6)


@given(st.lists(st.tuples(numbers, st.integers(1, 40)), min_size=2, max_size=12))
def test_the_interval_holds_zero_just_where_the_test_does_not_reject(groups):
    found = ratio_mean([y for y, _ in groups], [m for _, m in groups])
    if abs(found.p_value - 0.05) > 1e-9:
        assert (found.low <= 0 <= found.high) == (found.p_value > 0.05)


def test_what_leaves_no_doubt_is_a_point_and_one_group_says_nothing():
    assert ratio_mean([0, 0, 0], [3, 4, 5]) == ratio_mean([0.0] * 3)
    assert ratio_mean([0, 0]).p_value == 1
    lost = ratio_mean([0.1 * 3, 0.1 * 7, 0.1 * 11], [3, 7, 11])
    assert (lost.low, lost.high, lost.p_value) == (lost.value, lost.value, 0)
    alone = ratio_mean([2], [4])
    assert alone.value == 0.5
    assert all(math.isnan(x) for x in (alone.low, alone.high, alone.p_value))


@pytest.mark.parametrize(
    ("totals", "sizes", "level", "message"),
    [
        ([1, 2], [1, 2, 3], 0.95, r"^The totals have shape \(2,\) and the sizes \(3,\); expected"),
        ([], [], 0.95, r"^The totals have shape \(0,\) .* with at least one group\.$"),
        ([1, float("nan")], [1, 1], 0.95, r"^A total is not finite or a size not above zero; leav"),
        ([1, 2], [1, 0], 0.95, r"^A total is not finite or a size not above zero"),
        ([1, 2], [1, 1], 95, r"^The confidence level is 95; expected a proportion between 0 and"),
    ],
)
def test_what_cannot_be_estimated_is_refused_in_words(totals, sizes, level, message):
    with pytest.raises(MeasurementError, match=message):
        ratio_mean(totals, sizes, level)


def equal(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    return np.full(shape, 255.0)


def varied(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Documents of lognormal length, cut at 512 tokens."""
    return np.clip(np.floor(rng.lognormal(4.5, 1, shape)), 2, 511)


def loss_change(sizes: Draw, sigma: float, power: float = 0.0) -> Draw:
    """Each sequence has a lognormal mean change, larger in short ones by a power, and noise."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        m = sizes(rng, shape)
        means = rng.lognormal(-3, sigma, shape) * (50 / m) ** power
        return m * means + np.sqrt(m) * rng.normal(0, 0.3, shape), m

    return draw


def accuracy_drop(sizes: Draw, rarity: float = 1.0) -> Draw:
    """Tokens are lost and gained at rates that differ between sequences."""

    def draw(rng: np.random.Generator, shape: tuple[int, int]) -> tuple[Floats, Floats]:
        m = sizes(rng, shape)
        lost = rng.binomial(m.astype(int), rng.beta(1, 60, shape) / rarity)
        gained = rng.binomial(m.astype(int) - lost, rng.beta(1, 120, shape) / rarity)
        return (lost - gained).astype(float), m

    return draw


def coverage(draw: Draw, groups: int, repetitions: int = 4000) -> float:
    rng = np.random.default_rng(groups)
    totals, sizes = draw(rng, (2000, 1000))
    truth = totals.sum() / sizes.sum()
    totals, sizes = draw(rng, (repetitions, groups))
    found = [ratio_mean(*one) for one in zip(totals, sizes, strict=True)]
    return float(np.mean([one.low <= truth <= one.high for one in found]))


MODERATE = {
    "loss, equal": loss_change(equal, 0.5),
    "loss, varied": loss_change(varied, 0.5),
    "loss, larger in short sequences": loss_change(varied, 0.5, 0.5),
    "accuracy, equal": accuracy_drop(equal),
    "accuracy, varied": accuracy_drop(varied),
    "accuracy, rare changes": accuracy_drop(varied, 20),
}


@pytest.mark.parametrize("case", MODERATE)
@pytest.mark.parametrize("groups", [50, 100, 300])
def test_coverage_from_fifty_sequences_on(case, groups):
    assert 0.935 <= coverage(MODERATE[case], groups) <= 0.97


@pytest.mark.parametrize("sizes", [equal, varied])
def test_coverage_where_few_sequences_carry_the_effect(sizes):
    """Short of 93.5 %: the limit of any t interval, stated in the docstring."""
    for groups, least in ((50, 0.88), (200, 0.91), (500, 0.93)):
        assert least <= coverage(loss_change(sizes, 1.0), groups) <= 0.96
