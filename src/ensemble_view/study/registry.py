"""The studies that there are, by their verbs, and their results, by their kinds.

What is registered is a class or function, or ``"module:name"``, which is imported when it is
needed: so results know neither their figures nor their words, which both know the results. The
studies of the package are registered as :mod:`ensemble_view.studies` is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ensemble_view.errors import MeasurementError

__all__ = ["Kind", "kind_named", "names", "register", "register_results", "study_named"]


@dataclass(frozen=True)
class Kind:
    """A kind of result, and who draws it and puts it into words.

    Args:
        result: The class.
        figure: From a result to a matplotlib figure.
        words: The module with ``table`` and ``summary``, where the class has none of its own.
        caption: What the marks and bars of the figure are, for the text below it.
    """

    result: type[Any] | str
    figure: Callable[[Any], Any] | str | None = None
    words: str | None = None
    caption: str = ""


_studies: dict[str, Any] = {}
_kinds: dict[str, Kind] = {}


def register(study: type[Any] | str, name: str | None = None) -> None:
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


def register_results(results: Mapping[str, Kind]) -> None:
    """Add kinds of results, so that :func:`ensemble_view.load` and ``plot`` know them.

    Args:
        results: By the kind that their records have.
    """
    _kinds.update(results)


def names() -> tuple[str, ...]:
    """Give the verbs of all studies, in the order in which they were registered.

    Returns:
        The names.

    Example:
        >>> import ensemble_view.studies
        >>> names()[:3]
        ('lesion', 'random', 'reorder')
    """
    return tuple(_studies)


def study_named(name: str) -> type[Any]:
    """Find a study by its verb.

    Args:
        name: ``"pairs"``, for example.

    Returns:
        The class.

    Raises:
        MeasurementError: If there is none.

    Example:
        >>> import ensemble_view.studies
        >>> study_named("pairs").__name__
        'PairsStudy'
    """
    if name not in names():
        raise MeasurementError(f"There is no study {name!r}; expected {', '.join(names())}.")
    found: type[Any] = _imported(_studies[name])
    return found


def kind_named(name: object) -> Kind | None:
    """Find what is known of a kind of result.

    Args:
        name: The kind that a record has.

    Returns:
        With everything imported; None if no study gives such results.

    Example:
        >>> import ensemble_view.studies
        >>> kind_named("pairs").result.__name__
        'PairsResult'
    """
    found = _kinds.get(name) if isinstance(name, str) else None
    if found is None:
        return None
    return replace(
        found,
        result=_imported(found.result),
        figure=_imported(found.figure),
        words=_imported(found.words),
    )


def _imported(found: Any) -> Any:
    if not isinstance(found, str):
        return found
    module, _, name = found.partition(":")
    imported = importlib.import_module(module)
    return getattr(imported, name) if name else imported
