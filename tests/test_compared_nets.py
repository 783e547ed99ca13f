"""What analyses share that compare nets: differences, tests, words and dots, on made-up errors."""

from __future__ import annotations

import math
from dataclasses import replace

import compared_nets
import numpy as np
import pandas as pd
import pytest
import torch
from compared_nets import Compared
from differences import direction
from scipy import stats

from ensemble_view.training.recipe import TrainingError
from miniature import miniature_scale

ERRORS = {
    ("one", "base"): (0.02, 0.03, 0.01, 0.02, 0.04),
    ("one", "worse"): (0.06, 0.08, 0.05, 0.05, 0.09),
    ("one", "alike"): (0.03, 0.01, 0.02, 0.03, 0.03),
    ("one", "failing"): (0.10, 0.30, 0.90, 0.20, 0.21),
    ("two", "base"): (0.50, 0.51, 0.52, 0.53, 0.55),
    ("two", "better"): (0.02, 0.03, 0.01, 0.02, 0.04),
}


def table(seeds=5):
    # What is paired is the seed, wherever its row stands.
    rows = [
        (group, name, f"net of {name}", seed, errors[seed], errors[seed] / 2)
        for (group, name), errors in ERRORS.items()
        for seed in sorted(range(seeds), reverse=name == "worse")
    ]
    names = ["group", "name", "net", "seed", "test_error", "training_error"]
    return pd.DataFrame(rows, columns=names)


def test_differences_are_paired_and_adjusted_within_a_group():
    found = compared_nets.differences(table())
    assert len(found) == 2 * 4
    rows = found[found["measure"] == "test_error"].set_index("name")
    tests = {}
    for name, row in rows.iterrows():
        own, base = ERRORS[row["group"], name], ERRORS[row["group"], row["against"]]
        tests[name] = stats.ttest_rel(own, base)
        interval = tests[name].confidence_interval(0.95)
        assert row["difference"] == pytest.approx(np.mean(own) - np.mean(base))
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high))
        assert row["p_value"] == pytest.approx(tests[name].pvalue)
    # Holm by hand: three in one group, smallest p-value first; one in the other.
    small, middle, large = sorted(tests[name].pvalue for name in ("worse", "alike", "failing"))
    expected = {small: 3 * small, middle: max(3 * small, 2 * middle)}
    expected[large] = max(expected[middle], large)
    for name in ("worse", "alike", "failing"):
        assert rows.loc[name, "holm"] == pytest.approx(min(1, expected[tests[name].pvalue]))
    assert rows.loc["better", "holm"] == pytest.approx(tests["better"].pvalue)
    # The geometric mean of the ratios, and the t interval of their logarithms.
    logs = np.log(np.divide(ERRORS["one", "worse"], ERRORS["one", "base"]))
    ends = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    found_ratio = rows.loc["worse", ["ratio", "ratio_low", "ratio_high"]].astype(float)
    assert found_ratio.tolist() == pytest.approx(np.exp([logs.mean(), *ends]).tolist())
    halves = found[found["measure"] == "training_error"].set_index("name")
    assert halves["difference"].to_dict() == pytest.approx((rows["difference"] / 2).to_dict())


def test_one_seed_has_differences_and_no_test():
    found = compared_nets.differences(table(seeds=1))
    assert found[["low", "high", "p_value", "holm", "ratio_low"]].isna().all(axis=None)
    assert found["ratio"].tolist()[:2] == pytest.approx([3.0, 1.5])
    assert set(map(direction, found["difference"], found["holm"])) == {"cannot be told"}


def test_there_is_no_ratio_to_a_net_without_errors():
    errors = table()
    errors.loc[0, "test_error"] = 0.0
    found = compared_nets.differences(errors).set_index(["measure", "group"])
    words = found["ratio"].isna().groupby(level=[0, 1]).all().to_dict()
    assert words == {
        ("test_error", "one"): True,
        ("test_error", "two"): False,
        ("training_error", "one"): False,
        ("training_error", "two"): False,
    }
    assert compared_nets.ratio_words(found.loc[("test_error", "one")].iloc[0]) == "—"


def test_failed_trainings_are_those_above_a_fifth():
    means = compared_nets.by_net(table()).set_index(["group", "name"])
    # 0.20 is not above.
    assert means.loc[("one", "failing"), "failed"] == 3
    assert means.loc[("one", "worse"), "failed"] == 0
    assert means.loc[("two", "base"), "failed"] == 5
    assert means.loc[("two", "base"), "seeds"] == 5
    assert means.loc[("two", "base"), "training_error"] == pytest.approx(0.261)


@pytest.mark.parametrize(
    ("difference", "holm", "said"),
    [
        (0.1, 0.049, "worse"),
        (-0.1, 0.049, "better"),
        (0.1, 0.05, "cannot be told"),
        (-0.1, math.nan, "cannot be told"),
    ],
)
def test_the_words_follow_from_the_adjusted_p_value(difference, holm, said):
    assert direction(difference, holm) == said


@pytest.mark.parametrize(
    ("difference", "holm", "published", "first", "said"),
    [
        (0.1, 0.01, 8.70, 6.61, "yes"),
        (0.1, 0.01, math.inf, 6.61, "yes"),
        (-0.1, 0.01, 6.37, 6.61, "yes"),
        (-0.1, 0.01, math.inf, 6.61, "no, the other way round"),
        (0.1, 0.01, 6.37, 6.61, "no, the other way round"),
        (0.1, 0.06, 8.70, 6.61, "cannot be told"),
        (0.1, 0.01, None, 6.61, "—"),
        (0.1, 0.01, 8.70, None, "—"),
    ],
)
def test_signs_are_compared_with_the_paper(difference, holm, published, first, said):
    row = pd.Series({"difference": difference, "holm": holm})
    assert compared_nets.agreement(row, published, first) == said


def test_a_table_says_what_was_found_beside_the_paper():
    errors = table()
    group = (
        Compared("base", "net of base", 6.61),
        Compared("worse", "net of worse", 8.7),
        Compared("alike", "net of alike"),
        Compared("failing", "net of failing", math.inf),
    )
    lines = compared_nets.comparison_table(
        group, "one", compared_nets.by_net(errors), compared_nets.differences(errors)
    )
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert cells[0][4] == "test error less that of base"
    assert cells[2] == ["base", "1.2 [0.5, 1.9]", "2.4 [1.0, 3.8]", "0", *"———", "6.61", "—"]
    assert cells[3][0] == "worse"
    assert cells[3][4].startswith("4.2 [")
    assert cells[3][7:] == ["8.70", "yes"]
    assert cells[4][7:] == ["—", "—"]
    assert cells[5][3:4] + cells[5][7:] == ["3", "fails", "cannot be told"]


def test_a_figure_has_a_dot_per_seed_and_the_interval():
    errors = table()
    figure = compared_nets.draw(errors)
    one, two = figure.axes
    assert [label.get_text() for label in two.get_yticklabels()] == list(
        errors[errors["group"] == two.get_title()]["name"].unique()
    )
    # Three lines a net: seeds, interval, mean.
    for place, name in enumerate(label.get_text() for label in one.get_yticklabels()):
        seeds, interval, mean = one.lines[3 * place : 3 * place + 3]
        values = ERRORS["one", name]
        assert sorted(seeds.get_xdata()) == pytest.approx(sorted(values))
        assert mean.get_xdata() == pytest.approx([np.mean(values)])
        low, high = stats.t.interval(0.95, 4, np.mean(values), stats.sem(values))
        assert interval.get_xdata() == pytest.approx([max(low, 0), min(high, 1)])
    # The last one's interval goes beyond what an error can be.
    assert low < 0


def test_a_training_that_diverges_counts_as_the_best_constant_guess(tmp_path, monkeypatch):
    scale = replace(miniature_scale(tmp_path), seeds=(0,))
    once = type(scale).net

    def net(self, architecture, seed):
        if "dropout" in architecture:
            raise TrainingError("The loss became nan.")
        return once(self, architecture, seed)

    monkeypatch.setattr(type(scale), "net", net)
    group = Compared("base", "resnet8"), Compared("dropout", "resnet8,variant=dropout")
    row = compared_nets.errors_of(scale, {"one": group}).iloc[1]
    labels = torch.cat([labels for _, labels in scale.test.batches(50)]).tolist()
    assert row["test_error"] == pytest.approx(1 - max(map(labels.count, labels)) / 100)
    assert row["training_error"] != row["test_error"]
    found = compared_nets.by_net(compared_nets.errors_of(scale, {"one": group}))
    assert found["failed"].tolist()[1] == 1
