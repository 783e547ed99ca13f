"""Do the estimated shares of order 1 and 2 agree with known spectra, and do their intervals hold?

Functions of 9, 27 and 54 branches with known energies by order (sums of branches, of pairs, of
triples, mixtures, products), as one number and as those of examples drawn from a population, are
evaluated on random subsets, many times anew. Set beside the truth: the mean of the estimates of
:func:`ensemble_view.statistics.order_shares.order_shares`, their spread, the mean half-width of the
interval, and how often it covers the truth.

    python analyses/order_shares.py [REPETITIONS]

writes ``analyses/order_shares/``: ``shares.csv`` and ``summary.md``. About eight minutes of one
CPU core with 20 repetitions.
"""

from __future__ import annotations

import datetime
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from reporting import markdown_table, processor

from ensemble_view.statistics.order_shares import order_shares, subsets_needed
from ensemble_view.study.files import prepare_folder, write_text

SEED = 0
REPETITIONS = 20
BRANCHES, DELETED = (9, 27, 54), (2, 5)
PRECISION = 0.3
EXAMPLES = 50
ENERGIES = {
    "sums": (1.0, 0.0, 0.0),
    "pairs": (0.0, 1.0, 0.0),
    "sums and pairs": (0.8, 0.2, 0.0),
    "up to triples": (0.6, 0.2, 0.2),
    "product": None,
}
"""Shares of the variance at orders 1 to 3."""

Floats = npt.NDArray[np.float64]
Drawn = tuple[Callable[[npt.NDArray[np.bool_]], Floats], float, float]


def drawn(
    kind: str, branches: int, keep: float, examples: int, generator: np.random.Generator
) -> Drawn:
    """Draw a function whose energies by order are known.

    Args:
        kind: One of `ENERGIES`.
        branches: How many.
        keep: The probability with which a branch is kept.
        examples: Drawn from a population whose energies are in these proportions; 1 for a single
            number, of which they are exact.
        generator: Of the draw.

    Returns:
        The function from subsets to values (subsets, examples), its share at order 1, and that up
        to order 2, in the population.
    """
    deviation = math.sqrt(keep * (1 - keep))
    scale = generator.lognormal(0, 0.5 if examples > 1 else 0, examples)
    energies = ENERGIES[kind]
    if energies is None:
        slopes = generator.normal(0.8 / math.sqrt(branches), 0.4 / math.sqrt(branches), branches)
        # The energies of a product are the elementary symmetric polynomials of its squares.
        by_order = np.ones(1)
        for slope in slopes:
            by_order = np.convolve(by_order, [1.0, slope**2])
        shares = by_order[1:] / by_order[1:].sum()

        def product(kept: npt.NDArray[np.bool_]) -> Floats:
            phi = (kept - keep) / deviation
            values: Floats = np.outer(np.prod(1 + phi * slopes, axis=1), scale)
            return values

        return product, float(shares[0]), float(shares[:2].sum())
    sets = [
        np.arange(branches)[:, None],
        np.transpose(np.triu_indices(branches, 1)),
        np.unique(
            [np.sort(generator.choice(branches, 3, replace=False)) for _ in range(300)], axis=0
        ),
    ]
    weights = []
    for energy, each in zip(energies, sets, strict=True):
        common = generator.normal(size=len(each))
        common *= math.sqrt(energy / np.sum(common**2))
        own = generator.normal(size=(len(each), examples)) * math.sqrt(energy / len(each))
        # Half of each energy is common to all examples.
        weights.append((common[:, None] + own) / math.sqrt(2) if examples > 1 else common[:, None])

    def polynomial(kept: npt.NDArray[np.bool_]) -> Floats:
        phi = (kept - keep) / deviation
        parts = [
            np.prod(phi[:, each], axis=2) @ w
            for each, w, energy in zip(sets, weights, energies, strict=True)
            if energy
        ]
        values: Floats = np.sum(parts, axis=0) * scale
        return values

    return polynomial, energies[0], energies[0] + energies[1]


def cell(
    kind: str, branches: int, deleted: int, examples: int, repetitions: int, seed: int = SEED
) -> dict[str, float | str]:
    """Estimate the shares of one kind of function many times.

    Args:
        kind: One of `ENERGIES`.
        branches: How many.
        deleted: On average.
        examples: How many; 1 for a single number.
        repetitions: How often; each draws function, examples and subsets.
        seed: Of all draws.

    Returns:
        A row: the settings; of each share truth, mean, spread, half-width and coverage.
    """
    keep = 1 - deleted / branches
    subsets = max(300, subsets_needed(branches, PRECISION))
    generator = np.random.default_rng([seed, branches, deleted, examples, len(kind)])
    rows = []
    for _ in range(repetitions):
        f, first, second = drawn(kind, branches, keep, examples, generator)
        kept = generator.random((subsets, branches)) < keep
        found = order_shares(kept, f(kept), keep)
        rows.append(
            [
                number
                for truth, each in ((first, found.first), (second, found.up_to_second))
                # Exact answers are right up to rounding.
                for number in (
                    truth,
                    each.value,
                    (each.high - each.low) / 2,
                    each.low - 1e-6 <= truth <= each.high + 1e-6,
                )
            ]
        )
    table = np.array(rows, dtype=float)
    row: dict[str, float | str] = {
        "kind": kind,
        "branches": branches,
        "deleted": deleted,
        "examples": examples,
        "subsets": subsets,
        "repetitions": repetitions,
    }
    for name, start in (("order 1", 0), ("orders 1 and 2", 4)):
        truth, value, half, covered = table[:, start : start + 4].T
        row |= {
            f"{name}, truth": truth.mean(),
            f"{name}, estimate": value.mean(),
            f"{name}, spread": (value - truth).std(ddof=1),
            f"{name}, half-width": half.mean(),
            f"{name}, coverage": covered.mean(),
        }
    return row


def run(folder: Path, repetitions: int = REPETITIONS) -> pd.DataFrame:
    """Estimate all cells and write table and summary.

    Args:
        folder: Where the files are written.
        repetitions: Of each cell.

    Returns:
        A row per cell.
    """
    prepare_folder(folder)
    rows = []
    # Sums are exact.
    for kind in list(ENERGIES)[1:]:
        for branches in BRANCHES:
            for deleted in DELETED:
                for examples in (1, EXAMPLES):
                    rows.append(cell(kind, branches, deleted, examples, repetitions))
                    print(rows[-1], flush=True)
    frame = pd.DataFrame(rows)
    text = frame.to_csv(index=False, lineterminator="\n", float_format="%.4f")
    write_text(folder / "shares.csv", text)
    write_text(folder / "summary.md", page(frame))
    return frame


def page(frame: pd.DataFrame) -> str:
    """Put the summary together.

    Args:
        frame: A row per cell.

    Returns:
        Markdown.
    """
    names = ("order 1", "orders 1 and 2")
    lines = [
        "# Shares of order 1 and 2 against known spectra",
        "",
        f"Made by `python analyses/order_shares.py` on {datetime.date.today()}, one CPU thread of "
        f"{processor()}, seed {SEED}. Each row is {int(frame['repetitions'].iloc[0])} repetitions, "
        "each with a function, examples and subsets of its own; nominal coverage 95 %. One example "
        "stands for a single number, such as the error of a net. Shares in per cent.",
        "",
        *markdown_table(
            (
                *("function", "n", "deleted", "examples", "subsets"),
                *(
                    f"{name}: {what}"
                    for name in names
                    for what in ("truth", "estimate ± half-width", "coverage")
                ),
            ),
            [
                (
                    *(row[k] for k in ("kind", "branches", "deleted", "examples", "subsets")),
                    *(
                        cell
                        for name in names
                        for cell in (
                            f"{100 * row[f'{name}, truth']:.1f}",
                            f"{100 * row[f'{name}, estimate']:.1f} ± "
                            f"{100 * row[f'{name}, half-width']:.1f}",
                            f"{row[f'{name}, coverage']:.0%}",
                        )
                    ),
                )
                for _, row in frame.iterrows()
            ],
        ),
        "",
    ]
    for name in names:
        coverage = frame[f"{name}, coverage"]
        lines.append(
            f"Coverage of the share at {name}: {coverage.min():.0%} to {coverage.max():.0%}, "
            f"median {coverage.median():.0%}."
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(
        Path(__file__).resolve().parent / "order_shares",
        *(int(word) for word in sys.argv[1:2]),
    )
