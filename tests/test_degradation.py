"""The analysis of degradation, in miniature: what is trained, its intervals and its sentences."""

from __future__ import annotations

from dataclasses import replace

import degradation
import numpy as np
import pandas as pd
import pytest

from miniature import miniature_scale


def test_miniature_trains_each_net_once(tmp_path, monkeypatch):
    scale = miniature_scale(tmp_path / "nets")
    trained = []
    once = type(scale)._trained
    monkeypatch.setattr(
        type(scale), "_trained", lambda *a, **k: (trained.append(a[2]), once(*a, **k))[1]
    )
    table = degradation.run(tmp_path / "first", scale, depths=(8,))
    assert trained == ["plain8", "resnet8", "resnet8v2"] * 2
    again = degradation.run(tmp_path / "again", scale, depths=(8,))
    assert len(trained) == 6
    pd.testing.assert_frame_equal(table, again)
    assert table["step"].tolist() == [1, 2] * 6
    # The error on the training images is that of the net in evaluation, reckoned one by one.
    net = scale.net("plain8", 0).model
    wrong = sum(int(net(x[None]).argmax() != y) for x, y in examples(scale.train))
    last = table[(table["kind"] == "plain") & (table["seed"] == 0)].iloc[-1]
    assert last["training_error"] == pytest.approx(wrong / 64)
    for name in ("epochs.csv", "errors.csv", "convergence.csv", "summary.md", "degradation.pdf"):
        assert (tmp_path / "again" / name).stat().st_size > 100


def examples(data):
    for inputs, labels in data.batches(32):
        yield from zip(inputs, labels, strict=True)


def test_one_seed_and_depth_have_a_figure_and_no_interval(tmp_path):
    scale = replace(miniature_scale(tmp_path / "nets"), seeds=(0,))
    degradation.run(tmp_path, scale, depths=(8,), kinds=("plain", "version 1"))
    errors = pd.read_csv(tmp_path / "errors.csv")
    assert errors["test_error_low"].isna().all()
    assert "nan" not in (tmp_path / "summary.md").read_text()


def table_of(errors):
    rows = [
        {"kind": kind, "depth": 8, "seed": seed, "step": step, "loss": 1.0,
         "training_error": np.nan if step < 3 else error / 2, "test_error": error + 1 / step}
        for kind, by_seed in errors.items()
        for seed, error in enumerate(by_seed)
        for step in (1, 2, 3)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_intervals_are_students_over_the_seeds():
    table = table_of(
        {"plain": (0.1, 0.2, 0.3), "version 1": (0.0, 0.2, 0.1), "version 2": (0, 0, 0)}
    )
    plain = degradation.by_depth(table).set_index("kind").loc["plain"]
    assert plain["training_error"] == pytest.approx(0.1)
    # t with two degrees of freedom at 97.5 %: 4.3027; standard deviation 0.05.
    half = 4.302653 * 0.05 / 3**0.5
    assert plain["training_error_high"] - plain["training_error"] == pytest.approx(half, rel=1e-5)
    assert plain["test_error"] == pytest.approx(0.2 + 1 / 3)
    pair = degradation.early(table).iloc[0]
    assert (pair["first"], pair["second"]) == ("plain", "version 1")
    assert pair["difference"] == pytest.approx(0.1)
    assert pair["high"] - pair["difference"] == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)


@pytest.mark.parametrize(
    ("deep", "said"),
    [
        (
            (0.50, 0.45, 0.55),
            "Plain degrades: at depth 56 the training error is 49.0 points above",
        ),
        ((0.04, 0.01, 0.07), "Plain is not seen to degrade: the interval of the training error"),
    ],
)
def test_the_words_follow_from_the_intervals(deep, said):
    errors = pd.DataFrame(
        [("plain", 8, 0.01, 0.00, 0.02), ("plain", 20, 0.03, 0.01, 0.05), ("plain", 56, *deep)],
        columns=["kind", "depth", "training_error", "training_error_low", "training_error_high"],
    )
    (sentence,) = degradation.verdicts(errors)
    assert sentence.startswith(said)
    assert "depth 56" in sentence
    assert "depth 8" in sentence
