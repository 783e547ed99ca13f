"""VGG for small images: the sequential net of the lesion study."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ensemble_view.nets.models.architecture import ArchitectureError
from ensemble_view.nets.models.initialisation import initialise
from ensemble_view.nets.models.plain import ConvolutionUnit

__all__ = ["VGG", "VGG_STAGES"]

VGG_STAGES: dict[int, tuple[int, ...]] = {
    10: (1, 1, 2, 2, 2),
    12: (2, 2, 2, 2, 2),
    15: (2, 2, 3, 3, 3),
    18: (2, 2, 4, 4, 4),
}
"""Convolutions per stage of each depth: A, B, D, E of Simonyan and Zisserman, table 1."""


class VGG(nn.Module):
    """VGG with two linear layers, and BatchNorm unless told otherwise, for small images.

    Simonyan and Zisserman 2014 (arXiv 1409.1556), table 1, widths w, 2w, 4w, 8w, 8w with w = 64.
    Their three linear layers suit ImageNet; on CIFAR-10 it is usual to keep two. Veit et al. 2016
    (arXiv 1605.06431), section 4.1, delete layers from a VGG net of 15 layers without listing
    them: configuration D's 13 convolutions and two linear layers make 15, and leave 13
    convolutions to delete. Maps are halved after each stage while they are larger than 1x1, so
    that 8x8 images pass, too. Without BatchNorm they do not suit it: of a 3x3 filter on a 1x1 map
    eight weights meet padding, and what passes fades layer by layer. There is no dropout.

    Args:
        depth: 10, 12, 15 or 18: 8, 10, 13 or 16 convolutions and two linear layers.
        norm: "batch" or "none".
        width: Channels of the first stage; 64 in the papers.
        in_channels: Channels of the images.
        classes: Number of classes.

    Raises:
        ArchitectureError: If there is no VGG of that depth.

    Example:
        >>> VGG(15, width=4, in_channels=1)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int = 15,
        norm: Literal["batch", "none"] = "batch",
        width: int = 64,
        in_channels: int = 3,
        classes: int = 10,
    ) -> None:
        super().__init__()
        if depth not in VGG_STAGES:
            known = ", ".join(str(key) for key in VGG_STAGES)
            raise ArchitectureError(
                f"There is no VGG of depth {depth} for small images: choose one of {known} "
                "(convolutions plus two linear layers)."
            )
        stages, inputs = [], in_channels
        for count, factor in zip(VGG_STAGES[depth], (1, 2, 4, 8, 8), strict=True):
            outputs = width * factor
            units = [ConvolutionUnit(inputs, outputs, norm=norm)]
            units += [ConvolutionUnit(outputs, outputs, norm=norm) for _ in range(count - 1)]
            stages.append(nn.Sequential(*units))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.hidden = nn.Linear(inputs, inputs, bias=norm == "none")
        self.hidden_bn = nn.BatchNorm1d(inputs) if norm == "batch" else nn.Identity()
        self.linear = nn.Linear(inputs, classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all weights anew (:func:`~ensemble_view.nets.models.initialisation.initialise`)."""
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, classes) of the images `x` (N, C, H, W)."""
        for stage in self.stages:
            x = stage(x)
            if min(x.shape[-2:]) > 1:
                x = F.max_pool2d(x, 2)
        x = torch.mean(x, dim=(2, 3))
        x = F.relu(self.hidden_bn(self.hidden(x)))
        logits: Tensor = self.linear(x)
        return logits
