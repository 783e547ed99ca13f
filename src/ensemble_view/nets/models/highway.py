"""Highway nets: a learned gate decides how much of the branch and how much of the input passes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from ensemble_view.nets.models.architecture import blocks_per_stage
from ensemble_view.nets.models.blocks import SkippableBlock, limit_branches
from ensemble_view.nets.models.initialisation import initialise
from ensemble_view.nets.models.plain import ConvolutionUnit
from ensemble_view.nets.models.shortcuts import Gate

__all__ = ["HighwayBlock", "HighwayNet"]


class HighwayBlock(SkippableBlock):
    """T(x)·F(x) + (1 - T(x))·x, T the sigmoid of a 3x3 convolution.

    Srivastava, Greff and Schmidhuber 2015 (arXiv 1505.00387), equation 3. Deleting the block means
    T = 0: the input passes.

    Args:
        channels: Channels in and out.
        norm: "batch" or "none", in the branch.
        gate_bias: What the gate's shift begins with.

    Example:
        >>> HighwayBlock(4)(torch.zeros(1, 4, 8, 8)).shape
        torch.Size([1, 4, 8, 8])
    """

    def __init__(
        self, channels: int, norm: Literal["batch", "none"] = "batch", gate_bias: int = -2
    ) -> None:
        super().__init__()
        self.transform = ConvolutionUnit(channels, channels, norm=norm)
        self.gate = Gate(channels, 3, gate_bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for `x` (N, C, H, W)."""
        if self.is_dropped:
            return x
        gate = self.weigh(self.gate(x))
        result: Tensor = gate * self.transform(x) + (1 - gate) * x
        return result


class HighwayNet(nn.Module):
    """A highway net with the stages of the residual nets for small images.

    Convolution, three stages of n layers, mean, linear: depth 3n + 2. The first layer of the second
    and third stage halves the maps and doubles the width, which a highway layer cannot, and is a
    plain one; the other 3n - 2 are highway layers. Srivastava et al. 2015 (arXiv 1507.06228) train
    theirs without BatchNorm (`norm="none"`) and begin with a negative shift of the gate, so that
    inputs pass at first.

    Args:
        depth: 3n + 2.
        norm: "batch" or "none".
        gate_bias: What the gates' shift begins with.
        survival: Percentage of training batches in which the last layer's branch is there, see
            :func:`limit_branches`.
        kept: How many branches are there in each training batch.
        width: Channels of the first stage.
        in_channels: Channels of the images.
        classes: Number of classes.

    Example:
        >>> HighwayNet(20)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        norm: Literal["batch", "none"] = "batch",
        gate_bias: int = -2,
        survival: int = 100,
        kept: int | None = None,
        width: int = 16,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        per_stage = blocks_per_stage(depth, 1)
        self.stem = ConvolutionUnit(in_channels, width, norm=norm)
        stages, blocks = [], []
        for index in range(3):
            outputs = width * 2**index
            first = [] if index == 0 else [ConvolutionUnit(outputs // 2, outputs, 2, norm)]
            rest = [HighwayBlock(outputs, norm, gate_bias) for _ in range(per_stage - len(first))]
            stages.append(nn.Sequential(*first, *rest))
            blocks += rest
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(width * 4, classes)
        limit_branches(blocks, survival, kept)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of the images `x` (N, C, H, W)."""
        x = self.layer3(self.layer2(self.layer1(self.stem(x))))
        x = torch.mean(x, dim=(2, 3))
        logits: Tensor = self.linear(x)
        return logits
