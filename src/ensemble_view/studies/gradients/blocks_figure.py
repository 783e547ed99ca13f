"""The figure of what each block does to the gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ensemble_view.figures.style import FULL_WIDTH, PANEL_HEIGHT, paper_style, side_by_side

if TYPE_CHECKING:
    from ensemble_view.studies.gradients.blocks_result import GradientsByBlock

__all__ = ["blocks_figure"]


def blocks_figure(result: GradientsByBlock) -> Figure:
    """Draw, block by block, what its branch does to the gradient and to the stream.

    On the left, on a logarithmic scale, the gradient through its branch and through its shortcut;
    in the middle how large what the branch adds is beside the block's input, and its cosine with
    minus the gradient; on the right the accuracy of the head after each block of the last stage.
    Bands are the intervals.

    Args:
        result: gradients by block.

    Returns:
        A figure of full width.
    """
    colours = sns.color_palette("colorblind")
    panels = (
        (("branch_gradient", "through the branch"), ("shortcut_gradient", "through the shortcut")),
        (("norm_ratio", "‖F‖ / ‖h‖"), ("cosine", "cos(F, −∂L/∂h)")),
        (("head_accuracy", "head after the block"),),
    )
    titles = ("Gradient of the loss", "Branch against the stream", "Accuracy (%)")
    frame = result.frame
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, PANEL_HEIGHT), layout="constrained")
        for axes, columns, title in zip(side_by_side(figure, 3), panels, titles, strict=True):
            for number, (name, label) in enumerate(columns):
                shown = frame.dropna(subset=[name])
                axes.plot(
                    shown["block"], shown[name], marker="os"[number], color=colours[number],
                    markersize=2.7, linewidth=0.8, label=label,
                )  # fmt: skip
                axes.fill_between(
                    shown["block"], shown[f"{name}_low"], shown[f"{name}_high"],
                    color=colours[number], alpha=0.25, linewidth=0,
                )  # fmt: skip
            axes.set_ylabel(title)
            axes.set_xlabel("Block")
            if not frame[columns[0][0]].isna().all():
                axes.legend(frameon=False)
        gradient, stream, accuracy = figure.axes
        gradient.set_yscale("log")
        smallest = frame[["branch_gradient", "shortcut_gradient"]].min().min()
        if smallest > 0:
            # A few examples carry most of it, so that an interval of the mean may reach zero.
            gradient.set_ylim(bottom=smallest / 3)
        stream.axhline(0, color="0.7", linewidth=0.6, zorder=0)
        accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    return figure
