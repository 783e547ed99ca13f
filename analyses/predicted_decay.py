"""Does a net decay under random deletions as an ensemble of its branches would?

An ensemble that sums what its members say loses with a set of members the sum of what it loses with
each. So single deletions predict the class of every image after every set D of deletions: the
largest of ``f - sum over i in D of (f - f_-i)``, with f the full net's logits and f_-i those
without block i. The accuracy that this additive law predicts is compared with the accuracy that
is measured, of the same sets and images.

A net follows the law if predicted less measured accuracy lies within 10 points for every number of
deletions from 2 up to that at which half of what lies between the full net and chance is gone
(equivalence), and departs from it if one of these intervals lies outside. Intervals are
simultaneous: Bonferroni over the numbers of deletions. Of one net they are over its trials and
images; of a recipe they are over the nets of its seeds.

Beside it, described only, stands the law of the weights of paths: if paths acted independently, as
Veit, Wilber and Belongie (2016, arXiv 1605.06431) say, deleting d random blocks of n would leave of
the paths of length k the share C(n - d, k) / C(n, k), weighed by what they carry of the gradient at
the first block's input. It is no test of an ensemble: of 20 independent nets wired as branches it
predicts that half is left after ten deletions, where nearly everything is, since the members agree
on the answer.

    python analyses/predicted_decay.py [--scale digits]

writes ``analyses/predicted_decay/``: ``decay.csv`` (by net, seed and number of deletions),
``recipes.csv`` (over the seeds), ``weights.csv`` (of the path lengths), the figure and
``summary.md``. About a quarter of an hour on one CPU core once the nets are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from lesioned_nets import BATCH, BUNDLED, opened
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from reporting import in_points, made_by, markdown_table, t_interval, write
from trained_nets import Scale, chosen_scale, command_of, folder_of, scale_options

import ensemble_view
from ensemble_view import EnsembleViewError, GradientsByLength
from ensemble_view.figures.style import FULL_WIDTH, paper_style
from ensemble_view.paths.lengths import surviving_weight

COUNTS = {
    "digits-resnet110": "1-3,5,7,10,15,20",
    "digits-resnet110v2": "1-3,5,7,10,15,20",
    "resnet20": "1-6",
    "resnet56": "1-5,7,10,15",
    "resnet110": "1-3,5,7,10,15,20",
}
"""Numbers of blocks to delete, of each net."""
NETS = {
    "digits": ("digits-resnet110", "digits-resnet110v2", "resnet56"),
    "cifar10": ("resnet56", "resnet110"),
    "cifar10-fast": ("resnet20",),
}
TRIALS = 60
"""As many as there are single blocks, or more."""
IMAGES = 1000
"""At most so many test images, class-balanced."""
MARGIN = 0.10
LEVEL = 0.95


def run(
    folder: Path, scale: Scale, *, counts: Mapping[str, str], trials: int = TRIALS
) -> pd.DataFrame:
    """Delete blocks of all nets, weigh their paths, and write tables, figure and summary.

    Args:
        folder: Where to write.
        scale: Test images, and how nets are trained that are not bundled.
        counts: Numbers of blocks to delete, by net.
        trials: Subsets per number.

    Returns:
        A row per net, seed and number of deletions.
    """
    decays, weights = [], []
    for net, numbers in counts.items():
        for seed in seeds_of(scale, net):
            table, gradients = decay(scale, net, seed, numbers, trials)
            decays.append(table)
            weights.append(
                gradients.frame[["length", "projected", "projected_se"]].assign(net=net, seed=seed)
            )
    table = pd.concat(decays, ignore_index=True)
    recipes = over_seeds(table)
    write(
        folder,
        {
            "decay": table,
            "recipes": recipes,
            "weights": pd.concat(weights, ignore_index=True),
        },
        {"decay": draw(table)},
        summary(scale, table, recipes),
    )
    return table


def seeds_of(scale: Scale, net: str) -> tuple[int, ...]:
    """Return the seeds of a net; a bundled one has one."""
    return (0,) if net in BUNDLED else scale.seeds


def decay(
    scale: Scale, name: str, seed: int, counts: str, trials: int
) -> tuple[pd.DataFrame, GradientsByLength]:
    """Predict and measure what is left of one net.

    Args:
        scale: Test images, and how nets are trained that are not bundled.
        name: Of the net.
        seed: Of its training.
        counts: Numbers of blocks to delete.
        trials: Subsets per number.

    Returns:
        A row per number of deletions, and the weights of the paths.

    Raises:
        EnsembleViewError: If the additive law does not apply.
    """
    net, images = opened(scale, name, seed), scale.test.subset(IMAGES)
    gradients = ensemble_view.gradients_by_length(net, images, method="summed", batch_size=BATCH)
    # Each net has subsets of its own, so that intervals over the nets are over the subsets, too.
    deletions = ensemble_view.random(
        net, images, count=counts, trials=trials, seed=seed, batch_size=BATCH
    )
    law = deletions.law
    if law is None:
        raise EnsembleViewError(f"The additive law does not apply to {name}: {deletions.no_law}.")
    frame = deletions.frame
    full = 1.0 - deletions.full
    table = law.frame.drop(columns="law").assign(
        net=name,
        seed=seed,
        full=full,
        trials=frame["trials"],
        left=1 - frame["normalised"],
        left_by_weights=[surviving_weight(weights_of(gradients), d) for d in law.frame["deleted"]],
        measured_low=1 - frame["high"],
        measured_high=1 - frame["low"],
    )
    return table, gradients


def weights_of(gradients: GradientsByLength) -> list[float]:
    """Return the share of the gradient that the paths of each length carry."""
    return [float(value) for value in gradients.frame["projected"]]


def over_seeds(table: pd.DataFrame) -> pd.DataFrame:
    """Compare prediction and measurement over the nets of a recipe.

    Args:
        table: A row per net, seed and number of deletions.

    Returns:
        A row per net of several seeds and number of deletions, intervals over the seeds.
    """
    rows = []
    for net, seeds in table.groupby("net", sort=False):
        if seeds["seed"].nunique() < 2:
            continue
        level = 1 - (1 - LEVEL) / max(1, int((seeds["deleted"].drop_duplicates() > 1).sum()))
        for deleted, at in seeds.groupby("deleted"):
            difference, low, high = t_interval(at["difference"], level)
            if deleted == 1:
                # A single deletion is predicted by itself.
                low = high = np.nan
            rows.append(
                {
                    "net": net,
                    "seeds": len(at),
                    "deleted": deleted,
                    "left": at["left"].mean(),
                    "left_by_weights": at["left_by_weights"].mean(),
                    "measured": at["measured"].mean(),
                    "predicted": at["predicted"].mean(),
                    "difference": difference,
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows)


def up_to_half(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that decide: up to the first at which half of the accuracy is gone.

    Args:
        rows: Of one net or recipe, a row per number of deletions, ascending.

    Returns:
        All of them, if less than half is gone everywhere.
    """
    gone = rows["left"].to_numpy() <= 0.5
    return rows.iloc[: int(gone.argmax()) + 1] if gone.any() else rows


def deciding_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that test the law: several deletions, up to half gone.

    Args:
        rows: Of one net or recipe, a row per number of deletions, ascending.

    Returns:
        Some of them; none where a single deletion takes half.
    """
    up_to = up_to_half(rows)
    return up_to[up_to["deleted"] > 1]


def verdict(rows: pd.DataFrame) -> str:
    """Say whether the net decays by the additive law.

    Args:
        rows: Of one net or recipe, a row per number of deletions, ascending, with simultaneous
            intervals ``low`` to ``high`` of predicted less measured.

    Returns:
        "supported", "refuted" or "inconclusive".
    """
    deciding = deciding_rows(rows)
    low, high = deciding["low"], deciding["high"]
    if ((low > MARGIN) | (high < -MARGIN)).any():
        return "refuted"
    if len(deciding) and ((low >= -MARGIN) & (high <= MARGIN)).all():
        return "supported"
    return "inconclusive"


def draw(table: pd.DataFrame) -> Figure:
    """Draw measured accuracy, the additive law's and that by path weights, a panel per net.

    Args:
        table: A row per net, seed and number of deletions.

    Returns:
        A figure of full width; of a net of several seeds a thin line each, and their mean.
    """
    nets = list(dict.fromkeys(table["net"]))
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 2.4), layout="constrained")
        axes = figure.subplots(1, len(nets), sharey=True, squeeze=False)[0]
        for axis, net in zip(axes, nets, strict=True):
            _panel(axis, table[table["net"] == net])
            axis.set_title(net, fontsize=8)
        axes[0].set_ylabel("accuracy")
        axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes[0].legend(frameon=False)
    return figure


def _panel(axis: Axes, rows: pd.DataFrame) -> None:
    rows = rows.assign(by_weights=_accuracy_by_weights(rows))
    seeds = rows.groupby("seed")
    if seeds.ngroups > 1:
        for _, each in seeds:
            axis.plot(each["deleted"], each["measured"], color="C0", lw=0.4, alpha=0.6)
            axis.plot(each["deleted"], each["predicted"], "--", color="C1", lw=0.4, alpha=0.6)
        ends = pd.DataFrame(
            [(deleted, *t_interval(each["measured"])) for deleted, each in rows.groupby("deleted")],
            columns=["deleted", "measured", "measured_low", "measured_high"],
        )
    else:
        ends = rows
    mean = rows.groupby("deleted")[["predicted", "by_weights"]].mean()
    axis.errorbar(
        ends["deleted"], ends["measured"], [ends["measured"] - ends["measured_low"],
        ends["measured_high"] - ends["measured"]], color="C0", marker="o", ms=2.5, lw=1,
        elinewidth=0.8, label="measured",
    )  # fmt: skip
    axis.plot(mean["predicted"], "--", color="C1", marker="s", ms=2.5, lw=1, label="additive law")
    axis.plot(mean["by_weights"], ":", color="0.5", marker="^", ms=2.5, lw=1, label="path weights")
    axis.set_xlabel("blocks deleted")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.spines[["top", "right"]].set_visible(False)


def _accuracy_by_weights(rows: pd.DataFrame) -> pd.Series[float]:
    """The accuracy at which so much of the margin over chance is left as path weights say."""
    margin = (rows["full"] - rows["measured"]) / (1 - rows["left"])
    margin = margin.where(rows["left"] < 1)
    chance = rows["full"] - margin.groupby([rows["net"], rows["seed"]]).transform("median")
    return chance + rows["left_by_weights"] * (rows["full"] - chance)


def summary(scale: Scale, table: pd.DataFrame, recipes: pd.DataFrame) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        table: A row per net, seed and number of deletions.
        recipes: A row per net of several seeds and number of deletions.

    Returns:
        The lines of summary.md.
    """
    columns = (
        "deleted",
        "accuracy, measured",
        "by the additive law",
        "predicted less measured",
        "margin left, measured",
        "by path weights (described)",
    )
    lines = [
        "# Does a net decay as an ensemble of its branches would?",
        "",
        f"{made_by(command_of(__file__, scale), scale.device)} {scale.words} Nets called "
        "`digits-...` are the bundled ones. "
        f"{min(IMAGES, len(scale.test))} test images.",
        "",
        "Accuracy in per cent, on average over random sets of deleted blocks, and as the additive "
        "law predicts it from single deletions on the same sets and images. Brackets: simultaneous "
        f"{100 * LEVEL:.0f} % confidence intervals, in points. *Supported*: within "
        f"{100 * MARGIN:.0f} points for every number of deletions from 2 up to that at which half "
        "of the margin over chance is gone; *refuted*: an interval outside. A single deletion is "
        "predicted by itself and tests nothing. The share of the margin that the weights of the "
        "path lengths would leave is described only: it refutes true ensembles, in which the "
        "members that are left still agree on the answer.",
        "",
        "| net | seed | deletions, half gone | of these, clearest difference | additive law |",
        "|---|---|---|---|---|",
    ]
    for (net, seed), rows in table.groupby(["net", "seed"], sort=False):
        lines.append(f"| {net} | {'' if net in BUNDLED else seed} | {_verdict_cells(rows)} |")
    for net, rows in _by_net(recipes):
        lines.append(f"| {net} | all {rows['seeds'].iloc[0]} | {_verdict_cells(rows)} |")
    shown = [
        (net, rows) for (net, _), rows in table.groupby(["net", "seed"]) if net in BUNDLED
    ] + _by_net(recipes)
    for net, rows in shown:
        lines += [
            "",
            f"## {net}",
            "",
            *markdown_table(
                columns,
                [
                    (
                        int(row["deleted"]),
                        f"{100 * row['measured']:.1f}",
                        f"{100 * row['predicted']:.1f}",
                        "by construction" if row["deleted"] == 1 else _difference(row),
                        f"{100 * row['left']:.1f}",
                        f"{100 * row['left_by_weights']:.1f}",
                    )
                    for _, row in rows.iterrows()
                ],
            ),
        ]
    return [
        *lines,
        "",
        "Bars: 95 % intervals, one by one; of a recipe over the seeds, its nets being thin lines.",
        "",
        "![Accuracy by number of deletions, measured and predicted](decay.png)",
    ]


def _by_net(recipes: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if recipes.empty:
        return []
    return [(str(net), rows) for net, rows in recipes.groupby("net", sort=False)]


def _verdict_cells(rows: pd.DataFrame) -> str:
    last, deciding = up_to_half(rows).iloc[-1], deciding_rows(rows)
    half = f"{last['deleted']}" if last["left"] <= 0.5 else "none measured"
    if deciding.empty:
        return f"{half} | none | {verdict(rows)}"
    clearest = deciding.iloc[int(np.maximum(deciding["low"], -deciding["high"]).argmax())]
    return f"{half} | {_difference(clearest)} at {clearest['deleted']} | {verdict(rows)}"


def _difference(row: pd.Series[float]) -> str:
    return in_points((row["difference"], row["low"], row["high"]))


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, counts={net: COUNTS[net] for net in NETS[chosen.name]})
    print((target / "summary.md").read_text())
