"""Random deletions and swaps, in miniature, and how smooth a decay is."""

from __future__ import annotations

import copy

import lesion_curves
import numpy as np
import pandas as pd
import pytest
import torch
from smoothness import Decay, Disorder, half_gone, largest_rise

from ensemble_view.nets.models.blocks import SkippableBlock
from miniature import miniature_scale


def test_miniature_deletes_and_swaps(tmp_path):
    scale = miniature_scale(tmp_path / "nets", examples=320, epochs=10)
    table = lesion_curves.run(
        tmp_path, scale, nets=("resnet8", "resnet14", "highway8"), deletions=3, swaps=2, images=100
    )
    assert table.groupby("net", sort=False)["study"].agg(list).to_dict() == {
        "resnet8": ["deletions"],
        "resnet14": ["deletions", "swaps"],
        "highway8": ["deletions", "swaps"],
    }
    ((inputs, labels),) = scale.test.batches(100)

    # All single deletions, by branches and gates that are multiplied by zero.
    deletions = pd.read_csv(tmp_path / "deletions.csv").query("deleted == 1").set_index("net")
    nets = {name: scale.net(name, 0).model for name in ("resnet8", "resnet14", "highway8")}
    errors = {name: [error(each, inputs, labels) for each in without_each(net)]
              for name, net in nets.items()}  # fmt: skip
    assert deletions.loc["resnet8", "mean"] == pytest.approx(np.mean(errors["resnet8"]))
    drops = np.array(errors["highway8"]) - error(nets["highway8"], inputs, labels)
    single = pd.read_csv(tmp_path / "single-highway8.csv")
    assert single["drop"].tolist() == pytest.approx(drops.tolist())

    # The one pair of blocks of one shape, swapped, and swapped back: one bin of two trials.
    swapped = copy.deepcopy(nets["resnet14"])
    swapped.layer1 = swapped.layer1[::-1]
    swaps = pd.read_csv(tmp_path / "swaps.csv").query("net == 'resnet14'")
    both = [error(net, inputs, labels) for net in (swapped, nets["resnet14"])]
    assert swaps["mean"].item() == pytest.approx(np.mean(both))
    assert swaps[["least", "most"]].to_numpy().ravel().tolist() == pytest.approx(sorted(both))
    assert swaps["tau"].item() == pytest.approx(np.mean([1 - 2 / 15, 1]))

    words = (tmp_path / "summary.md").read_text()
    assert words.count("| resnet8 | refused: No two blocks among the 3 blocks of this net") == 1
    assert (tmp_path / "curves.pdf").stat().st_size > 1000


def without_each(net):
    count = sum(isinstance(module, SkippableBlock) for module in net.modules())
    for index in range(count):
        lesioned = copy.deepcopy(net)
        blocks = [module for module in lesioned.modules() if isinstance(module, SkippableBlock)]
        blocks[index].survival = 0.0
        yield lesioned


def error(net, inputs, labels):
    with torch.no_grad():
        return (net(inputs).argmax(1) != labels).float().mean().item()


def test_a_rise_has_the_interval_of_a_difference_of_independent_means():
    # The second step: 0.3 with sqrt(0.3^2 + 0.4^2) down and sqrt(0.8^2 + 0.6^2) up.
    table = pd.DataFrame({"value": [0.1, 0.4], "low": [-0.5, 0.1], "high": [0.5, 1.2]})
    assert largest_rise(table) == pytest.approx((0.3, -0.2, 1.3))
    # The first step is from the full net, whose drop is none.
    table = pd.DataFrame({"value": [0.8, 0.9], "low": [0.7, 0.6], "high": [0.9, 1.0]})
    value, low, _ = largest_rise(table)
    assert (value, low) == pytest.approx((0.8, 0.7))


class Deletions:
    """A result with the drops of a table at any level."""

    def __init__(self, **columns):
        self.frame = pd.DataFrame(columns)


def test_half_is_gone_by_the_ends_of_the_intervals(monkeypatch):
    monkeypatch.setattr("smoothness.at_level", lambda result, level: result)
    result = Deletions(
        deleted=[1, 2, 3, 4],
        normalised=[0.1, 0.4, 0.5, 0.6],
        normalised_low=[0.0, 0.1, 0.2, 0.3],
        normalised_high=[0.2, 0.7, 0.8, 0.9],
    )
    assert half_gone(result) == (3, 2, None)


@pytest.mark.parametrize(
    ("rise", "half", "said"),
    [
        ((0.1, 0.0, 0.25), (20, 10, 30), "yes"),
        ((0.1, 0.0, 0.25), (None, None, None), "yes"),
        ((0.1, 0.0, 0.26), (20, 10, 30), "inconclusive"),
        ((0.1, 0.0, 0.25), (20, 9, 30), "inconclusive"),
        ((0.7, 0.5, 0.90), (20, 10, 30), "no"),
        ((0.3, 0.1, 0.45), (4, 3, 4), "no"),
        ((0.3, 0.1, 0.45), (5, 4, 5), "inconclusive"),
        ((np.nan, np.nan, np.nan), (None, None, None), "inconclusive"),
    ],
)
def test_the_words_of_deletions_follow_from_the_bounds(rise, half, said):
    assert Decay(rise, half, blocks=100).verdict == said


@pytest.mark.parametrize(
    ("rise", "correlation", "said"),
    [
        ((0.1, 0.0, 0.25), (0.8, 0.5, 0.9), "yes"),
        ((0.1, 0.0, 0.25), (0.8, 0.4, 0.9), "inconclusive"),
        ((0.3, 0.0, 0.40), (0.8, 0.5, 0.9), "inconclusive"),
        ((0.7, 0.5, 0.90), (0.8, 0.7, 0.9), "no"),
        ((0.1, 0.0, 0.25), (np.nan, np.nan, np.nan), "inconclusive"),
    ],
)
def test_the_words_of_swaps_follow_from_the_bounds(rise, correlation, said):
    assert Disorder(rise, correlation).verdict == said
