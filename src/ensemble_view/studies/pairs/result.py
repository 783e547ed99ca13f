"""All pairs of deleted blocks: their joint drops, and what these are beyond the single ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.interactions import PairInteractions, pair_interactions
from ensemble_view.statistics.ratios import RatioMean
from ensemble_view.study.checked import check_within
from ensemble_view.study.lesions import Lesion, lesions_of, lesions_restored
from ensemble_view.study.outcomes import Outcomes
from ensemble_view.study.run import Run
from ensemble_view.study.run_result import RunResult
from ensemble_view.study.words import about, shortened

__all__ = ["PairsResult"]

Floats = npt.NDArray[np.float64]

_MOST_ROWS = 12


@dataclass(frozen=True, repr=False, eq=False)
class PairsResult(RunResult):
    """Every single block and every pair deleted.

    A drop D is by how much worse the net becomes: in accuracy, in loss per token, or in a measure
    of one's own. The interaction of a pair is ``D_ij - D_i - D_j``.

    Attributes:
        blocks: the blocks that were deleted, by themselves and in pairs.
        stages: of each block the number of the stage that it belongs to: a block that changes the
            shape begins one.
        run: outcomes of the single deletions, then of the pairs (0, 1), (0, 2), ... (1, 2), ...
        block_count: how many blocks the net has.
    """

    kind = "pairs"
    file_name = "pairs"

    blocks: tuple[Lesion, ...]
    stages: tuple[int, ...]
    run: Run
    block_count: int

    def __post_init__(self) -> None:
        n = len(self.blocks)
        if self.run.plans != n * (n + 1) // 2 or len(self.stages) != n:
            raise MeasurementError(
                f"There are outcomes of {self.run.plans} plans and {len(self.stages)} stages for "
                f"{n} blocks; expected {n * (n + 1) // 2}, every block and every pair, and {n}."
            )

    @cached_property
    def interactions(self) -> PairInteractions:
        """Of all pairs, as symmetric matrices, with intervals and p-values."""
        n, found = len(self.blocks), self.run.outcomes
        baseline: npt.NDArray[Any]
        outcomes: npt.NDArray[Any]
        if isinstance(found, Outcomes):  # Kept as bytes: there are thousands of pairs.
            baseline, outcomes = found.baseline_correct, found.correct
        else:
            scores = self.run.scores
            sign = 1.0 if scores.higher_is_better else -1.0
            baseline, outcomes = sign * scores.baseline, sign * scores.values
        return pair_interactions(baseline, outcomes[:n], outcomes[n:], self.run.level)

    @cached_property
    def drops(self) -> Floats:
        """Joint drops as a symmetric matrix, the single ones on its diagonal."""
        n = len(self.blocks)
        means = self.run.scores.worsening.mean(axis=1)
        drops = np.diag(means[:n])
        upper = np.triu_indices(n, 1)
        drops[upper] = drops.T[upper] = means[n:]
        return drops

    @property
    def names(self) -> str:
        """What a drop is a drop of."""
        return self.run.scores.drop_of

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per pair: both blocks, their drops, the joint drop, and the interaction.

        ``low`` and ``high`` limit the interaction, ``p_adjusted`` is Holm's over all pairs. The
        joint drop's interval is Tango's for a classifier, else by t.
        """
        n, found = len(self.blocks), self.interactions
        rows = []
        for row, (i, j) in enumerate(zip(*np.triu_indices(n, 1), strict=True), start=n):
            first, second = self.blocks[i], self.blocks[j]
            drop = self.run.scores.effect(self.run.scores.worsening[row], self.run.level)
            rows.append(
                {
                    "first": first.label,
                    "second": second.label,
                    "first_name": first.names[0],
                    "second_name": second.names[0],
                    "first_stage": self.stages[i],
                    "second_stage": self.stages[j],
                    "changes_shape": first.changes_shape or second.changes_shape,
                    "first_drop": self.drops[i, i],
                    "second_drop": self.drops[j, j],
                    "drop": self.drops[i, j],
                    "drop_low": drop.low,
                    "drop_high": drop.high,
                    "interaction": found.value[i, j],
                    "low": found.low[i, j],
                    "high": found.high[i, j],
                    "p_value": found.p_value[i, j],
                    "p_adjusted": found.adjusted[i, j],
                }
            )
        return pd.DataFrame(rows)

    @cached_property
    def means(self) -> dict[str, RatioMean]:
        """Mean interaction of the pairs within a stage, and of those between stages.

        The interval is over examples, the pairs being all there are.
        """
        n = len(self.blocks)
        first, second = np.triu_indices(n, 1)
        worse = self.run.scores.worsening
        stages = np.array(self.stages)
        same = stages[first] == stages[second]
        found = {}
        for name, chosen in (("within", same), ("between", ~same)):
            if chosen.any():
                single = np.zeros(n)
                np.add.at(single, first[chosen], 1.0)
                np.add.at(single, second[chosen], 1.0)
                total = worse[n:][chosen].sum(axis=0) - single @ worse[:n]
                mean = total / np.count_nonzero(chosen)
                # Of four outcomes, which may be right or wrong each.
                found[name] = self.run.scores.mean(mean, self.run.level, most=2.0)
        return found

    def _significant(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        frame = self.frame
        sure = frame["p_adjusted"] <= 1 - self.run.level
        return frame[sure & (frame["interaction"] > 0)], frame[sure & (frame["interaction"] < 0)]

    @property
    def table(self) -> str:
        """The strongest interactions; a star marks pairs with a shape-changing block."""
        frame = self.frame
        order = frame["interaction"].abs().sort_values(ascending=False, kind="stable").index
        lines = [
            f"{'pair':>8}  {'modules':<21}{'drop':>7}  {'interaction':<11} {'interval':<18}p (Holm)"
        ]
        for row in frame.loc[order[:_MOST_ROWS]].to_dict("records"):
            modules = " ".join(shortened(str(row[f"{e}_name"]), 10) for e in ("first", "second"))
            p = "<.001" if row["p_adjusted"] < 0.001 else f"{row['p_adjusted']:.3f}"
            pair = f"{row['first']},{row['second']}" + ("*" if row["changes_shape"] else " ")
            limits = f"[{row['low']:+.4f}, {row['high']:+.4f}]"
            lines.append(
                f"{pair:>9} {modules:<21}{row['drop']:>+7.4f}  {row['interaction']:<+11.4f} "
                f"{limits:<18}{p:>7}"
            )
        if len(frame) > _MOST_ROWS:
            lines.append(f"{'...':>9} {len(frame) - _MOST_ROWS} weaker, in .frame")
        if frame["changes_shape"].any():
            lines.append("* one of them changes the shape (downsampling)")
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """How many pairs significantly back each other up, and how large interactions are."""
        run, frame = self.run, self.frame
        up, down = self._significant()
        sentences = [
            f"{run.net} with each of {len(self.blocks)} blocks and every pair deleted, on "
            f"{run.examples:,} examples of {run.data}{run.cut_short}. The interaction of a pair is "
            f"by how much more both deletions together worsen the {self.names} than the sum of "
            "each alone."
        ]
        rule = f"Holm's correction over {len(frame)}, p <= {1 - run.level:.2g}"
        sentences.append(
            f"It is significantly ({rule}) above zero, so that the two back each other up, for "
            f"{_counted(up)}; below zero, so that the second deletion costs less after the first, "
            f"for {_counted(down)}."
        )
        words = {"within": "of one stage", "between": "of different stages"}
        means = [
            f"{self._number(mean.value)} [{self._number(mean.low)}, {self._number(mean.high)}]"
            f"{' points' * (self.names == 'accuracy')} for pairs {words[name]}"
            for name, mean in self.means.items()
        ]
        sentences.append(f"On average it is {' and '.join(means)}.")
        sentences.append(about(run.examples, "examples"))
        return " ".join(sentences)

    def _number(self, value: float) -> str:
        return f"{100 * value:+.2f}" if self.names == "accuracy" else f"{value:+.4g}"

    def _record(self) -> dict[str, Any]:
        return {
            **self.run.to_json(),
            "block_count": self.block_count,
            "blocks": lesions_of(self.blocks),
            "stages": self.stages,
            "drops": self.drops.diagonal().tolist(),
            "pairs": self.frame.to_dict("records"),
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        stages = content["stages"]
        if stages != sorted(stages):
            raise ValueError(f"the stages are {stages}, expected them in the order of the blocks")
        check_within("a stage", stages, 0, content["block_count"])
        return cls(
            blocks=lesions_restored(content["blocks"], content["block_count"]),
            stages=tuple(content["stages"]),
            run=Run.restored(content, folder),
            block_count=content["block_count"],
        )


def _counted(pairs: pd.DataFrame) -> str:
    if pairs.empty:
        return "no pair"
    strongest = pairs.iloc[int(pairs["interaction"].abs().to_numpy().argmax())]
    named = f"{strongest['first']} and {strongest['second']}"
    if len(pairs) == 1:
        return f"one pair ({named})"
    return f"{len(pairs)} pairs (most of all {named})"
