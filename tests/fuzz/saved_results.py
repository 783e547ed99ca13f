"""A result of every class, measured of a small net and written as an older release wrote it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ensemble_view as ev
from ensemble_view.nets.models.building import build
from ensemble_view.study import files
from ensemble_view.study.result import StudyResult
from language_nets import own_net

SMALL: dict[str, Any] = {"limit": 12, "batch_size": 12}


def _error(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(-1) != labels).float()


@cache
def measured_results() -> dict[str, StudyResult]:
    """Measure a result of every class.

    Returns:
        Them by what they are called.
    """
    torch.manual_seed(0)
    net: nn.Module = build("resnet14", width=2, in_channels=1).eval()
    text = own_net()
    tokens = torch.arange(48).reshape(6, 8)
    digits: Any = "digits"
    measured: dict[str, Callable[[], StudyResult]] = {
        "lesion": lambda: ev.lesion(net, digits, **SMALL),
        "language": lambda: ev.lesion(text, ev.open_text({"input_ids": tokens}), **SMALL),
        "own measure": lambda: ev.lesion(net, digits, measure=_error, **SMALL),
        "gradients": lambda: ev.gradients_by_length(
            net, digits, method=("summed", "energy"), vectors=2, **SMALL
        ),
        "gradients by block": lambda: ev.gradients_by_block(net, digits, **SMALL),
        "gradients by checkpoint": lambda: ev.gradients_by_checkpoint(
            [net, build("resnet14", width=2, in_channels=1).eval()], digits, **SMALL
        ),
        "pairs": lambda: ev.pairs(net, digits, **SMALL),
        "power set": lambda: ev.subsets(net, digits, **SMALL),
        "surrogates": lambda: ev.additivity(net, digits, subsets=40, fresh=20, **SMALL),
        "reaction": lambda: ev.reaction(net, digits, untrained=False, **SMALL),
        "dose": lambda: ev.dose(net, digits, doses=(0.5,), draws=1, **SMALL),
        "many": lambda: ev.random(net, digits, count=[1, 2], trials=3, **SMALL),
        "reorderings": lambda: ev.reorder(net, digits, swaps=[1], trials=3, **SMALL),
        "control": lambda: ev.control(net, digits, "shortcut", **SMALL),
        "paths": lambda: ev.count_paths(ev.unravel(net, torch.ones(2, 1, 8, 8))),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: measure() for name, measure in measured.items()}


def write(result: StudyResult, folder: Path) -> None:
    """Write what of a result is read back; no digests, so that all of it is looked at.

    Args:
        result: Any.
        folder: Made.
    """
    folder.mkdir()
    files.write_json(folder / "results.json", result.to_json())
    if result.arrays:
        files.write_arrays(folder / "outcomes.npz", result.arrays)
