"""What every study asks of its data, whatever the examples are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils import _pytree as pytree

from ensemble_view.data.seeds import check_seed

__all__ = ["Data", "Portion", "chosen", "examples_in"]


class Data(ABC):
    """Examples in a fixed order, given out as batches of inputs and targets.

    Every pass gives the same batches, so that outcomes per example can be paired between passes.
    """

    name: str
    unit = "examples"

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def batches(self, batch_size: int = 64) -> Iterator[tuple[Any, Any]]:
        """Yield (inputs, targets), always in one order."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a SHA-256 over inputs and targets."""

    @abstractmethod
    def subset(self, limit: int, seed: int = 0) -> Data:
        """Return at most `limit` examples."""

    @abstractmethod
    def to_json(self) -> dict[str, object]:
        """Return name, size, fingerprint and what else was done to the data as plain values."""

    def portions(self) -> Sequence[Portion]:
        """Return the parts of equal shape, for each of which a model is taken apart anew."""
        return (Portion(self, None),)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self)} examples)"


@dataclass(frozen=True, eq=False)
class Portion:
    """Examples of one shape.

    Args:
        data: The examples.
        positions: Where they stand in the whole data, (N,); None where they are all of it.
        size: How much larger an example of the first portion is; so many more fit into a batch.
    """

    data: Data
    positions: npt.NDArray[np.int64] | None
    size: float = 1.0


def chosen(count: int, limit: int, seed: int) -> npt.NDArray[np.int64]:
    """Choose examples at random.

    Args:
        count: How many there are.
        limit: How many are wanted.
        seed: Seed of the choice; a smaller choice of the same seed lies within a larger one.

    Returns:
        Ascending positions.

    Example:
        >>> chosen(5, 2, seed=0)
        array([2, 4])
    """
    return np.sort(np.random.default_rng(check_seed(seed)).permutation(count)[:limit]).astype(
        np.int64
    )


def examples_in(batch: Any) -> int:
    """Count the examples of a batch.

    Args:
        batch: Tensors in any nesting; the first with a dimension has the examples in front.

    Returns:
        How many there are; 0 without such a tensor.

    Example:
        >>> import torch
        >>> examples_in({"input_ids": torch.zeros(3, 8)})
        3
    """
    leaves = (leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, Tensor))
    return next((len(leaf) for leaf in leaves if leaf.ndim), 0)
