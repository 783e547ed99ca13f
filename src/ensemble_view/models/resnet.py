"""Residual nets for small images, of depth 6n + 2, in both of He et al.'s forms."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensemble_view.models.architecture import blocks_per_stage
from ensemble_view.models.initialisation import initialise

__all__ = ["PostActivationBlock", "PreActivationBlock", "ResNet", "ZeroPadShortcut"]


class ZeroPadShortcut(nn.Module):
    """Option A: every second pixel, and zero channels half on each side; no parameters.

    He et al. 2015 (arXiv 1512.03385), section 3.3 (A) and section 4.2.

    Args:
        added: Channels to add in all; an even number.

    Example:
        >>> ZeroPadShortcut(16)(torch.ones(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` (N, C, H, W) as (N, C + added, ⌈H/2⌉, ⌈W/2⌉)."""
        half = self.added // 2
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.added - half))


class PostActivationBlock(nn.Module):
    """Version 1: relu(shortcut(x) + branch(x)), branch = conv–BN–ReLU–conv–BN.

    He et al. 2015 (arXiv 1512.03385), figure 2; the shortcut is the identity where the shape is
    kept, else option A (zero padding) or B (1x1 convolution with BatchNorm).

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Stride of the first convolution.
        shortcut: "A" or "B".

    Example:
        >>> PostActivationBlock(16, 32, 2, "A")(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Literal["A", "B"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module
        if inputs == outputs and stride == 1:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = ZeroPadShortcut(outputs - inputs)
        else:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for `x` (N, C, H, W)."""
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        shortcut: Tensor = self.shortcut(x)
        return F.relu(shortcut + branch)


class PreActivationBlock(nn.Module):
    """Version 2: x + branch(x), branch = BN–ReLU–conv–BN–ReLU–conv.

    He et al. 2016 (arXiv 1603.05027), figure 4(e). Where the shape changes, the shortcut starts at
    the pre-activated input, as in the authors' reference code: option A (zero padding) or B (1x1
    convolution, no normalisation).

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Stride of the first convolution.
        shortcut: "A" or "B".

    Example:
        >>> PreActivationBlock(16, 32, 2, "B")(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Literal["A", "B"]) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module
        self.keeps_shape = inputs == outputs and stride == 1
        if self.keeps_shape:
            self.shortcut = nn.Identity()
        elif shortcut == "A":
            self.shortcut = ZeroPadShortcut(outputs - inputs)
        else:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for `x` (N, C, H, W)."""
        activated = F.relu(self.bn1(x))
        branch: Tensor = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        shortcut: Tensor = self.shortcut(x if self.keeps_shape else activated)
        return shortcut + branch


class ResNet(nn.Module):
    """A residual net for small images: convolution, three stages of n blocks each, mean, linear.

    He et al. 2015 (arXiv 1512.03385), section 4.2: 6n + 2 layers, widths w, 2w, 4w, strides 1, 2, 2
    (version 1), or the same with full pre-activation and a last BN–ReLU before the mean, He et al.
    2016 (arXiv 1603.05027) (version 2). The parameters of version 1 are named conv1, bn1,
    layer1..3.I.conv1/bn1/conv2/bn2, linear, as in widely used CIFAR-10 checkpoints.

    Args:
        depth: 6n + 2, so 20, 32, 44, 56, 110 and so on.
        version: 1 (post-activation) or 2 (pre-activation).
        shortcut: Where the shape changes: "A" (zero padding) or "B" (1x1 convolution). None means
            A for version 1, as in the paper's CIFAR-10 nets, and B for version 2.
        width: Channels of the first stage.
        in_channels: Channels of the images.
        classes: Number of classes.

    Example:
        >>> ResNet(20)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        version: Literal[1, 2] = 1,
        shortcut: Literal["A", "B"] | None = None,
        width: int = 16,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        blocks = blocks_per_stage(depth)
        block = PostActivationBlock if version == 1 else PreActivationBlock
        option = shortcut or ("A" if version == 1 else "B")
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        # Only version 1 normalises the stem: in version 2 the first block's own BN–ReLU follows.
        self.bn1 = nn.BatchNorm2d(width) if version == 1 else None
        stages = []
        for index in range(3):
            outputs = width * 2**index
            inputs, stride = (width, 1) if index == 0 else (outputs // 2, 2)
            stage = [block(inputs, outputs, stride, option)]
            stage += [block(outputs, outputs, 1, option) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*stage))
        self.layer1, self.layer2, self.layer3 = stages
        self.bn = nn.BatchNorm2d(width * 4) if version == 2 else None
        self.linear = nn.Linear(width * 4, classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew, as :func:`~ensemble_view.models.initialisation.initialise`."""
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of the images `x` (N, C, H, W)."""
        x = self.conv1(x)
        if self.bn1 is not None:
            x = F.relu(self.bn1(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        if self.bn is not None:
            x = F.relu(self.bn(x))
        x = torch.mean(x, dim=(2, 3))
        logits: Tensor = self.linear(x)
        return logits
