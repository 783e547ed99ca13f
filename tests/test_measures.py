"""Per-example measures against numpy written out from their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from definitions import measured
from ensemble_view.errors import MeasurementError
from ensemble_view.measures.classification import MEASURES, Classification, Reference, measure


@given(
    st.integers(1, 7),
    st.integers(2, 6),
    st.floats(0.1, 8.0),
    st.sampled_from([torch.float32, torch.float64]),
    st.integers(0, 2**16),
)
def test_measures_follow_their_definitions(examples, classes, spread, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    full, mine = (
        spread * torch.randn(examples, classes, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    full, mine = full.to(dtype), mine.to(dtype)
    labels = torch.randint(classes, (examples,), generator=generator)
    *rows, finite = measure(mine, Reference.of(full, labels))
    found = dict(zip(MEASURES, rows, strict=True))
    expected = measured(mine.double().numpy(), full.double().numpy(), labels.numpy())
    for name in MEASURES:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=2e-5)
    assert finite.all()


def test_the_full_net_agrees_with_itself_and_diverges_by_nothing():
    logits = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    rows = measure(logits, Reference.of(logits, logits.argmax(1)))
    correct, loss, agreement, divergence, finite = rows
    assert correct.all()
    assert agreement.all()
    assert finite.all()
    assert torch.equal(divergence, torch.zeros(50))
    assert (loss > 0).all()


def test_half_precision_is_measured_in_single():
    generator = torch.Generator().manual_seed(0)
    half = 4 * torch.randn(20, 10, generator=generator)
    half = half.to(torch.bfloat16)
    labels = torch.randint(10, (20,), generator=generator)
    rows = measure(half, Reference.of(half.flip(0), labels))
    exact = measure(half.double(), Reference.of(half.flip(0).double(), labels))
    torch.testing.assert_close(rows.double(), exact, rtol=1e-5, atol=1e-5)


NAN = torch.full((2, 3), float("nan"))


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (
            torch.zeros(2, 3, 4),
            [0, 1],
            r"^The model's output has the shape \(2, 3, 4\); measuring accuracy needs logits of "
            r"the shape \(2, classes\), one row per example\.$",
        ),
        (torch.zeros(6), [0] * 6, r"has the shape \(6,\); measuring accuracy needs logits of"),
        (torch.zeros(3, 4), [0, 1], r"has the shape \(3, 4\); .* shape \(2, classes\), one row"),
        (
            torch.zeros(2, 3),
            [0, 3],
            r"^The labels run from 0 to 3, but the model has 3 classes \(0 to 2\); check that data "
            r"set and model belong together\.$",
        ),
        (torch.zeros(2, 3), [-1, 1], r"^The labels run from -1 to 1, but the model has 3 classes"),
        (NAN, [0, 1], r"^The full net's logits are not finite; check its weights, the normalis"),
        (NAN.fill_(float("inf")).clone(), [0, 1], r"^The full net's logits are not finite"),
    ],
)
def test_outputs_that_cannot_be_measured_are_refused_in_words(logits, labels, message):
    with pytest.raises(MeasurementError, match=message):
        Reference.of(logits, torch.tensor(labels))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_examples_that_are_not_finite_are_told(value):
    full = torch.zeros(3, 4)
    broken = full.clone()
    broken[1, 2] = value
    rows = measure(broken, Reference.of(full, torch.tensor([0, 1, 2])))
    assert rows[4].tolist() == [1, 0, 1]
    assert list(Classification().types) == list(MEASURES)
