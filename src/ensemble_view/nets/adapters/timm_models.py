"""Nets of timm: by name with pretrained weights, from the hub or a folder, or for given weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ensemble_view.errors import CheckpointError
from ensemble_view.nets.adapters.adapted import Adapted
from ensemble_view.nets.adapters.configurations import check_configuration
from ensemble_view.nets.adapters.libraries import imported, loading, nearest
from ensemble_view.nets.models.architecture import Architecture, ArchitectureError

__all__ = ["build_timm", "is_timm_config", "load_timm", "pretrained_timm"]


def build_timm(architecture: Architecture, weights: Mapping[str, Tensor]) -> Adapted:
    """Build one of timm's nets for given weights, without fetching anything.

    Args:
        architecture: Of the family timm; its options are those of ``timm.create_model``.
        weights: What is to go into it; they say the number of classes and of channels.

    Returns:
        The net with random weights. Normalisation and size of the image are those of timm's own
        weights of that name.

    Raises:
        ArchitectureError: If there is no such net or an option does not fit it.
        CheckpointError: If timm is not installed.
    """
    timm = imported("timm", str(architecture), extra="timm")
    _check_name(timm, architecture.name)
    own = timm.models.get_pretrained_cfg(architecture.name)
    options: dict[str, Any] = dict(architecture.options)
    check_configuration(options, str(architecture))
    # The function's own arguments name files and places; the net's settings are all others.
    asked = [each for each in options if each in inspect.signature(timm.create_model).parameters]
    if asked:
        raise ArchitectureError(
            f"{architecture} has the option {asked[0]}, which is none of the net's: expected "
            "settings of the net, such as num_classes=10."
        )
    for option, layer, axis in (("num_classes", "classifier", 0), ("in_chans", "first_conv", 1)):
        names = getattr(own, layer, None) or ()
        first = names if isinstance(names, str) else next(iter(names), "")
        if (weight := weights.get(f"{first}.weight")) is not None and weight.ndim > axis:
            options.setdefault(option, weight.shape[axis])
    try:
        net = timm.create_model(architecture.name, pretrained=False, **options)
    except Exception as error:
        raise ArchitectureError(f"timm cannot build {architecture}: {error}.") from error
    return _adapted(net, str(architecture), options)


def pretrained_timm(name: str, *, trust_pickle: bool = False) -> Adapted:
    """Load one of timm's nets with its pretrained weights.

    Args:
        name: For example "resnet18" or, with the tag of its weights, "resnet18.a1_in1k".
        trust_pickle: Whether its files may run code of their own.

    Returns:
        The net.

    Raises:
        ArchitectureError: If there is no such net.
        CheckpointError: If timm is not installed, has no weights of that name, or cannot fetch
            them.
    """
    source = f"timm:{name}"
    timm = imported("timm", source, extra="timm")
    _check_name(timm, name)
    if not timm.models.is_model_pretrained(name):
        raise CheckpointError(
            f"timm has no pretrained weights of {name!r}: give a file of your own as MODEL and "
            f"say --arch {source}."
        )
    with loading(source, trust_pickle=trust_pickle):
        net = timm.create_model(name, pretrained=True)
    return _adapted(net, source, {})


def is_timm_config(config: Mapping[str, Any]) -> bool:
    """Say whether a model's config.json was written by timm.

    Args:
        config: What it holds.

    Returns:
        True if timm can load the model.

    Example:
        >>> is_timm_config({"architecture": "resnet18", "pretrained_cfg": {}})
        True
    """
    return "architecture" in config and ("pretrained_cfg" in config or "num_classes" in config)


def load_timm(
    place: str, config: Mapping[str, Any], source: str, *, trust_pickle: bool = False
) -> Adapted:
    """Load a net that timm saved in a folder or on the hub.

    Args:
        place: As timm writes it, "hf-hub:ORG/NAME" or "local-dir:FOLDER".
        config: What its config.json holds.
        source: What the user asked for.
        trust_pickle: Whether its files may run code of their own.

    Returns:
        The net.

    Raises:
        ArchitectureError: If this version of timm has no such architecture.
        CheckpointError: If timm is not installed, or cannot load it.
    """
    timm = imported("timm", source, extra="timm")
    name = str(config["architecture"])
    _check_name(timm, name)
    check_configuration(config, source)
    _check_weights(config, source)
    with loading(source, trust_pickle=trust_pickle):
        net = timm.create_model(place, pretrained=True)
    return _adapted(net, f"timm:{name}", config.get("model_args") or {})


def _check_weights(config: Mapping[str, Any], source: str) -> None:
    """Refuse a configuration that says to take the weights from another place than its own."""
    own = {**config, **(config.get("pretrained_cfg") or {})}
    named = [key for key in ("file", "hf_hub_id", "hf_hub_filename", "url", "source", "state_dict")
             if own.get(key)]  # fmt: skip
    asked = {**own, **(config.get("model_args") or {})}
    named += [key for key in ("checkpoint_path", "pretrained_cfg_overlay") if asked.get(key)]
    if named:
        raise CheckpointError(
            f"The configuration of {source} says {named[0]} {own.get(named[0])!r}, another place "
            "for its weights; expected them beside it; name that place as MODEL."
        )


def _check_name(timm: Any, name: str) -> None:
    """Refuse a name, or the tag of its weights, that timm does not know."""
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        raise ArchitectureError(
            f"timm {timm.__version__} has no model {model!r}: expected a name of "
            f"timm.list_models(){nearest(model, timm.list_models())}"
        )
    known = list(timm.models.get_arch_pretrained_cfgs(model))
    if tag and name not in known:
        raise ArchitectureError(
            f"timm has no weights {tag!r} of {model}: expected one of {', '.join(known) or 'none'}."
        )


def _adapted(net: nn.Module, architecture: str, options: Mapping[str, Any]) -> Adapted:
    own: Any = getattr(net, "pretrained_cfg", None) or {}
    channels, *sides = own.get("input_size") or (3, 224, 224)
    side = options.get("img_size")
    if side is not None:
        sides = list(side) if isinstance(side, list | tuple) else [side, side]
    mean, std = tuple(own.get("mean") or ()), tuple(own.get("std") or ())
    channels = options.get("in_chans", channels)
    return Adapted(
        net,
        architecture,
        normalisation=(mean, std) if len(mean) == len(std) == channels else None,
        input_shape=(channels, *sides),
    )
