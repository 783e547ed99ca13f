"""Where in a model's code an operation happens, told the same way at export and at run.

A hook on a module sees what goes in and out of it, but not the addition inside its ``forward``. A
:class:`Site` names every call of a torch function by the stack of module calls around it and by its
rank among calls of the same function there. Export annotates the graph's nodes with it; the hooks
(:mod:`ensemble_view.edits.hooks`) meet the same site again when the unmodified model runs.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

__all__ = ["ModuleCall", "Site", "SiteMode", "modes_on", "unwrapped"]

ModuleCall: TypeAlias = tuple[str, int]
"""A module's path and which call of it this is, counted from 0 within one call of the model."""


@dataclass(frozen=True, order=True)
class Site:
    """One call of a torch function within one call of the model.

    Args:
        stack: The module calls around it, the model itself (path ``""``) first.
        function: Name of the torch function, for example ``"add_"``.
        ordinal: Rank among the calls of that function made directly in the innermost module call.

    Example:
        >>> site = Site((("", 0), ("layer1.0", 0)), "add_", 0)
        >>> site.owner
        ('layer1.0', 0)
        >>> print(site)
        layer1.0: add_
    """

    stack: tuple[ModuleCall, ...]
    function: str
    ordinal: int

    @property
    def owner(self) -> ModuleCall:
        """The innermost module call, whose ``forward`` makes this call of a torch function."""
        return self.stack[-1]

    def __str__(self) -> str:
        path, call = self.owner
        repeated = f" (call {call + 1})" if call else ""
        rank = f" {self.ordinal + 1}" if self.ordinal else ""
        return f"{path or 'the model itself'}{repeated}: {self.function}{rank}"


Visit: TypeAlias = Callable[[Site, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class SiteMode(TorchFunctionMode):
    """Route every torch function that a model calls through ``visit``, with the site of the call.

    Outside a call of the model nothing is routed. Module calls are followed by global module hooks;
    the model's own hook dictionaries stay as they are, but for one entry where ``begin`` is given,
    which goes with the ``with``.

    Args:
        model: The model whose calls are followed.
        visit: Called as ``visit(site, function, args, kwargs)``; its value stands for the call's.
        begin: Called with the model's arguments at the start of each of its calls.

    Example:
        >>> import torch
        >>> seen = []
        >>> def visit(site, function, args, kwargs):
        ...     seen.append(str(site))
        ...     return function(*args, **kwargs)
        >>> with SiteMode(torch.nn.Sequential(torch.nn.ReLU()), visit) as mode:
        ...     _ = mode.model(torch.ones(1))
        >>> seen
        ['0: relu']
    """

    def __init__(
        self,
        model: nn.Module,
        visit: Visit,
        begin: Callable[[tuple[Any, ...], dict[str, Any]], None] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._visit = visit
        self._begin = begin
        self._paths = {_identity(module): path for path, module in model.named_modules()}
        self._stack: list[ModuleCall] = []
        self._calls: Counter[str] = Counter()
        self._functions: Counter[tuple[ModuleCall, str]] = Counter()
        self._handles: list[RemovableHandle] = []
        self._thread: int | None = None

    def __enter__(self) -> SiteMode:
        """Start to follow the model.

        Returns:
            The mode itself.
        """
        self._handles = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        ]
        if self._begin is not None:
            self._handles.append(
                self.model.register_forward_pre_hook(
                    self._enter_model, prepend=True, with_kwargs=True
                )
            )
        super().__enter__()  # type: ignore[no-untyped-call]
        self._thread = threading.get_ident()
        _following.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop following the model, whatever happened."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        _following.remove(self)
        for handle in self._handles:
            handle.remove()

    def join(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start to follow a call of the model that has just begun.

        Args:
            args: The call's positional arguments.
            kwargs: Its keyword arguments.
        """
        self._enter_module(self.model, args)
        self._enter_model(self.model, args, kwargs)

    @property
    def is_elsewhere(self) -> bool:
        """Whether this is another thread than the one in which calls are followed."""
        return threading.get_ident() != self._thread

    def _enter_model(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._begin is not None and len(self._stack) == 1 and not self.is_elsewhere:
            with torch._C.DisableTorchFunction():
                self._begin(args, kwargs)

    def _path(self, module: nn.Module) -> str | None:
        return self._paths.get(_identity(module))

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        path = self._path(module)
        # Hooks on all modules meet those of every thread, the functions those of one only.
        if path is None or self.is_elsewhere:
            return
        if not path and not self._stack:
            self._calls.clear()
            self._functions.clear()
        if self._stack or not path:
            self._stack.append((path, self._calls[path]))
            self._calls[path] += 1

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        path = self._path(module)
        if self._stack and path == self._stack[-1][0] and not self.is_elsewhere:
            self._stack.pop()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Hand the call to ``visit`` while the model runs.

        Returns:
            What ``visit`` returns.
        """
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        if not self._stack or name == "__get__":
            return function(*args, **kwargs)
        key = (self._stack[-1], name)
        ordinal = self._functions[key]
        self._functions[key] += 1
        return self._visit(Site(tuple(self._stack), name, ordinal), function, args, kwargs)


# All that are entered, of every thread.
_following: list[SiteMode] = []


def _identity(module: nn.Module) -> int:
    # While a model with shared modules is exported, proxies with the same attributes are called.
    return id(vars(module))


def modes_on(model: nn.Module) -> list[SiteMode]:
    """List the modes that follow a model's calls at this moment, in any thread.

    Args:
        model: Any module.

    Returns:
        The modes, the outermost first.

    Example:
        >>> model = torch.nn.ReLU()
        >>> with SiteMode(model, lambda site, function, args, kwargs: None) as mode:
        ...     modes_on(model) == [mode]
        True
    """
    return [mode for mode in _following if mode.model is model]


def unwrapped(model: nn.Module) -> nn.Module:
    """Take off what wraps a model without being part of it: ``torch.compile``, data parallelism.

    Args:
        model: Any module.

    Returns:
        The model inside, or the module itself.

    Example:
        >>> layer = nn.ReLU()
        >>> unwrapped(nn.DataParallel(layer)) is layer
        True
    """
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model
