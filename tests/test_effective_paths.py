"""Training with some of the blocks, in miniature: bounds, words, nets with few blocks."""

from __future__ import annotations

import copy
from dataclasses import replace

import effective_paths
import numpy as np
import pandas as pd
import pytest
import torch
from keep_sets import KeepEach, drawn, probabilities, weighed

from ensemble_view.nets.models.building import build
from ensemble_view.training.regimes import EffectivePaths
from miniature import miniature_scale

NETS = effective_paths.Nets("resnet14,kept=2", "resnet14", "resnet8")


def with_branches(model, factors):
    """The net whose branches are multiplied, by way of their last BatchNorm's parameters."""
    net = copy.deepcopy(model).eval()
    stages = (net.layer1, net.layer2, net.layer3)
    blocks = [block for stage in stages for block in stage]
    with torch.no_grad():
        for block, factor in zip(blocks, factors, strict=True):
            block.bn2.weight *= factor
            block.bn2.bias *= factor
    return net


def error_of(model, data):
    with torch.no_grad():
        wrong = [
            int(model(x[None]).argmax() != y)
            for x, y in zip(*data.take(range(len(data))), strict=True)
        ]
    return sum(wrong) / len(data)


def test_miniature_measures_nets_with_few_and_all_blocks(tmp_path):
    scale = miniature_scale(tmp_path / "nets")
    table = effective_paths.run(tmp_path, scale, NETS)
    found = table.set_index(["net", "kept", "seed"])["error"]
    for seed in scale.seeds:
        some, full = (scale.net(net, seed).model for net in (NETS.some, NETS.full))
        # Weighed in evaluation, a branch counts 2/6; as in training it counts one.
        whole = with_branches(some, [3] * 6)
        assert found["some, as in training", 6, seed] == pytest.approx(error_of(whole, scale.test))
        assert found["some, weighed", 6, seed] == pytest.approx(error_of(some, scale.test))
        bare = with_branches(full, [0] * 6)
        assert found["full", 0, seed] == pytest.approx(error_of(bare, scale.test))
        bare = with_branches(some, [0] * 6)
        for net in ("some, as in training", "some, weighed"):
            assert found[net, 0, seed] == pytest.approx(error_of(bare, scale.test))
    errors = pd.read_csv(tmp_path / "errors.csv").set_index(["net", "seed"])["error"]
    assert errors["resnet14", 1] == pytest.approx(
        error_of(scale.net("resnet14", 1).model, scale.test)
    )
    assert "C7 (training with 2 of 6 blocks" in (tmp_path / "summary.md").read_text()
    again = effective_paths.kept_at_test(scale, NETS, 0)
    pd.testing.assert_frame_equal(table[table["seed"] == 0], again)


def test_statistics_are_those_of_evaluation(tmp_path):
    scale = miniature_scale(tmp_path / "nets", seeds=(0,))
    net = scale.net("resnet8,kept=1", 0).model
    before = copy.deepcopy(net.state_dict())
    found = effective_paths.estimated_anew(net, scale.train)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    # By hand, through the first block, whose branch counts a third.
    images, _ = scale.train.take(range(64))
    block = net.layer1[0]

    def normalised(x, norm):
        mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        scaled = (x - mean[:, None, None]) / (variance + norm.eps)[:, None, None] ** 0.5
        return scaled * norm.weight[:, None, None] + norm.bias[:, None, None]

    with torch.no_grad():
        x = normalised(net.conv1(images), net.bn1).relu()
        branch = normalised(block.conv1(x), block.bn1).relu()
        branch = normalised(block.conv2(branch), block.bn2)
        into_next = net.layer2[0].conv1((x + branch / 3).relu())
    norm = found.layer2[0].bn1
    torch.testing.assert_close(norm.running_mean, into_next.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(norm.running_var, into_next.var((0, 2, 3)), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(norm.running_mean, net.layer2[0].bn1.running_mean, atol=1e-2)


def test_one_seed_has_no_bounds_and_no_verdict(tmp_path):
    scale = replace(miniature_scale(tmp_path / "nets"), seeds=(0,))
    effective_paths.run(tmp_path, scale, NETS)
    assert "is inconclusive." in (tmp_path / "summary.md").read_text()


def test_each_keep_set_is_the_net_with_the_other_branches_at_zero(tmp_path):
    scale = miniature_scale(tmp_path / "nets", seeds=(0,))
    model = scale.net("resnet14,survival=50", 0).model
    keep_sets = [(0, 2, 3), (1,), (0, 2, 3), (0, 1, 4, 5)]
    images, _ = scale.test.take(range(len(scale.test)))
    survivals = [1 - 0.5 * number / 6 for number in range(1, 7)]
    for net, weights in (
        (model, [1.0] * 6),
        (weighed(model, [1.0] * 6), [1 / s for s in survivals]),
        (weighed(model, [2 * s for s in survivals]), [2.0] * 6),
    ):
        found = probabilities(net, scale.test, keep_sets)
        for kept, answers in zip([range(6), *keep_sets], found, strict=True):
            factors = [weight if index in kept else 0 for index, weight in enumerate(weights)]
            with torch.no_grad():
                expected = with_branches(model, factors)(images).double().softmax(1).numpy()
            np.testing.assert_allclose(answers, expected, atol=2e-5)
    # The copy has not changed the net.
    assert [b.survival for b in model.modules() if hasattr(b, "survival")] == pytest.approx(
        survivals
    )


def test_keep_sets_follow_their_rule():
    generator = torch.Generator().manual_seed(0)
    model = build("resnet20")
    exact = drawn(EffectivePaths(4), model, 500, generator)
    assert {len(kept) for kept in exact} == {4}
    each = drawn(KeepEach(0.8), model, 2000, generator)
    shares = np.array([[index in kept for index in range(9)] for kept in each]).mean(0)
    assert np.abs(shares - 0.8).max() < 4 * (0.8 * 0.2 / 2000) ** 0.5
    # They do not depend on each other.
    assert np.var([len(kept) for kept in each]) == pytest.approx(9 * 0.8 * 0.2, rel=0.15)


def test_bounds_are_those_of_welch():
    one, other = (0.02, 0.03, 0.025, 0.035, 0.03), (0.02, 0.021, 0.022, 0.019, 0.018)
    found = effective_paths.welch(one, other)
    squares = [np.var(errors, ddof=1) / 5 for errors in (one, other)]
    freedom = sum(squares) ** 2 / sum(square**2 / 4 for square in squares)
    assert found.value == pytest.approx(0.008)
    # Student's t at 95 and 97.5 % with 4.6 degrees of freedom, between tabulated 4 and 5.
    assert freedom == pytest.approx(4.6, abs=0.05)
    wide = (found.upper - 0.008) / sum(squares) ** 0.5
    assert 2.015 < wide < 2.132
    assert 0.008 - found.lower == pytest.approx(found.upper - 0.008)
    assert 2.571 < (found.high - 0.008) / sum(squares) ** 0.5 < 2.776
    # The bound and the test agree: not inferior exactly where p is at most 5 %.
    at_bound = effective_paths.welch(np.array(one) - (found.upper - effective_paths.MARGIN), other)
    assert at_bound.p_inferior == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("lower", "upper", "said"),
    [
        (-0.002, 0.0049, "yes"),
        (-0.002, 0.0051, "cannot be told"),
        (0.0049, 0.009, "cannot be told"),
        (0.0051, 0.009, "no"),
        (np.nan, np.nan, "cannot be told"),
    ],
)
def test_the_claim_follows_from_the_bounds(lower, upper, said):
    assert effective_paths.not_inferior(lower, upper) == said


@pytest.mark.parametrize(
    ("shift", "said"), [(0.1, "worse"), (-0.1, "better"), (0.0, "cannot be told")]
)
def test_pairs_are_told_apart_after_holm(shift, said):
    base = np.array([0.30, 0.31, 0.29, 0.305, 0.295])
    errors = pd.DataFrame(
        [
            (net, seed, error)
            for net, errors in (("a", base + shift), ("b", base), ("c", base[::-1]))
            for seed, error in enumerate(errors)
        ],
        columns=["net", "seed", "error"],
    )
    table = effective_paths.comparisons(errors, (("a", "b"), ("b", "c"), ("a", "c")), "error")
    assert table["direction"].tolist() == [said, "cannot be told", said]
    assert table["p_holm"].tolist() == pytest.approx(
        [min(1, 3 * table["p_value"][0]), 1, min(1, 3 * table["p_value"][2])], abs=1e-9
    )


@pytest.mark.parametrize(
    ("few", "said"), [(0.5, "worse than"), (0.1, "better than"), (0.3, "not to be told from")]
)
def test_few_blocks_are_held_against_all(few, said):
    spread = (0.01, -0.01, 0.0)
    rows = [
        (net, kept, seed, error + (spread[seed] if kept == 2 else 0))
        for net, kept, error in (("some, as in training", 2, few), ("some, weighed", 6, 0.3))
        for seed in range(3)
    ]
    kept = pd.DataFrame(rows, columns=["net", "kept", "seed", "error"])
    assert f"are {said} all" in effective_paths.few_against_all(kept, NETS)
