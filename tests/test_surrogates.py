"""Surrogates of low order: what they recover, and the coverage of their held-out R²."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.spectrum import fourier, order_energies, variance_shares
from ensemble_view.statistics.surrogates import HeldOutR2, fit_surrogate, held_out_r2

Floats = npt.NDArray[np.float64]


def all_subsets(branches: int) -> npt.NDArray[np.bool_]:
    masks = np.arange(2**branches)
    return (masks[:, None] >> np.arange(branches) & 1).astype(bool)


def draw(rng: np.random.Generator, subsets: int, branches: int, keep: float):
    return rng.random((subsets, branches)) < keep


@settings(max_examples=25)
@given(st.integers(2, 6), st.integers(0, 99), st.sampled_from([(), (3,), (2, 2)]))
def test_on_all_subsets_the_share_predicted_is_that_of_the_low_orders(branches, seed, further):
    """At keep-probability 1/2 the power set is the population: R² is the spectrum's share."""
    f = np.random.default_rng(seed).normal(size=(2**branches, *further))
    kept, shares = all_subsets(branches), variance_shares(order_energies(f))
    coefficients = fourier(f)
    surrogate = fit_surrogate(kept, f)
    least = dataclasses.replace(
        surrogate, coefficients=coefficients[1 << np.arange(branches)], penalty=0.0
    )
    # Least squares on the whole population are the Fourier coefficients of order 1.
    predicted = least.predict(kept)
    missed, varied = np.sum((f - predicted) ** 2), np.sum((f - f.mean(axis=0)) ** 2)
    assert 1 - missed / varied == pytest.approx(shares[0], abs=1e-10)
    if surrogate.penalty == 0:
        assert surrogate.predict(kept) == pytest.approx(predicted, abs=1e-9)
    found = held_out_r2(least, kept, f)
    unbiased = missed / (varied * 2**branches / (2**branches - 1))
    assert found.value == pytest.approx(1 - unbiased, abs=1e-10)


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_what_only_adds_is_predicted_wholly_at_order_one(keep):
    rng = np.random.default_rng(1)
    weights = rng.normal(size=(20, 3, 4))
    train, fresh = draw(rng, 60, 20, keep), draw(rng, 40, 20, keep)
    surrogate = fit_surrogate(train, 2 + np.tensordot(train, weights, axes=1))
    assert (surrogate.rank, surrogate.penalty) == (20, 0.0)
    found = held_out_r2(surrogate, fresh, 2 + np.tensordot(fresh, weights, axes=1))
    assert found == HeldOutR2(1.0, 1.0, 1.0, 40, "trials and examples")


def test_subsets_of_one_size_are_collinear_and_still_predicted():
    rng = np.random.default_rng(3)
    kept = np.array([np.isin(np.arange(10), rng.choice(10, 7, replace=False)) for _ in range(60)])
    f = kept @ rng.normal(size=10)
    surrogate = fit_surrogate(kept[:40], f[:40])
    assert surrogate.rank == 9
    assert held_out_r2(surrogate, kept[40:], f[40:]).low > 1 - 1e-9


def test_too_few_subsets_are_fitted_with_a_penalty_and_beat_no_fit():
    rng = np.random.default_rng(4)
    train, fresh = draw(rng, 20, 30, 0.7), draw(rng, 400, 30, 0.7)
    weights, noise = rng.normal(size=30), rng.normal(scale=0.3, size=420)
    surrogate = fit_surrogate(train, train @ weights + noise[:20])
    assert surrogate.rank < 30  # More branches than subsets can tell apart.
    assert surrogate.penalty > 0
    assert held_out_r2(surrogate, fresh, fresh @ weights + noise[20:]).value > 0.3


def test_the_penalty_is_the_best_by_leaving_out_up_to_its_approximation():
    """Generalised cross-validation puts the mean in place of each leverage."""
    rng = np.random.default_rng(5)
    kept = draw(rng, 50, 15, 0.5)
    f = kept @ rng.normal(size=(15, 4)) + rng.normal(scale=2.0, size=(50, 4))
    surrogate = fit_surrogate(kept, f)
    phi = (kept - surrogate.centre) / np.sqrt(surrogate.centre * (1 - surrogate.centre))

    def left_out(penalty: float) -> float:
        missed = 0.0
        for i in range(50):
            rest = np.arange(50) != i
            offset, mean = phi[rest].mean(axis=0), f[rest].mean(axis=0)
            x = phi[rest] - offset
            slopes = np.linalg.solve(x.T @ x + penalty * np.eye(15), x.T @ (f[rest] - mean))
            missed += float(np.sum((f[i] - mean - (phi[i] - offset) @ slopes) ** 2))
        return missed

    assert surrogate.penalty > 0
    largest = np.linalg.svd(phi - phi.mean(axis=0), compute_uv=False).max() ** 2
    least = min(left_out(penalty) for penalty in [0, *(largest * 10.0 ** np.arange(-10, 3))])
    assert left_out(surrogate.penalty) <= 1.02 * least


def test_what_cannot_vary_or_was_never_deleted_is_said_so():
    rng = np.random.default_rng(6)
    kept = draw(rng, 30, 5, 0.6)
    kept[:, 2] = True
    surrogate = fit_surrogate(kept, kept @ np.arange(5.0))
    assert surrogate.rank == 4
    assert held_out_r2(surrogate, kept, kept @ np.arange(5.0)).value == 1
    constant = fit_surrogate(kept, np.full((30, 2), 0.1))
    none = held_out_r2(constant, kept, np.full((30, 2), 0.1))
    assert math.isnan(none.value)
    assert none.sampled == "nothing"
    same = fit_surrogate(np.ones((6, 3), dtype=bool), np.arange(6.0))
    assert same.rank == 0
    assert same.predict(np.zeros((1, 3), dtype=bool)) == pytest.approx([2.5])
    single = held_out_r2(surrogate, kept[:1], kept[:1] @ np.arange(5.0))
    assert math.isnan(single.value)


def test_a_single_subset_that_carries_all_the_error_leaves_no_lower_limit():
    kept = all_subsets(3)
    f = kept @ np.arange(1.0, 4.0)
    found = held_out_r2(fit_surrogate(kept, f), kept, f + np.eye(8)[3])
    assert (found.low, found.high) == (-math.inf, 1.0)


KEPT = all_subsets(2)
FITTED = fit_surrogate(KEPT, np.arange(4.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: fit_surrogate([[0, 1]], [1.0]),
            r"^The subsets have shape \(1, 2\) and type int64",
        ),
        (lambda: fit_surrogate(KEPT, [1.0]), r"^The values have shape \(1,\) for 4 subsets, and 0"),
        (lambda: fit_surrogate(KEPT, [math.nan] * 4), r"for 4 subsets, and 4 are not finite; expe"),
        (lambda: fit_surrogate(KEPT[:1], [1.0]), r"^A surrogate of 1 subsets was asked for; expec"),
        (lambda: FITTED.predict(all_subsets(3)), r"^The subsets are of 3 branches; expected 2, th"),
        (
            lambda: held_out_r2(FITTED, KEPT, np.ones((4, 2))),
            r"^The values have shape \(4, 2\) and",
        ),
        (lambda: held_out_r2(FITTED, KEPT, np.ones(4), 2), r"^The confidence level is 2; expected"),
    ],
)
def test_what_has_no_surrogate_is_refused_in_words(call, message):
    with pytest.raises(MeasurementError, match=message):
        call()


def population(rng: np.random.Generator, kind: str, branches: int, examples: int):
    """Additive effects of branches, which differ between examples, and something that is not."""
    common = rng.normal(1, 0.5, branches) * rng.lognormal(0, 0.5, branches)
    own = common * rng.lognormal(0, 0.5, (examples, 1)) + rng.normal(0, 0.3, (examples, branches))
    pairs = rng.normal(size=(branches, branches)) / branches
    scale = rng.lognormal(0, 0.5, examples)

    def f(kept: npt.NDArray[np.bool_]) -> Floats:
        x = kept.astype(float)
        sums = x @ own.T
        if kind == "pairs":
            return sums + 12 / math.sqrt(branches) * np.outer(((x @ pairs) * x).sum(axis=1), scale)
        if kind == "collapse":
            steep = 1 / (1 + np.exp(-1.5 * (x @ common - 0.85 * common.sum())))
            return 0.3 * sums + 8 * np.outer(steep, scale)
        return np.tanh(sums - 0.9 * sums.max(axis=0)) * scale

    return f


@pytest.mark.parametrize("deleted", [1, 5, 10])
@pytest.mark.parametrize("kind", ["pairs", "collapse", "saturation"])
def test_coverage_with_two_hundred_fresh_subsets(kind, deleted):
    rng = np.random.default_rng(3)
    f, keep = population(rng, kind, 27, 1000), 1 - deleted / 27
    train, pool = draw(rng, 300, 27, keep), draw(rng, 3000, 27, keep)
    surrogate, values = fit_surrogate(train, f(train)), f(pool)
    truth = 1 - np.mean((values - surrogate.predict(pool)) ** 2) / np.mean(values.var(axis=0))
    held = []
    for _ in range(300):
        subsets, examples = rng.integers(0, 3000, 200), rng.integers(0, 1000, 100)
        of_these = dataclasses.replace(
            surrogate,
            intercept=surrogate.intercept[examples],
            coefficients=surrogate.coefficients[:, examples],
        )
        found = held_out_r2(of_these, pool[subsets], values[np.ix_(subsets, examples)])
        held.append(found.low <= truth <= found.high)
    # As the docstring says, less two standard errors of 300 repetitions.
    assert 0.88 <= np.mean(held) <= 0.99
