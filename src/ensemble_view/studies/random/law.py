"""The additive law of decay: what an ensemble would lose, beside what the net loses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.statistics.subset_mean import CalibratedMean
from ensemble_view.study.outcomes import ExampleArrays

__all__ = ["MARGIN", "AdditiveLaw", "AdditivePredictions", "law_row"]

MARGIN = 0.10
"""Prediction and measurement agree where they differ by less, in accuracy."""

BY_CONSTRUCTION = "by construction"
AGREES, DEPARTS, UNDECIDED = "agrees", "departs", "undecided"


@dataclass(frozen=True, eq=False)
class AdditivePredictions(ExampleArrays):
    """The class that the additive law predicts of every trial and example.

    Attributes:
        predicted: shape ``[trials, examples]``, int32: argmax of ``f - sum over i of (f - f_-i)``.
        labels: shape ``[examples]``, int64: the true classes.

    Example:
        >>> AdditivePredictions(np.array([[1, 0]]), np.array([1, 1])).correct
        array([[ True, False]])
    """

    of_examples = ("labels",)

    predicted: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int64]

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        """Whether the predicted class is the true one, ``[trials, examples]``."""
        right: npt.NDArray[np.bool_] = self.predicted == self.labels
        return right


def law_row(
    deleted: int, measured: float, difference: CalibratedMean, level: float
) -> dict[str, Any]:
    """Say how prediction and measurement compare at one number of deletions.

    Args:
        deleted: how many blocks.
        measured: the mean accuracy.
        difference: predicted less measured accuracy, paired by trial and example.
        level: of the interval, a proportion.

    Returns:
        ``deleted``, ``measured``, ``predicted``, ``difference``, ``low``, ``high``, ``law``. A
        single deletion is predicted by itself, so that there is no interval and no finding.
    """
    low, high, says = np.nan, np.nan, BY_CONSTRUCTION
    if deleted > 1:
        low, high = difference.limits(level, lowest=-1.0)
        says = UNDECIDED
        if low > -MARGIN and high < MARGIN:
            says = AGREES
        elif low > MARGIN or high < -MARGIN:
            says = DEPARTS
    return {
        "deleted": deleted,
        "measured": measured,
        "predicted": measured + difference.value,
        "difference": difference.value,
        "low": low,
        "high": high,
        "law": says,
    }


@dataclass(frozen=True, eq=False)
class AdditiveLaw:
    """Predicted beside measured accuracy, by number of deletions.

    An ensemble that sums what its members say loses with a set of members the sum of what it loses
    with each. So the single deletions predict the accuracy after every set; a net that follows the
    prediction decays as an ensemble of its branches does, and one that departs from it does not.

    Attributes:
        rows: as :func:`law_row` gives them, from the smallest number of deletions on; their
            intervals are simultaneous (Bonferroni).
        half_gone: the number of deletions from which half of what lies between the full net and
            chance is gone; None where it is not.
        level: of all intervals together, a proportion.

    Example:
        >>> row = {"deleted": 2, "measured": 0.9, "predicted": 0.92, "difference": 0.02,
        ...        "low": -0.01, "high": 0.05, "law": "agrees"}
        >>> law = AdditiveLaw((row, row | {"deleted": 5, "law": "departs"}), half_gone=5)
        >>> law.agrees_up_to, law.departs_from, law.decision
        (2, 5, 'departs')
    """

    rows: Sequence[Mapping[str, Any]]
    half_gone: int | None
    level: float = 0.95

    @property
    def frame(self) -> pd.DataFrame:
        """One row per number of deletions."""
        return pd.DataFrame(list(self.rows))

    @property
    def agrees_up_to(self) -> int | None:
        """The last number of deletions, counted without a gap, at which the law agrees."""
        last = None
        for row in self.rows:
            if row["law"] in (UNDECIDED, DEPARTS):
                break
            last = row["deleted"] if row["law"] == AGREES else last
        return last

    @property
    def departs_from(self) -> int | None:
        """The smallest number of deletions at which the law does not hold."""
        return next((row["deleted"] for row in self.rows if row["law"] == DEPARTS), None)

    @property
    def decision(self) -> str:
        """Of all numbers up to half gone: "departs" if one does, "agrees" if all do."""
        said = [
            row["law"]
            for row in self.rows
            if row["law"] != BY_CONSTRUCTION
            and (self.half_gone is None or row["deleted"] <= self.half_gone)
        ]
        if DEPARTS in said:
            return DEPARTS
        return AGREES if said and set(said) == {AGREES} else UNDECIDED

    @property
    def table(self) -> list[str]:
        """The rows as text of at most 80 columns."""
        lines = ["deleted accuracy: measured predicted  difference  interval"]
        for row in self.rows:
            interval = "" if np.isnan(row["low"]) else f"[{row['low']:+.4f}, {row['high']:+.4f}] "
            lines.append(
                f"{row['deleted']:>7} {row['measured']:>18.4f} {row['predicted']:>9.4f} "
                f"{row['difference']:>+11.4f}  {interval}{row['law']}"
            )
        return lines

    @property
    def sentence(self) -> str:
        """How far the law holds, in words."""
        tested = [row for row in self.rows if row["law"] != BY_CONSTRUCTION]
        law = (
            "The additive law, by which an ensemble of branches decays, predicts the accuracy from "
            "single deletions"
        )
        if not tested:
            return f"{law}; single deletions alone do not test it."
        parts = []
        if self.agrees_up_to is not None:
            parts.append(f"it agrees to {MARGIN:.0%} up to {self.agrees_up_to} deletions")
        if self.departs_from is not None:
            row = next(row for row in tested if row["deleted"] == self.departs_from)
            parts.append(
                f"it departs by more than {MARGIN:.0%} at {self.departs_from} (predicted less "
                f"measured accuracy {row['difference']:+.3f} [{row['low']:+.3f}, "
                f"{row['high']:+.3f}])"
            )
        if not parts:
            parts.append(f"the data do not decide whether it holds to {MARGIN:.0%}")
        last = f"simultaneous {self.level:.0%} confidence intervals over {len(tested)} numbers"
        return f"{law}: {' and '.join(parts)} ({last})."
