"""Doses and nulls: outcomes by hand, intervals, files, figure, command."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import Tensor

import ensemble_view
import nets
from altered import altered_by_hand, means_by_hand
from cases import images
from ensemble_view import DoseResult, Replace, Scale, unravel
from ensemble_view.cli.application import main
from ensemble_view.errors import InterventionError, MeasurementError
from ensemble_view.nets.checkpoints import save_checkpoint
from ensemble_view.nets.models.building import build
from ensemble_view.statistics.paired import tango_interval
from ensemble_view.statistics.paired_ratio import paired_ratio
from ensemble_view.studies.dose.study import DoseStudy
from ensemble_view.studies.dose.words import explained
from ensemble_view.study.study import prepare
from layers import wake

COUNT = 24
DOSES = (0, 0.5, 1.5)


def make_data() -> tuple[Tensor, Tensor]:
    return images(COUNT, seed=3), torch.arange(COUNT) % nets.CLASSES


@pytest.fixture(scope="module")
def net() -> nets.Net:
    return wake(nets.RootLoop())


@pytest.fixture(scope="module")
def result(net) -> DoseResult:
    chain = unravel(net, images(), granularity="branch")
    x, _ = make_data()
    with torch.no_grad():
        labels = net(x).argmax(1)
    # The full net is right on three of four, so that there is something to lose.
    labels = torch.where(torch.arange(COUNT) % 4 > 0, labels, (labels + 1) % nets.CLASSES)
    return ensemble_view.dose(chain, (x, labels), doses=DOSES, draws=2, seed=1, batch_size=COUNT)


@torch.no_grad()
def test_outcomes_are_those_of_the_formula(net, result):
    x, _ = make_data()
    labels = torch.from_numpy(result.run.outcomes.labels)
    means = means_by_hand(net, [x])
    seen = []
    for number, each in enumerate(result.doses):
        kinds = {"noise": "perturbed", "constant": "constant", "donor": "resample"}
        if each.dose is not None:
            done = [Scale(index, each.dose) for index in each.blocks]
        elif each.null == "flipped":
            done = [Scale(each.blocks[0], -1)]
        elif each.null == "mean":
            done = [Replace(each.blocks[0], "mean")]
        else:
            # Draws of one study seed are not those of another.
            done = [Replace(each.blocks[0], kinds[each.null], 2 + each.draw)]
        wrong = altered_by_hand(net, x, done, means).argmax(1) != labels
        assert result.run.scores.values[number].tolist() == wrong.double().tolist()
        seen.append((each.label, each.dose, each.draw, each.null))
    nulls = [(n, d) for n in ("noise", "constant", "donor") for d in (0, 1)]
    nulls += [("mean", 0), ("flipped", 0)]
    assert [each[:2] for each in seen[:3]] == [("0", 0), ("0", 0.5), ("0", 1.5)]
    assert seen[3:11] == [("0", None, draw, null) for null, draw in nulls]
    assert [each[:2] for each in seen[-3:]] == [("all", 0), ("all", 0.5), ("all", 1.5)]
    assert len(seen) == 4 * 11 + 3


def test_rows_follow_from_the_outcomes(result):
    frame, scores = result.frame, result.run.scores
    assert frame["dose"].tolist() == [0, 0.5, 1, 1.5] * 5
    assert frame["blocks"].tolist() == [b for b in ("0", "1", "2", "3", "all") for _ in range(4)]
    full = frame[frame["dose"] == 1]
    assert full["value"].tolist() == [0.25] * 5
    assert (full[["worsening", "worsening_low", "worsening_high"]] == 0).all(axis=None)
    lost, gained = (int((sign * scores.worsening[0] > 0).sum()) for sign in (1, -1))
    interval = tango_interval(lost, gained, COUNT)
    assert frame["worsening"][0] == pytest.approx((lost - gained) / COUNT)
    assert frame["worsening_low"][0] == interval.low
    assert frame["worsening_high"][0] == interval.high
    assert frame["value"][0] == pytest.approx(0.25 + frame["worsening"][0])
    found = result.nulls_frame
    names = ["noise", "constant", "donor", "mean", "flipped"]
    assert found["null"].tolist() == names * 5
    assert found["blocks"].tolist() == [b for b in ("0", "1", "2", "3", "mean") for _ in names]
    for number in range(4):
        for row, plans in enumerate(([3, 4], [5, 6], [7, 8], [9], [10])):
            instead = scores.worsening[[11 * number + plan for plan in plans]].mean(0)
            deleted = scores.worsening[11 * number]
            low = high = instead.mean()
            # Where no example changes, the interval is a point.
            if instead.std():
                low, high = stats.t.interval(0.95, COUNT - 1, instead.mean(), stats.sem(instead))
            place = found.iloc[5 * number + row]
            assert place["draws"] == len(plans)
            assert place["instead"] == pytest.approx(instead.mean())
            assert (place["instead_low"], place["instead_high"]) == pytest.approx((low, high))
            assert place["deleted"] == pytest.approx(deleted.mean())
            ratio = paired_ratio(instead, deleted)
            assert place["ratio"] == pytest.approx(ratio.value, nan_ok=True)
    for row in range(5):
        mean = found.iloc[20 + row]
        single = found.iloc[[5 * number + row for number in range(4)]]
        assert mean["instead"] == pytest.approx(single["instead"].mean())
        assert mean["deleted"] == pytest.approx(single["deleted"].mean())
    ranges = result.ranges_frame
    assert ranges["blocks"].tolist() == ["0", "1", "2", "3", "mean"]
    last = found.iloc[20:]
    assert ranges["lowest"][4] == pytest.approx(last["ratio"].min(), nan_ok=True)
    assert ranges["high"][4] == pytest.approx(last["ratio_high"].max(), nan_ok=True)
    assert ranges["most_low"][4] == pytest.approx(last["ratio_low"].max(), nan_ok=True)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ([(0.6, 0.9), (0.7, 1.9)], "yes"),
        ([(0.1, 0.2), (0.2, 0.4)], "no, deletion does more"),
        ([(2.1, 3.0), (2.5, 9.0)], "no, deletion does less"),
        ([(0.1, 0.2), (0.6, 1.4)], "depends on the null"),
        ([(0.1, 0.2), (2.6, 3.4)], "depends on the null"),
        ([(0.8, 1.2), (2.6, 3.4)], "depends on the null"),
        ([(0.1, 0.2), (0.3, 0.7)], "open"),
        ([(0.3, 0.7), (1.5, 2.5)], "open"),
        ([(math.nan, math.nan)], "open"),
    ],
)
def test_size_explains_by_all_nulls_or_not_at_all(limits, said):
    lows, highs = zip(*limits, strict=True)
    row = {
        "low": min(lows), "most_low": max(lows), "least_high": min(highs), "high": max(highs),
    }  # fmt: skip
    assert explained(row) == said


@pytest.mark.parametrize(("count", "batch"), [(25, None), (13, None)])
def test_a_batch_of_one_is_avoided_so_that_each_has_a_donor(net, count, batch, monkeypatch):
    import ensemble_view.study.experiment as module

    fastest = module.fastest_pace
    monkeypatch.setattr(
        module, "fastest_pace",
        lambda *args, sizes=None, **options: fastest(*args, sizes=sizes or [12], **options),
    )  # fmt: skip
    data = images(count, seed=3), torch.arange(count) % nets.CLASSES
    study = prepare(DoseStudy, net, data, blocks="1", doses=[0], granularity="branch")
    assert study.experiment.pace.batch_size == 11
    assert study.undefined == {}
    assert study.run().nulls_frame["null"].tolist()[2] == "donor"


def test_where_a_batch_must_be_of_one_the_donor_is_left_out_and_said_to_be(net):
    data = images(5, seed=3), torch.arange(5) % nets.CLASSES
    result = ensemble_view.dose(
        net, data, blocks="1", doses=[0], granularity="branch", batch_size=4, draws=1
    )
    assert result.nulls_frame["null"].tolist() == ["noise", "constant", "mean", "flipped"]
    assert "The donor was not measured: a batch is of one example" in result.summary


def test_a_measure_of_ones_own_has_t_intervals(net):
    x, labels = make_data()
    result = ensemble_view.dose(
        net, (x, labels), blocks="1", doses=[0], draws=0, granularity="branch",
        measure=lambda outputs, targets: outputs.square().mean(1), higher_is_better=False,
    )  # fmt: skip
    change = result.run.scores.worsening[0]
    low, high = stats.t.interval(0.95, COUNT - 1, change.mean(), stats.sem(change))
    row = result.frame.iloc[0]
    assert (row["worsening_low"], row["worsening_high"]) == pytest.approx((low, high))
    assert result.nulls_frame.empty
    assert result.ranges_frame.empty
    assert list(result.tables) == ["dose"]
    assert len(result.plot().axes) == 1


@pytest.mark.parametrize("seed", range(4))
def test_the_ratios_limits_are_where_a_t_test_begins_to_reject(seed):
    rng = np.random.default_rng(seed)
    b = rng.normal(1, 1, 40)
    a = 0.5 * b + rng.normal(0.3, 1, 40)
    found = paired_ratio(a, b)
    assert found.value == pytest.approx(a.mean() / b.mean())
    for limit in (found.low, found.high):
        assert stats.ttest_1samp(a - limit * b, 0).pvalue == pytest.approx(0.05)
    assert found.low < found.value < found.high


def test_the_ratio_covers_and_is_undefined_without_a_denominator():
    rng, hits = np.random.default_rng(0), 0
    for _ in range(1000):
        b = rng.normal(1, 1, 50)
        found = paired_ratio(0.7 * b + rng.normal(0, 1, 50), b)
        hits += found.low <= 0.7 <= found.high
    assert hits >= 930
    assert math.isnan(paired_ratio(np.ones(20), rng.normal(0, 1, 20)).value)
    assert math.isnan(paired_ratio([1.0], [1.0]).low)
    with pytest.raises(MeasurementError, match=r"^The numerators have shape \(2,\) and the denom"):
        paired_ratio([1, 2], [1])
    with pytest.raises(MeasurementError, match=r"^The confidence level is 95; expected a prop"):
        paired_ratio([1, 2], [1, 2], 95)


@pytest.mark.parametrize(
    ("options", "error", "sentence"),
    [
        ({"doses": [1]}, MeasurementError, r"^There is no dose beside 1, which is the full net;"),
        (
            {"nulls": ["zero"]},
            MeasurementError,
            r"^There is no null 'zero'; expected some of noise",
        ),
        ({"draws": -1}, MeasurementError, r"^draws is -1; expected at least 0\.$"),
        ({"blocks": []}, InterventionError, r"^There is no block to scale: none was named"),
        ({"blocks": "9"}, InterventionError, r"^There is no block 9: this chain has 4 blocks"),
    ],
)
def test_options_that_do_not_fit_are_refused(net, options, error, sentence):
    chain = unravel(net, images(), granularity="branch")
    with pytest.raises(error, match=sentence):
        prepare(DoseStudy, chain, make_data(), **options)


def test_doses_that_are_no_outcomes_are_refused(result):
    with pytest.raises(MeasurementError, match=r"^There are 1 doses but outcomes of 47 plans;"):
        DoseResult(result.doses[:1], result.run)


def test_saved_and_loaded_results_are_equal(result, tmp_path):
    result.save(tmp_path)
    loaded = DoseResult.load(tmp_path)
    assert loaded.doses == result.doses
    pd.testing.assert_frame_equal(loaded.frame, result.frame)
    pd.testing.assert_frame_equal(loaded.nulls_frame, result.nulls_frame)
    for name in ("dose.csv", "nulls.csv", "ranges.csv", "dose.pdf", "dose.png"):
        assert (tmp_path / name).stat().st_size > 100


def test_the_table_fits_the_terminal_and_shows_the_rows(result):
    assert max(map(len, repr(result).splitlines())) <= 80
    lines = result.table.splitlines()
    assert lines[1].split() == ["block", "0", "0.5", "1", "1.5"]
    assert lines[2].split() == ["0", *(f"{v:.3f}" for v in result.frame["value"][:4])]
    assert any(line.split()[0] == "mean" for line in lines if line.strip())


def test_the_figure_shows_what_was_measured(result):
    left, right = result.plot().axes
    for label in ("0", "all"):
        (line,) = (each for each in left.lines if each.get_label() == label)
        rows = result.frame[result.frame["blocks"] == label]
        assert list(line.get_xdata()) == rows["dose"].tolist()
        assert list(line.get_ydata()) == rows["value"].tolist()
    found = result.nulls_frame.iloc[:20]
    for name in ("deleted", "noise", "constant", "donor", "mean", "flipped"):
        (line,) = (each for each in right.lines if each.get_label() == f"_{name}")
        rows = found[found["null"] == ("noise" if name == "deleted" else name)]
        column = "deleted" if name == "deleted" else "instead"
        assert list(line.get_ydata()) == rows[column].tolist()


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


def test_the_command(tmp_path, capsys):
    path = tmp_path / "small.pt"
    model = wake(build("resnet14,width=4", in_channels=1)).float()
    save_checkpoint(path, model, architecture="resnet14,width=4,in_channels=1", data="digits")
    words = ("dose", path, "--limit", 8, "--blocks", "1,3", "--doses", "0,0.5", "--draws", 1)
    assert run(*words, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "6 doses and 10 nulls on 8 examples: " in printed
    assert DoseResult.load(tmp_path / "out").table in printed
    assert run(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "dose"
    assert run("dose", path, "--doses", "0,half") == 2
    assert "The doses are '0,half'; write numbers separated by commas" in capsys.readouterr().err
    assert run("dose", "--help") == 0
    assert "ensemble-view dose resnet56.th" in capsys.readouterr().out
