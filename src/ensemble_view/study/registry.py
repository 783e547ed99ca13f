"""The studies that there are, by their verbs, and their results, by their kinds.

Each is a class, or ``"module:class"``, which is imported when it is needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ensemble_view.errors import MeasurementError

if TYPE_CHECKING:
    from ensemble_view.study.result import StudyResult
    from ensemble_view.study.study import Study

__all__ = ["names", "register", "register_results", "result_of_kind", "study_named"]

_studies: dict[str, Any] = {}
_results: dict[str, Any] = {}


def register(study: type[Study[Any]] | str, name: str | None = None) -> None:
    """Add a study: to the command line, and to what :func:`study_named` finds.

    Args:
        study: The class, or ``"module:class"``.
        name: Its verb; by default what the class says.

    Raises:
        MeasurementError: If a string comes without a name.
    """
    if name is None:
        if isinstance(study, str):
            raise MeasurementError(f"{study} comes without a name; say name=, the study's verb.")
        name = study.name
    _studies[name] = study


def register_results(results: Mapping[str, type[StudyResult] | str]) -> None:
    """Add results, so that :func:`ensemble_view.load` knows them.

    Args:
        results: By the kind that their records have: the class, or ``"module:class"``.
    """
    _results.update(results)


def names() -> tuple[str, ...]:
    """Give the verbs of all studies, in the order in which they were registered.

    Returns:
        The names.

    Example:
        >>> names()[:3]
        ('lesion', 'random', 'reorder')
    """
    importlib.import_module("ensemble_view.studies")
    return tuple(_studies)


def study_named(name: str) -> type[Study[Any]]:
    """Find a study by its verb.

    Args:
        name: ``"pairs"``, for example.

    Returns:
        The class.

    Raises:
        MeasurementError: If there is none.

    Example:
        >>> study_named("pairs").__name__
        'PairsStudy'
    """
    if name not in names():
        raise MeasurementError(f"There is no study {name!r}; expected {', '.join(names())}.")
    found: type[Study[Any]] = _imported(_studies[name])
    return found


def result_of_kind(kind: object) -> type[StudyResult] | None:
    """Find the class of a result by the kind that its record has.

    Args:
        kind: Of a record.

    Returns:
        The class; None if no study gives such results.
    """
    importlib.import_module("ensemble_view.studies")
    found: type[StudyResult] | None = (
        _imported(_results[kind]) if isinstance(kind, str) and kind in _results else None
    )
    return found


def _imported(found: Any) -> Any:
    if isinstance(found, str):
        module, _, name = found.partition(":")
        return getattr(importlib.import_module(module), name)
    return found
