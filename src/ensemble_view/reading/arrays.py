"""Arrays of an ``.npz`` file, each read only after its header was held against what is stored."""

from __future__ import annotations

import contextlib
import math
import tokenize
import zipfile
from collections.abc import Collection
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ensemble_view.errors import UnreadableError
from ensemble_view.reading.archives import opened_zip
from ensemble_view.reading.regular import check_regular, one_line

__all__ = ["npz_names", "read_npz"]

_SUFFIX = ".npy"
_KINDS = "biufcSU"
_WIDEST = {"f": 8, "c": 16}
_CHUNK = 2**20
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
# What numpy's reader of headers, which parses Python literals, raises for what are none.
_BROKEN_HEADER = (ValueError, TypeError, SyntaxError, tokenize.TokenError, RecursionError,
                  MemoryError, KeyError, AttributeError)  # fmt: skip


def npz_names(path: str | Path) -> list[str]:
    """List the arrays of an ``.npz`` file.

    Args:
        path: The file.

    Returns:
        Their names, as numpy gives them.

    Raises:
        UnreadableError: If it is no such file.

    Example:
        >>> npz_names(".")
        Traceback (most recent call last):
        ...
        ensemble_view.errors.UnreadableError: it is a folder, not a file
    """
    with _opened(path) as archive:
        return list(_entries(archive))


def read_npz(path: str | Path, names: Collection[str]) -> dict[str, npt.NDArray[Any]]:
    """Read arrays from an ``.npz`` file, never unpickling.

    Args:
        path: The file.
        names: Of the arrays that are wanted; others are not read.

    Returns:
        Those that are there, in this machine's byte order.

    Raises:
        UnreadableError: If it is no such file, is damaged, or holds a wanted array that is no
            plain one: the header is held against the bytes that are stored before anything is
            allocated.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "a.npz")
        ...     np.savez(file, x=np.arange(3), y=np.ones(2))
        ...     read_npz(file, ["x", "z"])
        {'x': array([0, 1, 2])}
    """
    with _opened(path) as archive:
        entries = _entries(archive)
        return {
            name: _array(archive, entry, name) for name, entry in entries.items() if name in names
        }


def _opened(path: str | Path) -> AbstractContextManager[zipfile.ZipFile]:
    check_regular(path)
    with contextlib.suppress(OSError), open(path, "rb") as file:
        if file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX:
            raise UnreadableError("it is a single array, as numpy.save writes it")
    return opened_zip(path)


def _entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        name = entry.filename.removesuffix(_SUFFIX)
        if name in found:
            raise UnreadableError(f"it holds the array {name} twice")
        found[name] = entry
    return found


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> npt.NDArray[Any]:
    with archive.open(entry) as stream:
        shape, by_columns, dtype = _header(stream, name)
        if dtype.hasobject:
            raise UnreadableError(
                f"its array {name} holds pickled Python objects, which could run code"
            )
        widest = _WIDEST.get(dtype.kind, dtype.itemsize)
        if dtype.kind not in _KINDS or not 0 < dtype.itemsize <= widest:
            raise UnreadableError(f"its array {name} has the type {dtype}, which is not read")
        size, left = math.prod(shape) * dtype.itemsize, entry.file_size - stream.tell()
        if min(shape, default=0) < 0 or size != left:
            raise UnreadableError(
                f"its array {name} says that it has shape {_short(shape)} and type {dtype}, but "
                f"{left:,} bytes are stored for it"
            )
        values = np.empty(size, np.uint8)
        done = 0
        while chunk := stream.read(_CHUNK):
            values[done : done + len(chunk)] = np.frombuffer(chunk, np.uint8)
            done += len(chunk)
    if done != size:
        raise UnreadableError(f"its array {name} ends after {done:,} of {size:,} bytes")
    array: npt.NDArray[Any] = values.view(dtype)
    array = array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def _header(stream: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        return _HEADERS[np.lib.format.read_magic(stream)](stream)
    except _BROKEN_HEADER as error:
        raise UnreadableError(
            f"its array {name} does not begin as numpy writes arrays ({one_line(error)})"
        ) from error


def _short(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape[:4]))}{', ...' * (len(shape) > 4)})"
