"""Read and write files of weights without running anything that they contain."""

from __future__ import annotations

import contextlib
import io
import json
import mmap
import os
import pickle
import pickletools
import secrets
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from ensemble_view.errors import CheckpointError, UnreadableError
from ensemble_view.reading.archives import BROKEN, check_zip, is_zip, opened_zip
from ensemble_view.reading.json_text import parse_json
from ensemble_view.reading.pickles import check_pickle
from ensemble_view.reading.regular import check_regular, exists, is_folder, one_line

__all__ = [
    "MARK",
    "SUFFIXES",
    "check_destination",
    "check_model_file",
    "read_weights_file",
    "replace_file",
    "write_weights_file",
]

MARK = "ensemble_view"
"""The key under which a file of this package keeps everything but the weights."""

SUFFIXES = (".pt", ".pth", ".th", ".safetensors")

# Magic number, protocol, system, what was saved, and the keys of its storages.
_LEGACY_PICKLES = 5
# Bytes per element of the storages that such a file can hold.
_SIZES = {
    "ByteStorage": 1, "CharStorage": 1, "ShortStorage": 2, "HalfStorage": 2, "IntStorage": 4,
    "FloatStorage": 4, "LongStorage": 8, "DoubleStorage": 8,
}  # fmt: skip
_MOST_DIMENSIONS = 64
_REBUILDING = frozenset({"collections.OrderedDict", "torch._utils._rebuild_tensor_v2"})


def read_weights_file(path: Path, *, trust_pickle: bool = False) -> Any:
    """Read what a file of weights holds.

    Args:
        path: A `.safetensors` file, or anything that torch.save wrote, in any of its formats.
        trust_pickle: Whether the file may run code of its own while it is read.

    Returns:
        What was saved; of a `.safetensors` file a dict with state_dict and, if there is any, this
        package's description under `MARK`.

    Raises:
        CheckpointError: If there is no such file, it is damaged, or it would run code.

    Example:
        >>> from ensemble_view.nets.bundled import bundled
        >>> sorted(read_weights_file(bundled("digits-resnet110.safetensors")))
        ['ensemble_view', 'state_dict']
    """
    check_model_file(path)
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        return _read_torch(path, trust_pickle)
    except PermissionError as error:
        raise CheckpointError(f"{path} may not be read: check its permissions.") from error


def check_model_file(path: Path) -> None:
    """Refuse what is no file with content, before it is opened.

    Args:
        path: Of a model.

    Raises:
        CheckpointError: If there is none, or it is empty, a folder, a named pipe or a device.

    Example:
        >>> check_model_file(Path("/dev/null"))
        Traceback (most recent call last):
        ...
        ensemble_view.errors.CheckpointError: /dev/null cannot be read as a model (it is a device...
    """
    if not exists(path):
        raise CheckpointError(f"There is no model file {path}: check its name and folder.")
    if is_folder(path):
        raise CheckpointError(f"{path} is a folder: name a model file in it.")
    try:
        size = check_regular(path)
    except UnreadableError as error:
        raise CheckpointError(
            f"{path} cannot be read as a model ({error}): name a file that torch.save or "
            "safetensors wrote."
        ) from error
    if size == 0:
        raise CheckpointError(f"{path} is empty: expected a model; fetch or save it again.")


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Return weights and description of a `.safetensors` file."""
    try:
        with safetensors.safe_open(path, framework="pt") as stored:
            metadata = stored.metadata() or {}
            weights = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        found: dict[str, Any] = {"state_dict": weights}
        if MARK in metadata:
            found[MARK] = parse_json(metadata[MARK])
    except (safetensors.SafetensorError, UnreadableError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no complete .safetensors file ({one_line(error)}): fetch or save it again."
        ) from error
    return found


def _read_torch(path: Path, trust_pickle: bool) -> Any:
    """Return what torch.save wrote."""
    try:
        if is_zip(path):
            check_zip(path)
        _check_pickles(path)
        return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except PermissionError:
        raise
    except Exception as error:
        if trust_pickle:
            raise CheckpointError(
                f"{path} could not be unpickled ({type(error).__name__}: {one_line(error)}): it "
                "may be damaged, or need a module that is not installed here."
            ) from error
        raise _explain(path, error) from error


def _check_pickles(path: Path) -> None:
    """Check the pickles of a file before an unpickler takes the memory that they ask for."""
    if is_zip(path):
        with opened_zip(path) as archive:
            for name in archive.namelist():
                if name.endswith(".pkl"):
                    check_pickle(archive.read(name))
    elif _is_tar(path):
        _check_tar(path)
    else:
        # A map of the file gives what is there, where reading takes memory for what is asked for.
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
            # A bare pickle, or those before the storages in torch's legacy format.
            for _ in range(_LEGACY_PICKLES):
                if held.tell() < len(held):
                    check_pickle(held)


def _check_tar(path: Path) -> None:
    """Check that what PyTorch's early tar format holds is no larger than the archive.

    A storage is a pickle that names its type, the number of its elements in eight bytes, and these.
    A tensor is a pickle that names its storage, then its dimensions, sizes, strides and offset.

    Raises:
        UnreadableError: If one is larger, or there are none.
    """
    try:
        with tarfile.open(path) as archive:
            parts = {
                name: b"" if (part := archive.extractfile(name)) is None else part.read()
                for name in ("sys_info", "pickle", "tensors", "storages")
            }
    except (*BROKEN, tarfile.TarError, KeyError) as error:
        raise UnreadableError(one_line(error)) from error
    for name in ("sys_info", "pickle"):
        check_pickle(parts[name])
    content = parts["storages"]
    stream = io.BytesIO(content)
    for _ in range(_count(stream)):
        kinds = [str(value).rpartition(" ")[2] for value in _operands(stream)]
        sizes = [_SIZES[kind] for kind in kinds if kind in _SIZES]
        count = int.from_bytes(stream.read(8), "little", signed=True)
        if len(sizes) != 1 or not 0 <= count * sizes[0] <= len(content) - stream.tell():
            raise UnreadableError(f"a storage of {count:,} elements is not in it")
        stream.seek(count * sizes[0], io.SEEK_CUR)
    stream = io.BytesIO(parts["tensors"])
    for _ in range(_count(stream)):
        _operands(stream)
        # What is broken off is found to be so by torch.
        dimensions = int.from_bytes(stream.read(4), "little", signed=True)
        stream.seek(4, io.SEEK_CUR)
        left = min(dimensions, _MOST_DIMENSIONS)
        shape, strides = ([_signed(stream) for _ in range(left)] for _ in range(2))
        last = sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
        if dimensions > left or _signed(stream) + last >= len(content):
            raise UnreadableError(f"a tensor of shape {tuple(shape)} is not in it")


def _count(stream: io.BytesIO) -> int:
    return next((value for value in _operands(stream) if isinstance(value, int)), 0)


def _signed(stream: io.BytesIO) -> int:
    return int.from_bytes(stream.read(8), "little", signed=True)


def _operands(stream: io.BytesIO) -> list[Any]:
    """Read past the next pickle of a stream; return what its operations are given."""
    start = stream.tell()
    check_pickle(stream)
    stream.seek(start)
    return [value for name, value, _ in pickletools.genops(stream) if name.name != "PROTO"]


def _explain(path: Path, error: Exception) -> CheckpointError:
    """Say why a file could not be loaded as plain weights."""
    names, complete = _globals_of(path)
    foreign = [name for name in names if not _is_plain(name)]
    if foreign and (complete or isinstance(error, pickle.UnpicklingError)):
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        return CheckpointError(
            f"{path} is a pickle that calls {', '.join(foreign[:5])}{more}, which was blocked "
            "because it could run any code: save a state_dict instead, or, if you trust the file, "
            "load it with --trust-pickle."
        )
    if isinstance(error, UnreadableError) and is_zip(path):
        return CheckpointError(
            f"{path} is no complete model file ({error}): fetch or save it again."
        )
    if not is_zip(path) and _is_tar(path):
        return CheckpointError(
            f"{path} is in the tar format of early PyTorch, which only unpickling reads: if you "
            "trust the file, load it with --trust-pickle."
        )
    return CheckpointError(
        f"{path} is no complete model file: expected what torch.save or safetensors wrote; fetch "
        "or save it again."
    )


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (*BROKEN, tarfile.TarError):
        return False


def _is_plain(name: str) -> bool:
    """Say whether torch itself rebuilds weights with this name."""
    if name in _REBUILDING:
        return True
    module, _, attribute = name.rpartition(".")
    return module in {"torch", "torch._utils", "torch.storage", "torch.serialization"} and (
        attribute.endswith("Storage") or attribute.startswith("_rebuild") or attribute == "Size"
    )


def _globals_of(path: Path) -> tuple[list[str], bool]:
    """Return the names that a file's pickles would look up, read without executing them."""
    names: dict[str, None] = {}
    try:
        if is_zip(path):
            with opened_zip(path) as archive:
                parts = [name for name in archive.namelist() if name.endswith(".pkl")]
                pickles = [archive.read(name) for name in parts]
        else:
            pickles = [path.read_bytes()]
    except (OSError, UnreadableError):
        return [], False
    complete = True
    for content in pickles:
        stream = io.BytesIO(content)
        try:
            # The legacy format is several pickles, one after the other, then raw storages.
            while stream.tell() < len(content):
                names |= dict.fromkeys(_globals_of_pickle(stream))
        except Exception:
            complete = not is_zip(path) and bool(names)
    return list(names), complete


def _globals_of_pickle(stream: io.BytesIO) -> list[str]:
    """Return the names that the next pickle of a stream would look up."""
    names: list[str] = []
    words: list[str] = []
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name in {"GLOBAL", "INST"}:
            names.append(str(argument).replace(" ", "."))
        elif operation.name == "STACK_GLOBAL":
            names.append(".".join(words[-2:]))
        elif isinstance(argument, str):
            words.append(argument)
    return names


def check_suffix(path: Path) -> None:
    """Refuse to write a file whose suffix names no format.

    Args:
        path: Where the weights are to go.

    Raises:
        CheckpointError: If the suffix is unknown.

    Example:
        >>> check_suffix(Path("net.pt"))
    """
    if path.suffix not in SUFFIXES:
        raise CheckpointError(
            f"{path} has the suffix {path.suffix!r}: expected one of {', '.join(SUFFIXES)}."
        )


def check_destination(path: Path, *, overwrite: bool = False, beside: Sequence[Path] = ()) -> None:
    """Refuse a place where no weights can be written, before the work rather than after it.

    Args:
        path: Where the weights are to go; its folder is made if need be.
        overwrite: Whether a file that is there may be replaced.
        beside: Other files that will be written.

    Raises:
        CheckpointError: If the suffix is unknown, the place cannot be written, or there is a file
            that may not be replaced.
    """
    check_suffix(path)
    for file in () if overwrite else (path, *beside):
        if os.path.lexists(file) and not is_folder(file):
            raise CheckpointError(
                f"{file} is there already: write to another file, or replace it with --overwrite "
                "or overwrite=True."
            )
    if is_folder(path):
        raise CheckpointError(f"{path} is a folder: name a file to write.")
    probe = path.with_name(f"{path.name}.{secrets.token_hex(4)}.probe")
    replace_file(probe, b"")
    probe.unlink()


def write_weights_file(
    path: Path, weights: Mapping[str, Tensor], description: Mapping[str, object]
) -> None:
    """Write weights and this package's description of them, all or nothing.

    Args:
        path: Where to; the suffix decides the format.
        weights: Names and tensors.
        description: Plain values: text, numbers, lists, dicts, None.

    Raises:
        CheckpointError: If the suffix is unknown or the file cannot be written.
    """
    check_suffix(path)
    # Copies, because a .safetensors file has no way to say that two names share one tensor.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in weights.items()
    }
    # Both formats hold JSON values only, so that what one can store the other can.
    text = json.dumps(description, allow_nan=False, sort_keys=True)
    if path.suffix == ".safetensors":
        # Insertion order would follow the hash seed in some versions; sorted names never do.
        content = safetensors.torch.save(dict(sorted(tensors.items())), metadata={MARK: text})
    else:
        buffer = io.BytesIO()
        torch.save({MARK: json.loads(text), "state_dict": tensors}, buffer)
        content = buffer.getvalue()
    replace_file(path, content)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that an interruption leaves the old one or the new one, never a part.

    Args:
        path: Where to; its folder is made if need be.
        content: What to write.

    Raises:
        CheckpointError: If the file cannot be written there.
    """
    # A name that two processes which write the same file do not share.
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if not isinstance(error, OSError):
            raise
        raise CheckpointError(
            f"{path} cannot be written ({error.strerror or error}): choose another place."
        ) from error
