"""Whether the full net is at chance, which is rarely what a study is meant to be about."""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt

from ensemble_view.statistics.paired import accuracy_interval
from ensemble_view.study.outcomes import Outcomes

__all__ = ["near_chance", "near_chance_of"]

_CAUSES = (
    "normalisation (--normalise), the order of the classes, an architecture that fits the weights "
    "but computes something else (--arch), resizing and cropping (--resize, --crop), or weights "
    "that were never trained"
)
# As sure of wrong classes as this many times the uniform guess's loss.
_SURE = 2.0


def near_chance(outcomes: Outcomes, level: float = 0.95) -> str | None:
    """Warn of a full net that is no better than the best constant guess.

    Args:
        outcomes: of a classifier.
        level: of Wilson's interval for its accuracy.

    Returns:
        A sentence with the usual causes; None where the interval lies above chance, or where there
        are too few examples for that of a perfect net to do so.

    Example:
        >>> import numpy as np
        >>> labels = np.arange(100) % 10
        >>> none = np.zeros((0, 100))
        >>> outcomes = Outcomes(none > 0, none, none > 0, none, labels == 3, np.ones(100), labels)
        >>> near_chance(outcomes).partition(":")[0]
        'The full net is at chance, 10.0% right of 100 examples'
    """
    loss = float(outcomes.baseline_loss.mean(dtype=float))
    return near_chance_of(outcomes.baseline_correct, outcomes.labels, level, loss)


def near_chance_of(
    correct: npt.NDArray[Any],
    labels: npt.NDArray[Any],
    level: float = 0.95,
    loss: float | None = None,
) -> str | None:
    """Warn as :func:`near_chance`, of a study that has no outcomes of lesions.

    Args:
        correct: whether the full net is right, of each example.
        labels: the true classes.
        level: of Wilson's interval for its accuracy.
        loss: its mean cross-entropy in nats, where it was measured.

    Returns:
        A sentence, or None.

    Example:
        >>> import numpy as np
        >>> near_chance_of(np.arange(100) < 90, np.arange(100) % 10) is None
        True
    """
    n = len(labels)
    counts = [int((labels == label).sum()) for label in set(labels.tolist())]
    chance = max(counts) / n
    right = int(correct.sum())
    interval = accuracy_interval(right, n, level)
    if interval.low > chance or accuracy_interval(n, n, level).low <= chance:
        return None
    place = "below" if interval.high < chance else "at"
    guess = math.log(len(counts))
    sure = ""
    if loss is not None and loss > _SURE * guess:
        sure = (
            f" Its loss is {loss:.2g} nats, far above the {guess:.2g} of a uniform guess: it is "
            "sure of wrong classes, as with classes in another order."
        )
    return (
        f"The full net is {place} chance, {right / n:.1%} right of {n:,} examples: what is "
        f"measured of it says little. The usual causes are {_CAUSES}.{sure}"
    )
