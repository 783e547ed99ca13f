"""A study of one's own: written in sixty lines, it has a command, a function, files and help."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

import ensemble_view
from ensemble_view import Delete, save_checkpoint
from ensemble_view.cli.application import main
from ensemble_view.nets.models.building import build
from ensemble_view.study import registry
from ensemble_view.study.experiment import experiment, subject_of
from ensemble_view.study.run import Run
from ensemble_view.study.run_result import RunResult
from ensemble_view.study.study import Option, PreparedExperiment, Study


# The study begins here.
@dataclass(frozen=True, repr=False)
class TailResult(RunResult):
    """What deleting the last blocks costs."""

    kind = file_name = "tails"

    run: Run
    lengths: tuple[int, ...]

    @property
    def frame(self) -> pd.DataFrame:
        worse = self.run.scores.worsening.mean(axis=1)
        return pd.DataFrame({"deleted": self.lengths, "worsening": worse})

    @property
    def table(self) -> str:
        return self.frame.to_string(index=False)

    @property
    def summary(self) -> str:
        return f"{self.run.net} loses its last {max(self.lengths)} blocks one after another."

    def plot(self, *, title=None, style=None) -> Figure:
        figure = Figure()
        figure.subplots().plot(self.lengths, self.frame["worsening"])
        return figure


@dataclass(frozen=True, eq=False)
class PreparedTails(PreparedExperiment[TailResult]):
    lengths: tuple[int, ...]

    def __str__(self) -> str:
        return f"{len(self.lengths)} tails on {self.experiment}"

    def result(self, run: Run) -> TailResult:
        return TailResult(run, self.lengths)


@dataclass(frozen=True)
class TailStudy(Study[TailResult]):
    """Delete the last blocks, one more each time."""

    name, unit = "tails", "tails"
    help = "Delete the last blocks, one more each time."

    most: Annotated[int, Option("How many at most.", least=1)] = 2

    def prepare(self, model: Any, data: Any, **options: Any) -> PreparedTails:
        subject = subject_of(model, data, options)
        last, lengths = len(subject.chain), tuple(range(1, self.most + 1))
        tails = [Delete(*range(last - length, last)) for length in lengths]
        return PreparedTails(experiment(subject, tails, options), lengths)


# And ends here.


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_studies", dict(registry._studies))
    monkeypatch.setattr(registry, "_kinds", dict(registry._kinds))
    registry.register(TailStudy)
    registry.register_results({"tails": registry.Kind(TailResult)})


@pytest.fixture
def net(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "net.pt"
    save_checkpoint(
        path, build("resnet8,width=4", in_channels=1).eval(), architecture="resnet8,width=4",
        normalisation=((0.3,), (0.4,)), data="digits", input_shape=(1, 8, 8),
    )  # fmt: skip
    return path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_it_takes_at_most_sixty_lines():
    source = inspect.getsource(inspect.getmodule(TailStudy))  # type: ignore[arg-type]
    body = source.split("# The study begins here.")[1].split("# And ends here.")[0]
    assert len(body.strip().splitlines()) <= 60


def test_it_has_a_command_with_its_options_and_a_line_in_the_help(net, tmp_path, capsys):
    assert run("--help") == 0
    assert "tails" in capsys.readouterr().out
    assert run("tails", "--help") == 0
    assert "How many at most." in capsys.readouterr().out
    assert run("tails", net, "--limit", 30, "--most", 3, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "3 tails on 30 examples" in printed
    assert "loses its last 3 blocks" in printed
    assert run("tails", net, "--most", 0) == 2


def test_its_function_its_command_and_its_files_say_the_same(net, tmp_path, capsys):
    result = ensemble_view.tails(ensemble_view.load_checkpoint(net), "digits", most=3, limit=30)
    assert run("tails", net, "--limit", 30, "--most", 3, "--out", tmp_path / "out", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["worsening"] for row in printed["rows"]] == result.frame["worsening"].tolist()
    loaded = ensemble_view.load(tmp_path / "out")
    assert isinstance(loaded, TailResult)
    pd.testing.assert_frame_equal(loaded.frame, result.frame)
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"results.json", "outcomes.npz", "tails.csv", "tails.pdf", "tails.png"}


def test_its_numbers_are_those_of_single_runs(net):
    checkpoint = ensemble_view.load_checkpoint(net)
    found = ensemble_view.tails(checkpoint, "digits", most=3, limit=30)
    for length, blocks in ((1, "2"), (2, "1-2"), (3, "0-2")):
        alone = ensemble_view.lesion(checkpoint, "digits", blocks=blocks, limit=30)
        assert found.frame["worsening"][length - 1] == pytest.approx(alone.frame["drop"][0])
