"""How far a net's output is from the full net's: what can be said of a net that knows nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ensemble_view.measures.language import IGNORED
from ensemble_view.measures.own import OwnMeasure

__all__ = ["RelativeChange"]


def _relative_change(output: Tensor, reference: tuple[Tensor, Tensor | None]) -> Tensor:
    full, counted = reference
    difference = output.double() - full
    if counted is not None:
        difference, full = difference * counted, full * counted
    found = torch.linalg.vector_norm(difference.flatten(1), dim=1)
    ratio: Tensor = found / torch.linalg.vector_norm(full.flatten(1), dim=1)
    return ratio


@dataclass(frozen=True, eq=False)
class RelativeChange(OwnMeasure):
    """``‖logits − full‖ / ‖full‖`` of each example, in double precision.

    Of text the norms are over the positions that have a next token.

    Example:
        >>> change = RelativeChange()
        >>> full = change.reference(torch.tensor([[3.0, 4.0]]), torch.tensor([0]))
        >>> change.rows(torch.tensor([[3.0, 3.0]]), full)[0]
        tensor([0.2000], dtype=torch.float64)
    """

    function: Callable[[Tensor, Any], Any] = _relative_change
    name: str = "relative change of the logits"

    def reference(self, output: Tensor, targets: Any) -> Any:
        """Keep the full net's output.

        Args:
            output: The full net's, batch first.
            targets: As the data give them; of text they say which positions count.

        Returns:
            What later outputs are compared with.

        Raises:
            MeasurementError: If the output is not finite or zero throughout.
        """
        counted = None
        if isinstance(targets, Tensor) and output.ndim == 3 and targets.shape == output.shape[:2]:
            counted = (targets != IGNORED)[..., None]
        reference = (output.double().clone(), counted)
        super().reference(output, reference)
        return reference
