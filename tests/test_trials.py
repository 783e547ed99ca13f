"""Random deletions and reorderings: what is drawn, what is measured, and what is said of it."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import Tensor, nn

import ensemble_view
from ensemble_view import (
    Chain,
    Delete,
    ManyResult,
    Reorder,
    ReorderResult,
    edited,
    reorder,
    unravel,
)
from ensemble_view.cli.application import main
from ensemble_view.core.plan import Slot
from ensemble_view.data.text_sources import windows
from ensemble_view.errors import InterventionError, MeasurementError
from ensemble_view.nets.models.building import build
from ensemble_view.statistics.crossed_ratio import crossed_ratio
from ensemble_view.statistics.subset_mean import calibrated_mean, survival
from ensemble_view.statistics.subsets import Subsets
from ensemble_view.studies.random.study import RandomStudy
from ensemble_view.studies.reorder.study import ReorderStudy
from ensemble_view.study.counts import read_counts
from ensemble_view.study.draws import draw_swaps, exchanges, stages_of, swapped
from ensemble_view.study.files import ResultError
from ensemble_view.study.study import prepare
from language_nets import VOCABULARY, own_net, sequences, sums_by_hand
from state import unchanged

EXAMPLES = 24
BLOCKS = 9


@cache
def net() -> nn.Module:
    """A ResNet-20 of width 4: three stages of three blocks, two of which change the shape."""
    torch.manual_seed(0)
    model = build("resnet20,width=4", classes=3, in_channels=1).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    model.eval()
    # All classes are predicted of some images.
    with torch.no_grad():
        model.linear.bias -= model(images()).mean(0)
    return model


@cache
def chain() -> Chain:
    return ensemble_view.unravel(net(), images()[:2])


@cache
def images() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(EXAMPLES, 1, 8, 8, generator=generator, dtype=torch.float64)


@cache
def data() -> tuple[Tensor, Tensor]:
    """Labels most of which the net gets right."""
    with torch.no_grad():
        labels = net()(images()).argmax(1)
    generator = torch.Generator().manual_seed(2)
    other = torch.randint(0, 3, (EXAMPLES,), generator=generator)
    return images(), torch.where(torch.arange(EXAMPLES) % 8 != 0, labels, other)


def errors_by_hooks(*interventions: ensemble_view.Intervention) -> np.ndarray:
    """Of each intervention on each example, one forward pass each."""
    inputs, labels = data()
    rows = []
    for intervention in interventions:
        with torch.no_grad(), edited(chain(), intervention):
            rows.append((net()(inputs).argmax(1) != labels).double().numpy())
    return np.array(rows)


def crossed_by_hand(y: np.ndarray) -> tuple[float, float, float]:
    """Mean, its variance and freedom from the mean squares of a two-way table, spelt out."""
    trials, examples = y.shape
    mean = sum(map(float, y.ravel())) / y.size
    of_trial = [float(row.mean()) for row in y]
    of_example = [float(column.mean()) for column in y.T]
    ms_t = examples * sum((a - mean) ** 2 for a in of_trial) / (trials - 1)
    ms_e = trials * sum((b - mean) ** 2 for b in of_example) / (examples - 1)
    ms_r = sum(
        (y[t, e] - of_trial[t] - of_example[e] + mean) ** 2
        for t in range(trials)
        for e in range(examples)
    ) / ((trials - 1) * (examples - 1))
    ms_t, ms_e = max(ms_t, ms_r), max(ms_e, ms_r)
    total = ms_t + ms_e - ms_r
    freedom = total**2 / (
        ms_t**2 / (trials - 1)
        + ms_e**2 / (examples - 1)
        + ms_r**2 / ((trials - 1) * (examples - 1))
    )
    return mean, total / y.size, freedom


def over_examples(y: np.ndarray) -> tuple[float, float, float]:
    """Mean, variance of the mean and its freedom where the trials are all there are."""
    means = y.mean(0)
    return means.mean(), scipy.stats.sem(means) ** 2, len(means) - 1


def calibrated_by_hand(
    y: np.ndarray, sets: list[tuple[int, ...]], alone: np.ndarray, full: float, chance: float
) -> tuple[float, float, float]:
    """The same with single deletions as control variate: averages over every subset, listed."""
    share = [max(0.0, 1 - (one - full) / (chance - full)) for one in alone]

    def covariates(blocks: tuple[int, ...]) -> tuple[float, float]:
        left = math.prod(share[block] for block in blocks)
        return left, left - left**2

    every = [covariates(each) for each in itertools.combinations(range(BLOCKS), len(sets[0]))]
    left, bend = np.array([covariates(each) for each in sets]).T
    known_left, known_bend = np.mean(every, axis=0)
    adjusted = y + (chance - full) * (left - known_left)[:, None]
    design = np.column_stack([np.ones(len(y)), bend - known_bend])
    doubt = 0.0
    if np.diag(design @ np.linalg.pinv(design)).max() > 0.5:
        design = design[:, :1]
        doubt = ((chance - full) * (bend.mean() - known_bend)) ** 2 / 3
    fits = np.array([np.linalg.lstsq(design, column)[0] for column in adjusted.T])
    residuals = adjusted - design @ fits.T
    inverse = np.linalg.inv(design.T @ design)
    hat, weights = np.diag(design @ inverse @ design.T), inverse[0] @ design.T
    trials, examples = y.shape
    rows, freedom = residuals.mean(1), trials - design.shape[1]
    of_trials = sum(w**2 for w in weights) * sum(r**2 for r in rows) / freedom
    if design.shape[1] > 1:
        apart = zip(weights, rows, hat, strict=True)
        of_trials = max(of_trials, sum((w * r / (1 - h)) ** 2 for w, r, h in apart))
    rest = sum((residuals[t, e] - rows[t]) ** 2 for t in range(trials) for e in range(examples))
    noise = sum(w**2 for w in weights) * rest / (freedom * (examples - 1) * examples)
    of_examples = max(scipy.stats.sem(fits[:, 0]) ** 2, noise)
    of_trials = max(of_trials + doubt, noise)
    variance = of_trials + of_examples - noise
    spread = (
        of_trials**2 / freedom
        + of_examples**2 / (examples - 1)
        + noise**2 / (freedom * (examples - 1))
    )
    return fits[:, 0].mean(), variance, variance**2 / spread


@pytest.mark.parametrize("seed", range(3))
def test_the_regression_on_single_deletions_is_that_spelt_out(seed):
    rng = np.random.default_rng(seed)
    subsets = Subsets((tuple(range(BLOCKS)),))
    sets, _ = subsets.draw(3, 20, rng)
    alone = 0.1 + rng.choice([0.02, 0.1, 0.3], BLOCKS)
    strength = np.array([alone[list(blocks)].sum() for blocks in sets]) - 0.2
    y = (rng.random((20, 50)) < strength[:, None]).astype(float)
    found = calibrated_mean(y, survival(sets, subsets, alone, 0.1, 0.9))
    assert found.method == "regression"
    expected = calibrated_by_hand(y, sets, alone, 0.1, 0.9)
    assert (found.value, *found.spread) == pytest.approx(expected)


def bounded_by_hand(
    value: float, variance: float, freedom: float, examples: int, lowest: float
) -> tuple[float, float]:
    """Limits by trying many candidates."""
    t, z = scipy.stats.t.ppf(0.975, freedom), scipy.stats.norm.ppf(0.975)
    candidates = np.linspace(lowest, 1, 200_001)
    least = np.abs(candidates) * (1 - np.abs(candidates)) - abs(value) * (1 - abs(value))
    room = t**2 * variance + z**2 * np.maximum(0, least) / examples
    inside = candidates[(candidates - value) ** 2 <= room]
    return inside.min(), inside.max()


@cache
def many_result() -> ManyResult:
    return ensemble_view.random(net(), data(), count="1-2,8-9", trials=12, batch_size=8)


@cache
def reordered() -> ReorderResult:
    found = reorder(net(), data(), swaps="1-4", trials=15, batch_size=8, seed=3)
    assert isinstance(found, ReorderResult)
    return found


# What is drawn.

SHAPES = [(4, 4), (4, 4), (4, 8), (8, 8), (8, 8), (8, 4), (4, 4)]
SLOTS = [Slot(f"blocks.{i}", (a,), (b,), True) for i, (a, b) in enumerate(SHAPES)]


@given(
    st.lists(
        st.integers(1, 60).flatmap(lambda a: st.integers(a, 60).map(lambda b: (a, b))), min_size=1
    )
)
def test_numbers_are_read_as_they_are_written(ranges):
    text = ",".join(f"{a}-{b}" if a < b else f"{a}" for a, b in ranges)
    expected = sorted({n for a, b in ranges for n in range(a, b + 1)})
    assert read_counts(text, "swaps") == tuple(expected)
    assert read_counts(expected, "swaps") == tuple(expected)


@given(st.text(alphabet="0123456789-, x.", max_size=8))
def test_text_that_names_no_numbers_is_refused_and_nothing_else_is(text):
    """An independent reading by splitting and int()."""
    try:
        expected = set()
        for item in text.split(","):
            ends = [int(end) for end in item.split("-")]
            if any(not part.strip().isdigit() for part in item.split("-")) or len(ends) > 2:
                raise ValueError
            expected |= set(range(ends[0], ends[-1] + 1))
            if ends[0] > ends[-1]:
                raise ValueError
        if not 1 <= min(expected) <= max(expected) <= 10_000:
            raise ValueError
    except ValueError:
        with pytest.raises(InterventionError, match="expected whole numbers from 1"):
            read_counts(text, "swaps")
    else:
        assert read_counts(text, "swaps") == tuple(sorted(expected))


@pytest.mark.parametrize("counts", [0, [], [1.5], [True], "", "0-3", "3-1", -2, "1-99999"])
def test_what_is_no_number_of_blocks_is_refused_in_words(counts):
    with pytest.raises(InterventionError, match=r"The numbers of blocks are .*such as 1-20 or 1,2"):
        read_counts(counts, "blocks")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_even_subsets_are_those_that_fit_the_definition(sizes, data):
    """Among all subsets: shares differ by one at most, unless the smaller group is taken whole."""
    ends = np.cumsum([0, *sizes])
    groups = [tuple(range(a, b)) for a, b in itertools.pairwise(ends.tolist())]
    taken = data.draw(st.integers(0, sum(sizes)))

    def even(blocks: tuple[int, ...]) -> bool:
        shares = [sum(block in group for block in blocks) for group in groups]
        return all(
            share + 1 >= other or share == len(group)
            for share, group in zip(shares, groups, strict=True)
            for other in shares
        )

    expected = [s for s in itertools.combinations(range(sum(sizes)), taken) if even(s)]
    subsets = Subsets(tuple(groups))
    assert sorted(subsets.all(taken)) == expected
    assert subsets.count(taken) == len(expected)
    found, complete = subsets.draw(taken, max(1, len(expected) - 1), np.random.default_rng(0))
    assert complete == (len(expected) <= max(1, len(expected) - 1))
    assert len(set(found)) == len(found)
    assert set(found) <= set(expected)


def test_subsets_are_drawn_with_equal_probability():
    """Groups of unequal size: the shares that give more subsets must come up more often."""
    subsets = Subsets(((0, 1), (2, 3, 4), (5, 6, 7, 8)))
    rng = np.random.default_rng(0)
    draws = Counter(subsets.draw(4, 1, rng)[0][0] for _ in range(4000))
    # One group gives two, the others one: 1·3·4 + 2·3·4 + 2·3·6.
    assert subsets.count(4) == 72
    expected = np.full(subsets.count(4), 4000 / subsets.count(4))
    observed = [*draws.values(), *[0] * (subsets.count(4) - len(draws))]
    assert scipy.stats.chisquare(observed, expected).pvalue > 0.001


def test_stages_are_runs_of_one_output_shape_and_swaps_keep_shapes():
    assert stages_of(SLOTS) == ((0, 1), (2, 3, 4), (5, 6))
    assert exchanges(SLOTS) == ((0, 1), (0, 6), (1, 6), (3, 4))


def test_sequences_of_swaps_are_all_there_are_or_drawn_without_repetition():
    pairs = exchanges(SLOTS)
    all_of_two, complete = draw_swaps(pairs, 2, 16, np.random.default_rng(0))
    assert complete
    assert len(set(all_of_two)) == 16
    some, complete = draw_swaps(pairs, 3, 60, np.random.default_rng(0))
    assert not complete
    assert len(set(some)) == 60
    order = list(range(7))
    for i, j in some[0]:
        order[i], order[j] = order[j], order[i]
    assert swapped(7, some[0]) == tuple(order)


# Many deletions.


def test_every_trial_is_that_of_the_hooks_and_the_model_is_left_alone():
    with unchanged(net()):
        result = ensemble_view.random(net(), data(), count="1,3,8-9", trials=12, batch_size=8)
    expected = errors_by_hooks(*(Delete(*blocks) for blocks in result.deleted))
    np.testing.assert_array_equal(result.run.scores.values, expected)
    assert expected.mean(1).std() > 0.02
    assert result.trials_frame["blocks"].tolist() == [
        ",".join(map(str, blocks)) for blocks in result.deleted
    ]


def test_each_row_is_what_the_definitions_say():
    result = many_result()
    values = result.run.scores.values
    baseline = errors_by_hooks(Delete())[0]
    alone = errors_by_hooks(*map(Delete, range(BLOCKS))).mean(1)
    _, labels = data()
    chance = 1 - torch.bincount(labels).max().item() / EXAMPLES
    frame = result.frame.set_index("deleted")
    assert frame["trials"].to_dict() == {1: 9, 2: 12, 8: 9, 9: 1}
    assert frame["enumerated"].to_dict() == {1: True, 2: False, 8: True, 9: True}
    counts = np.array([len(blocks) for blocks in result.deleted])
    for count, row in frame.iterrows():
        y = values[counts == count]
        sets = [each for each in result.deleted if len(each) == count]
        for shift, lowest, names in (
            (0.0, 0.0, ["mean", "low", "high"]),
            (baseline, -1.0, ["worsening", "worsening_low", "worsening_high"]),
        ):
            if row["enumerated"]:
                mean, variance, freedom = over_examples(y - shift)
            else:
                full = baseline.mean()
                mean, variance, freedom = calibrated_by_hand(y - shift, sets, alone, full, chance)
            low, high = bounded_by_hand(mean, variance, freedom, EXAMPLES, lowest)
            np.testing.assert_allclose(row[names].astype(float), [mean, low, high], atol=2e-5)
        means = sorted(y.mean(1))
        assert (row["least"], row["most"]) == pytest.approx((means[0], means[-1]))
        quartiles = [row["lower_quartile"], row["median"], row["upper_quartile"]]
        np.testing.assert_allclose(quartiles, np.percentile(means, [25, 50, 75]))
    share = frame["worsening"] / (chance - baseline.mean())
    np.testing.assert_allclose(frame["normalised"], share)
    assert (frame["normalised_low"] <= share).all()
    assert (share <= frame["normalised_high"]).all()
    expected = scipy.stats.spearmanr(counts, values.mean(1)).statistic
    assert result.correlation.value == pytest.approx(expected)
    assert result.correlation.low < expected < result.correlation.high


def test_what_is_drawn_follows_from_the_seed_and_no_subset_comes_twice():
    study = prepare(RandomStudy, chain(), data(), count="2-4", trials=20, seed=5)
    again = prepare(RandomStudy, chain(), data(), count="2-4", trials=20, seed=5)
    other = prepare(RandomStudy, chain(), data(), count="2-4", trials=20, seed=6)
    assert study.deleted == again.deleted != other.deleted
    assert len(set(study.deleted)) == len(study.deleted) == 60
    # Fewer numbers draw the same subsets for these.
    fewer = prepare(RandomStudy, chain(), data(), count="2", trials=20, seed=5)
    assert fewer.deleted == study.deleted[:20]


def test_all_subsets_are_taken_where_there_are_no_more_than_trials():
    study = prepare(RandomStudy, chain(), data(), count="1-9", trials=36)
    assert study.enumerated == (1, 2, 7, 8, 9)
    of_two = [blocks for blocks in study.deleted if len(blocks) == 2]
    assert of_two == list(itertools.combinations(range(BLOCKS), 2))


def test_only_blocks_that_keep_the_shape_or_even_shares_of_the_stages():
    keeping = prepare(RandomStudy, chain(), data(), count="2,7", trials=21, shape_keeping=True)
    assert set(itertools.chain(*keeping.deleted)) == set(range(9)) - {3, 6}
    assert keeping.enumerated == (2, 7)
    assert len(keeping.deleted) == 22
    even = prepare(RandomStudy, chain(), data(), count="3,5", trials=30, stratified=True)
    assert even.subsets.groups == ((0, 1, 2), (3, 4, 5), (6, 7, 8))
    # Three of one from each of three: 27, fewer than the trials.
    assert even.enumerated == (3,)
    shares = {
        count: {
            tuple(sorted(Counter(block // 3 for block in blocks).values()))
            for blocks in even.deleted
            if len(blocks) == count
        }
        for count in (3, 5)
    }
    assert shares == {3: {(1, 1, 1)}, 5: {(1, 2, 2)}}
    both = prepare(
        RandomStudy, chain(), data(), count=7, trials=2, stratified=True, shape_keeping=True
    )
    assert both.subsets.groups == ((0, 1, 2), (4, 5), (7, 8))


def test_by_default_one_to_as_many_as_there_are_up_to_twenty():
    study = prepare(RandomStudy, chain(), data(), trials=2)
    assert sorted({len(blocks) for blocks in study.deleted}) == list(range(1, 10))


def trie(kept: list[set[int]]) -> set[tuple[bool, ...]]:
    """Each distinct prefix of blocks that ends with one that is run."""
    return {
        tuple(block in each for block in range(place + 1))
        for each in kept
        for place in range(BLOCKS)
        if place in each
    }


def test_cost_is_that_of_the_shared_prefixes():
    study = prepare(RandomStudy, chain(), data(), count="1,3", trials=12, batch_size=8)
    plans = [set(range(BLOCKS)), *({*range(BLOCKS)} - set(blocks) for blocks in study.deleted)]
    prefixes = trie(plans)
    plans += [{*range(BLOCKS)} - {block} for block in range(BLOCKS)]
    said = f"21 sets of 1 to 3 of 9 blocks on 24 examples: {len(prefixes)} block evaluations"
    assert str(study).startswith(said)
    assert f"instead of {sum(map(len, plans))} " in str(study)
    assert study.run().run.cost.block_evaluations == len(prefixes)
    # Without single deletions among the trials, it is said what they add.
    apart = prepare(RandomStudy, chain(), data(), count="3", trials=12, batch_size=8)
    of_trials = [{*range(BLOCKS)}, *({*range(BLOCKS)} - set(blocks) for blocks in apart.deleted)]
    alone = [{*range(BLOCKS)} - {block} for block in range(BLOCKS)]
    added = len(trie(of_trials + alone)) - len(trie(of_trials))
    assert added > 0
    said = f"12 sets of 3 of 9 blocks, and each alone ({added} block evaluations of these) on 24"
    assert str(apart).startswith(said)


REFUSED = [
    (
        lambda: ensemble_view.random(chain(), data(), count=10),
        "10 blocks are to be deleted, but only 9 of the 9",
    ),
    (
        lambda: ensemble_view.random(chain(), data(), count="8", shape_keeping=True),
        "8 blocks are to be deleted, but only 7 of the 9 blocks keep the shape; ask for at most 7",
    ),
    (
        lambda: ensemble_view.random(chain(), data(), trials=1),
        "1 trial cannot tell how much trials differ; ask",
    ),
    (lambda: reorder(chain(), data(), trials=0), "0 trials cannot tell how much trials differ"),
    (
        lambda: reorder(chain(), data(), swaps=3, adjacent=True),
        "Both random swaps and adjacent swaps or whole stages were asked for",
    ),
    (
        lambda: reorder(one_of_each_shape(), data()),
        "No two blocks among the 3 blocks of this net have one shape and keep it",
    ),
    (
        lambda: reorder(one_of_each_shape(), data(), adjacent=True),
        "No two neighbours among the 3 blocks of this net have one shape and keep it",
    ),
]


def one_of_each_shape() -> nn.Module:
    return build("resnet8,width=4", classes=3, in_channels=1).double().eval()


@pytest.mark.parametrize(("ask", "sentence"), REFUSED, ids=[s[:30] for _, s in REFUSED])
def test_what_cannot_be_drawn_is_refused_in_words(ask, sentence):
    with pytest.raises(InterventionError, match=sentence):
        ask()


# Reorderings.


def test_every_order_is_that_of_the_hooks_and_shape_changing_blocks_stay():
    result = reordered()
    expected = errors_by_hooks(*(Reorder(order) for order in result.orders))
    np.testing.assert_array_equal(result.run.scores.values, expected)
    assert expected.mean(1).std() > 0.02
    for order in result.orders:
        assert (order[3], order[6]) == (3, 6)
        assert {*order[:3]} == {0, 1, 2}
        assert {*order[4:6]} == {4, 5}
        assert {*order[7:]} == {7, 8}
    # Three pairs in the first stage, one in each other.
    assert result.enumerated == (1,)
    assert Counter(result.swaps) == {1: 5, 2: 15, 3: 15, 4: 15}


def test_the_disorder_is_kendalls_tau_of_all_blocks():
    result = reordered()
    expected = [scipy.stats.kendalltau(range(BLOCKS), order).statistic for order in result.orders]
    np.testing.assert_allclose(result.taus, expected)
    rho = scipy.stats.spearmanr(result.taus, result.run.scores.values.mean(1)).statistic
    assert result.correlation.value == pytest.approx(rho)


def test_bins_of_tau_hold_every_trial_once_and_their_rows_are_crossed_means():
    result = reordered()
    values, frame = result.run.scores.values, result.frame
    assert frame["trials"].sum() == len(result.orders)
    assert (frame["tau_least"].to_numpy()[:-1] > frame["tau_most"].to_numpy()[1:]).all()
    assert len(frame) > 2
    for row in frame.to_dict("records"):
        inside = (result.taus >= row["tau_least"]) & (result.taus <= row["tau_most"])
        assert inside.sum() == row["trials"] > 1
        assert row["tau"] == pytest.approx(result.taus[inside].mean())
        mean, variance, freedom = crossed_by_hand(values[inside])
        expected = [mean, *bounded_by_hand(mean, variance, freedom, EXAMPLES, 0.0)]
        np.testing.assert_allclose([row["mean"], row["low"], row["high"]], expected, atol=2e-5)


def test_neighbours_are_swapped_one_by_one_with_tangos_interval():
    result = reorder(net(), data(), adjacent=True, batch_size=8)
    assert isinstance(result, ensemble_view.LesionResult)
    pairs = [(0, 1), (1, 2), (4, 5), (7, 8)]
    assert result.frame["blocks"].tolist() == [f"swap {i} {j}" for i, j in pairs]
    swaps = [ensemble_view.Swap(i, j) for i, j in pairs]
    np.testing.assert_array_equal(~result.outcomes.correct, errors_by_hooks(*swaps))
    direct = ensemble_view.lesion(net(), data(), do="swap 1 2", batch_size=8).frame
    columns = ["drop", "drop_low", "drop_high", "p_value"]
    np.testing.assert_allclose(result.frame[columns].iloc[1], direct[columns].iloc[0])
    axes = result.plot().axes[0]
    assert axes.get_xlabel() == "Intervention"


def test_whole_stages_are_reversed_and_shuffled():
    result = reorder(net(), data(), stages=True, batch_size=8)
    assert isinstance(result, ensemble_view.LesionResult)
    labels = ["reverse 0-2", "shuffle 0-2", "reverse 4-5", "shuffle 4-5"]
    assert result.frame["blocks"].tolist()[:4] == labels
    assert result.frame["blocks"].tolist()[-2:] == ["reverse all", "shuffle all"]
    assert len(result.frame) == 8
    orders = []
    for lesion in result.lesions:
        order = list(range(BLOCKS))
        for place, block in zip(sorted(lesion.blocks), lesion.blocks, strict=True):
            order[place] = block
        assert order != list(range(BLOCKS))
        orders.append(order)
    assert orders[0] == [2, 1, 0, *range(3, 9)]
    assert orders[-2] == [2, 1, 0, 3, 5, 4, 6, 8, 7]
    expected = errors_by_hooks(*map(Reorder, orders))
    np.testing.assert_array_equal(~result.outcomes.correct, expected)


def test_the_cost_of_orders_is_said_before_the_run():
    study = prepare(ReorderStudy, chain(), data(), swaps="1-2", trials=10, batch_size=8)
    assert str(study).startswith("15 orders after 1 to 2 swaps on 24 examples: ")


# What is said, drawn and kept.


@pytest.mark.parametrize("make", [many_result, reordered])
def test_a_saved_result_is_read_back_equal(make, tmp_path: Path):
    result = make()
    result.save(tmp_path)
    again = type(result).load(tmp_path)
    pd.testing.assert_frame_equal(again.frame, result.frame)
    pd.testing.assert_frame_equal(again.trials_frame, result.trials_frame)
    assert again == result
    assert again.summary == result.summary
    assert again.to_json() == result.to_json()
    assert again.run.provenance.seed == result.run.provenance.seed
    name = result.file_name
    written = {file.name for file in tmp_path.iterdir()}
    assert {f"{name}.csv", "trials.csv", f"{name}.pdf", "results.json"} <= written
    other = ReorderResult if isinstance(result, ManyResult) else ManyResult
    with pytest.raises(ResultError, match="kind"):
        other.load(tmp_path)


def test_tables_are_narrow_and_the_rank_correlation_is_printed_with_its_interval():
    for result, dose in (
        (many_result(), "the number of deleted blocks"),
        (reordered(), "Kendall's tau of the order"),
    ):
        text = repr(result)
        assert max(map(len, text.splitlines())) <= 80
        rho = result.correlation
        sentence = (
            f"Spearman's correlation of error with {dose} is {rho.value:.3f} "
            f"[{rho.low:.3f}, {rho.high:.3f}] over {rho.n} trials"
        )
        assert sentence in " ".join(text.split())
    lines = many_result().table.splitlines()
    assert lines[1].split()[:2] == ["1", "9*"]
    assert lines[2].split()[:2] == ["2", "12"]
    assert sum(line.startswith("* all there are") for line in lines) == 1


def intervals(figure: Figure) -> dict[float, tuple[float, float]]:
    (lines,) = [c for c in figure.axes[0].collections if type(c).__name__ == "LineCollection"]
    return {
        float(path.vertices[0, 0]): (float(path.vertices[0, 1]), float(path.vertices[1, 1]))
        for path in lines.get_paths()
    }


@pytest.mark.parametrize(("make", "dose"), [(many_result, "deleted"), (reordered, "tau")])
def test_the_figure_shows_means_intervals_full_net_and_chance(make, dose):
    result = make()
    figure, frame = result.plot(), result.frame
    axes = figure.axes[0]
    expected = {float(row[dose]): (row["low"], row["high"]) for row in frame.to_dict("records")}
    drawn = intervals(figure)
    assert list(drawn) == pytest.approx(list(expected))
    np.testing.assert_allclose(list(drawn.values()), list(expected.values()))
    means = axes.lines[-1]
    np.testing.assert_allclose(means.get_ydata(), frame["mean"])
    levels = [float(line.get_ydata()[0]) for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    assert levels == pytest.approx([result.full, result.run.scores.chance])
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == [
        f"full net ({result.full:.1%})", f"chance ({result.run.scores.chance:.1%})"
    ]  # fmt: skip
    if dose == "deleted":
        boxes = [patch.get_path().get_extents() for patch in axes.patches]
        quartiles = frame[["lower_quartile", "upper_quartile"]].to_numpy()
        np.testing.assert_allclose([[box.y0, box.y1] for box in boxes], quartiles)
    else:
        assert axes.xaxis_inverted()
        np.testing.assert_allclose(axes.lines[0].get_ydata(), result.means)


def test_rows_and_trials_must_fit_the_outcomes():
    result = many_result()
    with pytest.raises(MeasurementError, match="There are 1 trials but outcomes of 31"):
        ManyResult(result.run, result.names, ((0,),), (1,), ((0,),))


def test_language_models_are_measured_by_the_loss_per_token():
    model = own_net(vocabulary=VOCABULARY, blocks=3)
    tokens = sequences(12, 7, 12)
    text = windows("drawn", tokens, 64, "drawn")
    result = ensemble_view.random(model, text, count="1-2", trials=3, batch_size=2)
    found = unravel(model, torch.from_numpy(tokens[0])[None])
    assert len(result.deleted) == 6
    for blocks, mean in zip(result.deleted, result.means, strict=True):
        with edited(found, Delete(*blocks)):
            sums = [sums_by_hand(model, model, each) for each in tokens]
        expected = sum(s["loss"] for s in sums) / sum(s["tokens"] for s in sums)
        assert mean == pytest.approx(expected)
    assert "The loss per token of OwnNet on 3 examples of drawn" in result.summary
    assert result.frame["normalised"].isna().all()
    assert max(map(len, repr(result).splitlines())) <= 80
    shuffled = reorder(model, text, swaps="1-2", trials=3, batch_size=2)
    assert isinstance(shuffled, ReorderResult)
    assert shuffled.plot().axes[0].get_ylabel() == "Loss per token"


def test_a_measure_of_ones_own_is_drawn_from_too():
    def margin(outputs: Tensor, labels: Tensor) -> Tensor:
        return outputs.gather(1, labels[:, None])[:, 0]

    result = ensemble_view.random(net(), data(), count="2", trials=3, measure=margin, batch_size=8)
    inputs, labels = data()
    for blocks, row in zip(result.deleted, result.run.scores.values, strict=True):
        with torch.no_grad(), edited(chain(), Delete(*blocks)):
            np.testing.assert_allclose(row, margin(net()(inputs), labels), rtol=1e-9)
    (row,) = result.frame.to_dict("records")
    assert math.isnan(row["normalised"])
    assert row["worsening"] == pytest.approx(
        (result.run.outcomes.baseline - result.run.outcomes.values).mean()
    )
    assert "The margin of ResNet on 24 examples" in result.summary
    assert "chance" not in result.summary
    assert result.plot().axes[0].get_ylabel() == "Margin"
    assert max(map(len, repr(result).splitlines())) <= 80


# On the command line.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The net's weights, in single precision as files of weights are."""
    file = tmp_path_factory.mktemp("net") / "net.pt"
    torch.manual_seed(0)
    ensemble_view.save_checkpoint(
        file,
        build("resnet14,width=4", in_channels=1),
        architecture="resnet14,width=4,in_channels=1",
        data="digits",
        input_shape=(1, 8, 8),
    )
    return file


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_one_command_each_makes_the_figures(checkpoint, tmp_path, capsys):
    shared = ("--limit", 20, "--batch-size", 20, "--trials", 5)
    many_words = ("lesion", checkpoint, *shared, "--count", "1-2", "--out", tmp_path / "a")
    assert run(*many_words) == 0
    said = capsys.readouterr().out
    assert "11 sets of 1 to 2 of 6 blocks on 20 examples: " in said
    assert "Spearman's correlation of error with the number" in " ".join(said.split())
    assert ManyResult.load(tmp_path / "a").run.provenance.seed == 0
    words = ("reorder", checkpoint, *shared, "--swaps", "1-2", "--seed", 4)
    assert run(*words, "--out", tmp_path / "b") == 0
    said = capsys.readouterr().out
    assert "Spearman's correlation of error with Kendall's tau" in " ".join(said.split())
    assert ReorderResult.load(tmp_path / "b").run.provenance.seed == 4
    assert run("reorder", checkpoint, *shared, "--adjacent", "--json") == 0
    rows = json.loads(capsys.readouterr().out)["lesions"]
    assert [row["blocks"] for row in rows] == ["swap 0 1"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--trials", 9), "--trials is an option of random, not of lesion"),
        (("--stratified",), "--stratified is an option of random, not of lesion"),
        (
            ("--count", "1-3", "--do", "swap 0 1"),
            "--count and --do were given, which are different",
        ),
        (("--count", "7"), "7 blocks are to be deleted, but only 6 of the 6 blocks can be del"),
    ],
)
def test_options_that_do_not_go_together_are_one_sentence(checkpoint, capsys, words, sentence):
    assert run("lesion", checkpoint, "--limit", 10, *words) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


# The normalised drop of crossed trials.


def test_the_ratio_inverts_the_crossed_interval():
    rng = np.random.default_rng(0)
    table = rng.normal(0.3, 0.2, (6, 30)) + rng.normal(0, 0.1, (6, 1))
    units = rng.normal(0.8, 0.3, 30)
    found = crossed_ratio(table, units)
    assert found.value == pytest.approx(table.mean() / units.mean())
    for limit, side in ((found.low, 1), (found.high, -1)):
        mean, variance, freedom = crossed_by_hand(table - limit * units)
        half = scipy.stats.t.ppf(0.975, freedom) * math.sqrt(variance)
        assert mean - side * half == pytest.approx(0, abs=1e-6)
    assert found.low < found.value < found.high


@pytest.mark.parametrize(
    ("table", "units", "expected"),
    [
        ([[1.0, 1.0], [1.0, 1.0]], [2.0, 2.0], (0.5, 0.5, 0.5)),
        ([[1.0, 0.0], [1.0, 1.0]], [5.0, -5.0], (math.nan,) * 3),
    ],
)
def test_ratios_of_what_is_certain_or_cannot_be_told_from_nothing(table, units, expected):
    found = crossed_ratio(table, units)
    np.testing.assert_allclose((found.value, found.low, found.high), expected, atol=1e-8)


def test_the_ratio_of_shapes_that_do_not_fit_is_refused():
    with pytest.raises(MeasurementError, match="expected one unit per example"):
        crossed_ratio([[1.0, 0.0]], [1.0])


def test_the_ratios_interval_covers_what_it_should():
    """Crossed effects, 12 trials, 60 examples: nominal 95 %, at least 93 % of 600."""
    rng = np.random.default_rng(1)
    hits, rounds = 0, 600
    for _ in range(rounds):
        hard = rng.normal(0, 0.3, 60)
        table = 0.4 + rng.normal(0, 0.1, (12, 1)) + hard + rng.normal(0, 0.3, (12, 60))
        units = 0.8 + 0.5 * hard + rng.normal(0, 0.2, 60)
        found = crossed_ratio(table, units)
        hits += found.low <= 0.5 <= found.high
    assert 0.93 <= hits / rounds <= 0.985
