"""Two thousand damaged inputs: each is refused in a sentence or read, within ten seconds."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import numpy as np
import pytest
from fuzzing import fuzz, limited

from ensemble_view import load_checkpoint
from ensemble_view.cli.application import main
from ensemble_view.core.interventions.parsing import parse_interventions
from ensemble_view.core.interventions.text import parse_blocks
from ensemble_view.core.plan import Outline, Slot, bind
from ensemble_view.data.opening import open_data
from ensemble_view.errors import (
    CheckpointError,
    DataError,
    EnsembleViewError,
    InterventionError,
    MeasurementError,
)
from ensemble_view.paths.lengths import PathLengths
from ensemble_view.reading.arrays import read_npz
from ensemble_view.studies.gradients.study import prepare_gradients
from ensemble_view.studies.paths.result import PathCounts
from ensemble_view.study.files import ResultError

INPUTS = 2_000
NET = "digits-resnet110"
OUTLINE = Outline(tuple(Slot(str(index), (4,), (4,), True) for index in range(9)))


def test_every_damaged_input_is_refused_in_words_or_read():
    counts, faults = fuzz(INPUTS, seed=0)
    assert not faults, "\n".join(faults)
    assert counts["read"] + counts["refused"] == INPUTS
    # Else the readers would refuse everything, or the damage would damage nothing.
    assert counts["read"] > INPUTS / 20
    assert counts["refused"] > INPUTS / 4


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "net", "data.npz"])
def test_a_named_pipe_is_refused_without_waiting(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with limited(10), pytest.raises(EnsembleViewError, match="it is a named pipe, not a file"):
        (open_data if name.endswith(".npz") else load_checkpoint)(tmp_path / name)


def test_a_named_pipe_among_images_is_refused(tmp_path):
    (tmp_path / "cats").mkdir()
    os.mkfifo(tmp_path / "cats" / "0.png")
    with limited(10), pytest.raises(DataError, match="named pipe"):
        next(open_data(tmp_path).batches(1))


def test_a_socket_and_a_device_are_no_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("net.pt")
        with pytest.raises(CheckpointError, match="it is a socket, not a file"):
            load_checkpoint("net.pt")
    with limited(10), pytest.raises(CheckpointError, match="it is a device, not a file"):
        load_checkpoint("/dev/zero")


@pytest.mark.parametrize("name", ["a" * 5_000, "a\0b", "\udcff"])
def test_what_can_be_no_name_of_a_file_is_not_there(name):
    with pytest.raises(CheckpointError, match="There is no model file"):
        load_checkpoint(name)
    with pytest.raises(DataError, match="There is no data"):
        open_data(name)


def test_a_range_is_held_against_the_chain_before_it_is_listed():
    with pytest.raises(InterventionError, match=r"no block 9+: this chain has 9 blocks, 0 to 8\.$"):
        parse_blocks("0-99999999999999", 9)
    with pytest.raises(InterventionError, match=r"no block 9+: lists of blocks go up to 9,999\.$"):
        parse_interventions("delete 0-99999999999999")
    with pytest.raises(InterventionError, match="names more than 10,000 blocks"):
        parse_blocks(",".join(["0-9999"] * 1000))


@pytest.mark.parametrize(
    "words",
    [
        ["train", "resnet8", "--keep-at", "9" * 5000, "--out", "net.pt"],
        ["train", "resnet8", "--epochs", str(10**12), "--keep-every", "1", "--out", "net.pt"],
        ["train", "resnet8", "--seed", str(2**70), "--out", "net.pt"],
        ["gradients", NET, "--limit", "5", "--at", "9" * 5000],
        ["gradients", NET, "--limit", "5", "--at", "²"],
        ["bench", NET, "--rounds", str(10**12)],
        ["lesion", NET, "--limit", "5", "--resize", str(10**12)],
        ["lesion", NET, "--limit", "5", "--mean", "0", "--std", "nan"],
        ["inspect", "a" * 5000],
        ["export", NET, "--do", "delete 1", "-o", "a" * 5000 + ".pt"],
    ],
    ids=lambda words: " ".join(word[:12] for word in words),
)
def test_impossible_options_end_in_a_sentence(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    with limited(60), pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert capsys.readouterr().err.strip()
    assert not list(tmp_path.iterdir())


def test_more_groups_than_fit_in_memory_are_refused():
    with pytest.raises(MeasurementError, match="groups; expected at most 10,000"):
        prepare_gradients(
            load_checkpoint(NET), open_data("digits", limit=5), method="energy", groups=10**15
        )


def test_a_plan_is_counted_before_it_is_listed():
    for text in ("repeat 0 1000000", ";".join(["repeat 0 999999"] * 50)):
        with limited(10), pytest.raises(InterventionError, match="more than 10,000 steps at block"):
            bind(parse_interventions(text), OUTLINE)
    assert len(bind(parse_interventions("repeat 0 9000"), OUTLINE).steps) == 9_008


def test_arrays_come_back_as_they_were_saved(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "b": rng.random((3, 4)) > 0.5, "f": np.asfortranarray(rng.random((3, 4))),
        "i": np.arange(6, dtype=">i4"), "u": np.array(["ab", "c"]), "none": np.zeros((0, 3)),
        "one": np.array(2.5),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        found = read_npz(Path(tmp_path, "a.npz"), list(arrays))
        assert list(found) == list(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize("count", [0, -1, 0.5, True, None])
def test_numbers_of_paths_that_cannot_be_are_refused(tmp_path, count):
    PathCounts("net", PathLengths((1, 3, 3, 1)), None).save(tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    del record["digests"]
    record["blocks"] = [{**row, "paths": count} for row in record["blocks"]]
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.raises(ResultError, match="do not fit together"):
        PathCounts.load(tmp_path)
