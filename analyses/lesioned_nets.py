"""The nets that analyses of lesions look at: bundled ones by their names, and trained ones."""

from __future__ import annotations

from dataclasses import replace

from single_lesions import PLAIN, RESIDUAL
from trained_nets import Scale

import ensemble_view
from ensemble_view import Checkpoint, ManyResult

BUNDLED = (*RESIDUAL, *PLAIN)


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


def at_level(result: ManyResult, level: float) -> ManyResult:
    """Return random deletions with intervals of another level.

    Args:
        result: Random deletions.
        level: Of the intervals, a proportion.

    Returns:
        The same outcomes.
    """
    return replace(result, run=replace(result.run, level=level))
