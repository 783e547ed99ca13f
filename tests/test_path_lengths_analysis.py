"""The analysis of path lengths, in miniature."""

from __future__ import annotations

import itertools

import pandas as pd
import path_lengths
import pytest
import torch

from miniature import miniature_scale


def test_miniature_weighs_paths_of_trained_untrained_and_half_trained_nets(tmp_path):
    scale = miniature_scale(tmp_path / "nets", epochs=3)
    found = path_lengths.run(
        tmp_path, scale, nets=("resnet8",), in_training=("resnet8",), epochs=(0, 3),
        weighted=4, shared_out=10,
    )  # fmt: skip
    result = found["resnet8"]
    assert set(result.effective) == set(path_lengths.NAMES)
    assert result.untrained is not None
    shares = pd.read_csv(tmp_path / "shares.csv").set_index("trained")
    assert shares.loc[True, "mean"] == pytest.approx(mean_length(scale, 10), rel=1e-4)
    by_epoch = pd.read_csv(tmp_path / "checkpoints.csv")
    assert by_epoch.groupby(["seed", "epoch"]).size().tolist() == [1] * 4
    # The last checkpoint is the trained net.
    last = by_epoch.query("seed == 0 and epoch == 3")["mean"].item()
    assert last == pytest.approx(shares.loc[True, "mean"], rel=1e-4)
    means = by_epoch.pivot_table(index="seed", columns="epoch", values="mean")
    change = pd.read_csv(tmp_path / "changes.csv").iloc[0]
    assert change["difference"] == pytest.approx((means[3] - means[0]).mean())
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "checkpoints.png", "resnet8-weightings.png", "resnet8-paths.png",
    }  # fmt: skip


def mean_length(scale, images):
    """The mean length by share of the gradient: each path's own, through the modules."""
    net = scale.net("resnet8", 0).model.double().eval()
    blocks = [block for stage in (net.layer1, net.layer2, net.layer3) for block in stage]
    data = scale.test.subset(images, 0)
    means = []
    for inputs, labels in data.batches(images):
        for x, label in zip(inputs.double(), labels, strict=True):
            h = torch.relu(net.bn1(net.conv1(x[None]))).detach()
            by_length = [torch.zeros_like(h) for _ in range(len(blocks) + 1)]
            for path in itertools.product((0, 1), repeat=len(blocks)):
                by_length[sum(path)] += gradient(net, blocks, h, label, path)
            whole = sum(by_length)
            shares = [float((c * whole).sum() / (whole * whole).sum()) for c in by_length]
            means.append(sum(k * share for k, share in enumerate(shares)))
    return sum(means) / len(means)


def gradient(net, blocks, h, label, path):
    """Along one path: what the path does not take is held where it was."""
    start = h.clone().requires_grad_()
    value = start
    for block, taken in zip(blocks, path, strict=True):
        branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(value)))))
        shortcut = block.shortcut(value)
        value = torch.relu(branch + shortcut.detach() if taken else branch.detach() + shortcut)
    logits = net.linear(value.mean(dim=(2, 3)))
    loss = torch.nn.functional.cross_entropy(logits, label[None])
    return torch.autograd.grad(loss, start)[0]


@pytest.mark.parametrize(
    ("mean_low", "mean_high", "negative", "said"),
    [
        (2.0, 3.0, 0.01, "supported"),
        (2.0, 3.0, 0.06, "inconclusive"),
        (2.0, 3.1, 0.01, "inconclusive"),
        (4.1, 6.0, 0.01, "refuted"),
    ],
)
def test_short_paths_are_a_third_of_the_blocks(mean_low, mean_high, negative, said):
    row = {"blocks": 9, "mean_low": mean_low, "mean_high": mean_high, "negative_mass": negative}
    assert path_lengths.verdict(row) == said


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 2.0, "longer"), (-2.0, -0.1, "shorter"), (-1.0, 1.0, "cannot be told")],
)
def test_training_lengthens_paths_or_shortens_them(low, high, said):
    assert path_lengths.direction(low, high) == said
