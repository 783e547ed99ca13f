"""What all figures share: widths of a page, fonts and lines, the legend's place, files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FuncFormatter, MaxNLocator

__all__ = [
    "COLUMN_WIDTH",
    "FULL_WIDTH",
    "GREY",
    "PANEL_HEIGHT",
    "VENUES",
    "dressed",
    "legend",
    "paper_style",
    "save_figure",
    "side_by_side",
]

COLUMN_WIDTH = 3.3
"""Width in inches of one column of a two-column page."""

FULL_WIDTH = 6.9
"""Width in inches of a whole page."""

PANEL_HEIGHT = 2.6
"""Height in inches of panels side by side."""

VENUES = {
    "neurips": (5.5, 5.5),
    "icml": (3.25, 6.75),
    "cvpr": (3.25, 6.875),
    "ieee": (3.5, 7.16),
    "nature": (3.5, 7.2),
}
"""Widths in inches of one column and of the text, by venue: NeurIPS has one column."""

GREY = "0.45"
"""Of what is not the measurement itself: chance, ticks, bands."""

_STYLE: Any = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "savefig.dpi": 300,
    # TrueType, because many publishers refuse type 3 fonts.
    "pdf.fonttype": 42,
}


@contextmanager
def paper_style() -> Iterator[None]:
    """Use the fonts and lines of all figures here.

    Yields:
        Nothing.

    Example:
        >>> with paper_style():
        ...     mpl.rcParams["xtick.labelsize"]
        7.0
    """
    with sns.axes_style("ticks"), sns.plotting_context("paper"), mpl.rc_context(_STYLE):
        yield


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Put the legend above the axes, where it hides no point.

    Args:
        figure: The figure.
        handles: What the legend lists.

    Example:
        >>> legend(Figure(), [])
    """
    columns = 2 if figure.get_figwidth() <= COLUMN_WIDTH else 5
    figure.legend(
        handles=list(handles), loc="outside upper center", ncols=min(columns, max(len(handles), 1)),
        frameon=False, handlelength=1.6, columnspacing=1.2, handletextpad=0.5,
        borderaxespad=0.1, labelspacing=0.3,
    )  # fmt: skip


def side_by_side(figure: Figure, number: int = 2) -> list[Axes]:
    """Divide a figure into panels whose horizontal axis counts.

    Args:
        figure: Without axes yet.
        number: Of panels.

    Returns:
        The axes from left to right.

    Example:
        >>> len(side_by_side(Figure()))
        2
    """
    every = list(figure.subplots(1, number))
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(9, integer=True, min_n_ticks=1))
    return every


def dressed(figure: Figure, *, title: str | None = None, style: str | None = None) -> Figure:
    """Give a figure a title, and the width that a venue's page has.

    Args:
        figure: Of column width or of full width.
        title: Above it.
        style: Of :data:`VENUES`.

    Returns:
        The same figure.

    Example:
        >>> float(dressed(Figure(figsize=(COLUMN_WIDTH, 2)), style="ieee").get_figwidth())
        3.5
    """
    if title is not None:
        figure.suptitle(title)
    if style is not None:
        column, text = VENUES[style]
        width = figure.get_figwidth()
        wanted = column if width <= COLUMN_WIDTH else min(text, width * text / FULL_WIDTH)
        figure.set_size_inches(wanted, figure.get_figheight())
    return figure


def _without_mathematics(figure: Figure) -> None:
    """Show a dollar in a name as a dollar; numbers on axes keep their powers of ten."""
    numbers: set[int] = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            # Labels that were given are names; those that a formatter makes are numbers.
            if not isinstance(axis.get_major_formatter(), FixedFormatter | FuncFormatter):
                ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
                numbers |= {id(label) for tick in ticks for label in (tick.label1, tick.label2)}
    for artist in figure.findobj(Text):
        if isinstance(artist, Text) and id(artist) not in numbers:
            artist.set_parse_math(False)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PDF with embedded TrueType fonts, PNG or SVG, without the date.

    Args:
        figure: what to write; equal figures give equal files.
        path: the file; its suffix decides the format.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save_figure(Figure(), Path(folder, "empty.pdf"))
        ...     Path(folder, "empty.pdf").read_bytes()[:5]
        b'%PDF-'
    """
    dates: dict[str, dict[str, None]] = {
        ".pdf": {"CreationDate": None},
        ".svg": {"Date": None},
        ".png": {},
    }
    _without_mathematics(figure)
    with mpl.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "ensemble_view"}):
        figure.savefig(path, metadata=dates.get(Path(path).suffix.lower()), dpi=300)
