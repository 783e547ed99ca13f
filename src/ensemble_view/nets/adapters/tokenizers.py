"""Tokenizers of the Hugging Face library transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ensemble_view.errors import DataError
from ensemble_view.reading.regular import check_folder, is_folder, one_line

__all__ = ["pretrained_tokenizer"]


def pretrained_tokenizer(name: str) -> Any:
    """Load a tokenizer by a class of transformers, never by code that comes with it.

    Args:
        name: Of a model on the hub, or a local folder.

    Returns:
        A callable from text to tokens.

    Raises:
        DataError: If transformers is not installed, or the tokenizer cannot be loaded.

    Example:
        >>> pretrained_tokenizer("/nowhere")
        Traceback (most recent call last):
        ...
        ensemble_view.errors.DataError: The tokenizer '/nowhere' ...
    """
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError(
            f"The tokenizer {name!r} needs transformers: pip install 'ensemble-view[transformers]'."
        ) from error
    own = DataError(
        f"The tokenizer {name!r} needs code of its own, which is never run: load it yourself and "
        "give it as tokenizer= in Python, or name another."
    )
    try:
        if is_folder(name):
            check_folder(name)
        if _names_code(Path(name)):
            raise own
        # Said outright: left open, it asks on the standard input whether to run code.
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except Exception as error:
        if error is own:
            raise
        if "trust_remote_code" in str(error):
            raise own from error
        # Whatever a damaged file makes of the library's own code.
        reason = one_line(error)
        raise DataError(
            f"The tokenizer {name!r} cannot be loaded ({reason}): give the folder of its files, or "
            "a name that transformers can fetch."
        ) from error


def _names_code(folder: Path) -> bool:
    """Whether a folder's tokenizer is a class beside it, for which another would be taken."""
    for file in ("tokenizer_config.json", "config.json"):
        try:
            content = json.loads((folder / file).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        kinds = content.get("auto_map") if isinstance(content, dict) else None
        if isinstance(kinds, list) or (isinstance(kinds, dict) and "AutoTokenizer" in kinds):
            return True
    return False
