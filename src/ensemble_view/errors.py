"""The errors that this package raises on purpose: each says what was found, expected, and to do."""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "DataError",
    "DiscoveryError",
    "EnsembleViewError",
    "InterventionError",
    "MeasurementError",
]


class EnsembleViewError(Exception):
    """Base of every error that is the user's to mend; the command line prints no traceback."""


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
