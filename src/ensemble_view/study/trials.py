"""What random trials have in common: each is measured on the same examples."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.rank_correlation import RankCorrelation
from ensemble_view.statistics.subset_mean import Survival, calibrated_mean
from ensemble_view.study.run import Run
from ensemble_view.study.run_result import RunResult

__all__ = ["COLUMNS", "TrialsResult"]

COLUMNS = (
    "mean", "low", "high", "least", "lower_quartile", "median", "upper_quartile", "most",
    "worsening", "worsening_low", "worsening_high",
    "normalised", "normalised_low", "normalised_high",
)  # fmt: skip
"""What a frame says of a group of trials."""

_WORSENING = ("worsening", "worsening_low", "worsening_high")


@dataclass(frozen=True, repr=False)
class TrialsResult(RunResult):
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

    @cached_property
    def proportions(self) -> bool:
        """Whether every score is 0 or 1, so that means lie between these."""
        scores = self.run.scores
        return bool(np.isin(scores.values, (0, 1)).all() and np.isin(scores.baseline, (0, 1)).all())

    def of_trials(
        self, rows: npt.NDArray[np.intp], *, fixed: bool, known: Survival | None = None
    ) -> dict[str, float]:
        """Describe some of the trials.

        Args:
            rows: which.
            fixed: whether these are all that there are, so that only examples were sampled.
            known: what single deletions say of these trials.

        Returns:
            The values of :data:`COLUMNS`. Limits of means of proportions lie in their range
            (:func:`~ensemble_view.statistics.range_limits.bounded_limits`).
        """
        scores, level = self.run.scores, self.run.level
        mean = calibrated_mean(scores.values[rows], known, trials_fixed=fixed)
        sign = -1.0 if scores.higher_is_better else 1.0
        worsening = mean.minus(scores.baseline).times(sign)
        share = (np.nan, np.nan, np.nan)
        if scores.chance is not None:
            above = scores.chance - scores.baseline
            found = worsening.ratio(above, level, proportions=self.proportions)
            share = (found.value, found.low, found.high)
        lowest, least = (0.0, -1.0) if self.proportions else (None, None)
        values = (
            mean.value, *mean.limits(level, lowest=lowest),
            *np.quantile(self.means[rows], [0, 0.25, 0.5, 0.75, 1]),
            worsening.value, *worsening.limits(level, lowest=least),
            *share,
        )  # fmt: skip
        return dict(zip(COLUMNS, map(float, values), strict=True))

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
        last = "These numbers are of this net and of examples like these only."
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
