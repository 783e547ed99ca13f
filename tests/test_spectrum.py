"""The subset spectrum: against brute-force definitions, and its laws on random games."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.spectrum import (
    banzhaf_interactions,
    banzhaf_values,
    dividends,
    effective_branches,
    fourier,
    from_dividends,
    independent_order_law,
    mean_by_size,
    order_energies,
    path_order_law,
    shapley_values,
    subset_sizes,
    variance_shares,
)

Floats = npt.NDArray[np.float64]


@st.composite
def games(draw: st.DrawFn, least: int = 0, most: int = 6) -> Floats:
    """Values on all subsets of a few branches, with no, one or two further axes."""
    further = draw(st.sampled_from([(), (3,), (2, 2)]))
    shape = (2 ** draw(st.integers(least, most)), *further)
    return draw(arrays.arrays(np.float64, shape, elements=st.floats(-9, 9, width=32)))


keeps = st.floats(0.05, 0.95)


class Game:
    """f as a function of sets, with the definitions written out."""

    def __init__(self, f: Floats):
        self.n = len(f).bit_length() - 1
        self.branches = range(self.n)
        self.f = {self.members(mask): value for mask, value in enumerate(f)}

    def members(self, mask: int) -> frozenset[int]:
        return frozenset(i for i in self.branches if mask >> i & 1)

    @staticmethod
    def within(members) -> list[frozenset[int]]:
        return [
            frozenset(chosen)
            for size in range(len(members) + 1)
            for chosen in itertools.combinations(sorted(members), size)
        ]

    def per_mask(self, of) -> list:
        return [of(self.members(mask)) for mask in range(2**self.n)]

    def dividend(self, s):
        return sum((-1) ** (len(s) - len(t)) * self.f[t] for t in self.within(s))

    def coefficient(self, s, p: float):
        total = 0
        for t, value in self.f.items():
            chance = p ** len(t) * (1 - p) ** (self.n - len(t))
            basis = math.prod(((i in t) - p) / math.sqrt(p * (1 - p)) for i in s)
            total = total + chance * basis * value
        return total

    def shapley(self, i: int):
        """From the definition over orders of entry, not over subsets."""
        orders = list(itertools.permutations(self.branches))
        gains = [
            self.f[frozenset(order[: order.index(i) + 1])]
            - self.f[frozenset(order[: order.index(i)])]
            for order in orders
        ]
        return sum(gains) / len(orders)

    def banzhaf(self, together: tuple[int, ...], p: float):
        others = [i for i in self.branches if i not in together]
        total = 0
        for t in self.within(others):
            difference = sum(
                (-1) ** (len(together) - len(u)) * self.f[t | u] for u in self.within(together)
            )
            total = total + p ** len(t) * (1 - p) ** (len(others) - len(t)) * difference
        return total


def close(found: Floats, expected, tolerance: float = 1e-10) -> bool:
    return np.allclose(found, np.asarray(expected), rtol=0, atol=tolerance)


@given(games())
def test_dividends_are_the_alternating_sums_and_sum_to_f_again(f):
    game = Game(f)
    assert close(dividends(f), game.per_mask(game.dividend), 1e-9)
    assert close(from_dividends(dividends(f)), f)


@given(games(most=5), keeps)
def test_fourier_coefficients_are_the_expectations_that_define_them(f, keep):
    game = Game(f)
    assert close(fourier(f, keep), game.per_mask(lambda s: game.coefficient(s, keep)), 1e-9)


@given(games(), keeps)
def test_parseval_at_any_keep_probability(f, keep):
    energies = order_energies(f, keep)
    sizes = subset_sizes(len(f).bit_length() - 1)
    chances = keep**sizes * (1 - keep) ** (sizes[-1] - sizes)
    squares = (f**2).reshape(len(f), -1).sum(axis=1)
    mean = np.tensordot(chances, f, axes=1)
    assert energies.shape == (sizes[-1] + 1,)
    assert energies.sum() == pytest.approx(chances @ squares, abs=1e-9)
    assert energies[0] == pytest.approx(np.sum(mean**2), abs=1e-9)


@given(games(), keeps)
def test_energies_are_the_squared_coefficients_of_each_order_and_add_over_examples(f, keep):
    sizes, squares = subset_sizes(len(f).bit_length() - 1), fourier(f, keep) ** 2
    expected = [squares[sizes == order].sum() for order in range(sizes[-1] + 1)]
    assert close(order_energies(f, keep), expected, 1e-9)
    if f.ndim == 3:
        parts = sum(order_energies(f[:, each], keep) for each in range(f.shape[1]))
        assert close(parts, expected, 1e-9)


@given(games(least=1, most=4), keeps)
def test_values_and_interactions_are_those_defined(f, keep):
    game = Game(f)
    assert close(shapley_values(f), [game.shapley(i) for i in game.branches])
    assert close(banzhaf_values(f, keep), [game.banzhaf((i,), keep) for i in game.branches], 1e-9)
    found = banzhaf_interactions(f, keep)
    for i, j in itertools.combinations(game.branches, 2):
        assert close(found[i, j], game.banzhaf((i, j), keep), 1e-8)
        assert close(found[j, i], found[i, j])
    assert np.isnan(found[np.diag_indices(game.n)]).all()


@settings(max_examples=30)
@given(games(least=1, most=9))
def test_shapley_values_sum_to_what_all_branches_add(f):
    assert close(shapley_values(f).sum(axis=0), f[-1] - f[0])
    assert close(mean_by_size(f)[[0, -1]], f[[0, -1]])


@given(games())
def test_the_mean_by_size_is_over_all_subsets_of_that_size(f):
    game = Game(f)
    sets = [[f for s, f in game.f.items() if len(s) == size] for size in range(game.n + 1)]
    assert [len(each) for each in sets] == [math.comb(game.n, k) for k in range(game.n + 1)]
    assert close(mean_by_size(f), [np.mean(each, axis=0) for each in sets])


@given(st.lists(st.floats(0.01, 9), min_size=1, max_size=10), st.floats(-9, 9), keeps)
def test_what_only_adds_has_all_its_variance_at_order_one(weights, base, keep):
    kept = np.array(list(itertools.product([0, 1], repeat=len(weights))))[:, ::-1]
    f = base + kept @ weights
    shares = variance_shares(order_energies(f, keep))
    assert shares[0] == pytest.approx(1, abs=1e-10)
    assert close(shapley_values(f), weights)
    assert close(banzhaf_values(f, keep), weights, 1e-9)


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.3])
@pytest.mark.parametrize("length", range(1, 8))
def test_a_path_spreads_over_the_orders_as_its_law_says(length, keep):
    # The path takes some of eight branches; the bits of the others do not matter.
    taken = [1, 2, 3, 5, 6, 7, 0][:length]
    f = [all(mask >> i & 1 for i in taken) for mask in range(256)]
    energies = order_energies(f, keep)
    law = path_order_law(length, keep)
    assert close(energies[: length + 1] / energies.sum(), law, 1e-12)
    assert close(energies[length + 1 :], 0, 1e-12)
    if keep == 0.5:
        assert variance_shares(law)[0] == pytest.approx(length / (2**length - 1), rel=1e-12)


@pytest.mark.parametrize(("ratio", "keep"), [(0.3, 0.5), (1.0, 0.5), (2.0, 0.8), (0.1, 0.9)])
def test_independent_dividends_have_the_orders_of_their_law(ratio, keep):
    # The expectation is exact: each dividend's own energies, added, as products vanish.
    n = 6
    sizes = subset_sizes(n)
    energies = order_energies(from_dividends(np.diag(ratio ** (sizes / 2))), keep)
    law = independent_order_law(n, ratio, keep)
    assert close(energies / energies.sum(), law, 1e-12)
    if keep == 0.5:
        mean = law @ np.arange(n + 1)
        assert mean == pytest.approx(n * (ratio / 4) / (1 + ratio / 2), rel=1e-12)
    # Random signs agree with the expectation but for their spread.
    rng = np.random.default_rng(0)
    m = ratio ** (sizes / 2)[:, None] * rng.normal(size=(2**n, 4000))
    drawn = order_energies(from_dividends(m), keep)
    assert close(drawn / drawn.sum(), law, 0.02)


def test_affine_branches_have_their_paths_as_dividends():
    """x + W_i x for each kept i in turn: the dividend of S is the product of its W, to rounding."""
    rng = np.random.default_rng(3)
    n, width = 6, 5
    weights, x = rng.normal(size=(n, width, width)), rng.normal(size=width)
    outputs, paths = [], []
    for mask in range(2**n):
        kept = [i for i in range(n) if mask >> i & 1]
        whole, path = x, x
        for i in kept:
            whole, path = whole + weights[i] @ whole, weights[i] @ path
        outputs.append(whole)
        paths.append(path)
    assert np.abs(paths).max() > 10
    assert close(dividends(outputs), paths, 1e-10 * np.abs(paths).max())


def test_what_does_not_vary_has_no_shares_and_inputs_are_left_alone():
    constant = np.full((8, 2), 0.1)
    assert np.isnan(variance_shares(order_energies(constant, 0.7))).all()
    f = np.arange(8.0)
    for of in (dividends, from_dividends, fourier, order_energies, shapley_values, banzhaf_values):
        of(f)
    assert (f == np.arange(8)).all()


def test_booleans_and_other_orders_of_memory_are_read_as_they_are():
    f = np.random.default_rng(0).normal(size=(3, 16)).T
    assert not f.flags["C_CONTIGUOUS"]
    assert close(fourier(f), fourier(f.copy(order="C")))
    majority = subset_sizes(3) >= 2
    assert order_energies(majority) == pytest.approx([1 / 4, 3 / 16, 0, 1 / 16])


def test_a_majority_vote_of_independent_members_is_not_additive():
    """Order 1 has ``n (C(n - 1, (n - 1) / 2) / 2^(n - 1))^2``: two thirds for eleven members."""
    shares = variance_shares(order_energies(subset_sizes(11) >= 6))
    assert shares[0] == pytest.approx(11 * (math.comb(10, 5) / 2**10) ** 2, rel=1e-12)
    assert f"{shares[0]:.2f}" == "0.67"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dividends([1, 2, 3]), r"^Values have shape \(3,\); expected the first axis to be"),
        (lambda: fourier(1.0), r"^Values have shape \(\); expected"),
        (lambda: shapley_values([]), r"^Values have shape \(0,\); expected"),
        (lambda: fourier([1, 2], 1.0), r"^The keep-probability is 1.0; expected it between 0 and"),
        (lambda: path_order_law(2, 0), r"^The keep-probability is 0; expected"),
        (lambda: path_order_law(-1), r"^A path of length -1 was asked for; expected 0 or more"),
        (lambda: independent_order_law(3, -1), r"^3 branches with an energy ratio of -1 were aske"),
        (lambda: variance_shares([1, -1]), r"^The energies have shape \(2,\) and the least is -1;"),
    ],
)
def test_what_has_no_spectrum_is_refused_in_words(call, message):
    with pytest.raises(MeasurementError, match=message):
        call()


def test_effective_branches_are_all_where_equal_and_cover_the_populations_number():
    assert effective_branches(np.ones((5, 7)))[0] == pytest.approx(5)
    assert math.isnan(effective_branches(np.zeros((5, 7)))[0])
    assert effective_branches([[1.0], [1.0]])[0] == pytest.approx(2)
    rng = np.random.default_rng(0)
    common = rng.lognormal(0, 1, 9)
    truth = common.sum() ** 2 / np.sum(common**2)
    held = []
    for _ in range(400):
        found = effective_branches(common[:, None] * rng.lognormal(0, 0.7, (9, 60)))
        assert 1 <= found[1] <= found[0] <= found[2] <= 9
        held.append(found[1] <= truth <= found[2])
    assert 0.9 <= np.mean(held) <= 0.98
