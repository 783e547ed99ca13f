"""Run a model in evaluation mode and leave it as it was: modes, buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["Buffers", "evaluating"]


class Buffers:
    """A model's buffers as they were, to tell which ones changed and to put them back.

    Args:
        model: Any module.

    Example:
        >>> layer = nn.BatchNorm1d(1)
        >>> buffers = Buffers(layer)
        >>> _ = layer(torch.ones(2, 1))
        >>> buffers.changed()
        ['running_mean', 'running_var', 'num_batches_tracked']
        >>> buffers.restore()
        >>> layer.running_mean
        tensor([0.])
    """

    def __init__(self, model: nn.Module) -> None:
        self._saved = [
            (f"{path}.{name}".lstrip("."), module, name, buffer, buffer.detach().clone())
            for path, module in model.named_modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]

    def changed(self) -> list[str]:
        """Name the buffers that hold other values than they did.

        Returns:
            Their full names.
        """
        return [
            path
            for path, module, name, _, before in self._saved
            if (now := module._buffers[name]) is None
            or not torch.equal(torch.nan_to_num(now), torch.nan_to_num(before))
        ]

    def restore(self) -> None:
        """Put everything back, into the same tensors."""
        wrong = self.changed()
        for path, module, name, buffer, before in self._saved:
            module._buffers[name] = buffer
            if path in wrong:
                buffer.detach().copy_(before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[Buffers]:
    """Put every module into evaluation mode; afterwards modes and buffers are as they were.

    Args:
        model: Any module.

    Yields:
        The buffers as they were before.

    Example:
        >>> layer = nn.Dropout().train()
        >>> with evaluating(layer):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = Buffers(model)
    try:
        for module, _ in modes:
            module.training = False
        yield buffers
    finally:
        for module, training in modes:
            module.training = training
        buffers.restore()
