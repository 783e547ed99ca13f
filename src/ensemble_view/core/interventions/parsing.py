"""Read interventions as they are written on the command line."""

from __future__ import annotations

from ensemble_view.core.interventions.base import Compose, Intervention, Written
from ensemble_view.core.interventions.branches import Delete, DropShortcut, Keep, Replace, Scale
from ensemble_view.core.interventions.places import (
    MiddleRepeat,
    Parallel,
    Reorder,
    Repeat,
    Reverse,
    Swap,
)
from ensemble_view.errors import InterventionError

__all__ = ["parse_interventions"]

_VERBS: dict[str, type[Written]] = {
    kind.__name__.lower(): kind
    for kind in (
        Delete, Keep, Scale, DropShortcut, Replace, Repeat, Swap, Reorder, Reverse, MiddleRepeat,
        Parallel,
    )
}  # fmt: skip


def parse_interventions(text: str) -> Compose:
    """Read interventions as they are written on the command line.

    Args:
        text: Names in lower case, each with its arguments, separated by semicolons.

    Returns:
        The interventions, one after another.

    Raises:
        InterventionError: If a name is not known, or its arguments cannot be read.

    Example:
        >>> parse_interventions("delete 3,7-9; swap 7 8; scale 4 0.5; replace 5 mean")
        Delete(3, 7, 8, 9) | Swap(7, 8) | Scale(4, 0.5) | Replace(5, 'mean')
    """
    return Compose(tuple(_parse(part.strip()) for part in text.split(";")))


def _parse(text: str) -> Intervention:
    verb, *words = text.split() or [""]
    kind = _VERBS.get(verb.lower())
    if kind is None:
        raise InterventionError(
            f"{text!r} is no intervention; write one of {', '.join(_VERBS)} with its arguments, "
            'several separated by semicolons: "delete 3; swap 7 8".'
        )
    try:
        return kind.parse(words)
    except (ValueError, TypeError):
        raise InterventionError(
            f"{text!r} cannot be read; write {kind.__name__.lower()} {kind.usage}."
        ) from None
