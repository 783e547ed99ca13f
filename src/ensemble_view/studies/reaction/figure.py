"""Figures of reactions; they draw what a result says and compute nothing of it."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ensemble_view.figures.style import FULL_WIDTH, GREY, legend, paper_style

if TYPE_CHECKING:
    import pandas as pd

    from ensemble_view.studies.reaction.result import ReactionResult

__all__ = ["reaction_figure"]

_HEIGHT = 2.6
_NULLS = {
    "": ("the net", "o", 0),
    "_untrained": ("untrained net", "D", 7),
    "_donor": ("donor's change", "v", 1),
}
_VARIANTS = {
    "": ("the net", "o", 0),
    "_frozen": ("junctions held", "s", 2),
    "_all_frozen": ("all nonlinearities held", "^", 4),
}
_Look = tuple[str, str, int]


def reaction_figure(result: ReactionResult) -> Figure:
    """Draw the reaction for each deleted block beside its nulls, and the ratio of norms.

    Left the reactions of the net, of the untrained net and of the net to a donor's change; middle
    those with nonlinearities held, where that changes something; right the ratio of norms, again
    beside the nulls. Lines at 1, where later blocks only add up, and for the reaction at 0. Bands
    part the stages; hollow markers are blocks that none follows in their stage, where nothing can
    react.

    Args:
        result: reactions.

    Returns:
        A figure of full width, with two or three panels.
    """
    frame = result.frame
    nulls, held = (
        {
            ending: look
            for ending, look in looks.items()
            if frame[f"reaction{ending}"].notna().any()
            and not (ending and frame[f"reaction{ending}"].equals(frame["reaction"]))
        }
        for looks in (_NULLS, _VARIANTS)
    )
    drawn: list[tuple[str, str, dict[str, _Look]]] = [("reaction", "Reaction", nulls)]
    if len(held) > 1:
        drawn.append(("reaction", "Reaction, held", held))
    drawn.append(("norm_ratio", "Ratio of norms", nulls))
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, _HEIGHT), layout="constrained")
        panels = figure.subplots(1, len(drawn))
        for axes, (column, label, looks) in zip(panels, drawn, strict=True):
            axes.spines[["top", "right"]].set_visible(False)
            _bands(axes, result)
            for height in (0, 1) if column == "reaction" else (1,):
                axes.axhline(height, color=GREY, linewidth=0.6, dashes=(4, 2), zorder=1)
            for number, (ending, (_, marker, colour)) in enumerate(looks.items()):
                shift = 0.22 * (number - (len(looks) - 1) / 2)
                _points(axes, frame, column + ending, shift, marker, colour)
            axes.set_ylabel(label)
            axes.set_xlabel("Index of the deleted block")
            axes.set_xlim(frame["block"].min() - 0.75, frame["block"].max() + 0.75)
            axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, min_n_ticks=1))
        handles = [
            _handle(label, mark, _colour(number)) for label, mark, number in (nulls | held).values()
        ]
        if (frame["later"] == 0).any():
            handles.append(_handle("last of its stage", "o", GREY, hollow=True))
        legend(figure, handles)
    return figure


def _colour(number: int) -> Any:
    return sns.color_palette("colorblind")[number]


def _bands(axes: Axes, result: ReactionResult) -> None:
    """Shade every second stage."""
    for stage, members in groupby(result.blocks, key=lambda block: block.stage):
        indices = [block.index for block in members]
        if stage % 2:
            axes.axvspan(indices[0] - 0.5, indices[-1] + 0.5, color="0.94", linewidth=0, zorder=0)


def _points(
    axes: Axes, frame: pd.DataFrame, column: str, shift: float, marker: str, colour: int
) -> None:
    position = frame["block"].to_numpy(float) + shift
    axes.vlines(
        position, frame[f"{column}_low"], frame[f"{column}_high"], color=_colour(colour),
        linewidth=0.8, zorder=2,
    )  # fmt: skip
    followed = frame["later"].to_numpy() > 0
    for chosen, hollow in ((followed, False), (~followed, True)):
        if np.any(chosen):
            axes.plot(
                position[chosen], frame[column].to_numpy(float)[chosen], marker,
                color=_colour(colour), markersize=2.7, zorder=3, label=f"_{column}",
                markeredgewidth=0.8 if hollow else 0,
                markerfacecolor="white" if hollow else _colour(colour),
            )  # fmt: skip


def _handle(label: str, marker: str, colour: Any, *, hollow: bool = False) -> Line2D:
    return Line2D(
        [], [], marker=marker, color=colour, markersize=3.5, label=label, linestyle="none",
        markeredgewidth=0.8 if hollow else 0, markerfacecolor="white" if hollow else colour,
    )  # fmt: skip
