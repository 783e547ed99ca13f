"""Build a reference net by the name of its architecture."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ensemble_view.nets.models.architecture import Architecture, ArchitectureError
from ensemble_view.nets.models.blocks import PLACEMENTS, VARIANTS
from ensemble_view.nets.models.highway import HighwayNet
from ensemble_view.nets.models.notes import NotesNet
from ensemble_view.nets.models.plain import PlainNet
from ensemble_view.nets.models.resnet import ResNet
from ensemble_view.nets.models.vgg import VGG

__all__ = ["build"]

_NAME = re.compile(
    r"(?P<kind>resnet(?=\d+(v[12])?$)|(plain|vgg|highway)(?=\d+$)|notes(?=_v[12]$))"
    r"(?P<depth>\d{1,4})?_?(?P<version>v[12])?"
)
_KINDS: dict[str, type[nn.Module]] = {
    "resnet": ResNet,
    "plain": PlainNet,
    "vgg": VGG,
    "highway": HighwayNet,
    "notes": NotesNet,
}
_WORDS: dict[str, tuple[str, ...]] = {
    "shortcut": ("A", "B", "C"),
    "variant": VARIANTS,
    "placement": tuple(PLACEMENTS),
    "norm": ("batch", "none"),
    "padding": ("sides", "end"),
    "stride": ("1x1", "3x3"),
}
_BOUNDS = {"layers": (1, 3), "survival": (1, 100), "gate_bias": (-20, 20)}
_LARGEST = 4096
# What the name says, not an option.
_NAMED = ("depth", "version")


def build(
    architecture: str | Architecture,
    *,
    in_channels: int | None = None,
    classes: int | None = None,
    pixels: int | None = None,
    **options: int | str,
) -> nn.Module:
    """Build a net by name, with random initial weights.

    Args:
        architecture: A name such as "resnet110", "resnet110v2", "resnet164v2,layers=3", "plain20",
            "highway32", "vgg15,width=16" or "notes_v1" (with or without "cifar:" before it), or the
            value itself.
        in_channels: Channels of the images; 3 unless the architecture says otherwise.
        classes: Number of classes; 10 unless the architecture says otherwise.
        pixels: Height times width of the images, for the nets that have to know.
        **options: Further options of the net: width, shortcut, layers, variant, placement, norm,
            gate_bias, padding, stride, survival, kept. They win over the architecture's.

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
            "D = 6n + 2 (20, 32, 44, 56, 110, ...; with layers=3 9n + 2, with layers=1 3n + 2), "
            "highwayD with D = 3n + 2, vgg10, vgg12, vgg15, vgg18, notes_v1 or notes_v2."
        )
    kind = _KINDS[match["kind"]]
    taken = inspect.signature(kind).parameters
    given = {**architecture.options, **options}
    for name, value in (("in_channels", in_channels), ("classes", classes), ("pixels", pixels)):
        if value is not None and name in taken:
            given[name] = value
    _check_options(architecture, [name for name in taken if name not in _NAMED], given)
    arguments: dict[str, Any] = dict(given)
    if "depth" in taken:
        arguments["depth"] = int(match["depth"])
    if "version" in taken:
        arguments["version"] = int((match["version"] or "v1")[1])
    return kind(**arguments)


def _check_options(
    architecture: Architecture, allowed: Sequence[str], given: Mapping[str, int | str]
) -> None:
    """Refuse options that are not the net's own or whose values are impossible."""
    for name, value in given.items():
        if name not in allowed:
            raise ArchitectureError(
                f"{architecture} takes no option {name!r}: it takes {', '.join(allowed)}."
            )
        if name in _WORDS:
            if value not in _WORDS[name]:
                raise ArchitectureError(
                    f"The option {name} is one of {', '.join(_WORDS[name])}, found {value!r}."
                )
            continue
        low, high = _BOUNDS.get(name, (1, _LARGEST))
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ArchitectureError(
                f"The option {name} is a whole number from {low} to {high}, found {value!r}."
            )
