"""Under what conditions things are timed: one thread, evaluation mode, a layout, CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["cpu_seconds", "evaluation_layouts", "one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, in inference mode.

    Yields:
        Nothing.

    Example:
        >>> with one_thread():
        ...     torch.get_num_threads()
        1
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def evaluation_layouts(model: nn.Module) -> Iterator[Callable[[torch.memory_format], None]]:
    """Lend a model in evaluation mode with its weights in a layout that may be changed.

    Args:
        model: Any module; afterwards it is as it was.

    Yields:
        What brings all weights and buffers of four dimensions into a layout.

    Example:
        >>> layer = nn.Conv2d(4, 4, 3)
        >>> with evaluation_layouts(layer) as set_layout:
        ...     set_layout(torch.channels_last)
        ...     layer.weight.is_contiguous()
        False
        >>> layer.weight.is_contiguous()
        True
    """
    modes = {module: module.training for module in model.modules()}
    tensors = [t for t in (*model.parameters(), *model.buffers()) if t.ndim == 4]
    originals = [tensor.data for tensor in tensors]

    def set_layout(layout: torch.memory_format) -> None:
        for tensor in tensors:
            tensor.data = tensor.data.contiguous(memory_format=layout)

    try:
        model.eval()
        yield set_layout
    finally:
        for tensor, original in zip(tensors, originals, strict=True):
            tensor.data = original
        for module, training in modes.items():
            module.training = training


def cpu_seconds(run: Callable[[], Any], repetitions: int, examples: int) -> float:
    """Time something.

    Args:
        run: What is timed.
        repetitions: How often it runs.
        examples: How many examples it runs on.

    Returns:
        CPU seconds of this process per repetition and example.

    Example:
        >>> cpu_seconds(lambda: sum(range(10**5)), 2, 1) > 0
        True
    """
    started = time.process_time()
    for _ in range(repetitions):
        run()
    return (time.process_time() - started) / repetitions / examples
