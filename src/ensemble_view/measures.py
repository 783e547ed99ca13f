"""What is measured of each example: correct, loss, agreement with the full net, KL to the full net.

Imports nothing of ours but errors; knows neither chains nor plans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from ensemble_view.errors import MeasurementError

__all__ = ["MEASURES", "Reference", "gather", "measure"]

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


def gather(
    measured: Tensor, plans: Sequence[object]
) -> dict[str, npt.NDArray[np.bool_] | npt.NDArray[np.float32]]:
    """Bring the measurements of all plans on one batch to the host.

    Args:
        measured: (plans, 5, examples), as :func:`measure` gives them.
        plans: Named in the error.

    Returns:
        For each measure an array (plans, examples).

    Raises:
        MeasurementError: If a lesioned net's logits are not finite.
    """
    rows = measured.cpu().numpy()
    broken = np.flatnonzero(~rows[:, 4].astype(bool).all(axis=1))
    if broken.size:
        raise MeasurementError(
            f"The logits are not finite after the plan {plans[int(broken[0])]!s}, though the full "
            "net's are; use float32 or float64 instead of a half-precision format."
        )
    return {
        name: rows[:, row].astype(bool if name in ("correct", "agreement") else np.float32)
        for row, name in enumerate(MEASURES)
    }
