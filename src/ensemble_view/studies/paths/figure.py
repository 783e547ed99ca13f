"""The figure of path lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ensemble_view.figures.style import FULL_WIDTH, PANEL_HEIGHT, paper_style, side_by_side

if TYPE_CHECKING:
    from ensemble_view.studies.paths.result import PathCounts

__all__ = ["paths_figure"]


def paths_figure(result: PathCounts) -> Figure:
    """Draw how many paths there are of each length, and which survive deletions.

    The counterparts of figures 6(a) and 7 of Veit, Wilber and Belongie (2016, arXiv 1605.06431).

    Args:
        result: numbers of paths.

    Returns:
        A figure of full width.
    """
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, PANEL_HEIGHT), layout="constrained")
        counts, surviving = side_by_side(figure)
        colour = sns.color_palette("colorblind")[0]
        counts.bar(
            range(len(result.blocks.counts)), result.shares, width=0.8, color=colour, linewidth=0
        )
        # As many decimals as the step needs: shares may be of tens of per cent or of hundredths.
        counts.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
        counts.set_ylabel("Paths (%)")
        counts.set_xlabel("Path length (branches)")
        colours = sns.color_palette("colorblind", len(result.surviving))
        for (deleted, shares), each in zip(result.surviving.items(), colours, strict=True):
            surviving.plot(
                range(len(shares)), shares, color=each, linewidth=1, label=f"{deleted} deleted"
            )
        surviving.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        surviving.set_ylabel("Paths that survive (%)")
        surviving.set_xlabel("Path length (branches)")
        surviving.legend(frameon=False)
    return figure
