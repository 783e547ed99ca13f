"""Figures, tested by their artists."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ensemble_view.errors import MeasurementError
from ensemble_view.figures.style import COLUMN_WIDTH, FULL_WIDTH, save_figure
from ensemble_view.studies.lesion.figure import comparison_figure, lesion_figure
from ensemble_view.studies.lesion.result import LesionResult
from simulated_results import simulated_result


def whole(figure: Figure) -> Axes:
    """The panel with all errors from 0 to 100 %."""
    axes: Axes = figure.axes[0]
    assert axes.get_ylim() == (0, 1.02)
    return axes


def enlarged(figure: Figure) -> Axes:
    _, axes = figure.axes
    return axes


def legend_labels(figure: Figure) -> list[str]:
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def markers(axes: Axes) -> dict[str, Line2D]:
    return {
        str(line.get_marker()): line for line in axes.lines if line.get_marker() not in ("None", "")
    }


def horizontals(axes: Axes) -> list[float]:
    """Heights of the lines that cross the whole axes."""
    return [
        float(line.get_ydata()[0])
        for line in axes.lines
        if line.get_marker() == "None" and list(line.get_xdata()) == [0, 1]
    ]


def intervals(axes: Axes) -> dict[float, tuple[float, float]]:
    return {
        segment[0][0]: (segment[0][1], segment[1][1])
        for collection in axes.collections
        if isinstance(collection, LineCollection)
        for segment in collection.get_segments()
    }


def assert_text_is_readable(figure: Figure) -> None:
    """No text leaves the page, no tick label covers its neighbour, axes fill the page."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    lowest = figure.axes[-1]
    ticks = [t for t in lowest.get_xticklabels() if t.get_text() and inside(t, lowest)]
    boxes = [label.get_window_extent(renderer) for label in ticks]
    for left, right in itertools.pairwise(boxes):
        assert left.x1 < right.x0
    texts = [*ticks, lowest.xaxis.label, *figure.legends[0].get_texts()]
    for axes in figure.axes:
        texts += [axes.yaxis.label, *axes.get_yticklabels()]
    for text in texts:
        box = text.get_window_extent(renderer)
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
        assert text.get_fontsize() >= 7
    for text in (lowest.xaxis.label, *figure.legends[0].get_texts()):
        box = text.get_window_extent(renderer)
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
    for axes in figure.axes:
        label, box = axes.yaxis.label.get_window_extent(renderer), axes.get_window_extent()
        assert box.y0 - 2 <= label.y0 <= label.y1 <= box.y1 + 2
        assert box.width > 0.8 * figure.bbox.width


def inside(text: object, axes: Axes) -> bool:
    low, high = axes.get_xlim()
    return low <= text.get_position()[0] <= high  # type: ignore[attr-defined]


def test_every_block_has_its_error_and_interval() -> None:
    result = simulated_result()
    axes = whole(lesion_figure(result))
    shown = markers(axes)
    frame = result.frame
    for marker, changes in (("o", False), ("D", True)):
        rows = frame[frame["changes_shape"] == changes]
        assert list(shown[marker].get_xdata()) == [int(label) for label in rows["blocks"]]
        assert shown[marker].get_ydata() == pytest.approx(1 - rows["accuracy"].to_numpy())
    full = 1 - result.baseline.accuracy
    drawn = intervals(axes)
    assert len(drawn) == 27
    for _, row in frame.iterrows():
        low, high = drawn[float(row["blocks"])]
        assert low == pytest.approx(max(0, full + row["drop_simultaneous_low"]))
        assert high == pytest.approx(min(1, full + row["drop_simultaneous_high"]))
        assert low <= 1 - row["accuracy"] <= high


def test_near_the_baseline_intervals_are_enlarged_beyond_their_markers() -> None:
    result = simulated_result(54, downsampling=(18, 36), accuracy=0.97, examples=797)
    figure = lesion_figure(result)
    FigureCanvasAgg(figure).draw()
    axes = enlarged(figure)
    low, high = axes.get_ylim()
    points = axes.bbox.height / figure.dpi * 72 / (high - low)
    kept = [i for place, i in intervals(axes).items() if place not in (18, 36)]
    assert all(low < bottom < top < high for bottom, top in kept)
    assert (
        np.median([top - bottom for bottom, top in kept]) * points
        > 3 * markers(axes)["o"].get_markersize()
    )
    assert low < 1 - result.baseline.accuracy < high


def test_arrowheads_point_to_what_lies_above_the_enlarged_panel() -> None:
    result = simulated_result(27)
    axes = enlarged(lesion_figure(result))
    above = result.frame[1 - result.frame["accuracy"] > axes.get_ylim()[1]]
    assert list(above["blocks"]) == ["9", "18"]
    assert list(markers(axes)["^"].get_xdata()) == [9, 18]


@pytest.mark.parametrize("damage", [0.0, 0.02, 0.1, 0.2, 0.9])
def test_no_interval_is_cut_off(damage: float) -> None:
    figure = lesion_figure(simulated_result(downsampling=(3, 4, 5), damage=damage, accuracy=0.99))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        shown = {
            x for line in axes.lines if line.get_marker() in "oD" and len(line.get_xdata())
            for x, y in line.get_xydata() if low <= y <= high
        }  # fmt: skip
        for place, (bottom, top) in intervals(axes).items():
            assert place not in shown or low <= bottom <= top <= high


def test_a_net_that_collapses_has_no_enlarged_panel() -> None:
    figure = lesion_figure(simulated_result(19, downsampling=(6, 12), shape="fixed", damage=0.9))
    assert len(figure.axes) == 1


def test_a_perfect_net_is_drawn() -> None:
    figure = lesion_figure(simulated_result(9, downsampling=(), accuracy=1.0, damage=0.0))
    assert_text_is_readable(figure)
    assert horizontals(whole(figure))[0] == 0


def test_baseline_and_chance_are_named_lines() -> None:
    result = simulated_result()
    figure = lesion_figure(result)
    error, chance = 1 - result.baseline.accuracy, 1 - result.baseline.chance
    assert horizontals(whole(figure)) == [error, chance]
    assert legend_labels(figure) == [
        f"full net ({error:.1%})", f"chance ({chance:.1%})", "block deleted",
        "shape-changing block deleted", "simultaneous 95% interval",
    ]  # fmt: skip


def test_shape_changing_blocks_differ_by_marker_and_colour() -> None:
    shown = markers(whole(lesion_figure(simulated_result())))
    assert set(shown) == {"o", "D"}
    assert not same_color(shown["o"].get_color(), shown["D"].get_color())


def test_units_of_a_plain_net_that_cannot_be_deleted_are_bands() -> None:
    result = simulated_result(19, downsampling=(6, 12), shape="fixed", damage=0.9)
    figure = lesion_figure(result)
    axes = whole(figure)
    bands = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [band.get_x() + band.get_width() / 2 for band in bands] == [6, 12]
    assert legend_labels(figure)[-2] == "not deletable"
    assert set(markers(axes)) == {"o"}
    assert axes.get_xlim() == (-0.75, 18.75)


@pytest.mark.parametrize(
    ("blocks", "width"), [(3, COLUMN_WIDTH), (30, COLUMN_WIDTH), (54, FULL_WIDTH)]
)
def test_width_follows_the_number_of_blocks(blocks: int, width: float) -> None:
    figure = lesion_figure(simulated_result(blocks, downsampling=(1,), examples=50))
    assert figure.get_figwidth() == width
    assert whole(figure).get_title() == ""


@pytest.mark.parametrize("blocks", [1, 3, 27, 30, 54, 108])
def test_text_stays_on_the_page_and_ticks_apart(blocks: int) -> None:
    figure = lesion_figure(simulated_result(blocks, downsampling=(1,), examples=50))
    assert_text_is_readable(figure)
    axes = whole(figure)
    ticks = [tick for tick in axes.get_xticks() if -0.75 <= tick <= blocks]
    assert all(float(tick).is_integer() for tick in ticks)


SETS = [
    ((0, 1), (3, 4, 5, 6), (9,), tuple(range(2, 24))),
    tuple((i, i + 1, i + 2) for i in range(20)),
    tuple((i, i + 1) for i in range(0, 26, 2)),
]


@pytest.mark.parametrize("sets", SETS)
def test_sets_of_blocks_stand_in_order_with_their_labels(sets: tuple[tuple[int, ...], ...]) -> None:
    figure = lesion_figure(simulated_result(27, sets=sets, examples=50))
    assert_text_is_readable(figure)
    axes = whole(figure)
    places = sorted(x for line in markers(axes).values() for x in line.get_xdata())
    assert places == list(range(len(sets)))
    labels = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert labels[0] == ",".join(map(str, sets[0]))
    assert figure.axes[-1].get_xlabel() == "Deleted blocks"


def nets() -> dict[str, LesionResult]:
    return {
        "ResNet": simulated_result(27),
        "plain": simulated_result(19, downsampling=(6, 12), shape="fixed", damage=0.9, seed=1),
        "VGG": simulated_result(13, downsampling=(2,), shape="fixed", damage=0.95, seed=2),
    }


def test_comparison_puts_nets_at_relative_positions() -> None:
    results = nets()
    figure = comparison_figure(results)
    axes = whole(figure)
    assert axes.get_xlim() == (0, 1)
    drawn = intervals(axes)
    for result in results.values():
        for lesion in result.lesions:
            place = (lesion.blocks[0] + 0.5) / result.block_count
            assert min(abs(place - x) for x in drawn) < 1e-9
    assert len({tuple(mpl.colors.to_rgb(line.get_color())) for line in axes.lines}) == 4
    assert legend_labels(figure) == [
        "ResNet", "plain", "VGG", "shape-changing block", "not deletable",
        "simultaneous 95% interval", "full net", "chance (90.0%)",
    ]  # fmt: skip
    expected = [1 - result.baseline.accuracy for result in results.values()]
    assert horizontals(axes) == [*expected, 0.9]
    assert_text_is_readable(figure)


def test_comparison_marks_shape_changing_blocks_hollow_and_undeletable_ones_by_ticks() -> None:
    axes = whole(comparison_figure(nets()))
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow] == [[9.5 / 27, 18.5 / 27]]
    ticks = [line for line in axes.lines if line.get_marker() == "|"]
    assert [list(line.get_xdata()) for line in ticks] == [[6.5 / 19, 12.5 / 19], [2.5 / 13]]
    assert all(set(line.get_ydata()) == {0} for line in ticks)


def test_comparison_of_nets_on_data_of_different_chance_has_a_line_for_each() -> None:
    other = simulated_result(9, downsampling=())
    labels = np.arange(400) % 4
    outcomes = dataclasses.replace(other.outcomes, labels=labels)
    results = {"a": simulated_result(), "b": dataclasses.replace(other, outcomes=outcomes)}
    assert legend_labels(comparison_figure(results))[-2:] == ["chance (75.0%)", "chance (90.0%)"]


def test_comparison_of_nothing_is_refused() -> None:
    with pytest.raises(MeasurementError, match="no result to compare; expected at least one"):
        comparison_figure({})


def test_drawing_leaves_the_global_style_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    save_figure(lesion_figure(simulated_result()), tmp_path / "figure.pdf")
    comparison_figure(nets())
    assert dict(mpl.rcParams) == before


def test_pdf_embeds_truetype_fonts_and_no_date(tmp_path: Path) -> None:
    with mpl.rc_context({"pdf.compression": 0}):
        save_figure(lesion_figure(simulated_result()), tmp_path / "figure.pdf")
    content = (tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in content
    assert b"/Type3" not in content
    assert b"CreationDate" not in content


@pytest.mark.parametrize("suffix", ["pdf", "png", "svg"])
def test_equal_figures_give_equal_files(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        save_figure(lesion_figure(simulated_result()), tmp_path / f"{name}.{suffix}")
    first, second = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("a", "b"))
    assert first == second


def test_png_is_for_print(tmp_path: Path) -> None:
    save_figure(lesion_figure(simulated_result()), tmp_path / "figure.png")
    header = (tmp_path / "figure.png").read_bytes()[16:20]
    assert int.from_bytes(header, "big") == round(COLUMN_WIDTH * 300)


def test_drawing_opens_no_window() -> None:
    simulated_result().plot()
    comparison_figure(nets())
    assert plt.get_fignums() == []
