"""A lesion study of a language model: next-token accuracy, loss and perplexity per token."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble_view.statistics.bounded import bounded_mean
from ensemble_view.statistics.paired_ratio import PairedRatio, paired_ratio
from ensemble_view.statistics.ratios import RatioMean, ratio_mean
from ensemble_view.studies.lesion import words as text
from ensemble_view.studies.lesion.base import LesionStudyResult
from ensemble_view.studies.lesion.sizes import size_of
from ensemble_view.study.outcomes import LanguageOutcomes
from ensemble_view.study.words import about

__all__ = ["LanguageBaseline", "LanguageResult"]

_WORDING = text.Wording(
    value=("perplexity", "perplexity"),
    effect=("loss_change", "Δ loss"),
    change="rise of the loss",
    formats=("#10.4g", "+#9.3g"),
    test="t test over sequences",
    worse="raises the loss",
    worsen="raise the loss",
    better="lowers the loss",
    unit=" nats per token",
)


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
    proportions and nats. The interval of the full net's accuracy is a score interval over
    sequences, within 0 to 1 (:func:`ensemble_view.statistics.bounded.bounded_mean`); others are
    paired t intervals (:func:`ensemble_view.statistics.ratios.ratio_mean`): of the drop in
    accuracy, of the change of the loss, and of the ratio of perplexities, which is the exponential
    of the latter; of the normalised drop and of ``error_ratio`` they are Fieller's
    (:func:`ensemble_view.statistics.paired_ratio.paired_ratio`). Simultaneous ones are the same at
    Bonferroni's level. ``size`` is the lesion's class by the next-token accuracy above chance
    (:mod:`ensemble_view.studies.lesion.sizes`); loss and perplexity have no scale of their own on
    which a change is small. ``p_value`` is of the hypothesis that the loss does not change.

    Example:
        One block, two sequences of three tokens.

        >>> from ensemble_view.study.provenance import Cost, Provenance
        >>> from ensemble_view.study.lesions import Lesion
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
        "drop_simultaneous_low", "drop_simultaneous_high",
        "normalised_drop", "normalised_drop_low", "normalised_drop_high",
        "normalised_drop_simultaneous_low", "normalised_drop_simultaneous_high",
        "error_ratio", "error_ratio_low", "error_ratio_high",
        "error_ratio_simultaneous_low", "error_ratio_simultaneous_high", "size",
        "loss", "loss_change", "loss_change_low", "loss_change_high",
        "loss_change_simultaneous_low", "loss_change_simultaneous_high",
        "perplexity", "perplexity_ratio", "perplexity_ratio_low", "perplexity_ratio_high",
        "perplexity_ratio_simultaneous_low", "perplexity_ratio_simultaneous_high",
        "p_value", "p_adjusted", "agreement", "divergence",
        "changes_shape", "shortcut_kind", "tokens", "sequences",
    )  # fmt: skip

    @property
    def _wording(self) -> text.Wording:
        return _WORDING

    def _per_token(self, sums: npt.NDArray[np.float64], level: float | None = None) -> RatioMean:
        return ratio_mean(sums, self.outcomes.tokens, self.level if level is None else level)

    @cached_property
    def baseline(self) -> LanguageBaseline:
        """The full net's accuracy, loss and perplexity, and chance, on the same sequences."""
        outcomes = self.outcomes
        accuracy = bounded_mean(outcomes.baseline_correct, outcomes.tokens, self.level)
        loss = self._per_token(outcomes.baseline_loss)
        tokens = int(outcomes.tokens.sum())
        return LanguageBaseline(
            accuracy=accuracy.value,
            accuracy_low=accuracy.low,
            accuracy_high=accuracy.high,
            chance=int(outcomes.commonest.sum()) / tokens,
            loss=loss.value,
            loss_low=loss.low,
            loss_high=loss.high,
            perplexity=_exp(loss.value),
            tokens=tokens,
            sequences=len(outcomes.tokens),
        )

    def _row(self, index: int) -> dict[str, Any]:
        outcomes, baseline = self.outcomes, self.baseline
        loss = float(outcomes.loss[index].sum()) / baseline.tokens
        right, full = outcomes.correct[index], outcomes.baseline_correct
        above = full - baseline.chance * outcomes.tokens
        row: dict[str, Any] = {}
        for name, estimate in (
            ("drop", lambda level: self._per_token(full - right, level)),
            ("normalised_drop", lambda level: self._ratio(full - right, above, level)),
            (
                "error_ratio",
                lambda level: self._ratio(outcomes.tokens - right, outcomes.tokens - full, level),
            ),
            (
                "loss_change",
                lambda level: self._per_token(outcomes.loss[index] - outcomes.baseline_loss, level),
            ),
        ):
            own, joint = estimate(self.level), estimate(self._joint_level)
            row |= {
                name: own.value,
                f"{name}_low": own.low,
                f"{name}_high": own.high,
                f"{name}_simultaneous_low": joint.low,
                f"{name}_simultaneous_high": joint.high,
            }
        change = self._per_token(outcomes.loss[index] - outcomes.baseline_loss)
        return {
            **row,
            "accuracy": float(right.sum()) / baseline.tokens,
            "size": size_of(
                row["normalised_drop_simultaneous_low"],
                row["normalised_drop_simultaneous_high"],
                row["error_ratio_simultaneous_high"],
            ),
            "loss": loss,
            "perplexity": _exp(loss),
            "perplexity_ratio": _exp(change.value),
            "perplexity_ratio_low": _exp(change.low),
            "perplexity_ratio_high": _exp(change.high),
            "perplexity_ratio_simultaneous_low": _exp(row["loss_change_simultaneous_low"]),
            "perplexity_ratio_simultaneous_high": _exp(row["loss_change_simultaneous_high"]),
            "p_value": change.p_value,
            "agreement": float(outcomes.agreement[index].sum()) / baseline.tokens,
            "divergence": float(outcomes.divergence[index].sum()) / baseline.tokens,
            "tokens": baseline.tokens,
            "sequences": baseline.sequences,
        }

    def _ratio(
        self, numerators: npt.NDArray[Any], denominators: npt.NDArray[Any], level: float
    ) -> PairedRatio:
        return paired_ratio(numerators, denominators, level, self.outcomes.tokens)

    @property
    def summary(self) -> str:
        """The result in plain words: how well the net predicts, and which blocks matter."""
        baseline = self.baseline
        sentences = [
            f"{self._net} predicts {baseline.accuracy:.1%} of {baseline.tokens:,} next tokens in "
            f"{baseline.sequences:,} sequences of {self._data} correctly{self._cut_short}; the "
            f"most frequent token alone would reach {baseline.chance:.1%}."
        ]
        frame = self.frame
        if len(frame) and frame["normalised_drop_simultaneous_low"].notna().any():
            sentences += text.by_size(frame, self.level)
        sentences += text.mattering(frame, self.level, _WORDING)
        perplexity = (
            f"The full net's perplexity is {baseline.perplexity:.4g} ({baseline.loss:.4g} nats per "
            "token)"
        )
        if self.lesions:
            worst = max(self._rows, key=lambda row: float(row["loss_change"]))
            low, high = (worst[f"perplexity_ratio_simultaneous_{end}"] for end in ("low", "high"))
            perplexity += (
                f"; the highest, after deleting {worst['blocks']}, is "
                f"{worst['perplexity_ratio']:.3g} times that [{low:.3g}, {high:.3g}]"
            )
        sentences.append(f"{perplexity}.")
        sentences.append(about(baseline.sequences, "sequences"))
        return " ".join(sentences) + self._not_deletable_sentence


def _exp(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(value))
