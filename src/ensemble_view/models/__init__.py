"""The reference nets: residual nets of both versions, the plain net and VGG, for small images."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from ensemble_view.models.architecture import Architecture, ArchitectureError
from ensemble_view.models.plain import PlainNet
from ensemble_view.models.resnet import ResNet
from ensemble_view.models.vgg import VGG

__all__ = ["VGG", "Architecture", "ArchitectureError", "PlainNet", "ResNet", "build"]

_NAME = re.compile(
    r"(?P<kind>resnet(?=\d+(v[12])?$)|plain(?=\d+$)|vgg(?=\d+$))(?P<depth>\d{1,4})(?P<version>v[12])?"
)
_KINDS: dict[str, type[nn.Module]] = {"resnet": ResNet, "plain": PlainNet, "vgg": VGG}
_LARGEST = 4096


def build(
    architecture: str | Architecture,
    *,
    in_channels: int | None = None,
    classes: int | None = None,
    **options: int | str,
) -> nn.Module:
    """Build a net by name, with random initial weights.

    Args:
        architecture: A name such as "resnet110", "resnet110v2", "plain20", "vgg15,width=16" (with
            or without "cifar:" before it), or the value itself.
        in_channels: Channels of the images; 3 unless the architecture says otherwise.
        classes: Number of classes; 10 unless the architecture says otherwise.
        **options: Further options of the net: width, shortcut. They win over the architecture's.

    Returns:
        The net, in training mode.

    Raises:
        ArchitectureError: If no such net exists, or an option does not fit it.

    Example:
        >>> net = build("resnet20v2", in_channels=1, classes=10)
        >>> sum(parameter.numel() for parameter in net.parameters()) > 270_000
        True
    """
    if isinstance(architecture, str):
        architecture = Architecture.parse(architecture)
    match = _NAME.fullmatch(architecture.name)
    if architecture.family != "cifar" or match is None:
        raise ArchitectureError(
            f"There is no net {architecture} here: expected resnetD, resnetDv2 or plainD with "
            "D = 6n + 2 (20, 32, 44, 56, 110, ...), or vgg10, vgg12, vgg15, vgg18."
        )
    given = {**architecture.options, **options}
    given |= {"in_channels": in_channels} if in_channels is not None else {}
    given |= {"classes": classes} if classes is not None else {}
    kind = _KINDS[match["kind"]]
    _check_options(architecture, kind, given)
    arguments: dict[str, Any] = {"depth": int(match["depth"]), **given}
    if kind is ResNet:
        arguments["version"] = int((match["version"] or "v1")[1])
    return kind(**arguments)


def _check_options(
    architecture: Architecture, kind: type[nn.Module], given: Mapping[str, int | str]
) -> None:
    """Refuse options that are not the net's own or whose values are impossible."""
    parameters = inspect.signature(kind).parameters
    allowed = [name for name in parameters if name not in {"depth", "version"}]
    for name, value in given.items():
        if name not in allowed:
            raise ArchitectureError(
                f"{architecture} takes no option {name!r}: it takes {', '.join(allowed)}."
            )
        if name == "shortcut":
            if value not in {"A", "B"}:
                raise ArchitectureError(f"The option shortcut is A or B, found {value!r}.")
        elif not isinstance(value, int) or not 1 <= value <= _LARGEST:
            raise ArchitectureError(
                f"The option {name} is a whole number from 1 to {_LARGEST}, found {value!r}."
            )
