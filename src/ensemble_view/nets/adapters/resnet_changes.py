"""Changes to torchvision's residual nets that leave names and shapes of the weights alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import ResNet

from ensemble_view.nets.models.architecture import ArchitectureError

__all__ = ["CHANGES", "change"]

CHANGES = {
    "stride": ("1x1", "3x3"),
    "maxpool": ("none", "yes"),
    "shortcut": ("avgpool", "conv"),
    "output_stride": (8, 16, 32),
}
"""The options, and the values that each takes."""


class PooledConv2d(nn.Conv2d):
    """A 1x1 convolution of averages over 2x2 pixels, in place of one with stride 2.

    He et al. 2019 (arXiv 1812.01187), ResNet-D.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of `input` (N, C, H, W) at half its size."""
        return super().forward(F.avg_pool2d(input, 2, ceil_mode=True, count_include_pad=False))


def change(net: nn.Module, options: Mapping[str, int | str]) -> None:
    """Change a net in place.

    Args:
        net: One of torchvision's.
        options: stride=1x1 puts the stride of bottlenecks into their first convolution, as in He et
            al. 2015 (arXiv 1512.03385); maxpool=none leaves out the max-pool after the stem;
            shortcut=avgpool averages in shortcuts in place of a stride.

    Raises:
        ArchitectureError: If it is no residual net of torchvision, or has nothing to change.

    Example:
        >>> import torchvision
        >>> net = torchvision.models.resnet50()
        >>> change(net, {"stride": "1x1"})
        >>> net.layer2[0].conv1.stride, net.layer2[0].conv2.stride
        ((2, 2), (1, 1))
    """
    for name, value in options.items():
        if value not in CHANGES[name]:
            raise ArchitectureError(
                f"The option {name} is one of {', '.join(map(str, CHANGES[name]))}, found "
                f"{value!r}."
            )
    if not options:
        return
    if not isinstance(net, ResNet):
        raise ArchitectureError(
            f"The option {next(iter(options))} is about residual nets, but the net is a "
            f"{type(net).__name__}: leave it out."
        )
    if options.get("maxpool") == "none":
        net.maxpool = nn.Identity()
    blocks = [
        block for stage in (net.layer1, net.layer2, net.layer3, net.layer4) for block in stage
    ]
    if options.get("stride") == "1x1":
        if not all(hasattr(block, "conv3") for block in blocks):
            raise ArchitectureError(
                "The option stride=1x1 is about bottlenecks, which this net has not: leave it out."
            )
        for block in blocks:
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    if options.get("shortcut") == "avgpool":
        for block in blocks:
            if block.downsample is not None and block.downsample[0].stride == (2, 2):
                block.downsample[0].__class__ = PooledConv2d
                block.downsample[0].stride = (1, 1)
