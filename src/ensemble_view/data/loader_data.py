"""A user's own DataLoader or data set as labelled data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ensemble_view.data.labelled_data import (
    Batch,
    IndexedData,
    Indices,
    LabelledData,
    Preprocessing,
    check_labels,
)
from ensemble_view.data.normalisation import AS_GIVEN
from ensemble_view.data.sources import ArraySource
from ensemble_view.errors import DataError

__all__ = ["LoaderData", "in_order", "labels_of"]


def labels_of(dataset: Any) -> Indices:
    """Read the label of every example of a map-style data set.

    Its `targets` are believed if they agree with the first and the last example; otherwise every
    example is read once.

    Args:
        dataset: A map-style data set of (input, label).

    Returns:
        The labels, shape (N,).

    Raises:
        DataError: If an example is no such pair, or a label no class index.

    Example:
        >>> labels_of([(torch.zeros(2), 1), (torch.zeros(2), 0)])
        array([1, 0])
    """
    count = len(dataset)
    where = f"the data set {type(dataset).__name__}"
    if count == 0:
        raise DataError(f"{where} holds no examples: there is nothing to measure.")
    targets = getattr(dataset, "targets", None)
    if targets is not None and len(targets) == count:
        ends = [_label(dataset[index], where) for index in (0, count - 1)]
        if ends == [_whole(targets[0], where), _whole(targets[count - 1], where)]:
            return check_labels(torch.as_tensor(targets).numpy(), where)
    return check_labels([_label(dataset[index], where) for index in range(count)], where)


def _label(example: Any, where: str) -> int:
    """Return the label of an example that ought to be a pair (input, label)."""
    if not isinstance(example, tuple | list) or len(example) != 2:
        raise DataError(
            f"An example of {where} is a {type(example).__name__}: expected a pair (input, label)."
        )
    return _whole(example[1], where)


def _whole(label: Any, where: str) -> int:
    """Return a label as a whole number."""
    value = label.item() if isinstance(label, Tensor | np.generic) and label.size else label
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(
            f"A label of {where} is {label!r}: expected a whole number, the index of the class."
        )
    return value


def in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """Return a loader that gives the same examples in one order on every pass.

    Args:
        loader: Any loader; one that shuffles is replaced by one that does not.

    Returns:
        The loader.

    Raises:
        DataError: If every pass draws other examples.

    Example:
        >>> loader = DataLoader([3, 1, 2], shuffle=True)
        >>> [int(value) for value in in_order(loader)]
        [3, 1, 2]
    """
    sampler = loader.sampler
    drawn = isinstance(sampler, WeightedRandomSampler | SubsetRandomSampler)
    if isinstance(sampler, RandomSampler):
        drawn = sampler.replacement or sampler.num_samples != len(loader.dataset)  # type: ignore[arg-type]
    if drawn:
        raise DataError(
            f"The DataLoader's {type(sampler).__name__} draws examples at random, others on every "
            "pass: pass a loader with shuffle=False over a fixed subset."
        )
    if not isinstance(sampler, RandomSampler):
        return loader
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )


class LoaderData(LabelledData):
    """The batches of a user's own DataLoader, kept as they are.

    Args:
        loader: A loader of (inputs, labels) that gives the same batches on every pass.
        name: What to call the data in tables.

    Example:
        >>> pairs = torch.utils.data.TensorDataset(torch.zeros(5, 2), torch.tensor([0, 1, 0, 1, 1]))
        >>> data = LoaderData(DataLoader(pairs, batch_size=2), "pairs")
        >>> [len(labels) for _, labels in data.batches()]
        [2, 2, 1]
    """

    def __init__(self, loader: DataLoader[Any], name: str) -> None:
        self.loader = loader
        self.name = name
        self.class_names: tuple[str, ...] | None = None
        self.preprocessing: Preprocessing | None = None
        self.split: str | None = None

    @classmethod
    def of(cls, loader: DataLoader[Any], name: str) -> LoaderData:
        """Return a loader's data in a fixed order.

        A loader that shuffles is replaced by one that reads the same examples in order: outcomes
        are paired between passes, and no measure depends on the order.

        Args:
            loader: A loader of (inputs, labels).
            name: What to call the data in tables.

        Returns:
            The data.
        """
        return cls(in_order(loader), name)

    @cached_property
    def _count(self) -> int:
        batches = None
        if not isinstance(self.loader.dataset, IterableDataset):
            batches = self.loader.batch_sampler
        if batches is None:
            return sum(len(labels) for _, labels in self.batches())
        return sum(len(list(batch)) for batch in batches)

    @property
    def labels(self) -> Indices | None:
        """None: a loader's labels are known only while it is read."""
        return None

    def __len__(self) -> int:
        return self._count

    def batches(self, batch_size: int = 64) -> Iterator[Batch]:
        """Yield the loader's own batches.

        Args:
            batch_size: Ignored: the loader has its own.

        Yields:
            Inputs, floating-point (B, ...), and labels, int64 (B,).

        Raises:
            DataError: If a batch is no pair of tensors, or there is none.
        """
        found = False
        for batch in self.loader:
            found = True
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise DataError(
                    f"A batch of the DataLoader is a {type(batch).__name__}: expected a pair "
                    "(inputs, labels)."
                )
            inputs, labels = batch
            if not isinstance(inputs, Tensor) or not isinstance(labels, Tensor):
                raise DataError(
                    f"A batch of the DataLoader holds {type(inputs).__name__} and "
                    f"{type(labels).__name__}: expected two tensors, inputs and labels."
                )
            if inputs.dtype == torch.uint8:
                raise DataError(
                    "The DataLoader gives images of type uint8: expected floating-point inputs as "
                    "the model takes them, so let its data set convert and normalise them."
                )
            if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
                raise DataError(
                    "A batch of the DataLoader holds values that are not finite (NaN or "
                    "infinity): mend or leave out those examples."
                )
            targets = check_labels(labels.numpy(), "the DataLoader")
            if len(inputs) != len(targets):
                raise DataError(
                    f"A batch of the DataLoader has {len(inputs)} inputs and {len(targets)} "
                    "labels: expected as many of each."
                )
            yield inputs, torch.from_numpy(targets)
        if not found:
            raise DataError("The DataLoader holds no examples: there is nothing to measure.")

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for inputs, labels in self.batches():
            digest.update(labels.numpy().tobytes())
            digest.update(f"{inputs.dtype} {tuple(inputs.shape[1:])}".encode())
            digest.update(inputs.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """Return a SHA-256 over labels and inputs, in the loader's order and batches.

        Returns:
            64 hexadecimal digits.
        """
        return self._fingerprint

    def in_memory(self) -> IndexedData:
        """Return the same examples, read once and kept.

        Returns:
            Data that can be read by index.
        """
        parts = list(self.batches())
        inputs = torch.cat([inputs for inputs, _ in parts]).numpy()
        labels = torch.cat([labels for _, labels in parts]).numpy()
        source = ArraySource(inputs, labels)
        return IndexedData(
            self.name, source, np.arange(len(labels)), Preprocessing(), normalised_by=AS_GIVEN
        )

    def subset(self, limit: int, seed: int = 0) -> IndexedData:
        """Return at most `limit` examples, the classes as even as they can be.

        Args:
            limit: Number of examples.
            seed: Seed of the choice.

        Returns:
            The chosen examples, in memory.
        """
        return self.in_memory().subset(limit, seed)
