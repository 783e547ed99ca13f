"""What nets cost: parameters, multiply-adds, and CPU time taken in turns.

Multiply-adds are half of what `torch.utils.flop_counter` counts: those of convolutions and linear
layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from extraction_speed import operations
from reporting import cpu_seconds
from scipy import stats
from torch import Tensor, nn

from ensemble_view.bench.conditions import one_thread


@dataclass(frozen=True)
class Cost:
    """What a net costs.

    Args:
        parameters: How many it has.
        multiply_adds: Of one image, in convolutions and linear layers.
    """

    parameters: int
    multiply_adds: int


def cost(net: nn.Module, image: Tensor) -> Cost:
    """Count what a net costs.

    Args:
        net: Any net.
        image: One, as a batch.

    Returns:
        Parameters and multiply-adds.
    """
    return Cost(
        sum(parameter.numel() for parameter in net.parameters()), operations(net, image) // 2
    )


def times_of(models: Mapping[str, nn.Module], images: Tensor, rounds: int) -> pd.DataFrame:
    """Time a forward pass of each net in turns, so that what else runs falls on all.

    Args:
        models: By name.
        images: A batch.
        rounds: How often each is timed, after a turn to warm up.

    Returns:
        A row per round: CPU seconds, a column per net.
    """
    with one_thread():
        turns = [
            {name: cpu_seconds(partial(model, images)) for name, model in models.items()}
            for _ in range(rounds + 1)
        ]
    return pd.DataFrame(turns[1:])


def median_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """Return the median and the interval between two of the values that covers it.

    Args:
        values: Independent ones.

    Returns:
        Median, lower and upper end at 95 % or more; of fewer than six values, no interval.

    Example:
        >>> median_interval([5, 1, 4, 2, 3, 6, 7, 8])
        (4.5, 1.0, 8.0)
    """
    ordered = np.sort(np.asarray(list(values), dtype=np.float64))
    outside = int(stats.binom.ppf(0.025, len(ordered), 0.5))
    if outside == 0:
        return float(np.median(ordered)), np.nan, np.nan
    return float(np.median(ordered)), float(ordered[outside - 1]), float(ordered[-outside])
