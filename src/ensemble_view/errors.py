"""The errors that this package raises on purpose, and text that a terminal shows as it is.

An error says what was found, what was expected, and what to do.
"""

from __future__ import annotations

import re
import sys
import warnings
from types import FrameType

__all__ = [
    "CheckpointError",
    "DataError",
    "DiscoveryError",
    "EnsembleViewError",
    "InterventionError",
    "MeasurementError",
    "MeasurementWarning",
    "UnreadableError",
    "printable",
    "printable_name",
    "warn",
]


# C0 and C1 controls, half surrogates, and what reverses or hides the text around it.
_ODD = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
_IN_TEXT = re.compile(f"[{_ODD}]")
_IN_NAME = re.compile(f"[{_ODD}\t\n]")


class EnsembleViewError(Exception):
    """Base of every error that is the user's to mend; the command line prints no traceback.

    As text, control characters of names that it quotes are written out as escapes.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class CheckpointError(EnsembleViewError):
    """A model file cannot be read, trusted, or fitted to an architecture."""


class DataError(EnsembleViewError):
    """A data set cannot be found, read, or fed to the model."""


class DiscoveryError(EnsembleViewError):
    """A model could not be unravelled into a chain that equals it."""


class InterventionError(EnsembleViewError):
    """An intervention does not fit the chain it is bound to."""


class MeasurementError(EnsembleViewError):
    """A model's outputs cannot be measured: not finite, not logits, not matching the labels."""


class UnreadableError(EnsembleViewError):
    """A file is not what it should be: the reason, for whoever knows what the file was to be."""


class MeasurementWarning(UserWarning):
    """A measurement goes on, but something about net or data is unknown or looks wrong."""


def warn(message: str) -> None:
    """Issue a :class:`MeasurementWarning` that points at the caller's code, outside this package.

    Args:
        message: What was found, what it may mean, and what to do.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("Nothing is known of the net.")
        >>> str(caught[0].message)
        'Nothing is known of the net.'
    """
    package = __name__.partition(".")[0]
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == package:
        level, frame = level + 1, frame.f_back
    warnings.warn(printable(message), MeasurementWarning, stacklevel=level)


def printable(text: str) -> str:
    r"""Escape what would act on a terminal instead of being shown; lines and tabs stay.

    Args:
        text: of any origin.

    Returns:
        The text, each control character, bidirectional or invisible mark, and half of a surrogate
        pair written as its escape.

    Example:
        >>> print(printable("layer\x1b[31m1\n"))
        layer\x1b[31m1
        <BLANKLINE>
    """
    return _IN_TEXT.sub(_escape, text)


def printable_name(name: str) -> str:
    r"""Escape a name for one line of text: as :func:`printable`, and line breaks and tabs too.

    Args:
        name: of a module, file, class, or anything else that others named.

    Returns:
        The name on one line.

    Example:
        >>> print(printable_name("layer1\nSaved to out."))
        layer1\nSaved to out.
    """
    return _IN_NAME.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    short = {9: r"\t", 10: r"\n", 13: r"\r"}.get(code)
    return short or (f"\\x{code:02x}" if code < 127 else f"\\u{code:04x}")
