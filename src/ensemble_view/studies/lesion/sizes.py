"""How large the effect of a lesion is: one partition of the lesions, and its words.

A test says whether an effect differs from zero, not how large it is. Here each lesion falls into
exactly one class, by where its simultaneous confidence limits lie, so that the classes of a run add
up to its lesions and all of them are right at once with the run's confidence.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "NEGLIGIBLE",
    "NEGLIGIBLE_ERROR_RATIO",
    "RUINOUS",
    "SIZES",
    "SMALL",
    "definition",
    "listed_sizes",
    "size_of",
]

NEGLIGIBLE = 0.02
"""Share of the accuracy above chance: one in fifty answers of those beyond guessing."""

NEGLIGIBLE_ERROR_RATIO = 1.25
"""A negligible lesion adds at most a quarter to the errors.

The share of the accuracy says little of a net that is nearly always right: from 2.4 % to 11 % error
it loses 9 % of its accuracy and makes more than four times as many errors.
"""

SMALL = 0.10
"""Share of the accuracy above chance: a tenth of what the net has learned."""

RUINOUS = 0.50
"""Share of the accuracy above chance: at least as much is lost as is left."""

SIZES = ("negligible", "small", "large", "ruinous", "undecided")
"""The classes, of which each lesion is in exactly one."""


def size_of(low: float, high: float, error_ratio_high: float) -> str:
    """Say how large an effect is, by the limits of the normalised drop and of the error ratio.

    *negligible*: upper limits at most .02 and 1.25; *small*: upper limit at most .10, not shown to
    be negligible; *ruinous*: lower limit at least .50; *large*: lower limit above .10, not shown to
    be ruinous; *undecided*: all others, whose limits have .10 between them or are undefined.

    Args:
        low: lower limit of the normalised drop.
        high: upper limit.
        error_ratio_high: upper limit of the error after over the error before.

    Returns:
        One of `SIZES`.

    Example:
        >>> size_of(-0.001, 0.004, 1.1), size_of(-0.001, 0.095, 4.6), size_of(0.05, 0.15, 2.0)
        ('negligible', 'small', 'undecided')
    """
    if high <= NEGLIGIBLE and error_ratio_high <= NEGLIGIBLE_ERROR_RATIO:
        return "negligible"
    if high <= SMALL:
        return "small"
    if low >= RUINOUS:
        return "ruinous"
    if low > SMALL:
        return "large"
    return "undecided"


def listed_sizes(sizes: pd.Series[str], *, zeros: bool = True) -> str:
    """Count the classes.

    Args:
        sizes: the class of each lesion.
        zeros: whether empty classes are named.

    Returns:
        The counts, which add up to the number of lesions.

    Example:
        >>> import pandas as pd
        >>> listed_sizes(pd.Series(["small", "large", "small"]), zeros=False)
        '2 small, 1 large'
    """
    counts = {size: int((sizes == size).sum()) for size in SIZES}
    return ", ".join(f"{count} {size}" for size, count in counts.items() if count or zeros)


def definition(level: float, lesions: int, act: str, least_ratio: float, least_share: float) -> str:
    """Say what the classes mean, and where no lesion could be shown to be negligible.

    Args:
        level: confidence level of all limits together, a proportion.
        lesions: how many there are.
        act: what a lesion is called: ``"deletion"``.
        least_ratio: upper limit of the error ratio of a lesion that changes no answer.
        least_share: its upper limit of the normalised drop.

    Returns:
        Sentences.

    Example:
        >>> print(definition(0.95, 27, "deletion", 1.02, 0.001))
        The classes follow from the share of the accuracy above chance that is lost, ...
    """
    jointly = f" that hold for all {lesions} {act}s at once" if lesions > 1 else ""
    text = (
        "The classes follow from the share of the accuracy above chance that is lost, by "
        f"{100 * level:g}% confidence limits{jointly}: negligible, at most {NEGLIGIBLE:.0%} and at "
        f"most {NEGLIGIBLE_ERROR_RATIO:g} times the error; small, at most {SMALL:.0%}; large, more "
        f"than {SMALL:.0%}; ruinous, at least {RUINOUS:.0%}; undecided, none of these is shown."
    )
    if least_ratio <= NEGLIGIBLE_ERROR_RATIO and least_share <= NEGLIGIBLE:
        return text
    article = "an" if act[0] in "aeiou" else "a"
    unchanged = (
        f"On these examples not even {article} {act} that changes no answer counts as negligible"
    )
    if math.isinf(least_ratio):
        return f"{text} {unchanged}: the full net makes no error, which bounds no ratio."
    if least_ratio > NEGLIGIBLE_ERROR_RATIO:
        return f"{text} {unchanged}: its error may be {least_ratio:.3g} times as high."
    return f"{text} {unchanged}: it may cost {least_share:.2%}."
