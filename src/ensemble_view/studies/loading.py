"""Read back any result, whichever study gave it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ensemble_view.study.files import ResultError, kind_of, read_record
from ensemble_view.study.folders import record_in
from ensemble_view.study.registry import kind_named

__all__ = ["load"]


def load(folder: str | Path) -> Any:
    """Read back what any result's ``save``, or ``--out`` of any command, wrote.

    Args:
        folder: With ``results.json``.

    Returns:
        A result equal to the saved one, of the class that the record's kind says.

    Raises:
        ResultError: If the folder holds no result, one of an unknown kind, or files that were
            changed or do not belong together.

    Example:
        >>> load("nowhere")
        Traceback (most recent call last):
        ...
        ensemble_view.study.files.ResultError: There is no results.json in nowhere; ...
    """
    path = record_in(Path(folder))
    kind = kind_of(read_record(path))
    found: Any = kind_named(kind)
    if found is None:
        raise ResultError(
            f"{path} holds a result of kind {kind!r}, which no study here gives; load it with the "
            "release that wrote it, or register its study first."
        )
    return found.result.load(folder)
