"""Classification with the class-centred logits beside it: what a spectrum of subsets is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ensemble_view.measures.classification import Classification, Reference

__all__ = ["ClassificationWithLogits"]


@dataclass(frozen=True)
class ClassificationWithLogits(Classification):
    """What classification measures, and each class's logit minus the mean over the classes.

    Args:
        classes: How many the net tells apart.
        double: Whether logits are kept in double precision.

    Example:
        >>> measure = ClassificationWithLogits(2)
        >>> logits = torch.tensor([[3.0, 1.0]])
        >>> reference = measure.reference(logits, torch.tensor([0]))
        >>> measure.rows(logits, reference)[4:]
        tensor([[ 1.],
                [-1.],
                [ 1.]])
    """

    classes: int
    double: bool = False

    @property
    def logit_names(self) -> tuple[str, ...]:
        """Of the rows that hold the logits, in the order of the classes."""
        return tuple(f"logit {index}" for index in range(self.classes))

    @property
    def types(self) -> Mapping[str, npt.DTypeLike]:  # type: ignore[override]
        """Those of classification, then one row for each class."""
        kind = np.float64 if self.double else np.float32
        return {**Classification.types, **dict.fromkeys(self.logit_names, kind)}

    def rows(self, output: Tensor, reference: Reference) -> Tensor:
        """Measure one net on one batch.

        Args:
            output: Logits, (examples, classes).
            reference: The full net's answer.

        Returns:
            (5 + classes, examples): the rows of :attr:`types`, then whether the logits are finite.
        """
        rows = super().rows(output, reference)
        centred = (output - output.mean(1, keepdim=True)).T.to(rows)
        return torch.cat([rows[:-1], centred, rows[-1:]])
