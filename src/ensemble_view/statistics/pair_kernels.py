"""Energies by order as means over pairs of random subsets, with a fitted polynomial as a control.

For a pair of subsets and a polynomial g fitted to others, each kernel below has the energy of its
order as its expectation, whatever g is; :mod:`ensemble_view.statistics.order_shares` says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Fit", "PairKernels", "UnitMeans", "fits_of_folds", "pair_kernels", "unit_means"]

Floats = npt.NDArray[np.float64]

_FOLDS = 5
# Ridge penalties to choose from, in units of the largest eigenvalue.
_PENALTIES = 10.0 ** np.arange(-11, 3, 0.5)
# Below this share of the largest entry, a centred kernel is what rounding leaves.
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Fit:
    """A polynomial fitted to the subsets outside two folds; linear in the values, so matrices.

    Attributes:
        first: the subsets of one fold.
        second: those of the other; the same where pairs within one fold are taken.
        coefficients: from values to those of order 1, shape ``[branches, subsets]``.
        linear: from values to the part of order 1 on all subsets, shape ``[subsets, subsets]``.
        dual: from values to the weights of the subsets that were fitted to in the part of order 2.
        pairs: from values to the part of order 2, as ``linear``.
        remainder: from values to what is left.
        fitted: the subsets that were fitted to.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    coefficients: Floats
    linear: Floats
    dual: Floats
    pairs: Floats
    remainder: Floats
    fitted: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PairKernels:
    """Kernels of all pairs of subsets, symmetric with zeros on the diagonal, summed over examples.

    Attributes:
        variance: of the variance, shape ``[subsets, subsets]``.
        first: of the energy of order 1.
        second: of the energy of order 2.
        branches: mean over a subset's pairs of the kernel of each branch's energy at order 1,
            shape ``[branches, subsets]``.
    """

    variance: Floats
    first: Floats
    second: Floats
    branches: Floats


@dataclass(frozen=True, eq=False)
class UnitMeans:
    """Means over the pairs of each subset, example by example, shape ``[subsets, examples]``.

    Attributes:
        variance: of the variance.
        first: of the energy of order 1.
        second: of the energy of order 2.
        branches: mean over all pairs of each branch's energy, shape ``[branches, examples]``.
    """

    variance: Floats
    first: Floats
    second: Floats
    branches: Floats


def fits_of_folds(phi: Floats, factor: Floats, orders: Sequence[int] = (0, 1, 2)) -> list[Fit]:
    """Fit polynomials that stand for the function on pairs of subsets they have not seen.

    Args:
        phi: the standardised subsets, shape ``[subsets, branches]``.
        factor: coordinates of the values with the same inner products, shape ``[subsets, rank]``;
            the values themselves, or fewer numbers.
        orders: of the polynomials to choose from.

    Returns:
        One fit for each pair of folds, of the order with the least squared error on subsets that
        were left out.
    """
    number = len(phi)
    folds = [np.arange(start, number, _FOLDS) for start in range(_FOLDS)]
    missed = []
    for order in orders if len(orders) > 1 else ():
        total = 0.0
        for fold in folds:
            rest = _fit(phi, factor, order, fold, fold).remainder[fold]
            total += float(np.sum((rest @ factor) ** 2))
        missed.append(total)
    order = orders[int(np.argmin(missed))] if missed else orders[0]
    return [
        _fit(phi, factor, order, folds[a], folds[b])
        for a in range(_FOLDS)
        for b in range(a, _FOLDS)
    ]


def pair_kernels(phi: Floats, factor: Floats, fits: Sequence[Fit]) -> PairKernels:
    """Give the kernels of all pairs.

    Args:
        phi: the standardised subsets.
        factor: coordinates of their values, as for :func:`fits_of_folds`.
        fits: of all pairs of folds.

    Returns:
        The kernels.
    """
    number, branches = phi.shape
    variance, first, second = np.zeros((3, number, number))
    of_branches = np.zeros((branches, number))
    for fit in fits:
        rest, coefficients = fit.remainder @ factor, fit.coefficients @ factor
        linear, pairwise = fit.linear @ factor, fit.pairs @ factor
        inner = rest @ rest.T
        of_linear, of_pairs = np.sum(linear * rest, axis=1), np.sum(pairwise * rest, axis=1)
        each_norm = np.sum(coefficients**2, axis=1)
        norms = (
            float(each_norm.sum()),
            float(np.sum((fit.dual @ factor) * pairwise[fit.fitted])),
        )
        own = of_linear + of_pairs + np.diag(inner) / 2
        crossed = coefficients @ rest.T * phi.T
        for rows, columns in _sides(fit):
            block = np.ix_(rows, columns)
            one, two = _kernels(phi, rows, columns)
            first[block] = (
                norms[0] + of_linear[rows, None] + of_linear[columns] + one * inner[block]
            )
            second[block] = norms[1] + of_pairs[rows, None] + of_pairs[columns] + two * inner[block]
            variance[block] = sum(norms) + own[rows, None] + own[columns] - inner[block]
            pairs = _pairs_of(rows, columns)
            weights = inner[block] * pairs
            of_branches[:, rows] += (
                each_norm[:, None] * pairs.sum(axis=1)
                + crossed[:, rows] * pairs.sum(axis=1)
                + crossed[:, columns] @ pairs.T
                + phi[rows].T * (phi[columns].T @ weights.T)
            )
    for kernel in (variance, first, second):
        np.fill_diagonal(kernel, 0.0)
    return PairKernels(variance, first, second, of_branches / (number - 1))


def unit_means(phi: Floats, values: Floats, fits: Sequence[Fit]) -> UnitMeans:
    """Give what each subset and example contributes.

    Args:
        phi: the standardised subsets.
        values: f on them, shape ``[subsets, examples, classes]``.
        fits: of all pairs of folds.

    Returns:
        The means over pairs.
    """
    number, examples, classes = values.shape
    variance, first, second = np.zeros((3, number, examples))
    of_branches = np.zeros((phi.shape[1], examples))
    flat = values.reshape(number, -1)

    def summed(products: Floats) -> Floats:
        sums: Floats = products.reshape(len(products), examples, classes).sum(axis=2)
        return sums

    for fit in fits:
        rest = fit.remainder @ flat
        coefficients = fit.coefficients @ flat
        linear, pairs = fit.linear @ flat, fit.pairs @ flat
        of_linear, of_pairs = summed(linear * rest), summed(pairs * rest)
        each_norm = summed(coefficients**2)
        linear_norm = each_norm.sum(axis=0)
        pairs_norm = summed((fit.dual @ flat) * pairs[fit.fitted]).sum(axis=0)
        own = of_linear + of_pairs + summed(rest**2) / 2
        for rows, columns in _sides(fit):
            one, two = _kernels(phi, rows, columns)
            mask = _pairs_of(rows, columns)
            count = mask.sum(axis=1)[:, None]

            mine, theirs = rest[rows], rest[columns]
            first[rows] += (
                count * (linear_norm + of_linear[rows])
                + mask @ of_linear[columns]
                + summed(mine * ((one * mask) @ theirs))
            )
            second[rows] += (
                count * (pairs_norm + of_pairs[rows])
                + mask @ of_pairs[columns]
                + summed(mine * ((two * mask) @ theirs))
            )
            variance[rows] += (
                count * (linear_norm + pairs_norm + own[rows])
                + mask @ own[columns]
                - summed(mine * (mask @ theirs))
            )
            both = summed((phi[rows].T @ mine) * (phi[columns].T @ theirs))
            if rows is columns:
                both = both - (phi[rows].T ** 2) @ summed(mine**2)
            crossed = summed(coefficients * ((phi[rows].T * mask.sum(axis=1)) @ mine))
            crossed += summed(coefficients * ((phi[columns].T * mask.sum(axis=0)) @ theirs))
            of_branches += mask.sum() * each_norm + crossed + both
    scale = number - 1
    return UnitMeans(
        variance / scale, first / scale, second / scale, of_branches / (number * scale)
    )


def _sides(fit: Fit) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    yield fit.first, fit.second
    if fit.first is not fit.second:
        yield fit.second, fit.first


def _pairs_of(rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]) -> Floats:
    """One for every pair of two subsets."""
    different: Floats = (rows[:, None] != columns).astype(np.float64)
    return different


def _kernels(
    phi: Floats, rows: npt.NDArray[np.int64], columns: npt.NDArray[np.int64]
) -> tuple[Floats, Floats]:
    """The elementary symmetric polynomials of order 1 and 2 in the products of two subsets."""
    one: Floats = phi[rows] @ phi[columns].T
    squares: Floats = phi[rows] ** 2 @ (phi[columns] ** 2).T
    return one, (one**2 - squares) / 2


def _fit(
    phi: Floats,
    factor: Floats,
    order: int,
    first: npt.NDArray[np.int64],
    second: npt.NDArray[np.int64],
) -> Fit:
    number = len(phi)
    left_out = np.zeros(number, dtype=bool)
    left_out[first] = left_out[second] = True
    fitted = np.flatnonzero(~left_out)
    chosen = np.eye(number)[fitted]
    everything = np.arange(number)
    rest = chosen
    linear, dual, pairs = np.zeros((3, number, number))
    dual = dual[fitted]
    coefficients = np.zeros((phi.shape[1], number))
    if order > 0:
        coefficients = _ridge_coefficients(phi[fitted], rest - rest.mean(axis=0), factor)
        linear = phi @ coefficients
        rest = chosen - linear[fitted]
    mean = rest.mean(axis=0)
    if order > 1:
        _, two = _kernels(phi, everything, fitted)
        dual = _ridge_weights(two[fitted], rest - mean, factor)
        pairs = two @ dual
    remainder = np.eye(number) - mean - linear - pairs
    return Fit(first, second, coefficients, linear, dual, pairs, remainder, fitted)


def _ridge_coefficients(features: Floats, targets: Floats, factor: Floats) -> Floats:
    """Ridge regression, from values to coefficients; the intercept is not penalised."""
    centred = features - features.mean(axis=0)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    projected = left.T @ targets
    whole = float(np.sum((targets @ factor) ** 2))
    penalty = _penalty(singular**2, projected @ factor, whole, len(features))
    shrunk = projected * (singular / (singular**2 + penalty))[:, None]
    coefficients: Floats = right.T @ shrunk
    return coefficients


def _ridge_weights(kernel: Floats, targets: Floats, factor: Floats) -> Floats:
    """Kernel ridge regression, from values to weights; the intercept is not penalised."""
    scale = float(np.abs(kernel).max())
    kernel = kernel - kernel.mean(axis=0)
    kernel -= kernel.mean(axis=1, keepdims=True)
    roots, vectors = np.linalg.eigh(kernel)
    roots = np.clip(roots, 0.0, None)
    if roots.max() <= _ROUNDING * scale:
        # Subsets that are alike tell pairs nothing; dividing by what rounding leaves would.
        return np.zeros_like(targets)
    projected = vectors.T @ targets
    whole = float(np.sum((targets @ factor) ** 2))
    penalty = _penalty(roots, projected @ factor, whole, len(kernel))
    weights: Floats = vectors @ (projected / (roots + penalty)[:, None])
    centred: Floats = weights - weights.mean(axis=0)
    return centred


def _penalty(roots: Floats, projected: Floats, whole: float, number: int) -> float:
    """By generalised cross-validation (Golub, Heath and Wahba 1979, Technometrics 21:215-223)."""
    squares = np.sum(projected**2, axis=1)
    beyond = max(0.0, whole - float(squares.sum()))
    penalties = _PENALTIES * max(float(roots.max()), np.finfo(float).tiny)
    shrinkage = penalties[:, None] / (roots + penalties[:, None])
    left = shrinkage.sum(axis=1) + number - roots.size
    scores = (shrinkage**2 @ squares + beyond) / left**2
    return float(penalties[int(np.argmin(scores))])
