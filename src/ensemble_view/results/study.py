"""What all results of studies share: a table, words, a figure, a record, and a folder of files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.results import files
from ensemble_view.results.files import ResultError
from ensemble_view.results.text import html_table, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StudyResult"]

_VERSION = 1


class StudyResult(ABC):
    """A frozen dataclass that can be read as a table, drawn, written to a folder and read back.

    Class attributes:
        kind: of the record, so that it is loaded by the class that wrote it.
        table_name: of the main table's file, without its suffix.
        figure_name: of the figure's files, likewise.
    """

    kind: ClassVar[str]
    table_name: ClassVar[str]
    figure_name: ClassVar[str]

    @property
    @abstractmethod
    def frame(self) -> pd.DataFrame:
        """The main table."""

    @property
    @abstractmethod
    def table(self) -> str:
        """The main table as text of at most 80 columns."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """The result in plain words."""

    @abstractmethod
    def plot(self) -> Figure:
        """Draw the result.

        Returns:
            A matplotlib figure that belongs to no window.
        """

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
    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables that are written, by the name of the file."""
        return {self.table_name: self.frame}

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

    def save(self, folder: str | Path) -> None:
        """Write tables, record, measurements and figure into a folder.

        Args:
            folder: made if missing; receives the tables as CSV, ``results.json``, the figure as PDF
                and PNG, and ``outcomes.npz`` where single examples were kept. Equal results give
                equal files.

        Raises:
            ResultError: if the folder cannot be written to.
        """
        from ensemble_view.figures import save_figure

        folder = Path(folder)
        files.prepare_folder(folder)
        if self.arrays:
            files.write_arrays(folder / "outcomes.npz", self.arrays)
        for name, frame in self.tables.items():
            files.write_text(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
        figure = self.plot()
        for suffix in ("pdf", "png"):
            with files.writing(folder / f"{self.figure_name}.{suffix}"):
                save_figure(figure, folder / f"{self.figure_name}.{suffix}")
        # Last, because its presence marks a complete result.
        files.write_json(folder / "results.json", self.to_json())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read back what :meth:`save` wrote.

        Args:
            folder: a folder with ``results.json``.

        Returns:
            A result equal to the saved one; its statistics derive anew from what was measured.

        Raises:
            ResultError: if the folder holds no result, or one of another kind or version.
        """
        folder = Path(folder)
        content = files.read_json(folder / "results.json", cls.kind, _VERSION)
        try:
            return cls._restored(content, folder)
        except (KeyError, TypeError, ValueError, MeasurementError) as error:
            raise ResultError(
                f"The files in {folder} do not fit together ({error}); expected those that save() "
                "wrote of one run; run the study again."
            ) from error

    def __repr__(self) -> str:
        return f"{self.table}\n\n{wrapped(self.summary)}"

    def _repr_html_(self) -> str:
        return html_table(self.frame, self.summary)
