"""Residual nets for small images, in both of He et al.'s forms and their variants."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensemble_view.nets.models.architecture import ArchitectureError, blocks_per_stage
from ensemble_view.nets.models.blocks import EXPANSION, PLACEMENTS, BlockForm, limit_branches
from ensemble_view.nets.models.initialisation import initialise

__all__ = ["ResNet"]


class ResNet(nn.Module):
    """A residual net for small images: convolution, three stages of n blocks each, mean, linear.

    He et al. 2015 (arXiv 1512.03385), section 4.2: 6n + 2 layers, widths w, 2w, 4w, strides 1, 2, 2
    (version 1), or the same with full pre-activation and a last BN–ReLU before the mean, He et al.
    2016 (arXiv 1603.05027) (version 2). With bottlenecks 9n + 2 layers, and blocks that are four
    times as wide (He et al. 2016, appendix). The parameters of version 1 are named conv1, bn1,
    layer1..3.I.conv1/bn1/conv2/bn2, linear, as in widely used CIFAR-10 checkpoints.

    Args:
        depth: 3·layers·n + 2, so 20, 32, 44, 56, 110 and so on.
        version: 1 (post-activation) or 2 (pre-activation).
        shortcut: Where the shape changes: "A" (zero padding) or "B" (1x1 convolution); "C" puts the
            1x1 convolution into every block. None means A for version 1, as in the paper's CIFAR-10
            nets, and B for version 2.
        layers: Convolutions per branch: 1, 2, or 3 for bottlenecks.
        variant: What stands in the identity's place, see :class:`BlockForm`.
        placement: Where BatchNorm and ReLU stand, He et al. 2016, table 2: "original" (version 1),
            "bn_after_addition", "relu_before_addition", "relu_only"; "full" is version 2.
        gate_bias: What the shift of gates begins with.
        padding: Where option A puts its zero channels: half on each side ("sides", the default) or
            all behind ("end", as in code after fb.resnet.torch).
        stride: Which convolution of a bottleneck has the stride: "1x1", the first, as in He et al.
            2015 (the default), or "3x3", as in torchvision.
        survival: Percentage of training batches in which the last block's branch is there, see
            :func:`limit_branches`.
        kept: How many branches are there in each training batch.
        width: Channels of the first stage.
        in_channels: Channels of the images.
        classes: Number of classes.

    Raises:
        ArchitectureError: If version 2 is asked for with another placement, or an option says
            something about shortcuts or bottlenecks that the net has not.

    Example:
        >>> ResNet(20)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int,
        version: Literal[1, 2] = 1,
        shortcut: Literal["A", "B", "C"] | None = None,
        layers: int = 2,
        variant: str = "identity",
        placement: str | None = None,
        gate_bias: int = -6,
        padding: str | None = None,
        stride: str | None = None,
        survival: int = 100,
        kept: int | None = None,
        width: int = 16,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        per_stage = blocks_per_stage(depth, layers)
        placement = placement or ("original" if version == 1 else "full")
        if (version == 2) != (placement == "full"):
            raise ArchitectureError(
                f"Version {version} does not go with placement={placement}: version 2 is full "
                "pre-activation, the other placements are told of version 1, such as "
                "resnet110,placement=relu_only."
            )
        option = shortcut or ("A" if version == 1 else "B")
        if padding is not None and option != "A":
            raise ArchitectureError(
                f"The option padding={padding} is about shortcuts of zeros, option A, but the "
                f"net's are of option {option}: leave it out, or add shortcut=A."
            )
        if stride is not None and layers != 3:
            raise ArchitectureError(
                f"The option stride={stride} is about bottlenecks, but the net's blocks have "
                f"{layers} layers: leave it out, or add layers=3."
            )
        form = BlockForm(layers, option, variant, gate_bias, padding or "sides", stride or "1x1")
        block = PLACEMENTS[placement]
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        # Only version 1 normalises the stem: in version 2 the first block's own BN–ReLU follows.
        self.bn1 = nn.BatchNorm2d(width) if version == 1 else None
        stages, blocks, inputs = [], [], width
        for index in range(3):
            outputs = width * 2**index * (EXPANSION if layers == 3 else 1)
            stage = [block(inputs, outputs, 1 if index == 0 else 2, form)]
            stage += [block(outputs, outputs, 1, form) for _ in range(per_stage - 1)]
            stages.append(nn.Sequential(*stage))
            blocks += stage
            inputs = outputs
        self.layer1, self.layer2, self.layer3 = stages
        self.bn = nn.BatchNorm2d(inputs) if version == 2 else None
        # Where the blocks begin with an activation, the last sum still wants one.
        self.ends_with_relu = placement in ("relu_only", "full")
        self.linear = nn.Linear(inputs, classes)
        limit_branches(blocks, survival, kept)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew (:func:`~ensemble_view.nets.models.initialisation.initialise`)."""
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of the images `x` (N, C, H, W)."""
        x = self.conv1(x)
        if self.bn1 is not None:
            x = F.relu(self.bn1(x))
        x = self.layer3(self.layer2(self.layer1(x)))
        if self.bn is not None:
            x = self.bn(x)
        if self.ends_with_relu:
            x = F.relu(x)
        x = torch.mean(x, dim=(2, 3))
        logits: Tensor = self.linear(x)
        return logits
