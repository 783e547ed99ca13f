"""Gradients by path length over the checkpoints of one training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.results import files
from ensemble_view.results.files import ResultError
from ensemble_view.results.gradients import GradientsByLength
from ensemble_view.results.gradients_text import NAMES
from ensemble_view.results.text import html_table, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["GradientsByCheckpoint"]

_KIND, _VERSION = "gradients by checkpoint", 1
_COLUMNS = ("checkpoint", "weighting", "mean_length", "low", "high", "share_of_paths")
_HEADS = {"projected": "projected", "summed": "summed", "energy": "energy", "sampled": "sampled"}


@dataclass(frozen=True, repr=False)
class GradientsByCheckpoint:
    """Which path lengths carry the gradient, checkpoint by checkpoint.

    Attributes:
        names: what each checkpoint is called, in the order of training.
        results: of each, its gradients by length.
        interrupted: whether it was stopped early; what is here was done by then.

    Example:
        >>> from ensemble_view.results.gradients import GradientCost, GradientSettings, LengthRow
        >>> from ensemble_view.results.records import Provenance
        >>> provenance = Provenance({"name": "net"}, {"name": "one"}, {}, seed=0, command="",
        ...                         date="", device="cpu", threads=1, batch_size=1)
        >>> settings = GradientSettings(("summed",), "block 0", "loss", 16, None, 0, "example")
        >>> each = [
        ...     GradientsByLength(
        ...         (LengthRow(0, 1, projected=1 - share), LengthRow(1, 1, projected=share)),
        ...         settings, GradientCost(1, {"summed": 1}, 1), 0.0, 0, 0.1, provenance)
        ...     for share in (0.25, 0.75)]
        >>> GradientsByCheckpoint(("start", "end"), tuple(each)).frame["mean_length"].tolist()
        [0.25, 0.75]
    """

    names: tuple[str, ...]
    results: tuple[GradientsByLength, ...]
    interrupted: bool = False

    def __post_init__(self) -> None:
        if not self.results or len(self.names) != len(self.results):
            raise MeasurementError(
                f"There are {len(self.names)} names of checkpoints for {len(self.results)} "
                "results; expected one name for each, and at least one."
            )
        if len({result.blocks for result in self.results}) > 1:
            counts = ", ".join(
                f"{name} {result.blocks}"
                for name, result in zip(self.names, self.results, strict=True)
            )
            raise MeasurementError(
                f"The checkpoints have different numbers of blocks ({counts}), so that their "
                "lengths cannot be compared; give checkpoints of one training run."
            )

    @property
    def examples(self) -> int:
        """How many examples of the last checkpoint were measured."""
        return self.results[-1].examples

    @property
    def blocks(self) -> int:
        """The number of blocks that paths go through."""
        return self.results[0].blocks

    @property
    def frame(self) -> pd.DataFrame:
        """A row per checkpoint and weighting.

        ``checkpoint``, ``weighting``, ``mean_length``, ``low`` and ``high`` of the smallest
        interval that holds 95 % of it, and ``share_of_paths`` whose length lies there.
        """
        rows = [
            (name, weighting, found.mean, found.low, found.high, found.share_of_paths)
            for name, result in zip(self.names, self.results, strict=True)
            for weighting in NAMES
            if (found := result.effective.get(weighting)) is not None
        ]
        return pd.DataFrame(rows, columns=list(_COLUMNS))

    @property
    def summary(self) -> str:
        """The result in plain words: do the lengths that carry the gradient grow in training?"""
        first = self.results[0]
        data = first.provenance.data.get("name", "the data")
        cut = " (interrupted: these are those done so far)" if self.interrupted else ""
        sentences = [
            f"{len(self.names)} checkpoint{'s' * (len(self.names) != 1)}{cut}, {self.names[0]} to "
            f"{self.names[-1]}, {first.examples:,} {first.settings.unit} of {data}, gradient of "
            f"{first.settings.loss}, over paths of 0 to {self.blocks} branches."
        ]
        frame = self.frame
        for weighting, rows in frame.groupby("weighting", sort=False):
            means = rows["mean_length"].tolist()
            longest = rows["checkpoint"].tolist()[means.index(max(means))]
            sentences.append(
                f"By {NAMES[str(weighting)]}, the mean length goes from {means[0]:.1f} to "
                f"{means[-1]:.1f}; it is largest, {max(means):.1f}, at {longest}."
            )
        sentences.append("All of this is said of this run on these examples only.")
        return " ".join(sentences)

    def plot(self) -> Figure:
        """Draw mean lengths over the checkpoints, and the weights of all lengths at each.

        Returns:
            A matplotlib figure that belongs to no window.
        """
        from ensemble_view.path_figures import checkpoints_figure

        return checkpoints_figure(self)

    def to_json(self) -> dict[str, Any]:
        """Give the content of ``results.json``.

        Returns:
            Plain JSON values.
        """
        return dict(
            files.plain(
                {
                    "kind": _KIND,
                    "version": _VERSION,
                    "names": self.names,
                    "interrupted": self.interrupted,
                    "rows": self.frame.to_dict("records"),
                    "results": [result.to_json() for result in self.results],
                    "summary": self.summary,
                }
            )
        )

    def save(self, folder: str | Path) -> None:
        """Write the table, the record and the figure into a folder.

        Args:
            folder: made if missing; receives ``checkpoints.csv``, ``results.json``,
                ``checkpoints.pdf`` and ``checkpoints.png``. Equal results give equal files.

        Raises:
            ResultError: if the folder cannot be written to.
        """
        from ensemble_view.figures import save_figure

        folder = Path(folder)
        files.prepare_folder(folder)
        files.write_text(
            folder / "checkpoints.csv", self.frame.to_csv(index=False, lineterminator="\n")
        )
        figure = self.plot()
        for suffix in ("pdf", "png"):
            with files.writing(folder / f"checkpoints.{suffix}"):
                save_figure(figure, folder / f"checkpoints.{suffix}")
        # Last, because its presence marks a complete result.
        files.write_json(folder / "results.json", self.to_json())

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read back what :meth:`save` wrote.

        Args:
            folder: a folder with ``results.json``.

        Returns:
            A result equal to the saved one.

        Raises:
            ResultError: if the folder holds no result, or one of another kind or version.
        """
        folder = Path(folder)
        content = files.read_json(folder / "results.json", _KIND, _VERSION)
        try:
            return cls(
                names=tuple(content["names"]),
                results=tuple(GradientsByLength.from_json(each) for each in content["results"]),
                interrupted=content["interrupted"],
            )
        except (KeyError, TypeError, MeasurementError) as error:
            raise ResultError(
                f"The results.json in {folder} is not whole ({error}); expected the one that "
                "save() wrote; run the study again."
            ) from error

    def __repr__(self) -> str:
        frame = self.frame
        shown = [name for name in NAMES if (frame["weighting"] == name).any()]
        lines = [f"{'checkpoint':<18}" + "".join(f"{_HEADS[name]:>15}" for name in shown)]
        for name, result in zip(self.names, self.results, strict=True):
            line = f"{name if len(name) <= 18 else f'{name[:7]}...{name[-8:]}':<18}"
            for weighting in shown:
                found = result.effective.get(weighting)
                span = "" if found is None else f"{found.mean:.1f} [{found.low}, {found.high}]"
                line += f"{span:>15}"
            lines.append(line.rstrip())
        lines.append("mean path length, and the smallest interval with 95 % of the weighting")
        return "\n".join(lines) + "\n\n" + wrapped(self.summary)

    def _repr_html_(self) -> str:
        return html_table(self.frame, self.summary)
