"""Differences between nets of equal seeds: interval, test of zero, and the words that follow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from reporting import t_interval

from ensemble_view.statistics.student import student_interval

SIGNIFICANT = 0.05
"""Below which a p-value says which of two nets is worse."""


@dataclass(frozen=True)
class Difference:
    """A difference of which larger is worse.

    Args:
        value: The estimate.
        low: Lower end of its 95 % interval; nan where there is none.
        high: Upper end.
        p_value: Of there being no difference, two-sided.
    """

    value: float
    low: float
    high: float
    p_value: float

    @classmethod
    def over_seeds(cls, values: Iterable[float]) -> Self:
        """Estimate a difference from one of each seed, by Student's paired t test.

        Args:
            values: One per seed.

        Returns:
            The difference; of one seed without interval and p-value.

        Example:
            >>> found = Difference.over_seeds([0.1, 0.2, 0.3])
            >>> round(found.value, 3), round(found.p_value, 4)
            (0.2, 0.0742)
        """
        numbers = np.asarray(list(values), dtype=np.float64)
        if len(numbers) < 2:
            return cls(*t_interval(numbers), np.nan)
        error = float(numbers.std(ddof=1)) / len(numbers) ** 0.5
        *_, p_value = student_interval(float(numbers.mean()), error, len(numbers) - 1)
        return cls(*t_interval(numbers), float(p_value))


def direction(difference: float, p_value: float) -> str:
    """Say which of two nets is worse.

    Args:
        difference: Of which larger is worse.
        p_value: Of there being none, adjusted if others were asked of the same; nan where no test
            was made.

    Returns:
        "worse", "better" or "cannot be told".
    """
    if not p_value < SIGNIFICANT:
        return "cannot be told"
    return "worse" if difference > 0 else "better"
