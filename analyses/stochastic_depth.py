"""Does training with stochastic depth make a net less sensitive to deletions?

Veit, Wilber and Belongie (2016, arXiv 1605.06431), figure 8 and section 6: a net trained with
stochastic depth (Huang et al. 2016, arXiv 1603.09382) is only slightly more resilient to deleted
blocks than one trained as usual. Here nets of both kinds are trained alike but for that, several
seeds each, and both nets of a seed lose the same random subsets of blocks, one to all of them, on
all test images. Each seed draws its own, so that intervals over the seeds are over the subsets,
too. A net's curve is the normalised drop, the share that is lost of what lies between the full net
and chance, against the share of blocks deleted; the area under it says how sensitive the net is: 0
if nothing ever matters, near 1 if the first deletion is ruinous. Nets trained with stochastic depth
weigh their branches by how often they were there, also when others are deleted.

The statement that resilience hardly changes is supported if the difference of the areas, paired by
seed, lies within 5 points, its t interval over the seeds included; it is refuted if the interval
lies outside.

    python analyses/stochastic_depth.py [--scale digits]

writes ``analyses/stochastic_depth/``: ``curves.csv`` (by net, seed and number of deletions),
``areas.csv`` (by net and seed), ``differences.csv``, the figure and ``summary.md``. About ten
minutes on one CPU core once the nets are trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from lesioned_nets import BATCH
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from reporting import in_points, made_by, markdown_table, t_interval, write
from trained_nets import Scale, chosen_scale, command_of, error, folder_of, scale_options

import ensemble_view
from ensemble_view.figures.style import COLUMN_WIDTH, paper_style

TRIALS = 20
MARGIN = 0.05


@dataclass(frozen=True)
class Comparison:
    """What is compared at a scale.

    Args:
        ordinary: The net, trained as usual.
        counts: Numbers of blocks to delete, up to all of them.
    """

    ordinary: str
    counts: str

    @property
    def kinds(self) -> dict[str, str]:
        """The architectures by how they are trained."""
        return {"stochastic depth": f"{self.ordinary},survival=50", "ordinary": self.ordinary}


COMPARISONS = {
    "digits": Comparison("resnet56", "1-6,8,10,12,15,20,27"),
    "cifar10": Comparison("resnet110", "1-6,8,10,15,20,25,30,40,54"),
    "cifar10-fast": Comparison("resnet20", "1-9"),
}


def run(
    folder: Path, scale: Scale, comparison: Comparison, *, trials: int = TRIALS
) -> pd.DataFrame:
    """Delete blocks from all nets and write tables, figure and summary.

    Args:
        folder: Where to write.
        scale: Data, recipe and seeds.
        comparison: What is compared.
        trials: Subsets per number of deletions.

    Returns:
        A row per kind and seed: the area under its curve, and its test error.
    """
    curves, rows = [], []
    for seed in scale.seeds:
        for kind, architecture in comparison.kinds.items():
            net = scale.net(architecture, seed)
            deletions = ensemble_view.random(
                net,
                scale.test,
                count=comparison.counts,
                trials=trials,
                seed=seed,
                batch_size=BATCH,
            )
            found = curve(deletions)
            curves.append(found.assign(kind=kind, seed=seed))
            rows.append({"kind": kind, "seed": seed, "area": area(found), "test_error": error(net)})
    table, areas = pd.concat(curves, ignore_index=True), pd.DataFrame(rows)
    found = differences(areas)
    write(
        folder,
        {"curves": table, "areas": areas, "differences": found},
        {"curves": draw(table)},
        summary(scale, comparison, areas, found),
    )
    return areas


def curve(deletions: ensemble_view.ManyResult) -> pd.DataFrame:
    """Return a net's normalised drop by the share of blocks deleted.

    Args:
        deletions: Random deletions.

    Returns:
        A row per number of deletions, from none.
    """
    columns = ["deleted", "mean", "normalised", "normalised_low", "normalised_high"]
    none = pd.DataFrame([(0, deletions.full, 0.0, 0.0, 0.0)], columns=columns)
    table = pd.concat([none, deletions.frame[columns]], ignore_index=True)
    return table.assign(share=table["deleted"] / len(deletions.names))


def area(table: pd.DataFrame) -> float:
    """Return the area under a curve by the trapezoid rule.

    Args:
        table: A row per number of deletions, ascending.

    Returns:
        The area over the share of blocks deleted, not a number if the drop is not defined.
    """
    return float(np.trapezoid(table["normalised"], table["share"]))


def differences(areas: pd.DataFrame) -> pd.DataFrame:
    """Compare the kinds, paired by seed.

    Args:
        areas: A row per kind and seed.

    Returns:
        A row for the area and one for the test error: mean of each kind, difference of stochastic
        depth less ordinary, and its interval, of the seeds at which both are defined.
    """
    rows = []
    for measure in ("area", "test_error"):
        pairs = areas.pivot(index="seed", columns="kind", values=measure).dropna()
        difference, low, high = t_interval(pairs["stochastic depth"] - pairs["ordinary"])
        rows.append(
            {
                "measure": measure,
                "stochastic_depth": pairs["stochastic depth"].mean(),
                "ordinary": pairs["ordinary"].mean(),
                "difference": difference,
                "low": low,
                "high": high,
                "seeds": len(pairs),
            }
        )
    return pd.DataFrame(rows)


def verdict(low: float, high: float) -> str:
    """Say whether resilience hardly changes.

    Args:
        low: Lower end of the difference of the areas.
        high: Its upper end.

    Returns:
        "supported", "inconclusive", or "refuted" with the direction.
    """
    if high < -MARGIN:
        return "refuted, stochastic depth makes it larger"
    if low > MARGIN:
        return "refuted, stochastic depth makes it smaller"
    return "supported" if low >= -MARGIN and high <= MARGIN else "inconclusive"


def draw(table: pd.DataFrame) -> Figure:
    """Draw the curves, a thin line per net and the mean of each kind with its interval.

    Args:
        table: A row per kind, seed and number of deletions.

    Returns:
        A figure of column width.
    """
    with paper_style():
        figure = Figure(figsize=(COLUMN_WIDTH, 2.5), layout="constrained")
        axis = figure.subplots()
        for index, (kind, nets) in enumerate(table.groupby("kind", sort=False)):
            for _, net in nets.groupby("seed"):
                axis.plot(net["share"], net["normalised"], color=f"C{index}", lw=0.4, alpha=0.6)
            ends = pd.DataFrame(
                [(at, *t_interval(each["normalised"])) for at, each in nets.groupby("share")],
                columns=["share", "mean", "low", "high"],
            )
            axis.plot(ends["share"], ends["mean"], color=f"C{index}", marker="o", ms=2.5, lw=1.2,
                      label=kind)  # fmt: skip
            axis.fill_between(ends["share"], ends["low"], ends["high"], color=f"C{index}",
                              alpha=0.15, lw=0)  # fmt: skip
        axis.set_xlabel("share of blocks deleted")
        axis.set_ylabel("normalised drop of accuracy")
        for each in (axis.xaxis, axis.yaxis):
            each.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_xlim(0, 1)
        axis.legend(frameon=False, loc="lower right")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def summary(
    scale: Scale, comparison: Comparison, areas: pd.DataFrame, found: pd.DataFrame
) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        comparison: What was compared.
        areas: A row per kind and seed.
        found: The differences.

    Returns:
        The lines of summary.md.
    """
    low, high = found.loc[found["measure"] == "area", ["low", "high"]].to_numpy(float)[0]
    undefined = areas[areas["area"].isna()]
    left_out = [
        f"The drop is not defined for {row['kind']}, seed {row['seed']}: its accuracy cannot be "
        "told from chance. Its pair is left out."
        for _, row in undefined.iterrows()
    ]
    names = {"area": "area under the curve", "test_error": "test error"}
    return [
        "# Stochastic depth and resilience to deletions",
        "",
        f"{made_by(command_of(__file__, scale), scale.device)} {scale.words} Nets: "
        + " and ".join(f"`{net}` ({kind})" for kind, net in comparison.kinds.items())
        + f". {len(scale.test)} test images, the same subsets of blocks for both nets of a seed.",
        "",
        "Area under the normalised drop against the share of blocks deleted, and test error, in "
        "per cent; differences are paired by seed. Brackets: 95 % t intervals over the seeds, in "
        "points.",
        "",
        *markdown_table(
            ("", "stochastic depth", "ordinary", "difference", "seeds"),
            [
                (
                    names[row["measure"]],
                    f"{100 * row['stochastic_depth']:.1f}",
                    f"{100 * row['ordinary']:.1f}",
                    in_points((row["difference"], row["low"], row["high"])),
                    row["seeds"],
                )
                for _, row in found.iterrows()
            ],
        ),
        "",
        f"That stochastic depth hardly changes resilience (areas within {100 * MARGIN:.0f} "
        f"points): {verdict(low, high)}.",
        *left_out,
        "",
        "![Normalised drop by share deleted](curves.png)",
    ]


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, COMPARISONS[chosen.name])
    print((target / "summary.md").read_text())
