"""Do simultaneous intervals of a lesion study hold for all lesions at once, as they say?

Each interval of m lesions has level 1 - 0.05 / m (Bonferroni), which is far out in the tails, where
an approximation that is good at 95 % can be off by a factor. Measured here are

1. the tails of one interval of the paired drop, by exact enumeration of the discordant counts: how
   often the true value lies below or above it, as a multiple of what the level allows, the worst
   over a grid; of Tango's interval at the same level and of the one that is used;
2. the share of simulated studies of 54 and 27 lesions in which all intervals cover: of the drop, of
   the normalised drop, of the error ratio; blocks share their examples, as they do in a study;
3. the same of sequences, whose intervals are t intervals, where means per sequence are skewed.

    python analyses/simultaneous.py

writes ``analyses/simultaneous/``: the tables and ``summary.md``. A few minutes on one CPU core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from reporting import made_by, markdown_table, write
from scipy import stats

from ensemble_view.statistics.paired import (
    Interval,
    PairedCounts,
    accuracy_interval,
    paired_counts,
    tango_interval,
)
from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.statistics.simultaneous import (
    adjusted_level,
    drop_limits,
    error_ratio,
    share_limits,
)

LEVEL = 0.95
SEED = 0
LOST = (0.3, 1.3, 3, 5, 8, 12, 20, 40)
GAINED = (0, 0.3, 1, 3, 10)
"""Expected numbers of lost and gained examples in the grid."""
CHANCE = 0.1
DAMAGE = 0.03
"""A block turns up to this share of the answers into guesses."""
RUNS = 60
"""Simulated studies of a classifier."""
Limits = Callable[[int, int, int, float], Interval]


@cache
def corrected(lost: int, gained: int, n: int, level: float) -> Interval:
    """Return the limits of the drop that are used."""
    return drop_limits(PairedCounts(n - lost - gained, lost, gained, 0), level)


@cache
def tango(lost: int, gained: int, n: int, level: float) -> Interval:
    """Return Tango's limits of the drop, at any level."""
    return tango_interval(lost, gained, n, level)


def tails(lost: float, gained: float, n: int, lesions: int, limits: Limits) -> tuple[float, float]:
    """Return how often the true drop lies below and above the interval, exactly.

    Args:
        lost: Expected number of lost examples.
        gained: Expected number of gained examples.
        n: Examples.
        lesions: How many intervals shall hold at once.
        limits: Of lost, gained, n and level.

    Returns:
        Both probabilities as multiples of what the level allows each.
    """
    level = adjusted_level(LEVEL, lesions)
    law, drop = stats.binom(n, lost / n), (lost - gained) / n
    below = above = 0.0
    for a in range(int(law.ppf(1e-7)), int(law.isf(1e-7)) + 1):
        rest = stats.binom(n - a, gained / (n - lost))
        for b in range(int(rest.ppf(1e-7)), int(rest.isf(1e-7)) + 1) if gained else [0]:
            found = limits(a, b, n, level)
            weight = float(law.pmf(a) * rest.pmf(b)) if gained else float(law.pmf(a))
            below += weight * (drop < found.low - 1e-12)
            above += weight * (drop > found.high + 1e-12)
    return below / ((1 - level) / 2), above / ((1 - level) / 2)


def worst_tails(sizes: tuple[int, ...] = (200,)) -> pd.DataFrame:
    """Return the worst tail over the grid, by method, examples and lesions."""
    rows = []
    for lesions in (1, 10, 54):
        for n in sizes:
            for name, limits in (("Tango", tango), ("corrected", corrected)):
                found = [
                    (max(tails(lost, gained, n, lesions, limits)), lost, gained)
                    for lost in LOST
                    for gained in GAINED
                ]
                worst, lost, gained = max(found)
                rows.append((lesions, n, name, worst, lost, gained))
    columns = ["lesions", "examples", "interval", "worst_tail", "lost", "gained"]
    return pd.DataFrame(rows, columns=columns)


def studies(
    rng: np.random.Generator, runs: int, lesions: int, n: int, accuracy: float
) -> Iterator[list[tuple[PairedCounts, float]]]:
    """Draw studies of blocks that each turn a share of the answers into guesses.

    Args:
        rng: Where the draws come from.
        runs: How many studies.
        lesions: Blocks of each.
        n: Examples.
        accuracy: Of the full net.

    Yields:
        The paired table of each block, and its true drop.
    """
    damage = rng.uniform(0, DAMAGE, lesions)
    for _ in range(runs):
        before = rng.random(n) < accuracy
        hard = rng.random(n)
        study = []
        for share in damage:
            # Blocks hit the same hard examples, as they do in a net.
            hit = np.where(rng.random(n) < 0.5, hard, rng.random(n)) < share
            after = np.where(hit, rng.random(n) < CHANCE, before)
            study.append((paired_counts(before, after), share * (accuracy - CHANCE)))
        yield study


def simulated(runs: int = RUNS) -> pd.DataFrame:
    """Return in which share of studies all intervals cover."""
    rows = []
    for lesions, n, accuracy in ((54, 800, 0.975), (54, 2000, 0.93), (27, 200, 0.9)):
        rng = np.random.default_rng(SEED)
        level = adjusted_level(LEVEL, lesions)
        covered = {"drop": 0, "normalised drop": 0, "error ratio": 0}
        for study in studies(rng, runs, lesions, n, accuracy):
            whole = dict.fromkeys(covered, True)
            for counts, drop in study:
                share = drop / (accuracy - CHANCE)
                ratio = (1 - accuracy + drop) / (1 - accuracy)
                for name, found, truth in (
                    ("drop", drop_limits(counts, level), drop),
                    ("normalised drop", share_limits(counts, CHANCE, level), share),
                    ("error ratio", error_ratio(counts, level), ratio),
                ):
                    whole[name] &= found.low <= truth <= found.high
            for name, all_cover in whole.items():
                covered[name] += all_cover
        for name, count in covered.items():
            rows.append(_coverage(lesions, n, accuracy, name, count, runs))
    columns = ["lesions", "examples", "accuracy", "quantity", "covered", "low", "high", "runs"]
    return pd.DataFrame(rows, columns=columns)


def sequences(runs: int = 1000, lesions: int = 24) -> pd.DataFrame:
    """Return in which share of studies of sequences all t intervals cover."""
    rows = []
    for sigma in (0.5, 1.0):
        for n in (50, 200, 1000):
            rng = np.random.default_rng(SEED)
            level, truth = adjusted_level(LEVEL, lesions), np.exp(sigma**2 / 2)
            count = 0
            for _ in range(runs):
                shared = rng.normal(size=n)
                whole = True
                for _ in range(lesions):
                    own = np.sqrt(0.5) * (shared + rng.normal(size=n))
                    found = ratio_mean(np.exp(sigma * own), level=level)
                    whole &= found.low <= truth <= found.high
                count += whole
            rows.append(_coverage(lesions, n, sigma, "mean", count, runs))
    columns = ["lesions", "sequences", "sigma", "quantity", "covered", "low", "high", "runs"]
    return pd.DataFrame(rows, columns=columns)


def _coverage(
    lesions: int, n: int, setting: float, name: str, count: int, runs: int
) -> tuple[object, ...]:
    interval = accuracy_interval(count, runs)
    return (lesions, n, setting, name, count / runs, interval.low, interval.high, runs)


def run(folder: Path, *, runs: int = RUNS, sequence_runs: int = 300) -> dict[str, pd.DataFrame]:
    """Measure all three and write tables and summary.

    Args:
        folder: Where to write.
        runs: Simulated studies of a classifier.
        sequence_runs: Simulated studies of sequences.

    Returns:
        The tables by name.
    """
    tables = {
        "tails": worst_tails(),
        "studies": simulated(runs),
        "sequences": sequences(sequence_runs),
    }
    write(folder, tables, {}, _summary(tables))
    return tables


def _summary(tables: dict[str, pd.DataFrame]) -> list[str]:
    return [
        "# Simultaneous intervals",
        "",
        f"{made_by('python analyses/simultaneous.py')} Seed {SEED}; nominal level 95 % for all "
        "lesions at once.",
        "",
        "How often the true drop lies outside one end of the interval, as a multiple of what the "
        "level allows; the worst of a grid of expected numbers of lost and gained examples, "
        "enumerated exactly. At most 1 keeps the level.",
        "",
        *markdown_table(
            ("lesions", "examples", "interval", "worst tail", "at lost", "at gained"),
            [
                (r["lesions"], r["examples"], r["interval"], f"{r['worst_tail']:.2f}", r["lost"],
                 r["gained"])
                for r in tables["tails"].to_dict("records")
            ],
        ),
        "",
        "Share of simulated studies in which the intervals of all lesions cover; blocks turn up to "
        f"{100 * DAMAGE:.0f} % of the answers into guesses, half of them of the same hard "
        "examples. Brackets: Wilson's 95 % interval over the studies.",
        "",
        *markdown_table(
            ("lesions", "examples", "accuracy", "quantity", "all cover", "studies"),
            [
                (r["lesions"], r["examples"], r["accuracy"], r["quantity"], _share(r), r["runs"])
                for r in tables["studies"].to_dict("records")
            ],
        ),
        "",
        "The same of t intervals over sequences whose means are lognormal with the sigma named: "
        "where few sequences carry the effect (sigma 1), the intervals and the p-values of a study "
        "of language hold less often than they say.",
        "",
        *markdown_table(
            ("lesions", "sequences", "sigma", "all cover", "studies"),
            [
                (r["lesions"], r["sequences"], r["sigma"], _share(r), r["runs"])
                for r in tables["sequences"].to_dict("records")
            ],
        ),
    ]  # fmt: skip


def _share(row: dict[object, float]) -> str:
    return f"{100 * row['covered']:.1f} % [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"


if __name__ == "__main__":
    target = Path(__file__).with_suffix("")
    run(target)
    print((target / "summary.md").read_text())
