"""Build the net that given weights belong to: ours, another library's, or a user's own."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from torch import Tensor, nn

from ensemble_view.nets.adapters.adapted import Adapted
from ensemble_view.nets.adapters.budget import Budget
from ensemble_view.nets.adapters.timm_models import build_timm
from ensemble_view.nets.adapters.torchvision_models import build_torchvision
from ensemble_view.nets.adapters.transformers_models import build_transformers, with_configuration
from ensemble_view.nets.models.architecture import Architecture, ArchitectureError
from ensemble_view.nets.models.building import build
from ensemble_view.nets.models.inference import Inferred, first_channels

__all__ = ["architecture_to_store", "build_for_weights", "is_factory"]

_FAMILIES = ("cifar", "torchvision", "timm", "transformers")

_FACTORY = re.compile(r"(?P<file>.+\.py):(?P<function>[A-Za-z_]\w*)")


def is_factory(text: str) -> bool:
    """Say whether an architecture's text names a function in a Python file.

    Args:
        text: What the user wrote.

    Returns:
        True for "path/to/file.py:function".

    Example:
        >>> is_factory("nets/mine.py:make"), is_factory("torchvision:resnet18")
        (True, False)
    """
    return _FACTORY.fullmatch(text) is not None


def architecture_to_store(text: str, model: nn.Module) -> str | Architecture:
    """Say what a file has to state so that the net can be built again from the file alone.

    Args:
        text: What the net's own source says of it, such as "torchvision:resnet50".
        model: The net.

    Returns:
        The architecture; for one of transformers with its configuration; of a factory its text,
        which has to be named again.

    Raises:
        ArchitectureError: If it is none that can be built by name.

    Example:
        >>> print(architecture_to_store("cifar:resnet20", build("resnet20")))
        cifar:resnet20
    """
    if is_factory(text):
        return text
    if text.partition(":")[0] not in _FAMILIES:
        raise ArchitectureError(
            f"The net is a {text}, which no file can build again by name: save its weights, and "
            "name the architecture with --arch, for example net.py:factory."
        )
    architecture = Architecture.parse(text)
    if architecture.family == "transformers":
        return with_configuration(architecture, model)
    return architecture


def build_for_weights(
    architecture: str | Architecture,
    weights: Mapping[str, Tensor],
    inferred: Inferred | None = None,
) -> Adapted:
    """Build a net with as many classes and channels as the weights have.

    Args:
        architecture: The value, or its text; a text "path/to/file.py:function" executes that file.
        weights: Names and tensors that are to go into the net.
        inferred: What the weights say themselves, if anything.

    Returns:
        The net, with random weights, and what its library says about the input.

    Raises:
        ArchitectureError: If there is no such net or it cannot be built.
        CheckpointError: If its library is not installed.

    Example:
        >>> weights = build("resnet20", classes=7).state_dict()
        >>> build_for_weights("cifar:resnet20", weights).model.linear.out_features
        7
    """
    if isinstance(architecture, str):
        match = _FACTORY.fullmatch(architecture)
        if match:
            return Adapted(_call(Path(match["file"]), match["function"]), architecture)
        architecture = Architecture.parse(architecture)
    # Without any, nothing says how large it is to be.
    with Budget.of_weights(weights) if weights else nullcontext():
        return _built(architecture, weights, inferred)


def _built(
    architecture: Architecture, weights: Mapping[str, Tensor], inferred: Inferred | None
) -> Adapted:
    classes = _classes(weights) if inferred is None else inferred.classes
    if architecture.family == "torchvision":
        return build_torchvision(architecture, classes)
    if architecture.family == "timm":
        return build_timm(architecture, weights)
    if architecture.family == "transformers":
        return build_transformers(architecture)
    if inferred is not None and inferred.architecture.name == architecture.name:
        options = {**inferred.architecture.options, **architecture.options}
        architecture = replace(architecture, options=options)
    channels = first_channels(weights) if inferred is None else inferred.in_channels
    found = {"in_channels": channels, "classes": classes}
    told = {k: v for k, v in found.items() if v is not None and k not in architecture.options}
    return Adapted(build(architecture, **told), str(architecture))


def _classes(weights: Mapping[str, Tensor]) -> int | None:
    """Return the outputs of the last layer: the last weight of two or more axes."""
    if "linear.weight" in weights:
        return weights["linear.weight"].shape[0]
    matrices = [value for value in weights.values() if value.ndim >= 2]
    return matrices[-1].shape[0] if matrices else None


def _call(file: Path, function: str) -> nn.Module:
    """Run a user's Python file and return what the named function makes."""
    if not file.is_file():
        raise ArchitectureError(f"There is no Python file {file}: check its name and folder.")
    specification = importlib.util.spec_from_file_location(f"_factory_{file.stem}", file)
    if specification is None or specification.loader is None:
        raise ArchitectureError(f"{file} cannot be imported: expected a Python file.")
    module = importlib.util.module_from_spec(specification)
    # Classes that are pickled or made by dataclasses look themselves up in the table of modules.
    sys.modules[specification.name] = module
    sys.path.insert(0, str(file.parent.resolve()))
    try:
        specification.loader.exec_module(module)
        made = getattr(module, function, None)
        if not callable(made):
            raise ArchitectureError(
                f"{file} has no function {function!r}: expected one without arguments that returns "
                "the net."
            )
        net = made()
    except ArchitectureError:
        raise
    except Exception as error:
        raise ArchitectureError(
            f"{file}:{function} failed with {type(error).__name__}: {error}; expected a function "
            "without arguments that returns the net."
        ) from error
    finally:
        sys.path.remove(str(file.parent.resolve()))
    if not isinstance(net, nn.Module):
        raise ArchitectureError(
            f"{file}:{function} returned a {type(net).__name__}: expected a torch.nn.Module."
        )
    return net
