"""What hides a model's code or weights from tracing, refused by name before anything is run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ensemble_view.errors import DiscoveryError

__all__ = ["refuse_obstacles"]

# By name: not every build of torch has these packages, and they take long to import.
_QUANTISED_LAYERS = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")
_FLOAT_LAYERS = ("FloatFunctional", "FXFloatFunctional")
_SHARDED = "is sharded over processes; gather the full weights and load them into a plain model."
_QUANTISED = (
    "is quantised, and its layers cannot be traced; dequantise the model first, or load its "
    "weights in float."
)


def _is_quantised_layer(module: nn.Module) -> bool:
    kind = type(module)
    return kind.__module__.startswith(_QUANTISED_LAYERS) and kind.__name__ not in _FLOAT_LAYERS


def _is_quantised_weight(path: str, weight: Tensor) -> bool:
    # A layer's weight of bytes or packed integers; an index table has another name.
    is_real = weight.is_floating_point() or weight.is_complex()
    packed = path.rpartition(".")[2] == "weight" and (weight.dtype.itemsize == 1 or not is_real)
    return packed or bool(is_traceable_wrapper_subclass(weight))


_MODULES: tuple[tuple[Callable[[nn.Module], bool], str], ...] = (
    (
        lambda module: isinstance(module, torch.jit.ScriptModule),
        "is compiled by TorchScript, which hides the Python code that is traced; build the "
        "torch.nn.Module that it was made from and load its state_dict.",
    ),
    (_is_quantised_layer, _QUANTISED),
    (lambda module: type(module).__module__.startswith("torch.distributed.fsdp"), _SHARDED),
    (
        lambda module: (
            isinstance(module, nn.parallel.DistributedDataParallel)
            or (isinstance(module, nn.DataParallel) and len(module.device_ids) > 1)
        ),
        "is wrapped for data parallelism inside the model, where it cannot be traced; put the "
        "wrapper's .module in its place.",
    ),
)

_WEIGHTS: tuple[tuple[Callable[[str, Tensor], bool], str], ...] = (
    (
        lambda _, weight: is_lazy(weight),
        "has no shape yet; run the model once on an example first.",
    ),
    (
        lambda _, weight: weight.is_meta,
        "is on the meta device and holds no values (not loaded, or offloaded); load the whole "
        "model into memory first.",
    ),
    (lambda _, weight: hasattr(weight, "device_mesh"), _SHARDED),
    (_is_quantised_weight, _QUANTISED),
)


def refuse_obstacles(model: nn.Module) -> None:
    """Refuse a model with parts that cannot be traced.

    Args:
        model: Any module; what wraps it as a whole is taken off.

    Raises:
        DiscoveryError: Naming the first such part and what to do about it.

    Example:
        >>> refuse_obstacles(nn.Linear(2, 2, device="meta"))
        Traceback (most recent call last):
        ...
        ensemble_view.errors.DiscoveryError: The weight weight of Linear is on the meta device ...
    """
    name = getattr(model, "original_name", type(model).__name__)
    for path, module in model.named_modules():
        for is_module, why in _MODULES:
            if is_module(module):
                where = f"The module {path} of {name}" if path else name
                raise DiscoveryError(f"{where} {why}")
    for path, weight in chain(model.named_parameters(), model.named_buffers()):
        for is_weight, why in _WEIGHTS:
            if is_weight(path, weight):
                raise DiscoveryError(f"The weight {path} of {name} {why}")
