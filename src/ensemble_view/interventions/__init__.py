"""Interventions: small frozen values that say what to change in a chain, whichever chain it is.

An intervention acts on an :class:`Arrangement`: which blocks run at each place, and what is done
with each. ``|`` composes: ``Delete(3) | Swap(7, 8)`` deletes block 3, then exchanges 7 and 8. A
block keeps its number wherever it is moved, and what is done with it goes along. Blocks are named
by index from 0 or by module path, with the wildcards of :mod:`fnmatch` (``"layer3.*"``); from block
i to block j means the places from where i runs to where j runs. ``repr`` writes an intervention as
in Python, ``str`` as on the command line (:func:`parse_interventions`).
"""

from __future__ import annotations

from ensemble_view.errors import InterventionError
from ensemble_view.interventions.arrangement import Arrangement, Treatment
from ensemble_view.interventions.base import Compose, Intervention, Written
from ensemble_view.interventions.branches import Delete, DropShortcut, Keep, Replace, Scale
from ensemble_view.interventions.places import (
    MiddleRepeat,
    Parallel,
    Reorder,
    Repeat,
    Reverse,
    Swap,
)
from ensemble_view.interventions.text import BlockName, format_blocks, parse_blocks

__all__ = [
    "Arrangement",
    "BlockName",
    "Compose",
    "Delete",
    "DropShortcut",
    "Intervention",
    "Keep",
    "MiddleRepeat",
    "Parallel",
    "Reorder",
    "Repeat",
    "Replace",
    "Reverse",
    "Scale",
    "Swap",
    "Treatment",
    "format_blocks",
    "parse_blocks",
    "parse_interventions",
]

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
