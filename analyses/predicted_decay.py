"""Do the weights of the paths predict how a net decays as blocks are deleted?

If paths act independently, as Veit, Wilber and Belongie (2016, arXiv 1605.06431) say, then deleting
d random blocks of n leaves of the paths of length k the share C(n - d, k) / C(n, k). Path lengths
weigh what they carry of the gradient at the first block's input, exactly, over all 2^n paths; what
is left of that weight is compared with what is left of the accuracy, of what lies between the full
net and chance. Both are of the same test images.

A net supports the prediction if predicted less measured lies within 10 points for every number of
deletions up to that at which half of the accuracy is gone (equivalence), and refutes it if one of
these intervals lies outside. Intervals are simultaneous: Bonferroni over the numbers of deletions.
Of one net they are over its trials and images, and add up both uncertainties; of a recipe they are
over the nets of its seeds.

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
from lesioned_nets import BATCH, BUNDLED, at_level, opened
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from reporting import in_points, made_by, markdown_table, t_interval, write
from scipy import stats
from trained_nets import Scale, chosen_scale, command_of, folder_of, scale_options

import ensemble_view
from ensemble_view import GradientsByLength
from ensemble_view.figures import FULL_WIDTH, paper_style
from ensemble_view.paths.lengths import surviving_share, surviving_weight

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
    """Weigh the paths of all nets, delete blocks, and write tables, figure and summary.

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
    """
    net, images = opened(scale, name, seed), scale.test.subset(IMAGES)
    gradients = ensemble_view.gradients_by_length(net, images, method="summed", batch_size=BATCH)
    # Each net has subsets of its own, so that intervals over the nets are over the subsets, too.
    deletions = ensemble_view.many(
        net, images, count=counts, trials=trials, seed=seed, batch_size=BATCH
    )
    each = len(deletions.frame)
    # Half of what may be missed for the prediction, half for the measurement.
    simultaneous = 1 - (1 - LEVEL) / (2 * each)
    wide = at_level(deletions, simultaneous).frame
    deleted = [int(number) for number in deletions.frame["deleted"]]
    predicted = np.array([surviving_weight(weights_of(gradients), d) for d in deleted])
    margin = stats.t.ppf((1 + simultaneous) / 2, gradients.examples - 1) * np.array(
        [prediction_error(gradients, d) for d in deleted]
    )
    frame = deletions.frame
    left = 1 - frame["normalised"]
    table = pd.DataFrame(
        {
            "net": name,
            "seed": seed,
            "deleted": deleted,
            "trials": frame["trials"],
            "error": frame["mean"],
            "left": left,
            "left_low": 1 - frame["normalised_high"],
            "left_high": 1 - frame["normalised_low"],
            "predicted": predicted,
            "difference": predicted - left,
            "low": predicted - margin - (1 - wide["normalised_low"]),
            "high": predicted + margin - (1 - wide["normalised_high"]),
        }
    )
    return table, gradients


def weights_of(gradients: GradientsByLength) -> list[float]:
    """Return the share of the gradient that the paths of each length carry."""
    return [float(value) for value in gradients.frame["projected"]]


def prediction_error(gradients: GradientsByLength, deleted: int) -> float:
    """Bound the prediction's standard error over the images.

    Args:
        gradients: Weights of the path lengths with their standard errors.
        deleted: How many blocks are deleted.

    Returns:
        The sum of the lengths' standard errors, weighed as they are: as if all lengths erred
        alike, which is the worst case.
    """
    errors = gradients.frame["projected_se"].to_numpy(float)
    shares = [surviving_share(gradients.blocks, k, deleted) for k in range(len(errors))]
    return float(errors @ shares)


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
        level = 1 - (1 - LEVEL) / seeds["deleted"].nunique()
        for deleted, at in seeds.groupby("deleted"):
            difference, low, high = t_interval(at["difference"], level)
            rows.append(
                {
                    "net": net,
                    "seeds": len(at),
                    "deleted": deleted,
                    "left": at["left"].mean(),
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


def verdict(rows: pd.DataFrame) -> str:
    """Say whether the weights of the paths predict the decay.

    Args:
        rows: Of one net or recipe, a row per number of deletions, ascending, with simultaneous
            intervals ``low`` to ``high`` of predicted less measured.

    Returns:
        "supported", "refuted" or "inconclusive".
    """
    deciding = up_to_half(rows)
    low, high = deciding["low"], deciding["high"]
    if ((low > MARGIN) | (high < -MARGIN)).any():
        return "refuted"
    if ((low >= -MARGIN) & (high <= MARGIN)).all():
        return "supported"
    return "inconclusive"


def draw(table: pd.DataFrame) -> Figure:
    """Draw what is left and what was predicted, a panel per net.

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
        axes[0].set_ylabel("left of the normalised accuracy")
        axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes[0].legend(frameon=False)
    return figure


def _panel(axis: Axes, rows: pd.DataFrame) -> None:
    seeds = rows.groupby("seed")
    if seeds.ngroups > 1:
        for _, each in seeds:
            axis.plot(each["deleted"], each["left"], color="C0", lw=0.4, alpha=0.6)
            axis.plot(each["deleted"], each["predicted"], "--", color="C1", lw=0.4, alpha=0.6)
        ends = pd.DataFrame(
            [(deleted, *t_interval(each["left"])) for deleted, each in rows.groupby("deleted")],
            columns=["deleted", "left", "left_low", "left_high"],
        )
    else:
        ends = rows
    axis.errorbar(
        ends["deleted"], ends["left"], [ends["left"] - ends["left_low"],
        ends["left_high"] - ends["left"]], color="C0", marker="o", ms=2.5, lw=1, elinewidth=0.8,
        label="measured",
    )  # fmt: skip
    axis.plot(
        rows.groupby("deleted")["predicted"].mean(), "--", color="C1", marker="s", ms=2.5, lw=1,
        label="predicted",
    )  # fmt: skip
    axis.set_xlabel("blocks deleted")
    axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.spines[["top", "right"]].set_visible(False)


def summary(scale: Scale, table: pd.DataFrame, recipes: pd.DataFrame) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        table: A row per net, seed and number of deletions.
        recipes: A row per net of several seeds and number of deletions.

    Returns:
        The lines of summary.md.
    """
    columns = ("deleted", "left, measured", "left, predicted", "predicted less measured")
    lines = [
        "# Do path weights predict the decay?",
        "",
        f"{made_by(command_of(__file__, scale), scale.device)} {scale.words} Nets called "
        "`digits-...` are the bundled ones. "
        f"{min(IMAGES, len(scale.test))} test images.",
        "",
        "What is left, in per cent of what lies between the full net and chance, on average over "
        "random subsets of deleted blocks, and what the weights of the path lengths predict. "
        f"Brackets: simultaneous {100 * LEVEL:.0f} % intervals, in points. *Supported*: within "
        f"{100 * MARGIN:.0f} points for every number of deletions up to that at which half is "
        "gone; *refuted*: an interval outside.",
        "",
        "| net | seed | deletions, half gone | of these, clearest difference | prediction |",
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
                        f"{100 * row['left']:.1f}",
                        f"{100 * row['predicted']:.1f}",
                        _difference(row),
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
        "![What is left, by number of deletions](decay.png)",
    ]


def _by_net(recipes: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if recipes.empty:
        return []
    return [(str(net), rows) for net, rows in recipes.groupby("net", sort=False)]


def _verdict_cells(rows: pd.DataFrame) -> str:
    deciding = up_to_half(rows)
    clearest = deciding.iloc[int(np.maximum(deciding["low"], -deciding["high"]).argmax())]
    last = deciding.iloc[-1]
    half = f"{last['deleted']}" if last["left"] <= 0.5 else "none measured"
    return f"{half} | {_difference(clearest)} at {clearest['deleted']} | {verdict(rows)}"


def _difference(row: pd.Series[float]) -> str:
    return in_points((row["difference"], row["low"], row["high"]))


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, counts={net: COUNTS[net] for net in NETS[chosen.name]})
    print((target / "summary.md").read_text())
