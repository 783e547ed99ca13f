"""What was measured of every example, under every plan and for the full net."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from ensemble_view.errors import MeasurementError
from ensemble_view.study.scores import Scores

if TYPE_CHECKING:
    pass

__all__ = ["ExampleArrays", "LanguageOutcomes", "MeasuredOutcomes", "Outcomes"]


@dataclass(frozen=True, eq=False)
class ExampleArrays:
    """Arrays over the same examples: ``[lesions, examples]``, or ``[examples]`` of the full net.

    A subclass is a frozen dataclass of arrays and names those of the full net and the examples,
    that which counts the examples last.
    """

    of_examples: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        counted = self.of_examples[-1]
        examples = self.arrays[counted].shape
        if len(examples) != 1 or examples[0] == 0:
            raise MeasurementError(
                f"The {counted} have shape {examples}; expected one dimension with at least one "
                "example; measure at least one batch."
            )
        for name, array in self.arrays.items():
            expected = examples if name in self.of_examples else (self.lesions, *examples)
            if array.shape != expected:
                raise MeasurementError(
                    f"The outcomes' {name} has shape {array.shape}; expected {expected}; "
                    "measure every lesion on the same examples."
                )

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def weights(self) -> npt.NDArray[Any] | None:
        """How much each example counts; None: all alike."""
        return None

    def scores(self, measure: str | None, higher_is_better: bool) -> Scores:
        """Give one number per plan and example.

        Args:
            measure: What a user's own measure is called.
            higher_is_better: Of a user's own measure.

        Raises:
            MeasurementError: If these outcomes have none.
        """
        raise MeasurementError(
            f"Outcomes of the type {type(self).__name__} have no score; expected those of a "
            "classifier, of a language model, or of a measure of one's own."
        )

    @property
    def lesions(self) -> int:
        """How many rows the arrays of lesions have."""
        return next(len(a) for name, a in self.arrays.items() if name not in self.of_examples)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, type(self)):
            return NotImplemented
        return all(
            mine.dtype == theirs.dtype
            and np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
            for mine, theirs in zip(self.arrays.values(), other.arrays.values(), strict=True)
        )

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, eq=False)
class Outcomes(ExampleArrays):
    """The measurements of every example under every lesion.

    Attributes:
        correct: shape ``[lesions, examples]``, boolean: the lesioned net is right.
        loss: shape ``[lesions, examples]``, float32: cross-entropy in nats.
        agreement: shape ``[lesions, examples]``, boolean: it predicts the full net's class.
        divergence: shape ``[lesions, examples]``, float32: KL divergence from the full net's
            prediction to the lesioned net's, in nats.
        baseline_correct: shape ``[examples]``, boolean: the full net is right.
        baseline_loss: shape ``[examples]``, float32: cross-entropy in nats.
        labels: shape ``[examples]``, int64: the true classes.
    """

    of_examples = ("baseline_correct", "baseline_loss", "labels")

    correct: npt.NDArray[np.bool_]
    loss: npt.NDArray[np.float32]
    agreement: npt.NDArray[np.bool_]
    divergence: npt.NDArray[np.float32]
    baseline_correct: npt.NDArray[np.bool_]
    baseline_loss: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def scores(self, measure: str | None, higher_is_better: bool) -> Scores:
        """Give the errors: 0 or 1."""
        _, counts = np.unique(self.labels, return_counts=True)
        return Scores(
            name="error",
            values=(~self.correct).astype(np.float64),
            baseline=(~self.baseline_correct).astype(np.float64),
            chance=1 - float(counts.max()) / len(self.labels),
        )


@dataclass(frozen=True, eq=False)
class LanguageOutcomes(ExampleArrays):
    """Sums over the predicted tokens of every sequence, under every lesion.

    Attributes:
        correct: shape ``[lesions, sequences]``: next tokens that are the most probable one.
        loss: shape ``[lesions, sequences]``: cross-entropy in nats.
        agreement: shape ``[lesions, sequences]``: places where the most probable token is the full
            net's.
        divergence: shape ``[lesions, sequences]``: KL divergence from the full net's prediction to
            the lesioned net's, in nats.
        baseline_correct: shape ``[sequences]``: of the full net.
        baseline_loss: shape ``[sequences]``: of the full net.
        commonest: shape ``[sequences]``: how many of the tokens are the most frequent one of all.
        tokens: shape ``[sequences]``, int64: how many tokens were predicted.
    """

    of_examples = ("baseline_correct", "baseline_loss", "commonest", "tokens")

    correct: npt.NDArray[np.float64]
    loss: npt.NDArray[np.float64]
    agreement: npt.NDArray[np.float64]
    divergence: npt.NDArray[np.float64]
    baseline_correct: npt.NDArray[np.float64]
    baseline_loss: npt.NDArray[np.float64]
    commonest: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]

    @property
    def weights(self) -> npt.NDArray[Any]:
        """The tokens of each sequence."""
        return self.tokens

    def scores(self, measure: str | None, higher_is_better: bool) -> Scores:
        """Give the loss per token, linearised."""
        return Scores(
            name="loss per token",
            values=self._per_token(self.loss),
            baseline=self._per_token(self.baseline_loss),
        )

    def _per_token(self, loss: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        tokens = self.tokens
        rate = loss.sum(-1, keepdims=True) / tokens.sum()
        linearised: npt.NDArray[np.float64] = rate + (loss - rate * tokens) / tokens.mean()
        return linearised


@dataclass(frozen=True, eq=False)
class MeasuredOutcomes(ExampleArrays):
    """The measure of every example under every lesion.

    Attributes:
        values: shape ``[lesions, examples]``.
        baseline: shape ``[examples]``: of the full net.
    """

    of_examples = ("baseline",)

    values: npt.NDArray[np.float64]
    baseline: npt.NDArray[np.float64]

    def scores(self, measure: str | None, higher_is_better: bool) -> Scores:
        """Give the measure itself."""
        return Scores(measure or "measure", self.values, self.baseline, higher_is_better)
