"""What is measured of each example, and how: the engine is given a measure and knows none.

``classification``: one label per example; ``logits`` keeps those beside it. ``language``: the next
token, summed per sequence. ``own``: what a user's own function says; ``change``: how far outputs
are from the full net's. Imports nothing of ours but
errors; knows neither chains nor plans.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy.typing as npt
from torch import Tensor

from ensemble_view.measures.change import RelativeChange
from ensemble_view.measures.classification import Classification
from ensemble_view.measures.language import IGNORED, Language
from ensemble_view.measures.logits import ClassificationWithLogits
from ensemble_view.measures.own import OwnMeasure

__all__ = [
    "IGNORED",
    "Classification",
    "ClassificationWithLogits",
    "Language",
    "Measure",
    "OwnMeasure",
    "RelativeChange",
]


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
