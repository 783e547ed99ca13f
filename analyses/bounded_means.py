"""Do intervals of bounded means stay within their range and cover the mean?

Draws examples with values between 0 and 1 (right or wrong; means over subnetworks, spread by a
beta law, with examples that are always right), tokens right or wrong in sequences of unequal
length, and paired differences between -1 and 1; many times anew. Set side by side: how often the
interval of :func:`ensemble_view.statistics.bounded.bounded_mean` and the t interval of
:func:`ensemble_view.statistics.ratios.ratio_mean` cover the mean, and how often either leaves the
range or is a point.

    python analyses/bounded_means.py [REPETITIONS]

writes ``analyses/bounded_means/``: ``coverage.csv`` and ``summary.md``. A few minutes on one CPU
core.
"""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from reporting import markdown_table, processor

from ensemble_view.statistics.bounded import bounded_mean
from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.study.files import prepare_folder, write_text

SEED = 0
REPETITIONS = 2000
EXAMPLES = (20, 50, 200, 1000)
MEANS = (0.01, 0.1, 0.5, 0.9)
KINDS = ("right or wrong", "means over subnetworks", "tokens of sequences", "paired differences")

Floats = npt.NDArray[np.float64]


def drawn(
    kind: str, mean: float, examples: int, generator: np.random.Generator
) -> tuple[Floats, Floats | None, float]:
    """Draw totals and sizes.

    Args:
        kind: One of `KINDS`.
        mean: Of the values; of differences the share of examples that change.
        examples: How many.
        generator: Of the draw.

    Returns:
        Totals, sizes (None: one each) and the true mean.
    """
    if kind == "right or wrong":
        return (generator.random(examples) < mean).astype(float), None, mean
    if kind == "means over subnetworks":
        # Half of the examples of an easy task are right in every subnetwork.
        hard = generator.random(examples) < min(1.0, 2 * mean)
        level = mean / min(1.0, 2 * mean)
        return hard * generator.beta(3 * level, 3 * (1 - level), examples), None, mean
    if kind == "tokens of sequences":
        sizes = generator.integers(10, 101, examples)
        chance = generator.beta(10 * mean, 10 * (1 - mean), examples)
        return generator.binomial(sizes, chance).astype(float), sizes.astype(float), mean
    changed = generator.random(examples) < mean
    signs = np.where(generator.random(examples) < 0.8, 1.0, -1.0)
    return changed.astype(np.float64) * signs, None, 0.6 * mean


def cell(kind: str, mean: float, examples: int, repetitions: int) -> dict[str, float | str]:
    """Measure coverage in one setting.

    Args:
        kind: One of `KINDS`.
        mean: As for `drawn`.
        examples: How many.
        repetitions: How often.

    Returns:
        A row.
    """
    generator = np.random.default_rng([SEED, KINDS.index(kind), round(1000 * mean), examples])
    ends = (-1.0, 1.0) if kind == "paired differences" else (0.0, 1.0)
    counts = np.zeros(6)
    for _ in range(repetitions):
        totals, sizes, truth = drawn(kind, mean, examples, generator)
        both = (bounded_mean(totals, sizes, ends=ends), ratio_mean(totals, sizes))
        for place, found in enumerate(both):
            counts[3 * place : 3 * place + 3] += (
                found.low - 1e-12 <= truth <= found.high + 1e-12,
                found.low < ends[0] or found.high > ends[1],
                found.low == found.high,
            )
    shares = counts / repetitions
    return {
        "kind": kind,
        "mean": mean,
        "examples": examples,
        "coverage": shares[0],
        "outside": shares[1],
        "points": shares[2],
        "t coverage": shares[3],
        "t outside": shares[4],
        "t points": shares[5],
    }


def run(folder: Path, repetitions: int = REPETITIONS) -> pd.DataFrame:
    """Measure all settings and write table and summary.

    Args:
        folder: Where the files are written.
        repetitions: Of each setting.

    Returns:
        A row per setting.
    """
    prepare_folder(folder)
    frame = pd.DataFrame(
        [
            cell(kind, mean, examples, repetitions)
            for kind in KINDS
            for mean in MEANS
            for examples in EXAMPLES
        ]
    )
    text = frame.to_csv(index=False, lineterminator="\n", float_format="%.4f")
    write_text(folder / "coverage.csv", text)
    numbers = list(frame.columns)[3:]
    enough = frame[frame["examples"] >= 50]["coverage"]
    lines = [
        "# Intervals of bounded means",
        "",
        f"Made by `python analyses/bounded_means.py` on {datetime.date.today()}, one CPU thread of "
        f"{processor()}, seed {SEED}, {repetitions:,} repetitions of each setting; nominal "
        "coverage 95 %. In per cent: how often the interval covers the mean, leaves the range, and "
        "is a point; then the same of the t interval.",
        "",
        *markdown_table(
            tuple(frame.columns),
            [
                (row["kind"], row["mean"], row["examples"], *(f"{row[k]:.1%}" for k in numbers))
                for _, row in frame.iterrows()
            ],
        ),
        "",
        f"From 50 examples on it covers {enough.min():.1%} to {enough.max():.1%}; the least of "
        f"all settings is {frame['coverage'].min():.1%}.",
    ]
    write_text(folder / "summary.md", "\n".join(lines) + "\n")
    return frame


if __name__ == "__main__":
    print(
        run(
            Path(__file__).resolve().parent / "bounded_means",
            *(int(word) for word in sys.argv[1:2]),
        ).to_string()
    )
