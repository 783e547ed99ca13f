"""Figures of random trials: error against the number of deletions, and against disorder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ensemble_view.figures.style import COLUMN_WIDTH, FULL_WIDTH, GREY, legend, paper_style

if TYPE_CHECKING:
    import pandas as pd

    from ensemble_view.studies.random.result import ManyResult
    from ensemble_view.studies.reorder.result import ReorderResult
    from ensemble_view.study.trials import TrialsResult

__all__ = ["many_figure", "reorder_figure"]

_HEIGHT = 2.4
_MOST_IN_COLUMN = 24
_BOX = 0.6


def many_figure(result: ManyResult) -> Figure:
    """Draw the score against the number of randomly deleted blocks.

    The counterpart of figure 5(a) of Veit, Wilber and Belongie (2016, arXiv 1605.06431). A box
    holds the middle half of the trials and its whiskers reach to the extremes; the marker is the
    mean over all subsets with its interval, and the dashed line is what the additive law predicts
    of an ensemble, from single deletions.

    Args:
        result: random deletions.

    Returns:
        A figure of column width, or of full width for more than 24 numbers of deletions.
    """
    frame = result.frame
    place = frame["deleted"].to_numpy(float)
    colour = sns.color_palette("colorblind")[0]
    with paper_style():
        width = COLUMN_WIDTH if len(frame) <= _MOST_IN_COLUMN else FULL_WIDTH
        figure, axes = _empty_figure(result, width)
        light = sns.light_palette(colour, 5)[1]
        axes.bxp(
            _boxes(frame), positions=place.tolist(), widths=_BOX, showfliers=False,
            patch_artist=True, manage_ticks=False,
            boxprops={"facecolor": light, "edgecolor": colour, "linewidth": 0.5},
            medianprops={"color": colour, "linewidth": 0.8},
            whiskerprops={"color": colour, "linewidth": 0.5},
            capprops={"color": colour, "linewidth": 0.5},
        )  # fmt: skip
        handles = _reference_lines(axes, result)
        if result.law is not None:
            handles += axes.plot(
                place, 1 - result.law.frame["predicted"], color=sns.color_palette("colorblind")[1],
                linewidth=0.9, dashes=(3, 1.2), marker="s", markersize=1.8, markeredgewidth=0,
                zorder=3, label="additive law",
            )  # fmt: skip
        handles += [
            Patch(facecolor=light, edgecolor=colour, linewidth=0.5, label="trials"),
            _means(axes, place, frame, "black", f"mean, {result.run.level:.0%} interval"),
        ]
        axes.set_xlabel("Number of deleted blocks")
        axes.set_xlim(place.min() - 0.75, place.max() + 0.75)
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, min_n_ticks=1))
        legend(figure, handles)
    return figure


def reorder_figure(result: ReorderResult) -> Figure:
    """Draw the score against the disorder of the blocks.

    The counterpart of figure 5(b) of Veit, Wilber and Belongie (2016, arXiv 1605.06431): a point
    per trial, and the mean of each bin of Kendall's tau with its crossed interval. Disorder grows
    to the right.

    Args:
        result: random reorderings.

    Returns:
        A figure of column width.
    """
    frame = result.frame
    colour = sns.color_palette("colorblind")[0]
    with paper_style():
        figure, axes = _empty_figure(result, COLUMN_WIDTH)
        axes.plot(
            result.taus, result.means, "o", color=colour, alpha=0.3, markersize=1.8,
            markeredgewidth=0, zorder=2, rasterized=True,
        )  # fmt: skip
        handles = _reference_lines(axes, result)
        handles += [
            Line2D(
                [], [], color=colour, marker="o", linestyle="none", alpha=0.5, markersize=2.7,
                markeredgewidth=0, label="trial",
            ),
            _means(
                axes, frame["tau"].to_numpy(float), frame, "black",
                f"mean, {result.run.level:.0%} interval",
            ),
        ]  # fmt: skip
        axes.set_xlabel("Kendall's tau of the order of blocks")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.invert_xaxis()
        legend(figure, handles)
    return figure


def _boxes(frame: pd.DataFrame) -> list[dict[str, Any]]:
    names = {
        "whislo": "least",
        "q1": "lower_quartile",
        "med": "median",
        "q3": "upper_quartile",
        "whishi": "most",
    }
    return [
        {name: row[column] for name, column in names.items()} for row in frame.to_dict("records")
    ]


def _empty_figure(result: TrialsResult, width: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    if result.run.scores.name == "error":
        axes.set_ylabel("Test error (%)")
        axes.set_ylim(0, 1.02)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    else:
        axes.set_ylabel(result.run.scores.name[:1].upper() + result.run.scores.name[1:])
    return figure, axes


def _reference_lines(axes: Axes, result: TrialsResult) -> list[Line2D | Patch]:
    chance, error = result.run.scores.chance, result.run.scores.name == "error"
    value = f"{result.full:.1%}" if error else f"{result.full:.4g}"
    lines: list[Line2D | Patch] = [
        axes.axhline(
            result.full, color="black", linewidth=0.8, dashes=(4, 2), zorder=1,
            label=f"full net ({value})",
        )
    ]  # fmt: skip
    if chance is not None:
        lines.append(
            axes.axhline(
                chance, color=GREY, linewidth=0.8, dashes=(1, 1.5), zorder=1,
                label=f"chance ({chance:.1%})",
            )
        )  # fmt: skip
    return lines


def _means(
    axes: Axes, place: npt.NDArray[np.float64], frame: pd.DataFrame, colour: Any, label: str
) -> Line2D:
    """Means with their intervals; limits that nothing was sampled for are nan and not drawn."""
    axes.vlines(place, frame["low"], frame["high"], color=colour, linewidth=0.9, zorder=4)
    axes.plot(
        place, frame["mean"], "o", color=colour, markersize=2.2, markeredgewidth=0, zorder=5
    )  # fmt: skip
    return Line2D(
        [], [], color=colour, marker="o", markersize=2.7, linewidth=0.9, markeredgewidth=0,
        label=label,
    )  # fmt: skip
