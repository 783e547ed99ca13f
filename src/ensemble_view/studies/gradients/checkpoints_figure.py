"""The figure of gradients by path length over training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ensemble_view.figures.style import FULL_WIDTH, PANEL_HEIGHT, paper_style, side_by_side
from ensemble_view.studies.gradients.figure import LABELS, MARKERS

if TYPE_CHECKING:
    from ensemble_view.studies.gradients.checkpoints_result import GradientsByCheckpoint

__all__ = ["checkpoints_figure"]

_MOST_NAMED = 8


def checkpoints_figure(result: GradientsByCheckpoint) -> Figure:
    """Draw how the lengths that carry the gradient change over a training run.

    On the left the mean length at each checkpoint by each weighting; on the right the weight of
    every length at each checkpoint, the later the darker, by the first weighting that was measured
    of projected, norm of the sum, energy, and paths × mean norm. The smallest interval that holds
    95 % of that one is the band on the left.

    Args:
        result: gradients by checkpoint.

    Returns:
        A figure of full width.
    """
    colours = dict(zip(LABELS, sns.color_palette("colorblind"), strict=False))
    frame = result.frame
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, PANEL_HEIGHT), layout="constrained")
        means, shares = side_by_side(figure)
        places = {name: place for place, name in enumerate(result.names)}
        for name, rows in frame.groupby("weighting", sort=False):
            x, colour = rows["checkpoint"].map(places), colours[str(name)]
            means.plot(
                x, rows["mean_length"], marker=MARKERS[str(name)], color=colour, markersize=2.7,
                linewidth=0.8, label=LABELS[str(name)],
            )  # fmt: skip
            means.fill_between(x, rows["low"], rows["high"], color=colour, alpha=0.15, linewidth=0)
        means.set_ylabel("Path length (branches)")
        means.set_xlabel("Checkpoint")
        if len(result.names) <= _MOST_NAMED:
            means.set_xticks(range(len(result.names)), result.names, rotation=30, ha="right")
        if not frame.empty:
            means.legend(frameon=False)
            shown = str(frame["weighting"].iloc[0])
            shades = sns.light_palette(colours[shown], len(result.names) + 1)[1:]
            for name, each, shade in zip(result.names, result.results, shades, strict=True):
                weights = each.weights.get(shown, ())
                shares.plot(range(len(weights)), weights, color=shade, linewidth=0.8, label=name)
            shares.set_ylabel(f"Share, {LABELS[shown]} (%)")
            if len(result.names) <= _MOST_NAMED:
                shares.legend(frameon=False)
        shares.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        shares.set_xlabel("Path length (branches)")
    return figure
