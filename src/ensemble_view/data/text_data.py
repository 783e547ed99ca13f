"""Text as sequences of tokens, grouped by padded length, for nets that predict the next token."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ensemble_view.data.data import Data, Portion, chosen
from ensemble_view.errors import DataError
from ensemble_view.measures.language import IGNORED

__all__ = ["BYTES", "TextData", "Tokens"]

Tokens = npt.NDArray[np.int64]

BYTES = "bytes"
"""The name of the tokenizer that takes the bytes of a text for its tokens."""

_SHORTEST = 16


@dataclass(frozen=True, repr=False)
class TextData(Data):
    """Sequences of tokens, given out as padded batches.

    A batch is ``{"input_ids", "attention_mask"}`` and labels, all int64 (B, T): labels are the
    tokens themselves, and -100 where a token is padding or left out; nets and measures shift them
    by one. Padding is on the right, up to the next power of two (16 at least, `length` at most), so
    that few lengths occur, for each of which the model is exported anew. `open_text` makes it.

    Args:
        name: What to call the data in tables.
        sequences: The tokens of each sequence, at least two.
        labels: Of each token, itself or -100.
        length: The most tokens of a sequence.
        tokenizer: What made the tokens.
        inputs: Names under which the model takes tokens and mask; without any, the tokens are its
            only argument.

    Example:
        >>> from ensemble_view.data.text_sources import windows
        >>> data = windows("words", [np.arange(20), np.arange(5)], length=8, tokenizer="none")
        >>> data
        TextData('words', 4 examples)
        >>> inputs, labels = next(data.batches(2))
        >>> labels.shape
        torch.Size([2, 8])
    """

    name: str
    sequences: tuple[Tokens, ...]
    labels: tuple[Tokens, ...]
    length: int
    tokenizer: str
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")

    unit = "sequences"

    def __len__(self) -> int:
        return len(self.sequences)

    def check_vocabulary(self, vocabulary: int) -> None:
        """Refuse tokens that are not a model's.

        Args:
            vocabulary: How many tokens the model knows.

        Raises:
            DataError: If bytes are given to a model of anything else, or a token is too large.
        """
        if self.tokenizer == BYTES and vocabulary != 256:
            raise DataError(
                f"The model's vocabulary has {vocabulary:,} tokens, but the text comes as bytes, "
                "of which there are 256; name the model's tokenizer (--tokenizer)."
            )
        largest = max(int(tokens.max()) for tokens in self.sequences)
        if largest >= vocabulary:
            raise DataError(
                f"The text holds the token {largest:,}, but the model's vocabulary has "
                f"{vocabulary:,} tokens; check that tokenizer and model belong together."
            )

    def padded(self, count: int) -> int:
        """Return the length to which a sequence of so many tokens is padded.

        Args:
            count: Number of tokens.

        Returns:
            The next power of two, at least 16 and at most `length`.
        """
        return min(self.length, max(_SHORTEST, 1 << (count - 1).bit_length()))

    def for_model(self, model: nn.Module | None) -> TextData:
        """Return the data as a model takes them.

        Args:
            model: Its forward says whether there is a mask, and whether arguments have the names
                that Hugging Face models give them; None stands for a chain made by hand.

        Returns:
            The data. Without a mask, padding still changes nothing before it in a causal net.
        """
        known = () if model is None else inspect.signature(model.forward).parameters
        names = tuple(name for name in ("input_ids", "attention_mask") if name in known)
        return replace(self, inputs=names if "input_ids" in names else ())

    def batches(self, batch_size: int = 64) -> Iterator[tuple[Any, Tensor]]:
        """Yield the sequences in order, each batch padded as its longest sequence needs.

        Args:
            batch_size: Sequences per batch; the last one may be smaller.

        Yields:
            Inputs, by name or the tokens alone, and labels, all int64 (B, T).

        Raises:
            DataError: If the batch size is not positive.
        """
        if batch_size < 1:
            raise DataError(f"The batch size is {batch_size}: expected at least 1.")
        for start in range(0, len(self), batch_size):
            sequences = self.sequences[start : start + batch_size]
            width = max(self.padded(len(tokens)) for tokens in sequences)
            tokens = _stacked(sequences, width, 0)
            mask = _stacked([np.ones_like(row) for row in sequences], width, 0)
            named = {"input_ids": tokens, "attention_mask": mask}
            inputs = {name: named[name] for name in self.inputs} if self.inputs else tokens
            yield inputs, _stacked(self.labels[start : start + batch_size], width, IGNORED)

    def portions(self) -> Sequence[Portion]:
        """Return the sequences by padded length, that of most tokens first.

        Returns:
            One portion per length; batches of all of them hold about as many tokens.
        """
        widths = np.array([self.padded(len(tokens)) for tokens in self.sequences])
        lengths, counts = np.unique(widths, return_counts=True)
        ordered = lengths[np.argsort(-lengths * counts, kind="stable")]
        return [
            Portion(self._at(positions), positions, float(ordered[0] / width))
            for width in ordered
            for positions in [np.flatnonzero(widths == width)]
        ]

    def _at(self, positions: npt.NDArray[np.int64]) -> TextData:
        return replace(
            self,
            sequences=tuple(self.sequences[position] for position in positions),
            labels=tuple(self.labels[position] for position in positions),
        )

    def most_frequent(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Count, in each of these sequences, the token that is most frequent in all of them.

        Args:
            positions: Which sequences.

        Returns:
            How many of each sequence's predicted tokens it is, (sequences,).
        """
        targets = [self.labels[position][1:] for position in positions]
        tokens, counts = np.unique(np.concatenate(targets), return_counts=True)
        counts[tokens == IGNORED] = 0
        token = tokens[counts.argmax()]
        return np.array([np.count_nonzero(target == token) for target in targets], np.int64)

    def fingerprint(self) -> str:
        """Return a SHA-256 over tokens and labels.

        Returns:
            64 hexadecimal digits, the same however the text was stored.
        """
        digest = hashlib.sha256(str(self.length).encode())
        for values in (*self.sequences, *self.labels):
            digest.update(f"{len(values)} ".encode() + values.astype("<i8").tobytes())
        return digest.hexdigest()

    def subset(self, limit: int, seed: int = 0) -> TextData:
        """Return at most `limit` sequences, chosen at random; the order is kept.

        Args:
            limit: Number of sequences.
            seed: Seed of the choice.

        Returns:
            The chosen sequences; a smaller choice of the same seed lies within a larger one.

        Raises:
            DataError: If limit is not positive.
        """
        if limit < 1:
            raise DataError(f"The limit is {limit} sequences: expected at least 1.")
        return self if limit >= len(self) else self._at(chosen(len(self), limit, seed))

    def to_json(self) -> dict[str, Any]:
        """Return name, size, fingerprint and how the text was cut as plain values for JSON.

        Returns:
            ``n`` counts sequences, ``tokens`` all their tokens.
        """
        return {
            "name": self.name,
            "n": len(self),
            "tokens": sum(len(tokens) for tokens in self.sequences),
            "length": self.length,
            "tokenizer": self.tokenizer,
            "fingerprint": self.fingerprint(),
        }


def _stacked(rows: Sequence[Tokens], width: int, fill: int) -> Tensor:
    """Rows of different length as one tensor, filled up on the right."""
    stacked = np.full((len(rows), width), fill, np.int64)
    for place, row in zip(stacked, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(stacked)
