"""An architecture as a value: a name and its options, which round-trip through text and JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from ensemble_view.errors import EnsembleViewError

__all__ = ["Architecture", "ArchitectureError", "blocks_per_stage"]

_NUMBER = re.compile(r"-?\d+", re.ASCII)
_LONGEST_OPTION = 100
_TEXT = re.compile(r"(?:(?P<family>[a-z]+):)?(?P<name>\w[\w.]*)(?P<options>(?:,\w+=-?\w+)*)")


class ArchitectureError(EnsembleViewError):
    """No net answers to the name, depth or options that were asked for."""


def blocks_per_stage(depth: int, layers: int = 2) -> int:
    """Return n of the depth 3·layers·n + 2 that a three-stage net for small images must have.

    He et al. 2015 (arXiv 1512.03385), section 4.2, for two layers: 6n + 2.

    Args:
        depth: Convolutions on the longest path, plus the linear layer.
        layers: Convolutions per block.

    Returns:
        Blocks in each of the three stages.

    Raises:
        ArchitectureError: If the depth is another.

    Example:
        >>> blocks_per_stage(110), blocks_per_stage(164, layers=3)
        (18, 18)
    """
    period = 3 * layers
    if depth < period + 2 or (depth - 2) % period:
        nearest = max(period + 2, period * round((depth - 2) / period) + 2)
        raise ArchitectureError(
            f"Depth {depth} does not fit a three-stage net of {layers}-layer blocks, whose depth "
            f"is {period}n + 2: the nearest is {nearest}."
        )
    return (depth - 2) // period


@dataclass(frozen=True)
class Architecture:
    """A net's architecture: who defines it, its name there, and its options.

    Written as text it is `family:name,option=value`, for example `cifar:vgg15,width=16`; the
    family may be left out and is then `cifar`, the nets for small images of this package.

    Args:
        name: For example "resnet110", "resnet110v2", "plain20", "vgg15" or, in the family
            torchvision, "resnet50"; in timm also with the tag of its weights, "resnet18.a1_in1k".
        options: Keyword arguments of the net, plain numbers and words.
        family: "cifar", "torchvision" or "timm".

    Example:
        >>> str(Architecture.parse("resnet20,shortcut=B"))
        'cifar:resnet20,shortcut=B'
        >>> Architecture.from_json(Architecture("vgg15", {"width": 16}).to_json()).options
        {'width': 16}
    """

    name: str
    options: Mapping[str, int | str] = field(default_factory=dict, hash=False)
    family: str = "cifar"

    @classmethod
    def parse(cls, text: str) -> Architecture:
        """Read an architecture from its text form.

        Args:
            text: `[family:]name[,option=value]...`

        Returns:
            The architecture; whether such a net exists is for `build` to say.

        Raises:
            ArchitectureError: If the text has another form.
        """
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ArchitectureError(
                f"{text!r} is no architecture: expected a name such as resnet110, resnet110v2, "
                "plain20, vgg15,width=16 or torchvision:resnet50."
            )
        pairs = [pair.split("=") for pair in match["options"].split(",")[1:]]
        if long := [key for key, value in pairs if len(value) > _LONGEST_OPTION]:
            raise ArchitectureError(
                f"The option {long[0]} of an architecture has more than {_LONGEST_OPTION} "
                "characters: expected a number or a word such as width=16 or shortcut=B."
            )
        options = {key: int(value) if _NUMBER.fullmatch(value) else value for key, value in pairs}
        return cls(match["name"], options, match["family"] or "cifar")

    @classmethod
    def from_json(cls, values: object) -> Architecture:
        """Return the architecture that `to_json` described.

        Args:
            values: The mapping with name, options and family.

        Returns:
            An equal architecture.

        Raises:
            ArchitectureError: If an entry is missing or of another kind.
        """
        stored = values if isinstance(values, Mapping) else {}
        name, options = stored.get("name"), stored.get("options", {})
        family = stored.get("family", "cifar")
        if not (isinstance(name, str) and isinstance(family, str) and isinstance(options, Mapping)):
            raise ArchitectureError(
                f"An architecture is stored as name, options and family, found {values!r}."
            )
        return cls(name, dict(options), family)

    def to_json(self) -> dict[str, object]:
        """Return the architecture as plain values for JSON."""
        return {"name": self.name, "options": dict(self.options), "family": self.family}

    def __str__(self) -> str:
        options = "".join(f",{key}={value}" for key, value in sorted(self.options.items()))
        return f"{self.family}:{self.name}{options}"
