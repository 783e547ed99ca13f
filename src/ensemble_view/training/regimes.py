"""Which blocks a training batch goes through: all, some at random, or a fixed number of them.

The architecture says which, because it also says what a branch counts in evaluation: `survival=50`
is stochastic depth, `kept=23` means that many blocks per batch, neither is ordinary training. So a
net that was trained with branches missing is evaluated as such wherever its checkpoint is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ensemble_view.nets.models.architecture import Architecture
from ensemble_view.nets.models.blocks import SkippableBlock

__all__ = [
    "EffectivePaths",
    "Ordinary",
    "Regime",
    "StochasticDepth",
    "regime_of",
    "without_dropped",
]


@dataclass(frozen=True)
class Ordinary:
    """Every batch goes through every block.

    Example:
        >>> Ordinary().draw([SkippableBlock()], torch.Generator())
        [True]
    """

    def draw(self, blocks: Sequence[SkippableBlock], generator: torch.Generator) -> list[bool]:
        """Say which branches are there in the next batch."""
        return [True] * len(blocks)

    def to_json(self) -> dict[str, Any]:
        """Return the regime as plain values."""
        return {"name": "ordinary"}


@dataclass(frozen=True)
class StochasticDepth:
    """Each branch is there or not, independently, in each batch.

    Huang et al. 2016 (arXiv 1603.09382): block l of L is there with probability 1 - (1 - p) l / L.

    Args:
        last_survival: p, the probability of the last block.

    Example:
        >>> StochasticDepth(0.5).to_json()
        {'name': 'stochastic depth', 'last_survival': 0.5}
    """

    last_survival: float

    def draw(self, blocks: Sequence[SkippableBlock], generator: torch.Generator) -> list[bool]:
        """Say which branches are there in the next batch."""
        draws: list[float] = torch.rand(len(blocks), generator=generator).tolist()
        return [value < block.survival for value, block in zip(draws, blocks, strict=True)]

    def to_json(self) -> dict[str, Any]:
        """Return the regime as plain values."""
        return {"name": "stochastic depth", "last_survival": self.last_survival}


@dataclass(frozen=True)
class EffectivePaths:
    """Each batch goes through the same number of branches, drawn evenly.

    Veit et al. 2016 (arXiv 1605.06431), section 5: with 23 of 54, paths in training are as long
    as those that carry gradient in the full net, and none is longer than 23. What the branches
    count in evaluation the paper leaves open; here it is the share of batches in which they were
    there, as in stochastic depth.

    Args:
        kept: How many.

    Example:
        >>> sum(EffectivePaths(2).draw([SkippableBlock()] * 5, torch.Generator()))
        2
    """

    kept: int

    def draw(self, blocks: Sequence[SkippableBlock], generator: torch.Generator) -> list[bool]:
        """Say which branches are there in the next batch."""
        chosen = set(torch.randperm(len(blocks), generator=generator)[: self.kept].tolist())
        return [index in chosen for index in range(len(blocks))]

    def to_json(self) -> dict[str, Any]:
        """Return the regime as plain values."""
        return {"name": "effective paths", "kept": self.kept}


Regime = Ordinary | StochasticDepth | EffectivePaths


def regime_of(architecture: Architecture) -> Regime:
    """Return how a net is trained that is evaluated as its architecture says.

    Args:
        architecture: The architecture.

    Returns:
        The regime.

    Example:
        >>> regime_of(Architecture.parse("resnet110,kept=23"))
        EffectivePaths(kept=23)
    """
    options = architecture.options
    if "kept" in options:
        return EffectivePaths(int(options["kept"]))
    if int(options.get("survival", 100)) < 100:
        return StochasticDepth(int(options["survival"]) / 100)
    return Ordinary()


@contextmanager
def without_dropped(blocks: Sequence[SkippableBlock], kept: Sequence[bool]) -> Iterator[None]:
    """Leave branches out while this lasts.

    Args:
        blocks: The blocks of a net in training mode.
        kept: Which branches are there.

    Example:
        >>> block = SkippableBlock()
        >>> with without_dropped([block], [False]):
        ...     block.is_dropped
        True
        >>> block.is_dropped
        False
    """
    try:
        for block, keep in zip(blocks, kept, strict=True):
            block.keep = keep
        yield
    finally:
        for block in blocks:
            block.keep = True
