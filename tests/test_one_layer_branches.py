"""The analysis of one-layer branches, in miniature: whom it compares, errors and sentences."""

from __future__ import annotations

import one_layer_branches
import pandas as pd
import pytest
from one_layer_branches import verdict

from miniature import miniature_scale


def test_miniature_compares_nets_of_the_same_convolutions(tmp_path):
    scale = miniature_scale(tmp_path / "nets")
    errors = one_layer_branches.run(tmp_path, scale, groups=one_layer_branches.nets((8,)))
    assert errors["net"].unique().tolist() == ["resnet8,layers=1", "plain8", "resnet8"]
    models = [scale.net(net, 0).model for net in errors["net"].unique()]
    parameters = [sum(p.numel() for p in model.parameters()) for model in models]
    assert len(set(parameters)) == 1
    # Both errors one by one.
    for name, data in (("training_error", scale.train), ("test_error", scale.test)):
        wrong = sum(
            int(models[0](x[None]).argmax() != y)
            for inputs, labels in data.batches(32)
            for x, y in zip(inputs, labels, strict=True)
        )
        found = errors.query("net == 'resnet8,layers=1' and seed == 0")[name].item()
        assert found == pytest.approx(wrong / len(data))
    written = pd.read_csv(tmp_path / "differences.csv").set_index(["measure", "name"])
    means = errors.groupby("net")["test_error"].mean()
    assert written.loc[("test_error", "plain"), "difference"] == pytest.approx(
        means["plain8"] - means["resnet8,layers=1"]
    )
    assert (tmp_path / "one_layer_branches.pdf").stat().st_size > 1000
    rows = [written.loc[("test_error", name)] for name in ("plain", "two layers")]
    sentence = f"- 8 layers deep, branches of one layer, by test error: {verdict(*rows)}."
    assert sentence in (tmp_path / "summary.md").read_text(encoding="utf-8").splitlines()


def row(difference, holm):
    return pd.Series({"difference": difference, "holm": holm, "low": -0.04, "high": 0.02})


@pytest.mark.parametrize(
    ("plain", "two", "said"),
    [
        (
            row(-0.1, 0.01),
            row(-0.1, 0.01),
            "worse than the plain net, so no advantage; worse than two layers",
        ),
        (
            row(0.1, 0.01),
            row(0.1, 0.01),
            "an advantage over the plain net, against the paper; better than two layers",
        ),
        (
            row(-0.01, 0.4),
            row(-0.01, 0.4),
            "whether there is an advantage over the plain net cannot be told (-1.0 [-4.0, 2.0] "
            "points); whether worse than two layers cannot be told",
        ),
    ],
)
def test_the_words_follow_from_the_differences(plain, two, said):
    assert verdict(plain, two) == said
