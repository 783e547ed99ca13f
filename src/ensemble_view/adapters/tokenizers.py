"""Tokenizers of the Hugging Face library transformers."""

from __future__ import annotations

from typing import Any

from ensemble_view.errors import DataError
from ensemble_view.reading import check_folder, is_folder, one_line

__all__ = ["pretrained_tokenizer"]


def pretrained_tokenizer(name: str) -> Any:
    """Load a tokenizer.

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
    try:
        if is_folder(name):
            check_folder(name)
        return AutoTokenizer.from_pretrained(name)
    except Exception as error:
        # Whatever a damaged file makes of the library's own code.
        reason = one_line(error)
        raise DataError(
            f"The tokenizer {name!r} cannot be loaded ({reason}): give the folder of its files, or "
            "a name that transformers can fetch."
        ) from error
