"""All pairs of deletions, against hooks and the definition of an interaction."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh
from scipy import stats
from torch import Tensor, nn

from cases import images as make_images
from ensemble_view import Block, Chain, Delete, PairsResult, edited, pairs, unravel
from ensemble_view.errors import InterventionError, MeasurementError
from ensemble_view.nets.models.building import build
from ensemble_view.statistics.bounded import bounded_mean
from ensemble_view.statistics.paired import holm
from ensemble_view.studies.pairs.figure import pairs_figure
from ensemble_view.studies.pairs.study import PairsStudy
from ensemble_view.study.study import prepare
from layers import wake
from state import unchanged

COUNT, CLASSES, BLOCKS = 40, 5, 6


def small() -> nn.Module:
    return wake(build("resnet14,width=4", classes=CLASSES))


def examples() -> tuple[Tensor, Tensor]:
    inputs = make_images(COUNT)
    with torch.no_grad():
        return inputs, small()(inputs).argmax(1)


def first_logit(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[:, 0]


@pytest.fixture(scope="module")
def logits() -> dict[tuple[int, ...], np.ndarray]:
    """Of the full net, each deletion and each pair, by hooks."""
    model, (inputs, _) = small(), examples()
    chain = unravel(model, inputs[:2])
    found = {}
    for size in range(3):
        for deleted in itertools.combinations(range(BLOCKS), size):
            with torch.no_grad(), edited(chain, Delete(*deleted)):
                found[deleted] = model(inputs).numpy()
    return found


@pytest.fixture(scope="module")
def result() -> PairsResult:
    model, data = small(), examples()
    with unchanged(model):
        return pairs(model, data, batch_size=16)


def test_drops_and_interactions_are_those_of_the_definition(result, logits):
    labels = examples()[1].numpy()
    accuracy = {key: float((each.argmax(1) == labels).mean()) for key, each in logits.items()}
    drop = {key: accuracy[()] - each for key, each in accuracy.items()}
    rows = result.frame.to_dict("records")
    assert len(rows) == 15
    for row in rows:
        i, j = int(row["first"]), int(row["second"])
        assert row["drop"] == pytest.approx(drop[i, j])
        assert row["first_drop"] == pytest.approx(drop[i,])
        assert row["interaction"] == pytest.approx(drop[i, j] - drop[i,] - drop[j,])
        assert row["low"] < row["interaction"] < row["high"]
        assert row["drop_low"] <= row["drop"] <= row["drop_high"]
    assert result.frame["p_adjusted"].to_numpy() == pytest.approx(
        holm(result.frame["p_value"].to_numpy())
    )
    assert result.drops[1, 4] == result.drops[4, 1] == pytest.approx(drop[1, 4])
    assert result.stages == (0, 0, 1, 1, 2, 2)


def test_of_a_measure_of_ones_own_the_contrast_has_a_t_interval(logits):
    found = pairs(small(), examples(), measure=first_logit, higher_is_better=False, only="1,3,4")
    assert found.names == "first_logit"
    for row in found.frame.to_dict("records"):
        i, j = int(row["first"]), int(row["second"])
        contrast = (logits[i, j] - logits[i,] - logits[j,] + logits[()])[:, 0]
        half = stats.t.ppf(0.975, COUNT - 1) * contrast.std(ddof=1) / math.sqrt(COUNT)
        assert row["interaction"] == pytest.approx(contrast.mean(), abs=1e-9)
        assert row["low"] == pytest.approx(contrast.mean() - half, abs=1e-9)
        assert row["high"] == pytest.approx(contrast.mean() + half, abs=1e-9)


def test_means_within_and_between_stages_are_of_their_pairs(result):
    frame, worse = result.frame, result.run.scores.worsening
    same = (frame["first_stage"] == frame["second_stage"]).to_numpy()
    assert same.sum() == 3
    for name, chosen in (("within", same), ("between", ~same)):
        mean = result.means[name]
        assert mean.value == pytest.approx(frame["interaction"][chosen].mean())
        contrasts = [
            worse[BLOCKS + row] - worse[i] - worse[j]
            for row, (i, j) in enumerate(itertools.combinations(range(BLOCKS), 2))
            if chosen[row]
        ]
        each = np.mean(contrasts, axis=0)
        limits = bounded_mean(each, ends=(-2.0, 2.0))
        assert [mean.low, mean.high] == pytest.approx([limits.low, limits.high])
        assert -2 <= mean.low < each.mean() < mean.high <= 2


def redundant() -> Chain:
    """Two blocks that each put the answer in, one that puts in the half of it, and a bystander."""

    def part(share: float):
        # The answer is in the second half of what the net is given; once is enough.
        def branch(x: Tensor, context: object) -> Tensor:
            given = torch.cat([x[:, 3:], torch.zeros_like(x[:, 3:])], 1)
            return share * given

        return branch

    blocks = [Block(i, f"F{i}", branch=part(share)) for i, share in enumerate((1.0, 1.0, 0.0))]
    return Chain.from_parts(
        lambda x: torch.cat([torch.tensor([0.5, 0.0, 0.0]).expand(len(x), 3), x], 1),
        blocks,
        lambda x: x[:, :3],
    )


def test_blocks_that_back_each_other_up_are_significant():
    answers = torch.arange(60) % 3
    found = pairs(redundant(), (nn.functional.one_hot(answers, 3).float(), answers))
    table = found.frame.set_index(["first", "second"])
    assert table.loc[("0", "1"), "interaction"] == pytest.approx(2 / 3)
    assert table.loc[("0", "1"), "p_adjusted"] < 0.001
    assert table.loc[("0", "2"), "interaction"] == 0
    assert "back each other up, for one pair (0 and 1)" in found.summary
    assert "costs less after the first, for no pair" in found.summary
    assert found.table.splitlines()[1].split()[:3] == ["0,1", "F0", "F1"]


def test_it_comes_back_from_its_files_and_fits_a_terminal(result, tmp_path):
    result.save(tmp_path)
    again = PairsResult.load(tmp_path)
    assert again.to_json() == result.to_json()
    assert again.frame.equals(result.frame)
    assert max(map(len, repr(result).splitlines())) <= 80
    assert "3 weaker, in .frame" in result.table
    assert "* one of them changes the shape" in result.table


def test_the_matrix_has_drops_below_and_interactions_above(result):
    axes = pairs_figure(result).axes[0]
    drops, above = (image.get_array() for image in axes.images)
    assert np.ma.is_masked(drops[0, 1])
    assert np.ma.is_masked(above[1, 0])
    assert drops[4, 1] == pytest.approx(100 * result.drops[4, 1])
    assert drops[3, 3] == pytest.approx(100 * result.drops[3, 3])
    assert above[1, 4] == pytest.approx(100 * result.interactions.value[1, 4])
    low, high = axes.images[1].get_clim()
    assert -low == high == pytest.approx(np.abs(above).max())
    stages = {float(line.get_xdata()[0]) for line in axes.lines if len(set(line.get_xdata())) == 1}
    assert {1.5, 3.5} <= stages
    assert not any(isinstance(each, QuadMesh) for each in axes.collections)


def test_significant_interactions_are_dotted():
    answers = torch.arange(60) % 3
    found = pairs(redundant(), (nn.functional.one_hot(answers, 3).float(), answers))
    (dots,) = [line for line in pairs_figure(found).axes[0].lines if line.get_marker() == "o"]
    assert dots.get_xydata().tolist() == [[1, 0]]


def test_a_pair_needs_two_blocks():
    with pytest.raises(InterventionError, match=r"A pair needs two blocks; only block 1 \(layer1"):
        pairs(small(), examples(), only="1")


def test_outcomes_of_other_plans_are_refused(result):
    with pytest.raises(MeasurementError, match="outcomes of 21 plans and 6 stages for 5 blocks; e"):
        PairsResult(result.blocks[:5], result.stages, result.run, 6)


def test_the_cost_is_said_before():
    study = prepare(PairsStudy, small(), examples())
    assert str(study).startswith("all 15 pairs of 6 blocks, and each alone, on 40 examples: ")
    plans = [set(plan.deleted) for plan in study.experiment.engine.plans]
    expected = [
        set(each) for size in range(3) for each in itertools.combinations(range(BLOCKS), size)
    ]
    assert plans == expected
