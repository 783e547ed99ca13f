"""Load trained nets from files, and save them with what is needed to use them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_view.edits.extracted_files import Extraction
from ensemble_view.errors import CheckpointError
from ensemble_view.nets.adapters.adapted import Adapted, Input, Normalisation, make_example
from ensemble_view.nets.adapters.architectures import build_for_weights, is_factory
from ensemble_view.nets.adapters.exported import adapt_exported, is_exported, read_exported
from ensemble_view.nets.adapters.hub import load_folder
from ensemble_view.nets.adapters.scripted import is_scripted, read_scripted_weights
from ensemble_view.nets.adapters.sources import SOURCES, is_source, load_source
from ensemble_view.nets.bundled import bundled, bundled_names
from ensemble_view.nets.description import VERSION, read_description
from ensemble_view.nets.models.architecture import Architecture, ArchitectureError
from ensemble_view.nets.models.inference import infer
from ensemble_view.nets.models.untraced import Untraced
from ensemble_view.nets.weights import fill, module_in, strip, weights_in
from ensemble_view.nets.weights_file import (
    MARK,
    check_model_file,
    read_weights_file,
    write_weights_file,
)
from ensemble_view.reading.regular import exists, is_folder
from ensemble_view.shared_state import RANDOM

__all__ = ["Checkpoint", "load_checkpoint", "resolve_model", "save_checkpoint", "weights_hash"]

CHECKPOINT, LIBRARY = "checkpoint", "library's weights"


@dataclass(frozen=True)
class Checkpoint:
    """A trained net and what its file says about it.

    Args:
        model: The net, in eval mode, in single precision; quantised layers stay as they are.
        architecture: For example "cifar:resnet110", "torchvision:resnet50", "net.py:make" or
            "hf-hub:ORG/NAME"; of a pickled module the name of its class.
        normalisation: Mean and standard deviation per channel that the net expects, in units of
            pixels scaled to 0..1. Where the file says nothing it is that of the library's own
            weights for that architecture.
        normalisation_source: Which of the two says so: "checkpoint" or "library's weights".
        inferred: Where the architecture was inferred from names and shapes of the weights: what
            these do not tell of it, and what is assumed.
        data: Name of the data set it was trained on.
        class_names: One name per class.
        input_shape: Channels, height and width of an image; where the file says nothing, as the
            library's own weights for that architecture have it.
        training: The record of its training.
        path: Where it came from.
        inputs: The arguments of a net that takes anything but one image, such as tokens.
        lesion: What was done to the architecture's net to get this one, as on the command line.
        output: Which of the net's outputs studies follow, where the user says it.
    """

    model: nn.Module
    architecture: str
    normalisation: Normalisation | None
    data: str | None
    class_names: tuple[str, ...] | None
    input_shape: tuple[int, ...] | None
    training: Mapping[str, Any] | None
    path: Path | None
    inputs: tuple[Input, ...] = ()
    lesion: str | None = None
    normalisation_source: str = CHECKPOINT
    output: str | int | None = None
    inferred: tuple[Untraced, ...] | None = None

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names and values of all weights, reckoned when it is first asked for."""
        # Not on loading: of a billion weights it takes longer than reading them.
        return weights_hash(self.model)

    def example(
        self, batch: int = 2, *, seed: int = 0
    ) -> Tensor | tuple[Any, ...] | dict[str, Any]:
        """Make up arguments of the kind and size that the net takes.

        An image where nothing else is known: of `input_shape`, else of 32 by 32 pixels with as many
        channels as the first convolution has.

        Args:
            batch: How many examples.
            seed: Of the values: standard normal numbers, or tokens of the whole vocabulary.

        Returns:
            A tensor, positional arguments, or keyword arguments, on the net's device, as
            :func:`ensemble_view.unravel` takes them.

        Example:
            >>> load_checkpoint("digits-resnet110").example(4).shape
            torch.Size([4, 1, 8, 8])
        """
        return make_example(self.model, self.inputs, self.input_shape, batch, seed)

    def untrained(self, seed: int = 0) -> nn.Module | None:
        """Build the same net anew, with the random weights that its code gives it.

        Args:
            seed: Of the weights; the states of torch's generators are put back.

        Returns:
            The net in eval mode, on the same device; None where the architecture's name does not
            lead to one with the same weights.

        Example:
            >>> fresh = load_checkpoint("digits-resnet110").untrained()
            >>> fresh.training, float(fresh.bn1.running_mean.abs().max())
            (False, 0.0)
        """
        weights = self.model.state_dict()
        devices = sorted({value.device for value in weights.values() if value.is_cuda}, key=str)
        try:
            with RANDOM, torch.random.fork_rng(devices):
                torch.manual_seed(seed)
                model = build_for_weights(self.architecture, weights, infer(weights)).model
        except (ArchitectureError, CheckpointError):
            return None
        shapes = {name: value.shape for name, value in weights.items()}
        if shapes != {name: value.shape for name, value in model.state_dict().items()}:
            return None
        like = next(self.model.parameters(), torch.empty(0))
        return model.eval().to(like.device, like.dtype)


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
    if exists(path):
        return path
    names = [Path(name).stem for name in bundled_names() if name.endswith(".safetensors")]
    if str(name_or_path) in names:
        return bundled(f"{name_or_path}.safetensors")
    raise CheckpointError(
        f"There is no model file {str(name_or_path)!r}: expected a path, {SOURCES}, or one of the "
        f"nets that travel with ensemble_view: {', '.join(names)}."
    )


def load_checkpoint(
    path: str | Path,
    *,
    architecture: str | None = None,
    trust_pickle: bool = False,
    device: str | torch.device = "cpu",
) -> Checkpoint:
    """Load a trained net.

    A file is one of this package, a bare state_dict, or a dict that holds one as state_dict,
    model_state_dict, model or net; the prefixes "module." and "_orig_mod." are taken off. The
    architecture is what the argument says, else what the file says, else inferred from names and
    shapes of the weights. A folder is one that ``save_pretrained`` wrote. Of a TorchScript archive
    only the weights are used, for the architecture that the argument names; its program is not run.
    A program of ``torch.export`` (``.pt2``) unpickles inside, and so has to be trusted. Nothing in
    a file is executed unless it is trusted.

    Weights of any floating-point type are brought to single precision. Quantised layers of a
    pickled module stay as they are; models of the hub with quantised weights are refused.

    Args:
        path: A `.pt`, `.pth`, `.th`, `.safetensors` or `.pt2` file, a folder, the name of a bundled
            net, or "torchvision:NAME", "timm:NAME" or "hf-hub:ORG/NAME" with the weights that the
            library or the hub keeps for it.
        architecture: For a file of weights: "cifar:resnet56", "torchvision:resnet50",
            "timm:resnet50", or "path/to/file.py:factory", a function without arguments that returns
            the net; that Python file is executed.
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
    name, source = str(path), None
    described: dict[str, Any] = {}
    try:
        if is_source(name) and not exists(name):
            _check_unnamed(architecture, name)
            found = load_source(name, trust_pickle=trust_pickle)
        else:
            source = resolve_model(path)
            found, described = _load_path(source, architecture, trust_pickle)
    except ArchitectureError as error:
        raise CheckpointError(str(error)) from error
    try:
        model = found.model if getattr(found.model, "is_quantized", False) else found.model.float()
        model = model.eval().to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"The device {str(device)!r} cannot be used ({reason}): choose cpu, or another."
        ) from error
    names = described.get("class_names") or found.class_names
    shape = described.get("input_shape")
    stated = _normalisation(described)
    # A folder, and a net that is named with its weights, come with the library's own description.
    borrowed = stated is None and source is not None and source.is_file()
    return Checkpoint(
        model=model,
        architecture=found.architecture,
        normalisation=stated or found.normalisation,
        data=described.get("data"),
        class_names=None if names is None else tuple(names),
        input_shape=found.input_shape if shape is None else tuple(shape),
        training=described.get("training"),
        path=source,
        inputs=found.inputs,
        lesion=described.get("lesion"),
        normalisation_source=_normalisation_source(described, LIBRARY if borrowed else CHECKPOINT),
        inferred=found.inferred,
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
    extraction: Extraction | None = None,
    weights: Mapping[str, Tensor] | None = None,
    normalisation_source: str = CHECKPOINT,
    inferred: bool = False,
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
        extraction: Where the net is what is left of the architecture's: how it came about.
        weights: What the file is to hold; by default the net's own.
        normalisation_source: Who said what the normalisation is, as of a :class:`Checkpoint`.
        inferred: Whether the architecture was inferred, so that it is no more certain for being
            stated here.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from ensemble_view.nets.models.building import build
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder) / "net.safetensors"
        ...     save_checkpoint(file, build("resnet20"), architecture="cifar:resnet20")
        ...     load_checkpoint(file).architecture
        'cifar:resnet20'
    """
    if isinstance(architecture, str) and not is_factory(architecture):
        architecture = Architecture.parse(architecture)
    stored = architecture if isinstance(architecture, str) else architecture.to_json()
    weights = strip(dict(model.state_dict() if weights is None else weights))
    if half:
        weights = {name: _halved(value) for name, value in weights.items()}
    description = {
        "version": VERSION,
        "architecture": stored,
        "normalisation": normalisation
        and {
            "mean": normalisation[0],
            "std": normalisation[1],
            **({} if normalisation_source == CHECKPOINT else {"from": normalisation_source}),
        },
        "data": data,
        "class_names": None if class_names is None else list(class_names),
        "input_shape": None if input_shape is None else list(input_shape),
        "training": None if training is None else dict(training),
    }
    if inferred:
        description["inferred"] = True
    if extraction is not None:
        description["extraction"] = extraction.to_json()
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
    for name, value in sorted(strip(dict(model.state_dict())).items()):
        array = value.detach().cpu().contiguous()
        digest.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        digest.update(array.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _load_path(
    path: Path, architecture: str | None, trust_pickle: bool
) -> tuple[Adapted, dict[str, Any]]:
    """Return the net of a file or folder, and what the file says beside the weights."""
    if is_folder(path):
        _check_unnamed(architecture, str(path))
        return load_folder(path, trust_pickle=trust_pickle), {}
    check_model_file(path)
    if is_exported(path):
        program = read_exported(path, trust_pickle=trust_pickle)
        if architecture is None:
            return adapt_exported(program, path), {}
        return _build(strip(dict(program.state_dict)), architecture, {}, path), {}
    if is_scripted(path):
        weights = strip(read_scripted_weights(path))
        if architecture is None:
            raise CheckpointError(_unnamed_script(path, weights))
        return _build(weights, architecture, {}, path), {}
    content = read_weights_file(path, trust_pickle=trust_pickle)
    described = _description(content, path)
    module = module_in(content, path)
    if module is not None:
        kind = type(module)
        return Adapted(module, f"{kind.__module__}.{kind.__qualname__}"), described
    weights = weights_in(content, path)
    if described.get("extraction") is None:
        return _build(strip(weights), architecture, described, path), described
    extraction = Extraction.from_json(described["extraction"])
    found = _build(strip(extraction.whole(weights)), architecture, described, path)
    if extraction.length is not None:
        texts = [
            replace(i, shape=(extraction.length,)) if i.vocabulary else i for i in found.inputs
        ]
        found = replace(found, inputs=tuple(texts))
    whole = found.model.float().eval()
    example = make_example(whole, found.inputs, described.get("input_shape") or found.input_shape)
    made = extraction.extract(whole, example, weights)
    name = f"{found.architecture} after {extraction.do}"
    return replace(found, model=made, architecture=name), described | {"lesion": extraction.do}


def _check_unnamed(architecture: str | None, name: str) -> None:
    """Refuse to name the architecture of what says it itself."""
    if architecture is not None:
        raise CheckpointError(
            f"{name} says its architecture itself: leave out --arch {architecture}, which is for "
            "files of weights."
        )


def _unnamed_script(path: Path, weights: Mapping[str, Tensor]) -> str:
    inferred = infer(weights)
    like = "torchvision:resnet50 or net.py:factory"
    if inferred is not None:
        like = f"{inferred.architecture}, which its weights look like"
    return (
        f"{path} is a TorchScript archive, whose program is not run: to use its weights, name the "
        f"architecture with --arch, for example {like}."
    )


def _halved(value: Tensor) -> Tensor:
    """Return a weight in half precision, unless it is one-dimensional or does not fit."""
    if value.ndim < 2 or not value.is_floating_point():
        return value
    half = value.half()
    return half if bool(torch.isfinite(half).all()) else value


def _description(content: Any, path: Path) -> dict[str, Any]:
    """Return what a file of this package says beside the weights; of others, nothing."""
    described = content.get(MARK) if isinstance(content, Mapping) else None
    return {} if described is None else read_description(described, path)


def _normalisation(described: Mapping[str, Any]) -> Normalisation | None:
    """Return the normalisation that a file states."""
    stored = described.get("normalisation")
    if stored is None:
        return None
    mean, std = (tuple(float(value) for value in stored[key]) for key in ("mean", "std"))
    return mean, std


def _normalisation_source(described: Mapping[str, Any], otherwise: str) -> str:
    """Return who said what the normalisation is."""
    stored = described.get("normalisation") or {}
    return LIBRARY if stored.get("from") == LIBRARY else otherwise


def _build(
    weights: dict[str, Tensor], asked: str | None, described: Mapping[str, Any], path: Path
) -> Adapted:
    """Return the net with these weights in it."""
    inferred = infer(weights)
    try:
        architecture = asked or _stored_architecture(described.get("architecture"), path)
        guessed = asked is None and (architecture is None or described.get("inferred") is True)
        if architecture is None and inferred is not None:
            architecture = inferred.assumed
        if architecture is None:
            some = ", ".join(list(weights)[:4])
            raise CheckpointError(
                f"The architecture of {path} cannot be told from its {len(weights)} weights "
                f"({some}, ...): name it with --arch, for example torchvision:resnet50, "
                "cifar:resnet56 or path/to/file.py:factory."
            )
        found = build_for_weights(architecture, weights, inferred)
    except ArchitectureError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if inferred is not None:
        own = found.model.state_dict().keys()
        # Other names for the same layers, where the net knows these.
        both = (weights, inferred.renamed(weights))
        weights = max(both, key=lambda weights: len(own & weights.keys()))
        if guessed:
            found = replace(found, inferred=inferred.untraced)
    fill(found.model, weights, found.architecture, path)
    return found


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
