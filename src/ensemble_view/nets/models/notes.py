"""The smallest residual nets: one convolution and two blocks, in both versions."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensemble_view.nets.models.blocks import (
    BlockForm,
    PostActivationBlock,
    PreActivationBlock,
    limit_branches,
)
from ensemble_view.nets.models.initialisation import initialise

__all__ = ["NotesNet"]


class NotesNet(nn.Module):
    """A 3x3 convolution, a block w → w, a block w → 2w, flatten, linear; w = 16.

    The shortcut is the identity in the first block and a bare 1x1 projection in the second, y =
    F(x) + W_s x; all maps keep their size. Version 2 ends with BN–ReLU before it is flattened. All
    weights begin with He et al.'s normal rule over their inputs (arXiv 1502.01852).

    Args:
        version: 1 (post-activation) or 2 (pre-activation).
        pixels: Height times width of the images.
        survival: Percentage of training batches in which the last block's branch is there.
        kept: How many branches are there in each training batch.
        width: Channels of the first convolution.
        in_channels: Channels of the images.
        classes: Number of classes.

    Example:
        >>> NotesNet(1, pixels=64, in_channels=1)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        version: Literal[1, 2],
        pixels: int = 1024,
        survival: int = 100,
        kept: int | None = None,
        width: int = 16,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        block = PostActivationBlock if version == 1 else PreActivationBlock
        form = BlockForm(shortcut="bare")
        self.conv = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        blocks = [block(width, width, 1, form), block(width, 2 * width, 1, form)]
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(2 * width) if version == 2 else None
        self.linear = nn.Linear(2 * width * pixels, classes)
        limit_branches(blocks, survival, kept)
        initialise(self, "fan_in")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of the images `x` (N, C, H, W)."""
        x = self.blocks(self.conv(x))
        if self.bn is not None:
            x = F.relu(self.bn(x))
        logits: Tensor = self.linear(torch.flatten(x, 1))
        return logits
