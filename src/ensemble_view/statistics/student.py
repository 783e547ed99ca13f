"""Student's t: the limits and the test that follow from an estimate, its error and its freedom."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import stdtr, stdtrit

from ensemble_view.errors import MeasurementError

__all__ = ["check_level", "student_interval"]

Floats = npt.NDArray[np.float64]


def check_level(level: float) -> None:
    """Refuse a confidence level that is no proportion.

    Args:
        level: as a user gave it.

    Raises:
        MeasurementError: if it does not lie between 0 and 1.

    Example:
        >>> check_level(0.95)
    """
    if not 0 < level < 1:
        raise MeasurementError(
            f"The confidence level is {level}; expected a proportion between 0 and 1, such as 0.95."
        )


def student_interval(
    value: float | Floats, error: float | Floats, freedom: float, level: float = 0.95
) -> tuple[Floats, Floats, Floats]:
    """Give the t interval of estimates and the two-sided p-value of zero.

    ``value ± t error`` (Student 1908, Biometrika 6:1-25). An error of zero leaves no doubt: the
    interval is a point, and zero has p-value 1 or 0.

    Args:
        value: estimates, any shape.
        error: their standard errors; nan where there is none.
        freedom: degrees of freedom of the errors, above zero.
        level: confidence level, a proportion.

    Returns:
        Lower limits, upper limits and p-values, each of the shape of the estimates.

    Raises:
        MeasurementError: if the level is no proportion.

    Example:
        >>> low, high, p_value = student_interval(1.0, 0.5, 10)
        >>> round(float(low), 3), round(float(high), 3), round(float(p_value), 3)
        (-0.114, 2.114, 0.073)
    """
    check_level(level)
    value, error = np.asarray(value, dtype=np.float64), np.asarray(error, dtype=np.float64)
    half = float(stdtrit(freedom, (1 + level) / 2)) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.where(error == 0, np.where(value == 0, 0.0, np.inf), np.abs(value) / error)
    p_value = 2 * np.asarray(stdtr(freedom, -distance), dtype=np.float64)
    return value - half, value + half, p_value
