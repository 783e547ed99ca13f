"""What the figures of random trials share: axis, reference lines, means with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from ensemble_view.figures.style import GREY

if TYPE_CHECKING:
    import pandas as pd

    from ensemble_view.study.trials import TrialsResult

__all__ = ["empty_figure", "means", "reference_lines"]

_HEIGHT = 2.4


def empty_figure(result: TrialsResult, width: float) -> tuple[Figure, Axes]:
    """Begin a figure whose vertical axis is the score.

    Args:
        result: Random trials.
        width: Of the figure, inches.

    Returns:
        The figure and its axes.
    """
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


def reference_lines(axes: Axes, result: TrialsResult) -> list[Line2D | Patch]:
    """Draw the full net's score and chance.

    Args:
        axes: Where to draw.
        result: Random trials.

    Returns:
        What the legend lists.
    """
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


def means(
    axes: Axes, place: npt.NDArray[np.float64], frame: pd.DataFrame, colour: Any, label: str
) -> Line2D:
    """Draw means with their intervals; limits that nothing was sampled for are nan and not drawn.

    Args:
        axes: Where to draw.
        place: On the horizontal axis, one per row.
        frame: With ``mean``, ``low`` and ``high``.
        colour: Of all marks.
        label: In the legend.

    Returns:
        What the legend lists.
    """
    axes.vlines(place, frame["low"], frame["high"], color=colour, linewidth=0.9, zorder=4)
    axes.plot(
        place, frame["mean"], "o", color=colour, markersize=2.2, markeredgewidth=0, zorder=5
    )  # fmt: skip
    return Line2D(
        [], [], color=colour, marker="o", markersize=2.7, linewidth=0.9, markeredgewidth=0,
        label=label,
    )  # fmt: skip
