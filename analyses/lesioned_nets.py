"""The nets that analyses of lesions look at, bundled ones and trained ones, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from single_lesions import PLAIN, RESIDUAL
from trained_nets import Scale

import ensemble_view
from ensemble_view import Checkpoint, EnsembleViewError
from ensemble_view.study.trials import TrialsResult

BUNDLED = (*RESIDUAL, *PLAIN)
NETS = {
    "digits": (*BUNDLED, "highway32"),
    "cifar10": ("resnet110", "resnet110v2", "plain32", "vgg15", "highway32"),
    "cifar10-fast": ("resnet20", "plain20"),
}
"""With shortcuts and without."""

BATCH = 64
"""Images at a time: noise and the last digits shall not depend on what is fastest."""

Result = TypeVar("Result")
Trials = TypeVar("Trials", bound=TrialsResult)


def opened(scale: Scale, name: str, seed: int = 0) -> Checkpoint:
    """Return a net.

    Args:
        scale: How nets are trained that are not bundled.
        name: Of a bundled net, or an architecture.
        seed: Of the training, if it is an architecture.

    Returns:
        The net.
    """
    return ensemble_view.load_checkpoint(name) if name in BUNDLED else scale.net(name, seed)


def is_plain(name: str) -> bool:
    """Say whether a net has no shortcuts, so that lesions are of its units.

    Args:
        name: Of a net.

    Returns:
        Whether it is a plain net or a VGG.

    Example:
        >>> is_plain("digits-vgg15"), is_plain("highway32")
        (True, False)
    """
    return "plain" in name or "vgg" in name


def attempt(study: Callable[[], Result]) -> Result | str:
    """Run a study that may not be for every net.

    Args:
        study: Runs it.

    Returns:
        Its result, or the sentence with which it was refused.
    """
    try:
        return study()
    except EnsembleViewError as refusal:
        return str(refusal)


def at_level(result: Trials, level: float) -> Trials:
    """Return random trials with intervals of another level.

    Args:
        result: Random deletions or swaps.
        level: Of the intervals, a proportion.

    Returns:
        The same outcomes.
    """
    return replace(result, run=replace(result.run, level=level))
