"""How later blocks answer to a deletion: known answers, formulas, files, figure, command."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

import nets
from cases import images
from ensemble_view import Block, Chain, ReactionResult, reaction, unravel
from ensemble_view.cli.application import main
from ensemble_view.data.text_data import TextData
from ensemble_view.errors import MeasurementError
from ensemble_view.nets.checkpoints import save_checkpoint
from ensemble_view.nets.models.building import build
from ensemble_view.studies.reaction.freezing import forms_of
from ensemble_view.studies.reaction.gains import Holding, Recording
from ensemble_view.studies.reaction.stage import Stage, reactions, stages_of
from ensemble_view.studies.reaction.study import ReactionStudy
from ensemble_view.study.files import ResultError
from ensemble_view.study.study import prepare
from layers import wake
from state import unchanged

ALL = ("nothing", "junctions", "all")


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def chain_of(*branches, **parts) -> Chain:
    blocks = [
        Block(i, f"F{i}", branch=lambda x, context, f=branch: f(x), **parts)
        for i, branch in enumerate(branches)
    ]
    return Chain.from_parts(lambda x: x, blocks, lambda x: x)


def measured(chain: Chain, x: Tensor, frozen=("nothing",)) -> Tensor:
    return reactions(chain, stages_of(chain, x), x, frozen=frozen)


# --- Nets with known answers


def test_branches_that_only_add_up_react_with_one():
    """Each branch reads the first half, which none writes to."""

    def branch(weight: Tensor):
        return lambda x: F.pad((x[:, :3] @ weight).tanh(), (3, 0))

    chain = chain_of(*(branch(normal(3, 3, seed=i)) for i in range(5)))
    found = measured(chain, normal(4, 6, seed=9))
    assert torch.allclose(found, torch.ones_like(found), rtol=0, atol=1e-12)


def quaternion(*q: float) -> Tensor:
    """Multiplication by q from the left, as a matrix."""
    a, b, c, d = q
    return torch.tensor(
        [[a, -b, -c, -d], [b, a, -d, c], [c, d, a, -b], [d, -c, b, a]], dtype=torch.float64
    )


def test_a_chain_of_rotations_reacts_with_zero_and_keeps_the_norm():
    """Products of i and j are ± i, j or k, which turn every vector by a right angle."""
    i, j = quaternion(0, 1, 0, 0), quaternion(0, 0, 1, 0)
    chain = chain_of(*((lambda x, q=q: x @ q.T - x) for q in (i, i, j, i)))
    found = measured(chain, normal(5, 4))[0]
    expected = torch.tensor([0.0, 0, 0, 1], dtype=torch.float64)[:, None].expand(4, 5)
    assert torch.allclose(found[0], expected, rtol=0, atol=1e-12)
    assert torch.allclose(found[1], torch.ones(4, 5, dtype=torch.float64), rtol=0, atol=1e-12)


def test_refinement_reacts_with_what_is_left_of_the_error():
    """Each block goes a third of the way to one target, whatever comes in."""
    target = normal(6, seed=1)
    chain = chain_of(*[lambda x: (target - x) / 3] * 4)
    found = measured(chain, normal(5, 6))[0]
    expected = torch.tensor([(2 / 3) ** later for later in (3, 2, 1, 0)], dtype=torch.float64)
    for measure in found:
        assert torch.allclose(measure, expected[:, None].expand(4, 5), rtol=0, atol=1e-12)


@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=40)
def test_linear_blocks_react_as_the_product_of_the_later_ones_says(count, width, seed):
    weights = normal(count, width, width, seed=seed).numpy()
    chain = chain_of(*((lambda x, w=w: x @ torch.from_numpy(w).T) for w in weights))
    x = normal(3, width, seed=seed + 1)
    found = measured(chain, x)[0].numpy()
    for example, h in enumerate(x.numpy()):
        for index in range(count):
            branch = weights[index] @ h
            h, effect = h + branch, branch
            for later in weights[index + 1 :]:
                effect = effect + later @ effect
            ratio = np.linalg.norm(effect) / np.linalg.norm(branch)
            assert found[0, index, example] == pytest.approx(
                effect @ branch / (branch @ branch), rel=1e-9, abs=1e-9
            )
            assert found[1, index, example] == pytest.approx(ratio, rel=1e-9)


# --- By formula, example by example, also with masks that are written out


class ByHand:
    """Nets whose blocks are ``relu(x + branch(x))``, the masks of every ReLU written out."""

    def __init__(self, net: nets.Net, x: Tensor) -> None:
        self.net, self.count = net, net.length()
        self.layers = [
            block if isinstance(block, nn.Sequential) else block.branch for block in net.blocks
        ]
        self.inner: list[Tensor] = []
        self.outer: list[Tensor] = []
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        x = net.start(x)
        for index in range(self.count):
            x = net.link(index, x)
            first, norm, _, second, last = self.layers[index]
            self.inputs.append(x)
            hidden = norm(first(x))
            self.inner.append((hidden > 0).to(x))
            total = x + last(second(hidden * self.inner[-1]))
            self.outer.append((total > 0).to(x))
            x = total * self.outer[-1]
            self.outputs.append(x)

    def end(self, deleted: int | None, start: int, last: int, frozen: str) -> Tensor:
        x = self.inputs[start]
        for index in range(start, last + 1):
            first, norm, _, second, final = self.layers[index]
            hidden = norm(first(x))
            mask = self.inner[index] if frozen == "all" else (hidden > 0).to(x)
            total = x if index == deleted else x + final(second(hidden * mask))
            x = total * ((total > 0).to(x) if frozen == "nothing" else self.outer[index])
        return x


@pytest.mark.parametrize(
    ("kind", "stages"),
    [(nets.RootLoop, [(0, 3)]), (nets.InPlaceSum, [(0, 4)]), (nets.Linked, [(0, 1), (2, 3)])],
)
@torch.no_grad()
def test_reactions_are_those_of_the_formula_also_with_masks_held(kind, stages):
    model = wake(kind())
    chain = unravel(model, images(), granularity="branch")
    x = images(5)
    assert stages_of(chain, images()) == tuple(Stage(*ends) for ends in stages)
    assert forms_of(chain, images()).measured == ALL
    with unchanged(model):
        found = measured(chain, x, ALL)
    by_hand = ByHand(model, x)
    for first, last in stages:
        whole = by_hand.end(None, first, last, "nothing")
        for index in range(first, last + 1):
            for way, frozen in enumerate(ALL):
                gap = whole - by_hand.end(index, index, last, frozen)
                # What leaves the block: at its own end, with the same masks.
                left = by_hand.outputs[index] - by_hand.end(index, index, index, frozen)
                for example in range(5):
                    d, f = gap[example].flatten(), left[example].flatten()
                    assert found[way, 0, index, example].item() == pytest.approx(
                        float(d @ f / (f @ f)), rel=1e-9
                    )
                    assert found[way, 1, index, example].item() == pytest.approx(
                        float(d.norm() / f.norm()), rel=1e-9
                    )
    # The masks matter, or holding them would prove nothing.
    assert float((found[0] - found[1]).abs().max()) > 1e-3
    assert float((found[1] - found[2]).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", [nets.EntryReLU, nets.Layers, nets.PostNorm, nets.Plain])
@torch.no_grad()
def test_reactions_of_other_forms_are_those_of_the_formula(kind):
    """Nets that say by formula what shortcut and branch are; several sums, no shortcut."""
    model = wake(kind())
    chain = unravel(model, images(), plain=kind is nets.Plain)
    x = images(3)
    found = measured(chain, x)[0]
    trunk = [model.start(x)]
    changes = []
    for index in range(model.length()):
        shortcut, branch = model.parts(index, trunk[-1])
        trunk.append(model.after(index, shortcut + branch))
        changes.append(trunk[-1] - model.after(index, shortcut))
    for index, change in enumerate(changes):
        h = trunk[index]
        for later in range(index, model.length()):
            h = model.step(later, h, keep=later != index)
        d, f = (trunk[-1] - h).flatten(1), change.flatten(1)
        expected = torch.stack([(d * f).sum(1) / f.square().sum(1), d.norm(dim=1) / f.norm(dim=1)])
        assert torch.allclose(found[:, index], expected, rtol=1e-8, atol=1e-10)


@torch.no_grad()
def test_layer_normalisation_is_held_at_the_full_nets_mean_and_deviation():
    gain, bias = normal(6, seed=1), normal(6, seed=2)
    weights = [normal(6, 6, seed=i) for i in range(3, 6)]
    chain = chain_of(
        *((lambda x, w=w: x @ w) for w in weights),
        after=lambda x, context: F.layer_norm(x, (6,), gain, bias),
    )
    x = normal(4, 6)
    assert forms_of(chain, x).equal == {"all"}
    found = measured(chain, x, ("nothing", "junctions"))
    for example in range(4):
        h, inputs, branches, moments = x[example], [], [], []
        for w in weights:
            inputs.append(h)
            branches.append(h @ w)
            total = h + branches[-1]
            moments.append((total.mean(), (total.var(unbiased=False) + 1e-5).sqrt()))
            h = gain * (total - moments[-1][0]) / moments[-1][1] + bias
        for index, branch in enumerate(branches):
            y = inputs[index]
            deviation = moments[index][1]
            change = gain * branch / deviation
            for later in range(index, 3):
                total = y if later == index else y + y @ weights[later]
                mean, deviation = moments[later]
                y = gain * (total - mean) / deviation + bias
            expected = float((h - y) @ change / (change @ change))
            assert found[1, 0, index, example].item() == pytest.approx(expected, rel=1e-9)
    assert float((found[0] - found[1]).abs().max()) > 1e-3


@pytest.mark.parametrize(
    "function",
    [
        torch.relu, F.gelu, F.silu, F.mish, F.elu, F.hardswish, torch.tanh, F.relu6, F.hardtanh,
        F.leaky_relu, lambda z: z.clamp(min=0), lambda z: z.clamp(-2, 1), lambda z: z.clamp_min(0),
        lambda z: F.relu(z.clone(), inplace=True), lambda z: z.clone().clamp_(max=0.5),
        lambda z: F.layer_norm(z, (7,)), lambda z: F.layer_norm(z, (7,), normal(7), normal(7)),
    ],
)  # fmt: skip
@torch.no_grad()
def test_what_is_held_gives_the_same_where_it_was_recorded_and_is_affine_elsewhere(function):
    z, other = normal(3, 7), normal(3, 7, seed=1)
    with Recording() as recording:
        expected = function(z)

    def run(value: Tensor) -> Tensor:
        with Holding(recording.held):
            return function(value)

    assert torch.allclose(run(z), expected, rtol=1e-12, atol=1e-12)
    middle = (run(z) + run(other)) / 2
    assert torch.allclose(run((z + other) / 2), middle, rtol=1e-12, atol=1e-12)
    assert not torch.allclose((function(z) + function(other)) / 2, function((z + other) / 2))


@torch.no_grad()
def test_at_zero_the_slope_stands_for_the_gain():
    zero = torch.zeros(1, dtype=torch.float64)
    for function in (torch.relu, F.gelu, F.silu, F.mish, F.hardswish, torch.tanh, F.elu):
        with Recording() as recording:
            function(zero)
        step = 1e-6
        slope = (function(zero + step) - function(zero - step)) / (2 * step)
        if function is torch.relu:
            slope = zero
        assert recording.held[0].item() == pytest.approx(slope.item(), abs=1e-6)


@torch.no_grad()
def test_clamps_that_do_not_keep_zero_are_not_held():
    for function in (lambda z: z.clamp(min=1), lambda z: z.clamp(max=-1)):
        with Recording() as recording:
            function(normal(3))
        assert recording.held == []


def test_nonlinearities_that_come_and_go_cannot_be_held():
    def branch(x: Tensor) -> Tensor:
        return torch.relu(x) if x.sum() > 5 else torch.relu(torch.relu(x))

    chain = chain_of(lambda x: x + 10, branch)
    with pytest.raises(MeasurementError, match=r"^A part of a block runs other nonlinearities"):
        measured(chain, torch.ones(1, 2, dtype=torch.float64), ALL)


@pytest.mark.parametrize(
    ("parts", "undefined"),
    [
        (
            {"branch": lambda x, c: x.softmax(1)},
            {"all": "the branch of block 0 (F) is not affine with its nonlinearities held"},
        ),
        (
            {"after": lambda x, c: torch.where(x > 0, x, 0.1 * x)},
            dict.fromkeys(
                ("junctions", "all"),
                "what follows the sum of block 0 (F) is not affine with its nonlinearities held",
            ),
        ),
    ],
)
def test_what_cannot_be_held_is_undefined_and_said_to_be(parts, undefined):
    block = Block(0, "F", **{"branch": lambda x, c: -x / 2, **parts})
    chain = Chain.from_parts(lambda x: x, [block, block], lambda x: x)
    assert forms_of(chain, normal(2, 4)).undefined == undefined
    result = reaction(chain, (normal(6, 4), torch.zeros(6, dtype=torch.int64)))
    assert result.frame["reaction"].notna().all()
    assert result.frame["reaction_all_frozen"].isna().all()
    assert result.frame["reaction_frozen"].isna().all() == ("junctions" in undefined)
    assert next(iter(undefined.values())) in result.summary
    assert result.summary.count("is not affine") == len(undefined)
    assert f"is undefined where {'the junctions' if 'junctions' in undefined else 'all'}" in (
        result.summary
    )
    assert max(map(len, repr(result).splitlines())) <= 80


def test_where_nothing_switches_holding_changes_nothing_and_costs_nothing():
    chain = chain_of(*[lambda x: -x / 3] * 3)
    study = prepare(ReactionStudy, chain, (normal(4, 5), torch.zeros(4)))
    # Three blocks, then the later ones for the deletions and for the donors.
    assert study.cost.block_evaluations == 3 + 2 * (2 + 1)
    frame = study.run().frame
    for ending in ("_frozen", "_all_frozen"):
        assert frame[f"reaction{ending}"].equals(frame["reaction"])
    figure = study.run().plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["Reaction", "Ratio of norms"]


# --- As a study


def make_data(count: int = 12) -> tuple[Tensor, Tensor]:
    return normal(count, 1, 8, 8, seed=7), torch.arange(count) % 10


@pytest.fixture(scope="module")
def chain() -> Chain:
    return unravel(wake(build("resnet14,width=4", in_channels=1)), make_data()[0])


@pytest.fixture(scope="module")
def result(chain) -> ReactionResult:
    return reaction(chain, make_data(), batch_size=5)


def test_rows_are_means_over_the_examples_with_t_intervals(chain, result):
    x, _ = make_data()
    values = measured(chain, x, ALL).numpy()
    frame = result.frame
    assert frame["block"].tolist() == list(range(6))
    assert frame["stage"].tolist() == [0, 0, 1, 1, 2, 2]
    assert frame["later"].tolist() == [1, 0] * 3
    assert frame["n"].tolist() == [12] * 6
    for way, ending in enumerate(("", "_frozen", "_all_frozen")):
        for number, name in enumerate(("reaction", "norm_ratio")):
            column = values[way, number]
            assert frame[name + ending].to_numpy() == pytest.approx(column.mean(1), rel=1e-9)
            for index, row in enumerate(column):
                low = high = row.mean()
                # The last of a stage reads 1 for each example.
                if row.std() > 1e-12:
                    low, high = stats.t.interval(0.95, 11, row.mean(), stats.sem(row))
                assert frame[f"{name}{ending}_low"][index] == pytest.approx(low, rel=1e-7)
                assert frame[f"{name}{ending}_high"][index] == pytest.approx(high, rel=1e-7)
    # Of each stage only the first block has another after it.
    stages = result.stages_frame
    assert stages["stage"].tolist() == [0, 1, 2, "all"]
    assert stages["blocks"].tolist() == [1, 1, 1, 3]
    every = values[0, 0, [0, 2, 4]].mean(0)
    low, high = stats.t.interval(0.95, 11, every.mean(), stats.sem(every))
    assert stages["reaction"][3] == pytest.approx(every.mean(), rel=1e-9)
    assert stages["reaction_low"][3] == pytest.approx(low, rel=1e-7)
    assert stages["reaction_high"][3] == pytest.approx(high, rel=1e-7)


def test_the_cost_is_known_before_and_counted(chain):
    study = prepare(ReactionStudy, chain, make_data(), batch_size=5)
    # Six blocks of the net and six of the untrained one, then in each of three stages one more, in
    # three ways, for the donor, and for the untrained net.
    assert study.cost.block_evaluations == 2 * 6 + 5 * 3
    assert study.cost.naive_block_evaluations == 2 * 6 + 5 * 6 * 5
    told: list[int] = []
    result = study.run(told.append)
    assert sum(told) == study.work == 27 * 12
    assert result.cost.batches == 3
    assert str(study).startswith(
        "Reactions within 3 stages of 6 blocks on 12 examples, beside another example's change and "
        "the untrained net: 27 block evaluations per batch, each deletion to the end of its stage, "
        "batches of 5, about "
    )


def test_the_model_is_left_as_it_was():
    model = wake(build("resnet14v2,width=4", in_channels=1)).train()
    with unchanged(model):
        result = reaction(model, make_data(4))
    assert len(result.frame) == 6


def test_examples_whose_branch_gives_nothing_do_not_count():
    chain = chain_of(lambda x: -x.clamp(min=0), lambda x: x)
    x = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [3.0, -1.0]], dtype=torch.float64)
    result = reaction(chain, (x, torch.zeros(3)))
    assert result.frame["n"].tolist() == [2, 2]
    assert result.frame["reaction"][0] == pytest.approx(2)
    nothing = reaction(chain, (x[1:2], torch.zeros(1)))
    assert nothing.frame["n"].tolist() == [0, 1]
    assert math.isnan(nothing.stages_frame["reaction"][0])
    assert " - " in nothing.table


def test_padding_of_text_does_not_count():
    class Tokens(nn.Module):
        """Causal: each position sees itself and what is before it."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(256, 4)
            self.mixes = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.head = nn.Linear(4, 256)

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embed(input_ids)
            for mix in self.mixes:
                x = x + mix(x.cumsum(1)).tanh()
            return self.head(x)

    torch.manual_seed(0)
    model = Tokens().double().eval()
    rng = np.random.default_rng(0)
    tokens = tuple(rng.integers(0, 256, n) for n in (3, 16, 11, 30, 25, 7))
    data = TextData("made up", tokens, tokens, 64, "bytes")
    result = reaction(model, data, batch_size=4)
    for number, sequence in enumerate(tokens):
        x = torch.from_numpy(sequence)[None]
        alone = measured(unravel(model, x), x)[0, :, :, 0].numpy()
        assert result.outcomes.reaction[:, number] == pytest.approx(alone[0], rel=1e-9)
        assert result.outcomes.norm_ratio[:, number] == pytest.approx(alone[1], rel=1e-9)


def test_rows_that_are_no_examples_are_refused():
    blocks = [Block(0, "F", branch=lambda x, c: x)]
    chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
    message = r"^The trunk has 2 rows for 3 examples at block 0 \(F\); the reaction needs one row"
    with pytest.raises(MeasurementError, match=message):
        reactions(chain, [Stage(0, 0)], torch.ones(2, 3), counted=torch.ones(3, 3))


def test_options_that_do_not_fit_are_refused(chain):
    with pytest.raises(MeasurementError, match=r"^batch_size is 0; expected at least 1\.$"):
        reaction(chain, make_data(), batch_size=0)

    class Shrinking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            sizes = ((1, 3), (3, 5))
            self.layers = nn.Sequential(
                *(nn.Sequential(nn.Conv2d(*s, 3), nn.BatchNorm2d(s[1]), nn.ReLU()) for s in sizes)
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x).mean((2, 3))

    message = r"^None of the 2 units of this net keeps its shape, so none can be deleted\.$"
    with pytest.raises(MeasurementError, match=message):
        reaction(wake(Shrinking()), make_data(), plain=True)


# --- In words, files, figure


def test_saved_and_loaded_results_are_equal(result, tmp_path):
    result.save(tmp_path)
    assert ReactionResult.load(tmp_path) == result
    frame = pd.read_csv(tmp_path / "reaction.csv")
    assert list(frame.columns) == list(result.frame.columns)
    assert pd.read_csv(tmp_path / "stages.csv")["stage"].tolist() == ["0", "1", "2", "all"]
    for suffix in ("pdf", "png"):
        assert (tmp_path / f"reaction.{suffix}").stat().st_size > 1000
    (tmp_path / "results.json").write_text('{"kind": "lesion"}')
    with pytest.raises(ResultError, match="expected 'reaction'"):
        ReactionResult.load(tmp_path)


def test_a_row_for_each_block(result):
    with pytest.raises(MeasurementError, match="There are 5 blocks but reactions to 6"):
        replace(result, blocks=result.blocks[:5])


def test_the_table_fits_the_terminal(result):
    assert max(map(len, repr(result).splitlines())) <= 80
    lines = result.table.splitlines()
    assert [line.split()[0] for line in lines[1:7]] == ["0", "1", "2*", "3", "4*", "5"]
    assert f"{result.frame['reaction'][0]:.3f}" in lines[1]
    assert [line.split()[0] for line in lines[8:12]] == ["stage"] * 3 + ["all"]
    for column in ("reaction_untrained", "reaction_donor", "norm_ratio", "reaction_frozen"):
        assert f"{result.frame[column][0]:.3f}" in lines[1]
    assert "<table" in result._repr_html_()


def test_the_figure_shows_what_was_measured(result):
    figure = result.plot()
    frame = result.frame
    nulls, held = ("", "_untrained", "_donor"), ("", "_frozen", "_all_frozen")
    panels = (("reaction", nulls), ("reaction", held), ("norm_ratio", nulls))
    for axes, (column, endings) in zip(figure.axes, panels, strict=True):
        for ending in endings:
            lines = [line for line in axes.lines if line.get_label() == f"_{column}{ending}"]
            followed, last = (list(line.get_ydata()) for line in lines)
            assert followed == frame[column + ending][frame["later"] > 0].tolist()
            assert last == frame[column + ending][frame["later"] == 0].tolist()
            assert lines[1].get_markerfacecolor() == "white"
        heights = {line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"}
        assert heights == ({0, 1} if column == "reaction" else {1})
        segments = axes.collections[0].get_segments()
        assert [s[:, 1].tolist() for s in segments] == [
            [low, high]
            for low, high in zip(frame[f"{column}_low"], frame[f"{column}_high"], strict=True)
        ]
        (band,) = axes.patches
        assert (band.get_x(), band.get_width()) == (1.5, 2)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "the net", "untrained net", "donor's change", "junctions held", "all nonlinearities held",
        "last of its stage",
    ]  # fmt: skip


# --- The command


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "small.pt"
    model = wake(build("resnet14,width=4", in_channels=1)).float()
    save_checkpoint(path, model, architecture="resnet14,width=4,in_channels=1", data="digits")
    return str(path)


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


def test_the_command_says_the_cost_and_saves_the_result(saved, tmp_path, capsys):
    assert run("reaction", saved, "--limit", 8, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "Reactions within 3 stages of 6 blocks on 8 examples, beside " in printed.out
    assert "the untrained net: 27 block evaluations" in printed.out
    loaded = ReactionResult.load(tmp_path / "out")
    assert loaded.table in printed.out
    assert "built anew, seed 0" in loaded.nulls["untrained"]
    assert loaded.provenance.command.startswith("ensemble-view")
    assert run("reaction", saved, "--limit", 8, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["kind"] == "reaction"
    assert "Reactions within" in printed.err
    assert run("reaction", saved, "--limit", 8, "--no-untrained") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "another example's change and no untrained net: 18 block evaluations" in printed
    assert "The untrained net was not measured: it was left out." in printed
    assert "later blocks repair" not in printed


def test_the_help_teaches(capsys):
    assert run("reaction", "--help") == 0
    assert "ensemble-view reaction resnet56.th" in capsys.readouterr().out


def test_interruption_keeps_what_is_done(saved, tmp_path, capsys, monkeypatch):
    from ensemble_view.studies.reaction.study import PreparedReaction

    of_batch, calls = PreparedReaction._of_batch, []

    def interrupted(self, *arguments):
        calls.append(1)
        # Two calls before the clock starts and for the time that the run will take.
        if len(calls) == 5:
            raise KeyboardInterrupt
        return of_batch(self, *arguments)

    monkeypatch.setattr(PreparedReaction, "_of_batch", interrupted)
    words = ("reaction", saved, "--limit", 20, "--batch-size", 4, "--out", tmp_path / "out")
    assert run(*words) == 1
    assert "Stopped after 8 of 20 examples" in capsys.readouterr().err
    result = ReactionResult.load(tmp_path / "out")
    assert result.interrupted
    assert result.outcomes.positions.tolist() == list(range(8))
    assert "interrupted: these are the examples done so far" in result.summary
