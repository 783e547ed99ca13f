"""The studies that there are, by their verbs; each is imported when it is needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ensemble_view.errors import MeasurementError

if TYPE_CHECKING:
    from ensemble_view.study.study import Study

__all__ = ["names", "register", "study_named"]

_registered: dict[str, type[Study[Any]] | str] = {}


def register(study: type[Study[Any]] | str, name: str | None = None) -> None:
    """Add a study, for the command line and for loading results.

    Args:
        study: The class, or ``"module:class"``, which is imported when it is needed.
        name: Its verb; by default what the class says.

    Raises:
        MeasurementError: If a string comes without a name.
    """
    if isinstance(study, str):
        if name is None:
            raise MeasurementError(f"{study} comes without a name; say name=, the study's verb.")
        _registered[name] = study
    else:
        _registered[name or study.name] = study


def names() -> tuple[str, ...]:
    """Give the verbs of all studies, in the order in which they were registered.

    Returns:
        The names.

    Example:
        >>> names()[:3]
        ('lesion', 'random', 'reorder')
    """
    importlib.import_module("ensemble_view.studies")
    return tuple(_registered)


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
    found = _registered[name]
    if isinstance(found, str):
        module, _, own = found.partition(":")
        found = getattr(importlib.import_module(module), own)
        _registered[name] = found
    return found  # type: ignore[return-value]
