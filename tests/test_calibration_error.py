"""The expected calibration error, held against a reckoning image by image in exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from calibration_error import calibration_error, calibration_gaps
from hypothesis import given
from hypothesis import strategies as st


def by_definition(probabilities, labels, bins):
    """Guo et al. 2017, equation 3: bin m holds confidences in ((m - 1) / bins, m / bins]."""
    members = {number: [] for number in range(1, bins + 1)}
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        number = next(m for m in range(1, bins + 1) if confidence <= m / bins)
        members[number].append((Fraction(confidence), row.index(confidence) == label))
    total = Fraction(0)
    for inside in members.values():
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = Fraction(sum(right for _, right in inside), len(inside))
            total += Fraction(len(inside), len(labels)) * abs(accuracy - confidence)
    return float(total)


@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 2)),
        min_size=1,
        max_size=40,
    ),
    st.sampled_from([1, 4, 15]),
)
def test_it_is_the_definition(drawn, bins):
    # Twelfths: many confidences lie on the ends of bins.
    probabilities = np.array([(a, b, max(0, 12 - a - b)) for a, b, _ in drawn]) + 0.0
    probabilities /= np.maximum(probabilities.sum(1, keepdims=True), 1)
    labels = np.array([label for *_, label in drawn])
    assert calibration_error(probabilities, labels, bins) == pytest.approx(
        by_definition(probabilities, labels, bins), abs=1e-12
    )


def test_examples_drawn_again_are_weighed():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(3), 50), rng.integers(3, size=50)
    again = rng.integers(50, size=50)
    shares = np.bincount(again, minlength=50) / 50
    weighed = np.abs(shares @ calibration_gaps(probabilities, labels)).sum()
    assert weighed == pytest.approx(by_definition(probabilities[again], labels[again], 15))


def test_sure_and_always_right_or_wrong():
    certain = np.eye(3)[[0, 1, 2, 0]]
    assert calibration_error(certain, np.array([0, 1, 2, 0])) == 0
    assert calibration_error(certain, np.array([1, 2, 0, 1])) == 1
