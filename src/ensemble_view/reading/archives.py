"""Zip archives whose directory is held against the bytes that really lie in the file."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ensemble_view.errors import UnreadableError
from ensemble_view.reading.regular import check_regular, one_line

__all__ = ["BROKEN", "check_zip", "is_zip", "opened_zip", "zip_names"]

BROKEN = (
    OSError,
    ValueError,
    EOFError,
    RuntimeError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What ``zipfile`` raises for damaged, encrypted or unknown content."""

_ENCRYPTED = 0x1
# Deflate packs 1,032 bytes into one at most.
_DENSEST = 1032
_UNPACKED_AT_ONCE = 2**28
_USUAL = 200


def is_zip(path: str | Path) -> bool:
    """Say whether a file looks like a zip archive, without ever waiting for it.

    Args:
        path: Any.

    Returns:
        False also where there is no such file.

    Example:
        >>> is_zip("."), is_zip("/dev/zero")
        (False, False)
    """
    try:
        check_regular(path)
        return zipfile.is_zipfile(path)
    except (UnreadableError, *BROKEN):
        return False


@contextmanager
def opened_zip(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive after its directory was checked.

    Args:
        path: The file.

    Yields:
        The archive.

    Raises:
        UnreadableError: If it is none; if an entry is there twice, encrypted, or says that it is
            larger than the bytes stored for it can be; or if the body meets broken content.

    Example:
        >>> with opened_zip("."):
        ...     pass
        Traceback (most recent call last):
        ...
        ensemble_view.errors.UnreadableError: it is a folder, not a file
    """
    size = check_regular(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _check_directory(archive, size)
            yield archive
    except BROKEN as error:
        raise UnreadableError(one_line(error)) from error


def check_zip(path: str | Path) -> None:
    """Check the directory of a zip archive that a library is to read.

    Args:
        path: The file.

    Raises:
        UnreadableError: As for :func:`opened_zip`.

    Example:
        >>> check_zip("/nowhere")
        Traceback (most recent call last):
        ...
        ensemble_view.errors.UnreadableError: No such file or directory
    """
    with opened_zip(path):
        pass


def zip_names(path: str | Path) -> list[str]:
    """List what a zip archive holds.

    Args:
        path: Any file.

    Returns:
        The names of its entries; none where it is no zip archive, or a broken one.

    Example:
        >>> zip_names(".")
        []
    """
    if not is_zip(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except BROKEN:
        return []


def _check_directory(archive: zipfile.ZipFile, size: int) -> None:
    names: set[str] = set()
    stored = 0
    for entry in archive.infolist():
        if entry.filename in names:
            raise UnreadableError(f"its entry {entry.filename} is there twice")
        names.add(entry.filename)
        if entry.flag_bits & _ENCRYPTED:
            raise UnreadableError(f"its entry {entry.filename} is encrypted")
        stored += entry.compress_size
        packed = entry.compress_type != zipfile.ZIP_STORED
        most = entry.compress_size * _DENSEST if packed else entry.compress_size
        if stored > size or entry.file_size > most:
            raise UnreadableError(
                f"its entry {entry.filename} says that it holds {entry.file_size:,} bytes, which "
                f"the {size:,} bytes of the file cannot hold"
            )
        if entry.file_size > max(_UNPACKED_AT_ONCE, _USUAL * entry.compress_size):
            raise UnreadableError(
                f"its entry {entry.filename} would unpack from {entry.compress_size:,} to "
                f"{entry.file_size:,} bytes, more than {_USUAL} times as many"
            )
