"""The figure of surrogates; it draws what the result says and computes nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ensemble_view.figures.style import COLUMN_WIDTH, GREY, legend, paper_style

if TYPE_CHECKING:
    from ensemble_view.studies.additivity.result import SurrogatesResult

__all__ = ["surrogates_figure"]

_HEIGHT = 2.6
_MARKERS = "osD^v"
_ASIDE = 0.07


def surrogates_figure(result: SurrogatesResult) -> Figure:
    """Draw the share of the variance by order against the number of blocks deleted on average.

    Filled markers are the share at order 1 (additive over blocks), hollow ones that at orders 1 and
    2 (pairs as well), each with its confidence interval.

    Args:
        result: of random subsets.

    Returns:
        A figure of column width.
    """
    frame = result.frame
    numbers = sorted(frame["deleted"].unique())
    names = list(dict.fromkeys(frame["quantity"]))
    colours = sns.color_palette("colorblind", len(names))
    with paper_style():
        figure = Figure(figsize=(COLUMN_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        handles = []
        for index, (name, colour) in enumerate(zip(names, colours, strict=True)):
            rows = frame[frame["quantity"] == name]
            for order, share in ((1, "first"), (2, "up_to_second")):
                aside = _ASIDE * (2 * index + order - len(names) - 0.5)
                places = np.array([numbers.index(each) for each in rows["deleted"]]) + aside
                axes.vlines(
                    places, rows[f"{share}_low"], rows[f"{share}_high"], color=colour, linewidth=0.7
                )
                (line,) = axes.plot(
                    places, rows[share], marker=_MARKERS[index % len(_MARKERS)], color=colour,
                    markersize=3, linewidth=0.7, linestyle="-" if order == 1 else ":",
                    markeredgewidth=0.8, markerfacecolor=colour if order == 1 else "white",
                    label=f"{name}, order 1" if order == 1 else f"{name}, orders 1 and 2",
                )  # fmt: skip
                handles.append(line)
        axes.axhline(1, color=GREY, linewidth=0.8, dashes=(1, 1.5), zorder=0)
        axes.set_ylim(-0.02, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        axes.set_xticks(range(len(numbers)), [f"{each:.3g}" for each in numbers])
        axes.set_xlabel("Blocks deleted on average")
        axes.set_ylabel("Share of the variance (%)")
        legend(figure, handles)
    return figure
