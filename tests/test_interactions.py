"""Interactions of pairs: against plain loops, and coverage where hardly any example has one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.contrasts import contrast_score
from ensemble_view.statistics.interactions import pair_interactions
from ensemble_view.statistics.paired import holm, tango_interval


def outcomes(blocks: int, examples: int, seed: int, numbers: bool):
    rng = np.random.default_rng(seed)
    shapes = (examples,), (blocks, examples), (math.comb(blocks, 2), examples)
    return [rng.normal(size=each) if numbers else rng.random(each) < 0.8 for each in shapes]


def drops(baseline, singles, pairs):
    """The contrast of each pair from three drops, one pair at a time."""
    before = baseline.astype(float)
    for row, (i, j) in enumerate(itertools.combinations(range(len(singles)), 2)):
        joint = before - pairs[row]
        yield i, j, joint - (before - singles[i]) - (before - singles[j])


@given(st.integers(2, 5), st.integers(2, 9), st.integers(0, 99), st.sampled_from([0.5, 0.95]))
def test_numbers_get_the_t_interval_of_their_contrast(blocks, examples, seed, level):
    measured = outcomes(blocks, examples, seed, numbers=True)
    found = pair_interactions(*measured, level)
    assert found.method == "t"
    raw = []
    for i, j, contrast in drops(*measured):
        known = stats.ttest_1samp(contrast, 0)
        low, high = known.confidence_interval(level)
        expected = [contrast.mean(), low, high, known.pvalue]
        matrices = (found.value, found.low, found.high, found.p_value)
        assert [each[i, j] for each in matrices] == pytest.approx(expected, rel=1e-7, abs=1e-9)
        assert [each[j, i] for each in matrices] == [each[i, j] for each in matrices]
        raw.append(known.pvalue)
    upper = np.triu_indices(blocks, 1)
    assert found.adjusted[upper] == pytest.approx(holm(raw), rel=1e-7)
    assert np.isnan(np.diag(found.value)).all()
    assert np.array_equal(found.adjusted, found.adjusted.T, equal_nan=True)


@settings(max_examples=30)
@given(st.integers(2, 4), st.integers(2, 30), st.integers(0, 99))
def test_right_and_wrong_get_the_interval_that_the_score_test_does_not_reject(
    blocks, examples, seed
):
    measured = outcomes(blocks, examples, seed, numbers=False)
    found = pair_interactions(*measured)
    critical = stats.chi2.ppf(0.95, 1)
    assert found.method == "score"
    for i, j, contrast in drops(*measured):
        counts = [int(np.sum(contrast == c)) for c in range(-2, 3)]
        assert found.value[i, j] == pytest.approx(contrast.mean())
        for mean in np.linspace(-1.99, 1.99, 45):
            kept = contrast_score(counts, [c - mean for c in range(-2, 3)]) <= critical
            assert kept == (found.low[i, j] <= mean <= found.high[i, j])
        assert (found.p_value[i, j] > 0.05) == (found.low[i, j] <= 0 <= found.high[i, j])


def test_the_score_interval_of_many_examples_is_nearly_tangos():
    """Where no contrast is 2, the five cells of the contrast are Tango's three and two empty."""
    examples, lost, gained = 5000, 400, 150
    baseline = np.ones(examples, dtype=bool)
    singles = np.ones((2, examples), dtype=bool)
    singles[0, lost : lost + gained] = False
    pair = np.ones((1, examples), dtype=bool)
    pair[0, :lost] = False
    found = pair_interactions(baseline, singles, pair)
    known = tango_interval(lost, gained, examples)
    assert found.value[0, 1] == pytest.approx((lost - gained) / examples)
    assert found.low[0, 1] == pytest.approx(known.low, abs=1e-5)
    assert found.high[0, 1] == pytest.approx(known.high, abs=1e-5)


def test_two_branches_that_back_each_other_up_interact_above_zero():
    right = np.ones((2, 50), dtype=bool)
    found = pair_interactions(right[0], right, np.zeros((1, 50), dtype=bool))
    assert found.value[0, 1] == 1
    assert 0 < found.low[0, 1] < 1 < found.high[0, 1]
    either = pair_interactions(right[0], ~right, ~right[:1])
    assert either.value[0, 1] == -1
    assert either.high[0, 1] < 0


def test_what_never_differs_leaves_doubt_with_right_and_wrong_and_none_with_numbers():
    right = np.ones((3, 100), dtype=bool)
    sure = pair_interactions(right[0], right, right)
    assert sure.value[0, 1] == 0
    assert sure.low[0, 1] == pytest.approx(-sure.high[0, 1])
    assert 0.03 < sure.high[0, 1] < 0.1
    assert sure.p_value[0, 1] == 1
    same = pair_interactions(*(0.1 * each for each in (right[0], right, right)))
    assert same.low[0, 1] == same.value[0, 1] == same.high[0, 1] == pytest.approx(0)
    assert same.p_value[0, 1] == 1


def test_one_example_has_no_interval_and_one_block_no_pair():
    alone = pair_interactions([1.0], [[0.5], [0.5]], [[0.0]])
    assert alone.value[0, 1] == 0
    assert math.isnan(alone.low[0, 1])
    assert math.isnan(alone.adjusted[0, 1])
    assert pair_interactions([1.0, 2.0], [[0.5, 1.0]], np.ones((0, 2))).value.shape == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [[1.0], [1.0]], [[1.0], [1.0]]), r"^Baseline, singles and pairs have shapes \(1,"),
        (([], np.ones((2, 0)), np.ones((1, 0))), r"expected \[examples\], .* at least one example"),
        (
            ([1.0], [[1.0], [math.nan]], [[1.0]]),
            r"^An outcome is not finite; leave out the example",
        ),
        (([1.0], [[1.0], [1.0]], [[1.0]], 1), r"^The confidence level is 1; expected"),
    ],
)
def test_what_has_no_interactions_is_refused_in_words(arguments, message):
    with pytest.raises(MeasurementError, match=message):
        pair_interactions(*arguments)


# Probabilities of a contrast of -2, -1, 0, 1 and 2.
LAWS = {
    "one way": (0, 0, 0.98, 0.02, 0),
    "rare": (0, 0.0005, 0.9935, 0.006, 0),
    "very rare": (0, 0.0001, 0.9989, 0.001, 0),
    "both ways": (0, 0.002, 0.996, 0.002, 0),
    "doubles": (0, 0.001, 0.989, 0.005, 0.005),
    "usual": (0.001, 0.02, 0.94, 0.035, 0.004),
    "dense": (0, 0.01, 0.59, 0.4, 0),
}


@pytest.mark.parametrize("examples", [200, 1000, 10000])
@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
def test_coverage_of_the_score_interval(law, examples):
    rng, truth = np.random.default_rng(examples), float(np.arange(-2, 3) @ law)
    critical = stats.chi2.ppf(0.95, 1)
    different, times = np.unique(rng.multinomial(examples, law, 1500), axis=0, return_counts=True)
    # The interval holds the truth just where the test does not reject it, as shown above.
    held = [
        contrast_score(counts.tolist(), [c - truth for c in range(-2, 3)]) <= critical
        for counts in different
    ]
    assert np.average(held, weights=times) >= 0.935


def test_a_t_interval_would_fall_short_on_rare_contrasts():
    """Why right and wrong are not treated as numbers."""
    examples = 200
    for law, most in (("very rare", 0.25), ("rare", 0.75), ("doubles", 0.88), ("one way", 0.94)):
        rng, truth = np.random.default_rng(0), float(np.arange(-2, 3) @ LAWS[law])
        held = []
        for counts in rng.multinomial(examples, LAWS[law], 500):
            contrast = np.repeat(np.arange(-2.0, 3), counts)
            error = contrast.std(ddof=1) / math.sqrt(examples)
            held.append(abs(contrast.mean() - truth) <= stats.t.ppf(0.975, examples - 1) * error)
        assert np.mean(held) < most
