"""What a net computes that names and shapes of its weights do not tell."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ensemble_view.nets.models.architecture import Architecture

__all__ = ["Untraced", "untraced"]


@dataclass(frozen=True)
class Untraced:
    """Something that leaves no trace in a file of weights.

    Args:
        what: What it is.
        assumed: How it is taken to be.
        others: Architectures in which it is otherwise, for the same weights.
    """

    what: str
    assumed: str
    others: tuple[Architecture, ...]

    def to_json(self) -> dict[str, object]:
        """Return the same as plain values for JSON."""
        others = [str(each) for each in self.others]
        return {"what": self.what, "assumed": self.assumed, "others": others}


_BOTTLENECKS = re.compile(r"resnet(50|101|152)|resnext|wide_resnet")
# Nets of timm whose weights have the names and shapes of torchvision's.
_SMOOTHED = {"resnet18": ("resnetblur18",), "resnet50": ("resnetblur50", "resnetaa50")}


def untraced(architecture: Architecture) -> tuple[Untraced, ...]:
    """List what the weights of an architecture do not tell about it.

    Args:
        architecture: As inferred from weights.

    Returns:
        One entry for each choice, with the architectures that have the same weights.

    Example:
        >>> [each.what for each in untraced(Architecture("resnet20"))]
        ['where option A puts its zeros', 'where BatchNorm and ReLU stand']
    """
    if architecture.family == "torchvision":
        return _of_torchvision(architecture)
    if not architecture.name.startswith("resnet"):
        return ()

    def other(**options: str) -> Architecture:
        return replace(architecture, options={**base, **options})

    base = dict(architecture.options)
    second, bottleneck = architecture.name.endswith("v2"), base.get("layers") == 3
    if bottleneck:
        base = {"stride": "3x3", **base}
    found = []
    if base.get("shortcut", "B" if second else "A") == "A":
        found.append(
            Untraced("where option A puts its zeros", "half on each side", (other(padding="end"),))
        )
    if bottleneck:
        found.append(
            Untraced(
                "which convolution of a bottleneck has the stride",
                "the 3x3",
                (other(stride="1x1"),),
            )
        )
    if not second:
        places = ("bn_after_addition", "relu_before_addition", "relu_only")
        found.append(
            Untraced(
                "where BatchNorm and ReLU stand",
                "a ReLU after each addition",
                tuple(other(placement=place) for place in places),
            )
        )
    return tuple(found)


def _of_torchvision(architecture: Architecture) -> tuple[Untraced, ...]:
    def other(**options: str | int) -> Architecture:
        return replace(architecture, options={**architecture.options, **options})

    bottlenecks = _BOTTLENECKS.match(architecture.name) is not None
    found = []
    if bottlenecks:
        found += [
            Untraced(
                "which convolution of a bottleneck has the stride",
                "the 3x3",
                (other(stride="1x1"),),
            ),
            Untraced(
                "dilation in place of strides",
                "none",
                (other(output_stride=16), other(output_stride=8)),
            ),
        ]
    found += [
        Untraced("a max-pool after the stem", "there is one", (other(maxpool="none"),)),
        Untraced("average pooling in shortcuts", "none", (other(shortcut="avgpool"),)),
    ]
    names = _SMOOTHED.get(architecture.name, ())
    timm = tuple(Architecture(name, family="timm") for name in names)
    return (*found, Untraced("blur or average pooling before strides", "none", timm))
