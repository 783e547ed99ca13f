"""The analysis of layer responses and of the amplifier, in miniature and against closed forms."""

from __future__ import annotations

import layer_responses
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from ensemble_view import Block, Chain, open_data
from ensemble_view.nets.models.building import build


def double(data):
    """Images in double precision."""

    class Double:
        def batches(self, size):
            return ((images.double(), labels) for images, labels in data.batches(size))

    return Double()


def test_a_layer_responds_after_its_batchnorm_where_it_has_one():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 3, 3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3),
    ).double().eval()  # fmt: skip
    for norm in (net[1], net[5]):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    data = open_data("digits", limit=70)
    found = layer_responses.moments(net, double(data))
    assert not any(module._forward_hooks for module in net.modules())
    images = torch.cat([images for images, _ in data.batches(7)]).double()
    with torch.no_grad():
        expected = {"0": net[:2](images).numpy(), "3": net[:4](images).numpy()}
    assert list(found) == list(expected)
    table = layer_responses.responses(found).set_index("name")
    for name, values in expected.items():
        flat = values.reshape(70, -1)
        assert table.loc[name, "pooled"] == pytest.approx(flat.std())
        logs = np.log(flat.std(1))
        assert table.loc[name, "typical"] == pytest.approx(np.exp(logs.mean()))
    assert table.loc["mean", "pooled"] == pytest.approx(table["pooled"].iloc[:2].mean())


def test_limits_are_students_for_a_mean_and_leave_each_out_for_a_deviation():
    values = np.random.default_rng(0).normal(3, 2, 25)
    low, high = layer_responses.jackknife(values.mean(), layer_responses.without_each(values))
    half = stats.t.ppf(0.975, 24) * stats.sem(values)
    assert [low, high] == pytest.approx([values.mean() - half, values.mean() + half])
    images = np.random.default_rng(1).normal(1, 2, (12, 40))
    moments = np.stack([images.mean(1), np.square(images).mean(1)], 1)
    row = layer_responses.responses({"layer": moments}).iloc[0]
    without = [np.delete(images, index, 0).std() for index in range(12)]
    half = stats.t.ppf(0.975, 11) * np.std(without) * 11**0.5
    assert row["pooled_high"] - row["pooled"] == pytest.approx(half)


def test_amplification_of_the_notes_numbers():
    """F = x - 4.9 at x = 5: F is 0.1, H is 5.1; F changes by half of what H does."""
    block = Block(0, "F", branch=lambda x, context: x - 4.9, shape_in=(1,), shape_out=(1,))
    twice = Block(1, "G", branch=lambda x, context: 2 * x, after=lambda x, context: x.relu())
    chain = Chain.from_parts(lambda images: images.flatten(1)[:, :1] * 0 + 5, [block], lambda x: x)

    class Fives:
        def batches(self, size):
            yield torch.full((6, 1, 1, 1), 5.0, dtype=torch.float64), torch.zeros(6)

    found = layer_responses.changes(chain, Fives())["block"]
    row = layer_responses.amplification(found, ["F"]).iloc[0]
    assert row["change_of_branch"] == pytest.approx(0.05 / 0.1)
    assert row["change_of_sum"] == pytest.approx(0.1 / 5.1)
    assert row["factor"] == pytest.approx(51)
    assert row["amplification"] == pytest.approx(51 / 2)
    # Through the stem that gives fives whatever comes in, nothing of the image's change arrives.
    assert (layer_responses.changes(chain, Fives())["image"][:2] == 0).all()

    chain = Chain.from_parts(lambda images: images.flatten(1), [block, twice], lambda x: x)
    found = layer_responses.changes(chain, Fives())
    first, second, mean = layer_responses.amplification(found["image"], ["F", "G"]).to_dict(
        "records"
    )
    assert first["amplification"] == pytest.approx(51 / 2)
    # H of the first comes in, changed by 0.1 / 5.1; F and H of the second change alike.
    assert second["change_of_branch"] == pytest.approx(0.1 / 5.1)
    assert second["amplification"] == pytest.approx(1)
    assert second["factor"] == pytest.approx(1.5)
    assert mean["amplification"] == pytest.approx((51 / 2) ** 0.5)


def test_noise_has_the_norm_it_should():
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = layer_responses.changed(x, torch.Generator().manual_seed(1))
    relative = (moved - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert relative.tolist() == pytest.approx([layer_responses.CHANGE] * 5)


def test_miniature_of_a_published_net_and_a_bundled_one(tmp_path, monkeypatch):
    torch.manual_seed(0)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "data").mkdir()
    state = {f"module.{name}": value for name, value in build("resnet8").state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "checkpoints" / "resnet8-1.th")
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "data" / layer_responses.IMAGES, images=images, labels=np.arange(20) % 10)
    monkeypatch.setattr(layer_responses, "BUNDLED", ())
    monkeypatch.setattr(layer_responses, "PLAIN", ("digits-vgg15",))
    threads = torch.get_num_threads()
    try:
        layers, blocks = layer_responses.run(tmp_path / "out", tmp_path, limit=20)
    finally:
        torch.set_num_threads(threads)
    assert layers.groupby("net")["layer"].max().to_dict() == {"resnet8": 6, "digits-vgg15": 12}
    assert blocks.groupby("changed")["block"].max().to_dict() == {"image": 2, "block": 2}
    assert (blocks["amplification_low"] < blocks["amplification"]).all()
    assert (blocks["amplification"] < blocks["amplification_high"]).all()
    assert len(pd.read_csv(tmp_path / "out" / "changes.csv")) == len(blocks)
    for name in ("responses.csv", "layer_responses.pdf", "layer_responses.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "| resnet8 | yes | 7 |" in summary
    assert "| digits-vgg15 | no | 13 |" in summary
