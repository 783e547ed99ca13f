"""How many: a range of numbers as it is written on the command line or in Python."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeAlias

from ensemble_view.errors import InterventionError

__all__ = ["Counts", "read_counts"]

Counts: TypeAlias = str | int | Iterable[int]
"""``"1-20"``, ``"1,2,5-9"``, a number, or numbers."""

_LARGEST = 10_000


def read_counts(counts: Counts, what: str) -> tuple[int, ...]:
    """Read numbers above zero.

    Args:
        counts: Numbers, or text: numbers and ranges with both ends, separated by commas.
        what: Is counted, for the message of an error: ``"blocks to delete"``.

    Returns:
        Each once, ascending.

    Raises:
        InterventionError: If there is none, or one is no whole number from 1 to 10,000.

    Example:
        >>> read_counts("1-3,7", "blocks to delete"), read_counts(range(5, 7), "swaps")
        ((1, 2, 3, 7), (5, 6))
    """
    refused = InterventionError(
        f"The numbers of {what} are {counts!r}; expected whole numbers from 1 to {_LARGEST:,}, "
        "such as 1-20 or 1,2,5."
    )
    found: set[int] = set()
    if isinstance(counts, str):
        for item in counts.split(","):
            numbers = re.fullmatch(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?", item)
            if numbers is None:
                raise refused
            first = int(numbers[1])
            last = int(numbers[2]) if numbers[2] else first
            if not first <= last <= _LARGEST:
                raise refused
            found.update(range(first, last + 1))
    else:
        for number in [counts] if isinstance(counts, int) else counts:
            if not isinstance(number, int) or isinstance(number, bool):
                raise refused
            found.add(number)
    if not found or min(found) < 1 or max(found) > _LARGEST:
        raise refused
    return tuple(sorted(found))
