"""The figure of a power set; it draws what the result says and computes nothing of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ensemble_view.figures.style import FULL_WIDTH, GREY, paper_style

if TYPE_CHECKING:
    from ensemble_view.studies.subsets.result import PowerSetResult

__all__ = ["power_set_figure"]

_HEIGHT = 2.7
_STRIP = 0.6
_GOLDEN = (5**0.5 - 1) / 2
_MARKERS = "osD^v"
_MOST_NAMED = 12


def power_set_figure(result: PowerSetResult) -> Figure:
    """Draw all subnetworks by size, the spectrum by order, and the Shapley values.

    On the left every subnetwork's mean of the first quantity, a point each, beside those of the
    same size, with the mean over all of that size and its interval; chance is dotted. In the middle
    the share of the variance over subnetworks by order, each block kept with probability one half
    (hollow), and with few deleted (filled): what lies at order 1 is additive over the blocks. On
    the right each block's Shapley value with its interval, in another colour where the block
    changes the shape.

    Args:
        result: of all subnetworks.

    Returns:
        A figure of full width.
    """
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, _HEIGHT), layout="constrained")
        sizes, spectrum, values = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
        for axes in (sizes, spectrum, values):
            axes.spines[["top", "right"]].set_visible(False)
            axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        _draw_sizes(sizes, result)
        _draw_spectrum(spectrum, result)
        _draw_values(values, result)
    return figure


def _draw_sizes(axes: Axes, result: PowerSetResult) -> None:
    quantity, blue = result.quantities[0], sns.color_palette("colorblind")[0]
    frame = result.frame
    for size, group in frame.groupby("size"):
        each = np.sort(group[quantity].to_numpy(float))
        # Spread by the golden ratio: even, and the same every time.
        place = (np.arange(each.size) * _GOLDEN) % 1 - 0.5
        axes.plot(
            float(size) + _STRIP * place, each, ".", color=blue, markersize=3, alpha=0.5,  # type: ignore[arg-type]
            markeredgewidth=0, zorder=1, rasterized=each.size > 1000,
        )  # fmt: skip
    rows = result.sizes_frame
    rows = rows[rows["quantity"] == quantity]
    axes.vlines(
        rows["size"], rows["mean_low"], rows["mean_high"], color="black", linewidth=1, zorder=2
    )
    axes.plot(
        rows["size"], rows["mean"], "o-", color="black", markersize=2.7, linewidth=0.8, zorder=3,
        label="mean of the size",
    )  # fmt: skip
    if result.run.scores.chance is not None:
        axes.axhline(result.run.scores.chance, color=GREY, linewidth=0.8, dashes=(1, 1.5), zorder=0)
    if quantity == "error":
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    axes.set_ylabel("Error (%)" if quantity == "error" else quantity.capitalize())
    axes.set_xlabel("Blocks kept")


def _draw_spectrum(axes: Axes, result: PowerSetResult) -> None:
    frame = result.spectrum_frame
    # Probabilities, which lie near the logits, are left to the table.
    names = (*result.quantities, *result.spectral[:1])
    handles = []
    for name, colour, marker in zip(names, sns.color_palette("colorblind"), _MARKERS, strict=False):
        for keep in dict.fromkeys((0.5, result.gentle)):
            rows = frame[(frame["quantity"] == name) & (frame["keep"] == keep)]
            few = keep == result.gentle
            (line,) = axes.plot(
                rows["order"], rows["share"], marker=marker, color=colour, markersize=3,
                linewidth=0.8, linestyle="-" if few else ":", markeredgewidth=0.8,
                markerfacecolor=colour if few else "white", label=f"{name}, {keep:.2f} kept",
            )  # fmt: skip
            handles.append(line)
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    axes.set_ylabel("Share of the variance (%)")
    axes.set_xlabel("Order (blocks)")
    axes.legend(handles=handles, frameon=False, loc="upper right", borderaxespad=0)


def _draw_values(axes: Axes, result: PowerSetResult) -> None:
    frame, quantity = result.values_frame, result.quantities[0]
    frame = frame[frame["quantity"] == quantity]
    colours = sns.color_palette("colorblind")
    places = np.arange(len(frame))
    changes = frame["changes_shape"].to_numpy(bool)
    axes.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    axes.bar(places, frame["shapley"], width=0.75, color=colours[0], alpha=0.85, linewidth=0)
    for bar, change in zip(axes.patches, changes, strict=True):
        if change:
            bar.set_facecolor(colours[3])
    axes.vlines(
        places, frame["shapley_low"], frame["shapley_high"], color="black", linewidth=0.8, zorder=2
    )
    step = -(-len(places) // _MOST_NAMED)
    axes.set_xticks(places[::step], list(frame["block"])[::step])
    if quantity == "error":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
    unit = "error (points)" if quantity == "error" else quantity
    axes.set_ylabel(f"Shapley value of {unit}")
    axes.set_xlabel("Block")
