"""How a net is trained: the recipe as a value, its learning rates, its augmentation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ensemble_view.data.seeds import LARGEST_SEED
from ensemble_view.errors import EnsembleViewError

__all__ = ["Recipe", "TrainingError", "augment", "epoch_generator", "learning_rate_at"]

_WORDS = {
    "schedule": ("cosine", "linear", "steps"),
    "warmup": ("linear", "low"),
    "precision": ("float32", "bfloat16"),
}


_MOST = {"epochs": 100_000, "batch size": 2**20, "shift": 1_000, "seed": LARGEST_SEED}


class TrainingError(EnsembleViewError):
    """A net cannot be trained as asked."""


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with momentum, as He et al. train their nets for small images.

    He et al. 2015 (arXiv 1512.03385), section 4.2: momentum 0.9, weight decay 1e-4, batches of 128,
    learning rate 0.1 after a warm-up, images shifted at random. Their two steps down are the
    schedule "steps"; "cosine" (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts) is
    the default, as it does without chosen epochs.

    Args:
        epochs: Passes over the training data.
        batch_size: Examples per step.
        learning_rate: The largest learning rate.
        momentum: Momentum of the gradient.
        weight_decay: Coefficient of the squared weights' half.
        warmup_epochs: Epochs of warm-up.
        schedule: "cosine" or "linear" (down to zero) or "steps" (a tenth after 1/2 and 3/4 of all
            steps).
        shift: Largest random shift of an image, pixels each way; None means an eighth of its side
            (4 pixels for CIFAR-10, as in the paper; 1 for 8x8 digits).
        flip: Whether to mirror images left to right at random.
        seed: Seed of initial weights, order, augmentation and of the blocks left out.
        warmup: "linear" (rising from zero) or "low" (a tenth of the learning rate).
        nesterov: Whether the gradient is taken ahead (Sutskever et al. 2013).
        label_smoothing: Share of the label that is spread over all classes.
        precision: "float32", or "bfloat16" for convolutions and matrix products (autocast); weights
            and evaluation are always in float32.
        channels_last: Whether the channels of a pixel lie together in memory.

    Raises:
        TrainingError: If a setting is impossible.

    Example:
        >>> Recipe(epochs=10, seed=3).learning_rate
        0.1
    """

    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_epochs: float = 5.0
    schedule: str = "cosine"
    shift: int | None = None
    flip: bool = False
    seed: int = 0
    warmup: str = "linear"
    nesterov: bool = False
    label_smoothing: float = 0.0
    precision: str = "float32"
    channels_last: bool = True

    def __post_init__(self) -> None:
        for name, value, least in (
            ("epochs", self.epochs, 1),
            ("batch size", self.batch_size, 2),
            ("shift", self.shift or 0, 0),
            ("seed", self.seed, 0),
        ):
            if value < least:
                raise TrainingError(f"The {name} is {value}: expected at least {least}.")
            if value > _MOST[name]:
                raise TrainingError(f"The {name} is {value:,}: expected at most {_MOST[name]:,}.")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise TrainingError(
                f"The learning rate is {self.learning_rate}: expected a finite number above zero."
            )
        if not 0 <= self.momentum < 1:
            raise TrainingError(f"The momentum is {self.momentum}: expected 0 or more, below 1.")
        for name, amount in (("weight decay", self.weight_decay), ("warm-up", self.warmup_epochs)):
            if not (amount >= 0 and math.isfinite(amount)):
                raise TrainingError(f"The {name} is {amount}: expected a finite number, 0 or more.")
        if not 0 <= self.label_smoothing < 1:
            raise TrainingError(
                f"The label smoothing is {self.label_smoothing}: expected 0 or more, below 1."
            )
        if self.nesterov and self.momentum == 0:
            raise TrainingError("Nesterov's gradient is taken ahead by the momentum, which is 0.")
        for name, words in _WORDS.items():
            word = getattr(self, name)
            if word not in words:
                raise TrainingError(
                    f"There is no {name} {word!r}: expected {', '.join(words[:-1])} or {words[-1]}."
                )


def learning_rate_at(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Return the learning rate of one step.

    In the warm-up linear from zero, or a tenth; then with t the share of all steps that is done and
    w the warm-up's share: half of 1 + cos(π (t - w) / (1 - w)), or 1 - (t - w) / (1 - w), or a
    tenth after t = 1/2 and again 3/4.

    Args:
        recipe: The recipe.
        step: Steps done so far, from 0.
        steps_per_epoch: Steps per epoch.

    Returns:
        The learning rate.

    Example:
        >>> recipe = Recipe(epochs=10, warmup_epochs=2)
        >>> [round(learning_rate_at(recipe, step, 1), 3) for step in (0, 1, 6)]
        [0.05, 0.1, 0.05]
    """
    total = recipe.epochs * steps_per_epoch
    warm = min(recipe.warmup_epochs * steps_per_epoch, total)
    if step + 1 < warm:
        return recipe.learning_rate * (0.1 if recipe.warmup == "low" else (step + 1) / warm)
    if recipe.schedule == "steps":
        return recipe.learning_rate * 0.1 ** ((2 * step >= total) + (4 * step >= 3 * total))
    share = (step - warm) / max(total - warm, 1)
    if recipe.schedule == "linear":
        return recipe.learning_rate * (1 - max(share, 0.0))
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * max(share, 0.0)))


def epoch_generator(seed: int, epoch: int, purpose: int = 0) -> torch.Generator:
    """Return the generator of everything random in one epoch.

    It depends on nothing that happened before, so a resumed run draws what an uninterrupted one
    would have drawn.

    Args:
        seed: Seed of the run.
        epoch: The epoch, from 0.
        purpose: 0 for order and augmentation, which so are the same whatever else is drawn; 1 for
            the blocks left out; 2 for what the net itself draws.

    Returns:
        A generator on the CPU.

    Example:
        >>> torch.randperm(4, generator=epoch_generator(0, 1)).tolist() == torch.randperm(
        ...     4, generator=epoch_generator(0, 1)).tolist()
        True
    """
    (state,) = np.random.SeedSequence([seed, epoch, purpose]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def augment(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift each image at random, and mirror it at random if asked.

    The rim is filled with the image's own edge values, which are right for any normalisation.

    Args:
        images: Images (N, C, H, W).
        shift: Largest shift, pixels each way along both axes.
        flip: Whether to mirror left to right with probability one half.
        generator: Source of randomness.

    Returns:
        Images of the same shape.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> augment(torch.ones(2, 1, 8, 8), 1, False, generator).sum()
        tensor(128.)
    """
    count, _, height, width = images.shape
    if shift:
        padded = F.pad(images, (shift,) * 4, mode="replicate")
        draws = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
        rows = draws[0] + torch.arange(height)
        columns = draws[1] + torch.arange(width)
        example = torch.arange(count)[:, None, None]
        # Advanced indices around the channel axis put it last.
        images = padded[example, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    if flip:
        mirrored = torch.rand(count, 1, 1, 1, generator=generator) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    return images
