"""Models of transformers, from a folder or the hub, by the class that their configuration names."""

from __future__ import annotations

import inspect
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import nn

from ensemble_view.errors import CheckpointError
from ensemble_view.nets.adapters.adapted import Adapted, Input, Normalisation
from ensemble_view.nets.adapters.configurations import check_configuration
from ensemble_view.nets.adapters.libraries import imported, loading, nearest
from ensemble_view.nets.models.architecture import Architecture, ArchitectureError
from ensemble_view.reading.regular import one_line

__all__ = ["build_transformers", "load_transformers", "with_configuration"]

_TOKENS = 32
_SAMPLES = 16_000
# Numbers of one example: an image of 9,000 by 9,000 pixels.
_LARGEST_INPUT = 2**28


def load_transformers(
    place: str,
    config: Mapping[str, Any],
    read: Callable[[str], dict[str, Any] | None],
    source: str,
    *,
    revision: str | None = None,
    trust_pickle: bool = False,
) -> Adapted:
    """Load a model by the class of transformers that its configuration names.

    Only code of the package transformers is run, never code from the hub or the folder, and only
    ``.safetensors`` files are read unless pickles are trusted.

    Args:
        place: A folder, or "ORG/NAME" on the hub.
        config: What its config.json holds.
        read: Reads another JSON file beside it.
        source: What the user asked for.
        revision: On the hub.
        trust_pickle: Whether pickled weights may be read.

    Returns:
        The model, with an example of what it takes where that is known.

    Raises:
        CheckpointError: If transformers is not installed, does not know the class, or cannot load
            the weights.
    """
    transformers = imported("transformers", source, extra="transformers")
    kind = _class_of(transformers, config, source)
    quantised = config.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
    if method is not None:
        raise CheckpointError(
            f"{source} holds quantised weights ({method}), which are not loaded by name: load it "
            "with transformers and hand the module to unravel or lesion in Python, or choose the "
            "weights that it was made from."
        )
    check_configuration(config, source)
    if read("adapter_config.json") is not None:
        # Its model would be another one, named there, whose configuration nobody has looked at.
        raise CheckpointError(
            f"{source} holds an adapter for another model (adapter_config.json), which is not "
            "loaded by name: merge it with peft and save the model, or hand the module to unravel "
            "or lesion in Python."
        )
    with loading(source, trust_pickle=trust_pickle), _bars_on_a_terminal_only(transformers):
        model, report = kind.from_pretrained(
            place,
            revision=revision or "main",
            use_safetensors=None if trust_pickle else True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:4])
        raise CheckpointError(
            f"The weights of {source} leave {len(report['missing_keys'])} of {kind.__name__} unset "
            f"({some}), which would be random: name a model that was saved whole."
        )
    try:
        found = _adapted(model, _image_processor(read))
        _check_sizes(found)
        return found
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise CheckpointError(
            f"What {source} says of its inputs cannot be ({one_line(error)}): expected "
            "config.json and preprocessor_config.json as save_pretrained writes them; fetch them "
            "again."
        ) from error


def _check_sizes(found: Adapted) -> None:
    """Refuse inputs of which not even one fits in memory, or that there are none of.

    Raises:
        ValueError: If there is one.
    """
    for each in found.inputs or (Input(found.input_shape or ()),):
        if min(each.shape, default=1) < 1 or math.prod(each.shape) > _LARGEST_INPUT:
            raise ValueError(f"one input of shape {each.shape}")


def _adapted(model: Any, processor: Mapping[str, Any]) -> Adapted:
    inputs = _inputs(model, processor)
    image = len(inputs) == 1 and len(inputs[0].shape) == 3 and _takes_first(model, inputs[0])
    return Adapted(
        model,
        f"transformers:{type(model).__name__}",
        normalisation=_normalisation(processor),
        input_shape=inputs[0].shape if image else None,
        inputs=() if image else inputs,
    )


def with_configuration(architecture: Architecture, model: nn.Module) -> Architecture:
    """Give an architecture of transformers what is needed to build it without its folder.

    Args:
        architecture: Of the family transformers.
        model: A net of it.

    Returns:
        The architecture with the model's configuration as an option.
    """
    config: Any = getattr(model, "config", None)
    if config is None:
        return architecture
    return replace(architecture, options={"config": config.to_json_string()})


def build_transformers(architecture: Architecture) -> Adapted:
    """Build a model of transformers from its configuration, without fetching anything.

    Args:
        architecture: Of the family transformers, as :func:`with_configuration` gives it.

    Returns:
        The model with random weights.

    Raises:
        ArchitectureError: If the configuration is missing, or the model cannot be built by it.
        CheckpointError: If transformers is not installed, or does not know the class.
    """
    source = f"{architecture.family}:{architecture.name}"
    transformers = imported("transformers", source, extra="transformers")
    kind = _class_of(transformers, {"architectures": [architecture.name]}, source)
    try:
        config = json.loads(str(architecture.options["config"]))
        check_configuration(config, source)
        model = kind(kind.config_class.from_dict(config))
    except CheckpointError:
        raise
    except Exception as error:
        raise ArchitectureError(
            f"transformers cannot build {source} ({type(error).__name__}: {error}): name a folder "
            "that save_pretrained wrote."
        ) from error
    return _adapted(model, {})


@contextmanager
def _bars_on_a_terminal_only(transformers: Any) -> Iterator[None]:
    bars = transformers.utils.logging
    hidden = bars.is_progress_bar_enabled() and not sys.stderr.isatty()
    if hidden:
        bars.disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            bars.enable_progress_bar()


def _class_of(transformers: Any, config: Mapping[str, Any], source: str) -> Any:
    """Return the class that a configuration names, from the package transformers only."""
    names = config.get("architectures") or []
    if not isinstance(names, list):
        raise CheckpointError(
            f"The config.json of {source} has a {type(names).__name__} as its architectures: "
            "expected a list of names, as transformers writes it; fetch it again."
        )
    if not names:
        if "model_type" not in config:
            raise CheckpointError(
                f"The config.json of {source} names neither architectures nor a model_type, as "
                "transformers writes them: fetch its weights and name the architecture with --arch."
            )
        return transformers.AutoModel
    name = str(names[0])
    kind = getattr(transformers, name, None)
    if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
        return kind
    if "auto_map" in config:
        raise CheckpointError(
            f"{source} needs code of its own ({name}), which is never run: load it yourself and "
            "hand the module to unravel or lesion in Python."
        )
    known = [known for known in dir(transformers) if known[:1].isupper()]
    raise CheckpointError(
        f"transformers {transformers.__version__} has no model {name}, which {source} asks for: "
        f"install a newer version{nearest(name, known)}"
    )


def _image_processor(read: Callable[[str], dict[str, Any] | None]) -> Mapping[str, Any]:
    """Return the settings of the image processor that was saved with a model, if one was."""
    own = read("preprocessor_config.json")
    if own is None:
        own = (read("processor_config.json") or {}).get("image_processor")
    return own or {}


def _normalisation(processor: Mapping[str, Any]) -> Normalisation | None:
    mean, std = processor.get("image_mean"), processor.get("image_std")
    if not processor.get("do_normalize", True) or not mean or not std:
        return None
    if abs(processor.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        # Pixels are not scaled to 0..1 first, so that these numbers mean something else.
        return None
    return tuple(map(float, mean)), tuple(map(float, std))


def _inputs(model: Any, processor: Mapping[str, Any]) -> tuple[Input, ...]:
    """Return what a model takes, by the name of its main input; nothing where that is not known."""
    name, config = str(model.main_input_name), model.config
    tokens = _tokens(config)
    if name == "input_ids":
        main = Input(tokens.shape, name, tokens.vocabulary)
    elif name == "pixel_values":
        sides = _sides(getattr(config, "image_size", None), processor)
        main = Input((getattr(config, "num_channels", 3), *sides), name)
    elif name == "input_features" and hasattr(config, "max_source_positions"):
        # Two frames of the spectrogram make one position.
        main = Input((config.num_mel_bins, 2 * config.max_source_positions), name)
    elif name == "input_values" and hasattr(config, "num_mel_bins"):
        main = Input((config.max_length, config.num_mel_bins), name)
    elif name == "input_values":
        main = Input((_SAMPLES,), name)
    else:
        return ()
    if config.is_encoder_decoder:
        return main, Input(tokens.shape, "decoder_input_ids", tokens.vocabulary)
    return (main,)


def _tokens(config: Any) -> Input:
    """Return a text of a stated length, shorter only where the model cannot take so many tokens."""
    text = config.get_text_config()
    longest = getattr(text, "max_position_embeddings", None) or _TOKENS
    return Input((min(_TOKENS, longest),), vocabulary=getattr(text, "vocab_size", None) or 1)


def _sides(stated: Any, processor: Mapping[str, Any]) -> tuple[int, int]:
    """Return height and width as the configuration states them, else the image processor."""
    sizes = (stated, processor.get("crop_size"), processor.get("size"))
    for size in sizes:
        if isinstance(size, int):
            return size, size
        if isinstance(size, list | tuple) and len(size) == 2:
            return int(size[0]), int(size[1])
        if isinstance(size, Mapping):
            edge = size.get("shortest_edge")
            height, width = size.get("height", edge), size.get("width", edge)
            if height and width:
                return int(height), int(width)
    return 224, 224


def _takes_first(model: nn.Module, argument: Input) -> bool:
    return next(iter(inspect.signature(model.forward).parameters)) == argument.name
