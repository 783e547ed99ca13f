"""Run a model in evaluation mode and leave it as it was: modes, buffers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ensemble_view.shared_state import EXPORT, Setting, Shared

__all__ = ["Buffers", "evaluating", "uncached", "uncompiled", "unfused_attention"]

_FAST_PATH = Setting(
    torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled
)
_EAGER = Shared(lambda: torch.compiler.set_stance("force_eager"))


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
def unfused_attention() -> Iterator[None]:
    """Keep torch's own transformer layers from the fused path, which hides their additions.

    Yields:
        Nothing.

    Example:
        >>> with unfused_attention():
        ...     torch.backends.mha.get_fastpath_enabled()
        False
    """
    with _FAST_PATH.at(False):
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """Let compiled modules run their own Python, which calls the torch functions that are followed.

    Yields:
        Nothing.

    Example:
        >>> with uncompiled():
        ...     pass
    """
    with _EAGER.entered():
        yield


@contextmanager
def uncached(model: nn.Module) -> Iterator[None]:
    """Let a model keep nothing for its next call, as far as its configurations say (``use_cache``).

    Args:
        model: Any module.

    Yields:
        Nothing.

    Example:
        >>> with uncached(nn.Identity()):
        ...     pass
    """
    configurations = [getattr(module, "config", None) for module in model.modules()]
    caching = [found for found in configurations if getattr(found, "use_cache", None) is True]
    for configuration in caching:
        configuration.use_cache = False  # type: ignore[union-attr]
    try:
        yield
    finally:
        for configuration in caching:
            configuration.use_cache = True  # type: ignore[union-attr]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[Buffers]:
    """Put every module into evaluation mode; afterwards modes, buffers, attributes are as before.

    Meanwhile nothing is cached between calls (a configuration's ``use_cache``), since a cache among
    the outputs cannot be exported, torch's own attention takes no fused path, and compiled code is
    not used. One thread at a time does this.

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
    with EXPORT, _as_it_was(model) as buffers:
        yield buffers


@contextmanager
def _as_it_was(model: nn.Module) -> Iterator[Buffers]:
    modes = [(module, module.training) for module in model.modules()]
    # Export puts copies into the place of a module's own dictionaries and lists.
    attributes = [(module, dict(vars(module))) for module, _ in modes]
    buffers = Buffers(model)
    try:
        for module, _ in modes:
            module.training = False
        with uncached(model), unfused_attention(), uncompiled():
            yield buffers
    finally:
        for module, before in attributes:
            vars(module).clear()
            vars(module).update(before)
        buffers.restore()
