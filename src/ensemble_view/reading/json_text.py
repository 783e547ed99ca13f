"""JSON of bounded size and depth, of characters that every output can hold."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NoReturn

from ensemble_view.errors import UnreadableError
from ensemble_view.reading.regular import one_line, read_text

__all__ = ["MOST_BYTES", "check_plain", "parse_json", "read_json"]

MOST_BYTES = 2**27
"""The most bytes of JSON that are read."""
_DEEPEST = 100
_TOO_DEEP = f"its JSON is nested more than {_DEEPEST} deep"
# A list or object takes 25 times the two letters that write it.
_MOST_CONTAINERS = 4_000_000
_LARGEST = 10**19
_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str, *, strict: bool = False, halves: bool = False) -> Any:
    r"""Read JSON without building more than its size allows.

    Args:
        text: Of any origin.
        strict: Whether NaN and Infinity, which are no JSON, are refused.
        halves: Whether text may hold half of a surrogate pair, as names of files that are no UTF-8
            do.

    Returns:
        Dicts, lists, text, numbers, booleans and None, nested 100 deep at most.

    Raises:
        UnreadableError: If it is no JSON, larger than 128 MiB, nested deeper, or holds half of a
            surrogate pair without leave.

    Example:
        >>> parse_json('{"a": [1, 2]}')
        {'a': [1, 2]}
        >>> parse_json("[" * 100_000)
        Traceback (most recent call last):
        ...
        ensemble_view.errors.UnreadableError: its JSON is nested more than 100 deep
        >>> parse_json('"\\ud800"')
        Traceback (most recent call last):
        ...
        ensemble_view.errors.UnreadableError: it holds half of a surrogate pair, which is no text
    """
    if len(text) > MOST_BYTES or text.count("[") + text.count("{") > _MOST_CONTAINERS:
        raise UnreadableError(
            f"it holds {len(text):,} characters of JSON, and at most {MOST_BYTES:,} in "
            f"{_MOST_CONTAINERS:,} lists and objects are read"
        )
    try:
        content = json.loads(text, parse_constant=_refused if strict else None)
    except RecursionError as error:
        raise UnreadableError(_TOO_DEEP) from error
    except ValueError as error:
        raise UnreadableError(f"it is no JSON: {one_line(error)}") from error
    _check_values(content, not halves and _HALF.search(text) is not None)
    return content


def read_json(path: str | Path, *, strict: bool = False, halves: bool = False) -> Any:
    """Read a file of JSON.

    Args:
        path: The file.
        strict: Whether NaN and Infinity, which are no JSON, are refused.
        halves: Whether text may hold half of a surrogate pair, as names of files that are no UTF-8
            do.

    Returns:
        As for :func:`parse_json`.

    Raises:
        UnreadableError: If it is no file, or cannot be parsed.

    Example:
        >>> read_json(".")
        Traceback (most recent call last):
        ...
        ensemble_view.errors.UnreadableError: it is a folder, not a file
    """
    return parse_json(read_text(path, MOST_BYTES), strict=strict, halves=halves)


def check_plain(content: Any) -> None:
    """Refuse what is no tree of plain JSON values, such as a list that holds itself.

    Args:
        content: Of a file that can hold anything, such as what torch.save wrote.

    Raises:
        UnreadableError: If it holds other values, is nested more than 100 deep, or would take more
            than four million values and letters if all that is there twice were written twice.

    Example:
        >>> loop = []
        >>> loop.append(loop)
        >>> check_plain(loop)
        Traceback (most recent call last):
        ...
        ensemble_view.errors.UnreadableError: its JSON is nested more than 100 deep
    """
    level, size = [content], 0
    for _ in range(_DEEPEST + 1):
        below: list[Any] = []
        for value in level:
            size += 1
            if isinstance(value, dict):
                # Each name counts as a value.
                below.extend(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, str):
                _check_text(value)
                size += len(value)
            elif isinstance(value, int) and abs(value) >= _LARGEST:
                raise UnreadableError("it holds a whole number of more than 19 digits")
            elif value is not None and not isinstance(value, int | float):
                raise UnreadableError(f"it holds a {type(value).__name__}, which JSON has not")
            if size + len(below) > _MOST_CONTAINERS:
                raise UnreadableError(f"it holds more than {_MOST_CONTAINERS:,} values")
        level = below
        if not level:
            return
    raise UnreadableError(_TOO_DEEP)


def _refused(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number of JSON")


def _check_values(content: Any, halves: bool) -> None:
    """Refuse what is nested too deep and, where there may be any, halves of characters."""
    level = [content]
    for _ in range(_DEEPEST + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
                if halves:
                    below.extend(value)
            elif isinstance(value, list):
                below.extend(value)
            elif halves and isinstance(value, str):
                _check_text(value)
        level = below if halves else [each for each in below if isinstance(each, dict | list)]
        if not level:
            return
    raise UnreadableError(_TOO_DEEP)


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UnreadableError("it holds half of a surrogate pair, which is no text") from error
