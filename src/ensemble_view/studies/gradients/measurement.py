"""One batch after another: what paths of each length carry, and the means over all examples."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ensemble_view.core.chain import Chain
from ensemble_view.data.data import examples_in
from ensemble_view.paths.gradients import draw_energies, path_gradients, squares, summed_gradients
from ensemble_view.paths.lengths import iterate_paths, path_lengths, sample_paths, smallest_interval
from ensemble_view.paths.losses import Loss
from ensemble_view.paths.trace import Trace, trace
from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.studies.gradients.result import GradientSettings, LengthRow
from ensemble_view.study.path_subject import pieces, placed

__all__ = ["FEWEST_GROUPS", "Measured", "Measurement", "enough_groups"]

_Floats = npt.NDArray[np.float64]

FEWEST_GROUPS = 16
"""Fewer groups of the energy would not tell its error."""

_MOST_GROUPS = 256
_AIM = 0.05
_RELIABLE = 0.8


@dataclass(frozen=True, eq=False)
class Measurement:
    """What is measured of each batch, and how.

    Args:
        chain: Of blocks of one sum each.
        settings: Methods and numbers.
        loss: Of each example.
        at: Block at whose input the gradient is taken; None: the model's input.
        seed: Of every random choice.
        batch_size: Examples at a time; of as many is one cotangent for each length held.
        chunk: Lengths that go through a block at a time.
        device: Where the chain lives.
    """

    chain: Chain
    settings: GradientSettings
    loss: Loss
    at: int | None
    seed: int
    batch_size: int
    chunk: int
    device: torch.device

    @property
    def blocks(self) -> int:
        """The number of blocks that paths go through."""
        return len(self.chain) - (self.at or 0)

    def of_batch(
        self, inputs: Any, labels: Any, number: int, progress: Callable[[int], None]
    ) -> Measured:
        """Measure one batch.

        Args:
            inputs: The model's.
            labels: Of the loss.
            number: Which batch it is; its random choices are its own.
            progress: Told of the branch VJPs done, times examples.

        Returns:
            What was measured.
        """
        found = Measured(self.blocks)
        methods = self.settings.methods
        for part_inputs, part_labels in pieces(inputs, labels, self.batch_size):
            found.examples += examples_in(part_inputs)
            if "summed" in methods or "sampled" in methods:
                traced = self.traced(part_inputs, part_labels)
                if "summed" in methods:
                    self._sum(traced, found, progress)
                if "sampled" in methods:
                    self._sample(traced, found, number, progress)
                del traced
        if "energy" in methods:
            generator = self.generator("energy", number)
            groups = self.settings.groups or FEWEST_GROUPS
            found.energies = self.energies(inputs, labels, groups, generator, progress)
        return found

    def traced(self, inputs: Any, labels: Any) -> Trace:
        """Run the net on examples and keep what gradients need.

        Args:
            inputs: The model's.
            labels: Of the loss.

        Returns:
            The trace.
        """
        inputs, labels = placed(inputs, self.device), placed(labels, self.device)
        return trace(self.chain, inputs, labels, loss=self.loss, at=self.at)

    def generator(self, purpose: str, number: int = 0) -> torch.Generator:
        """Make a generator whose draws have nothing to do with those of other purposes.

        Args:
            purpose: What for.
            number: Of the batch.

        Returns:
            The generator, on the CPU.
        """
        seed = random.Random(f"{self.seed} {purpose} {number}").getrandbits(63)
        return torch.Generator().manual_seed(seed)

    def energies(
        self,
        inputs: Any,
        labels: Any,
        groups: int,
        generator: torch.Generator,
        progress: Callable[[int], None],
    ) -> _Floats:
        """Draw the energy of a batch, several times independently.

        Args:
            inputs: The model's.
            labels: Of the loss.
            groups: How often.
            generator: Of the draws.
            progress: Told of the branch VJPs done, times examples.

        Returns:
            Sums over the examples, (groups, lengths).
        """
        vectors = self.settings.vectors
        found = np.zeros((groups, self.blocks + 1))
        # So many vectors more are held per example, so that much fewer examples at a time.
        for part_inputs, part_labels in pieces(inputs, labels, max(1, self.batch_size // vectors)):
            traced = self.traced(part_inputs, part_labels)
            for group in range(groups):
                done = traced.branch_vjps
                drawn = draw_energies(traced, generator, vectors=vectors, chunk=self.chunk)
                found[group] += drawn.sum(0).cpu().numpy()
                progress((traced.branch_vjps - done) * len(drawn))
        return found

    def _sum(self, traced: Trace, found: Measured, progress: Callable[[int], None]) -> None:
        done, examples = traced.branch_vjps, len(traced.start)
        gradients = [g.flatten(1) for g in summed_gradients(traced, chunk=self.chunk)]
        if self.settings.batchnorm == "training":
            # The examples of a batch act on each other: it is one, with the gradient of its mean.
            gradients = [g.reshape(1, -1) / examples for g in gradients]
        whole = _total(gradients)
        square = whole.square().sum(1)
        products = torch.stack([(g.double() * whole).sum(1) for g in gradients], 1)
        found.squares.append(squares(gradients).cpu().numpy())
        shares = products / square[:, None]
        found.shares.append(shares[square > 0].cpu().numpy())
        found.wholes.append(square[square > 0].cpu().numpy())
        progress((traced.branch_vjps - done) * examples)

    def _sample(
        self, traced: Trace, found: Measured, number: int, progress: Callable[[int], None]
    ) -> None:
        examples = len(traced.start)
        paths = [
            (length, path)
            for length in range(self.blocks + 1)
            for path in self._paths(length, number)
        ]
        norms: list[list[_Floats]] = [[] for _ in range(self.blocks + 1)]
        # As many at a time as there are lengths, so that no more is held than for the sums.
        step = self.blocks + 1
        for start in range(0, len(paths), step):
            some = paths[start : start + step]
            done = traced.branch_vjps
            of_paths = squares(path_gradients(traced, [set(path) for _, path in some])).T
            if self.settings.norm == "batch":
                of_paths = of_paths.sum(1, keepdim=True) / examples**2
            for (length, _), row in zip(some, of_paths.sqrt().cpu().numpy(), strict=True):
                norms[length].append(row)
            progress((traced.branch_vjps - done) * examples)
        for length, rows in enumerate(norms):
            found.norms[length].append(np.concatenate(rows))

    def _paths(self, length: int, number: int) -> Iterator[tuple[int, ...]]:
        samples = self.settings.samples
        if path_lengths(self.blocks).counts[length] <= samples:
            return iterate_paths(self.blocks, length)
        seed = random.Random(f"{self.seed} sampled {number} {length}").getrandbits(63)
        return sample_paths(self.blocks, samples, length=length, seed=seed)


@dataclass(eq=False)
class Measured:
    """What was measured so far.

    Args:
        blocks: That paths go through.
        examples: How many were measured.
        squares: Of each batch ‖c_k‖², (examples, lengths).
        shares: Of each batch π_k, (examples with a gradient, lengths).
        wholes: Of each batch ‖g‖², (examples with a gradient).
        energies: Sums over examples, (groups, lengths).
        norms: Of each length those along single paths, batch after batch.
    """

    blocks: int
    examples: int = 0
    squares: list[_Floats] = field(default_factory=list)
    shares: list[_Floats] = field(default_factory=list)
    wholes: list[_Floats] = field(default_factory=list)
    energies: _Floats | None = None
    norms: list[list[_Floats]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.norms = self.norms or [[] for _ in range(self.blocks + 1)]

    def add(self, other: Measured) -> None:
        """Take in what was measured of another batch.

        Args:
            other: Of the same net in the same way.
        """
        self.examples += other.examples
        self.squares += other.squares
        self.shares += other.shares
        self.wholes += other.wholes
        if other.energies is not None:
            before = 0 if self.energies is None else self.energies
            self.energies = before + other.energies
        for mine, others in zip(self.norms, other.norms, strict=True):
            mine += others

    @property
    def negative_mass(self) -> float | None:
        """Mean over examples of the sum of negative shares, as a positive number."""
        if not sum(map(len, self.shares)):
            return None
        return float(np.clip(-np.concatenate(self.shares), 0, None).sum(1).mean())

    @property
    def projected_mean(self) -> tuple[float, float] | None:
        """A t interval over examples of the mean length that their shares give."""
        if sum(map(len, self.shares)) < 2:
            return None
        found = ratio_mean(np.concatenate(self.shares) @ np.arange(self.blocks + 1))
        return found.low, found.high

    @property
    def pooled_mean(self) -> tuple[float, float] | None:
        """An interval over examples of the mean length of the ratio of sums, each of its size."""
        if sum(map(len, self.shares)) < 2:
            return None
        wholes = np.concatenate(self.wholes)
        lengths = np.concatenate(self.shares) @ np.arange(self.blocks + 1)
        # Squares of gradients are small numbers; the ratio has no scale.
        sizes = wholes / wholes.max()
        kept = sizes > 0
        if np.count_nonzero(kept) < 2:
            return None
        found = ratio_mean((lengths * sizes)[kept], sizes[kept])
        return found.low, found.high

    @property
    def undefined(self) -> int:
        """Examples without any gradient."""
        return sum(map(len, self.squares)) - sum(map(len, self.shares))

    def rows(self) -> tuple[LengthRow, ...]:
        """Take the means over all examples.

        Returns:
            One row per length.
        """
        columns: dict[str, list[Any]] = {}
        if self.squares:
            squared = np.concatenate(self.squares)
            columns |= _mean_columns("summed_norm", np.sqrt(squared))
            if sum(map(len, self.shares)):
                shares, wholes = np.concatenate(self.shares), np.concatenate(self.wholes)
                columns |= _mean_columns("projected", shares)
                columns |= _pooled_columns(shares, wholes)
        if self.energies is not None:
            columns |= _energy_columns(self.energies / self.examples)
        if self.squares and self.energies is not None:
            columns["coherence"] = [
                float(square / energy) if energy > 0 else None
                for square, energy in zip(squared.mean(0), columns["energy"], strict=True)
            ]
        if self.norms[0]:
            together = [np.concatenate(each) for each in self.norms]
            columns["sampled_mean"] = [float(each.mean()) for each in together]
            columns["sampled_median"] = [float(np.median(each)) for each in together]
        return tuple(
            LengthRow(length, paths, **{name: column[length] for name, column in columns.items()})
            for length, paths in enumerate(path_lengths(self.blocks).counts)
        )


def _mean_columns(name: str, values: _Floats) -> Mapping[str, list[Any]]:
    """Of (examples, lengths) the mean, and its standard error where there are several examples."""
    found = {name: values.mean(0).tolist()}
    if len(values) > 1:
        found[f"{name}_se"] = (values.std(0, ddof=1) / math.sqrt(len(values))).tolist()
    return found


def _pooled_columns(shares: _Floats, wholes: _Floats) -> Mapping[str, list[Any]]:
    """The ratio of sums over examples, with the jackknife's standard error."""
    sizes = wholes / wholes.max()
    total = float(sizes.sum())
    pooled = sizes @ shares / total
    found = {"pooled": pooled.tolist()}
    left = sizes / total
    # One example that has all of the gradient leaves nothing to tell an error by.
    if len(shares) > 1 and left.max() < 1:
        residuals = (shares - pooled) * (left / (1 - left))[:, None]
        n = len(shares)
        found["pooled_se"] = np.sqrt((n - 1) / n * (residuals**2).sum(0)).tolist()
    return found


def _energy_columns(groups: _Floats) -> Mapping[str, list[Any]]:
    mean = groups.mean(0)
    error = groups.std(0, ddof=1) / math.sqrt(len(groups))
    return {
        "energy": mean.tolist(),
        "energy_se": error.tolist(),
        # Where a few groups hold most of it, their spread tells little of the error.
        "energy_reliable": (np.median(groups, axis=0) >= _RELIABLE * mean).tolist(),
    }


def enough_groups(pilot: _Floats, examples: int, in_pilot: int) -> int:
    """Reckon from a pilot how many groups bring the energy's relative error down to 5 %.

    Args:
        pilot: Means over its examples, (groups, lengths).
        examples: In the study.
        in_pilot: Examples in the pilot.

    Returns:
        From 16 to 256, for the lengths that hold 95 % of the energy.

    Example:
        >>> enough_groups(np.array([[1.0, 2.0], [1.0, 6.0]] * 8), examples=100, in_pilot=1)
        16
        >>> enough_groups(np.array([[1.0, 2.0], [1.0, 6.0]] * 8), examples=1, in_pilot=1)
        107
    """
    mean = pilot.mean(0)
    if not mean.sum() > 0:
        return FEWEST_GROUPS
    low, high = smallest_interval(mean.tolist())
    span = slice(low, high + 1)
    spread = pilot.std(0, ddof=1)[span] / mean[span]
    # Examples are mixed independently, so that their mean spreads by the root of their number less.
    needed = float((spread**2).max()) * in_pilot / max(examples, 1) / _AIM**2
    return min(max(math.ceil(needed), FEWEST_GROUPS), _MOST_GROUPS)


def _total(gradients: list[Tensor]) -> Tensor:
    whole = gradients[0].double()
    for gradient in gradients[1:]:
        whole = whole + gradient.double()
    return whole
