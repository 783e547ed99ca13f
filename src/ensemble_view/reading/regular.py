"""What lies at a path, found out without opening it: a named pipe would block whoever opens it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ensemble_view.errors import UnreadableError

__all__ = ["check_folder", "check_regular", "exists", "is_folder", "one_line", "read_text"]

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
_MOST_ENTRIES = 1_000_000
_LONGEST_REASON = 200


def exists(path: str | Path) -> bool:
    r"""Say whether anything lies at a path, whatever the path is.

    Args:
        path: Any text.

    Returns:
        False also where the system takes no such name, or does not let it be looked up.

    Example:
        >>> exists("."), exists("a" * 5000), exists("a\0b")
        (True, False, False)
    """
    try:
        os.stat(path)
    except (OSError, ValueError):
        return False
    return True


def is_folder(path: str | Path) -> bool:
    """Say whether a path is a folder, whatever the path is.

    Args:
        path: Any text.

    Returns:
        False also where the system takes no such name.

    Example:
        >>> is_folder("."), is_folder("a" * 5000)
        (True, False)
    """
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def check_regular(path: str | Path, most: int | None = None) -> int:
    """See to it that a path is a file with content of its own, before it is opened.

    Args:
        path: Of a file; links are followed.
        most: The most bytes that it may have.

    Returns:
        Its size in bytes.

    Raises:
        UnreadableError: If there is none, it is a folder, a named pipe, a socket or a device, or
            larger.

    Example:
        >>> check_regular(".")
        Traceback (most recent call last):
        ...
        ensemble_view.errors.UnreadableError: it is a folder, not a file
    """
    try:
        found = os.stat(path)
    except ValueError as error:
        raise UnreadableError("its name cannot be that of a file") from error
    except OSError as error:
        raise UnreadableError(one_line(error)) from error
    for is_kind, name in _KINDS:
        if is_kind(found.st_mode):
            raise UnreadableError(f"it is {name}, not a file")
    if most is not None and found.st_size > most:
        raise UnreadableError(
            f"it has {found.st_size:,} bytes, and at most {most:,} are read of such a file"
        )
    return found.st_size


def check_folder(folder: str | Path) -> None:
    """See to it that a folder holds nothing but files and folders, before a library opens them.

    Args:
        folder: Whose entries are looked at; those of folders within it are not.

    Raises:
        UnreadableError: If one is a named pipe, a socket or a device, or there are too many.

    Example:
        >>> check_folder("/dev")
        Traceback (most recent call last):
        ...
        ensemble_view.errors.UnreadableError: ... is a device, not a file
    """
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if number == _MOST_ENTRIES:
                    raise UnreadableError(f"it holds more than {_MOST_ENTRIES:,} entries")
                _check_entry(entry)
    except (OSError, ValueError) as error:
        raise UnreadableError(one_line(error)) from error


def _check_entry(entry: os.DirEntry[str]) -> None:
    try:
        mode = entry.stat().st_mode
    except OSError:
        # A link to nothing: to be missed by whoever needs it.
        return
    for is_kind, name in _KINDS[1:]:
        if is_kind(mode):
            raise UnreadableError(f"its entry {entry.name} is {name}, not a file")


def read_text(path: str | Path, most: int) -> str:
    """Read a whole file of text in UTF-8.

    Args:
        path: The file.
        most: The most bytes that it may have.

    Returns:
        Its text.

    Raises:
        UnreadableError: If it is no file, too large, or no UTF-8.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "a.txt")
        ...     _ = file.write_text("two words")
        ...     read_text(file, 9)
        'two words'
    """
    check_regular(path, most)
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise UnreadableError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """Return the reason that an error gives, short enough for the middle of a sentence.

    Args:
        error: Any.

    Returns:
        What the system calls it, or the first line of its message without the full stop.

    Example:
        >>> one_line(ValueError("no number.")), one_line(ValueError())
        ('no number', 'ValueError')
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:_LONGEST_REASON] if lines else type(error).__name__
