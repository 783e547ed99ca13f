"""A folder that holds one whole result: staged, committed by one rename, verified when read.

What is to be saved is first written into a hidden folder within the target, so that it lies on the
same file system. One rename of that folder then commits it; only after that are the files moved to
their places, the record last. A process killed before the commit leaves the old result as it was;
one killed after it leaves files in two places, of which the committed record says by their digests
which belong together, and the next save moves the rest. Files of others in the target stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from ensemble_view.study.files import ResultError, writing

# Elsewhere than on POSIX systems saves of two processes into one folder may meet.
fcntl: Any = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None

__all__ = [
    "DIGESTS",
    "RECORD",
    "check_free",
    "commit",
    "mismatch",
    "prepare",
    "record_digest",
    "record_in",
    "sealed",
    "undisturbed",
    "whole_result",
]

RECORD: Final = "results.json"
DIGESTS: Final = "digests"
"""The key of the record under which the SHA-256 digest of every file stands, its own included."""

_STAGED: Final = ".saving-"
_COMMITTED: Final = ".saved"
_STALE_SECONDS: Final = 24 * 3600
_READINGS: Final = 20

ValueT = TypeVar("ValueT")


def check_free(folder: Path, *, overwrite: bool, names: Sequence[str] = ()) -> None:
    """Refuse a folder that holds a result already, unless it is to be replaced.

    Args:
        folder: where a result is to go; need not exist.
        overwrite: whether what is there may be replaced.
        names: further files that would be written.

    Raises:
        ResultError: if something is there and may not, or cannot, be replaced.

    Example:
        >>> check_free(Path("nowhere"), overwrite=False)
    """
    for name in (RECORD, _COMMITTED, *names):
        with writing(folder):
            there = os.path.lexists(folder / name)
        if not there:
            continue
        if name != _COMMITTED and os.path.isdir(folder / name):
            raise ResultError(
                f"{folder / name} cannot be written (it is a folder); expected a folder that may "
                "be written to; choose another one."
            )
        if not overwrite:
            held = "a result" if name in (RECORD, _COMMITTED) else f"a file {name}"
            raise ResultError(
                f"{folder} holds {held} already; expected a folder without one; give another "
                "folder, or replace it with --overwrite or save(folder, overwrite=True)."
            )


def prepare(folder: Path, *, overwrite: bool) -> None:
    """Find out before the work whether a result can be saved after it.

    Args:
        folder: where it is to go; made if missing.
        overwrite: whether a result that is there may be replaced.

    Raises:
        ResultError: if the folder cannot be written to, or holds a result already.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     prepare(Path(folder, "lesions"), overwrite=False)
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    check_free(folder, overwrite=overwrite)
    with writing(folder), tempfile.TemporaryFile(dir=folder):
        pass


def commit(
    folder: Path,
    record: Mapping[str, Any],
    writers: Mapping[str, Callable[[Path], None]],
    write_record: Callable[[Path, Mapping[str, Any]], None],
    *,
    overwrite: bool,
    also: Sequence[str] = (),
    keep: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write files and the record that says their digests, all or nothing.

    Args:
        folder: made if missing.
        record: what the record says beside the digests.
        writers: by name, what writes a file at a path.
        write_record: writes the record.
        overwrite: whether files of the same names, and the result that is there, are replaced.
        also: names that a later commit will write, so that a conflict is found now.
        keep: digests of files that an earlier commit of the same result wrote.

    Returns:
        The digests of all files but the record, by name.

    Raises:
        ResultError: if the folder cannot be written to, or holds what may not be replaced.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f"{_STAGED}{secrets.token_hex(8)}"
    with _locked(folder) as is_locked:
        check_free(folder, overwrite=overwrite, names=[*writers, *also])
        with writing(folder):
            _finish(folder)
            _remove_stale(folder, is_locked)
            is_other = keep is not None and not _is_current(folder, sealed(record, keep))
        if is_other:
            raise ResultError(
                f"Another result was saved into {folder} in the meantime; expected a folder for "
                "each result; save this one into another folder."
            )
        try:
            with writing(folder):
                staged.mkdir()
            digests = dict(keep or {})
            for name, write in writers.items():
                with writing(folder / name):
                    write(staged / name)
                    _to_disk(staged / name)
                    digests[name] = _digest(staged / name)
            write_record(staged / RECORD, sealed(record, digests))
            with writing(folder):
                _to_disk(staged / RECORD)
                _to_disk(staged)
                os.rename(staged, folder / _COMMITTED)
        except BaseException as error:
            shutil.rmtree(staged, ignore_errors=True)
            if isinstance(error, ResultError):
                told = str(error).replace(f"{staged}{os.sep}", f"{folder}{os.sep}")
                raise ResultError(told) from error
            raise
        with writing(folder):
            _to_disk(folder)
            _finish(folder)
    return digests


def sealed(record: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    """Add the digests to a record, its own among them.

    Args:
        record: plain JSON values.
        digests: of the other files, by name.

    Returns:
        The record as it is written.

    Example:
        >>> written = sealed({"kind": "lesion"}, {"lesion.csv": "ab12"})
        >>> sorted(written["digests"])
        ['lesion.csv', 'results.json']
    """
    bare = {key: value for key, value in record.items() if key != DIGESTS}
    return {**bare, DIGESTS: {**digests, RECORD: record_digest(bare)}}


def record_digest(record: Mapping[str, Any]) -> str:
    """Compute the SHA-256 digest of what a record says, whatever the layout of its file.

    Args:
        record: plain JSON values; the digests that it holds do not count.

    Returns:
        The digest in hexadecimal digits.

    Example:
        >>> record_digest({"n": 3, "kind": "lesion"}) == record_digest({"kind": "lesion", "n": 3})
        True
    """
    bare = {key: value for key, value in record.items() if key != DIGESTS}
    text = json.dumps(bare, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def mismatch(folder: Path, record: Mapping[str, Any]) -> str | None:
    """Say which file is not the one that was saved with a record.

    Args:
        folder: with the files; a figure or table that was removed is not missed.
        record: the content of ``results.json``.

    Returns:
        A sentence; None where every file is as it was saved, or the record has no digests.
    """
    digests = record.get(DIGESTS)
    if digests is None:
        return None
    if not isinstance(digests, dict) or not all(map(_is_name, digests)):
        return f"The digests in {folder / RECORD} are not digests of files by name"
    for name, digest in digests.items():
        if name == RECORD:
            if record_digest(record) != digest:
                return f"{folder / RECORD} was changed after it was saved"
        elif os.path.exists(folder / name) and not _is(folder / name, digest):
            return f"{folder / name} is not the file that was saved with {RECORD}"
    return None


@contextmanager
def whole_result(
    folder: Path, read: Callable[[Path], dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], Path]]:
    """Find the files of one whole result, also where a save was cut short.

    Args:
        folder: that a result was saved to.
        read: reads and checks the record at a path.

    Yields:
        The record, and a folder in which its files lie; nothing in ``folder`` is changed.
    """
    pending = folder / _COMMITTED / RECORD
    if not os.path.isfile(pending):
        yield read(folder / RECORD), folder
        return
    content = read(pending)
    with tempfile.TemporaryDirectory(prefix="ensemble-view-") as assembled:
        _assemble(folder, content, Path(assembled))
        yield content, Path(assembled)


def record_in(folder: Path) -> Path:
    """Find the record of a folder's result, also where a save was cut short.

    Args:
        folder: that a result was saved to.

    Returns:
        Its path; where there is none, that at which it was to be.
    """
    pending = folder / _COMMITTED / RECORD
    return pending if os.path.isfile(pending) else folder / RECORD


def undisturbed(folder: Path, read: Callable[[], ValueT]) -> ValueT:
    """Read from a folder, again where a save at the same time has come in between.

    Args:
        folder: that a result was saved to.
        read: raises a ResultError where the files do not fit together.

    Returns:
        What was read.

    Raises:
        ResultError: if the files do not fit together, and nobody is saving.
    """
    for _ in range(_READINGS):
        before = _state(folder)
        try:
            return read()
        except ResultError:
            if _state(folder) == before:
                raise
    raise ResultError(
        f"Results are being saved into {folder} one after another; expected a folder for each "
        "result; load it when they are done."
    )


def _state(folder: Path) -> tuple[tuple[int, int] | None, ...]:
    """What any save changes: which files the record, and what is committed but not moved, are."""
    found: list[tuple[int, int] | None] = []
    for path in (folder / RECORD, folder / _COMMITTED):
        try:
            stat = path.stat()
            found.append((stat.st_ino, stat.st_mtime_ns))
        except (OSError, ValueError):
            found.append(None)
    return tuple(found)


def _is_current(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether a folder holds this record."""
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return bool(found[DIGESTS] == record[DIGESTS])
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _assemble(folder: Path, content: Mapping[str, Any], into: Path) -> None:
    """Copy the files that a committed record names from the two places in which they may lie."""
    digests = content.get(DIGESTS)
    for name, digest in (digests if isinstance(digests, dict) else {}).items():
        for place in (folder / _COMMITTED, folder):
            if name != RECORD and _is_name(name) and _is(place / name, digest):
                with contextlib.suppress(OSError):
                    shutil.copyfile(place / name, into / name)
                    break


def _finish(folder: Path) -> None:
    """Move what was committed to its place, the record last; does nothing twice."""
    committed = folder / _COMMITTED
    if not committed.is_dir():
        return
    if (committed / RECORD).is_file():
        _remove_replaced(folder, committed / RECORD)
    names = sorted((path.name for path in committed.iterdir()), key=lambda name: name == RECORD)
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.replace(committed / name, folder / name)
    _to_disk(folder)
    with contextlib.suppress(OSError):
        committed.rmdir()


def _remove_replaced(folder: Path, record: Path) -> None:
    """Remove the files of the result that was there which the new one does not have."""
    try:
        old = json.loads((folder / RECORD).read_text(encoding="utf-8"))[DIGESTS]
        new = json.loads(record.read_text(encoding="utf-8"))[DIGESTS]
        gone = [name for name in old if _is_name(name) and name not in new]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    for name in gone:
        # What somebody edited is theirs.
        if _is(folder / name, old[name]):
            (folder / name).unlink(missing_ok=True)


def _remove_stale(folder: Path, is_locked: bool) -> None:
    """Remove what saves that were killed before their commit have left."""
    for path in folder.glob(f"{_STAGED}*"):
        with contextlib.suppress(OSError):
            # Who holds the lock is alone; else only age tells that a save is dead.
            if is_locked or time.time() - path.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(path)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Let one process at a time save into a folder, where the file system has locks."""
    if fcntl is None:
        yield False
        return
    with writing(folder):
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            is_locked = True
        except OSError:
            is_locked = False
        yield is_locked
    finally:
        os.close(handle)


def _to_disk(path: Path) -> None:
    """Have a file's or folder's content written before what comes next."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        # Not every system can do this of a folder; a file's failure is a failure.
        if not path.is_dir():
            raise


def _is_name(name: object) -> bool:
    """Whether this names a file in a folder, and nothing outside it."""
    return isinstance(name, str) and Path(name).name == name not in ("", "..") and "\0" not in name


def _is(path: Path, digest: object) -> bool:
    try:
        return os.path.isfile(path) and _digest(path) == digest
    except OSError:
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
