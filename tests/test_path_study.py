"""Gradients by length as a study: means over data, the result, its files, figures and commands."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import path_gradients
import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from scipy import stats
from torch import Tensor, nn

import ensemble_view
from ensemble_view import (
    Block,
    Chain,
    EnsembleViewError,
    GradientsByLength,
    count_paths,
    gradients_by_length,
    unravel,
)
from ensemble_view.cli.application import main
from ensemble_view.errors import MeasurementError
from ensemble_view.nets.checkpoints import save_checkpoint
from ensemble_view.nets.models.building import build
from ensemble_view.paths.gradients import draw_energies
from ensemble_view.paths.lengths import path_lengths
from ensemble_view.paths.trace import trace
from ensemble_view.studies.gradients.measurement import Measured
from ensemble_view.studies.gradients.study import prepare_gradients
from ensemble_view.studies.paths.result import PathCounts
from ensemble_view.study.files import ResultError
from layers import wake
from path_oracles import enumerate_paths
from state import state_of

EXAMPLES = 6


def make_net() -> nn.Module:
    """Six blocks, double precision."""
    return wake(build("resnet14,width=4", in_channels=1))


def make_data(count: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(count, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.arange(count) % 10


@pytest.fixture(scope="module")
def chain() -> Chain:
    return unravel(make_net(), make_data()[0])


@pytest.fixture(scope="module")
def every_path(chain: Chain) -> dict[tuple[int, ...], Tensor]:
    x, labels = make_data()
    return enumerate_paths(
        chain, (x,), lambda output: F.cross_entropy(output, labels, reduction="none")
    )


@pytest.fixture(scope="module")
def everything(chain: Chain) -> GradientsByLength:
    return gradients_by_length(chain, make_data(), method="all", samples=100, vectors=4)


def stacked(paths: dict[tuple[int, ...], Tensor], length: int) -> Tensor:
    """(paths of that length, examples, numbers)."""
    return torch.stack([g.flatten(1) for path, g in paths.items() if len(path) == length])


def test_every_column_is_what_enumeration_gives(everything, every_path):
    whole = sum(every_path.values()).flatten(1)
    for row in everything.rows:
        paths = stacked(every_path, row.length)
        total = paths.sum(0)
        assert row.paths == len(paths) == math.comb(6, row.length)
        assert row.summed_norm == pytest.approx(total.norm(dim=1).mean().item(), rel=1e-12)
        shares = (total * whole).sum(1) / whole.square().sum(1)
        assert row.projected == pytest.approx(shares.mean().item(), rel=1e-10, abs=1e-14)
        for error, values in ((row.summed_norm_se, total.norm(dim=1)), (row.projected_se, shares)):
            assert error == pytest.approx(values.std().item() / EXAMPLES**0.5, rel=1e-9, abs=1e-14)
        # No more than 100 paths of each length: sampled takes each of them once.
        norms = paths.norm(dim=2)
        assert row.sampled_mean == pytest.approx(norms.mean().item(), rel=1e-12)
        assert row.sampled_median == pytest.approx(np.median(norms.numpy()), rel=1e-12)
        energy = paths.square().sum((0, 2)).mean().item()
        assert abs(row.energy - energy) <= 5 * row.energy_se + 1e-12 * energy
        assert row.coherence == pytest.approx(
            total.square().sum(1).mean().item() / row.energy, rel=1e-10
        )
        assert 0 <= row.coherence <= row.paths * (1 + 5 * row.energy_se / row.energy + 1e-9)
    assert math.fsum(row.projected for row in everything.rows) == pytest.approx(1, abs=1e-12)
    negative = torch.stack(
        [(stacked(every_path, k).sum(0) * whole).sum(1) / whole.square().sum(1) for k in range(7)]
    )
    assert everything.negative_mass == pytest.approx(
        (-negative).clamp(min=0).sum(0).mean().item(), rel=1e-9, abs=1e-14
    )
    assert everything.undefined == 0
    lengths = (negative * torch.arange(7)[:, None]).sum(0).numpy()
    limits = stats.t.interval(0.95, EXAMPLES - 1, lengths.mean(), stats.sem(lengths))
    assert everything.projected_mean == pytest.approx(limits, rel=1e-9)
    assert everything.effective["projected"].mean == pytest.approx(lengths.mean(), rel=1e-9)
    assert f"(interval {limits[0]:.1f} to {limits[1]:.1f})" in everything.summary
    check_pooled(everything, every_path)


def check_pooled(everything: GradientsByLength, every_path) -> None:
    """The ratio of sums by its definition, and its error by leaving out each example in turn."""
    whole = sum(every_path.values()).flatten(1)
    products = torch.stack(
        [(stacked(every_path, k).sum(0) * whole).sum(1) for k in range(7)], 1
    ).numpy()
    squares = whole.square().sum(1).numpy()
    pooled = products.sum(0) / squares.sum()
    rest = [np.arange(EXAMPLES) != e for e in range(EXAMPLES)]
    left = np.stack([products[r].sum(0) / squares[r].sum() for r in rest])
    # Tukey's pseudo-values weigh each example's residual by what is left without it.
    errors = np.sqrt((EXAMPLES - 1) / EXAMPLES * np.sum((left - pooled) ** 2, axis=0))
    for row, share, error in zip(everything.rows, pooled, errors, strict=True):
        assert row.pooled == pytest.approx(share, rel=1e-9, abs=1e-14)
        assert row.pooled_se == pytest.approx(error, rel=1e-6, abs=1e-14)
    mean = float(pooled @ np.arange(7))
    assert everything.effective["pooled"].mean == pytest.approx(mean, rel=1e-9)
    low, high = everything.pooled_mean
    assert low <= mean <= high
    assert mean != pytest.approx(everything.effective["projected"].mean, rel=1e-3)
    assert f"ratio of sums over examples), the mean length is {mean:.1f} (interval " in (
        everything.summary
    )


def test_drawn_paths_converge_to_the_mean_over_all(chain, every_path):
    result = gradients_by_length(
        chain, make_data(), method="sampled", samples=14, batch_size=1, seed=5
    )
    for row in result.rows:
        norms = stacked(every_path, row.length).norm(dim=2)
        drawn = min(14, row.paths)
        # Paths are drawn anew for each batch, here of one example: the error of a mean of means.
        variance = norms.var(0, unbiased=False).sum() / drawn / EXAMPLES**2
        error = 0.0 if drawn == row.paths else math.sqrt(variance)
        assert abs(row.sampled_mean - norms.mean().item()) <= 4 * error + 1e-12
    assert result.rows[3].sampled_mean != stacked(every_path, 3).norm(dim=2).mean().item()
    assert result.cost.branch_vjps == sum(k * min(14, math.comb(6, k)) for k in range(7))


def test_the_norm_of_a_batch_is_that_of_its_mean_loss(chain, every_path):
    result = gradients_by_length(chain, make_data(), method="sampled", samples=99, norm="batch")
    for row in result.rows:
        whole = stacked(every_path, row.length).flatten(1).norm(dim=1) / EXAMPLES
        assert row.sampled_mean == pytest.approx(whole.mean().item(), rel=1e-12)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("chunk", [1, 3])
def test_neither_batches_nor_chunks_change_the_exact_columns(chain, everything, batch_size, chunk):
    result = gradients_by_length(chain, make_data(), batch_size=batch_size, chunk=chunk)
    columns = ["summed_norm", "projected"]
    pd.testing.assert_frame_equal(result.frame[columns], everything.frame[columns], rtol=1e-12)


def test_the_model_is_left_as_it_was_and_a_repetition_is_the_same():
    model = make_net()
    model.layer1[0].conv1.weight.requires_grad_(False)
    model.train()
    before = state_of(model)
    results = [
        gradients_by_length(model, make_data(), method="all", samples=3, vectors=2, seed=9)
        for _ in range(2)
    ]
    assert state_of(model) == before
    assert results[0].rows == results[1].rows


def test_cost_is_known_before_and_kept(chain):
    study = prepare_gradients(chain, make_data(), method="all", samples=3, vectors=2, groups=16)
    told: list[int] = []
    result = study.run(told.append)
    assert sum(told) == study.work == study.cost.branch_vjps * EXAMPLES
    assert result.cost.by_method == {
        "summed": 21,
        "energy": 16 * 2 * 21,
        "sampled": sum(k * min(3, math.comb(6, k)) for k in range(7)),
    }
    assert result.cost.branch_vjps == sum(result.cost.by_method.values())
    assert "branch VJPs per example (summed 21, energy 672, sampled" in str(study)


def linear(branch: Callable[[Tensor], Tensor], count: int) -> Chain:
    blocks = [Block(i, f"F{i}", branch=lambda x, context: branch(x)) for i in range(count)]
    return Chain.from_parts(lambda x: x, blocks, lambda x: x)


def second_output(output: Tensor, labels: Any, inputs: Any) -> Tensor:
    return output[:, 1]


def test_where_all_paths_point_one_way_the_error_of_the_energy_is_flagged():
    chain, groups = linear(lambda x: 0.3 * x, 54), 64
    # Equal examples, which are mixed independently, as groups of one.
    x = torch.ones(groups, 1, dtype=torch.float64)
    traced = trace(chain, x, None, loss=lambda output, *_: output[:, 0], vectorised=True)
    drawn = draw_energies(traced, torch.Generator().manual_seed(0), chunk=8)
    rows = Measured(54, examples=1, energies=drawn.numpy()).rows()
    assert rows[0].energy_reliable is True
    assert rows[54].energy_reliable is True
    assert sum(row.energy_reliable is False for row in rows[12:40]) > 20


def test_the_text_says_which_errors_are_not_reliable():
    chain = linear(lambda x: 0.3 * x, 54)
    data = torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
    # One vector is plain random signs, with the heaviest tails.
    result = gradients_by_length(
        chain, data, method=["summed", "energy"], loss=second_output, groups=16, vectors=1
    )
    flagged = [row.length for row in result.rows if row.energy_reliable is False]
    assert flagged
    assert f"is not reliable at {len(flagged)} length" in result.summary
    marked = [line.split()[0] for line in repr(result).splitlines() if "? " in line]
    assert set(marked) - {"?"} <= {str(length) for length in flagged}
    assert len(marked) > 1
    assert all(
        row.summed_norm == pytest.approx(row.paths * 0.3**row.length, rel=1e-12)
        for row in result.rows
    )


def test_examples_without_gradient_are_counted_not_shared_out():
    chain = linear(torch.tanh, 3)
    data = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])

    def only_second(output: Tensor, labels: Any, inputs: Any) -> Tensor:
        return output[:, 1] * inputs[:, 1]

    result = gradients_by_length(chain, data, loss=only_second)
    assert result.undefined == 1
    assert math.fsum(row.projected for row in result.rows) == pytest.approx(1, abs=1e-6)
    assert "1 example without any gradient" in result.summary
    none = gradients_by_length(chain, (data[0][:1], data[1][:1]), loss=only_second)
    assert none.rows[1].projected is None
    assert none.weights == {}
    assert len(repr(none)) > 0


def test_the_loss_of_tokens_takes_the_inputs_as_targets():
    transformers = pytest.importorskip("transformers", reason="GPT-2 is from transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=8, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2
    )
    model = transformers.GPT2LMHeadModel(config).double()
    tokens = torch.randint(3, 20, (3, 5), generator=torch.Generator().manual_seed(0))

    def next_token(output: Tensor, labels: Any, inputs: Tensor) -> Tensor:
        losses = F.cross_entropy(output[:, :-1].transpose(1, 2), inputs[:, 1:], reduction="none")
        return losses.mean(1)

    result = gradients_by_length(
        model, (tokens, torch.zeros(3, dtype=torch.int64)), loss=next_token
    )
    assert result.blocks == 4
    assert result.settings.loss == "next_token"
    assert math.fsum(row.projected for row in result.rows) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"method": "exact"}, "There is no method 'exact'; expected summed"),
        ({"method": []}, "There is no method given"),
        ({"groups": 3, "method": "energy"}, "asked for in 3 groups; expected at least 16"),
        ({"samples": 0}, "samples is 0; expected at least 1"),
        ({"vectors": 0}, "vectors is 0; expected at least 1"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"norm": "layer"}, "There is no norm per 'layer'"),
        ({"at": "layer1"}, "cannot be taken at 'layer1'"),
        ({"at": 6}, "There is no block 6 to take the gradient at"),
    ],
)
def test_options_that_do_not_fit_are_refused(chain, options, sentence):
    with pytest.raises(MeasurementError, match=sentence):
        gradients_by_length(chain, make_data(), **options)


def test_a_random_block_is_refused_by_name():
    chain = linear(lambda x: x * torch.rand(()), 2)
    with pytest.raises(MeasurementError, match=r"Block 0 \(F0\) gives another value"):
        gradients_by_length(chain, (torch.ones(2, 3), torch.tensor([0, 1])))


def test_weightings_and_intervals_follow_from_the_rows(everything):
    frame = everything.frame
    expected = {
        "summed": frame["summed_norm"],
        "projected": frame["projected"],
        "pooled": frame["pooled"],
        "energy": frame["energy"],
        "sampled": frame["paths"].astype(float) * frame["sampled_mean"],
    }
    assert set(everything.weights) == set(everything.effective) == set(expected)
    for name, column in expected.items():
        weights = (column / column.sum()).to_numpy(float)
        assert everything.weights[name] == pytest.approx(weights, rel=1e-12)
        span = everything.effective[name]
        assert weights[span.low : span.high + 1].sum() >= 0.95
        for size in range(span.high - span.low):
            assert all(weights[a : a + size + 1].sum() < 0.95 for a in range(7 - size))
        assert span.mean == pytest.approx((weights * np.arange(7)).sum())
        lengths = range(span.low, span.high + 1)
        assert span.share_of_paths == sum(math.comb(6, k) for k in lengths) / 64
    factors = frame["paths"].astype(float) * frame["sampled_mean"] / frame["summed_norm"]
    assert everything.overstatement == pytest.approx(factors.to_numpy(float), rel=1e-12)
    assert factors.min() >= 1 - 1e-9
    span = everything.effective["sampled"]
    within = factors[span.low : span.high + 1]
    assert f"is {within.min():.3g} to {within.max():.3g} times" in everything.summary


def test_saved_and_loaded_results_are_equal(everything, chain, tmp_path):
    for number, result in enumerate([everything, gradients_by_length(chain, make_data())]):
        folder = tmp_path / str(number)
        result.save(folder)
        assert GradientsByLength.load(folder) == result
        frame = pd.read_csv(folder / "gradients.csv")
        content = json.loads((folder / "results.json").read_text())
        assert list(frame.columns) == list(content["rows"][0]) == list(result.frame.columns)
        assert [int(n) for n in frame["paths"]] == [row.paths for row in result.rows]
        for suffix in ("pdf", "png"):
            assert (folder / f"gradients.{suffix}").stat().st_size > 1000
    (tmp_path / "0" / "results.json").write_text('{"kind": "lesion"}')
    with pytest.raises(ResultError, match="expected 'gradients by path length'"):
        GradientsByLength.load(tmp_path / "0")


def test_exact_numbers_of_paths_survive_the_files(tmp_path):
    result = gradients_by_length(
        linear(lambda x: 0.1 * x, 70),
        (torch.ones(1, 2), torch.tensor([0])),
        loss=second_output,
    )
    result.save(tmp_path)
    assert GradientsByLength.load(tmp_path).rows[35].paths == math.comb(70, 35)
    assert str(math.comb(70, 35)) in (tmp_path / "gradients.csv").read_text()


def test_the_table_fits_the_terminal(everything):
    assert max(map(len, repr(everything).splitlines())) <= 80
    lines = everything.table.splitlines()
    assert [line.split()[0] for line in lines[1:8]] == [str(k) for k in range(7)]
    assert "<table" in everything._repr_html_()


def lines_of(figure: Figure, panel: int) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for line in figure.axes[panel].lines
    }


def test_the_figure_shows_and_names_what_was_measured(everything, chain):
    figure = everything.plot()
    sizes, shares = lines_of(figure, 0), lines_of(figure, 1)
    frame = everything.frame
    assert sizes["norm of the sum"][1] == frame["summed_norm"].tolist()
    assert sizes["mean norm of one path"][1] == frame["sampled_mean"].tolist()
    assert sizes["root of the energy"][1] == pytest.approx(frame["energy"].to_numpy() ** 0.5)
    assert shares["paths × mean norm"][1] == list(everything.weights["sampled"])
    assert shares["projected"][1] == list(everything.weights["projected"])
    assert shares["projected, ratio of sums"][1] == list(everything.weights["pooled"])
    for name, span in everything.effective.items():
        assert shares[f"_{name}, 95 %"][0] == [span.low, span.high]
    labels = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    named = [
        "norm of the sum", "projected", "projected, ratio of sums", "energy", "paths × mean norm",
    ]  # fmt: skip
    assert labels == [*named, "bars above: 95 %"]
    alone = gradients_by_length(chain, make_data()).plot()
    assert set(lines_of(alone, 0)) == {"norm of the sum"}


def test_legends_of_short_nets_hide_no_curve(everything):
    figure = everything.plot()
    figure.draw_without_rendering()
    for axes in figure.axes:
        assert not axes.get_legend().get_window_extent().overlaps(axes.get_window_extent())
        assert figure.bbox.containsx(axes.get_legend().get_window_extent().x1)


def test_paths_are_counted_in_branches_and_layers(chain, tmp_path):
    counts = count_paths(chain, "six")
    assert counts.blocks.counts == tuple(math.comb(6, k) for k in range(7))
    # Basic blocks, two layers each; zero padding has none.
    assert counts.layers is not None
    assert counts.layers.counts[::2] == counts.blocks.counts
    assert not any(counts.layers.counts[1::2])
    projecting = unravel(wake(build("resnet14,width=4,shortcut=B", in_channels=1)), make_data()[0])
    layers = count_paths(projecting).layers
    assert layers is not None
    assert (layers.shortest, layers.longest, layers.total) == (2, 12, 64)
    counts.save(tmp_path)
    frame = pd.read_csv(tmp_path / "paths.csv")
    assert frame["paths"].tolist() == list(counts.blocks.counts)
    assert frame["surviving_2"].tolist() == pytest.approx(
        [math.comb(4, k) / math.comb(6, k) for k in range(7)]
    )
    figure = counts.plot()
    heights = [patch.get_height() for patch in figure.axes[0].patches]
    assert heights == pytest.approx([math.comb(6, k) / 64 for k in range(7)])
    assert lines_of(figure, 1)["2 deleted"][1] == list(counts.surviving[2])
    assert max(map(len, repr(counts).splitlines())) <= 80
    assert count_paths(linear(torch.tanh, 2)).layers is None


def test_saved_counts_are_loaded_exactly(chain, tmp_path):
    many = PathCounts("many", path_lengths(70), path_lengths([(0, 2)] * 69 + [(1, 3)]))
    every = [many, count_paths(chain, "six"), count_paths(linear(torch.tanh, 2))]
    for number, counts in enumerate(every):
        counts.save(tmp_path / str(number))
        assert PathCounts.load(tmp_path / str(number)) == counts
    file = tmp_path / "0" / "results.json"
    for broken in ("[]", '{"length": 0}'):
        content = json.loads(file.read_text()) | {"blocks": json.loads(broken)}
        file.write_text(json.dumps(content))
        with pytest.raises(ResultError, match=r"do not fit together \("):
            PathCounts.load(tmp_path / "0")
    file.write_text('{"kind": "lesion"}')
    with pytest.raises(ResultError, match="expected 'paths'"):
        PathCounts.load(tmp_path / "0")


def test_bottlenecks_count_three_layers_and_attention_two():
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        resnet = torchvision.models.resnet50().eval()
        transformer = torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16).eval()
        # Which torchvision leaves at zero.
        nn.init.ones_(transformer.heads.head.weight)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    layers = count_paths(unravel(resnet, images)).layers
    assert layers is not None
    # 16 bottlenecks; four of them begin a stage, with a projection.
    assert (layers.shortest, layers.longest, layers.total) == (4, 48, 2**16)
    sums = count_paths(unravel(transformer, images, granularity="branch")).layers
    whole = count_paths(unravel(transformer, images)).layers
    assert sums is not None
    assert whole is not None
    assert sums.counts == (1, 0, 4, 0, 6, 0, 4, 0, 1)
    assert whole.counts == (1, 0, 0, 0, 2, 0, 0, 0, 1)


def test_nets_without_shortcuts_have_no_paths():
    plain = unravel(wake(build("plain8,width=4")), torch.randn(2, 3, 8, 8).double(), plain=True)
    with pytest.raises(MeasurementError, match="only residual blocks have paths to count"):
        count_paths(plain)
    with pytest.raises(MeasurementError, match=r"found a ResNet: expected what .*unravel"):
        count_paths(build("resnet8"))


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


def test_paths_command_counts_lists_and_saves(saved, tmp_path, capsys):
    assert run("paths", saved, "--list", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "2^6 = 64 paths through 6 blocks" in " ".join(printed.split())
    listed = printed.partition("Each path")[2].splitlines()[1:]
    assert len(listed) == 64
    assert listed[0].split() == ["0", "-"]
    assert listed[7].split(maxsplit=1) == ["2", "layer1.0, layer1.1"]
    assert {"paths.csv", "layers.csv", "results.json", "paths.pdf", "paths.png"} == {
        file.name for file in (tmp_path / "out").iterdir()
    }
    assert run("paths", saved, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["paths"] for row in content["blocks"]] == [1, 6, 15, 20, 15, 6, 1]


def test_paths_of_a_large_net_are_not_listed(capsys):
    assert run("paths", "digits-resnet110", "--list") == 2
    assert "This net has 2^54 paths, too many to print" in capsys.readouterr().err


def test_gradients_command_prints_cost_table_and_sentence(saved, tmp_path, capsys):
    words = ["gradients", saved, "--limit", 20, "--method", "all", "--samples", 4, "--seed", 3]
    assert run(*words, "--groups", 16, "--out", tmp_path / "out") == 0
    lines = capsys.readouterr().out.splitlines()
    (cost,) = [line for line in lines if line.startswith("Paths through 6 blocks on 20 examples: ")]
    assert lines[0].startswith("Normalisation: ")
    assert max(len(line) for line in lines if line != cost) <= 80
    assert "These statements concern this net on these 20 examples." in " ".join(lines)
    result = GradientsByLength.load(tmp_path / "out")
    assert result.settings.methods == ("summed", "energy", "sampled")
    assert result.settings.groups == 16
    assert result.provenance.seed == 3
    assert result.cost.examples == 20


def test_gradients_command_prints_json_alone(saved, capsys):
    assert run("gradients", saved, "--limit", 4, "--at", "input", "--json") == 0
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert content["settings"]["at"] == "input"
    assert math.fsum(row["projected"] for row in content["rows"]) == pytest.approx(1, abs=1e-5)
    assert "branch VJPs per example" in printed.err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--at", "layer1"], "--at is 'layer1'; expected the index of a block"),
        (["--at", "9"], "There is no block 9"),
        (["--groups", "2", "--method", "energy"], "expected at least 16"),
    ],
)
def test_wrong_options_are_one_sentence(saved, capsys, words, sentence):
    assert run("gradients", saved, "--limit", 4, *words) == 2
    assert sentence in capsys.readouterr().err


def test_interruption_keeps_what_is_done(saved, tmp_path, capsys, monkeypatch):
    from ensemble_view.studies.gradients.measurement import Measurement

    of_batch = Measurement.of_batch

    def interrupted(self, inputs, labels, number, progress):
        if number == 2:
            raise KeyboardInterrupt
        return of_batch(self, inputs, labels, number, progress)

    monkeypatch.setattr(Measurement, "of_batch", interrupted)
    words = ["gradients", saved, "--limit", 20, "--batch-size", 4, "--out", tmp_path / "out"]
    assert run(*words) == 1
    assert "Stopped after 8 of 20 examples" in capsys.readouterr().err
    result = GradientsByLength.load(tmp_path / "out")
    assert result.interrupted
    assert result.cost.examples == 8
    whole = gradients_by_length(
        ensemble_view.load_checkpoint(saved), "digits", limit=20, batch_size=20
    )
    assert whole.rows[1].summed_norm != result.rows[1].summed_norm


@pytest.mark.parametrize("command", ["paths", "gradients"])
def test_help_teaches(capsys, command):
    assert run(command, "--help") == 0
    assert f"ensemble-view {command} digits-resnet110" in capsys.readouterr().out


def test_the_benchmark_writes_what_it_timed(saved, tmp_path):
    threads = torch.get_num_threads()
    try:
        found = path_gradients.run(tmp_path, saved, "digits", batch=8, rounds=2, samples=3)
    finally:
        torch.set_num_threads(threads)
    assert found["summed"].result.cost.branch_vjps == 21
    assert len(found["summed"].ratios) == 2
    assert all(ratio > 0 for timed in found.values() for ratio in timed.ratios)
    summary = (tmp_path / "summary.md").read_text()
    assert "| all paths, share of the gradient, mean of ratios | 21 |" in summary
    assert GradientsByLength.load(tmp_path).settings.samples == 3


def test_errors_are_the_packages_own():
    assert issubclass(ensemble_view.paths.lengths.PathLengthsError, EnsembleViewError)
