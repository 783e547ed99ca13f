"""Rank correlations: against scipy and plain counting, and coverage with a dose full of ties."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.rank_correlation import discordant_pairs, kendall_tau, spearman

Floats = npt.NDArray[np.float64]
Dose = Callable[[np.random.Generator], Floats]

pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 30)), min_size=4, max_size=15)


def without(values: list[int], left: int) -> list[int]:
    return values[:left] + values[left + 1 :]


@given(pairs)
def test_the_interval_is_the_wider_of_two_on_fishers_scale(drawn):
    x, y = [each for each, _ in drawn], [each for _, each in drawn]
    found, n = spearman(x, y), len(x)
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert all(map(math.isnan, (found.value, found.low, found.high)))
        return
    value = stats.spearmanr(x, y).statistic
    assert found.value == pytest.approx(value, abs=1e-12)
    most = 1 - 6 / (n * (n**2 - 1))
    left_out = []
    for i in range(n):
        rest = without(x, i), without(y, i)
        constant = min(len(set(each)) for each in rest) == 1
        correlation = 0.0 if constant else stats.spearmanr(*rest).statistic
        left_out.append(math.atanh(min(most, max(-most, correlation))))
    error = max(
        math.sqrt((1 + value**2 / 2) / (n - 3)),
        math.sqrt((n - 1) / n * sum((z - np.mean(left_out)) ** 2 for z in left_out)),
    )
    half = stats.t.ppf(0.975, n - 2) * error
    centre = math.atanh(min(most, max(-most, value)))
    if abs(value) <= most:
        expected = (math.tanh(centre - half), math.tanh(centre + half))
        assert (found.low, found.high) == pytest.approx(expected, abs=1e-9)
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_perfect_agreement_leaves_doubt_on_one_side():
    found = spearman(range(10), [each**3 for each in range(10)])
    assert (found.value, found.high, found.n) == (1, 1, 10)
    assert 0.9 < found.low < 1
    mirrored = spearman(range(10), range(10, 0, -1))
    assert (mirrored.value, mirrored.low) == (-1, -1)
    assert mirrored.high == pytest.approx(-found.low, abs=1e-12)


def test_three_trials_give_a_value_and_no_interval():
    found = spearman([1, 2, 3], [1, 3, 2])
    assert found.value == pytest.approx(0.5)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


@given(st.permutations(range(9)))
def test_tau_is_that_of_scipy_and_counts_every_pair(order):
    turned = sum(a > b for a, b in itertools.combinations(order, 2))
    assert discordant_pairs(order) == turned
    known = stats.kendalltau(range(9), order).statistic
    assert kendall_tau(order) == pytest.approx(known, abs=1e-12)
    # A permutation and its inverse are equally far from the identity.
    assert discordant_pairs(np.argsort(order).tolist()) == turned


def test_tau_at_its_ends():
    assert kendall_tau(range(54)) == 1
    assert kendall_tau(range(53, -1, -1)) == -1
    assert discordant_pairs(range(53, -1, -1)) == 54 * 53 // 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spearman([1, 2], [1]), r"^The two variables have shapes \(2,\) and \(1,\); expec"),
        (lambda: spearman([], []), r"^The two variables have shapes \(0,\) .* at least one trial"),
        (lambda: spearman([1.0, math.nan], [1, 2]), r"^A value is not finite; leave out the tri"),
        (lambda: spearman([1], [1], level=0), r"^The confidence level is 0; expected"),
        (
            lambda: kendall_tau([0, 0, 1]),
            r"^The order \[0, 0, 1\] is no permutation; expected each",
        ),
        (lambda: kendall_tau([0]), r"^Kendall's tau of an order of 1 was asked for; expected at"),
    ],
)
def test_what_cannot_be_ranked_is_refused_in_words(call, message):
    with pytest.raises(MeasurementError, match=message):
        call()


def each_count(trials: int, most: int = 20) -> Dose:
    return lambda rng: np.repeat(np.arange(1.0, most + 1), trials)


def random_count(trials: int) -> Dose:
    return lambda rng: rng.integers(1, 21, trials).astype(float)


def continuous(trials: int) -> Dose:
    return lambda rng: rng.uniform(0, 20, trials)


def error_rates(rng: np.random.Generator, dose: Floats, slope: float, severity: float) -> Floats:
    """Errors on 500 examples of trials whose log-odds grow with the dose and differ in severity."""
    odds = slope * dose - 3 + severity * rng.normal(size=dose.size)
    return rng.binomial(500, 1 / (1 + np.exp(-odds))) / 500


@pytest.mark.parametrize(
    "dose", [each_count(5), each_count(10, 3), random_count(40), continuous(40)]
)
@pytest.mark.parametrize(
    ("slope", "severity"),
    [(0.0, 0.5), (0.05, 0.5), (0.1, 2.0), (0.3, 0.5), (1.0, 0.3)],
    ids=["unrelated", "weak", "noisy", "collapse", "saturated"],
)
def test_coverage_with_ties_and_saturation(dose, slope, severity):
    rng = np.random.default_rng(0)
    many = np.concatenate([dose(rng) for _ in range(2000)])
    truth = stats.spearmanr(many, error_rates(rng, many, slope, severity)).statistic
    found = []
    for _ in range(300):
        x = dose(rng)
        found.append(spearman(x, error_rates(rng, x, slope, severity)))
    # Three standard errors of 300 repetitions below 93.5 %, no limit above: see the docstring.
    assert np.mean([each.low <= truth <= each.high for each in found]) >= 0.925
