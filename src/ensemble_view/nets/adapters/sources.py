"""Load a net by the name of its source."""

from __future__ import annotations

from ensemble_view.nets.adapters.adapted import Adapted
from ensemble_view.nets.adapters.hub import pretrained_hub
from ensemble_view.nets.adapters.timm_models import pretrained_timm
from ensemble_view.nets.adapters.torchvision_models import pretrained_torchvision

__all__ = ["SOURCES", "is_source", "load_source"]

_LOADERS = {
    "torchvision": pretrained_torchvision,
    "timm": pretrained_timm,
    "hf-hub": pretrained_hub,
}

SOURCES = "torchvision:NAME, timm:NAME or hf-hub:ORG/NAME"
"""How a net is named that comes with its weights."""


def is_source(name: str) -> bool:
    """Say whether a model's name is that of a net which a library or the hub keeps.

    Args:
        name: What the user wrote.

    Returns:
        True if `load_source` takes it.

    Example:
        >>> is_source("timm:resnet18.a1_in1k"), is_source("net.pt")
        (True, False)
    """
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind in _LOADERS


def load_source(name: str, *, trust_pickle: bool = False) -> Adapted:
    """Load a net by name, with the weights that its library or the hub keeps for it.

    Args:
        name: One of `SOURCES`.
        trust_pickle: Whether its files may run code of their own.

    Returns:
        The net.

    Raises:
        ArchitectureError: If its library knows no such net.
        CheckpointError: If its library is not installed, or it cannot be fetched or loaded.
    """
    kind, _, rest = name.partition(":")
    return _LOADERS[kind](rest, trust_pickle=trust_pickle)
