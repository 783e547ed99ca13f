"""Every reader of the package with valid inputs made by code, and what it is to make of others."""

from __future__ import annotations

import contextlib
import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import saved_models
import saved_results
import torch
from PIL import Image
from torch import nn

from ensemble_view import load_checkpoint
from ensemble_view.core.interventions.parsing import parse_interventions
from ensemble_view.core.interventions.text import parse_blocks
from ensemble_view.core.plan import Outline, Slot, bind
from ensemble_view.data.opening import open_data
from ensemble_view.data.text_sources import open_text
from ensemble_view.errors import MeasurementError
from ensemble_view.nets.checkpoints import save_checkpoint
from ensemble_view.nets.models.building import build
from ensemble_view.study.counts import read_counts
from ensemble_view.study.result import StudyResult


@dataclass(frozen=True)
class Reader:
    """A reader, a valid input, and how inputs are damaged.

    Args:
        name: For messages.
        share: Of the inputs, relative to the others.
        make: Writes the next damaged input below a folder and returns what is read.
        read: Reads it; anything but an error of the package is a right answer or a fault.
    """

    name: str
    share: int
    make: Callable[[Path, random.Random], Any]
    read: Callable[[Any], Any]


def _net() -> nn.Module:
    torch.manual_seed(0)
    return build("resnet8", width=2, in_channels=1).eval()


def _bytes_of(save: Callable[[Path], Any], folder: Path, name: str) -> bytes:
    path = folder / name
    save(path)
    return path.read_bytes()


def _read_model(path: Path, trust_pickle: bool = False) -> None:
    checkpoint = load_checkpoint(path, trust_pickle=trust_pickle)
    assert isinstance(checkpoint.model, nn.Module)
    assert len(checkpoint.weights_hash) == 64
    assert isinstance(checkpoint.example(1), torch.Tensor | tuple | dict)


def _read_trusted(path: Path) -> None:
    _read_model(path, trust_pickle=True)


def _read_tokenizer(folder: Path) -> None:
    corpus = _write(folder, "corpus.txt", b"to be or not to be")
    next(open_text(corpus, tokenizer=str(folder), length=4).batches(2))


def _read_npz(path: Path) -> None:
    data = open_data(path)
    inputs, labels = next(data.batches(4))
    assert inputs.is_floating_point()
    assert len(inputs) == len(labels)
    assert len(data.fingerprint()) == 64
    data.subset(3)


def _read_folder(path: Path) -> None:
    data = open_data(path)
    inputs, _ = next(data.batches(4))
    assert inputs.shape[1] == 3
    data.fingerprint()


def _read_text(path: Path) -> None:
    inputs, labels = next(open_text(path, length=8).batches(2))
    assert inputs["input_ids"].shape == labels.shape


def _load(made: tuple[type[StudyResult], Path]) -> None:
    kind, folder = made
    found = kind.load(folder)
    # What was measured may be such that it cannot be summed up: said in words.
    with contextlib.suppress(MeasurementError):
        repr(found)
    with contextlib.suppress(MeasurementError):
        found.to_json()


def _write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def readers(folder: Path) -> list[Reader]:
    """All readers.

    Args:
        folder: Where valid inputs are made.
    """
    net = _net()
    kept: dict[str, Any] = {
        "architecture": "cifar:resnet8,width=2", "data": "digits", "class_names": list("0123456"),
        "normalisation": ((0.3,), (0.4,)), "input_shape": (1, 8, 8), "training": {"epochs": 3},
    }  # fmt: skip
    own = {
        suffix: _bytes_of(lambda p: save_checkpoint(p, net, **kept), folder, f"own{suffix}")
        for suffix in (".pt", ".safetensors")
    }
    weights = net.state_dict()
    legacy = _bytes_of(
        lambda p: torch.save(weights, p, _use_new_zipfile_serialization=False), folder, "old.pt"
    )
    scripted = _bytes_of(
        lambda p: torch.jit.save(torch.jit.trace(net, torch.ones(1, 1, 8, 8)), str(p)),
        folder, "script.pt",
    )  # fmt: skip
    arrays = {
        "images": np.random.default_rng(0).integers(0, 255, (12, 4, 4, 1), dtype=np.uint8),
        "labels": np.arange(12) % 3,
        "classes": np.array(["a", "b", "c"]),
        "scale": np.array(255.0),
    }
    packed = {
        save: _bytes_of(lambda p, save=save: save(p, **arrays), folder, "data.npz")
        for save in (np.savez, np.savez_compressed)
    }
    images = {
        suffix: _bytes_of(
            lambda p: Image.fromarray(arrays["images"][0].repeat(3, 2)).save(p),
            folder,
            f"i{suffix}",
        )
        for suffix in (".png", ".jpg", ".bmp", ".gif", ".tiff", ".webp", ".ppm")
    }
    rows = b"".join(json.dumps({"text": f"row {i} of words"}).encode() + b"\n" for i in range(5))
    programs = saved_models.exported(folder)
    floats = {name: value for name, value in weights.items() if value.is_floating_point()}
    archives = saved_models.tar_checkpoint(floats)
    stopped = saved_models.stopped_training(folder)
    whole = {
        is_zip: _bytes_of(
            lambda p, is_zip=is_zip: torch.save(
                saved_models.Residual(), p, _use_new_zipfile_serialization=is_zip
            ),
            folder,
            "whole.pt",
        )
        for is_zip in (False, True)
    }
    saved = saved_models.transformers_folders(folder)
    results = saved_results.measured_results()
    for name, each in results.items():
        saved_results.write(each, folder / f"{name} result")

    def model(place: Path, rng: random.Random) -> Path:
        suffix = rng.choice((".pt", ".safetensors"))
        way = mutations.damaged_archive if suffix == ".pt" else mutations.damaged
        return _write(place, f"m{suffix}", way(own[suffix], rng))

    def described(place: Path, rng: random.Random) -> Path:
        raw = own[".safetensors"]
        length = struct.unpack("<Q", raw[:8])[0]
        header = json.loads(raw[8 : 8 + length])
        text = header["__metadata__"]["ensemble_view"]
        if rng.random() < 0.15:
            header = mutations.changed(header, rng)
        else:
            found = mutations.changed_json(text.encode(), rng).decode("utf-8", "replace")
            header["__metadata__"] = {"ensemble_view": found}
        content = json.dumps(header).encode()
        whole = struct.pack("<Q", len(content)) + content + raw[8 + length :]
        return _write(place, "d.safetensors", whole)

    def described_pt(place: Path, rng: random.Random) -> Path:
        stored = torch.load(io.BytesIO(own[".pt"]), weights_only=True)
        stored["ensemble_view"] = mutations.changed(stored["ensemble_view"], rng)
        if rng.random() < 0.3:
            stored["state_dict"] = _odd_weights(stored["state_dict"], rng)
        if rng.random() < 0.1:
            stored["state_dict"] = stored
        torch.save(stored, place / "d.pt")
        return place / "d.pt"

    def old(place: Path, rng: random.Random) -> Path:
        return _write(place, "old.pt", mutations.damaged(legacy, rng))

    def script(place: Path, rng: random.Random) -> Path:
        return _write(place, "script.pt", mutations.damaged_archive(scripted, rng))

    def program(place: Path, rng: random.Random) -> Path:
        return _write(place, "p.pt2", mutations.damaged_archive(programs, rng))

    def tar(place: Path, rng: random.Random) -> Path:
        return _write(place, "t.pth", mutations.damaged(archives, rng))

    def trusted(place: Path, rng: random.Random) -> Path:
        content = rng.choice((*whole.values(), own[".pt"], legacy))
        way = mutations.damaged_archive if content[:2] == b"PK" else mutations.damaged
        return _write(place, "trusted.pt", way(content, rng))

    def training(place: Path, rng: random.Random) -> Path:
        if rng.random() < 0.4:
            content = mutations.damaged_archive(stopped, rng)
        else:
            state = torch.load(io.BytesIO(stopped), weights_only=True)
            out = io.BytesIO()
            torch.save(mutations.changed_values(state, rng), out)
            content = out.getvalue()
        _write(place, "net.safetensors.resume", content)
        return place / "net.safetensors"

    def pretrained(place: Path, rng: random.Random, tokens: bool = False) -> Path:
        source = saved[0] if tokens else rng.choice(saved)
        files = [file for file in source.iterdir() if not tokens or "token" in file.name]
        chosen = rng.choice(files)
        for file in source.iterdir():
            content = file.read_bytes()
            if file == chosen and file.suffix == ".json":
                content = mutations.changed_json(content, rng)
            elif file == chosen:
                content = mutations.damaged(content, rng)
            if file != chosen or rng.random() < 0.95:
                _write(place, file.name, content)
        return place

    def npz(place: Path, rng: random.Random) -> Path:
        if rng.random() < 0.6:
            content = rng.choice(list(packed.values()))
            return _write(place, "d.npz", mutations.damaged_archive(content, rng))
        path = place / "h.npz"
        with zipfile.ZipFile(path, "w", rng.choice((0, 8))) as archive:
            for name, array in arrays.items():
                out = io.BytesIO()
                np.save(out, _odd_array(array, rng) if rng.random() < 0.4 else array)
                content = out.getvalue()
                if rng.random() < 0.3:
                    content = mutations.damaged(content[:128], rng) + content[128:]
                archive.writestr(f"{name}.npy", content)
        return path

    def image(place: Path, rng: random.Random) -> Path:
        for name in ("cats", "dogs"):
            (place / name).mkdir()
            for number in range(2):
                suffix = rng.choice(list(images))
                content = images[suffix]
                if rng.random() < 0.6:
                    content = mutations.damaged(content, rng)
                _write(place / name, f"{number}{suffix}", content)
        return place

    def jsonl(place: Path, rng: random.Random) -> Path:
        lines = rows.splitlines()
        index = rng.randrange(len(lines))
        lines[index] = mutations.changed_json(lines[index], rng)
        return _write(place, "t.jsonl", b"\n".join(lines))

    def text(place: Path, rng: random.Random) -> Path:
        return _write(place, "t.txt", mutations.damaged("Wörter und Sätze. ".encode() * 9, rng))

    def result(place: Path, rng: random.Random) -> tuple[type[StudyResult], Path]:
        name = rng.choice(list(results))
        source = folder / f"{name} result"
        for file in source.iterdir():
            content = file.read_bytes()
            if rng.random() < 0.5 or len(list(source.iterdir())) == 1:
                json_one = file.suffix == ".json"
                way = mutations.changed_json if json_one else mutations.damaged_archive
                content = way(content, rng)
            _write(place, file.name, content)
        return type(results[name]), place

    slots = Outline(tuple(Slot(f"layer{i // 3}.{i}", (4,), (4,), True) for i in range(9)))
    done = "delete 3,7-8; swap 1 2; scale 4 0.5; repeat 0 2; replace 5 resample 1"

    def words(text: str) -> Callable[[Path, random.Random], str]:
        return lambda place, rng: mutations.changed_text(rng.choice(text.split("|")), rng)

    return [
        Reader("own format", 5, model, _read_model),
        Reader("description", 6, described, _read_model),
        Reader("description in .pt", 4, described_pt, _read_model),
        Reader("legacy .pt", 3, old, _read_model),
        Reader("TorchScript", 3, script, _read_model),
        Reader(".npz", 6, npz, _read_npz),
        Reader("image folder", 4, image, _read_folder),
        Reader(".jsonl", 4, jsonl, _read_text),
        Reader("text", 1, text, _read_text),
        Reader("exported program", 2, program, _read_trusted),
        Reader("tar checkpoint", 2, tar, _read_trusted),
        Reader("trusted pickle", 4, trusted, _read_trusted),
        Reader("stopped training", 3, training, saved_models.resumed),
        Reader("transformers folder", 3, pretrained, _read_model),
        Reader("tokenizer", 2, partial(pretrained, tokens=True), _read_tokenizer),
        Reader("result", 15, result, _load),
        Reader("interventions", 4, words(f"{done}|{done.replace(';', ' ;')}|reorder 0-8|keep 1"),
               lambda found: bind(parse_interventions(found), slots)),
        Reader("blocks", 2, words("3,7-8|layer1.*|0-8"), lambda found: parse_blocks(found, 9)),
        Reader("counts", 1, words("1-20|1,2,5"), lambda found: read_counts(found, "blocks")),
        Reader("architecture", 2, words("resnet8|cifar:vgg15,width=2|resnet8,shortcut=B|notes_v1"),
               build),
    ]  # fmt: skip


def _odd_weights(weights: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    name = rng.choice(list(weights))
    value = weights[name]
    odd: list[Callable[[], Any]] = [
        lambda: value.to_sparse(),
        lambda: value.to("meta"),
        lambda: value.to(torch.complex64),
        lambda: torch.quantize_per_tensor(value.float(), 0.1, 0, torch.qint8),
        lambda: torch.ones(1).expand(10**7, 10**5),
        lambda: torch.empty(0, 10**15),
        lambda: value.bool(),
        lambda: value[None],
        lambda: torch.full_like(value, float("nan")) if value.is_floating_point() else value,
        lambda: "words",
        lambda: [value],
    ]
    return {**weights, name: rng.choice(odd)()}


def _odd_array(array: Any, rng: random.Random) -> Any:
    odd = [
        array.ravel(), array[:0] if array.ndim else array, array[None], array.astype("U9"),
        array.astype("S5"), np.array(7), np.asfortranarray(array), np.full(12, 2**62),
        np.full(12, -1), np.full(array.shape, np.nan), np.full(array.shape, 1j),
        np.full(array.shape, 0.5, np.float16), np.full(array.shape, 0.5, ">f4"),
        np.full(array.shape, 0.5, np.longdouble), np.zeros(12, "m8[s]"), np.zeros(12, "U0"),
    ]  # fmt: skip
    return rng.choice(odd)
