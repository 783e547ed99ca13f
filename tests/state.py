"""Everything about a model, and about torch, that must be the same afterwards."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.modules.module as module_globals
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack


def _tensor(value: Tensor | None, *, strictly: bool) -> Any:
    if value is None:
        return None
    where = (id(value), value.data_ptr(), value.dtype, value.device, value.stride())
    # The version counts writes, also those that were undone.
    written = value._version if strictly else None
    checksum = zlib.crc32(value.detach().cpu().contiguous().numpy())
    return (*where, written, value.requires_grad, checksum)


def _module(module: nn.Module, *, strictly: bool) -> dict[str, Any]:
    def tensors(values: dict[str, Tensor | None]) -> dict[str, Any]:
        return {name: _tensor(value, strictly=strictly) for name, value in values.items()}

    hooks = {
        name: [(key, id(hook)) for key, hook in value.items()]
        for name, value in vars(module).items()
        if isinstance(value, dict) and name not in ("_parameters", "_buffers", "_modules")
    }
    return {
        "training": module.training,
        "attributes": sorted(vars(module)),
        "forward": module.forward.__func__,
        "hooks": hooks,
        "children": [(name, id(child)) for name, child in module._modules.items()],
        "parameters": tensors(module._parameters),
        "gradients": tensors({n: p.grad for n, p in module._parameters.items() if p is not None}),
        "buffers": tensors(module._buffers),
    }


def state_of(model: nn.Module, *, strictly: bool = True) -> dict[str, Any]:
    """A value that equals an earlier one if nothing changed, strictly: not even there and back."""
    return {
        "modules": {
            path: _module(module, strictly=strictly) for path, module in model.named_modules()
        },
        "global hooks": {
            name: [(key, id(hook)) for key, hook in value.items()]
            for name, value in vars(module_globals).items()
            if name.startswith("_global") and isinstance(value, dict)
        },
        "function modes": list(map(id, _get_current_function_mode_stack())),
        "dispatch modes": list(map(id, _get_current_dispatch_mode_stack())),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "random state": torch.get_rng_state().numpy().tobytes() if strictly else None,
        "threads": torch.get_num_threads(),
        "default type": torch.get_default_dtype(),
    }


@contextmanager
def unchanged(model: nn.Module, *, strictly: bool = True) -> Iterator[None]:
    """Assert that a ``with`` leaves the model and torch as they were, exceptions included."""
    before = state_of(model, strictly=strictly)
    try:
        yield
    finally:
        after = state_of(model, strictly=strictly)
        for part in before:
            if part != "modules":
                assert after[part] == before[part], part
        assert after["modules"].keys() == before["modules"].keys()
        for path, module in before["modules"].items():
            for part, value in module.items():
                assert after["modules"][path][part] == value, f"{part} of {path or 'the model'}"
