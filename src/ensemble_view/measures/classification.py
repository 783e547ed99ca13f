"""Classification, per example: correct, loss, agreement with the full net, KL to the full net."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ensemble_view.errors import MeasurementError

__all__ = ["MEASURES", "Classification", "Reference", "measure"]

MEASURES = ("correct", "loss", "agreement", "divergence")
"""Names of the per-example measures, in the order of :func:`measure`'s rows."""


@dataclass(frozen=True, eq=False)
class Reference:
    """The full net's answer to a batch, which lesioned nets are held against.

    Args:
        log_probabilities: (examples, classes).
        predicted: (examples,), the most probable class.
        labels: (examples,).
    """

    log_probabilities: Tensor
    predicted: Tensor
    labels: Tensor

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Reference:
        """Keep what later nets are compared with.

        Args:
            logits: The full net's, (examples, classes).
            labels: (examples,).

        Returns:
            The reference.

        Raises:
            MeasurementError: If the logits are no matrix of finite values, or a label has no class.
        """
        if logits.ndim != 2 or logits.shape[0] != labels.shape[0]:
            raise MeasurementError(
                f"The model's output has the shape {tuple(logits.shape)}; measuring accuracy needs "
                f"logits of the shape ({labels.shape[0]}, classes), one row per example."
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= logits.shape[1]:
            raise MeasurementError(
                f"The labels run from {low} to {high}, but the model has {logits.shape[1]} classes "
                f"(0 to {logits.shape[1] - 1}); check that data set and model belong together."
            )
        if not bool(logits.isfinite().all()):
            raise MeasurementError(
                "The full net's logits are not finite; check its weights, the normalisation of "
                "the input and the number format."
            )
        return cls(_log_softmax(logits), logits.argmax(1), labels)


def _log_softmax(logits: Tensor) -> Tensor:
    return F.log_softmax(logits.double() if logits.dtype == torch.float64 else logits.float(), 1)


def measure(logits: Tensor, reference: Reference) -> Tensor:
    """Measure one net on one batch, per example.

    Correct: whether the most probable class is the label. Loss: cross-entropy in nats. Agreement:
    whether the most probable class is the full net's. Divergence: KL(full net, this net) in nats.

    Args:
        logits: (examples, classes).
        reference: The full net's answer to the same batch.

    Returns:
        (5, examples): the rows of :data:`MEASURES`, then whether the logits are finite.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
        >>> measure(logits, Reference.of(logits, torch.tensor([0, 1])))[0]
        tensor([1., 0.])
    """
    log_probabilities = _log_softmax(logits)
    predicted = logits.argmax(1)
    loss = F.nll_loss(log_probabilities, reference.labels, reduction="none")
    full = reference.log_probabilities
    divergence = (full.exp() * (full - log_probabilities)).sum(1).clamp_min(0)
    return torch.stack(
        [
            (predicted == reference.labels).to(loss),
            loss,
            (predicted == reference.predicted).to(loss),
            divergence,
            logits.isfinite().all(1).to(loss),
        ]
    )


class Classification:
    """The measure of nets that answer each example with one of several classes."""

    types: Mapping[str, npt.DTypeLike] = {
        name: np.bool_ if name in ("correct", "agreement") else np.float32 for name in MEASURES
    }

    def reference(self, output: Tensor, targets: Tensor) -> Reference:
        """Keep the full net's answer.

        Args:
            output: Logits, (examples, classes).
            targets: Labels, (examples,).

        Returns:
            The reference.
        """
        return Reference.of(output, targets)

    def facts(self, reference: Reference) -> dict[str, Tensor]:
        """The labels.

        Args:
            reference: The full net's answer.

        Returns:
            ``labels``, (examples,).
        """
        return {"labels": reference.labels}

    def rows(self, output: Tensor, reference: Reference) -> Tensor:
        """Measure one net on one batch, as :func:`measure` does.

        Args:
            output: Logits, (examples, classes).
            reference: The full net's answer.

        Returns:
            (5, examples).
        """
        return measure(output, reference)

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
