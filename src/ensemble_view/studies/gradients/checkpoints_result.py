"""Gradients by path length over the checkpoints of one training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.studies.gradients.result import GradientsByLength
from ensemble_view.studies.gradients.words import NAMES
from ensemble_view.study.result import StudyResult

__all__ = ["GradientsByCheckpoint"]

_COLUMNS = ("checkpoint", "weighting", "mean_length", "low", "high", "share_of_paths")
_HEADS = {
    "projected": "projected", "pooled": "pooled", "summed": "summed", "energy": "energy",
    "sampled": "sampled",
}  # fmt: skip


@dataclass(frozen=True, repr=False)
class GradientsByCheckpoint(StudyResult):
    """Which path lengths carry the gradient, checkpoint by checkpoint.

    Attributes:
        names: what each checkpoint is called, in the order of training.
        results: of each, its gradients by length.
        interrupted: whether it was stopped early; what is here was done by then.

    Example:
        >>> from ensemble_view.studies.gradients.result import GradientCost, GradientSettings
        >>> from ensemble_view.studies.gradients.result import LengthRow
        >>> from ensemble_view.study.provenance import Provenance
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

    kind = "gradients by checkpoint"
    file_name = "checkpoints"

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
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers, of any of the checkpoints."""
        return tuple(dict.fromkeys(note for result in self.results for note in result.notes))

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
        sentences.append("These statements concern this run on these examples.")
        return " ".join(sentences)

    @property
    def stopped_after(self) -> int | None:
        """How many examples the last checkpoint's result is of, if the user stopped early."""
        return self.examples if self.interrupted else None

    def _record(self) -> dict[str, Any]:
        return {
            "names": self.names,
            "interrupted": self.interrupted,
            "rows": self.frame.to_dict("records"),
            "results": [result.to_json() for result in self.results],
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        return cls(
            names=tuple(content["names"]),
            results=tuple(GradientsByLength.from_json(each) for each in content["results"]),
            interrupted=content["interrupted"],
        )

    @property
    def table(self) -> str:
        """One row per checkpoint: mean length and effective lengths by each weighting."""
        frame = self.frame
        shown = [name for name in NAMES if (frame["weighting"] == name).any()]
        lines = [f"{'checkpoint':<15}" + "".join(f"{_HEADS[name]:>13}" for name in shown)]
        for name, result in zip(self.names, self.results, strict=True):
            line = f"{name if len(name) <= 15 else f'{name[:5]}...{name[-6:]}':<15}"
            for weighting in shown:
                found = result.effective.get(weighting)
                span = "" if found is None else f"{found.mean:.1f} [{found.low},{found.high}]"
                line += f"{span:>13}"
            lines.append(line.rstrip())
        lines.append("mean path length, and the smallest interval with 95 % of the weighting")
        return "\n".join(lines)
