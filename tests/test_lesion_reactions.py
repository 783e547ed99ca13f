"""Reactions and doses, in miniature, against nets whose blocks are run by hand."""

from __future__ import annotations

import lesion_reactions
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from lesioned_nets import attempt

import ensemble_view
from ensemble_view import EnsembleViewError
from miniature import miniature_scale


def test_miniature_measures_reactions_and_doses(tmp_path):
    scale = miniature_scale(tmp_path / "nets", examples=320, epochs=10)
    lesion_reactions.run(
        tmp_path, scale, nets=("resnet8", "resnet14", "plain8"), images=100, draws=2
    )
    ((inputs, labels),) = scale.test.batches(100)
    net = scale.net("resnet14", 0).model

    # In the first stage of two blocks the second may react to the deletion of the first.
    first, second = net.layer1
    with torch.no_grad():
        x = F.relu(net.bn1(net.conv1(inputs)))
        change = (second(first(x)) - second(x)).flatten(1).double()
        left = (first(x) - x).flatten(1).double()
    reaction = ((change * left).sum(1) / (left * left).sum(1)).mean().item()
    stages = pd.read_csv(tmp_path / "stages.csv")
    found = stages.query("net == 'resnet14' and stage == '0'")["reaction"].item()
    assert found == pytest.approx(reaction, rel=1e-4)

    # The last block's branch at half its size.
    block = net.layer3[1]
    block.survival = 0.5
    with torch.no_grad():
        error = (net(inputs).argmax(1) != labels).float().mean().item()
    doses = pd.read_csv(tmp_path / "doses.csv")
    found = doses.query("net == 'resnet14' and blocks == '5' and dose == 0.5")["value"].item()
    assert found == pytest.approx(error)

    # Of resnet8 one block keeps the shape.
    nulls = pd.read_csv(tmp_path / "nulls.csv").query("net == 'resnet8'")
    noise = nulls[nulls["null"] == "noise"]
    assert noise["blocks"].tolist() == ["0", "1", "2"]
    said = (tmp_path / "summary.md").read_text()
    deleted = noise.iloc[0]["deleted"]
    assert f"| resnet8 | {100 * deleted:.1f} [" in said
    assert "| resnet8 | 0 | 0 |  |  |  |  |  |  |  |" in said
    assert [line.endswith("|  |") for line in said.splitlines() if "plain8 | 0 |" in line] == [True]


def test_a_refusal_is_told_in_its_own_words(tmp_path):
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    data = torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 2, 0])
    refused = attempt(lambda: ensemble_view.reaction(net, data))
    assert isinstance(refused, str)
    with pytest.raises(EnsembleViewError) as error:
        ensemble_view.reaction(net, data)
    assert refused == str(error.value)
    scale = miniature_scale(tmp_path)
    found = {"linear": lesion_reactions.Reactions(refused, refused)}
    lines = lesion_reactions.summary(scale, 4, found)
    assert sum(line.startswith(f"| linear | refused: {refused} |") for line in lines) == 2
