"""Paths by length: exact numbers, held against enumeration and against the published ones."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble_view.paths.lengths import (
    PathLengths,
    PathLengthsError,
    iterate_paths,
    path_lengths,
    sample_paths,
    smallest_interval,
    surviving_share,
    surviving_weight,
)


def exact_share(n: int, low: int, high: int) -> Fraction:
    return Fraction(sum(math.comb(n, k) for k in range(low, high + 1)), 2**n)


@pytest.mark.parametrize(("low", "high", "percent"), [(5, 17, "0.4537"), (19, 35, "98.0")])
def test_shares_of_54_blocks_are_as_published(low, high, percent):
    found = path_lengths(54).share(low, high)
    assert found == float(exact_share(54, low, high))
    assert f"{100 * found:.{len(percent.split('.')[1])}f}" == percent


@pytest.mark.parametrize(
    ("deleted", "length", "share"),
    [
        (10, 5, "0.343"),
        (10, 11, "0.080"),
        (10, 17, "0.0146"),
        (10, 27, "0.0004"),
        (20, 5, "0.088"),
        (20, 11, "0.003"),
    ],
)
def test_shares_that_survive_are_as_published(deleted, length, share):
    found = surviving_share(54, length, deleted)
    # A path survives if all its blocks are among those left: a product of falling factors.
    expected = math.prod(Fraction(54 - deleted - i, 54 - i) for i in range(length))
    assert found == float(expected)
    assert f"{found:.{len(share.split('.')[1])}f}" == share


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=7), st.data())
def test_the_weight_that_survives_is_the_mean_over_all_deletions(weights, data):
    n = len(weights) - 1
    deleted = data.draw(st.integers(0, n))
    kept = list(itertools.combinations(range(n), n - deleted))
    left = [
        sum(weights[len(path)] / math.comb(n, len(path)) for path in all_within(blocks))
        for blocks in kept
    ]
    assert surviving_weight(weights, deleted) == pytest.approx(sum(left) / len(left), abs=1e-12)


def all_within(blocks):
    return itertools.chain.from_iterable(
        itertools.combinations(blocks, length) for length in range(len(blocks) + 1)
    )


@pytest.mark.parametrize("n", [54, 1200])
def test_the_weight_that_survives_at_any_depth(n):
    only = [0.0] * (n + 1)
    only[5] = 1.0
    assert surviving_weight(only, 10) == surviving_share(n, 5, 10)
    # Every path through k blocks alike, all 2^n of them: half of what goes per deleted block.
    even = path_lengths(n).weights([1.0] * (n + 1))
    assert surviving_weight(even, 3) == pytest.approx(1 / 8, rel=1e-9)
    assert surviving_weight(even, 0) == pytest.approx(1, rel=1e-12)


def test_a_tilted_binomial_has_the_published_interval():
    r = 0.256
    weights = path_lengths(54).weights([r**k for k in range(55)])
    p = r / (1 + r)
    expected = [math.comb(54, k) * p**k * (1 - p) ** (54 - k) for k in range(55)]
    assert weights == pytest.approx(expected, rel=1e-12)
    assert sum(k * w for k, w in enumerate(weights)) == pytest.approx(54 * p, rel=1e-12)
    assert round(54 * p) == 11
    assert f"{sum(weights[5:18]):.4f}" == "0.9735"
    assert smallest_interval(weights) == (5, 16)


@pytest.mark.parametrize(
    ("weight", "mean", "interval"),
    [
        (lambda count, norm: count * norm, "11", (5, 16)),
        (lambda count, norm: count * norm**2, "3.3", (0, 6)),
        (lambda count, norm: math.sqrt(count) * norm, "3.8", (0, 8)),
    ],
    ids=["count times norm", "energy", "incoherent sum"],
)
def test_weightings_of_one_tilted_binomial_disagree_as_published(weight, mean, interval):
    weights = [weight(count, 0.256**k) for k, count in enumerate(path_lengths(54).counts)]
    found = sum(k * each for k, each in enumerate(weights)) / sum(weights)
    assert f"{found:.{len(mean.partition('.')[2])}f}" == mean
    assert smallest_interval(weights) == interval


LAYERS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), max_size=8)


@given(LAYERS)
def test_lengths_in_layers_are_those_of_all_paths(blocks):
    lengths = Counter(sum(path) for path in itertools.product(*blocks))
    counts = path_lengths(blocks).counts
    assert {length: count for length, count in enumerate(counts) if count} == dict(lengths)
    assert len(counts) == max(lengths) + 1


@given(LAYERS, st.fractions(0, 1))
def test_a_quantile_is_the_shortest_length_with_enough_paths_below(blocks, probability):
    lengths = sorted(sum(path) for path in itertools.product(*blocks))
    # The share at or below the quantile reaches the probability, the share below it does not.
    place = max(math.ceil(float(probability) * len(lengths)) - 1, 0)
    found = path_lengths(blocks)
    assert found.quantile(float(probability)) == lengths[place]
    assert (found.shortest, found.longest) == (lengths[0], lengths[-1])
    assert found.mean == pytest.approx(sum(lengths) / len(lengths))


def test_a_thousand_blocks_take_well_under_a_second():
    started = time.process_time()
    lengths = path_lengths(1000)
    layers = path_lengths([(i % 10 == 9, 2 + (i % 2)) for i in range(1000)])
    median = lengths.quantile(0.5)
    assert time.process_time() - started < 1.0
    assert lengths.counts == tuple(math.comb(1000, k) for k in range(1001))
    assert median == 500
    assert layers.total == 2**1000
    assert layers.mean == pytest.approx((100 + 2500) / 2)


@pytest.mark.parametrize("blocks", [0, 1, 4])
def test_all_paths_are_listed_once_the_short_ones_first(blocks):
    paths = list(iterate_paths(blocks))
    assert len(paths) == len(set(paths)) == 2**blocks
    assert [len(path) for path in paths] == sorted(map(len, paths))
    for length in range(blocks + 1):
        assert list(iterate_paths(blocks, length)) == [p for p in paths if len(p) == length]


def test_paths_of_many_blocks_are_not_held_in_memory():
    assert list(itertools.islice(iterate_paths(1000), 3)) == [(), (0,), (1,)]
    assert next(iterate_paths(1000, 500)) == tuple(range(500))


@pytest.mark.parametrize("length", [None, 2])
def test_drawn_paths_are_uniform_and_repeatable(length):
    number = 12_000
    drawn = list(sample_paths(4, number, length=length, seed=3))
    assert drawn == list(sample_paths(4, number, length=length, seed=3))
    assert drawn != list(sample_paths(4, number, length=length, seed=4))
    paths = list(iterate_paths(4, length))
    counts = Counter(drawn)
    assert set(counts) == set(paths)
    expected = number / len(paths)
    # Chi-squared: its mean is the degrees of freedom, its deviation the root of twice them.
    freedom = len(paths) - 1
    statistic = sum((counts[path] - expected) ** 2 / expected for path in paths)
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_weights_hold_where_counts_exceed_every_float():
    weights = path_lengths(2000).weights([1.0] * 2001)
    assert sum(weights) == pytest.approx(1)
    assert max(weights) == weights[1000]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9).filter(lambda w: sum(w) > 0))
def test_no_smaller_interval_holds_the_share(weights):
    low, high = smallest_interval(weights)
    least = 0.95 * sum(weights)
    masses = {
        (a, b): sum(weights[a : b + 1]) for a in range(len(weights)) for b in range(a, len(weights))
    }
    assert masses[low, high] >= least * (1 - 1e-12)
    smaller = [mass for (a, b), mass in masses.items() if b - a < high - low]
    assert all(mass < least * (1 + 1e-12) for mass in smaller)
    shorter = [masses[a, a + high - low] for a in range(low)]
    assert all(mass < least * (1 + 1e-12) for mass in shorter)


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda: path_lengths(-1), "expected a number of blocks"),
        (lambda: path_lengths([(0, -2)]), "none of them negative"),
        (lambda: PathLengths((1, 1)).quantile(1.5), "expected 0 to 1"),
        (lambda: path_lengths(2).weights([1.0]), "expected one per length"),
        (lambda: path_lengths(2).weights([0.0] * 3), "at least one of them above zero"),
        (lambda: surviving_share(5, 6, 1), "expected both from 0 to 5"),
        (lambda: surviving_share(5, 1, -1), "expected both from 0 to 5"),
        (lambda: surviving_weight([0.5, 0.5], 2), "Found 2 weights and 2 deleted blocks; expected"),
        (lambda: surviving_weight([], 0), "Found 0 weights and 0 deleted blocks; expected"),
        (lambda: next(sample_paths(5, 1, length=6)), "No path through 5 blocks has length 6"),
        (lambda: smallest_interval([0.0, 0.0]), "expected more than zero"),
    ],
)
def test_what_there_is_not_is_said_in_a_sentence(ask, sentence):
    with pytest.raises(PathLengthsError, match=sentence):
        ask()
