"""Find the weights in what a file holds, and put them into a net or say which do not fit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_view.errors import CheckpointError

__all__ = ["NESTED", "fill", "module_in", "strip", "weights_in"]

NESTED = ("state_dict", "model_state_dict", "model", "net")
"""The keys under which training scripts keep a net or its weights."""

_DEEPEST = 8
_TYPES = frozenset(
    getattr(torch, name)
    for name in (
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
        "int64", "int32", "int16", "int8", "uint8", "bool",
    )
)  # fmt: skip
# A short row that is there for every position, say.
_REPEATED = 2**24
_PREFIXES = ("module.", "_orig_mod.")


def module_in(content: Any, path: Path) -> nn.Module | None:
    """Return the pickled module, if a file holds one.

    Args:
        content: What the file holds.
        path: The file.

    Returns:
        The module; None where there is none.

    Raises:
        CheckpointError: If it was unpickled without some of what every module has.

    Example:
        >>> module_in({"model": nn.Linear(2, 3)}, Path("net.pt"))
        Linear(in_features=2, out_features=3, bias=True)
    """
    nested = [content.get(key) for key in NESTED] if isinstance(content, Mapping) else []
    module = next((each for each in (content, *nested) if isinstance(each, nn.Module)), None)
    if module is None:
        return None
    try:
        for each in module.modules():
            repr(each)
            list(each.state_dict())
            list(each.buffers())
    except Exception as error:
        raise CheckpointError(
            f"{path} holds no whole module ({type(error).__name__}): fetch or save it again."
        ) from error
    return module


def weights_in(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state_dict wherever a file keeps it.

    Args:
        content: What the file holds.
        path: The file.

    Returns:
        Names and tensors.

    Raises:
        CheckpointError: If there is none, or a weight is not stored as dense values: sparse,
            quantised, complex, of another device, or of more values than the file holds.
    """
    # As deep as scripts nest them; what holds itself would be gone through for ever.
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            break
        inner = next((key for key in NESTED if isinstance(content.get(key), Mapping)), None)
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
            f"or under one of {', '.join(NESTED)}."
        )
    for name, value in content.items():
        reason = _unusable(value)
        if reason is not None:
            raise CheckpointError(
                f"The weight {name} in {path} {reason}: expected dense tensors with their values; "
                "save the state_dict of a net in floating point on the CPU."
            )
    return _with_versions(dict(content), content)


def _with_versions(weights: dict[str, Tensor], source: Any, prefix: str = "") -> dict[str, Tensor]:
    """Keep what a state_dict says of its modules' versions, which some look at as they load it."""
    versions = getattr(source, "_metadata", None)
    if not isinstance(versions, Mapping):
        return weights
    kept: OrderedDict[str, Tensor] = OrderedDict(weights)
    kept._metadata = {  # type: ignore[attr-defined]
        f"{module}.".removeprefix(prefix).removesuffix("."): dict(said)
        for module, said in versions.items()
        if isinstance(module, str) and isinstance(said, Mapping)
    }
    return kept


def _unusable(value: Tensor) -> str | None:
    """Say why a tensor cannot be a weight, if it cannot."""
    if value.is_quantized:
        return "is quantised"
    if value.layout != torch.strided or value.is_nested:
        return "is sparse"
    if value.is_meta or value.device.type != "cpu":
        return f"has no values here (it is of the device {value.device})"
    if value.dtype not in _TYPES:
        return f"has the type {str(value.dtype).removeprefix('torch.')}"
    taken, stored = value.numel() * value.element_size(), value.untyped_storage().nbytes()
    if taken > max(stored, _REPEATED):
        return f"says that it has shape {_shape(value)}, but {stored:,} bytes are stored for it"
    return None


def strip(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Take off the prefixes that parallel or compiled nets put before names.

    Args:
        weights: Names and tensors.

    Returns:
        The same tensors.

    Example:
        >>> list(strip({"module._orig_mod.fc.weight": 1}))
        ['fc.weight']
    """
    while weights:
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in weights)), None)
        if prefix is None:
            break
        weights = _with_versions(
            {name.removeprefix(prefix): value for name, value in weights.items()}, weights, prefix
        )
    return weights


def fill(model: nn.Module, weights: dict[str, Tensor], name: str, path: Path) -> None:
    """Put weights into a net, or say which do not fit.

    Args:
        model: The net; afterwards it has the weights.
        weights: Names and tensors.
        name: Of its architecture.
        path: Where the weights come from.

    Raises:
        CheckpointError: If names or shapes differ.
    """
    own = model.state_dict()
    turned = [k for k in own if k in weights and weights[k].is_complex() > own[k].is_complex()]
    if turned:
        raise CheckpointError(
            f"The weights in {path} are complex ({', '.join(turned[:4])}) where {name} has real "
            "ones, so that their imaginary part would be lost: name another architecture with "
            "--arch."
        )
    # Counters of BatchNorm are missing from early files and change nothing in eval mode.
    missing = [k for k in own if k not in weights and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in weights if k not in own and not _is_fixed(model, k)]
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
    if getattr(weights, "_metadata", None) is None:
        # A file that keeps no versions, such as a .safetensors, is taken to be of today's.
        weights = _with_versions(dict(weights), model.state_dict())
    try:
        model.load_state_dict(weights, strict=False)
    except (ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{name} does not take the weights in {path} ({error}): save them again with the "
            "release of its library that is installed here."
        ) from error


def _is_fixed(model: nn.Module, name: str) -> bool:
    """Say whether the net makes this tensor itself and keeps it out of its state_dict."""
    owner, _, attribute = name.rpartition(".")
    try:
        return isinstance(getattr(model.get_submodule(owner), attribute, None), Tensor)
    except AttributeError:
        return False


def _shape(value: Tensor) -> str:
    """Return a shape as text."""
    return "x".join(str(size) for size in value.shape) or "a number"
