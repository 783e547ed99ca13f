"""The figure of all pairs of deletions; it draws what the result says and computes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ensemble_view.figures.style import FULL_WIDTH, paper_style

if TYPE_CHECKING:
    from ensemble_view.studies.pairs.result import PairsResult

__all__ = ["pairs_figure"]

_WIDTH = 0.78 * FULL_WIDTH
_HEIGHT = 3.6


def pairs_figure(result: PairsResult) -> Figure:
    """Draw drops and interactions of all pairs as one matrix.

    Below the diagonal and on it the drops (of single deletions on the diagonal); above it the
    interactions on a diverging scale centred at zero, red where two blocks back each other up.
    Dots mark significant interactions after Holm's correction, lines where a stage ends.

    Args:
        result: of all pairs.

    Returns:
        A figure of about three quarters of the full width.
    """
    n = len(result.blocks)
    percent = 100.0 if result.names == "accuracy" else 1.0
    drops = np.ma.masked_where(np.triu(np.ones((n, n), bool), 1), percent * result.drops)
    found = result.interactions
    above = np.ma.masked_where(np.tril(np.ones((n, n), bool)), percent * found.value)
    largest = float(np.abs(above).max()) or 1.0
    with paper_style():
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        # White is no drop; what gains by a deletion is as white.
        low = axes.imshow(drops, cmap="Greys", vmin=0, vmax=float(drops.max().clip(0)) or 1.0)
        high = axes.imshow(above, cmap="RdBu_r", vmin=-largest, vmax=largest)
        sure = np.argwhere(np.triu(found.adjusted <= 1 - result.run.level, 1))
        axes.plot(
            sure[:, 1], sure[:, 0], "o", color="black", markersize=min(2.5, 60 / n),
            markeredgewidth=0, linestyle="none",
        )  # fmt: skip
        _mark_stages(axes, result)
        _name(axes, result)
        unit = "accuracy (points)" if result.names == "accuracy" else result.names
        figure.colorbar(high, ax=axes, pad=0.02, fraction=0.05, label=f"Interaction, {unit}")
        figure.colorbar(
            low, ax=axes, pad=0.02, fraction=0.05, label=f"Drop, {unit}",
            extend="min" if drops.min() < 0 else "neither",
        )  # fmt: skip
    return figure


def _mark_stages(axes: Axes, result: PairsResult) -> None:
    stages = np.array(result.stages)
    for place in np.flatnonzero(stages[1:] != stages[:-1]):
        for line in (axes.axhline, axes.axvline):
            line(place + 0.5, color="black", linewidth=0.6)


def _name(axes: Axes, result: PairsResult) -> None:
    labels = [block.label for block in result.blocks]
    axes.set_xlabel("Deleted block")
    axes.set_ylabel("Other deleted block")

    def named(place: float, _: object) -> str:
        return labels[int(place)] if place in range(len(labels)) else ""

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(10, integer=True, min_n_ticks=1))
        axis.set_major_formatter(named)
