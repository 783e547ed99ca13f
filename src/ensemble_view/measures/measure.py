"""What the engine is given to measure with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt
from torch import Tensor

__all__ = ["Measure"]


class Measure(Protocol):
    """Measures every plan on one batch after another, the first plan's output being the reference.

    A row holds one number per example; what is not finite after a lesion is an error.
    """

    @property
    def types(self) -> Mapping[str, npt.DTypeLike]:
        """Name of each row, in order, and the type in which it is kept."""
        ...

    def reference(self, output: Tensor, targets: Any) -> Any:
        """Keep what later nets are compared with, from the first plan's output on a batch."""
        ...

    def facts(self, reference: Any) -> Mapping[str, Tensor]:
        """Name what is known of each example without any net, such as its label: (examples,)."""
        ...

    def rows(self, output: Tensor, reference: Any) -> Tensor:
        """Measure one net: the rows of :attr:`types`, then whether all is finite."""
        ...

    def not_finite(self, plan: str) -> str:
        """Say that something is not finite after a plan, and what to do."""
        ...
