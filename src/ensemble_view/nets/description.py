"""What a file of this package says beside its weights: each field's type, range and size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ensemble_view.errors import CheckpointError, UnreadableError
from ensemble_view.reading.json_text import check_plain

__all__ = ["VERSION", "read_description"]

VERSION = 1
"""Of the format."""

_LONGEST_NAME = 4096
_LONGEST_OPTION = 2**21
_MOST_NAMES = 1_000_000
_MOST_OPTIONS = 1_000
_LARGEST_SIDE = 2**16
# A batch of two such images takes a gigabyte and a half.
_MOST_PIXELS = 2**26 * 3
_MOST_CHANNELS = 4096


def read_description(content: Any, path: Path) -> dict[str, Any]:
    """Check what a file says, whatever it is: nothing of it is trusted to be what it should be.

    Args:
        content: What lies under this package's key.
        path: The file, for messages.

    Returns:
        The same; fields of other versions of this package stay in.

    Raises:
        CheckpointError: If it is damaged, or of another version of the format.

    Example:
        >>> read_description({"version": 1, "input_shape": [3, 32, "many"]}, Path("net.pt"))
        Traceback (most recent call last):
        ...
        ensemble_view.errors.CheckpointError: The description in net.pt is damaged: input_shape ...
    """
    try:
        check_plain(content)
    except UnreadableError as error:
        raise CheckpointError(
            f"The description in {path} is damaged ({error}): expected plain values as "
            "ensemble_view writes them; save the net again."
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(
            f"The description in {path} is damaged: expected names and values as ensemble_view "
            f"writes them, found a {type(content).__name__}; save the net again."
        )
    described: dict[str, Any] = content
    version = described.get("version")
    if version != VERSION or isinstance(version, bool):
        raise CheckpointError(
            f"{path} is of version {_short(version)} of this format, this program reads version "
            f"{VERSION}: install a newer ensemble_view."
        )
    for name, (is_valid, expected) in _FIELDS.items():
        value = described.get(name)
        if value is not None and not is_valid(value):
            raise CheckpointError(
                f"The description in {path} is damaged: {name} is {_short(value)}, expected "
                f"{expected}; save the net again."
            )
    return described


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= _MOST_NAMES
        and all(isinstance(name, str) and len(name) <= _LONGEST_NAME for name in value)
    )


def _is_whole(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= 4
        and all(_is_whole(side, 1, _LARGEST_SIDE) for side in value)
        and math.prod(value) <= _MOST_PIXELS
    )


def _are_numbers(value: Any, *, positive: bool) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= _MOST_CHANNELS
        and all(
            isinstance(number, int | float)
            and not isinstance(number, bool)
            and abs(number) < 1e30
            and (number > 0 or not positive)
            for number in value
        )
    )


def _is_normalisation(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and _are_numbers(value.get("mean"), positive=False)
        and _are_numbers(value.get("std"), positive=True)
        and len(value["mean"]) == len(value["std"])
    )


def _is_architecture(value: Any) -> bool:
    if isinstance(value, str):
        return _is_name(value)
    options = value.get("options", {}) if isinstance(value, dict) else None
    return (
        isinstance(options, dict)
        and all(isinstance(option, str) for option in options)
        and _is_name(value.get("name"))
        and _is_name(value.get("family", "cifar"))
        and len(options) <= _MOST_OPTIONS
        and all(_is_option(option) for option in options.values())
    )


def _is_option(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= _LONGEST_OPTION
    return _is_whole(value, -(2**31), 2**31)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "architecture": (_is_architecture, "a name, options and a family"),
    "normalisation": (
        _is_normalisation,
        "mean and std, a finite number per channel each, those of std above zero",
    ),
    "data": (_is_name, f"a name of 1 to {_LONGEST_NAME:,} letters"),
    "class_names": (_are_names, "a list of names"),
    "input_shape": (_is_shape, "1 to 4 whole numbers above zero, such as 3, 32, 32"),
    "training": (_is_object, "names and values"),
    "extraction": (_is_object, "names and values"),
}
