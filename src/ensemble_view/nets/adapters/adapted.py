"""What an adapter makes: a net, and what its source says about the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ensemble_view.nets.models.untraced import Untraced

__all__ = ["Adapted", "Input", "Normalisation", "make_example"]

# Small images, as most nets were trained on whose file says nothing of them.
_SIDE = 32

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
        class_names: Of its outputs, where the weights come with them.
        inferred: Where the architecture was inferred from weights: what these do not tell of it.
    """

    model: nn.Module
    architecture: str
    normalisation: Normalisation | None = None
    input_shape: tuple[int, ...] | None = None
    inputs: tuple[Input, ...] = ()
    class_names: tuple[str, ...] | None = None
    inferred: tuple[Untraced, ...] | None = None


def make_example(
    model: nn.Module,
    inputs: Sequence[Input],
    input_shape: Sequence[int] | None,
    batch: int = 2,
    seed: int = 0,
) -> Tensor | tuple[Any, ...] | dict[str, Any]:
    """Make up arguments of a net.

    Args:
        model: The net, on whose device they are to be.
        inputs: Its arguments, if it takes anything but one image.
        input_shape: Of the image; None: 32 by 32 pixels, as many channels as the first convolution
            has.
        batch: How many examples.
        seed: Of the values.

    Returns:
        A tensor, positional arguments, or keyword arguments.

    Example:
        >>> make_example(nn.Conv2d(1, 2, 3), (), None).shape
        torch.Size([2, 1, 32, 32])
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = list(model.parameters())
    device = parameters[0].device if parameters else torch.device("cpu")
    if inputs:
        drawn = [(each.name, each.draw(batch, generator).to(device)) for each in inputs]
        if inputs[0].name is None:
            return tuple(value for _, value in drawn)
        return {str(name): value for name, value in drawn}
    channels = next((int(weight.shape[1]) for weight in parameters if weight.ndim == 4), 3)
    shape = input_shape or (channels, _SIDE, _SIDE)
    return Input(tuple(shape)).draw(batch, generator).to(device)
