"""Saving is all or nothing whenever it is cut short, and loading verifies what it reads."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from ensemble_view.figures import style
from ensemble_view.studies.lesion.result import LesionResult
from ensemble_view.study import files as result_files
from ensemble_view.study.files import ResultError, ResultWarning
from ensemble_view.study.folders import sealed
from simulated_results import simulated_result

OLD, NEW = (
    simulated_result(blocks=blocks, downsampling=(), examples=20, seed=seed)
    for blocks, seed in ((3, 1), (4, 2))
)
FILES = {"lesion.csv", "results.json", "outcomes.npz", "lesion.pdf", "lesion.png"}
# What may change files; a kill comes just before the one that is counted.
STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


@pytest.fixture(autouse=True)
def quick_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is what takes time, and is not what is tested."""
    monkeypatch.setattr(LesionResult, "plot", lambda self: Figure())
    monkeypatch.setattr(style, "save_figure", lambda figure, path: path.write_bytes(b"drawn"))


def steps_of(work: Callable[[], object], folder: Path, stop: Callable[[int], None]) -> int:
    """Do the work in a process of its own, told of each step that touches the folder."""
    child = os.fork()
    if not child:
        done = 0

        def hook(event: str, arguments: Any) -> None:
            nonlocal done
            if event in STEPS and any(str(folder) in str(each) for each in arguments):
                done += 1
                stop(done - 1)

        try:
            sys.addaudithook(hook)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed_at(step: int) -> Callable[[int], None]:
    def stop(done: int) -> None:
        if done == step:
            os._exit(9)

    return stop


def loaded(folder: Path) -> LesionResult | None:
    """The result in a folder; None where there is none."""
    if (folder / "results.json").exists() or (folder / ".saved").exists():
        return LesionResult.load(folder)
    with pytest.raises(ResultError, match=f"There is no results.json in {folder}"):
        LesionResult.load(folder)
    return None


@pytest.mark.parametrize("is_there", [True, False])
def test_a_kill_at_any_step_leaves_the_old_result_or_the_new_one(tmp_path, is_there):
    seen = []
    for step in range(0, 300, 1 if is_there else 4):
        folder = tmp_path / str(step) / "out"
        folder.mkdir(parents=True)
        (folder / "notes.txt").write_text("mine")
        if is_there:
            OLD.save(folder)
        code = steps_of(lambda f=folder: NEW.save(f, overwrite=True), folder, killed_at(step))
        assert code in (0, 9)
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        found = loaded(folder)
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
        assert found in ((OLD, NEW) if is_there else (None, NEW))
        seen.append(found == NEW)
        # The next save puts away what the killed one has left.
        third = OLD if found == NEW else NEW
        third.save(folder, overwrite=True)
        assert LesionResult.load(folder) == third
        assert {path.name for path in folder.iterdir()} == FILES | {"notes.txt"}
        assert (folder / "notes.txt").read_text() == "mine"
        shutil.rmtree(folder)
        if code == 0:
            break
    assert code == 0
    assert step > 30
    # Once the new one is there it does not go away again.
    assert seen == sorted(seen)
    assert 1 < seen.index(True) < len(seen) - 1


def test_an_error_at_any_step_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "out"
    for step in range(0, 300, 3):
        shutil.rmtree(folder, ignore_errors=True)
        OLD.save(folder)

        def fail(done: int, step: int = step) -> None:
            if done == step:
                raise OSError(errno.ENOSPC, "No space left on device")

        def work() -> None:
            code = 0
            try:
                NEW.save(folder, overwrite=True)
            except (ResultError, ResultWarning) as error:
                told = str(error)
                code = 3 if isinstance(error, ResultError) else 4
                code += 10 * (".saving" in told or "written (No space left on" not in told)
            os._exit(code)

        code = steps_of(work, folder, fail)
        found = LesionResult.load(folder)
        # An error while cleaning up is no error of the result.
        assert (code, found == NEW) in ((3, False), (3, True), (4, True), (0, True))
        assert not list(folder.glob(".saving-*"))
        if code == 0 and step > 60:
            break
    assert code == 0


def test_who_reads_while_others_write_sees_whole_results(tmp_path):
    OLD.save(tmp_path)
    child = os.fork()
    if not child:
        for _ in range(15):
            for result in (NEW, OLD):
                result.save(tmp_path, overwrite=True)
        os._exit(0)
    read = 0
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        assert LesionResult.load(tmp_path) in (OLD, NEW)
        read += 1
    assert read > 5
    assert LesionResult.load(tmp_path) == OLD


def test_two_that_save_at_once_leave_one_of_both(tmp_path):
    problems = []

    def save(result: LesionResult) -> None:
        try:
            result.save(tmp_path)
        except ResultError as error:
            problems.append(str(error))

    threads = [threading.Thread(target=save, args=(each,)) for each in (OLD, NEW)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(problems) == 1
    assert "holds a result already" in problems[0]
    assert LesionResult.load(tmp_path) in (OLD, NEW)


def test_a_result_is_replaced_only_where_that_is_said(tmp_path):
    OLD.save(tmp_path)
    with pytest.raises(
        ResultError,
        match=r"holds a result already; expected a folder without one; give another folder, or "
        r"replace it with --overwrite or save\(folder, overwrite=True\)\.",
    ):
        NEW.save(tmp_path)
    assert LesionResult.load(tmp_path) == OLD
    NEW.save(tmp_path, overwrite=True)
    assert LesionResult.load(tmp_path) == NEW
    other = tmp_path / "other"
    other.mkdir()
    (other / "lesion.csv").write_text("mine")
    with pytest.raises(ResultError, match=r"holds a file lesion\.csv already"):
        NEW.save(other)
    assert [path.name for path in other.iterdir()] == ["lesion.csv"]


def test_files_that_the_new_result_lacks_go_with_the_old_one_but_not_those_of_others(tmp_path):
    OLD.save(tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "trials.csv").write_text("of the old result\n")
    (tmp_path / "edited.csv").write_text("of the old result\n")
    digest = result_digest(tmp_path / "trials.csv")
    record = sealed(
        record, {**record["digests"], "trials.csv": digest, "edited.csv": digest, "../x": digest}
    )
    (tmp_path / "results.json").write_text(json.dumps(record))
    (tmp_path / "edited.csv").write_text("edited since\n")
    NEW.save(tmp_path, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == FILES | {"edited.csv"}


def result_digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_record_says_the_digest_of_every_file(tmp_path):
    NEW.save(tmp_path)
    digests = json.loads((tmp_path / "results.json").read_text())["digests"]
    assert digests.keys() == FILES
    for name in FILES - {"results.json"}:
        assert digests[name] == result_digest(tmp_path / name)


def edit_record(folder: Path) -> None:
    record = json.loads((folder / "results.json").read_text())
    record["model"]["path"] = "another.pt"
    (folder / "results.json").write_text(json.dumps(record))


def mix(folder: Path) -> None:
    simulated_result(blocks=4, downsampling=(), examples=20, seed=7).save(folder / "b")
    shutil.copy(folder / "b" / "outcomes.npz", folder)


CHANGES: list[tuple[Callable[[Path], object], str]] = [
    (edit_record, r"results\.json was changed after it was saved; expected the files of one run"),
    (mix, r"outcomes\.npz is not the file that was saved with results\.json; expected the files"),
    (lambda f: (f / "lesion.csv").write_text("a\n"), r"lesion\.csv is not the file that was"),
    (lambda f: (f / "lesion.png").write_bytes(b""), r"lesion\.png is not the file that was"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES)
def test_files_that_were_edited_or_mixed_are_refused(tmp_path, change, message):
    NEW.save(tmp_path)
    change(tmp_path)
    with pytest.raises(ResultError, match=message):
        LesionResult.load(tmp_path)


def test_a_figure_or_table_may_be_removed_and_the_record_be_laid_out_anew(tmp_path):
    NEW.save(tmp_path)
    for name in ("lesion.pdf", "lesion.csv"):
        (tmp_path / name).unlink()
    record = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(record, sort_keys=True, indent=4))
    assert LesionResult.load(tmp_path) == NEW


@pytest.mark.parametrize("digests", [3, {"../x": "a"}, {"": "a"}, {"a/b": "c"}, ["results.json"]])
def test_hostile_digests_are_refused(tmp_path, digests):
    NEW.save(tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(record | {"digests": digests}))
    with pytest.raises(ResultError, match=r"are not digests of files by name"):
        LesionResult.load(tmp_path)


def test_a_result_of_before_there_were_digests_is_loaded_and_said_to_be_unverified(tmp_path):
    NEW.save(tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    del record["digests"]
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.warns(ResultWarning, match="saved without digests, so that nothing tells whether"):
        assert LesionResult.load(tmp_path) == NEW


def test_a_figure_that_fails_loses_nothing(tmp_path, monkeypatch):
    OLD.save(tmp_path)

    def plot(self: LesionResult) -> Figure:
        raise ValueError("Expected a math character\n$x^$")

    monkeypatch.setattr(LesionResult, "plot", plot)
    with pytest.warns(
        ResultWarning,
        match=r"could not be made \(ValueError: Expected a math character\); everything that was "
        "measured is saved there",
    ):
        NEW.save(tmp_path, overwrite=True)
    assert LesionResult.load(tmp_path) == NEW
    # The old result's figure would pass for the new one's.
    assert {path.name for path in tmp_path.iterdir()} == FILES - {"lesion.pdf", "lesion.png"}


def test_an_interruption_while_drawing_loses_nothing(tmp_path, monkeypatch):
    def plot(self: LesionResult) -> Figure:
        raise KeyboardInterrupt

    monkeypatch.setattr(LesionResult, "plot", plot)
    with pytest.raises(KeyboardInterrupt):
        NEW.save(tmp_path)
    assert LesionResult.load(tmp_path) == NEW


def test_a_name_that_is_no_unicode_text_can_be_saved(tmp_path):
    result = simulated_result(blocks=2, downsampling=(), examples=5)
    result.provenance.model["path"] = os.fsdecode(b"net\xff.pt")  # type: ignore[index]
    result.save(tmp_path)
    assert LesionResult.load(tmp_path) == result
    assert result_files.read_json(tmp_path / "results.json", "lesion", 1)["model"]["path"] == (
        os.fsdecode(b"net\xff.pt")
    )


def test_outcomes_are_those_that_were_saved(tmp_path):
    NEW.save(tmp_path)
    with np.load(tmp_path / "outcomes.npz") as outcomes:
        assert np.array_equal(outcomes["labels"], NEW.outcomes.labels)
