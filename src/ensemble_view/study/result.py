"""What all results of studies share: a table, words, a figure, a record, and a folder of files."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError, printable
from ensemble_view.study import files, folders
from ensemble_view.study.checked import check_types
from ensemble_view.study.files import ResultError, ResultWarning
from ensemble_view.study.registry import kind_named
from ensemble_view.study.words import html_table, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StudyResult"]

_VERSION = 1
# What values of other types than were saved make of the code that restores them.
_BROKEN = (
    KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, MeasurementError,
)  # fmt: skip


class StudyResult(ABC):
    """A frozen dataclass that can be read as a table, drawn, written to a folder and read back.

    Class attributes:
        kind: of the record, so that it is loaded by the class that wrote it.
        file_name: of the files of the main table and the figure, without their suffix: the verb.
    """

    kind: ClassVar[str]
    file_name: ClassVar[str]

    @property
    @abstractmethod
    def frame(self) -> pd.DataFrame:
        """The main table."""

    @property
    def table(self) -> str:
        """The main table as text of at most 80 columns."""
        return str(self._known.words.table(self))

    @property
    def summary(self) -> str:
        """The result in plain words."""
        return str(self._known.words.summary(self))

    def plot(self, *, title: str | None = None, style: str | None = None) -> Figure:
        """Draw the result.

        Args:
            title: Above the figure; without it there is none, as in papers.
            style: Of a venue, whose column and text widths the figure takes: ``"neurips"``,
                ``"icml"``, ``"cvpr"``, ``"ieee"`` or ``"nature"``.

        Returns:
            A matplotlib figure that belongs to no window; :attr:`caption` explains it.

        Raises:
            MeasurementError: If there is no such style.
        """
        from ensemble_view.figures.style import VENUES, dressed

        if style is not None and style not in VENUES:
            raise MeasurementError(
                f"There is no figure style {style!r}; expected one of {', '.join(VENUES)}."
            )
        return dressed(self._known.figure(self), title=title, style=style)

    @property
    def caption(self) -> str:
        """What the marks and bars of the figure are, on what: the text to put below it."""
        return f"{self._known.caption} {self.summary.rpartition('. ')[2]}".strip()

    @property
    def _known(self) -> Any:
        """Who draws this kind of result and puts it into words."""
        return kind_named(self.kind)

    @abstractmethod
    def _record(self) -> dict[str, Any]:
        """What ``results.json`` holds between its kind and the summary."""

    @classmethod
    @abstractmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        """The result that was recorded; a KeyError, TypeError or ValueError: it is broken."""

    @property
    def stopped_after(self) -> int | None:
        """How many examples the result is of, if the user stopped the study early."""
        return None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers, as the provenance of the result has it."""
        # Results have a provenance of their own, or a run that has one; counts of paths have none.
        holder = self if hasattr(self, "provenance") else getattr(self, "run", None)
        return tuple(getattr(getattr(holder, "provenance", None), "notes", ()))

    @property
    def text(self) -> str:
        """Table and summary, without the notes."""
        return f"{self.table}\n\n{wrapped(self.summary)}"

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables that are written, by the name of the file."""
        return {self.file_name: self.frame}

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """What ``outcomes.npz`` holds; without any, there is no such file."""
        return {}

    def to_json(self) -> dict[str, Any]:
        """Give the content of ``results.json``.

        Returns:
            Plain JSON values; nan is None.
        """
        content = {"kind": self.kind, "version": _VERSION, **self._record()}
        return dict(files.plain(content | {"summary": self.summary}))

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write tables, record, measurements and figure into a folder.

        A reader of the folder finds the result that was there before, whole, or this one, at
        whatever moment the saving is cut short (:mod:`ensemble_view.study.folders`). Everything
        that was measured is saved before the figure is drawn.

        Args:
            folder: made if missing; receives the tables as CSV, ``results.json``, the figure as PDF
                and PNG, and ``outcomes.npz`` where single examples were kept. Equal results give
                equal files.
            overwrite: whether a result that the folder holds, and files of the same names, are
                replaced; other files stay.

        Warns:
            ResultWarning: if the figure cannot be drawn or written; everything else is saved.

        Raises:
            ResultError: if the folder cannot be written to, or holds a result already.
        """
        folder, record = Path(folder), self.to_json()
        figures = [f"{self.file_name}.{suffix}" for suffix in ("pdf", "png")]
        measured: dict[str, Callable[[Path], None]] = {
            f"{name}.csv": partial(files.write_table, frame=frame)
            for name, frame in self.tables.items()
        }
        if self.arrays:
            measured["outcomes.npz"] = partial(files.write_arrays, arrays=self.arrays)
        digests = folders.commit(
            folder, record, measured, files.write_json, overwrite=overwrite, also=figures
        )
        try:
            from ensemble_view.figures.style import save_figure

            figure = self.plot()
            folders.commit(
                folder,
                record,
                dict.fromkeys(figures, partial(save_figure, figure)),
                files.write_json,
                overwrite=True,
                keep=digests,
            )
        except Exception as error:
            message = str(error).strip() or "no message"
            warnings.warn(
                f"The figure of the result in {folder} could not be made ({type(error).__name__}: "
                f"{message.splitlines()[0]}); everything that was measured is saved there.",
                ResultWarning,
                stacklevel=2,
            )

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read back what :meth:`save` wrote.

        Args:
            folder: a folder with ``results.json``.

        Returns:
            A result equal to the saved one; its statistics derive anew from what was measured.

        Warns:
            ResultWarning: if the result was saved by a release that kept no digests, so that
                nothing tells whether its files belong together.

        Raises:
            ResultError: if the folder holds no result, one of another kind or version, or files
                that were changed or do not belong together.
        """
        folder = Path(folder)
        result, has_digests = folders.undisturbed(folder, partial(cls._read, folder))
        if not has_digests:
            warnings.warn(
                f"The result in {folder} was saved without digests, so that nothing tells whether "
                "its files belong together; save it again to add them.",
                ResultWarning,
                stacklevel=2,
            )
        return result

    @classmethod
    def _read(cls, folder: Path) -> tuple[Self, bool]:
        """The result in a folder, and whether digests have verified it."""

        def read(path: Path) -> dict[str, Any]:
            return files.read_json(path, cls.kind, _VERSION)

        with folders.whole_result(folder, read) as (content, place):
            try:
                result = cls._restored(content, place)
                check_types(result)
            except _BROKEN as error:
                raise ResultError(
                    f"The files in {folder} do not fit together ({error}); expected those that "
                    "save() wrote of one run; run the study again."
                ) from error
            changed = folders.mismatch(place, content)
        if changed is not None:
            raise ResultError(
                f"{changed}; expected the files of one run as save() wrote them; bring that file "
                "back, remove it if it is a table or figure, or run the study again."
            )
        return result, folders.DIGESTS in content

    def __repr__(self) -> str:
        whole = "\n".join([*map(wrapped, self.notes), *[""] * bool(self.notes), self.text])
        return printable(whole)

    def _repr_html_(self) -> str:
        return html_table(self.frame, self.summary, self.notes)
