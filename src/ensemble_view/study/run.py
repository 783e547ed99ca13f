"""One run of plans over data: every example's outcomes, one number of each, how it came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ensemble_view.errors import MeasurementError
from ensemble_view.study import files
from ensemble_view.study.outcomes import ExampleArrays, LanguageOutcomes, MeasuredOutcomes, Outcomes
from ensemble_view.study.provenance import Cost, Provenance

__all__ = ["Run", "Scores"]

_KINDS: dict[str, type[ExampleArrays]] = {
    "classification": Outcomes,
    "language": LanguageOutcomes,
    "own": MeasuredOutcomes,
}


@dataclass(frozen=True, eq=False)
class Scores:
    """One number per plan and example, whose mean over examples is what a study reports.

    Of a classifier it is the error (0 or 1). Of a language model it is the loss per token,
    linearised: ``r + (L - r T) / mean(T)`` of a sequence of T tokens with the summed loss L, where
    r is the mean per token of all, so that the mean over sequences is r and its variance that of
    the ratio (Cochran 1977, chapter 6).

    Attributes:
        name: what it is: ``"error"``, ``"loss per token"``, or a user's own measure.
        values: shape ``[plans, examples]``.
        baseline: shape ``[examples]``, of the full net.
        higher_is_better: whether a larger value is better.
        chance: the error of the best constant guess, a proportion; None where it has none.
    """

    name: str
    values: npt.NDArray[np.float64]
    baseline: npt.NDArray[np.float64]
    higher_is_better: bool = False
    chance: float | None = None

    @property
    def worsening(self) -> npt.NDArray[np.float64]:
        """By how much each plan is worse than the full net, on each example."""
        difference = self.values - self.baseline
        return -difference if self.higher_is_better else difference


@dataclass(frozen=True)
class Run:
    """What one run of plans over data gave.

    Attributes:
        outcomes: the measurements of every example, of the plans after the full net's.
        cost: block evaluations.
        seconds: wall-clock time of the measurement.
        provenance: net, data, versions, seed.
        level: confidence level of all intervals, a proportion.
        interrupted: whether it was stopped early; the outcomes then hold fewer examples.
        measure: what a user's own measure is called.
        higher_is_better: of a user's own measure.

    Example:
        One plan, three examples, and a measure of one's own.

        >>> outcomes = MeasuredOutcomes(np.array([[0.5, 0.6, 0.4]]), np.array([0.9, 0.8, 0.7]))
        >>> provenance = Provenance({"name": "net"}, {"name": "three"}, {}, seed=0, command="",
        ...                         date="", device="cpu", threads=1, batch_size=3)
        >>> run = Run(outcomes, Cost(1, 1, 1), 0.1, provenance, measure="IoU")
        >>> run.scores.name, run.scores.worsening.round(1).tolist()
        ('IoU', [[0.4, 0.2, 0.3]])
    """

    outcomes: ExampleArrays
    cost: Cost
    seconds: float
    provenance: Provenance
    level: float = 0.95
    interrupted: bool = False
    measure: str | None = None
    higher_is_better: bool = True

    @property
    def plans(self) -> int:
        """How many plans there are beside the full net's."""
        return self.outcomes.lesions

    @property
    def examples(self) -> int:
        """How many examples were measured."""
        return len(self.outcomes.arrays[self.outcomes.of_examples[-1]])

    @property
    def stopped_after(self) -> int | None:
        """How many examples were measured, if the user stopped the run early."""
        return self.examples if self.interrupted else None

    @property
    def net(self) -> str:
        """Name of the net."""
        return str(self.provenance.model.get("name", "the net"))

    @property
    def data(self) -> str:
        """Name of the data."""
        return str(self.provenance.data.get("name", "the data"))

    @property
    def cut_short(self) -> str:
        """What to add to a sentence about the examples, if the run was stopped."""
        if not self.interrupted:
            return ""
        return " (the study was interrupted: these are the examples done so far)"

    @cached_property
    def scores(self) -> Scores:
        """One number per plan and example."""
        found = self.outcomes
        if isinstance(found, Outcomes):
            _, counts = np.unique(found.labels, return_counts=True)
            return Scores(
                name="error",
                values=(~found.correct).astype(np.float64),
                baseline=(~found.baseline_correct).astype(np.float64),
                chance=1 - float(counts.max()) / len(found.labels),
            )
        if isinstance(found, LanguageOutcomes):
            return Scores(
                name="loss per token",
                values=_per_token(found.loss, found.tokens),
                baseline=_per_token(found.baseline_loss, found.tokens),
            )
        if isinstance(found, MeasuredOutcomes):
            name = self.measure or "measure"
            return Scores(name, found.values, found.baseline, self.higher_is_better)
        raise MeasurementError(
            f"Outcomes of the type {type(found).__name__} have no score; expected those of a "
            "classifier, of a language model, or of a measure of one's own."
        )

    def part(self, plans: slice, examples: int | None = None) -> Self:
        """Give some plans of the run, or its first examples, by themselves.

        Args:
            plans: which.
            examples: how many; by default all.

        Returns:
            A run of the same cost and provenance.
        """
        found = self.outcomes
        arrays = {
            name: (array if name in found.of_examples else array[plans])[..., :examples]
            for name, array in found.arrays.items()
        }
        return replace(self, outcomes=type(found)(**arrays))

    def to_json(self) -> dict[str, Any]:
        """Give what a result's record says of its run, without the outcomes themselves.

        Returns:
            JSON values, the provenance's fields among them.
        """
        kind = next(name for name, each in _KINDS.items() if type(self.outcomes) is each)
        return {
            **self.provenance.to_json(),
            "outcomes": kind,
            "measure": self.measure,
            "higher_is_better": self.higher_is_better,
            "cost": asdict(self.cost),
            "seconds": self.seconds,
            "level": self.level,
            "interrupted": self.interrupted,
        }

    @classmethod
    def restored(cls, content: Mapping[str, Any], folder: Path, prefix: str = "") -> Self:
        """Read back what :meth:`to_json` gave and the outcomes.

        Args:
            content: of ``results.json``.
            folder: with ``outcomes.npz``.
            prefix: of the arrays' names, where the file holds those of several runs.

        Returns:
            The run.

        Raises:
            KeyError: if something is missing.
        """
        kind = _KINDS[content["outcomes"]]
        names = [field.name for field in fields(kind)]
        found = files.read_arrays(folder / "outcomes.npz", [prefix + name for name in names])
        arrays = {name: found[prefix + name] for name in names}
        shared = ("seconds", "level", "interrupted", "measure", "higher_is_better")
        return cls(
            outcomes=kind(**arrays),
            cost=Cost(**content["cost"]),
            provenance=Provenance.from_json(content),
            **{name: content[name] for name in shared},
        )


def _per_token(loss: npt.NDArray[Any], tokens: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    rate = loss.sum(-1, keepdims=True) / tokens.sum()
    linearised: npt.NDArray[np.float64] = rate + (loss - rate * tokens) / tokens.mean()
    return linearised
