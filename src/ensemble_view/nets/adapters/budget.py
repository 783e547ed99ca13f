"""A bound on what a net may allocate while it is built to hold given weights.

An architecture is named by a file or a folder, with numbers that may be anything: a width of a
billion, a million layers. The weights say how large the net can be at most; whatever asks for more
is stopped before the memory is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ensemble_view.nets.models.architecture import ArchitectureError

__all__ = ["Budget"]

# Initialisation draws into tensors beside the weights, and a net keeps tables of its own.
_TIMES = 4
_NUMBERS_BESIDE = 2**27
_TENSORS_BESIDE = 10_000
# The header of a file of weights takes more than this for each.
_BYTES_PER_TENSOR = 64
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")


class Budget(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Stop whoever makes more or larger tensors than a net of given weights needs.

    Args:
        numbers: How many numbers the weights hold.
        tensors: How many tensors these are.

    Example:
        >>> import torch
        >>> with Budget(100, 2):
        ...     torch.nn.Linear(100_000, 100_000)
        Traceback (most recent call last):
        ...
        ensemble_view.nets.models.architecture.ArchitectureError: the net asks for 10... numbers ...
    """

    def __init__(self, numbers: int, tensors: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._held = numbers
        self._most_numbers = _TIMES * numbers + _NUMBERS_BESIDE
        self._most_tensors = _TIMES * tensors + _TENSORS_BESIDE
        self._numbers = self._tensors = 0

    @classmethod
    def of_weights(cls, weights: Mapping[str, Tensor]) -> Budget:
        """Return what a net of these weights may take.

        Args:
            weights: Names and tensors.

        Returns:
            A context manager to build the net in.
        """
        return cls(sum(value.numel() for value in weights.values()), len(weights))

    @classmethod
    def of_folder(cls, folder: Path) -> Budget:
        """Return what a net of the weights in a folder may take, told from the size of its files.

        Args:
            folder: As ``save_pretrained`` writes it.

        Returns:
            A context manager to build the net in.
        """
        size = sum(
            file.stat().st_size
            for file in folder.iterdir()
            if file.suffix in _SUFFIXES and file.is_file()
        )
        return cls(size, size // _BYTES_PER_TENSOR)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Count what an operation is about to make.

        Returns:
            What the operation returns.

        Raises:
            ArchitectureError: If that is too much.
        """
        size = args[0] if args else None
        if isinstance(size, list | tuple) and all(isinstance(side, int) for side in size):
            self._numbers += math.prod(size)
            self._tensors += 1
            if self._numbers > self._most_numbers:
                raise ArchitectureError(
                    f"the net asks for {self._numbers:,} numbers and more, but the weights are "
                    f"{self._held:,}, so that it is not theirs"
                )
            if self._tensors > self._most_tensors:
                raise ArchitectureError(
                    f"the net asks for {self._tensors:,} tensors and more, far beyond those that "
                    "there are weights of"
                )
        return func(*args, **(kwargs or {}))
