"""Ways round a branch that are no plain identity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CarryGate", "Gate", "Scaling", "ZeroPadShortcut"]


class ZeroPadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels beside the others; no parameters.

    He et al. 2015 (arXiv 1512.03385), section 3.3 (A) and section 4.2.

    Args:
        added: Channels to add in all.
        stride: Every which pixel is kept along both axes.
        padding: Where the zeros go: half on each side ("sides") or all behind ("end").

    Example:
        >>> ZeroPadShortcut(16)(torch.ones(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, added: int, stride: int = 2, padding: str = "sides") -> None:
        super().__init__()
        self.added = added
        self.stride = stride
        self.before = added // 2 if padding == "sides" else 0

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (N, C, H, W) as (N, C + added, ⌈H/stride⌉, ⌈W/stride⌉)."""
        kept = x[:, :, :: self.stride, :: self.stride]
        return F.pad(kept, (0, 0, 0, 0, self.before, self.added - self.before))


class Scaling(nn.Module):
    """Multiply by a constant.

    Args:
        factor: The constant.

    Example:
        >>> Scaling(0.5)(torch.ones(1))
        tensor([0.5000])
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` times the factor."""
        return x * self.factor


class Gate(nn.Conv2d):
    """A gate: the sigmoid of a convolution, a number between 0 and 1 per channel and pixel.

    Args:
        channels: Channels in and out.
        kernel: Side of the convolution, an odd number.
        initial_bias: What its shift begins with.

    Example:
        >>> Gate(4, 1, -2.0)(torch.zeros(1, 4, 2, 2)).shape
        torch.Size([1, 4, 2, 2])
    """

    def __init__(self, channels: int, kernel: int, initial_bias: float) -> None:
        super().__init__(channels, channels, kernel, padding=kernel // 2)
        self.initial_bias = initial_bias

    def forward(self, input: Tensor) -> Tensor:
        """Return the gate for `input` (N, C, H, W)."""
        return torch.sigmoid(super().forward(input))


class CarryGate(nn.Module):
    """Shortcut-only gating: (1 - g(x)) x; He et al. 2016 (arXiv 1603.05027), section 3.1.

    Args:
        channels: Channels in and out.
        initial_bias: What the gate's shift begins with.

    Example:
        >>> CarryGate(4, -6.0)(torch.zeros(1, 4, 2, 2)).sum()
        tensor(0., grad_fn=<SumBackward0>)
    """

    def __init__(self, channels: int, initial_bias: float) -> None:
        super().__init__()
        self.gate = Gate(channels, 1, initial_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the part of `x` (N, C, H, W) that is let pass."""
        result: Tensor = (1 - self.gate(x)) * x
        return result
