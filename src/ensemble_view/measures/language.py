"""Language models, per sequence: sums over tokens of correct, loss, agreement and KL.

Tokens of one sequence are not independent, so that the sequence is the unit of all statistics and
its sums are all that is kept of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ensemble_view.errors import MeasurementError

__all__ = ["IGNORED", "TOTALS", "Language", "LanguageReference"]

IGNORED = -100
"""The label of a token that is not predicted: padding, and what a user leaves out."""

TOTALS = ("correct", "loss", "agreement", "divergence")
"""Names of the sums per sequence, in the order of the rows."""

_LARGEST_CHUNK = 2**24


@dataclass(frozen=True, eq=False)
class LanguageReference:
    """The full net's answer to a batch of sequences.

    Args:
        logits: (sequences, positions, vocabulary), as the model gave them.
        labels: (sequences, positions): the token at each place, :data:`IGNORED` where it is not
            predicted.
    """

    logits: Tensor
    labels: Tensor


class Language:
    """The measure of nets that predict the next token at each position.

    The logits at position t are held against the token at t + 1. Per sequence, summed over the
    tokens that count: *correct*, whether the most probable token is the next one; *loss*, its
    cross-entropy in nats; *agreement*, whether the most probable token is the full net's;
    *divergence*, KL(full net, this net) in nats. Only a few sequences' probabilities exist at any
    time.

    Example:
        >>> language = Language()
        >>> logits = torch.zeros(1, 3, 2)
        >>> reference = language.reference(logits, torch.tensor([[0, 1, IGNORED]]))
        >>> language.facts(reference)["tokens"], language.rows(logits, reference)[1]
        (tensor([1]), tensor([0.6931], dtype=torch.float64))
    """

    types: Mapping[str, npt.DTypeLike] = dict.fromkeys(TOTALS, np.float64)

    def reference(self, output: Tensor, targets: Tensor) -> LanguageReference:
        """Keep the full net's answer.

        Args:
            output: Logits, (sequences, positions, vocabulary).
            targets: (sequences, positions), :data:`IGNORED` where nothing is predicted.

        Returns:
            The reference.

        Raises:
            MeasurementError: If the shapes do not fit each other, a label is no token of the
                vocabulary, or a logit that counts is not finite.
        """
        if output.ndim != 3 or output.shape[:2] != targets.shape:
            raise MeasurementError(
                f"The model's output has the shape {tuple(output.shape)}; measuring the next token "
                f"needs logits of the shape ({', '.join(map(str, targets.shape))}, vocabulary), "
                "one row per position; give a model with a language-modelling head."
            )
        counted = targets[targets != IGNORED]
        low, high = (int(counted.min()), int(counted.max())) if counted.numel() else (0, 0)
        if low < 0 or high >= output.shape[2]:
            raise MeasurementError(
                f"The tokens run from {low} to {high}, but the model's vocabulary has "
                f"{output.shape[2]:,} tokens; check that tokenizer and model belong together."
            )
        reference = LanguageReference(output, targets)
        if not all(bool(chunk.isfinite().all()) for _, chunk, *_ in _chunks(output, reference)):
            raise MeasurementError(
                "The full net's logits are not finite; check its weights, the attention mask and "
                "the number format."
            )
        return reference

    def facts(self, reference: LanguageReference) -> dict[str, Tensor]:
        """How many tokens of each sequence are predicted.

        Args:
            reference: The full net's answer.

        Returns:
            ``tokens``, (sequences,).
        """
        return {"tokens": (reference.labels[:, 1:] != IGNORED).sum(1)}

    def rows(self, output: Tensor, reference: LanguageReference) -> Tensor:
        """Measure one net on one batch.

        Args:
            output: Logits, (sequences, positions, vocabulary).
            reference: The full net's answer to the same batch.

        Returns:
            (5, sequences), float64: the rows of :data:`TOTALS`, then whether the logits that count
            are finite.
        """
        totals = torch.zeros(5, len(output), dtype=torch.float64, device=output.device)
        totals[4] = 1
        for sequences, logits, full, labels in _chunks(output, reference):
            mine, whole = logits.log_softmax(1), full.log_softmax(1)
            predicted = logits.argmax(1)
            divergence = (whole.exp() * (whole - mine)).sum(1).clamp_min(0)
            values = torch.stack(
                [
                    (predicted == labels).double(),
                    -mine.gather(1, labels[:, None])[:, 0].double(),
                    (predicted == full.argmax(1)).double(),
                    divergence.double(),
                ]
            )
            totals[:4].index_add_(1, sequences, values)
            totals[4, sequences[~logits.isfinite().all(1)]] = 0
        return totals

    def not_finite(self, plan: str) -> str:
        """Say what to do where a lesioned net's logits overflow.

        Args:
            plan: After which plan.

        Returns:
            A sentence.
        """
        return (
            f"The logits are not finite after the plan {plan}, though the full net's are; use "
            "float32 or float64 instead of a half-precision format."
        )


def _chunks(
    output: Tensor, reference: LanguageReference
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """The predictions that count, a few sequences at a time: whose, logits, full net's, label."""
    labels = reference.labels[:, 1:]
    step = max(1, _LARGEST_CHUNK // max(1, math.prod(output.shape[1:])))
    kind = torch.float64 if output.dtype == torch.float64 else torch.float32
    for start in range(0, len(output), step):
        part = slice(start, start + step)
        counted = labels[part] != IGNORED
        yield (
            counted.nonzero()[:, 0] + start,
            output[part, :-1][counted].to(kind),
            reference.logits[part, :-1][counted].to(kind),
            labels[part][counted],
        )
