"""Whether a value that was read from a file has the types that its class states."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union

import numpy as np

__all__ = ["check_types"]

_PLAIN = (bool, int, float, str)


def check_types(value: Any) -> None:
    """Hold every field of a frozen dataclass, and of those within it, against its annotation.

    A number may be missing (None) where a float is stated, since JSON has no nan.

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
        return value is None or (isinstance(value, float | int) and not isinstance(value, bool))
    if stated is int:
        return isinstance(value, int | np.integer) and not isinstance(value, bool)
    return isinstance(value, stated)


def _has_type(value: np.ndarray[Any, Any], arguments: tuple[Any, ...]) -> bool:
    """Say whether an array holds what its annotation, NDArray[TYPE], says."""
    scalar = next(iter(typing.get_args(arguments[-1])), Any) if arguments else Any
    if not (isinstance(scalar, type) and issubclass(scalar, np.generic)):
        return value.dtype.kind in "biuf"
    return bool(np.can_cast(value.dtype, scalar, "same_kind"))
