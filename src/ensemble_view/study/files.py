"""Files of a result: strict JSON and plain arrays, written and read with clear errors."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import EnsembleViewError, UnreadableError, printable_name
from ensemble_view.reading.arrays import read_npz
from ensemble_view.reading.json_text import read_json as parse_file
from ensemble_view.reading.regular import exists

__all__ = [
    "ResultError",
    "ResultWarning",
    "kind_of",
    "plain",
    "prepare_folder",
    "read_arrays",
    "read_json",
    "read_record",
    "write_arrays",
    "write_json",
    "write_table",
    "write_text",
    "writing",
]


_FORMER_KINDS = {
    "dose and response": "dose",
    "many deletions": "random",
    "power set": "subsets",
    "reorderings": "reorder",
    "surrogates": "additivity",
}


class ResultError(EnsembleViewError):
    """A result cannot be written to or read from a folder."""


class ResultWarning(UserWarning):
    """A result was saved or loaded, but not all of it, or not all of it could be verified."""


def plain(value: Any) -> Any:
    """Reduce a value to what strict JSON can hold: nan and infinities become null.

    Args:
        value: None, a boolean, number, string, path, numpy scalar, or mappings and sequences of
            them.

    Returns:
        The same value in dicts with string keys, lists, strings, numbers, booleans and None.

    Raises:
        ResultError: if something else is in it.

    Example:
        >>> plain({"mean": (0.5, float("nan"))})
        {'mean': [0.5, None]}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    raise ResultError(
        f"A result's record holds a {type(value).__name__}, which JSON cannot hold; expected "
        "numbers, strings, lists and dicts; describe the value by those."
    )


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's complaints about a file or folder into one clear sentence.

    Args:
        path: the file or folder that the body writes.

    Yields:
        Nothing.

    Raises:
        ResultError: if the body raises an ``OSError``.

    Example:
        >>> with writing(Path("out")):
        ...     raise PermissionError(13, "Permission denied")
        Traceback (most recent call last):
        ...
        ensemble_view.study.files.ResultError: out cannot be written (Permission denied); ...
    """
    try:
        yield
    except OSError as error:
        raise ResultError(
            f"{path} cannot be written ({error.strerror or error}); expected a folder that may be "
            "written to; choose another one."
        ) from error


def prepare_folder(folder: Path) -> None:
    """Make a folder, with its parents, if it is not there.

    Args:
        folder: where files are to be written.

    Raises:
        ResultError: if it cannot be made.

    Example:
        >>> prepare_folder(Path("."))
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    r"""Write strict JSON: no nan, one key per line, in the order given.

    Args:
        path: the file.
        content: what to write.

    Raises:
        ResultError: if the file cannot be written or the content is not plain.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_json(Path(folder, "results.json"), {"n": 3})
        ...     Path(folder, "results.json").read_text()
        '{\n "n": 3\n}\n'
    """
    text = json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False)
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8.

    Args:
        path: the file.
        text: its content.

    Raises:
        ResultError: if the file cannot be written.

    Example:
        >>> write_text(Path("nowhere/a.csv"), "a,b")
        Traceback (most recent call last):
        ...
        ensemble_view.study.files.ResultError: nowhere/a.csv cannot be written ...
    """
    with writing(path):
        # Half of a surrogate pair is in no Unicode text, but may be in a file's or module's name.
        path.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_table(path: Path, frame: pd.DataFrame) -> None:
    r"""Write a table as CSV, in which no text is taken for a formula.

    Text that begins as a formula of a spreadsheet does, and is no number, gets an apostrophe before
    it; control characters in text are written out as escapes.

    Args:
        path: the file.
        frame: the table, without its index.

    Raises:
        ResultError: if the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_table(Path(folder, "a.csv"), pd.DataFrame({"block": ["3"], "drop": [0.5]}))
        ...     Path(folder, "a.csv").read_text()
        'block,drop\n3,0.5\n'
    """
    shown = frame.copy()
    for name in shown.columns:
        if not pd.api.types.is_numeric_dtype(shown[name].dtype):
            shown[name] = [_harmless(each) for each in frame[name]]
    shown.columns = [_harmless(each) for each in frame.columns]
    write_text(path, shown.to_csv(index=False, lineterminator="\n"))


def _harmless(cell: Any) -> Any:
    """Escape a text cell that a spreadsheet would run."""
    if not isinstance(cell, str):
        return cell
    text = printable_name(cell)
    # A tab or line break at the beginning is no longer one, but is an attempt all the same.
    if not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) or _is_number(cell):
        return text
    return f"'{text}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON file of this package.

    Args:
        path: the file.

    Returns:
        The file's content.

    Raises:
        ResultError: if the file is missing, or no JSON object.

    Example:
        >>> read_record(Path("nowhere/results.json"))
        Traceback (most recent call last):
        ...
        ensemble_view.study.files.ResultError: There is no results.json in nowhere; ...
    """
    if not exists(path):
        raise ResultError(
            f"There is no {path.name} in {path.parent}; expected a folder that a result was saved "
            "to; give the folder of --out or of save()."
        )
    try:
        content = parse_file(path, strict=True, halves=True)
    except UnreadableError as error:
        raise ResultError(
            f"{path} cannot be read ({error}); expected the JSON that save() wrote; check the "
            "path, or run the study again."
        ) from error
    return content if isinstance(content, dict) else {}


def kind_of(record: Mapping[str, Any]) -> Any:
    """Give the kind that a record has, by the name of today.

    Args:
        record: Of a result.

    Returns:
        The kind.

    Example:
        >>> kind_of({"kind": "power set"})
        'subsets'
    """
    kind = record.get("kind")
    return _FORMER_KINDS.get(kind, kind) if isinstance(kind, str) else kind


def read_json(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Read a JSON file of this package and check what it says it is.

    Args:
        path: the file.
        kind: the value expected under ``kind``.
        version: the value expected under ``version``.

    Returns:
        The file's content.

    Raises:
        ResultError: if the file is missing, no JSON, of another kind, or of another version.

    Example:
        >>> read_json(Path("nowhere/results.json"), "lesion", 1)
        Traceback (most recent call last):
        ...
        ensemble_view.study.files.ResultError: There is no results.json in nowhere; ...
    """
    content = read_record(path)
    found = kind_of(content)
    if found != kind:
        raise ResultError(
            f"{path} holds a result of kind {found!r}; expected {kind!r}; load it with the class "
            "that wrote it."
        )
    if content.get("version") != version:
        raise ResultError(
            f"{path} is of version {content.get('version')!r}; expected version {version}; load it "
            "with the release of ensemble_view that wrote it, or run the study again."
        )
    return dict(content)


def write_arrays(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write arrays to one compressed ``.npz`` file.

    Args:
        path: the file.
        arrays: arrays of numbers or booleans by name.

    Raises:
        ResultError: if the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_arrays(Path(folder, "a.npz"), {"x": np.arange(3)})
        ...     read_arrays(Path(folder, "a.npz"), ["x"])
        {'x': array([0, 1, 2])}
    """
    with writing(path), path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path, names: list[str]) -> dict[str, npt.NDArray[Any]]:
    """Read arrays by name from a ``.npz`` file, never unpickling.

    Args:
        path: the file.
        names: the arrays wanted.

    Returns:
        The arrays by name.

    Raises:
        ResultError: if the file is missing, damaged, or lacks an array.

    Example:
        >>> read_arrays(Path("nowhere.npz"), ["x"])
        Traceback (most recent call last):
        ...
        ensemble_view.study.files.ResultError: nowhere.npz cannot be read ...
    """
    try:
        found = read_npz(path, names)
    except UnreadableError as error:
        raise ResultError(
            f"{path} cannot be read ({error}); expected the arrays that save() wrote; run the "
            "study again."
        ) from error
    missing = [name for name in names if name not in found]
    if missing:
        raise ResultError(
            f"{path} lacks the array {missing[0]}; expected {', '.join(names)}; run the study "
            "again."
        )
    return {name: found[name] for name in names}
