"""Are averages over left-out branches those of an ensemble? A test that a true ensemble passes.

That the average of nets with branches left out is no better than the full net does not tell a
residual net from an ensemble: the members of a true ensemble, left out at random, do no better than
all of them together. What an ensemble of branches must do is add up. Its logits are
``f(S) = f - sum of c_i over the branches i that are left out``, with ``c_i = f - f(all but i)``
from single deletions, for every keep-set S. Averaged over keep-sets, the additive prediction is
held against what the net says:

    misfit = sum of |mean over S of (f(S) - prediction(S))|^2 / sum of |f - mean over S of f(S)|^2

over images and classes, logits centred over the classes. It is 0 for nets wired as branches,
independent ones and copies alike, near 1 or above where the prediction is worth nothing. One
deletion is predicted exactly by definition, so that two or more are left out. A small misfit does
not make a net an ensemble: one strong branch beside dead ones adds up, too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from calibration_error import Floats
from keep_sets import KeepSet

MOST = 0.10
"""Largest misfit that counts as adding up."""


def additive(full: Floats, without: Floats, keep_sets: Sequence[KeepSet]) -> Floats:
    """Predict logits as if the branches added up.

    Args:
        full: Logits of the full net, (images, classes).
        without: Of the net without each branch in turn, (blocks, images, classes).
        keep_sets: Which branches are kept.

    Returns:
        The predictions, (keep-sets, images, classes).
    """
    left_out = np.ones((len(keep_sets), len(without)))
    for row, kept in zip(left_out, keep_sets, strict=True):
        row[list(kept)] = 0
    lost: Floats = np.einsum("sb,bic->sic", left_out, full - without)
    return full - lost


def misfit(full: Floats, answers: Floats, predicted: Floats) -> float:
    """Say how far the averaged answers are from the averaged predictions.

    Args:
        full: Logits of the full net, (images, classes).
        answers: Of each keep-set, (keep-sets, images, classes).
        predicted: For each keep-set, of the same shape.

    Returns:
        0 where they agree; 1 where they differ by as much as the average differs from the full net;
        nan where leaving branches out changes nothing.

    Example:
        >>> full, without = np.array([[4.0, 0.0]]), np.array([[[3.0, 0.0]], [[1.0, 0.0]]])
        >>> keep_sets = [(), (0,)]
        >>> misfit(full, np.array([[[0.0, 0.0]], [[1.0, 0.0]]]), additive(full, without, keep_sets))
        0.0
    """
    average, expected = centred(answers).mean(axis=0), centred(predicted).mean(axis=0)
    whole = float(((centred(full) - average) ** 2).sum())
    return float(((average - expected) ** 2).sum()) / whole if whole > 0 else float("nan")


def centred(logits: Floats) -> Floats:
    """Take the mean over the classes off, which no probability depends on."""
    found: Floats = logits - logits.mean(axis=-1, keepdims=True)
    return found
