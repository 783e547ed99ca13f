"""Figures of doses and nulls; they draw what a result says and compute nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ensemble_view.figures.style import COLUMN_WIDTH, FULL_WIDTH, GREY, legend, paper_style

if TYPE_CHECKING:
    from ensemble_view.studies.dose.result import DoseResult

__all__ = ["dose_figure"]

_HEIGHT = 2.6
_LOOKS = {
    "noise": ("noise", "s", 1),
    "constant": ("constant noise", "D", 2),
    "donor": ("another's branch", "v", 3),
    "mean": ("mean branch", "^", 4),
    "flipped": ("sign changed", "P", 7),
}


def dose_figure(result: DoseResult) -> Figure:
    """Draw what is measured against the dose (left), deletions beside the nulls (right).

    Single blocks are coloured from the first (dark) to the last (light); those scaled together are
    black, with their paired intervals around the full net's value.

    Args:
        result: doses and nulls.

    Returns:
        A figure of full width, or of one column without nulls.
    """
    nulls = result.nulls_frame
    with paper_style():
        width = COLUMN_WIDTH if nulls.empty else FULL_WIDTH
        figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
        panels = figure.subplots(1, 1 if nulls.empty else 2, squeeze=False)[0]
        for axes in panels:
            axes.spines[["top", "right"]].set_visible(False)
        handles = _curves(panels[0], result)
        if not nulls.empty:
            handles += _nulls(panels[1], result)
        legend(figure, handles)
    return figure


def _curves(axes: Axes, result: DoseResult) -> list[Line2D]:
    frame, scores = result.frame, result.run.scores
    single = [label for label in result.labels if label.isdigit()]
    colours = sns.color_palette("viridis", len(single))
    sign = -1 if scores.higher_is_better else 1
    handles = []
    for label in result.labels:
        rows = frame[frame["blocks"] == label]
        alone = label in single
        colour: Any = colours[single.index(label)] if alone else "black"
        axes.plot(
            rows["dose"], rows["value"], marker="o", markersize=1.8 if alone else 2.7,
            color=colour, linewidth=0.7 if alone else 1.2, zorder=2 if alone else 3, label=label,
        )  # fmt: skip
        if not alone:
            full = float(scores.baseline.mean())
            low, high = (full + sign * rows[f"worsening_{end}"] for end in ("low", "high"))
            axes.vlines(rows["dose"], low, high, color=colour, linewidth=0.8, zorder=3)
            name = "all branches" if label == "all" else f"branches {label}"
            handles.append(_handle(name, "o", "black", line=True))
    if single:
        many = len(single) > 1
        name = f"one branch ({single[0]} to {single[-1]})" if many else f"branch {single[0]}"
        handles.append(_handle(name, "o", colours[len(single) // 2], line=True))
    axes.axvline(1, color=GREY, linewidth=0.6, dashes=(4, 2), zorder=1)
    axes.set_xlabel("Branch multiplied by")
    axes.set_ylabel(scores.name[0].upper() + scores.name[1:])
    return handles


def _nulls(axes: Axes, result: DoseResult) -> list[Line2D]:
    frame = result.nulls_frame
    frame = frame[frame["blocks"] != "mean"]
    present = [null for null in _LOOKS if (frame["null"] == null).any()]
    colours = sns.color_palette("colorblind")
    handles = []
    deleted = frame.drop_duplicates("blocks")
    drawn = [("deleted", deleted, "deleted", "o", 0)]
    for null in present:
        label, marker, colour = _LOOKS[null]
        drawn.append((null, frame[frame["null"] == null], label, marker, colour))
    for number, (name, rows, label, marker, number_of_colour) in enumerate(drawn):
        colour, column = colours[number_of_colour], "deleted" if name == "deleted" else "instead"
        position = rows["blocks"].astype(int) + 0.14 * (number - (len(drawn) - 1) / 2)
        axes.vlines(
            position, rows[f"{column}_low"], rows[f"{column}_high"], color=colour, linewidth=0.6
        )
        axes.plot(
            position, rows[column], marker, color=colour, markersize=2.4, markeredgewidth=0,
            label=f"_{name}",
        )  # fmt: skip
        handles.append(_handle(label, marker, colour))
    axes.axhline(0, color=GREY, linewidth=0.6, dashes=(4, 2), zorder=1)
    axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, min_n_ticks=1))
    axes.set_xlabel("Index of the block")
    axes.set_ylabel(f"Worsening of the {result.run.scores.name}")
    return handles


def _handle(label: str, marker: str, colour: Any, *, line: bool = False) -> Line2D:
    return Line2D(
        [], [], marker=marker, color=colour, markersize=3.5, label=label, markeredgewidth=0,
        linestyle="-" if line else "none", linewidth=0.8,
    )  # fmt: skip
