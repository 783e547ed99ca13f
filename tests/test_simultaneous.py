"""Limits in the far tails: against an optimiser, by exact enumeration, and for families at once."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import optimize, stats

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.paired import PairedCounts, tango_interval
from ensemble_view.statistics.simultaneous import (
    adjusted_level,
    drop_limits,
    error_ratio,
    share_limits,
)

BEFORE, AFTER = np.array([1, 1, 0, 0]), np.array([1, 0, 1, 0])


def corrected(counts: PairedCounts, contrast: np.ndarray, z: float, step: float) -> float:
    """The corrected score by definition, with the cell probabilities from a general optimiser."""
    cells = np.array([counts.both, counts.lost, counts.gained, counts.neither], float)
    n = cells.sum()
    found = optimize.minimize(
        lambda q: -np.sum(cells * np.log(q)),
        np.full(4, 0.25),
        jac=lambda q: -cells / q,
        method="SLSQP",
        bounds=[(1e-12, 1)] * 4,
        constraints=[
            {"type": "eq", "fun": lambda q: q.sum() - 1},
            {"type": "eq", "fun": lambda q: contrast @ q},
        ],
        options={"maxiter": 500, "ftol": 1e-14},
    )
    deviation = math.sqrt(contrast**2 @ found.x / n)
    skewness = (contrast**3 @ found.x / n**2) / deviation**3
    return (contrast @ cells / n + step / n) / deviation - skewness * (z**2 - 1) / 6


@pytest.mark.parametrize("level", [0.95, 0.999])
@pytest.mark.parametrize("cells", [(850, 60, 10, 80), (40, 9, 3, 8), (100, 100, 100, 100)])
def test_limits_are_where_the_score_of_an_optimiser_crosses(cells, level):
    counts, z = PairedCounts(*cells), stats.norm.ppf((1 + level) / 2)
    for found, contrast in (
        (drop_limits(counts, level), lambda v: BEFORE - AFTER - v),
        (share_limits(counts, 0.1, level), lambda v: BEFORE - AFTER - v * (BEFORE - 0.1)),
        (error_ratio(counts, level), lambda v: (1 - AFTER) - v * (1 - BEFORE)),
    ):
        assert corrected(counts, contrast(found.high), z, 0.5) == pytest.approx(-z, abs=2e-3)
        assert corrected(counts, contrast(found.low), z, -0.5) == pytest.approx(z, abs=2e-3)


def test_every_small_table_has_limits_around_its_estimate():
    level = adjusted_level(0.95, 27)
    for cells in itertools.product(range(4), repeat=4):
        if not sum(cells):
            continue
        counts = PairedCounts(*cells)
        drop, ratio = drop_limits(counts, level), error_ratio(counts, level)
        assert -1 <= drop.low <= counts.drop <= drop.high <= 1
        assert 0 <= ratio.low <= ratio.high
        assert math.isnan(ratio.value) or ratio.low <= ratio.value <= ratio.high
        share = share_limits(counts, 0.1, level)
        assert math.isnan(share.value) or share.low <= share.value <= share.high
        mirrored = drop_limits(PairedCounts(cells[0], cells[2], cells[1], cells[3]), level)
        assert (mirrored.low, mirrored.high) == pytest.approx((-drop.high, -drop.low), abs=1e-9)


def test_an_error_of_zero_bounds_the_ratio_on_one_side():
    perfect = error_ratio(PairedCounts(95, 5, 0, 0))
    assert (perfect.value, perfect.high) == (math.inf, math.inf)
    assert perfect.low > 1
    cured = error_ratio(PairedCounts(90, 0, 10, 0))
    assert (cured.value, cured.low) == (0, 0)
    assert cured.high < 1
    neither = error_ratio(PairedCounts(100, 0, 0, 0))
    assert math.isnan(neither.value)
    assert (neither.low, neither.high) == (0, math.inf)


def test_the_issue_of_a_lesion_at_chance():
    share = share_limits(PairedCounts(both=2, lost=16, gained=0, neither=2), 0.1, 0.99)
    assert share.low < 1 < share.high
    assert share.value == pytest.approx(1)


def tails(p_lost: float, p_gained: float, n: int, level: float, limits) -> tuple[float, float]:
    """Exact probabilities that the true drop lies below and above the limits."""
    law, drop = stats.binom(n, p_lost), p_lost - p_gained
    below = above = 0.0
    for lost in range(int(law.ppf(1e-7)), int(law.isf(1e-7)) + 1):
        rest = stats.binom(n - lost, p_gained / (1 - p_lost))
        for gained in range(int(rest.isf(1e-7)) + 1):
            weight = float(law.pmf(lost) * rest.pmf(gained))
            found = limits(lost, gained, n, level)
            below += weight * (drop < found.low - 1e-12)
            above += weight * (drop > found.high + 1e-12)
    return below, above


def own(lost, gained, n, level):
    return drop_limits(PairedCounts(n - lost - gained, lost, gained, 0), level)


@pytest.mark.parametrize(("lost", "gained"), [(12, 0.3), (5, 1), (2, 3)])
def test_each_tail_keeps_its_share_of_the_error_where_tangos_does_not(lost, gained):
    """With 54 lesions and few changed answers, enumerated exactly; Tango's is the control."""
    level, n = adjusted_level(0.95, 54), 400
    nominal = (1 - level) / 2
    assert max(tails(lost / n, gained / n, n, level, own)) <= nominal
    if lost == 12:
        assert max(tails(lost / n, gained / n, n, level, tango_interval)) > 2 * nominal


def test_all_lesions_of_a_run_are_covered_at_once():
    """A miniature of ``analyses/simultaneous.py``: 54 lesions that share their examples."""
    rng, n, lesions, runs, chance = np.random.default_rng(0), 400, 54, 20, 0.1
    damage = rng.uniform(0, 0.03, lesions)
    level = adjusted_level(0.95, lesions)
    missed = 0
    for _ in range(runs):
        before = rng.random(n) < 0.95
        hit = rng.random((lesions, n)) < damage[:, None]
        after = np.where(hit, rng.random((lesions, n)) < chance, before)
        wrong = False
        for row, share in zip(after, damage, strict=True):
            table = [int(np.sum(a & b)) for a in (before, ~before) for b in (row, ~row)]
            counts = PairedCounts(table[0], table[1], table[2], table[3])
            drop, ratio = share * (0.95 - chance), (0.05 + share * (0.95 - chance)) / 0.05
            found, errors = drop_limits(counts, level), error_ratio(counts, level)
            wrong |= not (found.low <= drop <= found.high and errors.low <= ratio <= errors.high)
        missed += wrong
    # Both quantities at once: at most 10 % of the runs may miss one.
    assert stats.binom(runs, 0.10).sf(missed - 1) > 1e-3


def test_impossible_levels_and_chances_are_refused():
    with pytest.raises(MeasurementError, match="level"):
        adjusted_level(1.5, 3)
    with pytest.raises(MeasurementError, match="Chance is 2"):
        share_limits(PairedCounts(1, 1, 1, 1), 2)
    assert adjusted_level(0.95, 0) == 0.95
