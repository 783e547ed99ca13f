"""A user's own measure: a function from outputs and targets to one number per example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ensemble_view.errors import MeasurementError

__all__ = ["OwnMeasure"]


@dataclass(frozen=True, eq=False)
class OwnMeasure:
    """A measure for any task: segmentation, regression, embeddings.

    Args:
        function: Called with a net's output and the batch's targets; returns one finite number per
            example. It gets a copy of the output, which it may write to. Of a net with several
            outputs that is the one that is followed; with ``output="all"`` of a study it is all
            that the net returns, in its own form (a tuple, a dictionary).
        name: What it measures, for tables; by default the function's name.
        all_outputs: Whether the function gets all outputs; a study with ``output="all"`` sets it.

    Example:
        >>> error = OwnMeasure(lambda outputs, targets: (outputs - targets).abs().mean(1), "error")
        >>> error.rows(torch.ones(2, 3), torch.zeros(2, 3))
        tensor([[1., 1.],
                [1., 1.]], dtype=torch.float64)
    """

    function: Callable[[Any, Any], Any]
    name: str = ""
    all_outputs: bool = False

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise MeasurementError(
                f"The measure is a {type(self.function).__name__}; expected a function of a net's "
                "outputs and the targets that returns one number per example."
            )
        if not self.name:
            object.__setattr__(self, "name", getattr(self.function, "__name__", "measure"))

    @property
    def types(self) -> Mapping[str, npt.DTypeLike]:
        """One row, ``values``."""
        return {"values": np.float64}

    def reference(self, output: Tensor, targets: Any) -> Any:
        """Check that the full net can be measured.

        Args:
            output: The full net's, batch first.
            targets: As the data give them.

        Returns:
            The targets: all that later nets are held against.

        Raises:
            MeasurementError: If the measure of the full net is not finite.
        """
        broken = (~self._values(output, targets).isfinite()).nonzero()
        if len(broken):
            raise MeasurementError(
                f"The measure {self.name} of the full net is not finite, first in example "
                f"{int(broken[0])} of a batch; return a finite number for every example."
            )
        return targets

    def facts(self, reference: Any) -> dict[str, Tensor]:
        """Nothing is known of the examples.

        Args:
            reference: The targets.

        Returns:
            An empty dictionary.
        """
        return {}

    def rows(self, output: Tensor, reference: Any) -> Tensor:
        """Measure one net on one batch.

        Args:
            output: The net's, batch first.
            reference: The targets.

        Returns:
            (2, examples), float64: the values, then whether each is finite.
        """
        values = self._values(output, reference)
        return torch.stack([values, values.isfinite().double()])

    def not_finite(self, plan: str) -> str:
        """Say what to do where the measure of a lesioned net is not finite.

        Args:
            plan: After which plan.

        Returns:
            A sentence.
        """
        return (
            f"The measure {self.name} is not finite after the plan {plan}, though it is for the "
            "full net; return a finite number for every example."
        )

    def _values(self, output: Any, targets: Any) -> Tensor:
        """One number per example, float64, finite or not."""
        leaves = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        examples = leaves[0].shape[:1]
        try:
            found = self.function(pytree.tree_map_only(Tensor, Tensor.clone, output), targets)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise MeasurementError(
                f"The measure {self.name} fails on outputs of the shape "
                f"{', '.join(str(tuple(leaf.shape)) for leaf in leaves)} "
                f"({type(error).__name__}: {reason}); it is called with a net's outputs and the "
                "targets of the same batch."
            ) from error
        shape = tuple(getattr(found, "shape", ()))
        if not isinstance(found, Tensor) or shape != examples:
            what = f"a tensor of the shape {shape}" if isinstance(found, Tensor) else repr(found)
            raise MeasurementError(
                f"The measure {self.name} returns {what[:80]} for a batch of {examples[0]} "
                f"examples; expected a tensor of the shape ({examples[0]},), one number per "
                "example."
            )
        return found.detach().to(torch.float64)
