"""Load trained nets from files, and save them with what is needed to use them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_view.bundled import bundled, bundled_names
from ensemble_view.errors import CheckpointError
from ensemble_view.models.architecture import Architecture, ArchitectureError
from ensemble_view.models.factory import build_for_weights, is_factory
from ensemble_view.models.inference import infer
from ensemble_view.weights_file import MARK, read_weights_file, write_weights_file

__all__ = [
    "Checkpoint",
    "Normalisation",
    "load_checkpoint",
    "resolve_model",
    "save_checkpoint",
    "weights_hash",
]

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel."""

_VERSION = 1
_NESTED = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "_orig_mod.")
_IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Checkpoint:
    """A trained net and what its file says about it.

    Args:
        model: The net, in eval mode, in single precision.
        architecture: For example "cifar:resnet110", "torchvision:resnet50", "net.py:make"; of a
            pickled module the name of its class.
        normalisation: Mean and standard deviation per channel that the net expects, in units of
            pixels scaled to 0..1. Of a torchvision net whose file says nothing it is that of
            ImageNet, with which all of torchvision's classifiers were trained.
        data: Name of the data set it was trained on.
        class_names: One name per class.
        input_shape: Channels, height and width of an image.
        training: The record of its training.
        weights_hash: SHA-256 over names and values of all weights as loaded.
        path: Where it came from.
    """

    model: nn.Module
    architecture: str
    normalisation: Normalisation | None
    data: str | None
    class_names: tuple[str, ...] | None
    input_shape: tuple[int, ...] | None
    training: Mapping[str, Any] | None
    weights_hash: str
    path: Path | None


def resolve_model(name_or_path: str | Path) -> Path:
    """Return the file of a model given by path, or by the name of a bundled one.

    Args:
        name_or_path: A path, or for example "digits-resnet110".

    Returns:
        The path of the file.

    Raises:
        CheckpointError: If there is neither.

    Example:
        >>> resolve_model("digits-resnet110").name
        'digits-resnet110.safetensors'
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    names = [Path(name).stem for name in bundled_names() if name.endswith(".safetensors")]
    if str(name_or_path) in names:
        return bundled(f"{name_or_path}.safetensors")
    raise CheckpointError(
        f"There is no model file {str(name_or_path)!r}: expected a path, or one of the nets that "
        f"travel with ensemble_view: {', '.join(names)}."
    )


def load_checkpoint(
    path: str | Path,
    *,
    architecture: str | None = None,
    trust_pickle: bool = False,
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """Load a trained net.

    The file is one of this package, a bare state_dict, or a dict that holds one as state_dict,
    model_state_dict, model or net; the prefixes "module." and "_orig_mod." are taken off. The
    architecture is what the argument says, else what the file says, else inferred from names and
    shapes of the weights. Nothing in the file is executed.

    Args:
        path: A `.pt`, `.pth`, `.th` or `.safetensors` file, or the name of a bundled net.
        architecture: "cifar:resnet56", "torchvision:resnet50", or "path/to/file.py:factory", a
            function without arguments that returns the net; that Python file is executed.
        trust_pickle: Whether the file may run code of its own, as a pickled module does.
        device: Where to put the net.

    Returns:
        The net in eval mode, with all that is known about it.

    Raises:
        CheckpointError: If the file cannot be read, trusted, or fitted to an architecture.

    Example:
        >>> checkpoint = load_checkpoint("digits-resnet110")
        >>> checkpoint.architecture, checkpoint.data, checkpoint.input_shape
        ('cifar:resnet110', 'digits', (1, 8, 8))
    """
    path = resolve_model(path)
    content = read_weights_file(path, trust_pickle=trust_pickle)
    described = _description(content, path)
    module = _module_in(content)
    if module is not None:
        model, name = module, f"{type(module).__module__}.{type(module).__qualname__}"
    else:
        weights = _strip(_weights_in(content, path))
        model, name = _build(weights, architecture, described, path)
    try:
        model = model.float().eval().to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"The device {str(device)!r} cannot be used ({reason}): choose cpu, or another."
        ) from error
    normalisation = _normalisation(described, path)
    if normalisation is None and name.startswith("torchvision:"):
        normalisation = _IMAGENET
    names, shape = described.get("class_names"), described.get("input_shape")
    return Checkpoint(
        model=model,
        architecture=name,
        normalisation=normalisation,
        data=described.get("data"),
        class_names=None if names is None else tuple(names),
        input_shape=None if shape is None else tuple(shape),
        training=described.get("training"),
        weights_hash=weights_hash(model),
        path=path,
    )


def save_checkpoint(
    path: str | Path,
    model: nn.Module,
    *,
    architecture: str | Architecture,
    normalisation: Normalisation | None = None,
    data: str | None = None,
    class_names: Sequence[str] | None = None,
    input_shape: Sequence[int] | None = None,
    training: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Save a trained net with what is needed to use it again.

    Args:
        path: Where to; `.safetensors`, or `.pt`, `.pth`, `.th` for what torch.save writes.
        model: The net.
        architecture: What `load_checkpoint` shall build; a factory in a Python file is recorded,
            but has to be named again on loading.
        normalisation: Mean and standard deviation per channel that it expects.
        data: Name of the data set it was trained on.
        class_names: One name per class.
        input_shape: Channels, height and width of an image.
        training: The record of its training, plain values.
        half: Whether to store convolutions and linear layers in half precision; one-dimensional
            weights (normalisation, shifts) stay as they are.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ensemble_view.models import build
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "net.safetensors"
        ...     save_checkpoint(file, build("resnet20"), architecture="cifar:resnet20")
        ...     load_checkpoint(file).architecture
        'cifar:resnet20'
    """
    if isinstance(architecture, str) and not is_factory(architecture):
        architecture = Architecture.parse(architecture)
    stored = architecture if isinstance(architecture, str) else architecture.to_json()
    weights = _strip(dict(model.state_dict()))
    if half:
        weights = {name: _halved(value) for name, value in weights.items()}
    description = {
        "version": _VERSION,
        "architecture": stored,
        "normalisation": normalisation and {"mean": normalisation[0], "std": normalisation[1]},
        "data": data,
        "class_names": None if class_names is None else list(class_names),
        "input_shape": None if input_shape is None else list(input_shape),
        "training": None if training is None else dict(training),
    }
    write_weights_file(Path(path), weights, description)


def weights_hash(model: nn.Module) -> str:
    """Return a SHA-256 over names, types, shapes and values of all weights.

    Args:
        model: The net.

    Returns:
        64 hexadecimal digits, the same for every file format and device.

    Example:
        >>> weights_hash(nn.Identity())[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    for name, value in sorted(_strip(dict(model.state_dict())).items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _halved(value: Tensor) -> Tensor:
    """Return a weight in half precision, unless it is one-dimensional or does not fit."""
    if value.ndim < 2 or not value.is_floating_point():
        return value
    half = value.half()
    return half if bool(torch.isfinite(half).all()) else value


def _module_in(content: Any) -> nn.Module | None:
    """Return the pickled module, if the file holds one."""
    if isinstance(content, nn.Module):
        return content
    if isinstance(content, Mapping):
        for key in _NESTED:
            if isinstance(content.get(key), nn.Module):
                found: nn.Module = content[key]
                return found
    return None


def _weights_in(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state_dict wherever the file keeps it."""
    while isinstance(content, Mapping):
        inner = next((key for key in _NESTED if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = content[inner]
    named = isinstance(content, Mapping) and all(isinstance(name, str) for name in content)
    if not named or not content or not all(isinstance(v, Tensor) for v in content.values()):
        found = type(content).__name__
        if isinstance(content, Mapping):
            keys = ", ".join(str(key) for key in list(content)[:5])
            found = f"a dict of {keys}" if content else "an empty dict"
        raise CheckpointError(
            f"{path} holds no weights but {found}: expected a state_dict (names and tensors), bare "
            f"or under one of {', '.join(_NESTED)}."
        )
    return dict(content)


def _strip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights without the prefixes that parallel or compiled nets put before names."""
    while weights:
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in weights)), None)
        if prefix is None:
            break
        weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


def _description(content: Any, path: Path) -> dict[str, Any]:
    """Return what a file of this package says beside the weights; of others, nothing."""
    described = content.get(MARK) if isinstance(content, Mapping) else None
    if described is None:
        return {}
    kinds = {"data": str, "class_names": list, "input_shape": list, "training": dict}
    if not isinstance(described, dict) or not all(
        described.get(key) is None or isinstance(described[key], kind)
        for key, kind in kinds.items()
    ):
        raise CheckpointError(
            f"The description in {path} is damaged: expected data, class_names, input_shape and "
            "training as ensemble_view writes them; save the net again."
        )
    if described.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} is of version {described.get('version')!r} of this format, this program reads "
            f"version {_VERSION}: install a newer ensemble_view."
        )
    return described


def _normalisation(described: Mapping[str, Any], path: Path) -> Normalisation | None:
    """Return the normalisation that a file states."""
    stored = described.get("normalisation")
    if stored is None:
        return None
    try:
        mean, std = (tuple(float(value) for value in stored[key]) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The normalisation in {path} is {stored!r}: expected mean and std, a number per "
            "channel each; save the net again."
        ) from error
    return mean, std


def _build(
    weights: dict[str, Tensor], asked: str | None, described: Mapping[str, Any], path: Path
) -> tuple[nn.Module, str]:
    """Return the net with these weights in it, and the name of its architecture."""
    inferred = infer(weights)
    try:
        architecture = asked or _stored_architecture(described.get("architecture"), path)
        if architecture is None and inferred is not None:
            architecture = inferred.architecture
        if architecture is None:
            some = ", ".join(list(weights)[:4])
            raise CheckpointError(
                f"The architecture of {path} cannot be told from its {len(weights)} weights "
                f"({some}, ...): name it with --arch, for example torchvision:resnet50, "
                "cifar:resnet56 or path/to/file.py:factory."
            )
        model, name = build_for_weights(architecture, weights, inferred)
    except ArchitectureError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if inferred is not None and name.startswith("cifar:"):
        weights = inferred.renamed(weights)
    _fill(model, weights, name, path)
    return model, name


def _stored_architecture(stored: object, path: Path) -> Architecture | None:
    """Return the architecture that a file states, if it states one."""
    if stored is None:
        return None
    if isinstance(stored, str) and is_factory(stored):
        # Only the user may name Python code to run, never the file.
        raise CheckpointError(
            f"{path} was saved from the factory {stored}: name it with --arch to run that code."
        )
    return Architecture.from_json(stored)


def _fill(model: nn.Module, weights: dict[str, Tensor], name: str, path: Path) -> None:
    """Put the weights into the net, or say which do not fit."""
    own = model.state_dict()
    # Counters of BatchNorm are missing from early files and change nothing in eval mode.
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in weights if k not in own]
    other = [
        f"{k} ({_shape(weights[k])} instead of {_shape(own[k])})"
        for k in own
        if k in weights and own[k].shape != weights[k].shape
    ]
    parts = [
        f"{what} {', '.join(keys[:4])}" + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("reshaped", other))
        if keys
    ]
    if parts:
        raise CheckpointError(
            f"The weights in {path} do not fit {name}: {'; '.join(parts)}; name another "
            "architecture with --arch."
        )
    model.load_state_dict(weights, strict=False)


def _shape(value: Tensor) -> str:
    """Return a shape as text."""
    return "x".join(str(size) for size in value.shape) or "a number"
