"""Measure data whose examples differ in shape: one engine per shape, outcomes in data order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble_view.core.engine import Engine, Measurements, Progress, Reduction
from ensemble_view.data.data import Portion

__all__ = ["Measured", "measure_portions"]


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of all portions.

    Args:
        outcomes: By name, arrays (plans, examples), the examples in the order of the data.
        facts: By name, arrays (examples,).
        positions: Which examples of the data these are, (examples,): all of them, unless the user
            interrupted.
        batches: How many were completed.
        seconds: Wall time.
        interrupted: Whether the user stopped it before the data ended.
    """

    outcomes: dict[str, npt.NDArray[Any]]
    facts: dict[str, npt.NDArray[Any]]
    positions: npt.NDArray[np.int64]
    batches: int
    seconds: float
    interrupted: bool


def measure_portions(
    engines: Iterable[tuple[Engine, Portion]],
    batch_size: int,
    progress: Progress | None = None,
    reduction: Reduction | None = None,
) -> Measured:
    """Run the plans over one portion after another.

    Args:
        engines: Each portion and the engine for its shape, all with the same plans.
        batch_size: Examples of the first portion per batch; more where they are smaller, fewer
            where they are larger.
        progress: Told of the block evaluations done, times examples.
        reduction: As for :meth:`~ensemble_view.core.engine.Engine.measure`.

    Returns:
        The measurements of all completed batches.

    Raises:
        KeyboardInterrupt: If the user interrupts before the first batch is complete.
    """
    parts: list[Measurements] = []
    places: list[npt.NDArray[np.int64]] = []
    interrupted = False
    try:
        for engine, portion in engines:
            size = max(1, int(batch_size * portion.size))
            part = engine.measure(portion.data.batches(size), progress, reduction)
            positions = portion.positions
            places.append(
                (np.arange(part.examples) if positions is None else positions)[: part.examples]
            )
            parts.append(part)
            interrupted = part.interrupted
            if interrupted:
                break
    except KeyboardInterrupt:
        if not parts:
            raise
        interrupted = True
    found = np.concatenate(places[: len(parts)])
    order = np.argsort(found)

    def joined(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return np.concatenate(arrays, axis=-1)[..., order]

    return Measured(
        outcomes={name: joined([p.outcomes[name] for p in parts]) for name in parts[0].outcomes},
        facts={name: joined([p.facts[name] for p in parts]) for name in parts[0].facts},
        positions=found[order],
        batches=sum(part.batches for part in parts),
        seconds=sum(part.seconds for part in parts),
        interrupted=interrupted,
    )
