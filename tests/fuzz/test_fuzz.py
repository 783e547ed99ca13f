"""Damaged inputs: each is refused in a sentence or read, soon and without much memory."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import saved_models
import saved_results
import torch
from fuzzing import TooLargeError, bounded_memory, fuzz, limited, measured_memory

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
from ensemble_view.nets.adapters.libraries import loading
from ensemble_view.nets.weights_file import read_weights_file
from ensemble_view.paths.lengths import PathLengths
from ensemble_view.reading.arrays import read_npz
from ensemble_view.studies.gradients.study import prepare_gradients
from ensemble_view.studies.paths.result import PathCounts
from ensemble_view.study.files import ResultError, ResultWarning

INPUTS = 2_600
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


IMPOSSIBLE = [
    ("gradients", ("rows", 0, "energy"), -1.0),
    ("gradients", ("projected_mean",), [None, 1.0]),
    ("gradients", ("cost", "examples"), 0),
    ("gradients by checkpoint", ("results", 1, "rows", 0, "summed_norm"), -1.0),
    ("gradients by checkpoint", ("names", 0), 3),
    ("gradients by block", ("rows", 0, "branch_share"), 1.5),
    ("gradients by block", ("rows", 0, "cosine"), -2.0),
    ("gradients by block", ("rows", 1, "block"), 0),
    ("gradients by block", ("rows", 0, "name"), None),
    ("gradients by block", ("examples",), -3),
    ("pairs", ("stages", 0), 9),
    ("pairs", ("stages", 0), "first"),
    ("pairs", ("blocks", 0, "blocks", 0), 99),
    ("pairs", ("level",), 1.5),
    ("power set", ("keeps", 0), 2.0),
    ("power set", ("blocks", 1, "blocks", 0), 0),
    ("power set", ("seconds",), -1.0),
    ("power set", ("block_count",), 2),
    ("surrogates", ("shares", 0, "first"), 2.0),
    ("surrogates", ("shares", 0, "subsets"), -1),
    ("surrogates", ("shares", 0, "r2"), 1.5),
    ("surrogates", ("shares", 0, "quantity"), ["error"]),
    ("power set", ("blocks", 0, "names"), []),
    ("many", ("deleted", 0, 0), 77),
]


@pytest.mark.parametrize(("name", "place", "value"), IMPOSSIBLE, ids=str)
def test_impossible_values_of_a_result_are_refused(tmp_path, name, place, value):
    result = saved_results.measured_results()[name]
    saved_results.write(result, tmp_path / "result")
    record = tmp_path / "result" / "results.json"
    content = json.loads(record.read_text())
    with pytest.warns(ResultWarning):
        type(result).load(tmp_path / "result")
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    assert inner[place[-1]] != value
    inner[place[-1]] = value
    record.write_text(json.dumps(content))
    with pytest.raises(ResultError, match="do not fit together"):
        type(result).load(tmp_path / "result")


def test_a_pickle_that_asks_for_a_large_table_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "net.pt", _use_new_zipfile_serialization=False)
    content = (tmp_path / "net.pt").read_bytes()
    place = content.rindex(b"ctorch.nn.modules.linear")
    asking = b"r\xff\xff\xff\x7f"
    (tmp_path / "net.pt").write_bytes(content[:place] + b"N" + asking + b"0" + content[place:])
    with pytest.raises(CheckpointError, match=r"asks for a table of 2,147,483,647 entries"):
        load_checkpoint(tmp_path / "net.pt", trust_pickle=True)


def test_early_tar_archives_are_read_and_their_storages_held_against_their_size(tmp_path):
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4)}
    content = saved_models.tar_checkpoint(weights)
    (tmp_path / "net.pth").write_bytes(content)
    found = read_weights_file(tmp_path / "net.pth", trust_pickle=True)
    assert {name: value.tolist() for name, value in found.items()} == {
        name: value.tolist() for name, value in weights.items()
    }
    # Two dimensions of the first tensor's, four bytes that are left out, and its sizes.
    two = struct.pack("<i4x2q", 2, 2, 3)
    place = content.index(two) + len(two) - 16
    wide = content[:place] + struct.pack("<q", 10**9) + content[place + 8 :]
    (tmp_path / "net.pth").write_bytes(wide)
    with pytest.raises(CheckpointError, match=r"a tensor of shape \(1000000000, 3\) is not in it"):
        load_checkpoint(tmp_path / "net.pth", trust_pickle=True)
    six, many = (struct.pack("<q", count) for count in (6, 10**9))
    place = content.index(six + struct.pack("<2f", 0, 1))
    (tmp_path / "net.pth").write_bytes(content[:place] + many + content[place + 8 :])
    with pytest.raises(CheckpointError, match=r"a storage of 1,000,000,000 elements is not in it"):
        load_checkpoint(tmp_path / "net.pth", trust_pickle=True)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    return saved_models.stopped_training(tmp_path_factory.mktemp("stopped"))


def without(value, *place):
    for key in place[:-1]:
        value = value[key]
    del value[place[-1]]


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("snapshot", "model", "layer3.0.bn1.running_var"), "training state is damaged"),
        (("snapshot", "optimiser"), "training state is damaged"),
        (("snapshot", "optimiser", "param_groups", 0, "momentum"), "training state is damaged"),
        (("snapshot", "history", 0, "loss"), "no entry of epoch 0"),
        (("snapshot", "seconds"), "training state is damaged"),
        (("settings", "recipe", "shift"), "has shift not said, this one None"),
        (("settings", "recipe", "seed"), "has seed not said"),
    ],
    ids=str,
)
def test_a_damaged_training_is_not_gone_on_with(tmp_path, stopped, place, message):
    state = torch.load(io.BytesIO(stopped), weights_only=True)
    state["settings"] = json.loads(state["settings"])
    without(state, *place)
    state["settings"] = json.dumps(state["settings"])
    torch.save(state, tmp_path / "net.safetensors.resume")
    with pytest.raises(EnsembleViewError, match=message):
        saved_models.resumed(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("file", "entry", "value", "message"),
    [
        ("config.json", "architectures", 3, "has a int as its architectures"),
        ("preprocessor_config.json", "image_mean", [[0.5]], "says of its inputs cannot be"),
        ("config.json", "image_size", 2**40, "one input of shape"),
    ],
)
def test_what_a_folder_says_of_its_model_must_be_possible(tmp_path, file, entry, value, message):
    folder = saved_models.transformers_folders(tmp_path)[1]
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps({**content, entry: value}))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder)


def test_classes_that_are_no_characters_are_refused(tmp_path):
    classes = np.array([2**31 - 1] * 3, np.uint32).view("U1")
    images = np.zeros((3, 4, 4, 1), np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(3), classes=classes)
    with pytest.raises(DataError, match="are no text"):
        open_data(tmp_path / "d.npz")


def test_a_pickle_within_a_program_is_checked(tmp_path):
    source = zipfile.ZipFile(io.BytesIO(saved_models.exported(tmp_path)))
    with zipfile.ZipFile(tmp_path / "p.pt2", "w") as archive:
        for name in source.namelist():
            content = source.read(name).replace(b'"use_pickle": false', b'"use_pickle": true')
            is_weight = name.endswith("weight_1")
            archive.writestr(name, b"\x8e" + b"\xff" * 4 + b"\0" * 11 if is_weight else content)
    with pytest.raises(CheckpointError, match="its pickle is broken off"):
        load_checkpoint(tmp_path / "p.pt2", trust_pickle=True)


def test_what_the_bound_of_memory_counts():
    with measured_memory(100):
        torch.empty(2**30)  # Asked for and never written to.
    with pytest.raises(TooLargeError, match="were held"), measured_memory(100):
        torch.zeros(2**26)

    def refused() -> None:
        try:
            bytearray(2**40)
        except MemoryError as error:
            raise CheckpointError("Said in a sentence.") from error

    with pytest.raises(TooLargeError, match="refused"), bounded_memory(), measured_memory(100):
        refused()


def test_an_error_raised_from_its_own_consequence_is_said(tmp_path):
    first = ValueError("the first")
    try:
        try:
            raise first
        except ValueError as error:
            raise RuntimeError("the second") from error
    except RuntimeError as error:
        second = error
    with (
        limited(10),
        pytest.raises(CheckpointError, match="could not be loaded"),
        loading("it", trust_pickle=False),
    ):
        raise first from second
