"""Other people's libraries: imported when they are needed, kept from unpickling, errors told."""

from __future__ import annotations

import difflib
import importlib
import os
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ensemble_view.errors import CheckpointError, EnsembleViewError
from ensemble_view.shared_state import ENVIRONMENT

__all__ = ["imported", "loading", "nearest"]

# By name, since which of them can come depends on what is installed.
_UNREACHABLE = {
    "ConnectError",
    "ConnectionError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "ProxyError",
    "TimeoutError",
    "TimeoutException",
    "URLError",
}


def imported(module: str, source: str, *, extra: str) -> Any:
    """Import a library that only some sources of models need.

    Args:
        module: Its name.
        source: What the user asked for.
        extra: Of this package, which brings it.

    Returns:
        The module.

    Raises:
        CheckpointError: If it is not installed.

    Example:
        >>> imported("json", "a file", extra="none").loads("[1]")
        [1]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CheckpointError(
            f"{source} needs the library {module.partition('.')[0]}, which cannot be imported "
            f"({_first_line(error)}): pip install 'ensemble-view[{extra}]'."
        ) from error


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names are like one that is not known.

    Args:
        name: What was asked for.
        known: What there is.

    Returns:
        The end of a sentence; empty where nothing is like it.

    Example:
        >>> nearest("resnet5", ["resnet50", "vgg11"])
        '; did you mean resnet50?'
    """
    found = difflib.get_close_matches(name, list(known), n=4)
    return f"; did you mean {' or '.join(found)}?" if found else "."


@contextmanager
def loading(source: str, *, trust_pickle: bool) -> Iterator[None]:
    """Let a library fetch and load a model, without running code from its files.

    Whatever ``torch.load`` the library calls reads plain weights and nothing else, and no service
    on the hub is asked to convert pickled weights.

    Args:
        source: What the user asked for.
        trust_pickle: Whether files may run code of their own.

    Raises:
        CheckpointError: If the library fails, with the reason in one sentence.
        EnsembleViewError: As it came, if it says its sentence already.
    """
    settings: dict[str, str | None] = {
        "DISABLE_SAFETENSORS_CONVERSION": "1",
        # transformers reads this when it is first imported.
        "USE_HUB_KERNELS": "NO",
    }
    if not trust_pickle:
        settings["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
        settings["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = None
    with ENVIRONMENT:
        yield from _loading(source, settings)


def _loading(source: str, settings: dict[str, str | None]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in settings}
    try:
        _set(settings)
        yield
    except EnsembleViewError:
        raise
    except Exception as error:
        raise CheckpointError(_sentence(source, error)) from error
    finally:
        _set(before)


def _set(settings: dict[str, str | None]) -> None:
    for name, value in settings.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _sentence(source: str, error: Exception) -> str:
    """Say what went wrong, and what can be done about it."""
    kinds: set[str] = set()
    root: BaseException = error
    link: BaseException | None = error
    # What raised again from another error may be its own cause's cause.
    told: set[int] = set()
    while link is not None and id(link) not in told:
        told.add(id(link))
        kinds |= {kind.__name__ for kind in type(link).__mro__}
        root, link = link, link.__cause__ or link.__context__
    if pickle.UnpicklingError.__name__ in kinds:
        return (
            f"The weights of {source} are a pickle with more in it than weights, which was blocked "
            "because it could run any code: if you trust it, add --trust-pickle."
        )
    if isinstance(error, OSError) and "safetensors" in str(error):
        return (
            f"{source} has no .safetensors file: its weights may be pickled; if you trust them, "
            "add --trust-pickle."
        )
    if "GatedRepoError" in kinds:
        return (
            f"{source} is gated: ask for access on its page on the Hugging Face hub, then log in "
            "with hf auth login."
        )
    if "RepositoryNotFoundError" in kinds or "HFValidationError" in kinds:
        return (
            f"There is no {source} that you may see: check the name, expected hf-hub:ORG/NAME; for "
            "a private model log in with hf auth login."
        )
    if "RevisionNotFoundError" in kinds:
        return f"{source} has no such revision: check what follows the @."
    if kinds & _UNREACHABLE:
        return (
            f"{source} could not be fetched ({_first_line(root)}): it is not in the cache, and "
            "the network cannot be reached or is not allowed."
        )
    return f"{source} could not be loaded ({type(error).__name__}: {_first_line(error)})."


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:200] if lines else type(error).__name__
