"""Is leaving out whole branches at test time like dropout, or like an ensemble?

Veit et al. 2016 (arXiv 1605.06431), section 4, liken a residual net to an ensemble of its paths.
The answers of a net with random branches left out are averaged here, as with dropout, and held
against the full net. *That comparison has no power to tell an ensemble from another net*: the
members of a true ensemble, left out at random, do no better than all of them together either
(`tests/test_additive_average.py`); a test that a true ensemble passes and a serial net fails is in
`additive_average.py`.

Srivastava et al. 2014 (Journal of Machine Learning Research 15), section 7.5, hold the average of
nets drawn by dropout (Monte Carlo) against the full net with its weights scaled by the probability
of being kept: it takes about 50 drawn nets to be as good. A net trained with stochastic depth
(Huang et al. 2016, arXiv 1603.09382) weighs its branches so in evaluation: its full net is the
weight-scaling rule.

Here each net is run with 20 random sets of branches kept, in several ways, and their probabilities
are averaged; branches that are kept count as they are, or, as in dropout, divided by the
probability of being kept. That is held against the full net, paired by seed, and against real
ensembles of nets of about the effective depth, one net of each seed; in error, negative
log-likelihood, Brier score and calibration error (Guo et al. 2017, arXiv 1706.04599).

    python analyses/dropout_analogy.py [--scale digits]

writes ``analyses/dropout_analogy/``: ``scores.csv`` (by net, seed, way and number averaged),
``against_full.csv``, ``ensembles.csv``, ``against_ensembles.csv``, the figure and ``summary.md``.
Ten minutes on one CPU core once the nets are trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from averaged_nets import (
    AS_IN_TRAINING,
    CALIBRATION,
    DIVIDED,
    FULL,
    PROBABILITIES,
    SCORES,
    SETS,
    ensemble,
    outcomes,
)
from averages_compared import (
    RESAMPLES,
    against_ensembles,
    against_full,
    ensemble_table,
    score_table,
)
from calibration_error import BINS
from differences import SIGNIFICANT
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from reporting import in_points, made_by, markdown_table, t_interval, write
from trained_nets import Scale, chosen_scale, command_of, folder_of, scale_options

from ensemble_view.figures.style import FULL_WIDTH, paper_style

PROPORTIONS = ("error", CALIBRATION)
"""Scores that are written in per cent."""
ENSEMBLE_LINES = ("--", "-.")
LEAST = 1e-4
"""The smallest score that has a place in the figure."""


@dataclass(frozen=True)
class Nets:
    """The architectures that are run.

    Args:
        lesioned: Those whose branches are left out.
        members: Those of which real ensembles are made.
    """

    lesioned: tuple[str, ...]
    members: tuple[str, ...]


NETS = {
    "digits": Nets(("resnet20", "resnet56", "resnet56,survival=50"), ("resnet8", "resnet20")),
    "cifar10": Nets(("resnet20", "resnet110", "resnet110,survival=50"), ("resnet20", "resnet32")),
    "cifar10-fast": Nets(("resnet20",), ("resnet8",)),
}


def run(folder: Path, scale: Scale, nets: Nets) -> pd.DataFrame:
    """Run all nets in all ways, and write tables, figure and summary.

    Args:
        folder: Where to write.
        scale: Data, recipe and seeds.
        nets: The architectures.

    Returns:
        A row per net, seed, way and number of nets averaged, with the scores.
    """
    found = [
        outcome
        for net in nets.lesioned
        for seed in scale.seeds
        for outcome in outcomes(scale, net, seed)
    ]
    ensembles = [ensemble(scale, member) for member in nets.members]
    labels = scale.test.labels
    table, real = score_table(found, labels), ensemble_table(ensembles, labels)
    by_seed, by_image = against_full(table), against_ensembles(found, ensembles, labels)
    write(
        folder,
        {
            "scores": table,
            "against_full": by_seed,
            "ensembles": real,
            "against_ensembles": by_image,
        },
        {"dropout_analogy": draw(table, real)},
        summary(scale, table, real, by_seed, by_image),
    )
    return table


def draw(table: pd.DataFrame, real: pd.DataFrame) -> Figure:
    """Draw the scores by the share of branches left out.

    Args:
        table: A row per net, seed, way and number averaged.
        real: A row per ensemble and number averaged.

    Returns:
        A panel per score.
    """
    together = real.drop_duplicates("ensemble", keep="last")
    lines = dict(zip(together["ensemble"], ENSEMBLE_LINES, strict=False))
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 4.6), layout="constrained")
        for axis, score in zip(figure.subplots(2, 2, sharex=True).flat, SCORES, strict=True):
            for name, line in lines.items():
                level = together[together["ensemble"] == name][score].item()
                axis.axhline(level, color="0.45", lw=1, ls=line)
            _draw_nets(axis, table, score)
            axis.set_ylabel(f"{score}, nats" if score == "negative log-likelihood" else score)
            axis.set_yscale("log")
            least = min(together[score].min(), table.groupby(["net", "way"])[score].mean().min())
            axis.set_ylim(bottom=max(least, LEAST) / 2)
            if score in PROPORTIONS:
                axis.yaxis.set_major_formatter(PercentFormatter(1))
            axis.spines[["top", "right"]].set_visible(False)
        for axis in figure.axes[2:]:
            axis.set_xlabel("share of the branches left out")
            axis.xaxis.set_major_formatter(PercentFormatter(1))
        figure.legend(
            handles=_handles(table["net"].unique(), lines), loc="outside upper center", ncols=5,
            frameon=False,
        )  # fmt: skip
    return figure


def _draw_nets(axis: Axes, table: pd.DataFrame, score: str) -> None:
    """Draw a score of all nets, of one keep-set and of all averaged."""
    for index, net in enumerate(table["net"].unique()):
        rows = table[table["net"] == net]
        trained = rows["way"] == AS_IN_TRAINING
        divided = rows["way"].isin([DIVIDED.format(p) for p in PROBABILITIES])
        alone = rows["averaged"] == 1
        plain = ~trained & ~divided
        _draw_points(axis, rows[plain & alone], score, f"C{index}:", 0, bars=False)
        _draw_points(axis, rows[divided & ~alone], score, f"C{index}x", 4, bars=False)
        _draw_points(axis, rows[plain & ~alone], score, f"C{index}o-", 3, bars=True)
        _draw_points(axis, rows[trained & ~alone], score, f"C{index}*", 8, bars=True)


def _draw_points(
    axis: Axes, rows: pd.DataFrame, score: str, line: str, size: float, *, bars: bool
) -> None:
    """Draw means over the seeds, with t intervals, by the share of branches left out."""
    by_share = [(share, *t_interval(own[score])) for share, own in rows.groupby("left_out")]
    if by_share:
        share, mean, low, high = np.array(by_share).T
        ends = [mean - low, high - mean] if bars else None
        axis.errorbar(share, mean, ends, fmt=line, ms=size, lw=1, elinewidth=0.6)


def _handles(nets: Iterable[str], lines: Mapping[str, str]) -> list[Line2D]:
    """Return what the legend lists."""
    return [
        *(Line2D([], [], color=f"C{index}", lw=1, label=net) for index, net in enumerate(nets)),
        Line2D([], [], color="0.2", lw=1, marker="o", ms=3, label=f"{SETS} averaged"),
        Line2D([], [], color="0.2", lw=1, ls=":", label="one alone"),
        Line2D([], [], color="0.2", lw=0, marker="x", ms=4, label=f"{SETS}, divided"),
        Line2D([], [], color="0.2", lw=0, marker="*", ms=8, label=f"{SETS}, as in training"),
        *(Line2D([], [], color="0.45", lw=1, ls=line, label=net) for net, line in lines.items()),
    ]


def written(score: str, interval: Sequence[float]) -> str:
    """Write a score or a difference of scores.

    Args:
        score: Which.
        interval: Value, lower and upper end; no ends where there are none.

    Returns:
        Per cent or points of those in `PROPORTIONS`, else three decimals.

    Example:
        >>> written("error", (0.013, 0.008, 0.018)), written("Brier score", (0.2, 0.1, 0.3))
        ('1.3 [0.8, 1.8]', '0.200 [0.100, 0.300]')
    """
    if score in PROPORTIONS:
        return in_points(interval)
    value, low, high = interval
    return f"{value:.3f}" if np.isnan(low) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def summary(
    scale: Scale,
    table: pd.DataFrame,
    real: pd.DataFrame,
    by_seed: pd.DataFrame,
    by_image: pd.DataFrame,
) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        table: A row per net, seed, way and number averaged.
        real: A row per ensemble and number averaged.
        by_seed: Differences from the full net.
        by_image: Differences from the real ensembles.

    Returns:
        The lines of summary.md.
    """
    names = [f"{score}, %" if score in PROPORTIONS else score for score in SCORES]
    lines = [
        "# Leaving out branches at test time, dropout and ensembles",
        "",
        f"{made_by(command_of(__file__, scale), scale.device)} {scale.words} Keep-sets are drawn "
        f"with the net's seed. Negative log-likelihood in nats; calibration error: {BINS} bins of "
        "equal width, which overstates it where images are few; brackets: 95 % intervals.",
        "",
        "The comparison with the full net cannot tell an ensemble from another net: the members "
        "of a true ensemble, left out at random, do no better than all together either "
        "(`additive_average.py` has a test that they pass). It describes what averaging does to "
        "these nets.",
        "",
        "Full nets (t intervals over the seeds) and ensembles (a single one each, so without):",
        "",
        *markdown_table(("net", *names), [*_full_nets(table), *_ensembles(real)]),
    ]
    averaged = by_seed[by_seed["averaged"] == SETS]
    for net in averaged["net"].unique():
        rows = averaged[averaged["net"] == net]
        lines += [
            "",
            f"## {net}",
            "",
            f"The average of {SETS} nets with branches left out less the full net, paired by seed. "
            f"Better and worse: p below {SIGNIFICANT} by Holm over the ways; the intervals are not "
            "adjusted.",
            "",
            *markdown_table(
                ("left out", *names), [[way, *_cells(rows, way)] for way in rows["way"].unique()]
            ),
            "",
            *verdicts(rows),
        ]
    return [
        *lines,
        "",
        "## Against real ensembles",
        "",
        "The full nets, and of the ways that with the smallest negative log-likelihood, less the "
        "ensemble, which is taken as it is: intervals over images and seeds, crossed; of the "
        f"calibration error over the seeds and {RESAMPLES} bootstrap resamples of the images. "
        "Words after Holm over all ways of a net.",
        "",
        *markdown_table(("against", "net", "left out", *names), _against(table, by_image)),
        "",
        "![Scores by the share of branches left out](dropout_analogy.png)",
    ]


def _full_nets(table: pd.DataFrame) -> list[list[str]]:
    """Return the cells of a row per full net."""
    full = table[(table["way"] == FULL) & (table["averaged"] == 1)]
    return [
        [net, *(written(score, t_interval(full[full["net"] == net][score])) for score in SCORES)]
        for net in full["net"].unique()
    ]


def _ensembles(real: pd.DataFrame) -> list[list[str]]:
    """Return the cells of a row per ensemble, and of its members' mean."""
    return [
        [
            row["ensemble"] if row["averaged"] > 1 else f"one of {row['ensemble']}, mean",
            *(written(score, (row[score], np.nan, np.nan)) for score in SCORES),
        ]
        for _, row in real.iterrows()
    ]


def _cells(rows: pd.DataFrame, way: str) -> list[str]:
    """Return the difference of each score, and in words which is worse."""
    own = rows[rows["way"] == way]
    return [
        f"{written(score, (row['value'], row['low'], row['high']))}, {row['direction']}"
        for score in SCORES
        for _, row in own[own["score"] == score].iterrows()
    ]


def _against(table: pd.DataFrame, by_image: pd.DataFrame) -> list[list[str]]:
    """Return the cells of two rows per ensemble and net: full, and in the best way."""
    averaged = table[(table["averaged"] == SETS) & (table["way"] != FULL)]
    means = averaged.groupby(["net", "way"])["negative log-likelihood"].mean().unstack("way")
    found = []
    for name in by_image["ensemble"].unique():
        for net in by_image["net"].unique():
            rows = by_image[(by_image["ensemble"] == name) & (by_image["net"] == net)]
            ways = (FULL, str(means.loc[net].idxmin()))
            found += [[name, net, way, *_cells(rows, way)] for way in ways]
    return found


def verdicts(rows: pd.DataFrame) -> list[str]:
    """Say of each score in which ways averaging is better or worse than the full net.

    Args:
        rows: A row per score and way, of one net.

    Returns:
        A line per score; for a net trained with branches left out also one on weight scaling.
    """
    said = []
    for score in rows["score"].unique():
        own = rows[rows["score"] == score]
        words = [f"{word}: {_which(own, word)}" for word in ("better", "worse", "cannot be told")]
        said.append(f"- {score[0].upper()}{score[1:]}: {'; '.join(words)}.")
    trained = rows[rows["way"] == AS_IN_TRAINING]
    if len(trained):
        words = [f"{row['score']}: {row['direction']}" for _, row in trained.iterrows()]
        said.append(
            f"- {SETS} nets drawn as in training (Monte Carlo) against weight scaling: "
            f"{'; '.join(words)}."
        )
    return said


def _which(rows: pd.DataFrame, word: str) -> str:
    """List the ways of which a word is said."""
    ways = list(rows[rows["direction"] == word]["way"])
    return "all ways" if len(ways) == len(rows) else ", ".join(ways) or "none"


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, NETS[chosen.name])
    print((target / "summary.md").read_text())
