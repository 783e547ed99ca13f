"""How well sums over blocks predict what a net with random blocks deleted does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.results import files
from ensemble_view.results.power_set import lesions_of, lesions_restored
from ensemble_view.results.records import Lesion
from ensemble_view.results.run import Run
from ensemble_view.results.study import StudyResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SurrogateFit", "SurrogatesResult"]


@dataclass(frozen=True)
class SurrogateFit:
    """One surrogate and how well it predicts.

    Attributes:
        quantity: what it predicts.
        keep: the probability with which each block was kept.
        deleted: how many blocks that deletes on average.
        order: 1 for a sum over blocks, 2 with pairs.
        r2: share of the variance over fresh subsets that it predicts; nan where nothing varies.
        low: lower limit.
        high: upper limit.
        fitted: how many subsets it was fitted to.
        fresh: how many it was tried on.
        sampled: what the interval generalises over.
    """

    quantity: str
    keep: float
    deleted: float
    order: int
    r2: float
    low: float
    high: float
    fitted: int
    fresh: int
    sampled: str


@dataclass(frozen=True, repr=False, eq=False)
class SurrogatesResult(StudyResult):
    """Held-out R² of surrogates of order 1 and 2.

    Of error and loss, what is predicted is the mean over examples; of logits and probabilities,
    each example's vector.

    Attributes:
        blocks: the blocks that were kept or deleted.
        fits: by quantity, keep-probability and order.
        kept: which blocks each subset keeps, shape ``[subsets, blocks]``.
        run: outcomes of the full net and of each subset.
        block_count: how many blocks the net has.
    """

    kind = "surrogates"
    table_name = "surrogates"
    figure_name = "surrogates"

    blocks: tuple[Lesion, ...]
    fits: tuple[SurrogateFit, ...]
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
        """One row per quantity, keep-probability and order: R² with its interval."""
        return pd.DataFrame([asdict(fit) for fit in self.fits])

    @property
    def table(self) -> str:
        """R² by the number of blocks deleted on average."""
        lines = [
            f"{'':15}{'deleted':>8}   {'additive (order 1)':<27}{'with pairs (order 2)':<25}",
        ]
        rows: dict[tuple[str, float], list[SurrogateFit]] = {}
        for fit in self.fits:
            rows.setdefault((fit.quantity, fit.deleted), []).append(fit)
        for (quantity, deleted), fits in rows.items():
            cells = [f"{f'{f.r2:6.3f} [{f.low:.3f}, {f.high:.3f}]':<27}" for f in fits]
            lines.append(f"{quantity:<15.15}{deleted:>8.3g}  {''.join(cells)}".rstrip())
        return "\n".join(lines)

    @property
    def summary(self) -> str:
        """What an additive model predicts, in plain words."""
        run, first = self.run, self.fits[0]
        main = "logits" if any(fit.quantity == "logits" for fit in self.fits) else first.quantity
        name = "class-centred logits" if main == "logits" else main
        clauses = []
        for fit in self.fits:
            if fit.quantity == main and fit.order == 1:
                clauses.append(
                    f"{fit.r2:.0%} [{fit.low:.0%}, {fit.high:.0%}] with {fit.deleted:.3g} deleted"
                )
        return (
            f"{run.net} with random sets of blocks deleted, on {run.examples:,} examples of "
            f"{run.data}{run.cut_short}: a sum over {len(self.blocks)} blocks, fitted to "
            f"{first.fitted} subsets, predicts this share of the variance of the {name} over "
            f"{first.fresh} fresh ones: {', '.join(clauses)} on average. 100 % would be an "
            "additive ensemble: sufficient for ensemble behaviour, not necessary. Each interval is "
            "of that fit. All of this is said of this net on these examples only."
        )

    def plot(self) -> Figure:
        """Draw R² against the number of blocks deleted on average.

        Returns:
            A matplotlib figure that belongs to no window.
        """
        from ensemble_view.figures import surrogates_figure

        return surrogates_figure(self)

    @property
    def stopped_after(self) -> int | None:
        """How many examples the result is of, if the user stopped the study early."""
        return self.run.stopped_after

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """Which blocks were kept, and the outcomes of every example."""
        return {"kept": self.kept, **self.run.outcomes.arrays}

    def _record(self) -> dict[str, Any]:
        return {
            **self.run.to_json(),
            "block_count": self.block_count,
            "blocks": lesions_of(self.blocks),
            "fits": [asdict(fit) for fit in self.fits],
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        # nan, where nothing varies, is null in the record.
        fits: list[dict[str, Any]] = [
            {name: np.nan if value is None else value for name, value in row.items()}
            for row in content["fits"]
        ]
        return cls(
            blocks=lesions_restored(content["blocks"]),
            fits=tuple(SurrogateFit(**row) for row in fits),
            kept=files.read_arrays(folder / "outcomes.npz", ["kept"])["kept"],
            run=Run.restored(content, folder),
            block_count=content["block_count"],
        )
