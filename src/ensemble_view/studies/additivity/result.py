"""Which share of what random deletions do adds up over blocks, and over pairs of blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.study import files
from ensemble_view.study.checked import check_within
from ensemble_view.study.lesions import Lesion, lesions_of, lesions_restored
from ensemble_view.study.run import Run
from ensemble_view.study.run_result import RunResult

__all__ = ["OrderShareRow", "SurrogatesResult"]


@dataclass(frozen=True)
class OrderShareRow:
    """The shares of the variance of one quantity at one keep-probability; nan where nothing varies.

    Attributes:
        quantity: what varies over the subsets.
        keep: the probability with which each block was kept.
        deleted: how many blocks that deletes on average.
        first: share of the variance at order 1, the additive one; an unbiased estimate below 0 or
            above 1 stands as 0 or 1.
        first_low: lower limit.
        first_high: upper limit.
        up_to_second: share at orders 1 and 2, with pairs of blocks; bounded alike.
        up_to_second_low: lower limit.
        up_to_second_high: upper limit.
        effective: effective number of blocks of the additive part, the participation ratio
            ``(sum v)² / sum v²`` of their energies v at order 1; nan where the additive share
            cannot be told from 0.
        effective_low: lower limit.
        effective_high: upper limit.
        subsets: how many subsets the shares are estimated from.
        sampled: what the intervals of the shares generalise over.
        r2: share of the variance over fresh subsets that a fitted sum over blocks predicts.
        r2_low: lower limit, of this fit.
        r2_high: upper limit, of this fit.
        fitted: how many subsets it was fitted to.
        fresh: how many it was tried on.
    """

    quantity: str
    keep: float
    deleted: float
    first: float
    first_low: float
    first_high: float
    up_to_second: float
    up_to_second_low: float
    up_to_second_high: float
    effective: float
    effective_low: float
    effective_high: float
    subsets: int
    sampled: str
    r2: float
    r2_low: float
    r2_high: float
    fitted: int
    fresh: int


@dataclass(frozen=True, repr=False, eq=False)
class SurrogatesResult(RunResult):
    """Shares of the variance over random deletions by order, for any number of blocks.

    Of error and loss, what varies is the mean over examples; of logits and probabilities, each
    example's vector.

    Attributes:
        blocks: the blocks that were kept or deleted.
        shares: by quantity and keep-probability.
        kept: which blocks each subset keeps, shape ``[subsets, blocks]``.
        run: outcomes of the full net and of each subset.
        block_count: how many blocks the net has.
    """

    kind = "additivity"
    file_name = "additivity"

    blocks: tuple[Lesion, ...]
    shares: tuple[OrderShareRow, ...]
    kept: npt.NDArray[np.bool_]
    run: Run
    block_count: int

    def __post_init__(self) -> None:
        if self.kept.shape != (self.run.plans, len(self.blocks)):
            raise MeasurementError(
                f"The kept blocks have shape {self.kept.shape}; expected one row for each of "
                f"{self.run.plans} subsets and one column for each of {len(self.blocks)} blocks."
            )

    @property
    def frame(self) -> pd.DataFrame:
        """One row per quantity and keep-probability: the shares with their intervals."""
        return pd.DataFrame([asdict(row) for row in self.shares])

    @property
    def table(self) -> str:
        """The shares by the number of blocks deleted on average."""
        lines = [
            f"{'':13}{'deleted':>7}  {'order 1 (additive)':<21} {'orders 1 and 2':<21}"
            f"{'effective':>9}{'R²':>6}"
        ]
        for row in self.shares:
            first = _interval(row.first, row.first_low, row.first_high)
            second = _interval(row.up_to_second, row.up_to_second_low, row.up_to_second_high)
            lines.append(
                f"{row.quantity:<13.13}{row.deleted:>7.3g}  {first:<21} {second:<21}"
                f"{row.effective:>9.3g}{row.r2:>6.2f}"
            )
        lines.append(
            "effective: blocks that carry the additive part; R²: of a fitted sum, held out"
        )
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """What adds up, in plain words."""
        run, first = self.run, self.shares[0]
        main = "logits" if any(row.quantity == "logits" for row in self.shares) else first.quantity
        name = "class-centred logits" if main == "logits" else main
        rows = [row for row in self.shares if row.quantity == main]
        clauses = [
            f"{row.first:.0%} [{row.first_low:.0%}, {row.first_high:.0%}] and "
            f"{row.up_to_second:.0%} [{row.up_to_second_low:.0%}, {row.up_to_second_high:.0%}] "
            f"with {row.deleted:.3g} deleted on average"
            for row in rows
        ]
        few = rows[min(1, len(rows) - 1)]
        carried = (
            ""
            if np.isnan(few.effective)
            else f"The additive part is that of {few.effective:.3g} [{few.effective_low:.3g}, "
            f"{few.effective_high:.3g}] of {len(self.blocks)} blocks (participation ratio) with "
            f"{few.deleted:.3g} deleted. "
        )
        return (
            f"{run.net} with random sets of blocks deleted, on {run.examples:,} examples of "
            f"{run.data}{run.cut_short}: the variance of the {name} over {first.subsets} subsets "
            f"is additive (order 1), and additive or pairwise (orders 1 and 2), to "
            f"{'; '.join(clauses)}. {carried}A sum over blocks that was fitted to {first.fitted} "
            f"of them predicts {_listed([f'{row.r2:.0%}' for row in rows])} of it on the other "
            f"{first.fresh}. Additivity is neither necessary nor sufficient for an ensemble: a "
            "majority vote of independent members is not additive, and a net of one strong block "
            "among dead ones is. The result holds for this net on these examples."
        )

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Which blocks were kept, and the outcomes of every example."""
        return {"kept": self.kept, **self.run.outcomes.arrays}

    def _record(self) -> dict[str, Any]:
        return {
            **self.run.to_json(),
            "block_count": self.block_count,
            "blocks": lesions_of(self.blocks),
            "shares": [asdict(row) for row in self.shares],
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        # nan, where nothing varies, is null in the record.
        shares: list[dict[str, Any]] = [
            {name: np.nan if value is None else value for name, value in row.items()}
            for row in content["shares"]
        ]
        for row in shares:
            _check_shares(row)
        return cls(
            blocks=lesions_restored(content["blocks"], content["block_count"]),
            shares=tuple(OrderShareRow(**row) for row in shares),
            kept=files.read_arrays(folder / "outcomes.npz", ["kept"])["kept"],
            run=Run.restored(content, folder),
            block_count=content["block_count"],
        )


def _check_shares(row: Mapping[str, Any]) -> None:
    """Refuse shares, counts and limits that cannot be."""
    first = ("first", "first_low", "first_high")
    second = ("up_to_second", "up_to_second_low", "up_to_second_high")
    check_within("a share of the variance", [row[name] for name in (*first, *second)])
    check_within("a keep-probability", [row["keep"]])
    check_within("a coefficient of determination", [row["r2"]], -math.inf, 1)
    counts = ("deleted", "subsets", "fitted", "fresh")
    check_within("a count", [row[name] for name in counts], 0, math.inf)
    check_within("an effective number of blocks", [row["effective"]], 0, math.inf)


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
