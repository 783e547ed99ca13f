"""Text from files, Hugging Face data sets or tokenised batches, cut into windows of tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ensemble_view.data.text_data import BYTES, TextData, Tokens
from ensemble_view.errors import DataError, UnreadableError
from ensemble_view.measures.language import IGNORED
from ensemble_view.nets.adapters.tokenizers import pretrained_tokenizer
from ensemble_view.reading.json_text import parse_json
from ensemble_view.reading.regular import check_folder, exists, is_folder, one_line, read_text

__all__ = ["DEFAULT_LENGTH", "is_text", "open_text", "windows"]

DEFAULT_LENGTH = 512
"""The most tokens of a sequence unless the user or the model says otherwise."""

_SUFFIXES = (".txt", ".text", ".md", ".jsonl")
_SAVED = ("dataset_info.json", "dataset_dict.json")
_KEYS = ("input_ids", "attention_mask", "labels")
_FEWEST = 2
# Tokens take eight bytes each.
_MOST_BYTES = 2**30
_HALF = re.compile("[\ud800-\udfff]")

Tokenize = Callable[[str], Tokens]


def is_text(data: Any) -> bool:
    """Tell text from labelled data.

    Args:
        data: What a user gives as data.

    Returns:
        True for a ``.txt``, ``.text``, ``.md`` or ``.jsonl`` path, a folder that a Hugging Face
        data set was saved to, such a data set with a text or token column, and tokenised batches.

    Example:
        >>> is_text("corpus.txt"), is_text("digits"), is_text({"input_ids": [[1, 2]]})
        (True, False, True)
    """
    if isinstance(data, str | Path):
        path = Path(data)
        return path.suffix in _SUFFIXES or any(exists(path / name) for name in _SAVED)
    columns = getattr(data, "column_names", None)
    if isinstance(data, Mapping):
        columns = list(data)
    elif isinstance(data, list | tuple) and data and isinstance(data[0], Mapping):
        columns = list(data[0])
    return isinstance(columns, list) and ("text" in columns or "input_ids" in columns)


def open_text(
    source: Any,
    *,
    tokenizer: Any = None,
    length: int = DEFAULT_LENGTH,
    split: str = "test",
    limit: int | None = None,
    seed: int = 0,
) -> TextData:
    """Open text and cut it into sequences of tokens.

    A text file is one document, as perplexity on a corpus is usually measured; the rows of a
    ``.jsonl`` file or a Hugging Face data set are documents of their own. Each document is
    tokenised whole and cut into windows of `length` tokens that do not overlap; a rest of one
    token, from which nothing can be predicted, is dropped.

    Args:
        source: The path of a text file, of a ``.jsonl`` file with a ``text`` in each line, or of a
            folder that a Hugging Face data set was saved to; such a data set with a ``text`` or an
            ``input_ids`` column; or tokenised batches: one dictionary or several, with
            ``input_ids`` (N, T) and, if need be, ``attention_mask`` and ``labels`` (the tokens,
            and -100 where one is not to be predicted).
        tokenizer: A name or local folder for transformers' AutoTokenizer, a tokenizer, or any
            function from a string to token numbers; None takes the bytes of the text in UTF-8.
        length: The most tokens of a sequence.
        split: Which part, where a saved data set has parts.
        limit: At most so many sequences, chosen at random.
        seed: Seed of that choice.

    Returns:
        The sequences.

    Raises:
        DataError: If the text cannot be found, read or tokenised, or is too short.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "corpus.txt")
        ...     _ = file.write_text("to be or not to be")
        ...     open_text(file, length=8)
        TextData('corpus.txt', 3 examples)
    """
    if length < _FEWEST:
        raise DataError(
            f"The length is {length} tokens: expected at least {_FEWEST}, one to read and one to "
            "predict."
        )
    name = Path(source).name if isinstance(source, str | Path) else "text"
    if isinstance(source, str | Path):
        source = _read(Path(source), split)
    columns = getattr(source, "column_names", None) or []
    if "input_ids" in columns or _is_tokenised(source):
        data = _windowed(name, _tokenised(source), length, "given as tokens")
    else:
        tokenize, called = _tokenizer(tokenizer)
        documents = source["text"] if "text" in columns else source
        data = windows(name, (tokenize(text) for text in _texts(documents)), length, called)
    return data if limit is None else data.subset(limit, seed)


def windows(name: str, documents: Iterable[Tokens], length: int, tokenizer: str) -> TextData:
    """Cut documents into sequences.

    Args:
        name: What to call the data.
        documents: The tokens of each.
        length: The most tokens of a sequence.
        tokenizer: What made the tokens.

    Returns:
        The sequences.

    Example:
        >>> [len(s) for s in windows("a", [np.arange(9)], length=4, tokenizer="none").sequences]
        [4, 4]
    """
    return _windowed(name, ((tokens, tokens) for tokens in documents), length, tokenizer)


def _windowed(
    name: str, documents: Iterable[tuple[Tokens, Tokens]], length: int, tokenizer: str
) -> TextData:
    sequences: list[Tokens] = []
    labels: list[Tokens] = []
    for tokens, targets in documents:
        for start in range(0, len(tokens), length):
            part = slice(start, start + length)
            if (targets[part][1:] != IGNORED).any():
                sequences.append(tokens[part])
                labels.append(targets[part])
    if not sequences:
        raise DataError(
            f"{name} holds no two tokens in a row: there is nothing to predict. Give a longer text."
        )
    return TextData(name, tuple(sequences), tuple(labels), length, tokenizer)


def _read(path: Path, split: str) -> Any:
    """The texts of a file, or a saved data set."""
    if not exists(path):
        raise DataError(
            f"There is no text {str(path)!r}: expected a text file, a .jsonl file, or a folder "
            "that a Hugging Face data set was saved to."
        )
    if is_folder(path):
        return _saved(path, split)
    try:
        content = read_text(path, _MOST_BYTES)
    except UnreadableError as error:
        raise DataError(f"{path} is no text in UTF-8 ({error}): convert it first.") from error
    return list(_lines(path, content)) if path.suffix == ".jsonl" else [content]


def _lines(path: Path, content: str) -> Iterator[str]:
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            try:
                row = parse_json(line)
            except UnreadableError as error:
                raise DataError(
                    f"Line {number} of {path} is no object with a text ({error}): expected "
                    '{"text": "..."}.'
                ) from error
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise DataError(
                    f'Line {number} of {path} is no object with a text: expected {{"text": "..."}}.'
                )
            yield row["text"]


def _saved(path: Path, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"{path} is a folder of a Hugging Face data set, which needs the package datasets: "
            "pip install 'ensemble-view[transformers]'."
        ) from error
    try:
        check_folder(path)
        found = datasets.load_from_disk(str(path))
    except Exception as error:
        # Whatever a damaged file makes of the library's own code.
        raise DataError(
            f"{path} holds no saved data set ({one_line(error)}): give a folder that "
            "save_to_disk wrote."
        ) from error
    if not isinstance(found, Mapping):
        return found
    if split not in found:
        raise DataError(f"{path} has no split {split!r}: it has {', '.join(found)}.")
    return found[split]


def _texts(documents: Any) -> Iterator[str]:
    for text in documents:
        if not isinstance(text, str):
            raise DataError(
                f"A text is of type {type(text).__name__}: expected a file, a data set with a "
                "column of texts, or tokenised batches with input_ids."
            )
        yield text


def _is_tokenised(source: Any) -> bool:
    first = source[0] if isinstance(source, list | tuple) and source else source
    return isinstance(first, Mapping) and "input_ids" in first


def _tokenised(source: Any) -> Iterator[tuple[Tokens, Tokens]]:
    """Tokens and labels of each row, without padding."""
    if hasattr(source, "column_names"):
        source = {key: source[key] for key in _KEYS if key in source.column_names}
    for batch in [source] if isinstance(source, Mapping) else source:
        columns = {k: _rows(batch[k], f"{k} of a tokenised batch") for k in _KEYS if k in batch}
        tokens = columns["input_ids"]
        masks = columns.get("attention_mask", [np.ones_like(row) for row in tokens])
        labels = columns.get("labels", tokens)
        shapes = [[len(row) for row in rows] for rows in (tokens, masks, labels)]
        if not shapes[0] == shapes[1] == shapes[2]:
            raise DataError(
                "Tokenised batches have input_ids, attention_mask and labels of different shapes: "
                "expected one shape (N, T)."
            )
        for row, mask, targets in zip(tokens, masks, labels, strict=True):
            yield row[mask != 0], targets[mask != 0]


def _rows(values: Any, where: str) -> list[Tokens]:
    """Rows of whole numbers, which may differ in length."""
    rows = [np.asarray(row.cpu() if isinstance(row, Tensor) else row) for row in values]
    for row in rows:
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iub"):
            raise DataError(
                f"{where} has a row of type {row.dtype} and shape {row.shape}: expected whole "
                "numbers, one per token."
            )
    return [row.astype(np.int64) for row in rows]


def _tokenizer(given: Any) -> tuple[Tokenize, str]:
    """A function from text to tokens, and what to call it."""
    if given is None:
        return _bytes, BYTES
    called = getattr(given, "name_or_path", None) or getattr(
        given, "__name__", type(given).__name__
    )
    named = str(given) if isinstance(given, str | Path) else None
    if named is not None:
        called, given = Path(named).name, pretrained_tokenizer(named)
    if not callable(given):
        raise DataError(
            f"The tokenizer is a {type(given).__name__}: expected a name or folder, a tokenizer of "
            "transformers, or a function from a string to token numbers, such as its encode."
        )
    # A tokenizer of transformers warns of texts that are longer than its model's, which are cut.
    options = {"verbose": False} if hasattr(given, "model_max_length") else {}

    def tokenize(text: str) -> Tokens:
        try:
            found = given(text, **options)
        except Exception as error:
            # A function of the user's own fails as it does; damaged files fail in words.
            if named is None:
                raise
            raise DataError(
                f"The tokenizer {named!r} cannot be used ({type(error).__name__}: "
                f"{one_line(error)}): fetch or save its files again, or name another."
            ) from error
        if isinstance(found, Mapping) or hasattr(found, "input_ids"):
            found = found["input_ids"]
        return _rows([getattr(found, "ids", found)], "The tokenizer's output")[0]

    return tokenize, str(called)


def _bytes(text: str) -> Tokens:
    # Text that comes from a list may hold anything that is no text.
    if _HALF.search(text):
        raise DataError("A text holds half of a surrogate pair, which is no UTF-8: mend it first.")
    return np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.int64)
