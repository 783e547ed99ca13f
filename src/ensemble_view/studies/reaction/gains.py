"""Hold the nonlinearities of a part at what they did for another input.

An elementwise nonlinearity with φ(0) = 0 multiplies its input z by the gain φ(z)/z: a ReLU by its
mask of zeros and ones. Layer normalisation subtracts a mean and divides by a standard deviation.
Both are recorded as operations run, whatever code calls them, and used again in the same order, so
that what is left is affine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ensemble_view.errors import MeasurementError

__all__ = ["Held", "Holding", "Recording"]

aten = torch.ops.aten

Held = list[Any]
"""Of each nonlinearity that ran, its gain, or the mean and reciprocal deviation."""

# With the slope at zero, where the gain has no value.
_GAINS: dict[Any, float] = {
    aten.relu: 0.0,
    aten.relu_: 0.0,
    aten.leaky_relu: 1.0,
    aten.leaky_relu_: 1.0,
    aten.elu: 1.0,
    aten.elu_: 1.0,
    aten.gelu: 0.5,
    aten.silu: 0.5,
    aten.silu_: 0.5,
    aten.mish: 0.6,
    aten.hardswish: 0.5,
    aten.hardswish_: 0.5,
    aten.tanh: 1.0,
    aten.tanh_: 1.0,
}
_CLAMPS = {aten.clamp, aten.clamp_, aten.clamp_min, aten.clamp_min_, aten.hardtanh, aten.hardtanh_}


class Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps what the nonlinearities do that run within a ``with``, under ``torch.no_grad()``.

    Example:
        >>> x = torch.tensor([-1.0, 2.0])
        >>> with torch.no_grad(), Recording() as recording:
        ...     x.relu()
        tensor([0., 2.])
        >>> with torch.no_grad(), Holding(recording.held):
        ...     torch.relu(torch.tensor([5.0, -5.0])) + 0
        tensor([ 0., -5.])
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.held: Held = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        operation, kwargs = func.overloadpacket, kwargs or {}
        slope = _slope_at_zero(operation, args, kwargs)
        before = args[0].clone() if slope is not None and _writes(operation) else None
        output = func(*args, **kwargs)
        if slope is not None:
            z = args[0] if before is None else before
            self.held.append(torch.where(z == 0, torch.full_like(z, slope), output / z))
        elif operation is aten.native_layer_norm:
            self.held.append(output[1:])
        return output


class Holding(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Lets nonlinearities within a ``with`` do what they did when they were recorded.

    Args:
        held: What a recording of the same code kept.
    """

    def __init__(self, held: Held) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held: Iterator[Any] = iter(held)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        operation, kwargs = func.overloadpacket, kwargs or {}  # type: ignore[attr-defined]
        if _slope_at_zero(operation, args, kwargs) is not None:
            gain = self._next()
            return args[0].mul_(gain) if _writes(operation) else args[0] * gain
        if operation is aten.native_layer_norm:
            mean, reciprocal = self._next()
            x, _, weight, bias, *_ = args
            output = (x - mean) * reciprocal
            output = output if weight is None else output * weight
            return (output if bias is None else output + bias), mean, reciprocal
        return func(*args, **kwargs)

    def _next(self) -> Any:
        try:
            return next(self._held)
        except StopIteration:
            raise MeasurementError(
                "A part of a block runs other nonlinearities for one input than for another, so "
                "they cannot be held; measure without freezing."
            ) from None


def _slope_at_zero(operation: Any, args: tuple[Any, ...], kwargs: Any) -> float | None:
    """The slope at zero of a nonlinearity that can be held, None of any other operation."""
    if operation not in _CLAMPS:
        return _GAINS.get(operation)
    bounds = dict(zip(("min", "max"), args[1:], strict=False)) | kwargs
    low = bounds.get("min", bounds.get("min_val", -1.0 if "hardtanh" in str(operation) else None))
    high = bounds.get("max", bounds.get("max_val", 1.0 if "hardtanh" in str(operation) else None))
    if any(isinstance(bound, Tensor) for bound in (low, high)):
        return None
    if (low is not None and low > 0) or (high is not None and high < 0):
        return None
    return 1.0 if (low is None or low < 0) and (high is None or high > 0) else 0.0


def _writes(operation: Any) -> bool:
    return str(operation).endswith("_")
