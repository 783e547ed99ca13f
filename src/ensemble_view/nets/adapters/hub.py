"""Models that a library saved as a folder, on this machine or on the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from ensemble_view.errors import CheckpointError, UnreadableError
from ensemble_view.nets.adapters.adapted import Adapted
from ensemble_view.nets.adapters.budget import Budget
from ensemble_view.nets.adapters.libraries import imported, loading
from ensemble_view.nets.adapters.timm_models import is_timm_config, load_timm
from ensemble_view.nets.adapters.transformers_models import load_transformers
from ensemble_view.reading.json_text import read_json
from ensemble_view.reading.regular import check_folder

__all__ = ["load_folder", "pretrained_hub"]

_CONFIG = "config.json"

Read: TypeAlias = Callable[[str], dict[str, Any] | None]
"""From the name of a JSON file of a model to what it holds, or None where there is none."""


def pretrained_hub(name: str, *, trust_pickle: bool = False) -> Adapted:
    """Load a model of timm or transformers from the Hugging Face hub, or from its cache.

    Args:
        name: "ORG/NAME", or "ORG/NAME@REVISION".
        trust_pickle: Whether its files may run code of their own.

    Returns:
        The net.

    Raises:
        CheckpointError: If there is no such model, or it cannot be fetched or loaded.
    """
    source = f"hf-hub:{name}"
    hub = imported("huggingface_hub", source, extra="transformers")
    repository, _, revision = name.partition("@")
    read = partial(_read_from_hub, hub, source, repository, revision or None)
    config = read(_CONFIG)
    if config is None:
        raise CheckpointError(
            f"{source} has no {_CONFIG}, so that it is neither timm's nor transformers': fetch its "
            "weights and name the architecture with --arch."
        )
    if is_timm_config(config):
        return load_timm(source, config, source, trust_pickle=trust_pickle)
    return load_transformers(
        repository, config, read, source, revision=revision or None, trust_pickle=trust_pickle
    )


def load_folder(folder: Path, *, trust_pickle: bool = False) -> Adapted:
    """Load a model of timm or transformers from a folder, as ``save_pretrained`` writes it.

    Args:
        folder: With config.json and weights in it.
        trust_pickle: Whether its files may run code of their own.

    Returns:
        The net.

    Raises:
        CheckpointError: If the folder holds no such model.
    """
    try:
        check_folder(folder)
    except UnreadableError as error:
        raise CheckpointError(
            f"{folder} cannot be read as a model ({error}): name a folder of plain files."
        ) from error
    read = partial(_read_from_folder, folder)
    config = read(_CONFIG)
    if config is None:
        raise CheckpointError(
            f"{folder} is a folder: name a model file in it, or a folder with {_CONFIG} and "
            "model.safetensors as save_pretrained writes it."
        )
    with Budget.of_folder(folder):
        if is_timm_config(config):
            return load_timm(f"local-dir:{folder}", config, str(folder), trust_pickle=trust_pickle)
        return load_transformers(str(folder), config, read, str(folder), trust_pickle=trust_pickle)


def _read_from_hub(
    hub: Any, source: str, repository: str, revision: str | None, file: str
) -> dict[str, Any] | None:
    with loading(source, trust_pickle=False):
        try:
            path = hub.hf_hub_download(repository, file, revision=revision)
        except hub.errors.LocalEntryNotFoundError:
            # Off line: what was never fetched is unknown, but only the configuration is needed.
            if file == _CONFIG:
                raise
            return None
        except hub.errors.EntryNotFoundError:
            return None
    return _parse(Path(path))


def _read_from_folder(folder: Path, file: str) -> dict[str, Any] | None:
    path = folder / file
    return _parse(path) if path.is_file() else None


def _parse(path: Path) -> dict[str, Any]:
    try:
        content = read_json(path)
    except UnreadableError as error:
        raise CheckpointError(
            f"{path} cannot be read as JSON ({error}): fetch it again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}: expected an object.")
    return content
