"""Intervals of the additive law and of reorderings cover what is known of simulated nets."""

from __future__ import annotations

import law_coverage
import numpy as np
import pandas as pd
import pytest

from ensemble_view.studies.reorder import result as reordering

ROUNDS = 150
# Of a coverage of 95 % over so many rounds: 1.8 points; three of them below is too little.
LEAST = 0.95 - 3 * (0.95 * 0.05 / ROUNDS) ** 0.5


@pytest.mark.parametrize(
    ("kind", "ruinous", "deleted", "trials"),
    [
        ("additive", 0, 10, 10),
        ("redundant", 0, 10, 10),
        ("redundant", 1, 5, 50),
        ("saturating", 0, 5, 10),
        ("saturating", 3, 10, 10),
        ("erratic", 0, 5, 10),
        ("erratic", 1, 10, 10),
    ],
)
def test_the_laws_interval_covers_the_true_difference(kind, ruinous, deleted, trials):
    rng = np.random.default_rng([ruinous, deleted, trials])
    net = law_coverage.DecayingNet.drawn(kind, ruinous, rng)
    found = law_coverage.law_coverage(net, deleted, trials, rng, rounds=ROUNDS)
    assert found["coverage"] >= LEAST
    # An interval that says nothing would cover as well.
    assert found["width"] < 0.32
    if abs(found["truth"]) > 0.15 and kind != "erratic":
        assert found["agrees"] == 0
    if kind == "additive":
        assert abs(found["truth"]) < 0.01
        assert found["departs"] == 0


def test_an_interval_over_examples_alone_would_not_cover():
    """The bound of the tests above has power: without the trials' choice it is missed."""
    rng = np.random.default_rng(1)
    net = law_coverage.DecayingNet.drawn("erratic", 0, rng)
    truth, held = net.difference(5, rng), 0
    for _ in range(ROUNDS):
        chosen = rng.integers(4000, size=200)
        members = law_coverage.drawn_sets(law_coverage.BLOCKS, 5, 10, rng)
        measured, predicted = net.correct(members, chosen)
        of_examples = (predicted.astype(float) - measured).mean(axis=0)
        half = 1.972 * of_examples.std(ddof=1) / 200**0.5
        held += abs(of_examples.mean() - truth) <= half
    assert held / ROUNDS < LEAST - 0.1


# A bin holds the mean of a tenth to a third of all orders, which are drawn anew in every round.
@pytest.mark.parametrize("kind", law_coverage.ORDERED)
def test_the_interval_of_a_bin_of_tau_covers_the_mean_of_its_orders(kind):
    rng = np.random.default_rng(2)
    net = law_coverage.ReorderedNet.drawn(kind, rng)
    found = law_coverage.reorder_coverage(net, (1, 2, 5), 10, rng, rounds=100)
    assert found["bins"] == 2
    # 200 bins; three standard errors are 4.6 points.
    assert found["coverage"] >= 0.95 - 0.046


def test_bins_of_five_trials_would_not_cover(monkeypatch):
    monkeypatch.setattr(reordering, "_TRIALS_PER_BIN", 5)
    rng = np.random.default_rng(2)
    net = law_coverage.ReorderedNet.drawn("uneven", rng)
    found = law_coverage.reorder_coverage(net, (1, 2, 5), 10, rng, rounds=100)
    assert found["bins"] == 6
    assert found["coverage"] < 0.95 - 0.046


def test_miniature(tmp_path):
    table = law_coverage.run(
        tmp_path,
        nets=("additive",),
        ruinous=(0,),
        deleted=(2,),
        trials=(10,),
        ordered=("smooth",),
        swaps=((1, 2),),
        rounds=3,
    )
    assert table["study"].tolist() == ["law", "reorder"]
    assert len(pd.read_csv(tmp_path / "coverage.csv")) == 2
    assert "python analyses/law_coverage.py" in (tmp_path / "summary.md").read_text()
