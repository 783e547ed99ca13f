"""Nets of torchvision: by name with its own weights, or for weights from a file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torchvision
from torch import nn

from ensemble_view.nets.adapters.adapted import Adapted
from ensemble_view.nets.adapters.libraries import loading, nearest
from ensemble_view.nets.adapters.resnet_changes import CHANGES, change
from ensemble_view.nets.models.architecture import Architecture, ArchitectureError

__all__ = ["build_torchvision", "pretrained_torchvision"]


def build_torchvision(architecture: Architecture, classes: int | None) -> Adapted:
    """Build one of torchvision's classifiers without fetching anything.

    Args:
        architecture: Of the family torchvision. Beside torchvision's own options its residual nets
            take those of :mod:`~ensemble_view.nets.adapters.resnet_changes`, and output_stride=16
            or 8, which is replace_stride_with_dilation in one word.
        classes: Number of classes, unless an option says it.

    Returns:
        The net with random weights. Normalisation and size of the image are those of torchvision's
        own weights of that name.

    Raises:
        ArchitectureError: If there is no such net or an option does not fit it.

    Example:
        >>> build_torchvision(Architecture.parse("torchvision:inception_v3"), 5).input_shape
        (3, 299, 299)
    """
    _check_name(architecture.name)
    options: dict[str, Any] = dict(architecture.options)
    changes = {name: options.pop(name) for name in CHANGES if name in options}
    if classes is not None:
        options.setdefault("num_classes", classes)
    if "output_stride" in changes:
        options["replace_stride_with_dilation"] = _dilated(changes.pop("output_stride"))
    try:
        net = torchvision.models.get_model(architecture.name, weights=None, **options)
    except Exception as error:
        raise ArchitectureError(f"torchvision cannot build {architecture}: {error}.") from error
    change(net, changes)
    return _adapted(net, architecture)


def pretrained_torchvision(name: str, *, trust_pickle: bool = False) -> Adapted:
    """Load one of torchvision's classifiers with its default weights.

    Args:
        name: For example "resnet50".
        trust_pickle: Whether its files may run code of their own.

    Returns:
        The net.

    Raises:
        ArchitectureError: If there is no such net.
        CheckpointError: If it cannot be fetched.
    """
    _check_name(name)
    architecture = Architecture(name, family="torchvision")
    with loading(str(architecture), trust_pickle=trust_pickle):
        net = torchvision.models.get_model(name, weights="DEFAULT")
    categories = torchvision.models.get_model_weights(name).DEFAULT.meta.get("categories")
    names = None if categories is None else tuple(map(str, categories))
    return replace(_adapted(net, architecture), class_names=names)


def _dilated(output_stride: object) -> list[bool]:
    """Return torchvision's replace_stride_with_dilation."""
    if output_stride not in (8, 16, 32):
        raise ArchitectureError(
            f"The option output_stride is {output_stride!r}: expected 32 (no dilation), 16 (in "
            "layer4) or 8 (in layer3 and layer4)."
        )
    return [False, output_stride == 8, output_stride in (8, 16)]


def _check_name(name: str) -> None:
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ArchitectureError(
            f"torchvision has no classifier {name!r}: expected one of its names, such as resnet50 "
            f"or vit_b_16{nearest(name, known)}"
        )


def _adapted(net: nn.Module, architecture: Architecture) -> Adapted:
    preset = torchvision.models.get_model_weights(architecture.name).DEFAULT.transforms()
    # A net of patches takes one size only, which is not always that of the default weights.
    side = getattr(net, "image_size", preset.crop_size[0])
    return Adapted(
        net,
        str(architecture),
        normalisation=(tuple(preset.mean), tuple(preset.std)),
        input_shape=(3, side, side),
    )
