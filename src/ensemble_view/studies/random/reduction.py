"""Predict what sets of deletions do from single ones: the law of decay of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble_view.measures.classification import Classification
from ensemble_view.measures.logits import ClassificationWithLogits
from ensemble_view.measures.measure import Measure

__all__ = ["AdditiveReduction", "reason_for_no_law"]

# Predicted logits that exist at a time: small enough for a processor's cache.
_MOST_NUMBERS = 2**20


@dataclass(frozen=True, eq=False)
class AdditiveReduction:
    """Keeps of a batch, in place of the logits, the class that the additive law predicts.

    An ensemble that sums what its members say loses with each member what that member said: the
    logits without the members of D are ``f - sum over i in D of (f - f_-i)``, where ``f_-i`` are
    the logits without member i alone. The predicted class is the largest of these.

    Called with outcomes of which the first plan is the full net, then come the sets, and at last
    the single deletions, it gives the outcomes without logits, and ``additive``: the predicted
    class of each set and example.

    Args:
        logits: Names of the outcomes that hold the logits, in the order of the classes.
        sets: The blocks that each set deletes.
        singles: The block that each single deletion deletes.

    Example:
        >>> reduction = AdditiveReduction(("a", "b"), ((0, 1),), (0, 1))
        >>> plans = {"a": np.array([[4.0], [0.0], [3.0], [2.0]]), "b": np.full((4, 1), 2.5)}
        >>> reduction(plans)["additive"]
        array([[1]], dtype=int32)
    """

    logits: Sequence[str]
    sets: Sequence[Sequence[int]]
    singles: Sequence[int]

    def __call__(self, outcomes: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Reduce one batch.

        Args:
            outcomes: Arrays (1 + sets + singles, examples).

        Returns:
            Those that are not logits, and ``additive``, (sets, examples).
        """
        kept = {name: array for name, array in outcomes.items() if name not in set(self.logits)}
        first = 1 + len(self.sets)
        full = np.stack([outcomes[name][0] for name in self.logits], dtype=np.float64)
        alone = np.stack([outcomes[name][first:] for name in self.logits], 1, dtype=np.float64)
        # (singles, classes * examples): what each deletion alone adds to the logits.
        effects = (alone - full).reshape(len(self.singles), -1)
        places = {block: place for place, block in enumerate(self.singles)}
        members = np.zeros((len(self.sets), len(self.singles)))
        for row, blocks in enumerate(self.sets):
            members[row, [places[block] for block in blocks]] = 1
        classes, examples = full.shape
        step = max(1, _MOST_NUMBERS // full.size)
        predicted = np.empty((len(self.sets), examples), dtype=np.int32)
        for start in range(0, len(self.sets), step):
            some = slice(start, start + step)
            sums = (members[some] @ effects).reshape(-1, classes, examples)
            predicted[some] = (full + sums).argmax(1)
        return kept | {"additive": predicted}


def reason_for_no_law(measure: Measure) -> str | None:
    """Say why the additive law predicts nothing of what is measured.

    Args:
        measure: Of a study.

    Returns:
        The reason; None where it predicts.

    Example:
        >>> reason_for_no_law(ClassificationWithLogits(10)) is None
        True
    """
    if isinstance(measure, ClassificationWithLogits):
        return None
    if isinstance(measure, Classification):
        return "the net's output is no table of one logit per class and example"
    return (
        "it predicts the class of an example from logits, and what was measured is not the "
        "accuracy of a classifier"
    )
