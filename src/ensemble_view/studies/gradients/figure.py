"""Figures of paths by length; they draw what a result says and compute nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ensemble_view.figures.style import FULL_WIDTH, paper_style

if TYPE_CHECKING:
    from ensemble_view.studies.gradients.blocks_result import GradientsByBlock
    from ensemble_view.studies.gradients.checkpoints_result import GradientsByCheckpoint
    from ensemble_view.studies.gradients.result import GradientsByLength
    from ensemble_view.studies.paths.result import PathCounts

__all__ = ["blocks_figure", "checkpoints_figure", "gradients_figure", "paths_figure"]

_HEIGHT = 2.6
_MOST_NAMED = 8
_ROOM = 24
"""Blocks from which on the longest paths leave room for a legend."""
_LABELS = {
    "summed": "norm of the sum",
    "projected": "projected",
    "energy": "energy",
    "sampled": "paths × mean norm",
    "pooled": "projected, ratio of sums",
}
_MARKERS = {"summed": "o", "projected": "s", "pooled": "v", "energy": "D", "sampled": "^"}


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
    colours = dict(zip(_LABELS, sns.color_palette("colorblind"), strict=False))
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, _HEIGHT), layout="constrained")
        sizes, shares = _axes(figure)
        for name, (label, column) in _sizes(result).items():
            _draw_size(sizes, column, name, colours, label=label, markersize=2.7)
        sizes.set_yscale("log")
        sizes.set_ylabel("Gradient of the loss")
        for height, (name, weights) in enumerate(result.weights.items()):
            shares.plot(
                range(len(weights)), weights, marker=_MARKERS[name], color=colours[name],
                markersize=2.7, linewidth=0.8, label=_LABELS[name],
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
            **{"marker": _MARKERS[name], **how},
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


def paths_figure(result: PathCounts) -> Figure:
    """Draw how many paths there are of each length, and which survive deletions.

    The counterparts of figures 6(a) and 7 of Veit, Wilber and Belongie (2016, arXiv 1605.06431).

    Args:
        result: numbers of paths.

    Returns:
        A figure of full width.
    """
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, _HEIGHT), layout="constrained")
        counts, surviving = _axes(figure)
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
        figure = Figure(figsize=(FULL_WIDTH, _HEIGHT), layout="constrained")
        for axes, columns, title in zip(_axes(figure, 3), panels, titles, strict=True):
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
    colours = dict(zip(_LABELS, sns.color_palette("colorblind"), strict=False))
    frame = result.frame
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, _HEIGHT), layout="constrained")
        means, shares = _axes(figure)
        places = {name: place for place, name in enumerate(result.names)}
        for name, rows in frame.groupby("weighting", sort=False):
            x, colour = rows["checkpoint"].map(places), colours[str(name)]
            means.plot(
                x, rows["mean_length"], marker=_MARKERS[str(name)], color=colour, markersize=2.7,
                linewidth=0.8, label=_LABELS[str(name)],
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
            shares.set_ylabel(f"Share, {_LABELS[shown]} (%)")
            if len(result.names) <= _MOST_NAMED:
                shares.legend(frameon=False)
        shares.yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
        shares.set_xlabel("Path length (branches)")
    return figure


def _axes(figure: Figure, number: int = 2) -> list[Axes]:
    every = list(figure.subplots(1, number))
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, min_n_ticks=1))
    return every
