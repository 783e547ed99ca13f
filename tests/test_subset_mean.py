"""Calibrated means: limits within their range, and coverage with ruinous blocks, in miniature."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import trial_coverage

from ensemble_view.statistics.crossed import crossed_mean
from ensemble_view.statistics.paired import accuracy_interval
from ensemble_view.statistics.subset_mean import calibrated_mean, survival
from ensemble_view.statistics.subsets import Subsets
from ensemble_view.studies.random.reduction import AdditiveReduction


@pytest.mark.parametrize("trials", [1, 5, 50])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_where_all_agree_the_limit_is_wilsons_at_the_number_of_examples(trials, value):
    found = calibrated_mean(np.full((trials, 100), value)).limits(lowest=0.0)
    wilson = accuracy_interval(int(100 * value), 100)
    assert found == pytest.approx((wilson.low, wilson.high), abs=1e-9)
    low, high = calibrated_mean(np.zeros((trials, 100))).limits(lowest=-1.0)
    assert -1 <= low < 0 < high <= 1


def test_limits_stay_in_their_range():
    rng = np.random.default_rng(0)
    for trials, examples in itertools.product([2, 3, 12], [2, 10, 40]):
        table = (rng.random((trials, examples)) < rng.choice([0.02, 0.5, 0.98])).astype(float)
        low, high = calibrated_mean(table).limits(lowest=0.0)
        assert 0 <= low <= table.mean() <= high <= 1
        low, high = calibrated_mean(-table).limits(lowest=-1.0)
        assert -1 <= low <= -table.mean() <= high <= 1


def test_without_control_it_is_the_crossed_mean():
    table = np.random.default_rng(0).normal(size=(7, 30))
    known, found = crossed_mean(table), calibrated_mean(table)
    assert (found.value, *found.limits()) == pytest.approx((known.value, known.low, known.high))


def test_the_mean_product_is_that_of_all_subsets():
    factors = dict(enumerate(np.random.default_rng(0).random(8).tolist()))
    for groups in (((0, 1, 2, 3, 4, 5, 6, 7),), ((0, 1), (2, 3, 4), (5, 6, 7))):
        subsets = Subsets(groups)
        for taken in range(9):
            each = [math.prod(factors[block] for block in s) for s in subsets.all(taken)]
            assert subsets.mean_product(factors, taken) == pytest.approx(np.mean(each))


def test_few_trials_do_not_fit_a_coefficient_and_doubt_it():
    known = survival([(0, 1)] * 5, Subsets((tuple(range(9)),)), [0.2] * 8 + [0.9], 0.1, 0.9)
    found = calibrated_mean(np.zeros((5, 20)), known)
    assert found.method == "difference"
    assert found.trial_variance > 0


@pytest.mark.parametrize(("ruinous", "crossed"), [(0, 0.99), (1, 0.90), (3, 0.90)])
def test_intervals_cover_with_ruinous_blocks(ruinous, crossed):
    """Ten trials of 2 of 54 blocks; the two-way table alone covers .69 to .87 with ruinous ones."""
    rng = np.random.default_rng(ruinous)
    net = trial_coverage.SimulatedNet.drawn("summing", 54, ruinous, rng)
    found = trial_coverage.coverage(net, 2, 10, rng, rounds=300, examples=200)
    assert found["coverage"] >= 0.92
    assert found["coverage_crossed"] < crossed
    if ruinous:
        assert found["width"] < 0.55 * found["width_crossed"]


def test_the_additive_law_is_exact_for_an_ensemble_and_predicts_each_set():
    """Members' logits are summed: without a set, what is left is the sum of the others."""
    rng = np.random.default_rng(0)
    members = rng.normal(size=(6, 3, 40))
    sets = list(itertools.combinations(range(6), 3))
    plans = [members.sum(0), *(members.sum(0) - members[list(s)].sum(0) for s in sets)]
    plans += [members.sum(0) - member for member in members]
    outcomes = {f"logit {c}": np.array([plan[c] for plan in plans]) for c in range(3)}
    reduction = AdditiveReduction(tuple(outcomes), sets, range(6))
    predicted = reduction(outcomes)["additive"]
    left = [members[[i for i in range(6) if i not in s]].sum(0).argmax(0) for s in sets]
    np.testing.assert_array_equal(predicted, left)
