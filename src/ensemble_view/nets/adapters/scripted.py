"""Weights of a TorchScript archive, read without loading its program.

``torch.jit.load`` compiles the program in the archive and runs its ``__setstate__`` methods in
TorchScript's interpreter, which reaches files by its operations and may never come to an end. So
nothing of it is called: the archive's pickle is read here by an unpickler that knows modules as
records of attributes, rebuilds tensors, and refuses everything else. The program in the archive is
not run, neither here nor later; the architecture has to be built from elsewhere.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ensemble_view.errors import CheckpointError, UnreadableError
from ensemble_view.reading.archives import opened_zip, zip_names
from ensemble_view.reading.pickles import check_pickle

__all__ = ["is_scripted", "read_scripted_weights"]

_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


# A short row that is there for every position, say.
_REPEATED = 2**22


def is_scripted(path: Path) -> bool:
    """Say whether a file is a TorchScript archive, by its content.

    Args:
        path: A file.

    Returns:
        True if ``torch.jit.save`` wrote it.
    """
    return any(name.endswith("/constants.pkl") for name in zip_names(path))


def read_scripted_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of an archive's modules, by the paths that a state_dict gives them.

    Beside parameters and buffers these are the modules' other tensor attributes, which an archive
    does not tell apart.

    Args:
        path: A file that `is_scripted`.

    Returns:
        Names and tensors.

    Raises:
        CheckpointError: If the archive is damaged, or holds what is neither module nor tensor.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "net.pt"
        ...     torch.jit.trace(torch.nn.Linear(2, 3), torch.ones(1, 2)).save(str(file))
        ...     sorted(read_scripted_weights(file))
        ['bias', 'weight']
    """
    try:
        with opened_zip(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            root = _Reader(archive, name.removesuffix("data.pkl")).load()
        weights = dict(_tensors(root, ""))
    except _UnknownContentError as error:
        raise CheckpointError(
            f"{path} is a TorchScript archive that holds {error}, which is not read because only "
            "its own program can rebuild it: save the state_dict of the model it was made from."
        ) from error
    except UnreadableError as error:
        raise CheckpointError(
            f"{path} is no complete TorchScript archive ({error}): fetch or save it again."
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{path} is no complete TorchScript archive ({type(error).__name__}): fetch or save it "
            "again."
        ) from error
    if not weights:
        raise CheckpointError(
            f"{path} is a TorchScript archive without named weights, as torch.jit.freeze leaves "
            "it: save the state_dict of the model it was made from."
        )
    return weights


class _UnknownContentError(Exception):
    """The archive holds something that only its own code could rebuild."""


class _Record:
    """A module of the archive: its attributes, and none of its methods."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise _UnknownContentError("a module with a __setstate__ of its own")
        self.attributes = state


def _tensors(record: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in getattr(record, "attributes", {}).items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Record):
            yield from _tensors(value, f"{prefix}{name}.")


def _first(value: Any, *_: Any) -> Any:
    return value


def _rebuild(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    if math.prod(size) > max(storage.numel(), _REPEATED):
        raise _UnknownContentError(f"a tensor of {math.prod(size):,} repeated values")
    return storage.as_strided(size, stride, offset).clone()


_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
}


class _Reader(pickle.Unpickler):
    """Rebuilds tensors and records; nothing that a pickle can name is called but what is here."""

    def __init__(self, archive: zipfile.ZipFile, folder: str) -> None:
        content = archive.read(f"{folder}data.pkl")
        check_pickle(content)
        super().__init__(io.BytesIO(content))
        self._archive = archive
        self._folder = folder
        self._storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Look up one of the few things that are known.

        Returns:
            A class or function of this module.

        Raises:
            _UnknownContentError: For everything else.
        """
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "__torch__" or module.startswith("__torch__."):
            return _Record
        if module == "torch.jit._pickle":
            # Typed lists and dictionaries: the bare value, then its type.
            return _first
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise _UnknownContentError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Read the values of one storage.

        Returns:
            Them as a one-dimensional tensor.
        """
        _, dtype, key, *_ = pid
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._folder}data/{key}"))
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else empty
        return self._storages[key]
