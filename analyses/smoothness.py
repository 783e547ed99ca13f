"""Whether a net decays smoothly under random deletions and swaps, by rules laid down beforehand.

What is lost is the normalised drop: the share of what lies between the full net and chance. It
grows smoothly with the number of deleted blocks if no further deletion costs more than 25 points on
average, and half is not gone before a tenth of the blocks is; it does not if one costs at least 50
points, or half is gone before a twentieth of the blocks is. It grows smoothly with the disorder if
no bin of Kendall's tau costs more than 25 points above the one before, and the error's rank
correlation with the disorder is at least 0.5; it does not if a bin costs at least 50 points more.

What lies between is inconclusive, and all bounds are simultaneous 95 % bounds: Bonferroni over the
steps. That of a step comes from the intervals of the two means (Zou and Donner 2008, Statistics in
Medicine 27:1693), whose trials are independent; that their images are the same makes it wider than
need be.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from lesioned_nets import at_level

from ensemble_view import ManyResult, ReorderResult
from ensemble_view.study.trials import TrialsResult

LEVEL = 0.95
SMOOTH_STEP, ABRUPT_STEP = 0.25, 0.5
SMOOTH_SHARE, ABRUPT_SHARE = 0.10, 0.05
LEAST_CORRELATION = 0.5

Ends = tuple[float, float, float]
"""A value, and the lower and upper end of its interval."""
Half = tuple[int | None, int | None, int | None]
"""From how many deletions on half is gone: by the estimate, at the earliest, at the latest; None
where it is not, of all numbers that were done."""


@dataclass(frozen=True)
class Decay:
    """How a net decays as random blocks are deleted.

    Args:
        rise: The largest rise of the normalised drop by one further deletion.
        half: From how many deletions on half is gone.
        blocks: How many there are to delete.
    """

    rise: Ends
    half: Half
    blocks: int

    @classmethod
    def of(cls, result: ManyResult) -> Decay:
        """Describe random deletions, every number of them from one on."""
        return cls(largest_rise(simultaneous(result)), half_gone(result), deletable(result))

    @property
    def verdict(self) -> str:
        """Whether the drop grows smoothly: "yes", "no" or "inconclusive"."""
        (_, low, high), (_, earliest, latest) = self.rise, self.half
        if low >= ABRUPT_STEP or (latest is not None and latest < ABRUPT_SHARE * self.blocks):
            return "no"
        late = earliest is None or earliest >= SMOOTH_SHARE * self.blocks
        return "yes" if high <= SMOOTH_STEP and late else "inconclusive"

    def record(self) -> dict[str, object]:
        """Return a row of a table."""
        half = dict(zip(("half", "half_earliest", "half_latest"), self.half, strict=True))
        return {**_columns("rise", self.rise), **half, "blocks": self.blocks,
                "smooth": self.verdict}  # fmt: skip


@dataclass(frozen=True)
class Disorder:
    """How a net decays as random blocks are swapped.

    Args:
        rise: The largest rise of the normalised drop from one bin of Kendall's tau to the next.
        correlation: Spearman's, of the error with the disorder.
    """

    rise: Ends
    correlation: Ends

    @classmethod
    def of(cls, result: ReorderResult) -> Disorder:
        """Describe random swaps; disorder is the opposite of Kendall's tau."""
        found = result.correlation
        return cls(largest_rise(simultaneous(result)), (-found.value, -found.high, -found.low))

    @property
    def verdict(self) -> str:
        """Whether the drop grows smoothly: "yes", "no" or "inconclusive"."""
        _, low, high = self.rise
        if low >= ABRUPT_STEP:
            return "no"
        monotone = self.correlation[1] >= LEAST_CORRELATION
        return "yes" if high <= SMOOTH_STEP and monotone else "inconclusive"

    def record(self) -> dict[str, object]:
        """Return a row of a table."""
        correlation = _columns("correlation", self.correlation)
        return {**_columns("rise", self.rise), **correlation, "smooth": self.verdict}


def _columns(name: str, ends: Ends) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))


def deletable(result: ManyResult) -> int:
    """Return how many blocks could be drawn."""
    return sum(map(len, result.groups))


def simultaneous(result: TrialsResult) -> pd.DataFrame:
    """Return the normalised drop with simultaneous intervals.

    Args:
        result: Random deletions or swaps.

    Returns:
        Columns ``normalised``, ``normalised_low`` and ``normalised_high``, a row per dose.
    """
    level = 1 - (1 - LEVEL) / len(result.frame)
    return at_level(result, level).frame[["normalised", "normalised_low", "normalised_high"]]


def largest_rise(table: pd.DataFrame) -> Ends:
    """Return the largest rise from one dose to the next, the first one from the full net.

    Args:
        table: Value, lower and upper end per dose, from the smallest on; of independent trials.

    Returns:
        The largest rise, the largest of their lower ends, and the largest of their upper ends.

    Example:
        >>> ends = largest_rise(pd.DataFrame({"v": [0.1, 0.4], "l": [0.1, 0.0], "h": [0.4, 0.4]}))
        >>> [round(end, 3) for end in ends]
        [0.3, 0.1, 0.4]
    """
    value, low, high = (
        np.concatenate([[0.0], table[column].to_numpy(float)]) for column in table.columns
    )
    rise, below, above = np.diff(value), value - low, high - value
    rise_low = rise - np.hypot(below[1:], above[:-1])
    rise_high = rise + np.hypot(above[1:], below[:-1])
    return float(rise.max()), float(rise_low.max()), float(rise_high.max())


def half_gone(result: ManyResult) -> Half:
    """Return from how many deletions on half is gone.

    Args:
        result: Random deletions.

    Returns:
        The number by the estimates, by the upper and by the lower ends of simultaneous intervals.
    """
    table = simultaneous(result)

    def first(column: str) -> int | None:
        gone = (table[column] >= 0.5).to_numpy()
        return int(result.frame["deleted"].iloc[int(gone.argmax())]) if gone.any() else None

    return first("normalised"), first("normalised_high"), first("normalised_low")
