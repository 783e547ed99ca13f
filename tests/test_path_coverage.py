"""How often intervals over examples cover, for what is measured of a trained net's gradient."""

from __future__ import annotations

import numpy as np
import pytest

from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.studies.gradients.measurement import Measured
from ensemble_view.studies.gradients.study import prepare_gradients
from miniature import miniature_scale

DRAWS = 2000


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    scale = miniature_scale(tmp_path_factory.mktemp("nets"), examples=1000, epochs=12, seeds=(0,))
    study = prepare_gradients(scale.net("resnet8", 0), "digits")
    whole = Measured(study.measurement.blocks)
    for number, (measurement, batch) in enumerate(study._batches()):
        whole.add(measurement.of_batch(*batch, number, lambda _: None))
    assert whole.examples == 797
    return whole


def coverage(values, n):
    """Return how often the t interval of so many examples holds the mean of all."""
    rng = np.random.default_rng(0)
    limits = [ratio_mean(values[rng.integers(0, len(values), n)]) for _ in range(DRAWS)]
    return np.mean([found.low <= values.mean() <= found.high for found in limits])


@pytest.mark.parametrize("n", [16, 64, 256])
def test_the_mean_length_is_covered(measured, n):
    shares = np.concatenate(measured.shares)
    lengths = shares @ np.arange(shares.shape[1])
    assert coverage(lengths, n) >= 0.935
    assert measured.projected_mean == pytest.approx(
        (ratio_mean(lengths).low, ratio_mean(lengths).high)
    )


def test_of_norms_the_standard_error_gives_no_interval(measured):
    """Few examples carry most of the gradient, as the docstring of the row says."""
    norms = np.sqrt(np.concatenate(measured.squares))[:, 1]
    assert coverage(norms, 32) < 0.9
