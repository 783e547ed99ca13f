"""Gradients by block: against autograd with one way through a block cut, and surgery on the net."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensemble_view import Block, Chain, GradientsByBlock, gradients_by_block, unravel
from ensemble_view.cli.application import main
from ensemble_view.errors import MeasurementError, MeasurementWarning
from ensemble_view.nets.checkpoints import save_checkpoint
from ensemble_view.nets.models.building import build
from ensemble_view.paths.blocks import early_outputs, last_stage
from ensemble_view.statistics.paired import accuracy_interval
from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.study.files import ResultError
from layers import wake
from state import state_of

EXAMPLES = 7


def make_net(name: str = "resnet14,width=4") -> nn.Module:
    return wake(build(name, in_channels=1))


def make_data(count: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.arange(count) % 10


def expected(chain: Chain, x: Tensor, labels: Tensor, position: int) -> dict[str, Tensor]:
    """Autograd from one block's input on, with nothing, the shortcut or the branch cut there."""
    with torch.no_grad():
        h, context = chain.stem(x)
        for block in chain.blocks[:position]:
            h = block(h, context)

    def gradient(cut: str) -> tuple[Tensor, Tensor, Tensor]:
        entry = h.detach().requires_grad_()
        block = chain.blocks[position]
        shared = block.before(entry, context)
        around, branch = block.shortcut(shared, context), block.branch(shared, context)
        through = branch
        if cut == "shortcut":
            around = around.detach()
        if cut == "branch":
            through = branch.detach()
        y = block.after(around + through, context)
        for later in chain.blocks[position + 1 :]:
            y = later(y, context)
        loss = F.cross_entropy(chain.head(y, context), labels, reduction="sum")
        at_entry, at_shared = torch.autograd.grad(loss, [entry, shared])
        return at_entry.flatten(1), at_shared.flatten(1), branch.detach().flatten(1)

    whole, _, branch = gradient("nothing")
    through, around = gradient("shortcut")[1].norm(dim=1), gradient("branch")[1].norm(dim=1)
    same = branch.shape == whole.shape
    return {
        "branch_gradient": through,
        "shortcut_gradient": around,
        "branch_share": through / (through + around),
        "norm_ratio": branch.norm(dim=1) / h.flatten(1).norm(dim=1),
        "cosine": F.cosine_similarity(branch, -whole) if same else torch.tensor([]),
    }


@pytest.mark.parametrize(
    "name",
    ["resnet14,width=4", "resnet14,width=4,shortcut=B", "resnet14v2,width=4", "resnet8v2,width=4"],
)
def test_every_measure_is_what_autograd_gives_with_a_way_cut(name):
    model, (x, labels) = make_net(name), make_data()
    chain = unravel(model, x)
    result = gradients_by_block(chain, (x, labels), batch_size=4)
    for position, row in enumerate(result.rows):
        assert (row.block, row.name) == (position, chain.blocks[position].name)
        for measure, values in expected(chain, x, labels, position).items():
            if not len(values):
                assert row.changes_shape
                assert getattr(row, measure) is None
                continue
            by_hand = ratio_mean(values.numpy())
            found = [getattr(row, f"{measure}{end}") for end in ("", "_low", "_high")]
            assert found == pytest.approx([by_hand.value, by_hand.low, by_hand.high], rel=1e-9)


def test_both_ways_together_are_the_gradient_at_the_first_block():
    # Where the branch is zero, all of it passes through the shortcut.
    blocks = [Block(i, str(i), branch=lambda x, context, i=i: i * x) for i in range(2)]
    chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
    data = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([0, 1])
    result = gradients_by_block(chain, data, loss=lambda output, *_: output[:, 1])
    first, second = result.rows
    assert (first.branch_gradient, first.shortcut_gradient, first.branch_share) == (0, 2, 0)
    assert (second.branch_gradient, second.shortcut_gradient, second.branch_share) == (1, 1, 0.5)
    assert (first.norm_ratio, second.norm_ratio) == (0, 1)
    # A branch of zero has no direction; the others point to (3, 4) and (1, 0), downhill (0, -1).
    assert first.cosine is None
    assert second.cosine == pytest.approx((-0.8 + 0) / 2)


@pytest.mark.parametrize("name", ["resnet20,width=4", "resnet20v2,width=4"])
def test_the_head_after_each_block_of_the_last_stage_is_that_of_a_net_without_the_later_ones(name):
    model, (x, _) = make_net(name), make_data(40)
    chain = unravel(model, x)
    assert last_stage(chain) == range(6, 9)
    found = dict(early_outputs(chain, x))
    assert list(found) == [6, 7, 8]
    with torch.no_grad():
        for kept in range(3):
            twin = copy.deepcopy(model)
            for block in list(twin.layer3)[kept + 1 :]:
                last = block.conv2 if name.endswith("v2,width=4") else block.bn2
                nn.init.zeros_(last.weight)
                if last.bias is not None:
                    nn.init.zeros_(last.bias)
            assert torch.allclose(found[6 + kept], twin(x), rtol=1e-10, atol=1e-10)
    labels = found[7].argmax(1)
    labels[:5] = (labels[:5] + 1) % 10
    result = gradients_by_block(chain, (x, labels), batch_size=16)
    assert [row.head_accuracy for row in result.rows[:6]] == [None] * 6
    seventh = result.rows[7]
    assert seventh.head_accuracy == pytest.approx(35 / 40)
    limits = accuracy_interval(35, 40)
    assert [seventh.head_accuracy_low, seventh.head_accuracy_high] == [limits.low, limits.high]


def test_links_stay_where_later_blocks_are_left_out():
    blocks = [
        Block(i, str(i), branch=lambda x, context: 10 * x, shape_in=(1,), shape_out=(1,))
        for i in range(3)
    ]
    chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
    chain = dataclasses.replace(chain, links={2: lambda x, context: -x})
    outputs = [output.item() for _, output in early_outputs(chain, torch.ones(1, 1))]
    assert outputs == [-11, -121, -1331]


def test_the_model_is_left_as_it_was():
    model = make_net()
    model.train()
    before = state_of(model)
    gradients_by_block(model, make_data())
    assert state_of(model) == before


@pytest.fixture(scope="module")
def result() -> GradientsByBlock:
    return gradients_by_block(make_net(), make_data())


def test_saved_and_loaded_results_are_equal(result, tmp_path):
    result.save(tmp_path)
    assert GradientsByBlock.load(tmp_path) == result
    frame = pd.read_csv(tmp_path / "blocks.csv")
    content = json.loads((tmp_path / "results.json").read_text())
    assert list(frame.columns) == list(result.frame.columns) == list(content["rows"][0])
    assert frame["branch_gradient"].tolist() == [row.branch_gradient for row in result.rows]
    assert {"blocks.csv", "blocks.pdf", "blocks.png", "results.json"} == {
        file.name for file in tmp_path.iterdir()
    }
    (tmp_path / "results.json").write_text('{"kind": "lesion"}')
    with pytest.raises(ResultError, match="expected 'gradients by block'"):
        GradientsByBlock.load(tmp_path)


def test_the_table_fits_the_terminal_and_the_words_say_what_the_rows_say(result):
    assert max(map(len, repr(result).splitlines())) <= 80
    lines = result.table.splitlines()
    assert [line.split()[0].rstrip("*") for line in lines[1:7]] == [str(k) for k in range(6)]
    shares = [row.branch_share for row in result.rows]
    assert f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %" in result.summary
    down = sum((row.cosine_low or 0) > 0 for row in result.rows)
    assert f"Of 4 blocks that keep the shape, the branch goes downhill in {down} " in result.summary
    assert "Put after the first of the last stage's 2 blocks, the head is right" in result.summary
    assert "<table" in result._repr_html_()


def test_the_figure_shows_the_columns_with_their_intervals(result):
    figure = result.plot()
    drawn = {str(line.get_label()): line for axes in figure.axes for line in axes.lines}
    frame = result.frame
    for label, column in {
        "through the branch": "branch_gradient",
        "through the shortcut": "shortcut_gradient",
        "‖F‖ / ‖h‖": "norm_ratio",
        "cos(F, −∂L/∂h)": "cosine",
        "head after the block": "head_accuracy",
    }.items():
        shown = frame.dropna(subset=[column])
        assert list(drawn[label].get_xdata()) == shown["block"].tolist()
        assert list(drawn[label].get_ydata()) == shown[column].tolist()
    bands = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert bands.max() == pytest.approx(frame["branch_gradient_high"].max())


def test_one_example_has_no_interval_and_losses_of_ones_own_no_head():
    x, labels = make_data(1)
    single = gradients_by_block(make_net(), (x, labels))
    assert single.rows[0].branch_gradient is not None
    assert single.rows[0].branch_gradient_low is None
    assert "1 example of" in single.summary
    single.plot()

    def distance(output: Tensor, targets: Tensor, inputs: Any) -> Tensor:
        return (output - targets).square().sum(1)

    x, _ = make_data(4)
    own = gradients_by_block(make_net(), (x, torch.zeros(4, 10).double()), loss=distance)
    assert own.loss == "distance"
    assert all(row.head_accuracy is None for row in own.rows)
    assert "head" not in own.summary
    own.plot()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"level": 95}, "The confidence level is 95"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, sentence):
    with pytest.raises(MeasurementError, match=sentence):
        gradients_by_block(make_net(), make_data(), **options)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "resnet14.pt"
    save_checkpoint(
        path,
        make_net().float(),
        architecture="resnet14,width=4",
        normalisation=((0.3,), (0.4,)),
        data="digits",
        input_shape=(1, 8, 8),
    )
    return path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_the_command_prints_saves_and_gives_json(saved, tmp_path, capsys):
    words = ["gradients", saved, "--by-block", "--limit", 30, "--seed", 3]
    assert run(*words, "--out", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "6 blocks on 30 examples: one backward pass, batches of 64" in lines
    assert max(map(len, lines)) <= 80
    found = GradientsByBlock.load(tmp_path / "out")
    assert (found.examples, found.provenance.seed) == (30, 3)
    assert run(*words, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["rows"][2]["norm_ratio"] == pytest.approx(found.rows[2].norm_ratio)


def test_interruption_keeps_what_is_done(saved, tmp_path, capsys, monkeypatch):
    from ensemble_view.studies.gradients.blocks import BlockGradientStudy

    measure = BlockGradientStudy._measure

    def interrupted(self, chain, inputs, labels, found):
        if len(found.measures) == 2:
            raise KeyboardInterrupt
        return measure(self, chain, inputs, labels, found)

    monkeypatch.setattr(BlockGradientStudy, "_measure", interrupted)
    words = ["gradients", saved, "--by-block", "--limit", 20, "--batch-size", 4]
    assert run(*words, "--out", tmp_path / "out") == 1
    assert "Stopped after 8 of 20 examples" in capsys.readouterr().err
    result = GradientsByBlock.load(tmp_path / "out")
    assert result.interrupted
    assert result.examples == 8
    assert "(interrupted: these are those done so far)" in result.summary
    assert np.isfinite(result.frame["branch_share"]).all()
    assert not math.isnan(result.seconds)


def test_a_classifier_near_chance_is_warned_of_and_a_good_one_is_not():
    inputs, _ = make_data(60)
    net = make_net()
    with torch.no_grad():
        answers = net(inputs).argmax(1)
    assert len(set(answers.tolist())) > 1
    wrong = (answers + 1) % 10
    with pytest.warns(MeasurementWarning, match="The full net is below chance, 0.0% right of 60"):
        found = gradients_by_block(net, (inputs, wrong))
    assert [note.split(",")[0] for note in found.provenance.warnings] == [
        "The full net is below chance"
    ]
    assert not gradients_by_block(net, (inputs, answers)).provenance.warnings
    own = gradients_by_block(net, (inputs, wrong.double()), loss=lambda y, t, _: (y**2).sum(1))
    assert not own.provenance.warnings
