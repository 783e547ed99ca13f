"""Tell an architecture from the names and shapes of its weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ensemble_view.nets.models.architecture import Architecture
from ensemble_view.nets.models.untraced import Untraced, untraced
from ensemble_view.nets.models.vgg import VGG_STAGES

__all__ = ["Inferred", "first_channels", "infer"]

Weights = Mapping[str, Tensor]

_TORCHVISION = {
    # Blocks per stage, then output and input channels of the second convolution of the first
    # block: its width, and its width over the number of groups.
    ((2, 2, 2, 2), False, (64, 64)): "resnet18",
    ((3, 4, 6, 3), False, (64, 64)): "resnet34",
    ((3, 4, 6, 3), True, (64, 64)): "resnet50",
    ((3, 4, 23, 3), True, (64, 64)): "resnet101",
    ((3, 8, 36, 3), True, (64, 64)): "resnet152",
    ((3, 4, 6, 3), True, (128, 4)): "resnext50_32x4d",
    ((3, 4, 23, 3), True, (256, 8)): "resnext101_32x8d",
    ((3, 4, 23, 3), True, (256, 4)): "resnext101_64x4d",
    ((3, 4, 6, 3), True, (128, 128)): "wide_resnet50_2",
    ((3, 4, 23, 3), True, (128, 128)): "wide_resnet101_2",
}
_FIRST = ("conv1.weight", "conv.weight", "stem.conv.weight", "stages.0.0.conv.weight")
_PIXELS = 1024
_RENAMED = ((re.compile(r"^fc\."), "linear."), (re.compile(r"\.downsample\."), ".shortcut."))


@dataclass(frozen=True)
class Inferred:
    """An architecture told from weights.

    Args:
        architecture: What they belong to, with the options that they tell.
        in_channels: Channels of the images, where the net can be built for any.
        classes: Number of classes.
    """

    architecture: Architecture
    in_channels: int | None
    classes: int

    @property
    def untraced(self) -> tuple[Untraced, ...]:
        """What names and shapes of the weights do not tell, and what is assumed."""
        return untraced(self.architecture)

    @property
    def assumed(self) -> Architecture:
        """The architecture with all that is assumed of it, where that is not the net's default."""
        more = {"stride": "3x3"} if _is_bottleneck(self.architecture) else {}
        return replace(self.architecture, options={**self.architecture.options, **more})

    def renamed(self, weights: Weights) -> dict[str, Tensor]:
        """Return the weights under the names that this package's nets use.

        Args:
            weights: Names and tensors.

        Returns:
            The same tensors; `fc` is `linear`, and `downsample` is `shortcut`.
        """
        return {_own_name(name): value for name, value in weights.items()}


def infer(weights: Weights) -> Inferred | None:
    """Tell the architecture from names and shapes of the weights.

    Known are the nets of this package, CIFAR-style residual nets of the common layout (`conv1`,
    `bn1`, `layer1..3`, `linear` or `fc`), and torchvision's ResNet, ResNeXt and Wide ResNet.

    Args:
        weights: Names, without prefixes, and tensors.

    Returns:
        What they belong to, or None if that cannot be told.

    Example:
        >>> from ensemble_view.nets.models.building import build
        >>> found = infer(build("resnet20v2", in_channels=1, classes=7).state_dict())
        >>> str(found.architecture), found.in_channels, found.classes
        ('cifar:resnet20v2', 1, 7)
    """
    if "fc.weight" in weights and "layer4.0.conv1.weight" in weights:
        return _infer_torchvision(weights)
    own = {_own_name(name): value for name, value in weights.items()}
    if "linear.weight" not in own or own["linear.weight"].ndim != 2:
        return None
    for tell in (_infer_resnet, _infer_plain, _infer_highway, _infer_vgg, _infer_notes):
        if found := tell(own):
            return found
    return None


def _is_bottleneck(architecture: Architecture) -> bool:
    return architecture.family == "cifar" and architecture.options.get("layers") == 3


def _own_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = pattern.sub(replacement, name)
    return name


def _count(weights: Weights, prefix: str) -> int:
    """Return how many children a container has in the names of the weights."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    found = {int(match[1]) for name in weights if (match := pattern.match(name))}
    return len(found) if found == set(range(len(found))) else 0


def _infer_torchvision(weights: Weights) -> Inferred | None:
    counts = tuple(_count(weights, f"layer{stage}") for stage in (1, 2, 3, 4))
    second = weights.get("layer1.0.conv2.weight")
    if second is None or second.ndim != 4:
        return None
    key = counts, "layer1.0.conv3.weight" in weights, (second.shape[0], second.shape[1])
    if key not in _TORCHVISION:
        return None
    architecture = Architecture(_TORCHVISION[key], family="torchvision")
    return Inferred(architecture, None, weights["fc.weight"].shape[0])


def first_channels(weights: Weights) -> int | None:
    """Return how many channels the images of one of this package's nets have.

    Args:
        weights: Names, without prefixes, and tensors.

    Returns:
        The inputs of the first convolution, or None if there is none of a known name.
    """
    first = next((weights[name] for name in _FIRST if name in weights), None)
    return None if first is None or first.ndim != 4 else int(first.shape[1])


def _own(name: str, first: Tensor, own: Weights, width: int, usual: int, **more: Any) -> Inferred:
    """Return one of this package's nets, with the options that differ from the usual ones."""
    options: dict[str, int | str] = {} if width == usual else {"width": width}
    architecture = Architecture(name, {**options, **more})
    return Inferred(architecture, first.shape[1], own["linear.weight"].shape[0])


def _infer_resnet(own: Weights) -> Inferred | None:
    first = own.get("conv1.weight")
    counts = {_count(own, f"layer{stage}") for stage in (1, 2, 3)}
    # Weights do not tell what a gate is on.
    unlike = any(".gate." in name or name.startswith("layer4.") for name in own)
    if first is None or first.ndim != 4 or len(counts) != 1 or 0 in counts or unlike:
        return None
    # Told by the last convolution of a branch, so that an incomplete file is still recognised.
    convolutions = [name for name in own if re.fullmatch(r"layer1\.0\.conv[123]\.weight", name)]
    if not convolutions:
        return None
    last = max(convolutions)
    layers = int(last[len("layer1.0.conv")])
    if own[last].shape[-1] != (1 if layers == 3 else 3):
        return None
    version = 1 if "bn1.weight" in own else 2
    name = f"resnet{3 * layers * counts.pop() + 2}" + ("v2" if version == 2 else "")
    more: dict[str, int | str] = {} if layers == 2 else {"layers": layers}
    shortcut = _shortcut(own, layers)
    if shortcut != "AB"[version - 1]:
        more["shortcut"] = shortcut
    return _own(name, first, own, first.shape[0], 16, **more)


def _shortcut(own: Weights, layers: int) -> str:
    """Tell A (no projection) and B (where the shape changes) from C (in every block)."""
    projected = {name.partition(".shortcut.")[0] for name in own if ".shortcut." in name}
    if not projected:
        return "A"
    # The first stage keeps the width, unless bottlenecks widen it.
    changing = {"layer1.0", "layer2.0", "layer3.0"} if layers == 3 else {"layer2.0", "layer3.0"}
    return "C" if projected - changing else "B"


def _infer_plain(own: Weights) -> Inferred | None:
    first, count = own.get("stem.conv.weight"), _count(own, "units")
    if first is None or first.ndim != 4 or count == 0 or count % 6:
        return None
    return _own(f"plain{count + 2}", first, own, first.shape[0], 16)


def _infer_highway(own: Weights) -> Inferred | None:
    first = own.get("stem.conv.weight")
    counts = {_count(own, f"layer{stage}") for stage in (1, 2, 3)}
    gated = "layer1.0.gate.weight" in own
    if first is None or first.ndim != 4 or len(counts) != 1 or 0 in counts or not gated:
        return None
    return _own(f"highway{3 * counts.pop() + 2}", first, own, first.shape[0], 16, **_norm(own))


def _infer_vgg(own: Weights) -> Inferred | None:
    first = own.get("stages.0.0.conv.weight")
    counts = tuple(_count(own, f"stages.{stage}") for stage in range(5))
    depth = next((depth for depth, stages in VGG_STAGES.items() if stages == counts), None)
    if first is None or first.ndim != 4 or depth is None:
        return None
    return _own(f"vgg{depth}", first, own, first.shape[0], 64, **_norm(own))


def _infer_notes(own: Weights) -> Inferred | None:
    first = own.get("conv.weight")
    if first is None or first.ndim != 4 or "blocks.1.shortcut.weight" not in own:
        return None
    width = int(first.shape[0])
    pixels = own["linear.weight"].shape[1] // (2 * width)
    more = {} if pixels == _PIXELS else {"pixels": pixels}
    return _own(f"notes_v{2 if 'bn.weight' in own else 1}", first, own, width, 16, **more)


def _norm(own: Weights) -> dict[str, str]:
    return {} if any(".bn." in name for name in own) else {"norm": "none"}
