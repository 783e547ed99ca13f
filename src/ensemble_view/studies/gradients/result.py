"""The result of weighing paths by the gradient they carry: a row per length, four weightings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import pandas as pd

from ensemble_view.errors import MeasurementError
from ensemble_view.paths.lengths import PathLengths, smallest_interval
from ensemble_view.study.checked import check_within
from ensemble_view.study.provenance import Provenance
from ensemble_view.study.result import StudyResult

__all__ = [
    "EffectiveLengths",
    "GradientCost",
    "GradientSettings",
    "GradientsByLength",
    "LengthRow",
]

_SHARE = 0.95


@dataclass(frozen=True)
class LengthRow:
    """What was measured of the paths of one length; None for methods that did not run.

    Attributes:
        length: how many branches they go through.
        paths: how many there are.
        summed_norm: mean over examples of the norm of the gradient summed over all of them; exact.
        projected: mean over examples of π = ⟨c, g⟩ / ‖g‖², the share of the whole gradient g that
            their sum c supplies; exact; the rows sum to one.
        energy: mean over examples of the sum of the squared norms of their gradients; estimated.
        energy_se: its standard error, from independent groups.
        energy_reliable: whether that error can be trusted: the median of the groups is at least 0.8
            of their mean.
        sampled_mean: mean norm of the gradient along a single one of them.
        sampled_median: its median.
        coherence: squared norm of the sum over energy, between 0 and ``paths``: 1 where they are
            orthogonal, above where they reinforce each other, below where they cancel.
        summed_norm_se: standard error of ``summed_norm`` over examples; None of a single one. Norms
            are skewed (of a well-trained net few examples carry most of the gradient): twice it
            each way holds the mean less often than 95 %, much less of few examples.
        projected_se: standard error of ``projected`` over examples.
        pooled: ratio of sums ``Σ⟨c, g⟩ / Σ‖g‖²`` over examples: π with each example weighted by its
            squared gradient; exact; the rows sum to one.
        pooled_se: its standard error over examples, the jackknife's.
    """

    length: int
    paths: int
    summed_norm: float | None = None
    projected: float | None = None
    energy: float | None = None
    energy_se: float | None = None
    energy_reliable: bool | None = None
    sampled_mean: float | None = None
    sampled_median: float | None = None
    coherence: float | None = None
    summed_norm_se: float | None = None
    projected_se: float | None = None
    pooled: float | None = None
    pooled_se: float | None = None


@dataclass(frozen=True)
class GradientCost:
    """What the measurement cost.

    Attributes:
        branch_vjps: vector–Jacobian products of single branches that each example went through; a
            batched call over K cotangents counts K. One ordinary backward pass has as many as
            there are blocks.
        by_method: the same, method by method.
        examples: how many examples.
    """

    branch_vjps: int
    by_method: Mapping[str, int]
    examples: int


@dataclass(frozen=True)
class GradientSettings:
    """How it was measured.

    Attributes:
        methods: ``summed`` (which gives ``projected`` too), ``energy``, ``sampled``.
        at: where the gradient is taken: ``block 0`` (at its input) or ``input`` (of the model).
        loss: its name; of each example its own.
        vectors: columns that are mixed for the energy.
        groups: independent draws of the energy; None if it was not measured.
        samples: paths drawn per length and batch; all, where there are no more than that.
        norm: of ``sampled``: ``example`` (each example's own) or ``batch`` (of the gradient of the
            batch's mean loss).
        unit: what an example is: ``examples`` or ``sequences``.
        batchnorm: whose statistics BatchNorm used: those of ``evaluation``, or in ``training`` form
            those of each batch, which is then what is measured, by the gradient of its mean loss.
    """

    methods: tuple[str, ...]
    at: str
    loss: str
    vectors: int
    groups: int | None
    samples: int
    norm: str
    unit: str = "examples"
    batchnorm: str = "evaluation"


@dataclass(frozen=True)
class EffectiveLengths:
    """The smallest interval of lengths that holds 95 % of a weighting.

    Attributes:
        low: shortest length in it.
        high: longest length in it.
        mean: mean length under that weighting.
        share_of_paths: share of all paths whose length lies in the interval.
    """

    low: int
    high: int
    mean: float
    share_of_paths: float


@dataclass(frozen=True, repr=False)
class GradientsByLength(StudyResult):
    """The gradient that paths carry, by their length.

    Attributes:
        rows: one per length, from 0 to the number of blocks.
        settings: how it was measured.
        cost: branch vector–Jacobian products.
        negative_mass: mean over examples of the sum of the negative shares π, as a positive number;
            None unless ``summed`` ran.
        undefined: examples whose whole gradient is zero, so that they have no shares.
        seconds: wall-clock time.
        provenance: net, data, versions, seed.
        interrupted: whether it was stopped early; what is here is of the examples done by then.
        untrained: the same of the net before training, if that was asked for.
        projected_mean: lower and upper limit of the mean length by ``projected``, a 95 % t interval
            over examples; None unless ``summed`` ran on several.
        pooled_mean: the same of the mean length by ``pooled``, by the ratio estimator
            (:func:`~ensemble_view.statistics.ratios.ratio_mean`), whose freedom falls where few
            examples have most of the gradient.

    Example:
        Two blocks whose branches multiply by 3, so that paths carry 1, 3, 3 and 9.

        >>> provenance = Provenance({"name": "net"}, {"name": "one"}, {}, seed=0, command="",
        ...                         date="", device="cpu", threads=1, batch_size=1)
        >>> rows = tuple(LengthRow(k, [1, 2, 1][k], summed_norm=[1.0, 6.0, 9.0][k],
        ...                        projected=[1 / 16, 6 / 16, 9 / 16][k]) for k in range(3))
        >>> settings = GradientSettings(("summed",), "block 0", "loss", 16, None, 0, "example")
        >>> result = GradientsByLength(rows, settings, GradientCost(3, {"summed": 3}, 1), 0.0, 0,
        ...                            0.1, provenance)
        >>> result.effective["projected"]
        EffectiveLengths(low=0, high=2, mean=1.5, share_of_paths=1.0)
        >>> result.frame[["length", "paths", "summed_norm", "projected"]]
           length  paths  summed_norm  projected
        0       0      1          1.0     0.0625
        1       1      2          6.0     0.3750
        2       2      1          9.0     0.5625
    """

    kind = "gradients by path length"
    file_name = "gradients"

    rows: tuple[LengthRow, ...]
    settings: GradientSettings
    cost: GradientCost
    negative_mass: float | None
    undefined: int
    seconds: float
    provenance: Provenance
    interrupted: bool = False
    untrained: GradientsByLength | None = None
    projected_mean: tuple[float, float] | None = None
    pooled_mean: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if [row.length for row in self.rows] != list(range(len(self.rows))) or not self.rows:
            raise MeasurementError(
                f"There are rows of lengths {[row.length for row in self.rows]}; expected each "
                "length from 0 on, once; give one row per length in order."
            )

    @property
    def blocks(self) -> int:
        """The number of blocks that paths go through."""
        return len(self.rows) - 1

    @property
    def examples(self) -> int:
        """How many examples were measured."""
        return self.cost.examples

    @property
    def frame(self) -> pd.DataFrame:
        """One row per length, with the columns of :class:`LengthRow`; nan for what did not run."""
        return pd.DataFrame(
            {
                field.name: pd.Series(
                    [getattr(row, field.name) for row in self.rows],
                    # Exact integers, however large, and true, false or unknown.
                    dtype=object if field.name in ("paths", "energy_reliable") else None,
                )
                if any(getattr(row, field.name) is not None for row in self.rows)
                else pd.Series([math.nan] * len(self.rows))
                for field in fields(LengthRow)
            }
        )

    @cached_property
    def weights(self) -> dict[str, tuple[float, ...]]:
        """Of each weighting that was measured, the share of each length; each sums to one.

        ``summed`` (norm of the sum), ``projected`` (share of the gradient; can be negative),
        ``pooled`` (the same as a ratio of sums over examples), ``energy``, and ``sampled`` (number
        of paths × mean norm, as in figure 6(c) of Veit et al.).
        """
        columns = {
            "summed": [row.summed_norm for row in self.rows],
            "projected": [row.projected for row in self.rows],
            "pooled": [row.pooled for row in self.rows],
            "energy": [row.energy for row in self.rows],
            "sampled": [row.sampled_mean for row in self.rows],
        }
        found = {}
        for name, column in columns.items():
            values = [value for value in column if value is not None]
            total = math.fsum(values)
            if len(values) == len(self.rows) and total > 0:
                found[name] = (
                    PathLengths(tuple(row.paths for row in self.rows)).weights(values)
                    if name == "sampled"
                    else tuple(value / total for value in values)
                )
        return found

    @cached_property
    def effective(self) -> dict[str, EffectiveLengths]:
        """Of each weighting, the smallest interval of lengths with 95 % of it."""
        lengths = PathLengths(tuple(row.paths for row in self.rows))
        found = {}
        for name, weights in self.weights.items():
            low, high = smallest_interval(weights, _SHARE)
            mean = math.fsum(length * weight for length, weight in enumerate(weights))
            found[name] = EffectiveLengths(low, high, mean, lengths.share(low, high))
        return found

    @property
    def overstatement(self) -> tuple[float | None, ...]:
        """Of each length, (number of paths × sampled mean norm) / norm of the sum.

        How far the paper's figure 6(c) lies above the exact gradient; None where not both were
        measured, or one of examples and the other of batches.
        """
        if self.settings.norm == "batch" and self.settings.batchnorm == "evaluation":
            return (None,) * len(self.rows)
        return tuple(
            math.exp(math.log(row.paths) + math.log(row.sampled_mean) - math.log(row.summed_norm))
            if row.sampled_mean and row.summed_norm
            else None
            for row in self.rows
        )

    @property
    def stopped_after(self) -> int | None:
        """How many examples the result is of, if the user stopped the study early."""
        return self.cost.examples if self.interrupted else None

    def _record(self) -> dict[str, Any]:
        return {
            **self.provenance.to_json(),
            "settings": asdict(self.settings),
            "cost": asdict(self.cost),
            "negative_mass": self.negative_mass,
            "undefined": self.undefined,
            "projected_mean": self.projected_mean,
            "pooled_mean": self.pooled_mean,
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "effective": {name: asdict(each) for name, each in self.effective.items()},
            "rows": [asdict(row) for row in self.rows],
            "untrained": None if self.untrained is None else self.untrained.to_json(),
        }

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """A row per length, and that of the untrained net where it was measured."""
        untrained = {} if self.untrained is None else {"untrained": self.untrained.frame}
        return {"gradients": self.frame} | {
            f"gradients_{name}": frame for name, frame in untrained.items()
        }

    @classmethod
    def _restored(cls, content: Mapping[str, Any], folder: Path) -> Self:
        return cls.from_json(content)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Make a result of what :meth:`to_json` gave.

        Args:
            content: plain JSON values.

        Returns:
            An equal result.

        Raises:
            KeyError: if an entry is missing.
            TypeError: if one is of another kind.
        """
        settings = {**content["settings"], "methods": tuple(content["settings"]["methods"])}
        untrained = content.get("untrained")
        limits = {
            name: None if content.get(name) is None else tuple(content[name])
            for name in ("projected_mean", "pooled_mean")
        }
        rows = tuple(LengthRow(**row) for row in content["rows"])
        for name in ("summed_norm", "energy", "sampled_mean", "sampled_median"):
            values = [getattr(row, name) for row in rows]
            check_within(f"{name} of a length", values, 0, math.inf)
        check_within("the number of paths", [row.paths for row in rows], 0, math.inf)
        check_within("the number of examples", [content["cost"]["examples"]], 1, math.inf)
        check_within("the time in seconds", [content["seconds"]], 0, math.inf)
        return cls(
            rows=rows,
            settings=GradientSettings(**settings),
            cost=GradientCost(**content["cost"]),
            negative_mass=content["negative_mass"],
            undefined=content["undefined"],
            seconds=content["seconds"],
            provenance=Provenance.from_json(content),
            interrupted=content["interrupted"],
            untrained=None if untrained is None else cls.from_json(untrained),
            **limits,
        )
