"""From the outcomes of all 2^n subsets on a batch to what is kept of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.spectrum import dividends, fourier, order_energies

if TYPE_CHECKING:
    pass

from collections.abc import Callable, Sequence
from dataclasses import field

from scipy.special import softmax

from ensemble_view.measures.language import Language
from ensemble_view.measures.logits import ClassificationWithLogits
from ensemble_view.measures.measure import Measure
from ensemble_view.measures.own import OwnMeasure
from ensemble_view.statistics.spectrum import banzhaf_values, mean_by_size, shapley_values

__all__ = ["Quantities", "SubsetReduction", "SubsetValues", "quantities_of"]

Floats = npt.NDArray[np.float64]
Outcomes = Mapping[str, npt.NDArray[Any]]

# Numbers of a piece of the logits of all subsets: small enough for a processor's cache.
_PIECE = 2**18


@dataclass(frozen=True)
class Quantities:
    """What a measure's outcomes say of each plan and example, as numbers.

    Args:
        scalars: By name, from outcomes to an array (plans, examples).
        vectors: By name, from the outcomes of some examples to one (plans, examples, classes).
    """

    scalars: Mapping[str, Callable[[Outcomes], Floats]]
    vectors: Mapping[str, Callable[[Outcomes], Floats]]


def quantities_of(measure: Measure) -> Quantities:
    """Say what numbers a measure gives.

    Args:
        measure: Of classification with logits, of text, or of a user.

    Returns:
        Error and loss, with logits and probabilities as vectors; the loss per sequence; or the
        measure itself.
    """
    if isinstance(measure, OwnMeasure):
        return Quantities({measure.name: lambda found: found["values"]}, {})
    if isinstance(measure, Language):
        return Quantities({"loss per token": lambda found: found["loss"]}, {})
    assert isinstance(measure, ClassificationWithLogits)
    names = measure.logit_names

    def logits(found: Outcomes) -> Floats:
        return np.stack([found[name] for name in names], axis=-1, dtype=np.float64)

    return Quantities(
        {
            "error": lambda found: 1.0 - found["correct"],
            "loss": lambda found: found["loss"].astype(np.float64),
        },
        {"logits": logits, "probabilities": lambda found: softmax(logits(found), axis=-1)},
    )


@dataclass(frozen=True, eq=False)
class _Sums:
    """What is summed over a batch's examples."""

    totals: Floats
    energies: Floats
    dividend_energies: Floats


@dataclass(frozen=True, eq=False)
class SubsetReduction:
    """Keeps of a batch what is linear in f for each example, and sums of the rest.

    Called with outcomes of which the first plan is the full net and the others all subsets by bit
    mask, it gives the outcomes of the full net and of the empty subset, and the linear transforms
    of each example by the names of :class:`SubsetValues`, joined along the first axis.

    Args:
        quantities: What is transformed.
        keeps: Keep-probabilities of the spectra.
        sums: One entry per batch.
    """

    quantities: Quantities
    keeps: Sequence[float]
    sums: list[_Sums] = field(default_factory=list)

    def __call__(self, outcomes: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Reduce one batch.

        Args:
            outcomes: Arrays (1 + 2^n, examples).

        Returns:
            Arrays (..., examples).
        """
        subsets = {name: array[1:] for name, array in outcomes.items()}
        scalars = [np.asarray(f(subsets), np.float64) for f in self.quantities.scalars.values()]
        spectra = [self._spectrum(f, subsets) for f in self.quantities.vectors.values()]
        count = len(next(iter(subsets.values())))
        orders = count.bit_length()
        self.sums.append(
            _Sums(
                totals=np.stack([f.sum(axis=1) for f in scalars]),
                energies=np.array([each[0] for each in spectra]).reshape(
                    len(spectra), len(self.keeps), orders
                ),
                dividend_energies=np.array([each[1] for each in spectra]).reshape(-1, count),
            )
        )
        return {
            **{
                name: array[:2] for name, array in outcomes.items() if not name.startswith("logit ")
            },
            "shapley": np.concatenate([shapley_values(f) for f in scalars]),
            "banzhaf": np.concatenate([banzhaf_values(f) for f in scalars]),
            "by_size": np.concatenate([mean_by_size(f) for f in scalars]),
            "singles": np.concatenate([each[2].reshape(-1, each[2].shape[-1]) for each in spectra])
            if spectra
            else np.zeros((0, scalars[0].shape[1])),
        }

    def _spectrum(
        self, vectors: Callable[[Outcomes], Floats], subsets: Outcomes
    ) -> tuple[Floats, Floats, Floats]:
        """Energies by keep-probability and order, of each subset's dividend, of each block's."""
        count, examples = next(iter(subsets.values())).shape
        width = max(1, vectors({name: a[:1, :1] for name, a in subsets.items()}).shape[-1])
        step = max(1, _PIECE // (count * width))
        energies: Any = 0.0
        squares: Any = 0.0
        singles: list[Floats] = []
        alone = 1 << np.arange(count.bit_length() - 1)
        for start in range(0, examples, step):
            piece = {name: a[:, start : start + step] for name, a in subsets.items()}
            f = vectors(piece)
            energies += np.stack([order_energies(f, keep) for keep in self.keeps])
            # A block's energy at order 1, example by example: (keep-probabilities, n, examples).
            singles.append(
                np.stack([np.sum(fourier(f, keep)[alone] ** 2, axis=-1) for keep in self.keeps])
            )
            paths = dividends(f).reshape(count, -1)
            squares += np.einsum("se,se->s", paths, paths)
        return energies, squares, np.concatenate(singles, axis=-1)

    def values(
        self, kept: Mapping[str, npt.NDArray[Any]], batches: int, units: float
    ) -> SubsetValues:
        """Put together what was kept of the completed batches.

        Args:
            kept: The transforms of each example, by name.
            batches: How many were completed; an interruption may have left one more sum.
            units: Examples, or tokens, that the totals are divided by.

        Returns:
            The values.
        """
        count, sums = len(self.quantities.scalars), self.sums[:batches]
        transforms = {
            name: kept[name].reshape(count, -1, kept[name].shape[-1])
            for name in ("shapley", "banzhaf", "by_size")
        }
        singles = kept["singles"]
        spectral, keeps = len(self.quantities.vectors), len(self.keeps)
        return SubsetValues(
            singles=singles.reshape(spectral, keeps, -1, singles.shape[-1])
            if spectral
            else np.zeros((0, keeps, transforms["shapley"].shape[1], singles.shape[-1])),
            means=np.sum([each.totals for each in sums], axis=0) / units,
            energies=np.sum([each.energies for each in sums], axis=0),
            dividend_energies=np.sum([each.dividend_energies for each in sums], axis=0),
            **transforms,
        )


@dataclass(frozen=True, eq=False)
class SubsetValues:
    """What is kept of f(kept blocks) on all 2^n subsets of n blocks.

    Quantities have one number per subset and example; only what is linear in it is kept of each
    example. Spectral quantities are vectors per subset and example, of which energies are kept.
    A subset is a bit mask; bit i says that block i of those chosen is kept.

    Attributes:
        means: mean over examples (per token for text), shape ``[quantities, 2^n]``.
        shapley: Shapley values of each example, shape ``[quantities, n, examples]``.
        banzhaf: Banzhaf values of each example, same shape.
        by_size: mean over the subsets of each size, shape ``[quantities, n + 1, examples]``.
        energies: squared Fourier coefficients by order, summed over examples, shape
            ``[spectral quantities, keep-probabilities, n + 1]``.
        dividend_energies: squared Möbius dividends of each subset, summed over examples, shape
            ``[spectral quantities, 2^n]``.
        singles: energy of each block at order 1 on each example, shape
            ``[spectral quantities, keep-probabilities, n, examples]``.
    """

    means: Floats
    shapley: Floats
    banzhaf: Floats
    by_size: Floats
    energies: Floats
    dividend_energies: Floats
    singles: Floats

    def __post_init__(self) -> None:
        quantities, subsets = self.means.shape
        n, examples = self.blocks, self.shapley.shape[2]
        spectral, keeps, _ = self.energies.shape
        expected = {
            "means": (quantities, 2**n),
            "shapley": (quantities, n, examples),
            "banzhaf": (quantities, n, examples),
            "by_size": (quantities, n + 1, examples),
            "energies": (spectral, keeps, n + 1),
            "dividend_energies": (spectral, subsets),
            "singles": (spectral, keeps, n, examples),
        }
        for name, shape in expected.items():
            if self.arrays[name].shape != shape:
                raise MeasurementError(
                    f"The subsets' {name} have shape {self.arrays[name].shape}; expected {shape}; "
                    "keep them of the same blocks and examples."
                )

    @property
    def blocks(self) -> int:
        """How many blocks were kept or deleted, n."""
        return int(self.shapley.shape[1])

    @property
    def arrays(self) -> dict[str, Floats]:
        """All arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
