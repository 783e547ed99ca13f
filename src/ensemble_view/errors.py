"""The errors that this package raises on purpose: each says what was found, expected, and to do."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

from ensemble_view.printable import printable

__all__ = [
    "CheckpointError",
    "DataError",
    "DiscoveryError",
    "EnsembleViewError",
    "InterventionError",
    "MeasurementError",
    "MeasurementWarning",
    "UnreadableError",
    "warn",
]


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
