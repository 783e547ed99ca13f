"""The normalisation that a net expects, brought to the data it is studied on, or missed aloud."""

from __future__ import annotations

from ensemble_view.data.data import Data
from ensemble_view.data.labelled_data import IndexedData
from ensemble_view.data.normalisation import ASKED_NONE, PRESETS
from ensemble_view.nets.checkpoints import Checkpoint

__all__ = ["normalisation_warning", "normalised_for"]

# Presets and files state them to a few digits.
_TOLERANCE = 2e-3


def normalised_for(model: object, data: Data) -> Data:
    """Normalise raw data as a checkpoint says.

    Args:
        model: Only a checkpoint says anything.
        data: Those that have a normalisation, and tensors of the user's own, stay as they are.

    Returns:
        The data as the net takes them, as far as is known.
    """
    if not isinstance(model, Checkpoint) or model.normalisation is None:
        return data
    if not isinstance(data, IndexedData) or data.normalised_by is not None:
        return data
    return data.with_normalisation(*model.normalisation, model.normalisation_source)


def normalisation_warning(model: object, data: Data) -> str | None:
    """Say what is amiss with the normalisation of data, if anything is.

    Args:
        model: A checkpoint, or anything else that is studied.
        data: As the net takes them.

    Returns:
        A sentence; None where nothing is known to be amiss.
    """
    if not isinstance(data, IndexedData):
        return None
    if data.normalised_by is None:
        state = (
            "its pixels are scaled to 0..1 and not normalised"
            if data.source.pixels
            else "its numbers are taken as they are, whether or not they are normalised"
        )
        return (
            f"No normalisation is known for {data.name}: {state}, and a net that was trained on "
            "normalised images reads far too low on others; choose with --normalise "
            f"({', '.join(PRESETS)}, or none) or --mean and --std, in Python with "
            "open_data(..., normalise=...)."
        )
    if not isinstance(model, Checkpoint) or model.normalisation is None:
        return None
    said, source = model.normalisation, model.normalisation_source
    if data.normalised_by == source:
        return None
    mean, std = data.preprocessing.mean, data.preprocessing.std
    if mean is None or std is None:
        if data.normalised_by != ASKED_NONE:
            return None
        mean, std = (0.0,) * len(said[0]), (1.0,) * len(said[1])
    if _alike(mean, said[0]) and _alike(std, said[1]):
        return None
    return (
        f"The data are normalised by another mean and standard deviation ({_numbers(mean)}; "
        f"{_numbers(std)}: {data.normalised_by}) than the net expects ({_numbers(said[0])}; "
        f"{_numbers(said[1])}: {source}): leave them out unless that is meant."
    )


def _alike(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    width = max(len(one), len(other))
    if len(one) not in (1, width) or len(other) not in (1, width):
        return False
    pairs = zip(one * width, other * width, strict=False)
    return all(abs(mine - theirs) <= _TOLERANCE for mine, theirs in pairs)


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
