"""The responses by depth, in miniature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import responses_by_depth
import torch

from miniature import miniature_scale


def test_miniature_measures_every_layer_of_every_seed(tmp_path):
    scale = miniature_scale(tmp_path / "nets")
    nets = ("resnet8", "plain8")
    table = responses_by_depth.run(tmp_path, scale, nets=nets)
    assert table.groupby(["net", "seed"]).size().tolist() == [7] * 4
    # The first layer by hand: convolution, BatchNorm, deviation of each image's values.
    layer = torch.nn.Sequential(*list(scale.net("plain8", 1).model.modules())[2:4])
    assert isinstance(layer[0], torch.nn.Conv2d)
    assert isinstance(layer[1], torch.nn.BatchNorm2d)
    with torch.no_grad():
        logs = [
            layer(x[None]).std(correction=0).log()
            for inputs, _ in scale.test.batches(50)
            for x in inputs
        ]
    found = table.query("net == 'plain8' and seed == 1 and layer == 0")["typical"].item()
    assert found == pytest.approx(float(np.exp(np.mean(logs))), rel=1e-5)
    by_net = pd.read_csv(tmp_path / "nets.csv").set_index("net")
    per_seed = table[table["net"] == "resnet8"].groupby("seed")["typical"].mean()
    assert by_net.loc["resnet8", "typical"] == pytest.approx(per_seed.mean())
    assert (tmp_path / "summary.md").read_text().count("resnet8") == 1


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 0.2, "yes"), (-0.2, -0.1, "no, the other way round"), (-0.1, 0.1, "cannot be told")],
)
def test_the_words_follow_from_the_interval(low, high, said):
    assert responses_by_depth.verdict(pd.Series({"low": low, "high": high})) == said


def test_one_seed_has_no_interval(tmp_path):
    scale = replace(miniature_scale(tmp_path / "nets"), seeds=(0,))
    responses_by_depth.run(tmp_path, scale, nets=("resnet8", "plain8"))
    assert "nan" not in (tmp_path / "summary.md").read_text()
