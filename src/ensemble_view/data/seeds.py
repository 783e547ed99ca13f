"""Which random seeds there are: those that every generator takes."""

from __future__ import annotations

from ensemble_view.errors import MeasurementError

__all__ = ["LARGEST_SEED", "check_seed"]

LARGEST_SEED = 2**63 - 1
"""The largest number that torch and numpy both take."""


def check_seed(seed: int) -> int:
    """Refuse what is no seed of every generator.

    Args:
        seed: As a user gave it.

    Returns:
        The seed.

    Raises:
        MeasurementError: If it is no whole number from 0 to 2⁶³ - 1.

    Example:
        >>> check_seed(-1)
        Traceback (most recent call last):
        ...
        ensemble_view.errors.MeasurementError: The random seed is -1: expected a whole number ...
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= LARGEST_SEED:
        raise MeasurementError(
            f"The random seed is {str(seed)[:30]}: expected a whole number from 0 to "
            f"{LARGEST_SEED:,}."
        )
    return seed
