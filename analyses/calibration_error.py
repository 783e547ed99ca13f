"""The expected calibration error: how far a net's confidence is from its accuracy.

Guo et al. 2017 (arXiv 1706.04599), section 2: examples are sorted by confidence, the probability of
the class that is named, into bins of equal width; the error is the mean distance between accuracy
and mean confidence of a bin, weighed by the bin's share of the examples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BINS = 15

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer[Any]]


def calibration_gaps(probabilities: Floats, labels: Labels, bins: int = BINS) -> Floats:
    """Say what each example adds to the gap of its bin.

    The calibration error is the sum over the bins of the absolute value of the column's mean. It
    stays so for examples that are drawn again, with the mean weighed by how often each was drawn.

    Args:
        probabilities: (examples, classes).
        labels: (examples,).
        bins: How many; the m-th holds confidences above (m - 1) / bins and up to m / bins.

    Returns:
        (examples, bins): in the column of an example's bin whether it is right less its confidence,
        elsewhere zero.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    upper_ends = np.arange(1, bins) / bins
    gaps = np.zeros((len(labels), bins))
    gaps[np.arange(len(labels)), np.searchsorted(upper_ends, confidence)] = right - confidence
    return gaps


def calibration_error(probabilities: Floats, labels: Labels, bins: int = BINS) -> float:
    """Return the expected calibration error.

    Args:
        probabilities: (examples, classes).
        labels: (examples,).
        bins: How many of equal width.

    Returns:
        A proportion: 0 where confidence and accuracy agree in every bin.

    Example:
        >>> sure = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
        >>> round(calibration_error(sure, np.array([0, 0, 1, 0])), 3)
        0.1
    """
    return float(np.abs(calibration_gaps(probabilities, labels, bins).mean(axis=0)).sum())
