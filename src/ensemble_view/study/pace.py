"""How long a study will take here, and the batch size and threads with which it takes least."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ensemble_view.core.engine import Engine
from ensemble_view.shared_state import Setting

__all__ = ["Pace", "duration", "fastest_pace"]

_SIZES = {"cpu": (16, 32, 64, 128, 256), "cuda": (64, 256, 1024, 4096)}
_BUDGET = 3.0
_WORTHWHILE = 0.02
_REPETITIONS = 2


_THREADS = Setting(torch.get_num_threads, torch.set_num_threads)


@dataclass(frozen=True)
class Pace:
    """A batch size and a number of threads, and what they cost, measured on this machine.

    Args:
        batch_size: Examples per batch.
        threads: Of torch on the CPU.
        seconds_per_example: Of all plans together.
    """

    batch_size: int
    threads: int
    seconds_per_example: float

    @contextmanager
    def threads_set(self) -> Iterator[None]:
        """Use this number of threads for the length of a ``with``.

        Yields:
            Nothing.
        """
        with _THREADS.at(self.threads):
            yield


def fastest_pace(
    engine: Engine,
    sample: tuple[Any, Any],
    *,
    sizes: Sequence[int] | None = None,
    most: int = 2**31,
) -> Pace:
    """Time the engine's blocks at several batch sizes and choose the fastest.

    Each block is timed once it is warm, and weighed by how often the plans evaluate it. A larger
    batch must be 2 % faster to be chosen. One thread is tried beside all that torch may use: small
    blocks on a busy machine lose more by waiting for each other than they gain. Measuring ends
    after about three seconds.

    Args:
        engine: With the plans of the study.
        sample: Inputs and targets of a few examples, as :meth:`Engine.measure` takes a batch;
            repeated to the size that is timed. Without targets (None) measuring is not timed.
        sizes: Batch sizes to try; by default what suits the engine's device.
        most: How many examples there are; larger batches are not tried.

    Returns:
        The best setting found and its cost.

    Example:
        >>> from ensemble_view import Block, Chain, Compose
        >>> from ensemble_view.core.plan import bind
        >>> block = Block(0, "F", branch=lambda x, context: x)
        >>> chain = Chain.from_parts(lambda x: x, [block], lambda x: x)
        >>> engine = Engine(chain, [bind(Compose(), chain.outline)])
        >>> sample = torch.ones(2, 4), torch.tensor([0, 1])
        >>> fastest_pace(engine, sample, sizes=[8]).batch_size
        8
    """
    candidates = sorted(
        {min(size, most) for size in sizes or _SIZES.get(engine.device.type, _SIZES["cpu"])}
    )
    best = Pace(candidates[0], torch.get_num_threads(), math.inf)
    # One thread first: where threads wait for each other, timing several would use up the time.
    for threads in sorted({1, torch.get_num_threads()}):
        started = time.perf_counter()
        for size in candidates:
            if time.perf_counter() - started > _BUDGET / 2:
                break
            found = Pace(size, threads, math.inf)
            try:
                with found.threads_set():
                    seconds = _seconds(engine, _repeated(sample, size)) / size
            except torch.OutOfMemoryError:
                break
            if seconds < best.seconds_per_example * (1 - _WORTHWHILE):
                best = replace(found, seconds_per_example=seconds)
    return best


def _seconds(engine: Engine, batch: tuple[Any, Any]) -> float:
    engine.profile(*batch)
    return min(engine.profile(*batch) for _ in range(_REPETITIONS))


def _repeated(sample: tuple[Any, Any], size: int) -> tuple[Any, Any]:
    tensors = [leaf for leaf in pytree.tree_leaves(sample) if isinstance(leaf, Tensor)]
    count = next(len(leaf) for leaf in tensors if leaf.ndim)

    def repeated(value: Any) -> Any:
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
            return value
        return value.repeat(-(-size // count), *[1] * (value.ndim - 1))[:size]

    found: tuple[Any, Any] = pytree.tree_map(repeated, sample)
    return found


def duration(seconds: float) -> str:
    """Say how long something takes.

    Args:
        seconds: How long.

    Returns:
        In words, rounded.

    Example:
        >>> duration(300)
        '5 minutes'
    """
    if seconds < 1.5:
        return "a second"
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
