"""What every text says first: how the net was known, how its inputs were normalised, warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ensemble_view.study.provenance import WARNING

__all__ = ["setting_lines"]


def setting_lines(
    model: Mapping[str, Any], data: Mapping[str, Any], warnings: Sequence[str] = ()
) -> list[str]:
    """Say on what a number rests that the number itself does not tell.

    Args:
        model: Of a record's provenance.
        data: Likewise.
        warnings: Likewise.

    Returns:
        Sentences, one a line; none where the record says nothing of either.

    Example:
        >>> setting_lines({}, {"normalisation": {"mean": None, "std": None, "from": "none known"}})
        ['Normalisation: none known; pixels scaled to 0..1.']
    """
    lines = []
    if (inferred := model.get("inferred")) is not None:
        lines.append(_inferred(str(model.get("architecture")), inferred))
    if (normalisation := data.get("normalisation")) is not None:
        lines.append(f"Normalisation: {_normalisation(normalisation)}.")
    return [*lines, *(f"{WARNING}{warning}" for warning in warnings)]


def _inferred(architecture: str, untraced: Sequence[Mapping[str, Any]]) -> str:
    first = (
        f"Architecture inferred from the names and shapes of the weights: {architecture}. They "
        "leave no trace of "
    )
    parts = [
        f"{each['what']} (assumed: {each['assumed']}"
        + (f"; else {' or '.join(each['others'])}" if each["others"] else "")
        + ")"
        for each in untraced
    ]
    parts.append("activations and constants of normalisation layers")
    listed = ", ".join(parts[:-1]) + (", and " if len(parts) > 1 else "") + parts[-1]
    return f"{first}{listed}; choose with --arch."


def _normalisation(normalisation: Mapping[str, Any]) -> str:
    mean, std, source = (normalisation[name] for name in ("mean", "std", "from"))
    if mean is None or std is None:
        if source == "the data's own":
            return "inputs are taken as the data give them"
        return f"{source}; pixels scaled to 0..1"
    numbers = [", ".join(f"{value:.4g}" for value in values) for values in (mean, std)]
    return f"mean {numbers[0]}; standard deviation {numbers[1]} ({source})"
