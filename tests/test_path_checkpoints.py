"""Gradients by length over the checkpoints of a training run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from ensemble_view import GradientsByCheckpoint, gradients_by_checkpoint, gradients_by_length
from ensemble_view.cli.application import main
from ensemble_view.errors import MeasurementError
from ensemble_view.nets.checkpoints import load_checkpoint, save_checkpoint
from ensemble_view.nets.models.building import build
from ensemble_view.studies.gradients.study import GradientStudy
from ensemble_view.studies.gradients.words import NAMES
from ensemble_view.study.files import ResultError
from layers import wake

STEPS = ("epoch1", "epoch2", "epoch3")


def make_net(seed: int, name: str = "resnet14,width=4") -> nn.Module:
    return wake(build(name, in_channels=1), seed)


def make_data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(5, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.arange(5)


@pytest.fixture(scope="module")
def result() -> GradientsByCheckpoint:
    nets = [make_net(seed) for seed in range(3)]
    return gradients_by_checkpoint(
        nets, make_data(), names=STEPS, method=["summed", "sampled"], samples=4, seed=2
    )


def test_each_checkpoint_is_measured_as_by_itself(result):
    for seed, found in enumerate(result.results):
        alone = gradients_by_length(
            make_net(seed), make_data(), method=["summed", "sampled"], samples=4, seed=2
        )
        assert found.rows == alone.rows
        assert found.provenance.model["name"] == STEPS[seed]
    frame = result.frame
    assert len(frame) == 3 * 4
    for row in frame.to_dict("records"):
        effective = result.results[STEPS.index(row["checkpoint"])].effective[row["weighting"]]
        assert [row[name] for name in ("mean_length", "low", "high", "share_of_paths")] == [
            effective.mean, effective.low, effective.high, effective.share_of_paths,
        ]  # fmt: skip


def test_words_and_table_say_what_the_frame_says(result):
    frame = result.frame
    means = frame[frame["weighting"] == "projected"]["mean_length"].tolist()
    assert f"goes from {means[0]:.1f} to {means[2]:.1f}" in result.summary
    assert f"{max(means):.1f}, at {STEPS[means.index(max(means))]}" in result.summary
    assert max(map(len, repr(result).splitlines())) <= 80
    lines = result.table.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == list(STEPS)
    assert f"{means[0]:.1f} [" in lines[1]
    assert "<table" in result._repr_html_()


def test_saved_and_loaded_results_are_equal(result, tmp_path):
    result.save(tmp_path)
    assert GradientsByCheckpoint.load(tmp_path) == result
    frame = pd.read_csv(tmp_path / "checkpoints.csv")
    assert list(frame.columns) == list(result.frame.columns)
    assert frame["mean_length"].tolist() == result.frame["mean_length"].tolist()
    assert {file.suffix for file in tmp_path.iterdir()} == {".csv", ".json", ".pdf", ".png"}
    content = json.loads((tmp_path / "results.json").read_text())
    content["results"][0].pop("rows")
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(ResultError, match="do not fit together"):
        GradientsByCheckpoint.load(tmp_path)


def test_the_figure_shows_means_intervals_and_weights(result):
    means, shares = result.plot().axes
    drawn = {str(line.get_label()): list(line.get_ydata()) for line in means.lines}
    frame = result.frame
    for label, weighting in {
        "norm of the sum": "summed",
        "projected": "projected",
        "paths × mean norm": "sampled",
    }.items():
        rows = frame[frame["weighting"] == weighting]
        assert drawn[label] == rows["mean_length"].tolist()
    heights = means.collections[0].get_paths()[0].vertices[:, 1]
    first = frame[frame["weighting"] == next(iter(NAMES))]
    assert (heights.min(), heights.max()) == (first["low"].min(), first["high"].max())
    assert [text.get_text() for text in means.get_xticklabels()] == list(STEPS)
    assert [list(line.get_ydata()) for line in shares.lines] == [
        list(each.weights["projected"]) for each in result.results
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("run")
    paths = [folder / f"{step}.pt" for step in STEPS]
    for seed, path in enumerate(paths):
        save_checkpoint(
            path,
            make_net(seed).float(),
            architecture="resnet14,width=4",
            normalisation=((0.3,), (0.4,)),
            data="digits",
            input_shape=(1, 8, 8),
        )
    return paths


def test_files_are_loaded_one_at_a_time_and_named_by_their_names(saved, tmp_path):
    told: list[str] = []
    done: list[int] = []

    def one_after_another() -> Iterator[Path]:
        for number, path in enumerate(saved[:2]):
            assert len(done) == number
            yield path
        other = tmp_path / saved[0].name
        other.write_bytes(saved[2].read_bytes())
        yield other

    found = gradients_by_checkpoint(
        one_after_another(), "digits", limit=8, announce=told.append, progress=done.append
    )
    assert found.names == (f"{saved[0].parent.name}/epoch1", "epoch2", f"{tmp_path.name}/epoch1")
    assert done == [1, 1, 1]
    assert told[1].startswith("epoch2: Paths through 6 blocks on 8 examples: 21 branch VJPs")
    alone = gradients_by_length(load_checkpoint(saved[2]), "digits", limit=8)
    assert found.results[2].rows == alone.rows


def test_nets_of_other_depth_and_wrong_names_are_refused():
    nets = [make_net(0), make_net(0, "resnet8,width=4")]
    with pytest.raises(MeasurementError, match=r"different numbers of blocks \(0 6, 1 3\)"):
        gradients_by_checkpoint(nets, make_data())
    with pytest.raises(MeasurementError, match="There are 1 names for 2 checkpoints"):
        gradients_by_checkpoint([make_net(0)] * 2, make_data(), names=["one"])
    with pytest.raises(MeasurementError, match="There are 0 names of checkpoints for 0 results"):
        gradients_by_checkpoint([], make_data())


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_the_command_takes_several_files(saved, tmp_path, capsys):
    words = ["gradients", *saved, "--limit", 10]
    assert run(*words, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert printed.count("branch VJPs per example") == 3
    assert "3 checkpoints, epoch1 to epoch3, 10 examples of digits" in " ".join(printed.split())
    assert GradientsByCheckpoint.load(tmp_path / "out").names == STEPS
    assert run(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["names"] == list(STEPS)
    assert run(*words, "--by-block") == 2
    assert "--by-block is about one net, but 3 were named" in capsys.readouterr().err


def test_interruption_keeps_the_checkpoints_done(saved, tmp_path, capsys, monkeypatch):
    measure = GradientStudy.run

    def interrupted(self, progress=None):
        if self.subject.model["name"] == "epoch3":
            raise KeyboardInterrupt
        return measure(self, progress)

    monkeypatch.setattr(GradientStudy, "run", interrupted)
    assert run("gradients", *saved, "--limit", 10, "--out", tmp_path / "out") == 1
    assert "Stopped after 10 of 10 examples of checkpoint 2 of 3" in capsys.readouterr().err
    found = GradientsByCheckpoint.load(tmp_path / "out")
    assert found.interrupted
    assert found.names == STEPS[:2]
