"""k random deletions for each k, and what they cost (Veit et al. 2016, figure 5a)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.rank_correlation import RankCorrelation, spearman
from ensemble_view.statistics.subset_mean import Survival, calibrated_mean, survival
from ensemble_view.statistics.subsets import Subsets
from ensemble_view.studies.random.law import AdditiveLaw, AdditivePredictions, law_row
from ensemble_view.study import files
from ensemble_view.study.run import Run
from ensemble_view.study.trials import TrialsResult

__all__ = ["ManyResult"]

_HALF = 0.5


@dataclass(frozen=True, repr=False)
class ManyResult(TrialsResult):
    """k random deletions for each k.

    In ``frame`` a row per k: the mean over all subsets and examples, estimated from trials and
    examples that are crossed, where chance is known with the deletions of each block alone as
    control variate (:func:`~ensemble_view.statistics.subset_mean.calibrated_mean`); extremes and
    quartiles of the trials' own means; the paired worsening against the full net, and that as a
    share of what lies between the full net and chance (nan where there is no chance). Where all
    subsets were taken (``enumerated``), the intervals are over examples alone.

    By simulation (``analyses/trial_coverage.py``: no, one or three ruinous blocks of 27 and 54, 10
    and 20 trials, 300 examples) a 95 % interval covers 93.5 to 98 %, but about 92 % where nearly
    all of ten trials hold a ruinous block and the other blocks back each other up. It also falls
    short where a set of blocks is ruinous each of which is harmless alone, and few trials hold it.

    Attributes:
        deleted: the blocks that each trial deletes, in the order of the outcomes' rows.
        enumerated: the numbers of deletions at which all subsets were taken.
        groups: the blocks that could be drawn; several groups gave even shares.
        alone: the outcomes of each of these blocks deleted alone, by ascending index; None in
            results of releases that did not measure them.
        additive: what the additive law predicts of each trial; None where it predicts nothing.
        no_law: why it predicts nothing.

    Example:
        Both single deletions of two blocks, three examples, and a measure of one's own.

        >>> from ensemble_view.study.provenance import Cost, Provenance
        >>> from ensemble_view.study.outcomes import MeasuredOutcomes
        >>> values = np.array([[0.5, 0.6, 0.4], [0.9, 0.7, 0.8]])
        >>> outcomes = MeasuredOutcomes(values, np.array([0.9, 0.8, 0.7]))
        >>> provenance = Provenance({"name": "net"}, {"name": "three"}, {}, seed=0, command="",
        ...                         date="", device="cpu", threads=1, batch_size=3)
        >>> run = Run(outcomes, Cost(3, 4, 1), 0.1, provenance, measure="IoU")
        >>> result = ManyResult(run, ("F", "G"), ((0,), (1,)), (1,), ((0, 1),))
        >>> result.frame[["deleted", "trials", "enumerated", "mean", "worsening"]].round(2)
           deleted  trials  enumerated  mean  worsening
        0        1       2        True  0.65       0.15
    """

    kind = "random"
    file_name = "random"

    deleted: tuple[tuple[int, ...], ...]
    enumerated: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    alone: Run | None = None
    additive: AdditivePredictions | None = None
    no_law: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        blocks = sum(map(len, self.groups))
        if self.alone is not None and self.alone.plans != blocks:
            raise MeasurementError(
                f"There are outcomes of {self.alone.plans} single deletions but {blocks} blocks to "
                "draw from; expected one row of outcomes per block, by ascending index."
            )

    @property
    def trials(self) -> Sequence[Sequence[int]]:
        """The blocks that each trial deletes."""
        return self.deleted

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """How many blocks each trial deletes, ``[trials]``."""
        return np.array([len(blocks) for blocks in self.deleted], dtype=np.int64)

    def _survival(self, chosen: npt.NDArray[np.intp]) -> Survival | None:
        """What single deletions say of trials of one number."""
        # Without chance nothing tells what a net of which nothing is left would score.
        ruined = self.run.scores.chance
        if self.alone is None or ruined is None:
            return None
        alone = self.alone.scores.values.mean(axis=1)
        return survival(
            [self.deleted[row] for row in chosen], Subsets(self.groups), alone, self.full, ruined
        )

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for count in sorted(set(self.counts.tolist())):
            chosen = np.flatnonzero(self.counts == count)
            fixed = count in self.enumerated
            first = {"deleted": count, "trials": len(chosen), "enumerated": fixed}
            known = None if fixed else self._survival(chosen)
            rows.append(first | self.of_trials(chosen, fixed=fixed, known=known))
        return rows

    @cached_property
    def law(self) -> AdditiveLaw | None:
        """The additive law's prediction beside the measured accuracy; None where there is none."""
        if self.additive is None:
            return None
        tested = sum(row["deleted"] > 1 for row in self._rows)
        level = 1 - (1 - self.run.level) / max(1, tested)
        measured = 1 - self.run.scores.values
        rows = []
        for row in self._rows:
            chosen = np.flatnonzero(self.counts == row["deleted"])
            known = None if row["enumerated"] else self._survival(chosen)
            difference = calibrated_mean(
                self.additive.correct[chosen] - measured[chosen],
                # Nothing is to be predicted of a difference but how it bends.
                known and replace(known, height=0.0),
                trials_fixed=row["enumerated"],
            )
            rows.append(law_row(row["deleted"], 1 - row["mean"], difference, level))
        return AdditiveLaw(tuple(rows), self.half_gone, self.run.level)

    @property
    def trials_frame(self) -> pd.DataFrame:
        """One row per trial: ``deleted``, ``blocks`` (their indices), ``mean``, ``worsening``."""
        return pd.DataFrame(
            {
                "deleted": self.counts,
                "blocks": [",".join(map(str, blocks)) for blocks in self.deleted],
                "mean": self.means,
                "worsening": self.worsenings,
            }
        )

    @cached_property
    def correlation(self) -> RankCorrelation:
        """Spearman's correlation of the trials' means with the number deleted."""
        return spearman(self.counts, self.means, self.run.level)

    @property
    def half_gone(self) -> int | None:
        """The smallest number of deletions with half of the way to chance gone, if any has."""
        found = [row["deleted"] for row in self._rows if row["normalised"] >= _HALF]
        return min(found, default=None)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """By number of deletions, by trial, and the additive law by number of deletions."""
        found = {self.file_name: self.frame, "trials": self.trials_frame}
        return found if self.law is None else found | {"additive": self.law.frame}

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The outcomes of every trial, single deletion and example, and the law's predictions."""
        found = dict(super().arrays)
        if self.alone is not None:
            found |= {f"alone_{name}": a for name, a in self.alone.outcomes.arrays.items()}
        if self.additive is not None:
            found |= {f"additive_{name}": a for name, a in self.additive.arrays.items()}
        return found

    @property
    def table(self) -> str:
        """One row per number of deleted blocks; a star where these are all subsets."""
        rows = self._rows
        doses = {
            "deleted": [str(row["deleted"]) for row in rows],
            "trials": [f"{row['trials']}{'*' if row['enumerated'] else ' '}" for row in rows],
        }
        lines = self._table(doses, rows)
        if self.enumerated:
            lines.append("* all there are, so that the interval is over examples alone")
        if self.law is not None:
            lines += ["", "The additive law:", *self.law.table]
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """The curve in plain words, with the rank correlation."""
        pool = sum(map(len, self.groups))
        from_where = f"{pool} of {len(self.names)} blocks"
        if len(self.groups) > 1:
            from_where += f", shared out evenly over {len(self.groups)} stages"
        sentences = [self._correlated("the number of deleted blocks", self.correlation)]
        if self.half_gone is not None:
            sentences.insert(
                0,
                "Half of what lies between the full net and chance is gone from "
                f"{self.half_gone} deletions on.",
            )
        if self.law is not None:
            sentences.append(self.law.sentence)
        elif self.no_law is not None:
            sentences.append(f"The additive law is not tested: {self.no_law}.")
        return self._in_words(
            f"Deleted at random from {from_where}",
            [f"{row['deleted']} deleted" for row in self._rows],
            *sentences,
        )

    def _record(self) -> dict[str, Any]:
        return {
            **self._shared_record(),
            "half_gone": self.half_gone,
            "enumerated": self.enumerated,
            "groups": self.groups,
            "deleted": self.deleted,
            "alone": None if self.alone is None else self.alone.scores.values.mean(axis=1).tolist(),
            "additive": None
            if self.law is None
            else {
                "rows": list(self.law.rows),
                "agrees_up_to": self.law.agrees_up_to,
                "departs_from": self.law.departs_from,
                "decision": self.law.decision,
            },
            "no_law": self.no_law,
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        known = {block for group in content["groups"] for block in group}
        if strange := {block for blocks in content["deleted"] for block in blocks} - known:
            raise ValueError(f"the deleted blocks {strange} are in no group that was drawn from")
        return cls(
            run=Run.restored(content, folder),
            names=tuple(content["names"]),
            deleted=tuple(tuple(blocks) for blocks in content["deleted"]),
            enumerated=tuple(content["enumerated"]),
            groups=tuple(tuple(group) for group in content["groups"]),
            alone=Run.restored(content, folder, "alone_") if content.get("alone") else None,
            additive=_predictions(folder) if content.get("additive") else None,
            no_law=content.get("no_law"),
        )


def _predictions(folder: Path) -> AdditivePredictions:
    names = ("predicted", "labels")
    found = files.read_arrays(folder / "outcomes.npz", [f"additive_{name}" for name in names])
    return AdditivePredictions(**{name: found[f"additive_{name}"] for name in names})
