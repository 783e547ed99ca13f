"""The figure of deletions beside a control; it draws what the result says and computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ensemble_view.figures.style import FULL_WIDTH, GREY, legend, paper_style

if TYPE_CHECKING:
    from ensemble_view.studies.control.result import ControlResult

__all__ = ["controls_figure"]

_HEIGHT = 2.4


def controls_figure(result: ControlResult) -> Figure:
    """Draw of each block the drop by deletion and the drop under the control, with intervals.

    Args:
        result: deletions beside a control.

    Returns:
        A figure of full width.
    """
    frame, accuracy = result.frame, result.names == "accuracy"
    percent = 100.0 if accuracy else 1.0
    place = np.arange(len(frame))
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        handles = []
        looks = zip(
            ("drop", "control_drop"), result.labels, "os", sns.color_palette("colorblind")[:2],
            (-0.15, 0.15), strict=True,
        )  # fmt: skip
        for column, label, marker, colour, shift in looks:
            low, high = (percent * frame[f"{column}_{end}"] for end in ("low", "high"))
            axes.vlines(place + shift, low, high, color=colour, linewidth=0.8)
            handles += axes.plot(
                place + shift, percent * frame[column], marker, color=colour, markersize=2.7,
                markeredgewidth=0, label=label,
            )  # fmt: skip
        axes.axhline(0, color=GREY, linewidth=0.6, dashes=(4, 2), zorder=1)
        labels = frame["block"].tolist()
        axes.xaxis.set_major_locator(MaxNLocator(20, integer=True, min_n_ticks=1))
        axes.xaxis.set_major_formatter(
            lambda at, _: labels[int(at)] if at in range(len(labels)) else ""
        )
        axes.set_xlabel("Block")
        name = "Drop in accuracy (points)" if accuracy else f"Worsening, {result.names}"
        if result.control == "untrained":
            name = result.names[0].upper() + result.names[1:]
        axes.set_ylabel(name)
        legend(figure, handles)
    return figure
