"""The figure of random deletions: error against the number of blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ensemble_view.figures.style import COLUMN_WIDTH, FULL_WIDTH, legend, paper_style
from ensemble_view.study.trials_figure import empty_figure, means, reference_lines

if TYPE_CHECKING:
    import pandas as pd

    from ensemble_view.studies.random.result import ManyResult

__all__ = ["many_figure"]

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
        figure, axes = empty_figure(result, width)
        light = sns.light_palette(colour, 5)[1]
        axes.bxp(
            _boxes(frame), positions=place.tolist(), widths=_BOX, showfliers=False,
            patch_artist=True, manage_ticks=False,
            boxprops={"facecolor": light, "edgecolor": colour, "linewidth": 0.5},
            medianprops={"color": colour, "linewidth": 0.8},
            whiskerprops={"color": colour, "linewidth": 0.5},
            capprops={"color": colour, "linewidth": 0.5},
        )  # fmt: skip
        handles = reference_lines(axes, result)
        if result.law is not None:
            handles += axes.plot(
                place, 1 - result.law.frame["predicted"], color=sns.color_palette("colorblind")[1],
                linewidth=0.9, dashes=(3, 1.2), marker="s", markersize=1.8, markeredgewidth=0,
                zorder=3, label="additive law",
            )  # fmt: skip
        handles += [
            Patch(facecolor=light, edgecolor=colour, linewidth=0.5, label="trials"),
            means(axes, place, frame, "black", f"mean, {result.run.level:.0%} interval"),
        ]
        axes.set_xlabel("Number of deleted blocks")
        axes.set_xlim(place.min() - 0.75, place.max() + 0.75)
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, min_n_ticks=1))
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
