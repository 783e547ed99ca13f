"""Deleting blocks beside a control: both drops of each block, and their difference."""

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
from ensemble_view.statistics.paired import holm
from ensemble_view.statistics.paired_ratio import paired_ratio
from ensemble_view.study.lesions import Lesion, lesions_of, lesions_restored
from ensemble_view.study.result import StudyResult
from ensemble_view.study.run import Run
from ensemble_view.study.words import about, shortened

__all__ = ["ControlResult"]

Floats = npt.NDArray[np.float64]

_WORDS = {
    "shortcut": ("the shortcut dropped", "dropped"),
    "untrained": ("the untrained net", "untrained"),
    "batchnorm": ("BatchNorm recalibrated", "recal."),
}


@dataclass(frozen=True, repr=False, eq=False)
class ControlResult(StudyResult):
    """What each block's deletion costs, and what it costs under the control.

    All drops are by how much the outcome is worse than the full net's as it is; for the untrained
    net, than that of the full untrained net. The difference is the control's drop minus the
    deletion's, on the same examples.

    Attributes:
        control: ``shortcut``, ``untrained`` or ``batchnorm``.
        blocks: what each row deletes; the first row of ``batchnorm`` deletes nothing.
        deleted: outcomes of the deletions.
        controlled: outcomes of the control, of the same rows and examples.

    Example:
        One block, three examples, and a measure of one's own.

        >>> from ensemble_view.study.provenance import Cost, Provenance
        >>> from ensemble_view.study.outcomes import MeasuredOutcomes
        >>> provenance = Provenance({"name": "net"}, {"name": "three"}, {}, seed=0, command="",
        ...                         date="", device="cpu", threads=1, batch_size=3)
        >>> runs = [Run(MeasuredOutcomes(np.array([values]), np.array([0.9, 0.8, 0.7])),
        ...             Cost(1, 1, 1), 0.1, provenance, measure="IoU")
        ...         for values in ([0.5, 0.6, 0.4], [0.1, 0.2, 0.0])]
        >>> block = Lesion("0", ("F",), (0,), False, "identity")
        >>> result = ControlResult("shortcut", (block,), *runs)
        >>> result.frame[["block", "drop", "control_drop", "difference"]].round(3)
          block  drop  control_drop  difference
        0     0   0.3           0.7         0.4
    """

    kind = "control"
    file_name = "control"

    control: str
    blocks: tuple[Lesion, ...]
    deleted: Run
    controlled: Run

    def __post_init__(self) -> None:
        sizes = [(run.plans, run.examples) for run in (self.deleted, self.controlled)]
        if self.control not in _WORDS or sizes[0] != sizes[1] or sizes[0][0] != len(self.blocks):
            raise MeasurementError(
                f"Under the control {self.control!r} there are {len(self.blocks)} blocks, and "
                f"outcomes of {sizes[0]} and {sizes[1]} plans and examples; expected one of "
                f"{', '.join(_WORDS)}, and outcomes of every block on the same examples."
            )

    @property
    def names(self) -> str:
        """What a drop is a drop of."""
        return self.deleted.scores.drop_of

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row per block: both drops, the paired difference, their intervals, p-values.

        Of a classifier the intervals are Tango's and the p-value is McNemar's exact one; else both
        are those of the t test. ``p_adjusted`` is Holm's over all rows.
        """
        rows = []
        for number, lesion in enumerate(self.blocks):
            row: dict[str, Any] = {
                "block": lesion.label,
                "name": " ".join(lesion.names),
                "changes_shape": lesion.changes_shape,
            }
            scores, level = self.deleted.scores, self.deleted.level
            drop, other = (run.scores.worsening[number] for run in (self.deleted, self.controlled))
            for name, change in (
                ("drop", drop),
                ("control_drop", other),
                ("difference", other - drop),
            ):
                found = scores.effect(change, level)
                row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            rows.append({**row, "p_value": found.p_value})
        frame = pd.DataFrame(rows)
        return frame.assign(p_adjusted=holm(frame["p_value"].to_numpy()), n=self.deleted.examples)

    @cached_property
    def shares_frame(self) -> pd.DataFrame:
        """Which share of the mean drop recalibration removes; empty for the other controls.

        ``1 - recalibrated drop / drop``, the mean over blocks of each, with Fieller's interval over
        examples; of all blocks and of those that keep the shape. ``against`` says what the
        recalibrated drop is measured from: the full net as it is, or recalibrated as well. All are
        nan where the drop cannot be told from zero.
        """
        columns = ["blocks", "against", "share", "share_low", "share_high"]
        if self.control != "batchnorm":
            return pd.DataFrame(columns=columns)
        drop, left = (run.scores.worsening for run in (self.deleted, self.controlled))
        keeping = np.array([bool(b.blocks) and not b.changes_shape for b in self.blocks])
        groups = {"all": np.array([bool(b.blocks) for b in self.blocks])}
        if keeping.any() and not np.array_equal(keeping, groups["all"]):
            groups["shape-keeping"] = keeping
        rows = []
        for name, chosen in groups.items():
            before, after = drop[chosen].mean(axis=0), left[chosen].mean(axis=0)
            for against, own in (("as it is", 0.0), ("recalibrated", left[0])):
                share = paired_ratio(before - (after - own), before, self.deleted.level)
                rows.append((name, against, share.value, share.low, share.high))
        return pd.DataFrame(rows, columns=columns)

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """By block; for recalibration also the shares."""
        shares = {} if self.shares_frame.empty else {"shares": self.shares_frame}
        return {self.file_name: self.frame, **shares}

    @property
    def table(self) -> str:
        """One row per block; a star marks those that change the shape."""
        short = _WORDS[self.control][1]
        lines = [
            f"{'block':>5}  {'module':<13}{'deleted':>9}{short:>11}  {'difference':<11}"
            f"{'interval':<18}p (Holm)"
        ]
        for row in self.frame.to_dict("records"):
            p = "<.001" if row["p_adjusted"] < 0.001 else f"{row['p_adjusted']:.3f}"
            limits = f"[{row['difference_low']:+.4f}, {row['difference_high']:+.4f}]"
            lines.append(
                f"{row['block']:>5}{'*' if row['changes_shape'] else ' '} "
                f"{shortened(str(row['name']), 12):<13}{row['drop']:>+9.4f}"
                f"{row['control_drop']:>+11.4f}  {row['difference']:<+11.4f}{limits:<18} {p:>7}"
            )
        if self.frame["changes_shape"].any():
            lines.append("* changes the shape (downsampling)")
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """Both mean drops, how many blocks differ significantly, what recalibration removes."""
        run, frame = self.deleted, self.frame
        real = np.array([bool(block.blocks) for block in self.blocks])
        means = [
            each.scores.mean(each.scores.worsening[real].mean(axis=0), run.level)
            for each in (self.deleted, self.controlled)
        ]
        told = [f"{self._number(m.value)} [{self._number(m.low)}, {self._number(m.high)}]"
                for m in means]  # fmt: skip
        unit = " points of accuracy" if self.names == "accuracy" else f" in {self.names}"
        sentences = [
            f"{run.net} with each of {np.count_nonzero(real)} blocks deleted, beside "
            f"{_WORDS[self.control][0]}, on {run.examples:,} examples of {run.data}"
            f"{self.controlled.cut_short}. A deletion costs {told[0]}{unit} on average, the "
            f"control {told[1]}."
        ]
        sure = (frame["p_adjusted"] <= 1 - run.level) & real
        more = int((sure & (frame["difference"] > 0)).sum())
        less = int((sure & (frame["difference"] < 0)).sum())
        sentences.append(
            f"By paired tests (Holm's correction over {len(frame)}, p <= {1 - run.level:.2g}), the "
            f"control costs more than the deletion for {_counted(more)} and less for "
            f"{_counted(less)}; the intervals in the table are of each block by itself."
        )
        if self.control == "batchnorm":
            sentences += self._removed()
        sentences.append(about(run.examples, "examples"))
        return " ".join(sentences)

    def _removed(self) -> list[str]:
        full = self.frame.iloc[0]
        limits = [self._number(full[f"control_drop{end}"]) for end in ("", "_low", "_high")]
        unit = " points" * (self.names == "accuracy")
        sentences = [
            "All BatchNorm layers were recalibrated at once; that alone costs the full net "
            f"{limits[0]} [{limits[1]}, {limits[2]}]{unit}."
        ]
        for row in self.shares_frame.to_dict("records"):
            which = "all blocks" if row["blocks"] == "all" else "blocks that keep the shape"
            against = f"measured against the full net {row['against']}"
            sentences.append(
                f"Of the mean drop of {which} recalibration removes {100 * row['share']:.0f} % "
                f"[{100 * row['share_low']:.0f}, {100 * row['share_high']:.0f}], {against}."
                if np.isfinite(row["share"])
                else f"The mean drop of {which} cannot be told from zero, so that there is no "
                f"share to remove, {against}."
            )
        return sentences

    def _number(self, value: float) -> str:
        return f"{100 * value:+.2f}" if self.names == "accuracy" else f"{value:+.4g}"

    @property
    def labels(self) -> tuple[str, str]:
        """What the two drops of a block are called in a figure."""
        deleted = "deleted, trained" if self.control == "untrained" else "branch deleted"
        words = {"untrained": "deleted, untrained", "batchnorm": "deleted, recalibrated"}
        return deleted, words.get(self.control, "shortcut dropped")

    @property
    def stopped_after(self) -> int | None:
        """How many examples the result is of, if the user stopped the study early."""
        return self.controlled.stopped_after

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The outcomes of every example, of both runs."""
        return {
            f"{prefix}_{name}": array
            for prefix, run in (("deleted", self.deleted), ("controlled", self.controlled))
            for name, array in run.outcomes.arrays.items()
        }

    def _record(self) -> dict[str, Any]:
        return {
            **self.deleted.to_json(),
            "controlled": self.controlled.to_json(),
            "control": self.control,
            "blocks": lesions_of(self.blocks),
            "rows": self.frame.to_dict("records"),
            "shares": self.shares_frame.to_dict("records"),
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        return cls(
            control=content["control"],
            blocks=lesions_restored(content["blocks"]),
            deleted=Run.restored(content, folder, "deleted_"),
            controlled=Run.restored(content["controlled"], folder, "controlled_"),
        )


def _counted(blocks: int) -> str:
    return "no block" if not blocks else f"{blocks} block{'s' * (blocks > 1)}"
