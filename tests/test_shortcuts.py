"""The analysis of shortcuts, in miniature: errors, costs counted by hand, times, sentences."""

from __future__ import annotations

import net_costs
import numpy as np
import pandas as pd
import pytest
import shortcuts
import torch
from net_costs import Cost

from ensemble_view.nets.models.building import build
from miniature import miniature_scale


def test_miniature_counts_what_the_options_cost(tmp_path):
    scale = miniature_scale(tmp_path / "nets")
    errors = shortcuts.run(tmp_path, scale, groups=shortcuts.nets(8, 20), batch=8, rounds=6)
    assert errors.groupby("group", sort=False)["net"].nunique().tolist() == [4, 2]
    costs = pd.read_csv(tmp_path / "costs.csv").set_index("name").drop(columns="group")
    # Zero padding costs nothing; a projection its weights, BatchNorm's two numbers per channel,
    # and a multiply-add per weight and pixel that it gives.
    projections = {"B": [(16, 32, 4), (32, 64, 2)], "C": [(16, 16, 8), (16, 32, 4), (32, 64, 2)]}
    for option, added in projections.items():
        more = costs.loc[option] - costs.loc["A"]
        assert more["parameters"] == sum(a * b + 2 * b for a, b, _ in added)
        assert more["multiply_adds"] == sum(a * b * side**2 for a, b, side in added)
    assert costs.loc["plain", "parameters"] == costs.loc["A", "parameters"]
    # Of two bottlenecks per stage the second keeps its shape.
    more = costs.loc["projection"] - costs.loc["identity"]
    wide = [(64, 8), (128, 4), (256, 2)]
    assert more["parameters"] == sum(n * n + 2 * n for n, _ in wide)
    assert more["multiply_adds"] == sum(n * n * side**2 for n, side in wide)
    times = pd.read_csv(tmp_path / "times.csv")
    assert times.shape == (6, 6)
    ratios = times["resnet8,shortcut=C"] / times["resnet8"]
    assert costs.loc["C", "time_ratio"] == pytest.approx(ratios.median())
    # Of six values, the extremes cover the median but for 2 of 64 cases.
    assert costs.loc["C", "low"] == pytest.approx(ratios.min())
    assert costs.loc["C", "high"] == pytest.approx(ratios.max())
    doubling = pd.read_csv(tmp_path / "doubling.csv").set_index("of")
    ratios = times["resnet20,layers=3,shortcut=C"] / times["resnet20,layers=3,shortcut=B"]
    assert doubling.loc["resnet20 with bottlenecks", "time"] == pytest.approx(ratios.median())
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert "| one block of 256 channels | 1.94 | yes | 1.94 | yes | — | — |" in text
    assert (tmp_path / "shortcuts.png").stat().st_size > 1000


def test_multiply_adds_are_those_of_convolutions_and_the_linear_layer():
    # A plain net of depth 8 by hand: 3x3 convolutions at 8, 4 and 2 pixels a side.
    layers = [(1, 16, 8), (16, 16, 8), (16, 16, 8), (16, 32, 4), (32, 32, 4), (32, 64, 2)]
    layers.append((64, 64, 2))
    expected = sum(9 * a * b * side**2 for a, b, side in layers) + 64 * 10
    found = net_costs.cost(build("plain8", in_channels=1).eval(), torch.zeros(1, 1, 8, 8))
    assert found.multiply_adds == expected
    assert found.parameters == sum(9 * a * b + 2 * b for a, b, _ in layers) + 64 * 10 + 10


def test_a_large_net_with_projections_is_counted_without_weights():
    whole = [shortcuts.imagenet_net(projections=with_) for with_ in (False, True)]
    image = torch.zeros(1, 3, 224, 224, device="meta")
    before, after = (net_costs.cost(net, image) for net in whole)
    # As torchvision's documentation has it.
    assert before.parameters == 25_557_032
    assert before.multiply_adds / 1e9 == pytest.approx(4.09, abs=0.005)
    # Blocks that keep the shape: two of 256 channels, three of 512, five of 1024, two of 2048.
    kept = [(256, 56)] * 2 + [(512, 28)] * 3 + [(1024, 14)] * 5 + [(2048, 7)] * 2
    assert after.parameters - before.parameters == sum(n * n + 2 * n for n, _ in kept)
    more = after.multiply_adds - before.multiply_adds
    assert more == sum(n * n * side**2 for n, side in kept)


def test_one_block_grows_by_what_its_shortcut_has():
    found = shortcuts.ratio("a block", Cost(100, 10), Cost(150, 19))
    assert (found.parameters, found.multiply_adds) == (1.5, 1.9)
    assert np.isnan(found.time)


def test_the_interval_of_a_median_covers_it():
    # By simulation: ranks of 31 skewed values, whose median is ln 2.
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(2000):
        median, low, high = net_costs.median_interval(generator.exponential(size=31))
        assert low <= median <= high
        covered += low <= np.log(2) <= high
    # Between the 10th and the 22nd of 31: 97.06 % exactly.
    assert covered / 2000 == pytest.approx(0.9706, abs=0.012)
    assert np.isnan(net_costs.median_interval([1, 2, 3, 4, 5])[1])


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((1.94, np.nan, np.nan), "yes"),
        ((1.57, np.nan, np.nan), "no, less"),
        ((2.5, np.nan, np.nan), "no, more"),
        ((2.0, 1.8, 2.2), "yes"),
        ((2.0, 1.7, 2.1), "cannot be told"),
        ((2.0, 1.9, 2.3), "cannot be told"),
        ((1.6, 1.5, 1.7), "no, less"),
        ((2.4, 2.3, 2.5), "no, more"),
    ],
)
def test_the_words_follow_from_the_ratio(interval, said):
    assert shortcuts.doubled(*interval) == said
