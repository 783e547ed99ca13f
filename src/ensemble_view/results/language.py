"""A lesion study of a language model: next-token accuracy, loss and perplexity per token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ensemble_view.results import text
from ensemble_view.results.base import LesionStudyResult
from ensemble_view.results.records import ExampleArrays
from ensemble_view.statistics.ratios import RatioMean, ratio_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LanguageBaseline", "LanguageOutcomes", "LanguageResult"]

_WORDING = text.Wording(
    value=("perplexity", "perplexity"),
    effect=("loss_change", "Δ loss"),
    formats=("#10.4g", "+#9.3g"),
    test="t test over sequences",
    worse="raises the loss",
    worsen="raise the loss",
    better="lowers the loss",
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


@dataclass(frozen=True)
class LanguageBaseline:
    """The full net on the same sequences.

    Attributes:
        accuracy: of the next token, a proportion, with its interval.
        accuracy_low: lower limit.
        accuracy_high: upper limit.
        chance: accuracy of the best constant guess: the most frequent token's share.
        loss: cross-entropy in nats per token, with its interval.
        loss_low: lower limit.
        loss_high: upper limit.
        perplexity: ``exp(loss)``.
        tokens: how many were predicted.
        sequences: how many there are.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    chance: float
    loss: float
    loss_low: float
    loss_high: float
    perplexity: float
    tokens: int
    sequences: int

    @property
    def n(self) -> int:
        """Number of independent examples: the sequences."""
        return self.sequences


@dataclass(frozen=True, repr=False)
class LanguageResult(LesionStudyResult[LanguageOutcomes]):
    """A lesion study of a net that predicts the next token.

    In ``frame``, ``accuracy``, ``loss``, ``agreement`` and ``divergence`` are means per token, in
    proportions and nats. Intervals are paired t intervals over sequences
    (:func:`ensemble_view.statistics.ratios.ratio_mean`): of the drop in accuracy, of the change of
    the loss, and of the ratio of perplexities, which is the exponential of the latter. ``p_value``
    is of the hypothesis that the loss does not change.

    Example:
        One block, two sequences of three tokens.

        >>> from ensemble_view.results import Cost, Lesion, Provenance
        >>> sums = np.array([[1.0, 2.0]])
        >>> outcomes = LanguageOutcomes(sums, 3 * sums, sums, sums, sums[0] + 1, sums[0],
        ...                             np.array([1, 0]), np.array([3, 3]))
        >>> provenance = Provenance({"name": "net"}, {"name": "two"}, {}, seed=0, command="",
        ...                         date="", device="cpu", threads=1, batch_size=2)
        >>> result = LanguageResult((Lesion("0", ("h.0",), (0,), False, "identity"),), outcomes,
        ...                         Cost(1, 1, 1), 0.1, provenance, block_count=1)
        >>> result.frame[["blocks", "drop", "loss_change", "tokens"]]
          blocks      drop  loss_change  tokens
        0      0  0.333333          1.0       6
    """

    kind = "language lesion"
    outcomes_type = LanguageOutcomes
    columns = (
        "blocks", "names", "count", "accuracy", "drop", "drop_low", "drop_high",
        "loss", "loss_change", "loss_change_low", "loss_change_high",
        "perplexity", "perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high",
        "p_value", "p_adjusted", "agreement", "divergence",
        "changes_shape", "shortcut_kind", "tokens", "sequences",
    )  # fmt: skip

    @property
    def _wording(self) -> text.Wording:
        return _WORDING

    def _per_token(self, sums: npt.NDArray[np.float64]) -> RatioMean:
        return ratio_mean(sums, self.outcomes.tokens, self.level)

    @cached_property
    def baseline(self) -> LanguageBaseline:
        """The full net's accuracy, loss and perplexity, and chance, on the same sequences."""
        outcomes = self.outcomes
        accuracy = self._per_token(outcomes.baseline_correct)
        loss = self._per_token(outcomes.baseline_loss)
        tokens = int(outcomes.tokens.sum())
        return LanguageBaseline(
            accuracy=accuracy.value,
            accuracy_low=max(accuracy.low, 0.0),
            accuracy_high=min(accuracy.high, 1.0),
            chance=int(outcomes.commonest.sum()) / tokens,
            loss=loss.value,
            loss_low=loss.low,
            loss_high=loss.high,
            perplexity=_exp(loss.value),
            tokens=tokens,
            sequences=len(outcomes.tokens),
        )

    def _row(self, index: int) -> dict[str, Any]:
        outcomes = self.outcomes
        drop = self._per_token(outcomes.baseline_correct - outcomes.correct[index])
        change = self._per_token(outcomes.loss[index] - outcomes.baseline_loss)
        tokens = self.baseline.tokens
        loss = float(outcomes.loss[index].sum()) / tokens
        return {
            "accuracy": float(outcomes.correct[index].sum()) / tokens,
            "drop": drop.value,
            "drop_low": drop.low,
            "drop_high": drop.high,
            "loss": loss,
            "loss_change": change.value,
            "loss_change_low": change.low,
            "loss_change_high": change.high,
            "perplexity": _exp(loss),
            "perplexity_ratio": _exp(change.value),
            "perplexity_ratio_low": _exp(change.low),
            "perplexity_ratio_high": _exp(change.high),
            "p_value": change.p_value,
            "agreement": float(outcomes.agreement[index].sum()) / tokens,
            "divergence": float(outcomes.divergence[index].sum()) / tokens,
            "tokens": tokens,
            "sequences": self.baseline.sequences,
        }

    @property
    def summary(self) -> str:
        """The result in plain words: how well the net predicts, and which blocks matter."""
        baseline = self.baseline
        sentences = [
            f"{self._net} predicts {baseline.accuracy:.1%} of {baseline.tokens:,} next tokens in "
            f"{baseline.sequences:,} sequences of {self._data} correctly{self._cut_short}; the "
            f"most frequent token alone would reach {baseline.chance:.1%}."
        ]
        sentences += text.mattering(self.frame, self.level, _WORDING)
        perplexity = (
            f"The full net's perplexity is {baseline.perplexity:.4g} ({baseline.loss:.4g} nats per "
            "token)"
        )
        if self.lesions:
            worst = max(self._rows, key=lambda row: float(row["loss_change"]))
            perplexity += (
                f"; the highest, after deleting {worst['blocks']}, is "
                f"{worst['perplexity_ratio']:.3g} times that"
            )
        sentences.append(f"{perplexity}.")
        sentences.append("All of this is said of this net on these sequences only.")
        return " ".join(sentences) + self._not_deletable_sentence

    def plot(self) -> Figure:
        """Draw the perplexity after each deletion, on a logarithmic scale.

        Returns:
            A matplotlib figure that belongs to no window.
        """
        from ensemble_view.figures import measured_figure

        full, frame = self.baseline.perplexity, self.frame
        return measured_figure(
            self,
            value=frame["perplexity"],
            low=full * frame["perplexity_ratio_low"],
            high=full * frame["perplexity_ratio_high"],
            full=full,
            label="Perplexity",
            logarithmic=True,
        )


def _exp(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(value))
