"""What a model's configuration may hold: nothing that makes a library fetch or run code.

Libraries look up names in a configuration: of attention kernels on the hub, of modules beside the
weights, of other configurations. So this is a list of what may be in one, and all else is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ensemble_view.errors import CheckpointError

__all__ = ["check_configuration"]

# Never looked up: descriptions, and names of classes that the package's own classes stand for.
_NEVER_USED = frozenset({
    "_commit_hash", "_name_or_path", "_num_labels", "architectures", "auto_map", "custom_pipelines",
    "description", "finetuning_task", "id2label", "label2id", "label_descriptions", "label_names",
    "license", "license_link", "model_type", "notes", "origin_url", "paper_ids", "paper_name",
    "processor_class", "sentence_transformers", "tag", "task_specific_params", "tokenizer_class",
    "transformers.js_config", "transformers_version",
})  # fmt: skip

_ATTENTION = (None, "eager", "sdpa")
_EXPERTS = (None, "eager", "batched_mm", "grouped_mm")
# What chooses code, and the choices that are torch's or the package's own code.
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "_attn_implementation": _ATTENTION,
    "_attn_implementation_autoset": (None, True, False),
    "_attn_implementation_internal": _ATTENTION,
    "attn_implementation": _ATTENTION,
    "_experts_implementation": _EXPERTS,
    "_experts_implementation_internal": _EXPERTS,
    "experts_implementation": _EXPERTS,
    "compression_config": (None, {}),
    "configuration_files": (None, []),
    "kernel_config": (None, {}),
    "quantization_config": (None, {}),
    "trust_remote_code": (None, False),
    "use_kernels": (None, False),
    "dtype": (None, "auto", "float16", "bfloat16", "float32", "float64"),
    "torch_dtype": (
        None, "auto", "float16", "bfloat16", "float32", "float64",
        "torch.float16", "torch.bfloat16", "torch.float32", "torch.float64",
    ),
}  # fmt: skip

# No path, address, repository, revision or dotted name of a module can be written so.
_PLAIN = re.compile(r"[\w +\-<>()\[\]|,=#*]{0,200}")
# Names that are looked up in a table of timm's or within the net, where points are usual.
_DOTTED = {key: re.compile(r"[\w.]{0,200}") for key in ("backbone", "classifier", "first_conv")}


def check_configuration(config: Any, source: str) -> None:
    """Refuse a configuration that names code, or could.

    Args:
        config: JSON values, of any depth.
        source: What the user asked for.

    Raises:
        CheckpointError: If there is more in it than numbers, switches and plain words.

    Example:
        >>> check_configuration({"hidden_act": "gelu", "_attn_implementation": "sdpa"}, "a folder")
        >>> check_configuration({"text": {"_attn_implementation": "some/kernel"}}, "net/")
        Traceback (most recent call last):
        ...
        ensemble_view.errors.CheckpointError: The configuration of net/ says _attn_implementation...
    """
    for key, value in _entries(config):
        if key in _NEVER_USED:
            continue
        if key in _CHOICES:
            allowed = _CHOICES[key]
            if not any(value == each and type(value) is type(each) for each in allowed):
                raise CheckpointError(
                    f"The configuration of {source} says {key} {_shown(value)}, which can make "
                    "its library fetch and run code; expected "
                    f"{', '.join(map(repr, allowed))}; change it, or load the model yourself and "
                    "hand the module to unravel or lesion in Python."
                )
        elif key.startswith("_"):
            raise CheckpointError(
                f"The configuration of {source} says {key} {_shown(value)}, a setting within its "
                "library; expected the settings that save_pretrained writes; remove it, or load "
                "the model yourself and hand the module to unravel or lesion in Python."
            )
        elif isinstance(value, str) and not _DOTTED.get(key, _PLAIN).fullmatch(value):
            raise CheckpointError(
                f"The configuration of {source} says {key} {_shown(value)}, which could be the "
                "name of a file, a module or a repository; expected a plain word; change it, or "
                "load the model yourself and hand the module to unravel or lesion in Python."
            )


def _entries(config: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, also those within others; of a list its entries, by its key."""
    left: list[tuple[str, Any]] = [("", config)]
    while left:
        key, value = left.pop()
        if key:
            yield key, value
        if key in _NEVER_USED or key in _CHOICES:
            continue
        if isinstance(value, Mapping):
            left += [(str(name), each) for name, each in value.items()]
        elif isinstance(value, list | tuple):
            left += [(key, each) for each in value]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
