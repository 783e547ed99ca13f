"""Whether a value that was read from a file has the types that its class states."""

from __future__ import annotations

import itertools
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union

import numpy as np

__all__ = ["check_blocks", "check_types", "check_within"]

_PLAIN = (bool, int, float, str)


def check_types(value: Any) -> None:
    """Hold every field of a frozen dataclass, and of those within it, against its annotation.

    JSON has no nan: where a number may be undefined, a class states that it may be None, or makes
    nan of None before.

    Args:
        value: A dataclass that was made of what a file holds.

    Raises:
        TypeError: If a field is of another type than its class states.

    Example:
        >>> from ensemble_view.study.provenance import Cost
        >>> check_types(Cost(3, 4, "many"))
        Traceback (most recent call last):
        ...
        TypeError: batches of Cost is a str, expected int
    """
    hints = typing.get_type_hints(type(value))
    for field in fields(value):
        held, stated = getattr(value, field.name), hints.get(field.name, Any)
        if not _fits(held, stated):
            name = getattr(stated, "__name__", stated)
            raise TypeError(
                f"{field.name} of {type(value).__name__} is a {type(held).__name__}, expected "
                f"{name}"
            )


def check_within(
    what: str, values: Iterable[float | None], low: float = 0.0, high: float = 1.0
) -> None:
    """Hold numbers against the ends of what they can be.

    Args:
        what: What they are.
        values: Those that are None or nan are undefined, and pass.
        low: The least.
        high: The largest.

    Raises:
        ValueError: If one is beyond either.

    Example:
        >>> check_within("a share", [0.5, None, 1.5])
        Traceback (most recent call last):
        ...
        ValueError: a share is 1.5, expected 0 to 1
    """
    for value in values:
        if value is not None and (value < low or value > high):
            ends = f"{low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"
            raise ValueError(f"{what} is {value}, expected {ends}")


def check_blocks(indices: Iterable[int], count: int) -> None:
    """Hold the indices of blocks against how many blocks there are.

    Args:
        indices: Each block's, in the order of the net.
        count: How many blocks the net has.

    Raises:
        ValueError: If one is no block of the net, or they are not in order.

    Example:
        >>> check_blocks([0, 2, 3], 3)
        Traceback (most recent call last):
        ...
        ValueError: the block is 3, expected 0 to 2
    """
    found = list(indices)
    check_within("the block", found, 0, count - 1)
    if any(later <= earlier for earlier, later in itertools.pairwise(found)):
        raise ValueError(f"the blocks are {found}, expected each once and in order")


def _fits(value: Any, stated: Any) -> bool:
    """Say whether a value is what is stated; what is within it is checked as far as it is told."""
    if is_dataclass(value) and not isinstance(value, type):
        check_types(value)
    origin, arguments = typing.get_origin(stated), typing.get_args(stated)
    if stated is Any or isinstance(stated, TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if stated is None or stated is types.NoneType:
        return value is None
    if stated in _PLAIN:
        return _is_plain(value, stated)
    if origin is np.ndarray:
        return isinstance(value, np.ndarray) and _has_type(value, arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(_fits(each, arguments[0]) for each in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(key, arguments[0]) and _fits(each, arguments[1]) for key, each in value.items()
        )
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, Sequence) and all(_fits(each, arguments[0]) for each in value)
    return not isinstance(stated, type) or isinstance(value, stated)


def _is_plain(value: Any, stated: type) -> bool:
    if stated is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if stated is int:
        return isinstance(value, int | np.integer) and not isinstance(value, bool)
    return isinstance(value, stated)


def _has_type(value: np.ndarray[Any, Any], arguments: tuple[Any, ...]) -> bool:
    """Say whether an array holds what its annotation, NDArray[TYPE], says."""
    scalar = next(iter(typing.get_args(arguments[-1])), Any) if arguments else Any
    if not (isinstance(scalar, type) and issubclass(scalar, np.generic)):
        return value.dtype.kind in "biuf"
    return bool(np.can_cast(value.dtype, scalar, "same_kind"))
