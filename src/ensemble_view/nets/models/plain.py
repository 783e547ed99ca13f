"""The plain net: a residual net of the same depth and widths with its shortcuts left out."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensemble_view.nets.models.architecture import blocks_per_stage
from ensemble_view.nets.models.initialisation import initialise

__all__ = ["ConvolutionUnit", "PlainNet"]


class ConvolutionUnit(nn.Module):
    """Convolution, BatchNorm (or a shift per channel instead), ReLU.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Stride of the 3x3 convolution.
        norm: "batch" or "none".

    Example:
        >>> ConvolutionUnit(16, 32, 2)(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(
        self, inputs: int, outputs: int, stride: int = 1, norm: Literal["batch", "none"] = "batch"
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=norm == "none")
        self.bn = nn.BatchNorm2d(outputs) if norm == "batch" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return relu(bn(conv(x))) for `x` (N, C, H, W)."""
        return F.relu(self.bn(self.conv(x)))


class PlainNet(nn.Module):
    """The control: the layers of a ResNet of depth 6n + 2 without shortcuts, with BatchNorm.

    He et al. 2015 (arXiv 1512.03385), section 4.2: same convolutions, widths and strides as the
    residual net, nothing added. The 6n convolutions after the first are one flat list of units.

    Args:
        depth: 6n + 2.
        width: Channels of the first stage.
        in_channels: Channels of the images.
        classes: Number of classes.

    Example:
        >>> len(PlainNet(20).units)
        18
    """

    def __init__(
        self, depth: int, width: int = 16, in_channels: int = 3, classes: int = 10
    ) -> None:
        super().__init__()
        per_stage = 2 * blocks_per_stage(depth)
        self.stem = ConvolutionUnit(in_channels, width)
        units = []
        for index in range(3):
            outputs = width * 2**index
            inputs, stride = (width, 1) if index == 0 else (outputs // 2, 2)
            units.append(ConvolutionUnit(inputs, outputs, stride))
            units += [ConvolutionUnit(outputs, outputs) for _ in range(per_stage - 1)]
        self.units = nn.Sequential(*units)
        self.linear = nn.Linear(width * 4, classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew (:func:`~ensemble_view.nets.models.initialisation.initialise`)."""
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of the images `x` (N, C, H, W)."""
        x = self.units(self.stem(x))
        x = torch.mean(x, dim=(2, 3))
        logits: Tensor = self.linear(x)
        return logits
