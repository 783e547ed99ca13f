"""Read and write files of weights without running anything that they contain."""

from __future__ import annotations

import contextlib
import io
import json
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
    if isinstance(error, UnreadableError):
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
