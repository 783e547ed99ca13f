"""Shares of order 1 and 2 from random subsets, against spectra that are known otherwise."""

from __future__ import annotations

import math
import re

import numpy as np
import order_shares as analysis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.order_shares import order_shares, subsets_needed
from ensemble_view.statistics.pair_kernels import fits_of_folds, pair_kernels, unit_means
from ensemble_view.statistics.spectrum import order_energies


def draw(rng: np.random.Generator, subsets: int, branches: int, keep: float):
    return rng.random((subsets, branches)) < keep


def standardised(kept: np.ndarray, keep: float) -> np.ndarray:
    return (kept - keep) / math.sqrt(keep * (1 - keep))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_energies_are_unbiased_whatever_stands_for_the_function(order):
    """Against the exact spectrum of a function of five branches that no control fits."""
    rng, keep = np.random.default_rng(0), 0.7
    f = rng.normal(size=(2**5, 3))
    energies = order_energies(f, keep)
    truth = np.array([energies[1:].sum(), energies[1], energies[2]])
    found = []
    for _ in range(60):
        kept = draw(rng, 24, 5, keep)
        values = f[kept @ (1 << np.arange(5))]
        phi = standardised(kept, keep)
        kernels = pair_kernels(phi, values, fits_of_folds(phi, values, orders=(order,)))
        found.append(
            [k.sum() / (24 * 23) for k in (kernels.variance, kernels.first, kernels.second)]
        )
    error = np.std(found, axis=0, ddof=1) / math.sqrt(60)
    # A bias of a tenth of the energy would be seen.
    assert (np.abs(np.mean(found, axis=0) - truth) <= 4 * error).all()


def test_without_a_control_it_is_the_mean_over_pairs_of_the_kernel():
    rng, keep = np.random.default_rng(1), 0.6
    kept, f = draw(rng, 20, 4, keep), rng.normal(size=(20, 2))
    phi = standardised(kept, keep)
    found = pair_kernels(phi, f, fits_of_folds(phi, f, orders=(0,)))
    centred = {}
    for s in range(20):
        for t in range(20):
            if s == t:
                continue
            others = [u for u in range(20) if u % 5 not in (s % 5, t % 5)]
            mean = f[others].mean(axis=0)
            centred[s, t] = float((f[s] - mean) @ (f[t] - mean))
            products = phi[s] * phi[t]
            pairs = sum(products[i] * products[j] for i in range(4) for j in range(i))
            assert found.first[s, t] == pytest.approx(products.sum() * centred[s, t])
            assert found.second[s, t] == pytest.approx(pairs * centred[s, t])
            assert found.variance[s, t] == pytest.approx(np.sum((f[s] - f[t]) ** 2) / 2)
    each = sum(np.outer(phi[s], phi[t]).diagonal() * c for (s, t), c in centred.items())
    assert found.branches.mean(axis=1) == pytest.approx(each / 380)


@pytest.mark.parametrize("order", [0, 1, 2])
def test_what_examples_contribute_sums_to_the_kernels_of_all(order):
    rng = np.random.default_rng(2)
    kept, f = draw(rng, 43, 6, 0.6), rng.normal(size=(43, 5, 3))
    phi, flat = standardised(kept, 0.6), f.reshape(43, -1)
    fits = fits_of_folds(phi, flat, orders=(order,))
    kernels, units = pair_kernels(phi, flat, fits), unit_means(phi, f, fits)
    for name in ("variance", "first", "second"):
        rows = getattr(kernels, name).sum(axis=1) / 42
        assert getattr(units, name).sum(axis=1) == pytest.approx(rows, abs=1e-6)
    assert units.branches.sum(axis=1) == pytest.approx(kernels.branches.mean(axis=1), abs=1e-9)
    # The energies of the branches are the energy of order 1.
    assert kernels.branches.sum() / 43 == pytest.approx(kernels.first.sum() / (43 * 42))


KNOWN = [("sums", 1.0, 1.0), ("pairs", 0.0, 1.0), ("sums and pairs", 0.8, 1.0)]


@pytest.mark.parametrize("branches", [9, 27, 54])
@pytest.mark.parametrize(("kind", "first", "second"), KNOWN)
def test_known_spectra_are_found_where_a_fit_of_pairs_finds_a_fraction(
    kind, branches, first, second
):
    """The share of order 2 or less of each is 1; surrogates of order 2 predicted .13 to .52."""
    rng, keep = np.random.default_rng(3), 1 - 5 / branches
    f, *truth = analysis.drawn(kind, branches, keep, 20, rng)
    assert truth == [first, second]
    kept = draw(rng, subsets_needed(branches, 0.3), branches, keep)
    found = order_shares(kept, f(kept), keep)
    # Of the twenty examples that were drawn, the energies are near the population's.
    assert found.first.value == pytest.approx(first, abs=3 * found.first.error + 0.05)
    assert found.up_to_second.low <= 1 == found.up_to_second.high
    # As near as the subsets allow; 54 branches leave an error of about a sixth.
    assert found.up_to_second.value > max(0.75, 1 - max(0.1, found.up_to_second.error))


def test_sums_are_exact_and_triples_are_neither():
    rng = np.random.default_rng(4)
    kept = draw(rng, 60, 9, 0.8)
    found = order_shares(kept, kept @ rng.normal(size=(9, 4)) + 3, 0.8)
    assert (found.first.value, found.up_to_second.value) == pytest.approx((1, 1), abs=1e-9)
    phi = standardised(draw(rng, 400, 9, 0.5), 0.5)
    found = order_shares(phi > 0, phi[:, 0] * phi[:, 1] * phi[:, 2], 0.5)
    assert found.first.value < 0.02
    assert found.up_to_second.high < 0.35
    assert math.isnan(found.effective.value)


def test_one_strong_branch_among_dead_ones_is_additive_and_effectively_one():
    rng = np.random.default_rng(5)
    weights = np.zeros((20, 6))
    weights[7] = rng.normal(size=6)
    kept = draw(rng, 120, 20, 0.9)
    found = order_shares(kept, kept @ weights, 0.9)
    assert found.first.value == pytest.approx(1)
    assert found.effective.value == pytest.approx(1, abs=1e-6)
    equal = order_shares(kept, kept @ np.ones((20, 6)), 0.9)
    assert equal.effective.value == pytest.approx(20, abs=1e-3)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(2, 12), st.integers(20, 60), st.integers(0, 99), st.floats(0.05, 0.95),
    st.sampled_from([(), (1,), (4,), (3, 2)]), st.booleans(),
)  # fmt: skip
def test_shares_and_limits_lie_between_zero_and_one(branches, subsets, seed, keep, further, coarse):
    rng = np.random.default_rng(seed)
    f = rng.normal(size=(subsets, *further))
    f = (f > 1).astype(float) if coarse else f
    found = order_shares(draw(rng, subsets, branches, keep), f, keep)
    if f.std(axis=0).max() == 0:
        assert math.isnan(found.first.value)
        return
    for share in (found.first, found.up_to_second):
        assert 0 <= share.low <= share.value <= share.high <= 1
        assert share.high > share.low
    if not math.isnan(found.effective.value):
        each = found.effective
        assert 1 <= each.low <= each.value <= each.high <= branches


@pytest.mark.parametrize(
    ("kind", "branches", "examples"),
    [("sums and pairs", 9, 1), ("up to triples", 27, 30), ("product", 27, 1), ("pairs", 9, 30)],
)
def test_coverage(kind, branches, examples):
    """A miniature of ``analyses/order_shares.py``, whose table has all settings."""
    row = analysis.cell(kind, branches, 5, examples, repetitions=40)
    for name in ("order 1", "orders 1 and 2"):
        assert row[f"{name}, coverage"] >= 0.85
        error = float(row[f"{name}, spread"]) / math.sqrt(40)
        difference = abs(float(row[f"{name}, estimate"]) - float(row[f"{name}, truth"]))
        assert difference <= 4 * error + 0.02


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: order_shares(np.ones((5, 3), bool), np.ones(5), 0.5),
            "The subsets have shape (5, 3) and type bool; expected booleans [subsets, branches] of "
            "at least 20 subsets.",
        ),
        (
            lambda: order_shares(np.ones((20, 3), bool), np.full(20, np.nan), 0.5),
            "The values have shape (20,) for 20 subsets, and 20 are not finite",
        ),
        (
            lambda: order_shares(np.ones((20, 3), bool), np.ones(20), 1.0),
            "The keep-probability is 1.0; expected it between 0 and 1, as the subsets were drawn.",
        ),
        (
            lambda: subsets_needed(54, 0),
            "The precision is 0; expected a half-width above 0, such as 0.3.",
        ),
    ],
)
def test_what_has_no_shares_is_refused_in_words(call, message):
    with pytest.raises(MeasurementError, match=re.escape(message)):
        call()
