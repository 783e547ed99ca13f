"""One run of plans over data: every example's outcomes, one number of each, how it came about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ensemble_view.study import files
from ensemble_view.study.checked import check_within
from ensemble_view.study.outcomes import ExampleArrays, LanguageOutcomes, MeasuredOutcomes, Outcomes
from ensemble_view.study.provenance import Cost, Provenance
from ensemble_view.study.scores import Scores

__all__ = ["Run"]

_KINDS: dict[str, type[ExampleArrays]] = {
    "classification": Outcomes,
    "language": LanguageOutcomes,
    "own": MeasuredOutcomes,
}


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

        >>> import numpy as np
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
        return self.outcomes.scores(self.measure, self.higher_is_better)

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
        check_within("the level", [content["level"]])
        check_within("the time in seconds", [content["seconds"]], 0, math.inf)
        shared = ("seconds", "level", "interrupted", "measure", "higher_is_better")
        return cls(
            outcomes=kind(**arrays),
            cost=Cost(**content["cost"]),
            provenance=Provenance.from_json(content),
            **{name: content[name] for name in shared},
        )
