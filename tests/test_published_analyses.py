"""The analyses of published and bundled nets, in miniature: a small net, few images."""

from __future__ import annotations

from types import SimpleNamespace

import many_lesions
import pandas as pd
import pytest
import reaction
import reordering
import single_lesions
import torch

from ensemble_view import load_checkpoint, open_data, save_checkpoint
from ensemble_view.nets.models.building import build

ARCHITECTURE = "cifar:resnet20,width=4,in_channels=1"
MEAN, STD = (0.3,), (0.4,)
LIMIT = 40


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The checkpoint of a small net in whose answers every block has a say."""
    torch.manual_seed(0)
    net = build(ARCHITECTURE)
    images, _ = next(open_data("digits", mean=MEAN, std=STD, limit=200).batches(200))
    with torch.no_grad():
        for _ in range(50):
            net(images)
        # Else one class would be the answer to everything, whatever is deleted.
        net.linear.bias -= net.eval()(images).mean(0)
    path = tmp_path_factory.mktemp("nets") / "small.safetensors"
    save_checkpoint(path, net, architecture=ARCHITECTURE, normalisation=(MEAN, STD))
    return path


def error(net, blocks, images, labels):
    """The error of the modules themselves, with these blocks, None for a block left out."""
    with torch.no_grad():
        x = torch.relu(net.bn1(net.conv1(images)))
        for index, block in enumerate(blocks):
            x = torch.relu(blocks_of(net)[index].shortcut(x)) if block is None else block(x)
        found = net.linear(x.mean(dim=(2, 3))).argmax(1)
    return float((found != labels).double().mean())


def blocks_of(net):
    return [block for stage in (net.layer1, net.layer2, net.layer3) for block in stage]


@pytest.fixture(scope="module")
def seen(small):
    """The net, its blocks and the images that the analyses choose."""
    net = load_checkpoint(small).model.eval()
    images, labels = next(
        open_data("digits", mean=MEAN, std=STD, limit=LIMIT, seed=0).batches(LIMIT)
    )
    return SimpleNamespace(net=net, blocks=blocks_of(net), images=images, labels=labels)


def test_random_deletions(small, seen, tmp_path):
    result = many_lesions.run(tmp_path, small, "digits", count="1,4", trials=5, limit=LIMIT)
    for deleted, mean in zip(result.deleted, result.means, strict=True):
        left = [None if index in deleted else block for index, block in enumerate(seen.blocks)]
        assert mean == pytest.approx(error(seen.net, left, seen.images, seen.labels))
    assert len(set(result.means)) > 3
    table = pd.read_csv(tmp_path / "random.csv")
    assert table["deleted"].tolist() == [1, 4]
    assert result.summary in (tmp_path / "summary.md").read_text()
    assert (tmp_path / "many.pdf").stat().st_size > 1000


def test_reorderings(small, seen, tmp_path):
    random, single = reordering.run(tmp_path, small, "digits", swaps="1-3", trials=3, limit=LIMIT)
    for order, mean in zip(random.trials, random.means, strict=True):
        shuffled = [seen.blocks[index] for index in order]
        assert mean == pytest.approx(error(seen.net, shuffled, seen.images, seen.labels))
    assert len(set(random.means)) > 1
    summary = (tmp_path / "summary.md").read_text()
    assert random.summary in summary
    assert single.summary in summary
    assert {path.name for path in tmp_path.glob("*.pdf")} == {"reorder.pdf", "single.pdf"}


def test_reactions_and_doses(small, seen, tmp_path):
    threads = torch.get_num_threads()
    try:
        found, doses = reaction.run(tmp_path, {"small": small}, "digits", limit=LIMIT)
    finally:
        torch.set_num_threads(threads)
    # The dose 0 is the deletion.
    whole = error(seen.net, seen.blocks, seen.images, seen.labels)
    for block, rows in doses.frame.groupby("blocks"):
        left = [
            None if block in ("all", str(index)) else each for index, each in enumerate(seen.blocks)
        ]
        expected = error(seen.net, left, seen.images, seen.labels)
        dose = rows.set_index("dose")
        assert dose.loc[0.0, "value"] == pytest.approx(expected)
        assert dose.loc[1.0, "value"] == pytest.approx(whole)
    assert doses.frame["value"].nunique() > 5
    assert {"small"} == set(found)
    summary = (tmp_path / "summary.md").read_text()
    assert found["small"].summary in summary
    assert doses.summary in summary


def test_single_lesions_of_the_bundled_nets(tmp_path):
    results = single_lesions.run(tmp_path, single_lesions.PLAIN, limit=10)
    assert [len(result.frame) for result in results.values()] == [28, 9]
    drops = pd.read_csv(tmp_path / "digits-plain32.csv")["drop"]
    line = next(
        line
        for line in (tmp_path / "summary.md").read_text().splitlines()
        if line.startswith("| digits-plain32")
    )
    assert f"| {drops.median():.1%} | {drops.max():.1%} (block " in line
    assert (tmp_path / "comparison.pdf").stat().st_size > 1000
