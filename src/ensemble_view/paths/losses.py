"""The losses whose gradient is taken: one number per example, so that each one's is its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ensemble_view.errors import MeasurementError

__all__ = ["Loss", "cross_entropy", "next_token"]

Loss: TypeAlias = Callable[[Any, Any, Any], Tensor]
"""From the model's output, the batch's labels and its inputs to one loss per example, (B,)."""

_IGNORED = -100


def cross_entropy(output: Tensor, labels: Tensor, inputs: Any = None) -> Tensor:
    """Compute each example's cross-entropy in nats.

    Args:
        output: Logits (B, classes).
        labels: Class indices (B,).
        inputs: Not used.

    Returns:
        Losses (B,).

    Raises:
        MeasurementError: If the output is not one row of logits per example.

    Example:
        >>> cross_entropy(torch.zeros(1, 4), torch.tensor([2])).exp()
        tensor([4.])
    """
    if not _is_logits(output, 2):
        raise MeasurementError(
            f"{_described(output)}; cross-entropy needs logits (examples, "
            "classes). Give loss=, a function of output, labels and inputs that returns one loss "
            "per example."
        )
    return F.cross_entropy(output, labels, reduction="none")


def next_token(output: Tensor, labels: Tensor, inputs: Any = None) -> Tensor:
    """Compute each sequence's mean cross-entropy of its next tokens, in nats.

    Args:
        output: Logits (B, T, vocabulary); those at position t are held against the label at t + 1.
        labels: Tokens (B, T), -100 where nothing is predicted.
        inputs: Not used.

    Returns:
        Losses (B,), means over the predicted tokens of a sequence; 0 where there is none.

    Raises:
        MeasurementError: If the output is not one row of logits per position.

    Example:
        >>> next_token(torch.zeros(1, 3, 4), torch.tensor([[0, 3, -100]])).exp()
        tensor([4.])
    """
    if not _is_logits(output, 3) or output.shape[:2] != labels.shape:
        raise MeasurementError(
            f"{_described(output)}; the loss of the next token needs logits (sequences, positions, "
            "vocabulary). Give a model with a language-modelling head, or loss=, a function of "
            "output, labels and inputs that returns one loss per sequence."
        )
    targets = labels[:, 1:]
    losses = F.cross_entropy(
        output[:, :-1].transpose(1, 2), targets, ignore_index=_IGNORED, reduction="none"
    )
    return losses.sum(1) / (targets != _IGNORED).sum(1).clamp(min=1)


def _is_logits(output: Any, dimensions: int) -> bool:
    return (
        isinstance(output, Tensor) and output.ndim == dimensions and torch.is_floating_point(output)
    )


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return f"The output has shape {tuple(output.shape)}"
    return f"The output is a {type(output).__name__}"
