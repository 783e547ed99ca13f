"""What an adapter makes: a net, and what its source says about the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["Adapted", "Input", "Normalisation"]

Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel."""


@dataclass(frozen=True)
class Input:
    """One argument of a model, as far as an example of it can be made up.

    Args:
        shape: Of one example, without the batch.
        name: Of the keyword argument; None for a positional one.
        vocabulary: Whole numbers below this are taken; None for real numbers.

    Example:
        >>> Input((3,), "input_ids", vocabulary=99).draw(2, torch.Generator()).shape
        torch.Size([2, 3])
    """

    shape: tuple[int, ...]
    name: str | None = None
    vocabulary: int | None = None

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """Make up a batch.

        Args:
            batch: Its size.
            generator: Of the values.

        Returns:
            Standard normal numbers, or uniform whole ones.
        """
        shape = (batch, *self.shape)
        if self.vocabulary is None:
            return torch.randn(shape, generator=generator)
        return torch.randint(self.vocabulary, shape, generator=generator)


@dataclass(frozen=True, eq=False)
class Adapted:
    """A net and what its source says about it.

    Args:
        model: The net.
        architecture: What it is, such as "torchvision:resnet50".
        normalisation: Mean and standard deviation per channel that it expects.
        input_shape: Channels, height and width, if it takes one image by position.
        inputs: Its arguments, if it takes anything else.
    """

    model: nn.Module
    architecture: str
    normalisation: Normalisation | None = None
    input_shape: tuple[int, ...] | None = None
    inputs: tuple[Input, ...] = ()
