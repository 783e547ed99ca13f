"""All subnetworks of some blocks: what each subset does, what each block is worth, the spectrum."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.bounded import bounded_mean
from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.statistics.spectrum import (
    dividends,
    effective_branches,
    fourier,
    order_energies,
    subset_sizes,
    variance_shares,
)
from ensemble_view.study import files
from ensemble_view.study.checked import check_within
from ensemble_view.study.lesions import Lesion, lesions_of, lesions_restored
from ensemble_view.study.run import Run
from ensemble_view.study.run_result import RunResult
from ensemble_view.study.subset_values import SubsetValues

__all__ = ["PowerSetResult"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False, eq=False)
class PowerSetResult(RunResult):
    """The measurements of all 2^n subnetworks of n blocks; blocks that were not chosen stay.

    Intervals of an error, and of what blocks change of it, stay within 0 to 1 and -1 to 1
    (:func:`~ensemble_view.statistics.bounded.bounded_mean`); others are t intervals over examples
    (per token for text by the ratio estimator of
    :func:`~ensemble_view.statistics.ratios.ratio_mean`), each by itself.

    Attributes:
        blocks: the blocks that were kept or deleted.
        quantities: what was measured: ``("error", "loss")`` of a classifier, ``("loss per
            token",)`` of text, or the name of a measure of one's own.
        spectral: vectors of which there is a spectrum only: ``("logits", "probabilities")`` of a
            classifier, the logits class-centred.
        keeps: keep-probabilities of the spectra.
        values: what was kept of all subsets.
        run: outcomes of the full net and of the one without any of the blocks.
        block_count: how many blocks the net has.
    """

    kind = "subsets"
    file_name = "subsets"

    blocks: tuple[Lesion, ...]
    quantities: tuple[str, ...]
    spectral: tuple[str, ...]
    keeps: tuple[float, ...]
    values: SubsetValues
    run: Run
    block_count: int

    def __post_init__(self) -> None:
        n, found = len(self.blocks), self.values
        counts = (found.blocks, len(found.means), len(found.energies), found.energies.shape[1])
        expected = (n, len(self.quantities), len(self.spectral), len(self.keeps))
        if counts != expected or found.shapley.shape[2] != self.run.examples:
            raise MeasurementError(
                f"The values are of {counts} blocks, quantities, spectral quantities and "
                f"keep-probabilities on {found.shapley.shape[2]} examples; expected {expected} on "
                f"{self.run.examples}."
            )

    @property
    def frame(self) -> pd.DataFrame:
        """One row per subset, by bit mask.

        ``mask``; ``kept`` and ``deleted``, blocks by index; ``size``, how many are
        kept; the mean of each quantity, and its dividend: what the subset adds to all within it.
        """
        masks = range(2 ** len(self.blocks))
        columns: dict[str, Any] = {
            "mask": masks,
            "kept": [self._labels(mask) for mask in masks],
            "deleted": [self._labels(~mask) for mask in masks],
            "size": subset_sizes(len(self.blocks)),
        }
        for name, means in zip(self.quantities, self.values.means, strict=True):
            columns |= {name: means, f"{name} dividend": dividends(means)}
        return pd.DataFrame(columns)

    @cached_property
    def values_frame(self) -> pd.DataFrame:
        """One row per quantity and block: Shapley and Banzhaf value, each with its interval.

        The Shapley values of a quantity sum to that of the full net less that of the one without
        any of the blocks: of an error they are below zero where a block is of use.
        """
        rows = [
            {
                "quantity": quantity,
                "block": block.label,
                "name": block.names[0],
                "changes_shape": block.changes_shape,
                **self._interval(quantity, "shapley", self.values.shapley[q, i]),
                **self._interval(quantity, "banzhaf", self.values.banzhaf[q, i]),
            }
            for q, quantity in enumerate(self.quantities)
            for i, block in enumerate(self.blocks)
        ]
        return pd.DataFrame(rows)

    @cached_property
    def sizes_frame(self) -> pd.DataFrame:
        """One row per quantity and number of kept blocks: the mean over all subsets of that size.

        Beside its interval, the lowest and the highest subset's mean.
        """
        n = len(self.blocks)
        sizes = subset_sizes(n)
        rows = []
        for q, quantity in enumerate(self.quantities):
            for size in range(n + 1):
                each = self.values.means[q, sizes == size]
                rows.append(
                    {
                        "quantity": quantity,
                        "size": size,
                        "subsets": each.size,
                        **self._interval(quantity, "mean", self.values.by_size[q, size]),
                        "lowest": each.min(),
                        "highest": each.max(),
                    }
                )
        return pd.DataFrame(rows)

    @cached_property
    def spectrum_frame(self) -> pd.DataFrame:
        """One row per quantity, keep-probability and order from 1: the share of the variance.

        Of error and loss the variance over subnetworks of the mean over examples; of logits and
        probabilities that of each example's vector, summed over classes and examples.
        """
        n = len(self.blocks)
        rows = [
            {
                "quantity": quantity,
                "keep": keep,
                "deleted": n * (1 - keep),
                "order": order,
                "share": share,
            }
            for quantity, each in self._energies()
            for keep, energies in zip(self.keeps, each, strict=True)
            for order, share in enumerate(variance_shares(energies), start=1)
        ]
        return pd.DataFrame(rows)

    @cached_property
    def effective_frame(self) -> pd.DataFrame:
        """One row per quantity and keep-probability: how many blocks carry the additive part.

        The participation ratio of the blocks' energies at order 1
        (:func:`~ensemble_view.statistics.spectrum.effective_branches`): with an interval over
        examples for logits and probabilities, without one for the means.
        """
        alone = 1 << np.arange(len(self.blocks))
        rows = []
        for name, means in zip(self.quantities, self.values.means, strict=True):
            for keep in self.keeps:
                rows.append((name, keep, (fourier(means, keep)[alone] ** 2)[:, None]))
        for name, singles in zip(self.spectral, self.values.singles, strict=True):
            rows += [(name, keep, each) for keep, each in zip(self.keeps, singles, strict=True)]
        found = []
        for name, keep, energies in rows:
            value, low, high = effective_branches(energies, self.run.level)
            found.append(
                {
                    "quantity": name,
                    "keep": keep,
                    "deleted": len(self.blocks) * (1 - keep),
                    "effective": value,
                    "effective_low": low,
                    "effective_high": high,
                }
            )
        return pd.DataFrame(found)

    @property
    def dividends_frame(self) -> pd.DataFrame:
        """One row per quantity and path length: the energy of the dividends, their law.

        ``energy`` is the sum of squares over all ``paths`` of the length, of logits and
        probabilities the mean over examples.
        """
        sizes = subset_sizes(len(self.blocks))
        squares = {
            name: dividends(means) ** 2
            for name, means in zip(self.quantities, self.values.means, strict=True)
        }
        squares |= {
            name: each / self.run.examples
            for name, each in zip(self.spectral, self.values.dividend_energies, strict=True)
        }
        rows = [
            {
                "quantity": name,
                "length": size,
                "paths": int(np.count_nonzero(sizes == size)),
                "energy": each[sizes == size].sum(),
            }
            for name, each in squares.items()
            for size in range(len(self.blocks) + 1)
        ]
        return pd.DataFrame(rows)

    @property
    def gentle(self) -> float:
        """The keep-probability with two blocks deleted on average, or with as few as there is."""
        few = [keep for keep in self.keeps if keep > 0.5]
        return few[1] if len(few) > 1 else max(self.keeps)

    def share(self, quantity: str, keep: float, order: int) -> float:
        """Look up one share of the spectrum.

        Args:
            quantity: one of ``quantities`` and ``spectral``.
            keep: one of ``keeps``.
            order: from 1.

        Returns:
            A proportion; nan where nothing varies.
        """
        frame = self.spectrum_frame
        row = frame[
            (frame["quantity"] == quantity) & (frame["keep"] == keep) & (frame["order"] == order)
        ]
        return float(row["share"].iloc[0])

    def _labels(self, mask: int) -> str:
        return ",".join(block.label for i, block in enumerate(self.blocks) if mask >> i & 1)

    def _energies(self) -> Iterator[tuple[str, list[Floats]]]:
        for name, means in zip(self.quantities, self.values.means, strict=True):
            yield name, [order_energies(means, keep) for keep in self.keeps]
        for name, each in zip(self.spectral, self.values.energies, strict=True):
            yield name, list(each)

    def _interval(self, quantity: str, name: str, totals: Floats) -> dict[str, float]:
        tokens = self.run.outcomes.weights
        if quantity == "error":
            ends = (0.0, 1.0) if name == "mean" else (-1.0, 1.0)
            found = bounded_mean(totals, tokens, self.run.level, ends=ends)
        else:
            found = ratio_mean(totals, tokens, self.run.level)
        return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The main table, and those of blocks, sizes, spectrum and dividends."""
        return {
            "subsets": self.frame,
            "values": self.values_frame,
            "sizes": self.sizes_frame,
            "spectrum": self.spectrum_frame,
            "dividends": self.dividends_frame,
            "effective": self.effective_frame,
        }

    @property
    def arrays(self) -> Mapping[str, npt.NDArray[Any]]:
        """The values of all subsets, and the outcomes of the full net and the emptiest."""
        return {**self.values.arrays, **self.run.outcomes.arrays}

    def _record(self) -> dict[str, Any]:
        return {
            **self.run.to_json(),
            "block_count": self.block_count,
            "quantities": self.quantities,
            "spectral": self.spectral,
            "keeps": self.keeps,
            "blocks": lesions_of(self.blocks),
            "values": self.values_frame.to_dict("records"),
            "sizes": self.sizes_frame.to_dict("records"),
            "spectrum": self.spectrum_frame.to_dict("records"),
            "dividends": self.dividends_frame.to_dict("records"),
            "effective": self.effective_frame.to_dict("records"),
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        names = [field.name for field in fields(SubsetValues)]
        check_within("a keep-probability", content["keeps"])
        return cls(
            blocks=lesions_restored(content["blocks"], content["block_count"]),
            quantities=tuple(content["quantities"]),
            spectral=tuple(content["spectral"]),
            keeps=tuple(content["keeps"]),
            values=SubsetValues(**files.read_arrays(folder / "outcomes.npz", names)),
            run=Run.restored(content, folder),
            block_count=content["block_count"],
        )
