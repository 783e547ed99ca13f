"""Figures of paths by length; they draw what a result says and compute nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ensemble_view.figures.style import FULL_WIDTH, PANEL_HEIGHT, paper_style, side_by_side

if TYPE_CHECKING:
    from ensemble_view.studies.gradients.result import GradientsByLength

__all__ = ["LABELS", "MARKERS", "gradients_figure"]

_ROOM = 24
"""Blocks from which on the longest paths leave room for a legend."""

LABELS = {
    "summed": "norm of the sum",
    "projected": "projected",
    "energy": "energy",
    "sampled": "paths × mean norm",
    "pooled": "projected, ratio of sums",
}
"""What each weighting is called."""

MARKERS = {"summed": "o", "projected": "s", "pooled": "v", "energy": "D", "sampled": "^"}
"""Of each weighting."""


def gradients_figure(result: GradientsByLength) -> Figure:
    """Draw the gradient by path length: its size on the left, its weightings on the right.

    The counterpart of figure 6(b) and (c) of Veit, Wilber and Belongie (2016, arXiv 1605.06431).
    On the left, on a logarithmic scale, what was measured of each length: the exact norm of the sum
    over its paths, the root of its energy, the mean norm of a single path (figure 6(b)). On the
    right, each weighting's share of each length, with a bar over the smallest interval that holds
    95 %; figure 6(c) is the one by paths × mean norm, an upper bound. Projected is the mean over
    examples of ratios, and their ratio of sums stands beside it. Dashed is the untrained net,
    where it was measured.

    Args:
        result: gradients by path length.

    Returns:
        A figure of full width.
    """
    colours = dict(zip(LABELS, sns.color_palette("colorblind"), strict=False))
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, PANEL_HEIGHT), layout="constrained")
        sizes, shares = side_by_side(figure)
        for name, (label, column) in _sizes(result).items():
            _draw_size(sizes, column, name, colours, label=label, markersize=2.7)
        sizes.set_yscale("log")
        sizes.set_ylabel("Gradient of the loss")
        for height, (name, weights) in enumerate(result.weights.items()):
            shares.plot(
                range(len(weights)), weights, marker=MARKERS[name], color=colours[name],
                markersize=2.7, linewidth=0.8, label=LABELS[name],
            )  # fmt: skip
            span = result.effective[name]
            # Above the axes, one below the other, where they hide nothing.
            shares.plot(
                [span.low, span.high], [1.03 + 0.035 * height] * 2, color=colours[name],
                linewidth=2, solid_capstyle="butt", clip_on=False,
                transform=shares.get_xaxis_transform(), label=f"_{name}, 95 %",
            )  # fmt: skip
        if result.untrained is not None:
            _draw_untrained(result.untrained, sizes, shares, colours)
        shares.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        shares.set_ylabel("Share of the weighting (%)")
        shares.plot([], [], color="0.5", linewidth=2, label="bars above: 95 %")
        # In short nets no place is free of curves.
        outside = result.blocks < _ROOM
        above: Any = {"loc": "lower left", "bbox_to_anchor": (0, 1)}
        beside: Any = {"loc": "upper left", "bbox_to_anchor": (1, 1)}
        sizes.legend(frameon=False, **(above if outside else {}))
        shares.legend(frameon=False, **(beside if outside else {}))
        for axes in (sizes, shares):
            axes.set_xlabel("Path length (branches)")
            axes.set_xlim(-0.5, result.blocks + 0.5)
    return figure


def _sizes(result: GradientsByLength) -> dict[str, tuple[str, list[float | None]]]:
    """What was measured of each length, with what to call it."""
    energies = [row.energy for row in result.rows]
    return {
        "summed": ("norm of the sum", [row.summed_norm for row in result.rows]),
        "energy": ("root of the energy", [None if e is None else e**0.5 for e in energies]),
        "sampled": ("mean norm of one path", [row.sampled_mean for row in result.rows]),
    }


def _draw_size(
    axes: Axes, column: list[float | None], name: str, colours: Mapping[str, Any], **how: Any
) -> None:
    points = [(length, value) for length, value in enumerate(column) if value]
    if points:
        axes.plot(
            *zip(*points, strict=True), color=colours[name], linewidth=0.8,
            **{"marker": MARKERS[name], **how},
        )  # fmt: skip


def _draw_untrained(
    untrained: GradientsByLength, sizes: Axes, shares: Axes, colours: Mapping[str, Any]
) -> None:
    dashed: Any = {"marker": "", "linestyle": "--"}
    for name, (label, column) in _sizes(untrained).items():
        _draw_size(sizes, column, name, colours, label=f"_{label}, untrained", **dashed)
    for number, (name, weights) in enumerate(untrained.weights.items()):
        shares.plot(
            range(len(weights)), weights, color=colours[name], linewidth=0.8,
            label="_" * (number > 0) + "untrained" + f" ({name})" * (number > 0), **dashed,
        )  # fmt: skip
