"""Random trials and what they cost: k random deletions for each k (Veit et al. 2016, figure 5a)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.results.run import Run
from ensemble_view.results.study import StudyResult
from ensemble_view.statistics.crossed import crossed_mean
from ensemble_view.statistics.crossed_ratio import crossed_ratio
from ensemble_view.statistics.rank_correlation import RankCorrelation, spearman

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "ManyResult", "TrialsResult"]

COLUMNS = (
    "mean", "low", "high", "least", "lower_quartile", "median", "upper_quartile", "most",
    "worsening", "worsening_low", "worsening_high",
    "normalised", "normalised_low", "normalised_high",
)  # fmt: skip
"""What a frame says of a group of trials."""

_WORSENING = ("worsening", "worsening_low", "worsening_high")
_HALF = 0.5


@dataclass(frozen=True, repr=False)
class TrialsResult(StudyResult):
    """Random trials, each measured on the same examples.

    Attributes:
        run: the outcomes of every trial and example.
        names: module path of each block of the chain.
    """

    run: Run
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.trials) != self.run.plans:
            raise MeasurementError(
                f"There are {len(self.trials)} trials but outcomes of {self.run.plans}; expected "
                "one row of outcomes per trial; give both in the same order."
            )

    @property
    @abstractmethod
    def trials(self) -> Sequence[Sequence[int]]:
        """What was done in each trial, in the order of the outcomes' rows."""

    @property
    @abstractmethod
    def correlation(self) -> RankCorrelation:
        """Spearman's correlation of the trials' means with the dose."""

    @property
    @abstractmethod
    def _rows(self) -> list[dict[str, Any]]:
        """The rows of ``frame``."""

    @property
    def frame(self) -> pd.DataFrame:
        """One row per group of trials, from the smallest dose to the largest."""
        return pd.DataFrame(self._rows)

    @cached_property
    def means(self) -> npt.NDArray[np.float64]:
        """The mean score of each trial over the examples, ``[trials]``."""
        means: npt.NDArray[np.float64] = self.run.scores.values.mean(axis=1)
        return means

    @cached_property
    def worsenings(self) -> npt.NDArray[np.float64]:
        """By how much the mean of each trial is worse than the full net's, ``[trials]``."""
        means: npt.NDArray[np.float64] = self.run.scores.worsening.mean(axis=1)
        return means

    @property
    def full(self) -> float:
        """The full net's mean score."""
        return float(self.run.scores.baseline.mean())

    def of_trials(self, rows: npt.NDArray[np.intp], *, fixed: bool) -> dict[str, float]:
        """Describe some of the trials.

        Args:
            rows: which.
            fixed: whether these are all that there are, so that only examples were sampled.

        Returns:
            The values of :data:`COLUMNS`.
        """
        scores, level = self.run.scores, self.run.level
        mean = crossed_mean(scores.values[rows], level, trials_fixed=fixed)
        worsening = crossed_mean(scores.worsening[rows], level, trials_fixed=fixed)
        share = (np.nan, np.nan, np.nan)
        if scores.chance is not None:
            above = scores.chance - scores.baseline
            found = crossed_ratio(scores.worsening[rows], above, level, trials_fixed=fixed)
            share = (found.value, found.low, found.high)
        # A limit of the interval that no error can have says nothing.
        least, most = (0.0, 1.0) if scores.name == "error" else (-np.inf, np.inf)
        values = (
            mean.value, *np.clip((mean.low, mean.high), least, most),
            *np.quantile(self.means[rows], [0, 0.25, 0.5, 0.75, 1]),
            worsening.value, worsening.low, worsening.high,
            *share,
        )  # fmt: skip
        return dict(zip(COLUMNS, map(float, values), strict=True))

    @property
    def stopped_after(self) -> int | None:
        """How many examples the result is of, if the user stopped the study early."""
        return self.run.stopped_after

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The outcomes of every trial and example."""
        return self.run.outcomes.arrays

    def _written(self, value: float) -> str:
        """A mean score as in a sentence, with what it is."""
        if self.run.scores.name == "error":
            return f"{value:.1%}"
        return f"{value:.4g}"

    @property
    def _opening(self) -> str:
        """The first sentence: how good the full net is."""
        run, scores = self.run, self.run.scores
        chance = (
            "" if scores.chance is None else f"; the best constant guess has {scores.chance:.1%}"
        )
        return (
            f"The {scores.name} of {run.net} on {run.examples:,} examples of {run.data} is "
            f"{self._written(self.full)}{chance}{run.cut_short}."
        )

    def _correlated(self, dose: str, found: RankCorrelation) -> str:
        """The sentence about a rank correlation."""
        name = f"Spearman's correlation of {self.run.scores.name} with {dose}"
        if np.isnan(found.value):
            return f"{name} is not defined: one of the two is the same in all trials."
        return (
            f"{name} is {found.value:.3f} [{found.low:.3f}, {found.high:.3f}] over {found.n:,} "
            "trials; it tells whether the relation is monotone, not whether it is smooth."
        )

    def _in_words(self, what: str, doses: Sequence[str], *sentences: str) -> str:
        """A paragraph: the full net, the first, middle and last group of trials, and the rest."""
        rows = self._rows
        steps = "; ".join(
            f"{doses[i]}: {self._written(rows[i]['mean'])} "
            f"[{self._written(rows[i]['low'])}, {self._written(rows[i]['high'])}]"
            for i in dict.fromkeys([0, len(rows) // 2, len(rows) - 1])
        )
        last = "All of this is said of this net on these examples only."
        return " ".join([self._opening, f"{what}: {steps}.", *sentences, last])

    def _shared_record(self) -> dict[str, Any]:
        return {
            **self.run.to_json(),
            "score": self.run.scores.name,
            "full": self.full,
            "chance": self.run.scores.chance,
            "rows": self._rows,
            "correlation": vars(self.correlation),
            "names": self.names,
        }

    def _table(self, doses: Mapping[str, Sequence[str]], rows: list[dict[str, Any]]) -> list[str]:
        """Lines of a table: columns of the dose, then mean and worsening with their intervals."""
        error = self.run.scores.name == "error"
        spec, signed, width = (".4f", "+.4f", 7) if error else ("#.3g", "+#.3g", 9)

        def cells(row: dict[str, Any]) -> str:
            number = {
                name: format(row[name], signed if name.startswith("worsening") else spec)
                for name in ("mean", "low", "high", *_WORSENING)
            }
            number = {name: f"{text:>{width}}" for name, text in number.items()}
            return (
                f" {number['mean']} [{number['low']}, {number['high']}] {number['worsening']} "
                f"[{number['worsening_low']}, {number['worsening_high']}]"
            )

        heads = {name: max(len(name), *map(len, values)) for name, values in doses.items()}
        span = 2 * width + 4
        lines = [
            " ".join(f"{name:>{size}}" for name, size in heads.items())
            + f" {self.run.scores.name[:width]:>{width}} {' interval':<{span}} {'worse':>{width}}"
            + "  interval"
        ]
        for index, row in enumerate(rows):
            dose = " ".join(f"{doses[name][index]:>{size}}" for name, size in heads.items())
            lines.append(dose + cells(row))
        return lines


@dataclass(frozen=True, repr=False)
class ManyResult(TrialsResult):
    """k random deletions for each k.

    In ``frame`` a row per k: the mean over trials and examples with the t interval of a crossed
    two-way table (:func:`~ensemble_view.statistics.crossed.crossed_mean`), extremes and quartiles
    of the trials' means, the paired worsening against the full net, and that as a share of what
    lies between the full net and chance (nan where there is no chance). Where all subsets were
    taken (``enumerated``), the intervals are over examples alone.

    Attributes:
        deleted: the blocks that each trial deletes, in the order of the outcomes' rows.
        enumerated: the numbers of deletions at which all subsets were taken.
        groups: the blocks that could be drawn; several groups gave even shares.

    Example:
        Both single deletions of two blocks, three examples, and a measure of one's own.

        >>> from ensemble_view.results import Cost, MeasuredOutcomes, Provenance
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

    kind = "many deletions"
    table_name = "many"
    figure_name = "many"

    deleted: tuple[tuple[int, ...], ...]
    enumerated: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]

    @property
    def trials(self) -> Sequence[Sequence[int]]:
        """The blocks that each trial deletes."""
        return self.deleted

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """How many blocks each trial deletes, ``[trials]``."""
        return np.array([len(blocks) for blocks in self.deleted], dtype=np.int64)

    @cached_property
    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for count in sorted(set(self.counts.tolist())):
            chosen = np.flatnonzero(self.counts == count)
            fixed = count in self.enumerated
            first = {"deleted": count, "trials": len(chosen), "enumerated": fixed}
            rows.append(first | self.of_trials(chosen, fixed=fixed))
        return rows

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
        """By number of deletions, and by trial."""
        return {self.table_name: self.frame, "trials": self.trials_frame}

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
        return self._in_words(
            f"Deleted at random from {from_where}",
            [f"{row['deleted']} deleted" for row in self._rows],
            *sentences,
        )

    def plot(self) -> Figure:
        """Draw the error against the number of deletions (figure 5(a) of the paper).

        Returns:
            A matplotlib figure that belongs to no window.
        """
        from ensemble_view.figures import many_figure

        return many_figure(self)

    def _record(self) -> dict[str, Any]:
        return {
            **self._shared_record(),
            "half_gone": self.half_gone,
            "enumerated": self.enumerated,
            "groups": self.groups,
            "deleted": self.deleted,
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        return cls(
            run=Run.restored(content, folder),
            names=tuple(content["names"]),
            deleted=tuple(tuple(blocks) for blocks in content["deleted"]),
            enumerated=tuple(content["enumerated"]),
            groups=tuple(tuple(group) for group in content["groups"]),
        )
