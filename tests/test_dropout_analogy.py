"""Averages of nets with branches left out, in miniature: scores, intervals and words."""

from __future__ import annotations

from dataclasses import replace

import averaged_nets
import averages_compared
import dropout_analogy
import numpy as np
import pandas as pd
import pytest
import torch
from differences import Difference, direction

from ensemble_view.training.regimes import StochasticDepth
from miniature import miniature_scale
from test_calibration_error import by_definition

NETS = dropout_analogy.Nets(("resnet8", "resnet8,survival=50"), ("resnet8",))


def answers_of(model, data):
    images, _ = data.take(range(len(data)))
    with torch.no_grad():
        return model(images).double().softmax(1).numpy()


def scores_by_hand(probabilities, labels):
    rows = list(zip(probabilities.tolist(), labels.tolist(), strict=True))
    return {
        "error": sum(row.index(max(row)) != label for row, label in rows) / len(rows),
        "negative log-likelihood": -sum(np.log(row[label]) for row, label in rows) / len(rows),
        "Brier score": sum(
            sum((p - (k == label)) ** 2 for k, p in enumerate(row)) for row, label in rows
        )
        / len(rows),
        "calibration error": by_definition(probabilities, labels, 15),
    }


@pytest.fixture
def few_ways(monkeypatch):
    monkeypatch.setattr(averaged_nets, "PROBABILITIES", (0.5,))


@pytest.mark.usefixtures("few_ways")
def test_miniature_scores_nets_and_ensembles(tmp_path):
    scale = miniature_scale(tmp_path / "nets")
    table = dropout_analogy.run(tmp_path, scale, NETS)
    labels = scale.test.labels
    found = table.set_index(["net", "seed", "way", "averaged"]).sort_index()
    members = []
    for seed in scale.seeds:
        members.append(answers_of(scale.net("resnet8", seed).model, scale.test))
        expected = scores_by_hand(members[-1], labels)
        for averaged in (1, averaged_nets.SETS):
            row = found.loc["resnet8", seed, "nothing left out", averaged]
            assert row[list(expected)].to_dict() == pytest.approx(expected, abs=1e-4)
    # Only the net that was trained so is run as in training; 1/6, 2/6 and 3/6 are left out.
    assert set(table[table["way"] == "as in training"]["net"]) == {"resnet8,survival=50"}
    trained = found.loc["resnet8,survival=50", 0, "as in training", 1]
    assert trained["left_out"] == pytest.approx(1 / 3)
    # By convexity an average is no worse than its parts on average.
    for score in ("negative log-likelihood", "Brier score"):
        alone, together = (table[table["averaged"] == n][score].to_numpy() for n in (1, 20))
        assert (together <= alone + 1e-12).all()
        assert (together < alone - 1e-6).any()
    real = pd.read_csv(tmp_path / "ensembles.csv").set_index("averaged")
    expected = scores_by_hand(np.mean(members, axis=0), labels)
    assert real.loc[2, list(expected)].to_dict() == pytest.approx(expected, abs=1e-4)
    alone = [scores_by_hand(each, labels)["Brier score"] for each in members]
    assert real.loc[1, "Brier score"] == pytest.approx(np.mean(alone), abs=1e-4)
    against = pd.read_csv(tmp_path / "against_ensembles.csv")
    row = against.query("net == 'resnet8' and way == 'nothing left out' and score == 'error'")
    assert row["value"].item() == pytest.approx(real["error"][1] - real["error"][2])
    assert "weight scaling: error:" in (tmp_path / "summary.md").read_text()


def test_averages_are_over_the_keep_sets_that_were_drawn(tmp_path, monkeypatch):
    scale = miniature_scale(tmp_path / "nets", seeds=(0,))
    asked = []
    once = averaged_nets.probabilities
    monkeypatch.setattr(
        averaged_nets, "probabilities", lambda *a: (asked.append((*a, once(*a))), asked[-1][3])[1]
    )
    found = averaged_nets.outcomes(scale, "resnet8,survival=50", 0)
    # As it is; divided by each of four probabilities; as in training.
    (plain, _, of_ways, said), *divided, (trained, _, as_trained, said_as_trained) = asked
    last = [model.layer3[0].survival for model, *_ in asked]
    assert last == pytest.approx([0.5, 0.5 / 0.95, 0.5 / 0.9, 0.5 / 0.8, 1, 1])
    assert [model.layer1[0].survival for model in (plain, trained)] == pytest.approx([5 / 6, 1])
    assert {len(keep_sets) for _, _, keep_sets, _ in divided} == {20}
    assert len(as_trained) == 20
    assert of_ways[:20] == [(0, 1, 2)] * 20
    assert {len(kept) for kept in of_ways[100:120]} == {2}
    # The first of the answers is the full net's.
    expected = {
        "each kept with 0.5": said[81:101],
        "each kept with 0.9 and divided by it": divided[1][3][1:],
        "1 deleted": said[101:121],
        "2 deleted": said[121:141],
        "as in training": said_as_trained[1:],
    }
    by_way = {outcome.way.name: outcome for outcome in found}
    for name, answers in expected.items():
        np.testing.assert_allclose(by_way[name].averaged, answers.mean(0), atol=1e-12)
        alone = [scores_by_hand(each, scale.test.labels)["calibration error"] for each in answers]
        assert by_way[name].alone["calibration error"] == pytest.approx(np.mean(alone))


def test_ways_leave_out_what_they_say():
    ways = {w.name: w for w in averaged_nets.ways_of("resnet20,survival=50", [0.5, 1.0] * 5)}
    assert ways["as in training"].rule == StochasticDepth(0.5)
    assert ways["as in training"].left_out == 0.25
    assert ways["5 deleted"].left_out == 0.5
    assert ways["each kept with 0.8 and divided by it"].weights[:2] == (0.625, 1.25)
    assert sum(ways["2 deleted"].rule.draw([None] * 10, torch.Generator())) == 8
    assert "5 deleted" not in {w.name for w in averaged_nets.ways_of("resnet8", [1.0] * 3)}


@pytest.mark.usefixtures("few_ways")
def test_one_seed_has_no_interval_and_no_verdict(tmp_path):
    scale = replace(miniature_scale(tmp_path / "nets"), seeds=(0,))
    dropout_analogy.run(tmp_path, scale, NETS)
    full = pd.read_csv(tmp_path / "against_full.csv")
    assert full["low"].isna().all()
    assert set(full["direction"]) == {"cannot be told"}
    assert "nan" not in (tmp_path / "summary.md").read_text()


@pytest.fixture
def simulated():
    """Answers of five nets and of an ensemble to 400 images, well calibrated but for noise."""
    rng = np.random.default_rng(1)
    truth = rng.dirichlet(np.full(4, 0.3), 400)
    labels = np.array([rng.choice(4, p=row) for row in truth])
    noisy = [truth * rng.lognormal(0, s, truth.shape) for s in (0.3, *[0.8] * 5)]
    noisy = [each / each.sum(1, keepdims=True) for each in noisy]
    return np.stack(noisy[1:]), noisy[0], labels


def test_calibration_is_compared_over_seeds_and_images(simulated):
    answers, other, labels = simulated
    rng = np.random.default_rng(0)
    counts = rng.multinomial(400, np.full(400, 1 / 400), size=1000)
    found = averages_compared.calibration_difference(answers, other, labels, counts)
    errors = [by_definition(each, labels, 15) for each in answers]
    assert found.value == pytest.approx(np.mean(errors) - by_definition(other, labels, 15))
    again = []
    for _ in range(200):
        of = rng.integers(400, size=400)
        mean = np.mean([by_definition(each[of], labels[of], 15) for each in answers])
        again.append(mean - by_definition(other[of], labels[of], 15))
    error = (np.var(errors, ddof=1) / 5 + np.var(again, ddof=1)) ** 0.5
    # Student's t with four degrees of freedom at 97.5 %: 2.7764.
    assert found.high - found.value == pytest.approx(2.7764 * error, rel=0.15)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_means_are_compared_over_seeds_and_images(simulated):
    answers, other, labels = simulated
    found = averages_compared.mean_difference(answers, other, labels, "Brier score")
    each = [
        scores_by_hand(one, labels)["Brier score"] - scores_by_hand(other, labels)["Brier score"]
        for one in answers
    ]
    assert found.value == pytest.approx(np.mean(each))
    over_images = (
        np.std(
            [
                np.mean([((one[i] - np.eye(4)[labels[i]]) ** 2).sum() for one in answers])
                - ((other[i] - np.eye(4)[labels[i]]) ** 2).sum()
                for i in range(400)
            ],
            ddof=1,
        )
        / 20
    )
    # The nets' own mean differences hardly differ, so that it is the images that count.
    assert found.high - found.low == pytest.approx(2 * 1.966 * over_images, rel=0.1)


@pytest.mark.parametrize(
    ("shift", "said"), [(0.1, "worse"), (-0.1, "better"), (0.001, "cannot be told")]
)
def test_the_words_follow_from_the_differences(shift, said):
    spread = (0.01, -0.01, 0.005, -0.005, 0.0)
    rows = [
        {"net": "a", "seed": seed, "way": way, "left_out": 0.1, "averaged": averaged,
         **dict.fromkeys(averaged_nets.SCORES, 0.5 + change * (1 + 10 * spread[seed]) + noise)}
        for averaged in (1, 20)
        for way, change, sign in (("nothing left out", 0, 0), ("1 deleted", shift, 1),
                                  ("as in training", 0.0, 1))
        for seed in range(5)
        for noise in (sign * spread[seed],)
    ]  # fmt: skip
    table = averages_compared.against_full(pd.DataFrame(rows))
    words = table[table["averaged"] == 20].pivot(index="score", columns="way", values="direction")
    assert set(words["1 deleted"]) == {said}
    assert set(words["as in training"]) == {"cannot be told"}
    lines = dropout_analogy.verdicts(table[table["averaged"] == 20])
    assert len(lines) == 5
    if said == "cannot be told":
        assert lines[0] == "- Error: better: none; worse: none; cannot be told: all ways."
    else:
        other = {"worse": "better", "better": "worse"}[said]
        assert f"{said}: 1 deleted;" in lines[0]
        assert f"{other}: none;" in lines[0]
        assert lines[0].endswith("cannot be told: as in training.")
    assert lines[4].startswith("- 20 nets drawn as in training (Monte Carlo) against weight scal")


def test_holm_is_over_the_ways_of_one_net_and_score():
    found = {"a": Difference(1, 0, 2, 0.02), "b": Difference(-1, -2, 0, 0.04)}
    table = averages_compared.in_words(found, net="n")
    assert table["holm"].tolist() == pytest.approx([0.04, 0.04])
    assert table["direction"].tolist() == ["worse", "better"]
    three = averages_compared.in_words({**found, "c": Difference(1, 0, 2, 0.9)}, net="n")
    assert three["direction"].tolist() == ["cannot be told"] * 3


@pytest.mark.parametrize(
    ("difference", "p_value", "said"),
    [
        (0.1, 0.04, "worse"),
        (-0.1, 0.04, "better"),
        (0.1, 0.06, "cannot be told"),
        (-0.1, float("nan"), "cannot be told"),
    ],
)
def test_direction_needs_a_small_p_value(difference, p_value, said):
    assert direction(difference, p_value) == said


def test_paired_differences_are_students():
    found = Difference.over_seeds([0.1, 0.2, 0.3])
    # t with two degrees of freedom at 97.5 %: 4.3027; standard deviation 0.1.
    assert found.high - found.value == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)
    assert found.p_value == pytest.approx(0.0742, abs=5e-5)
