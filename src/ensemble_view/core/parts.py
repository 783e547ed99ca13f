"""What blocks are made of: callables of (x, context), and what is put together from others.

A part is any callable; those found by :func:`ensemble_view.unravel` are graph modules. What this
module puts together can be read again as a value, so that the engine can make one graph of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from ensemble_view.errors import MeasurementError

__all__ = [
    "DRAWS",
    "Constant",
    "Context",
    "Drawn",
    "InTurn",
    "Part",
    "Sum",
    "expand",
    "identity",
    "perturb",
    "resample",
    "shift",
]

Context: TypeAlias = tuple[Any, ...]
"""Values that blocks need but that do not depend on the trunk, computed once per batch."""

Part: TypeAlias = Callable[[Tensor, Context], Tensor]


def identity(x: Tensor, context: Context) -> Tensor:
    """The part that does nothing.

    Args:
        x: Any tensor.
        context: Not used.

    Returns:
        ``x`` itself.

    Example:
        >>> identity(3, ())
        3
    """
    return x


@dataclass(frozen=True, eq=False)
class InTurn:
    """Parts one after another.

    Args:
        parts: Each takes what the one before gives; none is the identity.

    Example:
        >>> double = Sum(((2.0, identity),))
        >>> InTurn((double, double))(3.0, ())
        12.0
    """

    parts: tuple[Part, ...]

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """Run the parts.

        Args:
            x: What the first takes.
            context: What all of them may need.

        Returns:
            What the last gives.
        """
        for part in self.parts:
            x = part(x, context)
        return x


@dataclass(frozen=True, eq=False)
class Sum:
    """Parts beside each other, added up.

    Args:
        terms: Pairs of a factor and a part, at least one.

    Example:
        >>> Sum(((1.0, identity), (-0.5, identity)))(3.0, ())
        1.5
    """

    terms: tuple[tuple[float, Part], ...]

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """Run the parts and add up what they give.

        Args:
            x: What each of them takes.
            context: What all of them may need.

        Returns:
            The sum.
        """
        total: Any = None
        for factor, part in self.terms:
            value = part(x, context)
            value = value if factor == 1 else factor * value
            total = value if total is None else total + value
        return total  # type: ignore[no-any-return]


@dataclass(frozen=True, eq=False)
class Constant:
    """The same value for every example.

    Args:
        value: (1, ...).

    Example:
        >>> Constant(torch.zeros(1, 4))(torch.ones(2, 3), ()).shape
        torch.Size([2, 4])
    """

    value: Tensor

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """Give the value as often as there are examples.

        Args:
            x: (B, ...).
            context: Not used.

        Returns:
            (B, ...).
        """
        return expand(x, self.value)


def expand(x: Tensor, value: Tensor) -> Tensor:
    """Give one example's value to each example of a batch.

    Args:
        x: (B, ...).
        value: (1, ...).

    Returns:
        (B, ...), not copied.
    """
    return value.expand(x.shape[0], *value.shape[1:])


@dataclass(frozen=True, eq=False)
class Drawn:
    """What a part gives, changed at random: for another example, or with noise.

    Args:
        part: Any part.
        draw: What changes its values: :func:`resample`, :func:`perturb` or :func:`shift`.
        seed: Of that.
    """

    part: Part
    draw: Callable[[Tensor, tuple[int, ...]], Tensor]
    seed: tuple[int, ...]

    def __call__(self, x: Tensor, context: Context) -> Tensor:
        """Run the part, and change what it gives.

        Args:
            x: (B, ...).
            context: What the part may need.

        Returns:
            (B, ...).
        """
        return self.draw(self.part(x, context), self.seed)


def resample(values: Tensor, seed: tuple[int, ...]) -> Tensor:
    """Give each example the value of another one, along a random cycle through the batch.

    Every example is used once; which one depends on the seed and on the batch's size alone.

    Args:
        values: (B, ...).
        seed: Any numbers.

    Returns:
        (B, ...).

    Raises:
        MeasurementError: If there is no other example.

    Example:
        >>> resample(torch.tensor([0, 1, 2, 3]), (0,))
        tensor([2, 0, 3, 1])
    """
    count = values.shape[0]
    if count < 2:
        raise MeasurementError(
            "Replacing a branch by another example's needs batches of at least two examples; got "
            "one of a single example. Choose another batch size or number of examples."
        )
    cycle = np.random.default_rng(seed).permutation(count)
    others = np.empty(count, dtype=np.int64)
    others[cycle] = np.roll(cycle, 1)
    return values[torch.from_numpy(others).to(values.device)]


def perturb(values: Tensor, seed: tuple[int, ...]) -> Tensor:
    """Add to each example's value noise of the same norm, in a direction of its own.

    Directions are uniform on the sphere over all entries of an example (normal numbers, divided by
    their norm). They depend on the seed and on the batch's shape alone, so that examples at the
    same place of different batches share them.

    Args:
        values: (B, ...).
        seed: Any numbers.

    Returns:
        (B, ...).

    Example:
        >>> noise = perturb(torch.tensor([[3.0, 4.0]]), (0,)) - torch.tensor([[3.0, 4.0]])
        >>> noise.norm()
        tensor(5.)
    """
    return _with_noise(values, values.shape, seed)


def shift(values: Tensor, seed: tuple[int, ...]) -> Tensor:
    """Add to each example's value noise of the same norm, in one direction that all share.

    The direction is uniform on the sphere over all entries of an example; it depends on the seed
    and on the shape of an example alone.

    Args:
        values: (B, ...).
        seed: Any numbers.

    Returns:
        (B, ...).

    Example:
        >>> values = torch.tensor([[3.0, 4.0], [6.0, 8.0]])
        >>> noise = shift(values, (0,)) - values
        >>> noise.norm(dim=1), torch.allclose(2 * noise[0], noise[1])
        (tensor([ 5., 10.]), True)
    """
    return _with_noise(values, (1, *values.shape[1:]), seed)


def _with_noise(values: Tensor, shape: Sequence[int], seed: tuple[int, ...]) -> Tensor:
    """Values, and beside them directions of a shape, each as long as its example's value."""
    state = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(state[0]))
    directions = torch.randn(shape, generator=generator).to(values.device).flatten(1)
    # In half precision a sum of squares overflows.
    exact = torch.promote_types(values.dtype, torch.float32)
    directions, norms = directions.to(exact), values.flatten(1).to(exact).norm(dim=1)
    scaled: Tensor = directions * (norms / directions.norm(dim=1))[:, None]
    return values + scaled.reshape(values.shape).to(values.dtype)


DRAWS: dict[str, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "resample": resample,
    "perturbed": perturb,
    "constant": shift,
}
"""By what stands for a branch: how it is drawn."""
