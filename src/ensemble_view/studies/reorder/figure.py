"""The figure of reorderings: error against disorder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ensemble_view.figures.style import COLUMN_WIDTH, legend, paper_style
from ensemble_view.study.trials_figure import empty_figure, means, reference_lines

if TYPE_CHECKING:
    from ensemble_view.studies.reorder.result import ReorderResult

__all__ = ["reorder_figure"]


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
        figure, axes = empty_figure(result, COLUMN_WIDTH)
        axes.plot(
            result.taus, result.means, "o", color=colour, alpha=0.3, markersize=1.8,
            markeredgewidth=0, zorder=2, rasterized=True,
        )  # fmt: skip
        handles = reference_lines(axes, result)
        handles += [
            Line2D(
                [], [], color=colour, marker="o", linestyle="none", alpha=0.5, markersize=2.7,
                markeredgewidth=0, label="trial",
            ),
            means(
                axes, frame["tau"].to_numpy(float), frame, "black",
                f"mean, {result.run.level:.0%} interval",
            ),
        ]  # fmt: skip
        axes.set_xlabel("Kendall's tau of the order of blocks")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.invert_xaxis()
        legend(figure, handles)
    return figure
