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
from pathlib import Path
from typing import Any

import mutations
import numpy as np
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
from ensemble_view.paths.lengths import PathLengths
from ensemble_view.studies.gradients.result import (
    GradientCost,
    GradientsByLength,
    GradientSettings,
    LengthRow,
)
from ensemble_view.studies.lesion.result import LesionResult
from ensemble_view.studies.paths.result import PathCounts
from ensemble_view.study.counts import read_counts
from ensemble_view.study.provenance import Provenance
from simulated_results import simulated_result


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


def _read_model(path: Path) -> None:
    checkpoint = load_checkpoint(path)
    assert isinstance(checkpoint.model, nn.Module)
    assert len(checkpoint.weights_hash) == 64
    assert isinstance(checkpoint.example(1), torch.Tensor | tuple | dict)


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


def _load(kind: Any) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        # What was measured may be such that it cannot be summed up: said in words.
        with contextlib.suppress(MeasurementError):
            repr(kind.load(folder))

    return read


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
    lesions = folder / "lesions"
    simulated_result(4, downsampling=(), examples=20).save(lesions)
    gradients = folder / "gradients"
    _gradients().save(gradients)
    paths = folder / "paths"
    PathCounts("net", PathLengths((1, 3, 3, 1)), None).save(paths)

    def model(place: Path, rng: random.Random) -> Path:
        suffix = rng.choice((".pt", ".safetensors"))
        return _write(place, f"m{suffix}", mutations.damaged(own[suffix], rng))

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
        return _write(place, "script.pt", mutations.damaged(scripted, rng))

    def npz(place: Path, rng: random.Random) -> Path:
        if rng.random() < 0.6:
            return _write(place, "d.npz", mutations.damaged(rng.choice(list(packed.values())), rng))
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

    def result(source: Path) -> Callable[[Path, random.Random], Path]:
        def make(place: Path, rng: random.Random) -> Path:
            for file in source.iterdir():
                if file.suffix in (".json", ".npz"):
                    _write(place, file.name, file.read_bytes())
            arrays = place / "outcomes.npz"
            record = place / "results.json"
            if arrays.exists() and rng.random() < 0.4:
                arrays.write_bytes(mutations.damaged(arrays.read_bytes(), rng))
            else:
                content = json.loads(record.read_bytes())
                # Without digests, as an older release writes it, so that all of it is read.
                content.pop("digests", None)
                content = mutations.changed_json(json.dumps(content).encode(), rng)
                record.write_bytes(content)
            return place

        return make

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
        Reader("lesion result", 5, result(lesions), _load(LesionResult)),
        Reader("gradients result", 4, result(gradients), _load(GradientsByLength)),
        Reader("paths result", 2, result(paths), _load(PathCounts)),
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


def _gradients() -> GradientsByLength:
    provenance = Provenance(
        {"name": "net"}, {"name": "one"}, {}, seed=0, command="", date="", device="cpu",
        threads=1, batch_size=1,
    )  # fmt: skip
    settings = GradientSettings(("summed",), "block 0", "loss", 16, None, 0, "example")
    rows = tuple(LengthRow(length, 1, projected=0.5) for length in (0, 1))
    return GradientsByLength(
        rows, settings, GradientCost(1, {"summed": 1}, 1), 0.0, 0, 0.1, provenance
    )
