"""Commands lose nothing that was measured: to signals, closed pipes, full disks, old results."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ensemble_view import LesionResult, export, load_checkpoint, save_checkpoint
from ensemble_view.cli.application import main
from ensemble_view.cli.stopping import unstopped
from ensemble_view.data.labelled_data import IndexedData
from ensemble_view.data.opening import open_data
from ensemble_view.errors import CheckpointError
from ensemble_view.nets.models.building import build
from ensemble_view.study import files
from ensemble_view.training.recipe import Recipe
from ensemble_view.training.state import resume_path
from ensemble_view.training.training import train


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("nets") / "resnet8.pt"
    save_checkpoint(
        path, build("resnet8", in_channels=1).eval(), architecture="resnet8",
        normalisation=((0.3,), (0.4,)), data="digits", input_shape=(1, 8, 8),
    )  # fmt: skip
    return path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def lesion(net: Path, *words: object) -> list[str]:
    return ["lesion", str(net), "--limit", "60", "--batch-size", "16", *map(str, words)]


@pytest.fixture(autouse=True)
def usual_handlers() -> Iterator[None]:
    """As a shell starts a command: one in the background has SIGINT ignored, which stays so."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_keep_what_was_measured(net, tmp_path, capsys, monkeypatch, number):
    batches = IndexedData.batches
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)]

    def stopped(self, batch_size=64):
        for index, batch in enumerate(batches(self, 16)):
            if index == 2:
                os.kill(os.getpid(), number)
                time.sleep(5)
            yield batch

    monkeypatch.setattr(IndexedData, "batches", stopped)
    assert run(*lesion(net, "--out", tmp_path / "out")) == 1
    said = capsys.readouterr()
    assert "Stopped after 32 of 60 examples; the result is of these." in said.err
    assert "the study was interrupted" in " ".join(said.out.split())
    result = LesionResult.load(tmp_path / "out")
    assert result.interrupted
    assert result.baseline.n == 32
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)] == handlers


def test_an_interruption_before_the_measurement_is_said(net, tmp_path, capsys, monkeypatch):
    def stopped(self, batch_size=64):
        raise KeyboardInterrupt

    monkeypatch.setattr(IndexedData, "batches", stopped)
    assert run(*lesion(net, "--out", tmp_path / "out")) == 1
    assert "Stopped before anything was measured." in capsys.readouterr().err


def test_signals_do_not_stop_the_saving_but_ctrl_c_does_at_the_second_time(capsys):
    with unstopped():
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert "Saving what was measured; Ctrl-C again" in capsys.readouterr().err


def test_what_the_parent_ignores_stays_ignored(net, tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    batches = IndexedData.batches

    def hung_up(self, batch_size=64):
        os.kill(os.getpid(), signal.SIGHUP)
        yield from batches(self, batch_size)

    monkeypatch.setattr(IndexedData, "batches", hung_up)
    try:
        assert run(*lesion(net, "--out", tmp_path / "out")) == 0
    finally:
        signal.signal(signal.SIGHUP, before)
    assert not LesionResult.load(tmp_path / "out").interrupted


def process(words: list[str], **options: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "ensemble_view", *words], **options)


def test_a_reader_that_leaves_loses_nothing(net, tmp_path):
    """As ``| head -1`` does, here before anything is printed."""
    read, write = os.pipe()
    out = tmp_path / "out"
    child = process(
        lesion(net, "--out", out), stdout=write, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    os.close(write)
    os.close(read)
    errors = child.communicate(timeout=300)[1].decode()
    assert child.returncode == 0
    assert errors.splitlines()[-1] == f"Saved to {out}."
    assert "Traceback" not in errors
    assert "BrokenPipe" not in errors
    assert LesionResult.load(out).baseline.n == 60


def test_without_a_folder_what_nobody_read_is_saved_elsewhere_and_that_is_said(net, tmp_path):
    read, write = os.pipe()
    child = process(
        lesion(net), stdout=write, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    os.close(write)
    os.close(read)
    errors = child.communicate(timeout=300)[1].decode()
    assert child.returncode == 0
    (place,) = tmp_path.glob("ensemble-view-*")
    assert errors.splitlines()[-1] == (
        f"Nobody read the result from standard output; it was saved to {place}."
    )
    assert LesionResult.load(place).baseline.n == 60


def test_a_full_disk_loses_nothing_that_was_measured(net, tmp_path, capsys, monkeypatch):
    write = files.write_arrays
    out = tmp_path / "out"

    def full(path, arrays):
        if out in path.parents:
            path.write_bytes(b"part")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, arrays)

    monkeypatch.setattr(files, "write_arrays", full)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(*lesion(net, "--out", out)) == 2
    said = capsys.readouterr()
    (place,) = tmp_path.glob("ensemble-view-*")
    assert "Error: " in said.err
    assert "outcomes.npz cannot be written (No space left on device); expected" in said.err
    assert f"The result was saved to {place} instead." in said.err
    assert LesionResult.load(place).table in said.out
    assert list(out.iterdir()) == []


def test_where_nothing_can_be_saved_the_result_is_printed(net, tmp_path, capsys, monkeypatch):
    def full(path, arrays):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_arrays", full)
    assert run(*lesion(net, "--out", tmp_path / "out")) == 2
    said = capsys.readouterr()
    assert "The result was printed, but not saved anywhere." in said.err
    assert "examples of" in " ".join(said.out.split())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_full_standard_output_loses_nothing(net, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(
        "ensemble_view.cli.ending.say",
        lambda text, *, err=False: _to_full(text) if "p (Holm)" in text else True,
    )
    assert run(*lesion(net)) == 2
    (place,) = tmp_path.glob("ensemble-view-*")
    assert f"(No space left on device); send it elsewhere. The result was saved to {place}." in (
        capsys.readouterr().err
    )


def _to_full(text: str) -> bool:
    from ensemble_view.cli import saying

    before = sys.stdout
    sys.stdout = open("/dev/full", "w")  # noqa: SIM115
    try:
        return saying.say(text)
    finally:
        sys.stdout = before


def test_a_figure_that_fails_is_a_warning(net, tmp_path, capsys, monkeypatch):
    def plot(self):
        raise ValueError("no figure today")

    monkeypatch.setattr(LesionResult, "plot", plot)
    assert run(*lesion(net, "--out", tmp_path / "out")) == 0
    assert "Warning: The figure of the result in" in capsys.readouterr().err
    assert LesionResult.load(tmp_path / "out").baseline.n == 60


def test_a_result_that_is_there_is_refused_before_the_work(net, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    assert run(*lesion(net, "--out", out)) == 0
    first = LesionResult.load(out)
    with monkeypatch.context() as patched:
        patched.setattr(IndexedData, "batches", lambda *_: pytest.fail("was measured"))
        assert run(*lesion(net, "--out", out)) == 2
    assert "out holds a result already; expected a folder without one" in capsys.readouterr().err
    assert LesionResult.load(out) == first
    assert run(*lesion(net, "--seed", 5, "--out", out, "--overwrite")) == 0
    assert LesionResult.load(out).provenance.seed == 5
    options = LesionResult.load(out).provenance.options
    assert (options["seed"], options["overwrite"], options["limit"]) == (5, True, 60)
    assert LesionResult.load(out).provenance.command.startswith("ensemble-view lesion ")


def test_export_replaces_no_file_unasked(net, tmp_path, capsys):
    own = tmp_path / "net.pt"
    own.write_bytes(net.read_bytes())
    words = ("export", own, "--do", "delete 1", "-o", own)
    assert run(*words) == 2
    assert f"{own} is there already: write to another file, or replace it with --overwrite" in (
        capsys.readouterr().err
    )
    assert own.read_bytes() == net.read_bytes()
    with pytest.raises(CheckpointError, match="is there already"):
        export(load_checkpoint(own), "delete 1", own)
    assert run(*words, "--overwrite") == 0
    assert load_checkpoint(own).lesion == "delete 1"


def test_training_replaces_neither_a_net_nor_an_unfinished_run(tmp_path, capsys):
    digits = [open_data("digits", split=split, limit=32) for split in ("train", "test")]
    recipe = Recipe(epochs=1, batch_size=32)
    words = ("train", "resnet8", "--epochs", 1, "--limit", 32, "--out")
    for name in ("net.pt", "net.pt.resume", "net-epoch001.pt"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(b"old")
        keep = ["--keep-at", "1"]
        assert run(*words, folder / "net.pt", *keep) == 2
        assert f"{folder / name} is there already" in capsys.readouterr().err
        with pytest.raises(CheckpointError, match=r"is there already: .* overwrite=True"):
            train("resnet8", *digits, recipe=recipe, checkpoint_path=folder / "net.pt", keep=[1])
        assert [file.name for file in folder.iterdir()] == [name]
    assert run(*words, folder / "net.pt", *keep, "--overwrite") == 0
    assert load_checkpoint(folder / "net.pt").training["epochs_done"] == 1
    assert not resume_path(folder / "net.pt").exists()
