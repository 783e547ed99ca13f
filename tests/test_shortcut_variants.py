"""The analysis of variants of the shortcut, in miniature: every variant, and its control."""

from __future__ import annotations

import pandas as pd
import pytest
import shortcut_variants
import torch

from ensemble_view.nets.models.building import build
from miniature import miniature_scale


def test_miniature_holds_every_variant_against_the_original(tmp_path):
    scale = miniature_scale(tmp_path / "nets")
    groups = shortcut_variants.nets(8)
    errors = shortcut_variants.run(tmp_path, scale, groups=groups)
    assert errors.groupby("group", sort=False)["net"].nunique().tolist() == [7, 5, 2]
    # Error by hand, one image after the other.
    net = scale.net("resnet8,variant=gated", 1).model
    wrong = sum(
        int(net(x[None]).argmax() != y)
        for inputs, labels in scale.test.batches(50)
        for x, y in zip(inputs, labels, strict=True)
    )
    found = errors.query("name == 'exclusive gating' and seed == 1")["test_error"].item()
    assert found == pytest.approx(wrong / 100)
    written = pd.read_csv(tmp_path / "differences.csv").query("measure == 'test_error'")
    assert written.groupby("against")["name"].count().to_dict() == {
        "original": 10,
        "original, option B": 1,
    }
    table = errors[errors["group"].str.startswith("Table 1")].set_index(["net", "seed"])
    each = [
        table.loc[("resnet8,variant=dropout", seed), "test_error"]
        - table.loc[("resnet8", seed), "test_error"]
        for seed in (0, 1)
    ]
    found = written.query("name == 'dropout'")["difference"].item()
    assert found == pytest.approx(sum(each) / 2)
    # The control is in the summary, not in the figure.
    text = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert f"## {shortcut_variants.CONTROL}" in text
    assert text.count("| fails |") == 2
    assert (tmp_path / "shortcut_variants.png").stat().st_size > 1000


@pytest.mark.parametrize("depth", shortcut_variants.DEPTHS.values())
def test_nets_of_every_scale_exist_and_differ(depth):
    for group in shortcut_variants.nets(depth).values():
        with torch.device("meta"):
            nets = [build(one.net) for one in group]
        kinds = [[(name, type(module)) for name, module in net.named_modules()] for net in nets]
        scales = [net.layer1[1].scale for net in nets]
        described = list(zip(kinds, scales, strict=True))
        assert all(described.count(one) == 1 for one in described)
