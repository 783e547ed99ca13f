"""The predicted decay, in miniature, against autograd with branches held and weights of zero."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import predicted_decay
import pytest
import torch
import torch.nn.functional as F

import ensemble_view
from miniature import miniature_scale


def test_miniature_predicts_and_measures_every_net(tmp_path, monkeypatch):
    scale = miniature_scale(tmp_path / "nets", examples=320, epochs=10)
    drawn = []
    many = ensemble_view.random
    monkeypatch.setattr(
        ensemble_view, "random", lambda *a, **k: (drawn.append(k["seed"]), many(*a, **k))[1]
    )
    table = predicted_decay.run(tmp_path, scale, counts={"resnet8": "1-2"}, trials=3)
    assert list(zip(table["seed"], table["deleted"], strict=True)) == [
        (0, 1), (0, 2), (1, 1), (1, 2)
    ]  # fmt: skip
    # The nets of a recipe lose different blocks.
    assert drawn == [0, 1]
    net = scale.net("resnet8", 1).model
    found = table.query("seed == 1").set_index("deleted")
    ((inputs, labels),) = scale.test.batches(100)
    sets = {1: [[0], [1], [2]], 2: [[0, 1], [0, 2], [1, 2]]}
    for deleted, chosen in sets.items():
        shares = [share_without(net, blocks, inputs, labels) for blocks in chosen]
        assert found.loc[deleted, "left_by_weights"] == pytest.approx(np.mean(shares), rel=1e-4)
    chance = labels.bincount().max().item() / 100
    full = accuracy(net, inputs, labels)
    lesioned = [accuracy(without(net, block), inputs, labels) for block in range(3)]
    left = (np.mean(lesioned) - chance) / (full - chance)
    assert found.loc[1, "left"] == pytest.approx(left)
    single, pairs = found.loc[1], found.loc[2]
    assert single["predicted"] == pytest.approx(single["measured"])
    assert pd.isna(single["low"])
    assert pd.isna(single["high"])
    predicted = [additive_accuracy(net, blocks, inputs, labels) for blocks in sets[2]]
    assert pairs["predicted"] == pytest.approx(np.mean(predicted))
    assert pairs["low"] < pairs["difference"] < pairs["high"]
    recipe = pd.read_csv(tmp_path / "recipes.csv").set_index("deleted").loc[2]
    differences = table.query("deleted == 2")["difference"]
    # t with one degree of freedom at 97.5 %: 12.7062; one number of deletions is tested.
    half = 12.7062 * differences.std() / 2**0.5
    assert recipe["high"] - differences.mean() == pytest.approx(half, rel=1e-4)
    assert "| resnet8 | all 2 |" in (tmp_path / "summary.md").read_text()


def blocks_of(net):
    return [*net.layer1, *net.layer2, *net.layer3]


def share_without(net, deleted, inputs, labels):
    """Mean share of the gradient by the paths that avoid some branches: these are held."""
    entry = F.relu(net.bn1(net.conv1(inputs))).detach().requires_grad_()

    def gradient(held):
        x = entry
        for index, block in enumerate(blocks_of(net)):
            branch = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
            x = F.relu(block.shortcut(x) + (branch.detach() if index in held else branch))
        loss = F.cross_entropy(net.linear(x.mean((2, 3))), labels, reduction="sum")
        return torch.autograd.grad(loss, entry)[0].flatten(1).double()

    whole, part = gradient([]), gradient(deleted)
    return ((part * whole).sum(1) / (whole * whole).sum(1)).mean().item()


def without(net, index):
    lesioned = copy.deepcopy(net)
    norm = blocks_of(lesioned)[index].bn2
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.zeros_(norm.bias)
    return lesioned


def additive_accuracy(net, blocks, inputs, labels):
    with torch.no_grad():
        full = net(inputs)
        changes = [without(net, block)(inputs) - full for block in blocks]
    return ((full + sum(changes)).argmax(1) == labels).float().mean().item()


def accuracy(net, inputs, labels):
    with torch.no_grad():
        return (net(inputs).argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize(
    ("intervals", "said"),
    [
        ([(-0.09, 0.01), (0.00, 0.10)], "supported"),
        ([(-0.09, 0.01), (0.02, 0.11)], "inconclusive"),
        ([(-0.09, 0.01), (0.11, 0.30)], "refuted"),
        ([(-0.30, -0.11), (0.00, 0.10)], "refuted"),
        ([(np.nan, np.nan), (0.00, 0.10)], "inconclusive"),
    ],
)
def test_the_words_follow_from_the_intervals_up_to_half(intervals, said):
    # The third has less than half left, the fourth no longer counts.
    low, high = zip(*[(np.nan, np.nan), *intervals, (0.5, 0.6)], strict=True)
    rows = pd.DataFrame(
        {"deleted": range(1, 5), "left": [0.9, 0.8, 0.4, 0.2], "low": low, "high": high}
    )
    assert predicted_decay.verdict(rows) == said
    assert len(predicted_decay.up_to_half(rows.assign(left=0.6))) == 4


def test_a_net_that_one_deletion_ruins_tests_nothing():
    rows = pd.DataFrame({"deleted": [1, 2], "left": [0.4, 0.2], "low": np.nan, "high": np.nan})
    assert predicted_decay.verdict(rows) == "inconclusive"


def test_a_bundled_net_has_one_seed(tmp_path):
    scale = miniature_scale(tmp_path)
    assert predicted_decay.seeds_of(scale, "digits-resnet110") == (0,)
    assert predicted_decay.seeds_of(scale, "resnet8") == (0, 1)
