"""Do plain nets get worse with depth, and do residual ones learn sooner?

He et al. 2015 (arXiv 1512.03385), section 4.2: training and test error of plain nets, and of
residual nets of both versions, by depth (degradation), and by the number of steps (early
convergence). All nets are trained alike, several times; intervals are t intervals over the seeds.
Nets of equal seed see the same images in the same order, shifted alike.

    python analyses/degradation.py [--scale digits]
    python analyses/degradation.py --scale cifar10-fast --train FILE --test FILE

writes ``analyses/degradation/`` (a folder in it for another scale than the digits):
``epochs.csv`` (every epoch of every run), ``errors.csv`` (by depth), ``convergence.csv`` (early
error), the figure and ``summary.md``. About 35 minutes on one CPU core, less what is trained
already.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from reporting import in_points, made_by, markdown_table, t_interval, write
from trained_nets import Scale, chosen_scale, command_of, folder_of, scale_options, training_error

from ensemble_view.figures.style import FULL_WIDTH, paper_style

KINDS = {"plain": "plain{}", "version 1": "resnet{}", "version 2": "resnet{}v2"}
DEPTHS = {"digits": (8, 20, 32, 56), "cifar10": (20, 32, 44, 56, 110), "cifar10-fast": (20,)}
KINDS_OF = {"cifar10-fast": ("plain", "version 1")}
"""Fewer kinds where there is little time."""
EARLY = 10
"""Epochs whose mean test error says how soon a net learns."""

RUN = ["kind", "depth", "seed"]


def run(
    folder: Path, scale: Scale, *, depths: Sequence[int], kinds: Sequence[str] = tuple(KINDS)
) -> pd.DataFrame:
    """Train what is missing, and write tables, figure and summary.

    Args:
        folder: Where to write.
        scale: Data, recipe and seeds.
        depths: Depths of the nets.
        kinds: Which kinds of nets.

    Returns:
        A row per run and epoch.
    """
    table = pd.concat(
        [
            epochs_of(scale, kind, depth, seed)
            for seed in scale.seeds
            for depth in depths
            for kind in kinds
        ],
        ignore_index=True,
    )
    errors, convergence = by_depth(table), early(table)
    write(
        folder,
        {"epochs": table, "errors": errors, "convergence": convergence},
        {"degradation": draw(table, errors)},
        summary(scale, errors, convergence),
    )
    return table


def epochs_of(scale: Scale, kind: str, depth: int, seed: int) -> pd.DataFrame:
    """Return how the training of a net went, training it if need be.

    Args:
        scale: Data and recipe.
        kind: One of `KINDS`.
        depth: The net's depth.
        seed: Seed of its training.

    Returns:
        A row per epoch; the last one has the error on the training images as they are, measured
        in evaluation.
    """
    made = scale.net(KINDS[kind].format(depth), seed)
    history = (made.training or {})["history"]
    per_epoch = len(torch.split(torch.arange(len(scale.train)), scale.recipe.batch_size))
    rows = [
        {
            "kind": kind,
            "depth": depth,
            "seed": seed,
            "step": (entry["epoch"] + 1) * per_epoch,
            "loss": entry["loss"],
            "error_in_training": 1 - entry["accuracy"],
            "test_error": 1 - entry["test_accuracy"],
            "training_error": np.nan,
        }
        for entry in history
    ]
    rows[-1]["training_error"] = training_error(scale, made)
    return pd.DataFrame(rows)


def by_depth(table: pd.DataFrame) -> pd.DataFrame:
    """Return the errors of the trained nets.

    Args:
        table: A row per run and epoch.

    Returns:
        A row per kind and depth, with training and test error and their intervals.
    """
    last = table.groupby(RUN, as_index=False, sort=False).last()
    rows = []
    for (kind, depth), runs in last.groupby(["kind", "depth"], sort=False):
        row: dict[str, object] = {"kind": kind, "depth": depth, "seeds": len(runs)}
        for name in ("training_error", "test_error"):
            row[name], row[f"{name}_low"], row[f"{name}_high"] = t_interval(runs[name])
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["kind", "depth"], ignore_index=True)


def early(table: pd.DataFrame) -> pd.DataFrame:
    """Compare how soon the kinds learn.

    Args:
        table: A row per run and epoch.

    Returns:
        A row per depth and pair of kinds: the difference of the mean test errors of the first
        epochs, paired by seed, with its interval.
    """
    first = table.groupby(RUN, sort=False).head(EARLY)
    errors = first.groupby(RUN)["test_error"].mean().unstack("kind")
    rows = []
    for depth, runs in errors.groupby("depth"):
        for one, other in itertools.combinations([kind for kind in KINDS if kind in runs], 2):
            difference, low, high = t_interval(runs[one] - runs[other])
            rows.append(
                {
                    "depth": depth,
                    "first": one,
                    "second": other,
                    "first_error": runs[one].mean(),
                    "second_error": runs[other].mean(),
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "seeds": len(runs),
                }
            )
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    """Draw error by depth, and error by step for a shallow and the deepest net.

    Args:
        table: A row per run and epoch.
        errors: A row per kind and depth.

    Returns:
        Three panels; two of nets of one depth.
    """
    depths = sorted(errors["depth"].unique())
    shown = sorted({depths[min(1, len(depths) - 1)], depths[-1]})
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 2.5), layout="constrained")
        axes = figure.subplots(1, 1 + len(shown), sharey=True)
        _by_depth(axes[0], errors)
        for axis, depth in zip(axes[1:], shown, strict=True):
            _by_step(axis, table[table["depth"] == depth])
            axis.set_title(f"depth {depth}", fontsize=8)
        axes[0].set_ylabel("error")
        axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes[0].set_ylim(0, 1)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
    return figure


def _by_depth(axis: Axes, errors: pd.DataFrame) -> None:
    for index, kind in enumerate(KINDS):
        rows = errors[errors["kind"] == kind]
        if rows.empty:
            continue
        for name, style in (("test_error", "-"), ("training_error", ":")):
            label = kind if name == "test_error" else f"{kind}, training"
            axis.plot(rows["depth"], rows[name], style, color=f"C{index}", marker="o", ms=2.5, lw=1,
                      label=label)  # fmt: skip
            low, high = rows[f"{name}_low"].clip(lower=0), rows[f"{name}_high"].clip(upper=1)
            axis.fill_between(rows["depth"], low, high, color=f"C{index}", alpha=0.15, lw=0)
    axis.set_xlabel("depth, layers")
    axis.set_xticks(sorted(errors["depth"].unique()))
    axis.legend(frameon=False, fontsize=6)


def _by_step(axis: Axes, table: pd.DataFrame) -> None:
    for index, kind in enumerate(KINDS):
        rows = table[table["kind"] == kind].sort_values("step")
        if rows.empty:
            continue
        at = rows["step"].unique()
        found = np.array([t_interval(rows[rows["step"] == step]["test_error"]) for step in at])
        axis.plot(at, found[:, 0], color=f"C{index}", lw=1)
        low, high = found[:, 1].clip(0, 1), found[:, 2].clip(0, 1)
        axis.fill_between(at, low, high, color=f"C{index}", alpha=0.15, lw=0)
    axis.set_xlabel("steps")


def summary(scale: Scale, errors: pd.DataFrame, convergence: pd.DataFrame) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        errors: A row per kind and depth.
        convergence: A row per depth and pair of kinds.

    Returns:
        The lines of summary.md.
    """
    lines = [
        "# Degradation and early convergence",
        "",
        f"{made_by(command_of(__file__, scale), scale.device)} {scale.words} Brackets: 95 % t "
        "intervals over the seeds, in points.",
        "",
        "Error of the trained nets in per cent, on the training images (as they are) and on the "
        "test images:",
        "",
        *markdown_table(
            ("net", "depth", "training", "test"),
            [
                (row["kind"], row["depth"], _ends(row, "training_error"), _ends(row, "test_error"))
                for _, row in errors.iterrows()
            ],
        ),
        "",
        *verdicts(errors),
    ]
    if len(convergence):
        lines += [
            "",
            f"Test error, mean of the first {EARLY} epochs, and its difference paired by seed:",
            "",
            *markdown_table(
                ("depth", "first", "second", "error of first", "of second", "difference"),
                [
                    (
                        row["depth"],
                        row["first"],
                        row["second"],
                        f"{100 * row['first_error']:.1f}",
                        f"{100 * row['second_error']:.1f}",
                        in_points((row["difference"], row["low"], row["high"])),
                    )
                    for _, row in convergence.iterrows()
                ],
            ),
        ]
    return [*lines, "", "![Error by depth and by step](degradation.png)"]


def verdicts(errors: pd.DataFrame) -> list[str]:
    """Say of each kind whether the deepest net has a larger error than the best shallower one.

    Args:
        errors: A row per kind and depth.

    Returns:
        A sentence per kind with more than one depth.
    """
    said = []
    for kind, rows in errors.groupby("kind", sort=False):
        if len(rows) < 2:
            continue
        deepest = rows.iloc[rows["depth"].argmax()]
        others = rows[rows["depth"] < deepest["depth"]]
        best = others.iloc[others["training_error"].argmin()]
        if deepest["training_error_low"] > best["training_error_high"]:
            said.append(
                f"{str(kind).capitalize()} degrades: at depth {deepest['depth']} the training "
                f"error is {100 * (deepest['training_error'] - best['training_error']):.1f} points "
                f"above that at depth {best['depth']}, their intervals apart."
            )
        else:
            said.append(
                f"{str(kind).capitalize()} is not seen to degrade: the interval of the training "
                f"error at depth {deepest['depth']} is not above that at depth {best['depth']}."
            )
    return said


def _ends(row: pd.Series[float], name: str) -> str:
    return in_points((row[name], row[f"{name}_low"], row[f"{name}_high"]))


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(
        target,
        chosen,
        depths=DEPTHS[chosen.name],
        kinds=KINDS_OF.get(chosen.name, tuple(KINDS)),
    )
    print((target / "summary.md").read_text())
