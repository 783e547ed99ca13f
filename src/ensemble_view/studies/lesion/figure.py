"""Figures of lesions: what each deletion does, for one net or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from ensemble_view.errors import MeasurementError
from ensemble_view.figures.style import COLUMN_WIDTH, FULL_WIDTH, GREY, legend, paper_style

if TYPE_CHECKING:
    import pandas as pd

    from ensemble_view.studies.lesion.base import LesionStudyResult
    from ensemble_view.studies.lesion.language import LanguageResult
    from ensemble_view.studies.lesion.own import MeasuredResult
    from ensemble_view.studies.lesion.result import LesionResult
    from ensemble_view.study.lesions import Lesion

__all__ = ["comparison_figure", "language_figure", "lesion_figure", "measured_figure", "own_figure"]

_Floats: TypeAlias = npt.NDArray[np.float64]

_HEIGHT = 2.4
_MOST_IN_COLUMN = 30
_MOST_SET_LABELS = 40
_SINGLE_LABELS = ("block deleted", "shape-changing block deleted")
_SET_LABELS = ("blocks deleted", "one of them shape-changing")
_OTHER_LABELS = ("intervention", "of a shape-changing block")
_NEAR = 0.2
_CHARACTERS_PER_INCH = 14
# Small, because an interval of a percentage point must stick out of its marker.
_MARKER_SIZE = 2.7
_MARKERS = "osDv^P"


def lesion_figure(result: LesionResult) -> Figure:
    """Draw the test error after the deletion of each block.

    The counterpart of figure 3 of Veit, Wilber and Belongie (2016, arXiv 1605.06431). Intervals
    are those of the paired drop around the full net's error, and hold for all lesions at once, so
    that one which crosses the baseline is no evidence of a loss. Blocks that change the shape have
    their own marker; blocks that cannot be deleted are grey bands. Where most deletions leave the
    error within 20 points of the full net's, a second panel below enlarges that range, in which
    arrowheads point to what lies above it.

    Args:
        result: one lesion study; lesions of several blocks at once are drawn in order instead of
            at their block's index.

    Returns:
        A figure of column width, or of full width for more than 30 blocks.
    """
    single, places, position = _places(result)
    points = _Points.of(result, position)
    zoom = _zoom(points)
    with paper_style():
        figure, panels = _empty_figure(
            _width(places, [] if single else result.lesions), zoom=zoom is not None
        )
        for axes in panels:
            handles = _reference_lines(axes, result)
            handles += _lesion_points(axes, points, _labels(result.lesions))
            handles += _not_deletable(axes, result, single=single)
            handles.append(_interval_handle([result]))
        if zoom is not None:
            _enlarge(panels[1], points, zoom)
        _name_places(panels[-1], result, places, single=single)
        legend(figure, handles)
    return figure


def measured_figure(
    result: LesionStudyResult[Any],
    *,
    value: pd.Series[float],
    low: pd.Series[float],
    high: pd.Series[float],
    full: float,
    label: str,
    logarithmic: bool = False,
) -> Figure:
    """Draw what was measured after the deletion of each block, in its own units.

    Laid out as :func:`lesion_figure`, which is for test errors.

    Args:
        result: whose lesions are drawn.
        value: of each lesion.
        low: lower limit of the paired change, around the full net's value, simultaneous.
        high: upper limit.
        full: the full net's value.
        label: of the vertical axis.
        logarithmic: whether that axis is.

    Returns:
        A figure of column width, or of full width for more than 30 blocks.
    """
    single, places, position = _places(result)
    points = _Points(
        position=position,
        value=np.asarray(value, float),
        low=np.asarray(low, float),
        high=np.asarray(high, float),
        full=full,
        changes=np.array([lesion.changes_shape for lesion in result.lesions], bool),
    )
    with paper_style():
        width = _width(places, [] if single else result.lesions)
        figure = Figure(figsize=(width, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel(label)
        if logarithmic:
            axes.set_yscale("log")
            if max(full, np.max(points.value)) < 10 * min(full, np.min(points.value)):
                # Within a decade a logarithmic axis has no round numbers of its own.
                axes.yaxis.set_major_locator(MaxNLocator(6))
                axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.6g}"))
                axes.yaxis.set_minor_locator(NullLocator())
        handles: list[Line2D | Patch] = [
            axes.axhline(
                full, color="black", linewidth=0.8, dashes=(4, 2), zorder=1,
                label=f"full net ({full:.4g})",
            )
        ]  # fmt: skip
        handles += _lesion_points(axes, points, _labels(result.lesions))
        handles += _not_deletable(axes, result, single=single)
        handles.append(_interval_handle([result]))
        _name_places(axes, result, places, single=single)
        legend(figure, handles)
    return figure


def language_figure(result: LanguageResult) -> Figure:
    """Draw the perplexity after each deletion, on a logarithmic scale.

    Args:
        result: of a language model.

    Returns:
        A figure laid out as :func:`measured_figure`.
    """
    full, frame = result.baseline.perplexity, result.frame
    return measured_figure(
        result,
        value=frame["perplexity"],
        low=full * frame["perplexity_ratio_simultaneous_low"],
        high=full * frame["perplexity_ratio_simultaneous_high"],
        full=full,
        label="Perplexity",
        logarithmic=True,
    )


def own_figure(result: MeasuredResult) -> Figure:
    """Draw a measure of one's own after each deletion.

    Args:
        result: by that measure.

    Returns:
        A figure laid out as :func:`measured_figure`.
    """
    full, frame = result.baseline.value, result.frame
    ends = [frame["worsening_simultaneous_high"], frame["worsening_simultaneous_low"]]
    if result.higher_is_better:
        ends = [-end for end in ends]
    else:
        ends.reverse()
    return measured_figure(
        result,
        value=frame["value"],
        low=full + ends[0],
        high=full + ends[1],
        full=full,
        label=result.measure,
    )


def comparison_figure(results: Mapping[str, LesionResult]) -> Figure:
    """Draw the error after each deletion for several nets in one plot.

    As figure 3 of Veit, Wilber and Belongie (2016, arXiv 1605.06431) sets a residual net beside
    VGG. Nets of different depth share the axis by a block's relative position,
    ``(index + 1/2) / blocks``. Hollow markers change the shape; ticks at the lower edge mark blocks
    that cannot be deleted; dashed lines are the full nets' errors.

    Args:
        results: lesion studies by the name that stands in the legend.

    Returns:
        A figure of full width.

    Raises:
        MeasurementError: if there is nothing to compare.

    Example:
        >>> comparison_figure({})
        Traceback (most recent call last):
        ...
        ensemble_view.errors.MeasurementError: There is no result to compare; ...
    """
    if not results:
        raise MeasurementError(
            "There is no result to compare; expected at least one; give results by their names."
        )
    colours = sns.color_palette("colorblind", len(results))
    with paper_style():
        figure, (axes,) = _empty_figure(FULL_WIDTH)
        handles: list[Line2D | Patch] = []
        for index, (name, result) in enumerate(results.items()):
            marker = _MARKERS[index % len(_MARKERS)]
            _one_of_several(axes, result, marker, colours[index])
            handles.append(_handle(name, marker, colours[index], line=True))
        handles += _shared_handles(axes, list(results.values()))
        axes.set_xlim(0, 1)
        axes.set_xlabel("Relative position of the deleted block")
        legend(figure, handles)
    return figure


@dataclass(frozen=True)
class _Points:
    """Where the markers and intervals of a result stand, as arrays over its lesions."""

    position: _Floats
    value: _Floats
    low: _Floats
    high: _Floats
    full: float
    changes: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, result: LesionResult, position: _Floats) -> _Points:
        frame, full = result.frame, 1 - result.baseline.accuracy
        return cls(
            position=position,
            value=1 - frame["accuracy"].to_numpy(float),
            low=np.clip(full + frame["drop_simultaneous_low"].to_numpy(float), 0, 1),
            high=np.clip(full + frame["drop_simultaneous_high"].to_numpy(float), 0, 1),
            full=full,
            changes=frame["changes_shape"].to_numpy(bool),
        )


def _places(result: LesionStudyResult[Any]) -> tuple[bool, int, _Floats]:
    """Whether single blocks were deleted, how many places the axis has, and each lesion's."""
    single = all(len(lesion.blocks) == 1 for lesion in result.lesions)
    places = result.block_count if single else len(result.lesions)
    position = [lesion.blocks[0] for lesion in result.lesions] if single else range(places)
    return single, places, np.array(position, float)


def _zoom(points: _Points) -> tuple[float, float] | None:
    """The errors to enlarge: full net and shape-keeping lesions, if most of them lie near it."""
    keeping = ~points.changes if not points.changes.all() else points.changes
    near = keeping & (points.high <= points.full + _NEAR)
    if 2 * near.sum() < keeping.sum() or not near.any():
        return None
    # No interval of a point that is shown may be cut off.
    high = max(points.full, points.high[near].max())
    while points.high[points.value <= high].max() > high:
        high = points.high[points.value <= high].max()
    low = min(points.full, points.low[points.value <= high].min())
    margin = 0.08 * (high - low)
    return float(low - margin), float(high + margin)


def _enlarge(axes: Axes, points: _Points, zoom: tuple[float, float]) -> None:
    axes.set_ylim(zoom)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}")
    for chosen, _, colour in _kinds(points):
        above = points.position[chosen & (points.value > zoom[1])]
        # An empty line that is not clipped would stretch the layout to the page's corner.
        if above.size:
            axes.plot(
                above, np.ones(above.size), "^", color=colour, markersize=3.5, clip_on=False,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip


def _empty_figure(width: float, *, zoom: bool = False) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, _HEIGHT * (1.5 if zoom else 1)), layout="constrained")
    panels = figure.subplots(2 if zoom else 1, 1, sharex=True, squeeze=False)[:, 0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylabel("Test error (%)")
    panels[0].set_ylim(0, 1.02)
    panels[0].set_yticks(np.linspace(0, 1, 6))
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    return figure, list(panels)


def _reference_lines(axes: Axes, result: LesionResult) -> list[Line2D | Patch]:
    error, chance = 1 - result.baseline.accuracy, 1 - result.baseline.chance
    return [
        axes.axhline(
            error, color="black", linewidth=0.8, dashes=(4, 2), zorder=1,
            label=f"full net ({error:.1%})",
        ),
        axes.axhline(
            chance, color=GREY, linewidth=0.8, dashes=(1, 1.5), zorder=1,
            label=f"chance ({chance:.1%})",
        ),
    ]  # fmt: skip


def _kinds(points: _Points) -> list[tuple[npt.NDArray[np.bool_], str, Any]]:
    """Shape-keeping and shape-changing lesions, each with its marker and colour."""
    colours = sns.color_palette("colorblind")
    return [(~points.changes, "o", colours[0]), (points.changes, "D", colours[3])]


def _labels(lesions: Sequence[Lesion]) -> tuple[str, str]:
    """What the markers of shape-keeping and of shape-changing blocks mean."""
    if all(len(lesion.blocks) == 1 for lesion in lesions):
        return _SINGLE_LABELS
    # Anything but a deletion is labelled in words.
    return _OTHER_LABELS if any(" " in lesion.label for lesion in lesions) else _SET_LABELS


def _lesion_points(axes: Axes, points: _Points, labels: tuple[str, str]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = []
    for (chosen, marker, colour), label in zip(_kinds(points), labels, strict=True):
        if chosen.any():
            _markers(axes, points, chosen, marker, colour)
            handles.append(_handle(label, marker, colour))
    return handles


def _markers(
    axes: Axes,
    points: _Points,
    chosen: npt.NDArray[np.bool_],
    marker: str,
    colour: Any,
    *,
    hollow: bool = False,
) -> None:
    position = points.position[chosen]
    axes.vlines(
        position, points.low[chosen], points.high[chosen], color=colour, linewidth=0.8, zorder=2
    )
    axes.plot(
        position, points.value[chosen], marker, color=colour, markersize=_MARKER_SIZE, zorder=3,
        markeredgewidth=0.8 if hollow else 0, markerfacecolor="white" if hollow else colour,
    )  # fmt: skip


def _one_of_several(axes: Axes, result: LesionResult, marker: str, colour: Any) -> None:
    blocks = result.block_count
    position = [(np.mean(lesion.blocks) + 0.5) / blocks for lesion in result.lesions]
    points = _Points.of(result, np.array(position, float))
    order = np.argsort(points.position, kind="stable")
    axes.plot(
        points.position[order], points.value[order],
        color=colour, linewidth=0.6, alpha=0.5, zorder=1,
    )  # fmt: skip
    for chosen, hollow in ((~points.changes, False), (points.changes, True)):
        if chosen.any():
            _markers(axes, points, chosen, marker, colour, hollow=hollow)
    axes.axhline(points.full, color=colour, linewidth=0.8, dashes=(4, 2), zorder=1)
    ticks = [(block.index + 0.5) / blocks for block in result.not_deletable]
    if ticks:
        axes.plot(ticks, np.zeros(len(ticks)), "|", color=colour, markersize=8, clip_on=False)


def _shared_handles(axes: Axes, results: Sequence[LesionResult]) -> list[Line2D | Patch]:
    """Legend entries that all nets share, and the chance lines, one for each distinct value."""
    handles: list[Line2D | Patch] = []
    if any(lesion.changes_shape for result in results for lesion in result.lesions):
        handles.append(_handle("shape-changing block", "o", GREY, hollow=True))
    if any(result.not_deletable for result in results):
        handles.append(_handle("not deletable", "|", GREY))
    handles.append(_interval_handle(results))
    handles.append(Line2D([], [], color=GREY, linewidth=0.8, dashes=(4, 2), label="full net"))
    for chance in sorted({1 - result.baseline.chance for result in results}):
        handles.append(
            axes.axhline(
                chance, color=GREY, linewidth=0.8, dashes=(1, 1.5), zorder=1,
                label=f"chance ({chance:.1%})",
            )
        )  # fmt: skip
    return handles


def _handle(
    label: str, marker: str, colour: Any, *, hollow: bool = False, line: bool = False
) -> Line2D:
    return Line2D(
        [], [], marker=marker, color=colour, markersize=6 if marker == "|" else 3.5, label=label,
        linestyle="-" if line else "none", linewidth=0.6,
        markeredgewidth=0.8 if hollow or marker == "|" else 0,
        markerfacecolor="white" if hollow else colour,
    )  # fmt: skip


def _interval_handle(results: Sequence[LesionStudyResult[Any]]) -> Line2D:
    """What the vertical lines are: intervals that hold for all lesions of a net at once."""
    several = any(len(result.lesions) > 1 for result in results)
    label = f"{'simultaneous ' * several}{100 * results[0].level:g}% interval"
    return Line2D([], [], color=GREY, linewidth=0.8, label=label)


def _bands(axes: Axes, indices: Sequence[int]) -> Patch:
    for index in indices:
        axes.axvspan(index - 0.5, index + 0.5, color="0.9", linewidth=0, zorder=0)
    return Patch(color="0.9", linewidth=0, label="not deletable")


def _not_deletable(
    axes: Axes, result: LesionStudyResult[Any], *, single: bool
) -> list[Line2D | Patch]:
    if not (single and result.not_deletable):
        return []
    return [_bands(axes, [block.index for block in result.not_deletable])]


def _name_places(axes: Axes, result: LesionStudyResult[Any], places: int, *, single: bool) -> None:
    axes.set_xlim(-0.75, places - 0.25)
    if single:
        axes.set_xlabel("Index of the deleted block")
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, min_n_ticks=1))
    else:
        _name_sets(axes, [lesion.label for lesion in result.lesions])


def _width(places: int, sets: Sequence[Lesion]) -> float:
    characters = sum(len(_shortened(lesion.label)) + 2 for lesion in sets)
    fits = places <= _MOST_IN_COLUMN and characters <= _CHARACTERS_PER_INCH * COLUMN_WIDTH
    return COLUMN_WIDTH if fits else FULL_WIDTH


def _name_sets(axes: Axes, labels: Sequence[str]) -> None:
    in_words = any(" " in label for label in labels)
    axes.set_xlabel("Intervention" if in_words else "Deleted blocks")
    step = -(-len(labels) // _MOST_SET_LABELS)
    names = [_shortened(label) for label in labels[::step]]
    axes.set_xticks(list(range(0, len(labels), step)), names)
    if max(len(name) + 2 for name in names) * len(names) > _CHARACTERS_PER_INCH * FULL_WIDTH:
        axes.tick_params(axis="x", rotation=90)


def _shortened(label: str) -> str:
    return label if len(label) <= 14 else f"{label[:12]}..."
