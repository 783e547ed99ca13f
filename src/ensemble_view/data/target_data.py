"""Examples with targets of any kind, for a user's own measure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from ensemble_view.data.data import Data, chosen, examples_in
from ensemble_view.data.loader_data import in_order
from ensemble_view.errors import DataError

__all__ = ["TargetData"]


class TargetData(Data):
    """Inputs, and targets of which nothing is asked.

    Args:
        data: A DataLoader of (inputs, targets), whose batches are kept; a map-style data set of
            (input, target); or a pair (inputs, targets) of tensors. Inputs are what the model is
            called with: a tensor, several, or a dictionary by name.
        name: What to call the data in tables.

    Raises:
        DataError: If the data have another form.

    Example:
        >>> TargetData((torch.zeros(5, 3, 8, 8), torch.zeros(5, 8, 8)))
        TargetData('data', 5 examples)
    """

    def __init__(self, data: Any, name: str = "data") -> None:
        self.name = name
        self.loader: DataLoader[Any] | None = None
        if isinstance(data, DataLoader):
            self.loader = in_order(data)
            self.dataset: Any = self.loader.dataset
        elif isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor):
            inputs, targets = data
            if not isinstance(targets, Tensor) or len(inputs) != len(targets):
                raise DataError(
                    f"The pair holds {len(inputs)} inputs and {_described(targets)}: expected a "
                    "tensor with as many targets."
                )
            self.dataset = TensorDataset(inputs, targets)
        elif hasattr(data, "__getitem__") and hasattr(data, "__len__"):
            self.dataset = data
        else:
            raise DataError(
                f"Data is of type {type(data).__name__}: expected a DataLoader, a data set of "
                "(input, target), or a pair (inputs, targets) of tensors."
            )

    @cached_property
    def _count(self) -> int:
        if self.loader is None:
            return len(self.dataset)
        return sum(examples_in(inputs) for inputs, _ in self.batches())

    def __len__(self) -> int:
        return self._count

    def batches(self, batch_size: int = 64) -> Iterator[tuple[Any, Any]]:
        """Yield inputs and targets in order.

        Args:
            batch_size: Examples per batch; ignored where a loader has its own.

        Yields:
            Inputs and targets, as the data give them.

        Raises:
            DataError: If a batch is no pair.
        """
        loader = self.loader
        if loader is None:
            # With a generator of its own it leaves torch's random state alone.
            loader = DataLoader(
                self.dataset, batch_size=batch_size, generator=torch.Generator().manual_seed(0)
            )
        for batch in loader:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise DataError(
                    f"A batch is a {_described(batch)}: expected a pair (inputs, targets)."
                )
            yield batch[0], batch[1]

    def fingerprint(self) -> str:
        """Return a SHA-256 over all tensors of inputs and targets, in order.

        Returns:
            64 hexadecimal digits.
        """
        digest = hashlib.sha256()
        for batch in self.batches():
            for leaf in pytree.tree_leaves(batch):
                value = torch.as_tensor(leaf) if not isinstance(leaf, str) else None
                if value is None:
                    digest.update(str(leaf).encode())
                    continue
                digest.update(f"{value.dtype} {tuple(value.shape[1:])}".encode())
                digest.update(value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def subset(self, limit: int, seed: int = 0) -> TargetData:
        """Return at most `limit` examples, chosen at random; the order is kept.

        Args:
            limit: Number of examples.
            seed: Seed of the choice.

        Returns:
            The chosen examples; a smaller choice of the same seed lies within a larger one.

        Raises:
            DataError: If limit is not positive, or the data set cannot be read by index.
        """
        if limit < 1:
            raise DataError(f"The limit is {limit} examples: expected at least 1.")
        if limit >= len(self):
            return self
        if isinstance(self.dataset, IterableDataset):
            raise DataError(
                "A stream of examples has no subset: take the first examples of it instead of a "
                "limit."
            )
        part: Any = Subset(self.dataset, chosen(len(self), limit, seed).tolist())
        if self.loader is not None:
            part = DataLoader(
                part, batch_size=self.loader.batch_size, collate_fn=self.loader.collate_fn
            )
        return TargetData(part, self.name)

    def to_json(self) -> dict[str, object]:
        """Return name, size and fingerprint as plain values for JSON.

        Returns:
            The record.
        """
        return {"name": self.name, "n": len(self), "fingerprint": self.fingerprint()}


def _described(value: Any) -> str:
    if isinstance(value, Tensor | tuple | list):
        return f"{type(value).__name__} of length {len(value)}"
    return type(value).__name__
