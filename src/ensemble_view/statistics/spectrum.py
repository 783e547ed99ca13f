"""What a function of the kept branches is made of: dividends, spectrum, and values of branches.

``f`` is given on all 2^n subsets of n branches: the first axis of an array is the bit mask of the
subset, where bit i says that branch i is kept; further axes (examples, classes) are carried along.
Everything is exact and takes O(n 2^n) operations per further value, by one butterfly per branch.

How to read it. Where branches only add, all the variance of f lies at order 1. The sum over paths
``f(S) = sum of m(T) over T within S`` holds for every f; it is the law of the dividends m that says
something. :func:`path_order_law` and :func:`independent_order_law` are what to compare with. A
majority vote of independent members is not additive either, and one strong branch among dead ones
is: additivity is neither necessary nor sufficient for an ensemble. :func:`effective_branches` tells
the latter apart.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.student import check_level, student_interval

__all__ = [
    "banzhaf_interactions",
    "banzhaf_values",
    "dividends",
    "effective_branches",
    "fourier",
    "from_dividends",
    "independent_order_law",
    "mean_by_size",
    "order_energies",
    "path_order_law",
    "shapley_values",
    "subset_sizes",
    "variance_shares",
]

Floats = npt.NDArray[np.float64]

# A variance below this share of the mean square is what rounding leaves of a constant.
_ROUNDING = 1e-24


def subset_sizes(branches: int) -> npt.NDArray[np.int64]:
    """Give the number of kept branches of every bit mask.

    Args:
        branches: how many there are, n.

    Returns:
        Integers, shape ``[2^n]``.

    Example:
        >>> subset_sizes(3)
        array([0, 1, 1, 2, 1, 2, 2, 3])
    """
    sizes = np.zeros(1, dtype=np.int64)
    for _ in range(branches):
        sizes = np.concatenate([sizes, sizes + 1])
    return sizes


def dividends(f: npt.ArrayLike) -> Floats:
    r"""Möbius transform: what each subset adds to all that is within it.

    ``m(S) = sum over T within S of (-1)^(|S| - |T|) f(T)`` (Harsanyi 1963, International Economic
    Review 4:194-220; Grabisch and Roubens 1999, International Journal of Game Theory 28:547-565).
    With affine branches (in homogeneous coordinates) and nothing after the additions, m(S) is the
    contribution of the path through the branches S.

    Args:
        f: values on all subsets, shape ``[2^n, ...]``.

    Returns:
        The dividends, same shape.

    Raises:
        MeasurementError: if the first axis is no power of two long.

    Example:
        Two branches that add 1 and 2, and 4 more together:

        >>> dividends([0, 1, 2, 7])
        array([0., 1., 2., 4.])
    """
    values, branches = _on_subsets(f)
    for branch in range(branches):
        without, kept = _halves(values, branch)
        kept -= without
    return values


def from_dividends(m: npt.ArrayLike) -> Floats:
    """Sum dividends over what is within each subset: the inverse of :func:`dividends`.

    Args:
        m: dividends of all subsets, shape ``[2^n, ...]``.

    Returns:
        ``f(S) = sum over T within S of m(T)``, same shape.

    Raises:
        MeasurementError: if the first axis is no power of two long.

    Example:
        >>> from_dividends([0, 1, 2, 4])
        array([0., 1., 2., 7.])
    """
    values, branches = _on_subsets(m)
    for branch in range(branches):
        without, kept = _halves(values, branch)
        kept += without
    return values


def fourier(f: npt.ArrayLike, keep: float = 0.5) -> Floats:
    r"""Fourier coefficients of f where every branch is kept with the same probability.

    ``c(S) = E[f(x) prod over i in S of (x_i - p) / sqrt(p (1 - p))]`` for independent x_i, 1 with
    probability p: the coefficients in the orthonormal p-biased basis (O'Donnell 2014, Analysis of
    Boolean Functions, section 8.4). At ``p = 1/2`` it is the Walsh-Hadamard transform (chapter 1)
    with the factors +1 for a kept branch and -1 for a deleted one. Parseval: the squares sum to
    ``E[f^2]``.

    Args:
        f: values on all subsets, shape ``[2^n, ...]``.
        keep: the probability p with which a branch is kept; for about d deleted ``1 - d / n``.

    Returns:
        The coefficients, same shape; the first is the mean.

    Raises:
        MeasurementError: if the first axis is no power of two long, or keep is not between 0
            and 1.

    Example:
        >>> fourier([0, 1, 2, 7])
        array([2.5, 1.5, 2. , 1. ])
    """
    _check_keep(keep)
    values, branches = _on_subsets(f)
    deviation = math.sqrt(keep * (1 - keep))
    for branch in range(branches):
        without, kept = _halves(values, branch)
        kept -= without
        without += keep * kept
        kept *= deviation
    return values


def order_energies(f: npt.ArrayLike, keep: float = 0.5) -> Floats:
    """Sum the squared Fourier coefficients of each order, over all further axes.

    The order of a coefficient is the size of its subset. Energies of several batches of examples
    add up, so that a spectrum can be summed as the values come.

    Args:
        f: values on all subsets, shape ``[2^n, ...]``.
        keep: the probability with which a branch is kept.

    Returns:
        The energies of orders 0 to n, shape ``[n + 1]``. Order 0 is the squared mean, the others
        sum to the variance.

    Raises:
        MeasurementError: if the first axis is no power of two long, or keep is not between 0
            and 1.

    Example:
        >>> order_energies([0, 1, 2, 7])
        array([6.25, 6.25, 1.  ])
    """
    coefficients = fourier(f, keep)
    sizes = subset_sizes(_branches_of(coefficients))
    rows = coefficients.reshape(sizes.size, -1)
    squares = np.einsum("se,se->s", rows, rows)
    return np.array([squares[sizes == order].sum() for order in range(sizes[-1] + 1)])


def variance_shares(energies: npt.ArrayLike) -> Floats:
    """Give the share of the variance that lies at each order from 1 on.

    Args:
        energies: of orders 0 to n, shape ``[n + 1]``, as :func:`order_energies` gives them.

    Returns:
        Shares of orders 1 to n, shape ``[n]``, which sum to 1; nan where there is no variance.

    Raises:
        MeasurementError: if the energies are not one-dimensional, or one is negative.

    Example:
        >>> variance_shares([9.0, 3.0, 1.0])
        array([0.75, 0.25])
    """
    each = np.asarray(energies, dtype=np.float64)
    if each.ndim != 1 or not each.size or not np.all(each >= 0):
        raise MeasurementError(
            f"The energies have shape {each.shape} and the least is {each.min(initial=np.inf):g}; "
            "expected one dimension and none below zero, as order_energies gives them."
        )
    variance = float(each[1:].sum())
    if variance <= _ROUNDING * float(each[0]):
        return np.full(each.size - 1, np.nan)
    return each[1:] / variance


def effective_branches(energies: npt.ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Say how many branches carry the additive part, with an interval over examples.

    The participation ratio ``(sum v_i)^2 / sum v_i^2`` of the branches' energies at order 1: n
    where all are equal, 1 where one carries everything. The interval is by t on its logarithm, the
    variance the jackknife's over examples (Tukey 1958, Annals of Mathematical Statistics 29:614),
    and ends at 1 and n.

    Args:
        energies: v of each example, shape ``[n, examples]``, not negative.
        level: confidence level, a proportion.

    Returns:
        Estimate and limits; nan where nothing is additive, the limits nan for a single example.

    Raises:
        MeasurementError: if the energies are not two-dimensional, or one is negative.

    Example:
        >>> effective_branches([[4.0, 4.0, 4.0], [0.0, 0.0, 0.0]])
        (1.0, 1.0, 1.0)
    """
    v = np.asarray(energies, dtype=np.float64)
    if v.ndim != 2 or not v.size or not np.all(v >= 0):
        raise MeasurementError(
            f"The energies have shape {v.shape} and the least is {v.min(initial=np.inf):g}; "
            "expected [branches, examples] and none below zero."
        )
    check_level(level)
    total = v.sum(axis=1)
    if not total.any():
        return math.nan, math.nan, math.nan
    ratio = float(total.sum() ** 2 / np.sum(total**2))
    examples = v.shape[1]
    if examples == 1:
        return ratio, math.nan, math.nan
    left = np.clip(total[:, None] - v, 0.0, None)
    whole = left.sum(axis=0)
    if not whole.all():
        return ratio, 1.0, float(len(v))
    logs = np.log(whole**2 / np.sum(left**2, axis=0))
    error = math.sqrt((examples - 1) / examples * float(np.sum((logs - logs.mean()) ** 2)))
    low, high, _ = student_interval(math.log(ratio), error, examples - 1, level)
    return ratio, max(1.0, float(np.exp(low))), min(float(len(v)), float(np.exp(high)))


def mean_by_size(f: npt.ArrayLike) -> Floats:
    """Average f over all subsets of each size.

    Args:
        f: values on all subsets, shape ``[2^n, ...]``.

    Returns:
        The mean over the C(n, k) subsets of k kept branches, k from 0 to n, shape
        ``[n + 1, ...]``.

    Raises:
        MeasurementError: if the first axis is no power of two long.

    Example:
        >>> mean_by_size([0, 1, 2, 7])
        array([0. , 1.5, 7. ])
    """
    values, branches = _on_subsets(f)
    sizes = subset_sizes(branches)
    return np.stack([values[sizes == size].mean(axis=0) for size in range(branches + 1)])


def shapley_values(f: npt.ArrayLike) -> Floats:
    """Share f(all) - f(none) among the branches.

    ``sum over S without i of |S|! (n - |S| - 1)! / n! (f(S + i) - f(S))``: what a branch adds, on
    average over all orders in which branches can be put in (Shapley 1953, in Contributions to the
    Theory of Games II:307-317). The values sum to f(all) - f(none).

    Args:
        f: values on all subsets, shape ``[2^n, ...]``.

    Returns:
        One value per branch, shape ``[n, ...]``.

    Raises:
        MeasurementError: if the first axis is no power of two long.

    Example:
        >>> shapley_values([0, 1, 2, 7])
        array([3., 4.])
    """
    values, branches = _on_subsets(f)
    if not branches:
        return values[:0]
    of_size = [1 / (branches * math.comb(branches - 1, size)) for size in range(branches)]
    weights = np.array(of_size)[subset_sizes(branches - 1)]
    found = []
    for branch in range(branches):
        without, kept = _halves(values, branch)
        gains = (kept - without).reshape(weights.size, *values.shape[1:])
        found.append(np.tensordot(weights, gains, axes=1))
    return np.stack(found)


def banzhaf_values(f: npt.ArrayLike, keep: float = 0.5) -> Floats:
    """Give what each branch adds on average where the others are kept at random.

    ``E[f(S + i) - f(S)]`` with every other branch in S with probability p; at 1/2 the index of
    Banzhaf (1965, Rutgers Law Review 19:317-343). It is the Fourier coefficient of {i} over
    ``sqrt(p (1 - p))`` (O'Donnell 2014, section 8.4). The values need not sum to anything.

    Args:
        f: values on all subsets, shape ``[2^n, ...]``.
        keep: the probability p with which another branch is kept.

    Returns:
        One value per branch, shape ``[n, ...]``.

    Raises:
        MeasurementError: if the first axis is no power of two long, or keep is not between 0
            and 1.

    Example:
        >>> banzhaf_values([0, 1, 2, 7])
        array([3., 4.])
    """
    coefficients = fourier(f, keep)
    alone = 1 << np.arange(_branches_of(coefficients))
    found: Floats = coefficients[alone] / math.sqrt(keep * (1 - keep))
    return found


def banzhaf_interactions(f: npt.ArrayLike, keep: float = 0.5) -> Floats:
    """Give how much more two branches add together, where the others are kept at random.

    ``E[f(S + i + j) - f(S + i) - f(S + j) + f(S)]`` with every other branch in S with probability
    p: at 1/2 the Banzhaf interaction index (Grabisch and Roubens 1999). For an f of which more is
    better, it is above zero where the two need each other and below where one stands in for the
    other.

    Args:
        f: values on all subsets, shape ``[2^n, ...]``.
        keep: the probability p with which another branch is kept.

    Returns:
        A symmetric matrix, shape ``[n, n, ...]``, nan on its diagonal.

    Raises:
        MeasurementError: if the first axis is no power of two long, or keep is not between 0
            and 1.

    Example:
        >>> banzhaf_interactions([0, 1, 2, 7])
        array([[nan,  4.],
               [ 4., nan]])
    """
    coefficients = fourier(f, keep)
    bits = 1 << np.arange(_branches_of(coefficients))
    found: Floats = coefficients[bits[:, None] | bits] / (keep * (1 - keep))
    found[np.diag_indices(bits.size)] = np.nan
    return found


def path_order_law(length: int, keep: float = 0.5) -> Floats:
    """Give the energies by order of one path: of the product of the kept bits of its branches.

    ``x_i = p + sqrt(p (1 - p)) phi_i`` for each of the k branches, so that order j has the share
    ``C(k, j) p^(k-j) (1-p)^j`` of the energy: Binomial(k, 1 - p). A path spreads over all orders
    up to its length; at ``p = 1/2`` order 1 has ``k / (2^k - 1)`` of its variance.

    Args:
        length: of the path, k.
        keep: the probability p with which a branch is kept.

    Returns:
        Shares of the energy of orders 0 to k, shape ``[k + 1]``; :func:`variance_shares` turns
        them into shares of the variance.

    Raises:
        MeasurementError: if the length is negative, or keep is not between 0 and 1.

    Example:
        >>> variance_shares(path_order_law(3)).round(3)
        array([0.429, 0.429, 0.143])
    """
    _check_keep(keep)
    if length < 0:
        raise MeasurementError(f"A path of length {length} was asked for; expected 0 or more.")
    return _binomial(length, 1 - keep)


def independent_order_law(branches: int, ratio: float, keep: float = 0.5) -> Floats:
    """Give the expected energies by order where dividends are independent.

    Let the dividends have mean zero, no correlation, and a mean square proportional to ``q^|S|``:
    every branch more on a path multiplies its energy by q. The squared coefficient of S then has
    the expectation ``(q p (1-p))^|S| (1 + q p^2)^(n-|S|)`` up to a factor, so that the order is
    Binomial(n, q p (1-p) / (1 + q p)); at ``p = 1/2`` with probability ``(q/4) / (1 + q/2)``.

    Args:
        branches: how many there are, n.
        ratio: the energy ratio q, not negative.
        keep: the probability p with which a branch is kept.

    Returns:
        Shares of the energy of orders 0 to n, shape ``[n + 1]``; :func:`variance_shares` turns
        them into shares of the variance.

    Raises:
        MeasurementError: if the number or the ratio is negative, or keep is not between 0 and 1.

    Example:
        >>> independent_order_law(2, ratio=1.0).round(3)
        array([0.694, 0.278, 0.028])
    """
    _check_keep(keep)
    if branches < 0 or not ratio >= 0:
        raise MeasurementError(
            f"{branches} branches with an energy ratio of {ratio} were asked for; expected neither "
            "to be negative."
        )
    chance = ratio * keep * (1 - keep) / (1 + ratio * keep)
    return _binomial(branches, chance)


def _binomial(number: int, chance: float) -> Floats:
    law = np.ones(1)
    for _ in range(number):
        law = np.convolve(law, [1 - chance, chance])
    return law


def _on_subsets(f: npt.ArrayLike) -> tuple[Floats, int]:
    """A contiguous float64 copy to work in, and the number of branches."""
    values = np.array(f, dtype=np.float64, order="C")
    subsets = values.shape[0] if values.ndim else 0
    if subsets < 1 or subsets & (subsets - 1):
        raise MeasurementError(
            f"Values have shape {values.shape}; expected the first axis to be 2^n subsets long, "
            "one for each bit mask of kept branches."
        )
    return values, _branches_of(values)


def _branches_of(values: Floats) -> int:
    return int(values.shape[0]).bit_length() - 1


def _halves(values: Floats, branch: int) -> tuple[Floats, Floats]:
    """Views of the values without and with a branch, the other branches in the same order."""
    split = values.reshape(values.shape[0] >> branch + 1, 2, 1 << branch, *values.shape[1:])
    return split[:, 0], split[:, 1]


def _check_keep(keep: float) -> None:
    if not 0 < keep < 1:
        raise MeasurementError(
            f"The keep-probability is {keep}; expected it between 0 and 1, such as 1 - d / n where "
            "d of n branches are deleted on average."
        )
