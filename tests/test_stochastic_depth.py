"""Stochastic depth and resilience, in miniature, against branches that are multiplied by zero."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import stochastic_depth
import torch
from stochastic_depth import Comparison

import ensemble_view
from miniature import miniature_scale


def test_miniature_compares_areas_of_equal_deletions(tmp_path, monkeypatch):
    scale = miniature_scale(tmp_path / "nets", examples=320, epochs=10)
    drawn = []
    many = ensemble_view.random
    monkeypatch.setattr(
        ensemble_view, "random", lambda *a, **k: (drawn.append(k["seed"]), many(*a, **k))[1]
    )
    areas = stochastic_depth.run(tmp_path, scale, Comparison("resnet8", "1-3"), trials=3)
    assert len(areas) == 4
    # Both nets of a seed lose the same blocks, those of another seed others.
    assert drawn == [0, 0, 1, 1]
    ((inputs, labels),) = scale.test.batches(100)
    chance = labels.bincount().max().item() / 100
    for kind, name in (("ordinary", "resnet8"), ("stochastic depth", "resnet8,survival=50")):
        net = scale.net(name, 1).model
        full = accuracy(net, [], inputs, labels)
        sets = [[]], [[0], [1], [2]], [[0, 1], [0, 2], [1, 2]], [[0, 1, 2]]
        left = [np.mean([accuracy(net, s, inputs, labels) for s in each]) for each in sets]
        drops = (full - np.array(left)) / (full - chance)
        # Four points a third apart.
        expected = (drops[0] / 2 + drops[1] + drops[2] + drops[3] / 2) / 3
        found = areas.query("kind == @kind and seed == 1")
        assert found["area"].item() == pytest.approx(expected)
        assert found["test_error"].item() == pytest.approx(1 - full)
    compared = pd.read_csv(tmp_path / "differences.csv").set_index("measure").loc["area"]
    by_kind = areas.groupby("kind")["area"].mean()
    assert compared["difference"] == pytest.approx(
        by_kind["stochastic depth"] - by_kind["ordinary"]
    )
    assert (tmp_path / "summary.md").read_text().count("points): inconclusive.") == 1
    assert (tmp_path / "curves.pdf").stat().st_size > 1000


def accuracy(net, deleted, inputs, labels):
    lesioned = copy.deepcopy(net)
    for index, block in enumerate([*lesioned.layer1, *lesioned.layer2, *lesioned.layer3]):
        block.survival *= index not in deleted
    with torch.no_grad():
        return (lesioned(inputs).argmax(1) == labels).float().mean().item()


def areas_of(stochastic, ordinary):
    return pd.DataFrame(
        [
            {"kind": kind, "seed": seed, "area": value, "test_error": 0.1}
            for kind, values in (("stochastic depth", stochastic), ("ordinary", ordinary))
            for seed, value in enumerate(values)
        ]
    )


def test_differences_are_paired_and_leave_out_what_is_undefined():
    found = stochastic_depth.differences(
        areas_of((0.4, 0.5, 0.6, np.nan), (0.3, 0.6, 0.6, 0.9))
    ).set_index("measure")
    row = found.loc["area"]
    assert row["seeds"] == 3
    assert row["difference"] == pytest.approx(0.0)
    # t with two degrees of freedom at 97.5 %: 4.3027; standard deviation 0.1.
    assert row["high"] == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)
    assert found.loc["test_error", "seeds"] == 4


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.04, 0.05, "supported"),
        (-0.06, 0.00, "inconclusive"),
        (0.04, 0.09, "inconclusive"),
        (-0.20, -0.06, "refuted, stochastic depth makes it larger"),
        (0.06, 0.20, "refuted, stochastic depth makes it smaller"),
        (np.nan, np.nan, "inconclusive"),
    ],
)
def test_the_words_follow_from_the_interval(low, high, said):
    assert stochastic_depth.verdict(low, high) == said


def test_an_undefined_drop_is_told(tmp_path):
    scale = miniature_scale(tmp_path)
    areas = areas_of((0.4, np.nan), (0.3, 0.6))
    lines = stochastic_depth.summary(
        scale, Comparison("resnet8", "1-3"), areas, stochastic_depth.differences(areas)
    )
    (told,) = [line for line in lines if line.startswith("The drop is not defined")]
    assert "stochastic depth, seed 1" in told
