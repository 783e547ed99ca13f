"""Trained nets with only some of their branches: which, how much each counts, what the net says."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax
from torch import nn

from ensemble_view import Compose, Engine, Keep, LabelledData, bind, unravel
from ensemble_view.measures.logits import ClassificationWithLogits
from ensemble_view.nets.models.blocks import SkippableBlock

KeepSet = tuple[int, ...]
"""Indices of the blocks whose branches are kept."""

Floats = npt.NDArray[np.float64]

_BATCH = 128


class Rule(Protocol):
    """Says at random which branches are kept; the regimes of training do the same per batch."""

    def draw(self, blocks: Sequence[SkippableBlock], generator: torch.Generator) -> list[bool]:
        """Say of each block whether its branch is there."""
        ...


@dataclass(frozen=True)
class KeepEach:
    """Each branch is kept with the same probability, whatever becomes of the others.

    Args:
        probability: Of being kept.

    Example:
        >>> KeepEach(1.0).draw([SkippableBlock()] * 2, torch.Generator())
        [True, True]
    """

    probability: float

    def draw(self, blocks: Sequence[SkippableBlock], generator: torch.Generator) -> list[bool]:
        """Say of each block whether its branch is there."""
        draws: list[float] = torch.rand(len(blocks), generator=generator).tolist()
        return [value < self.probability for value in draws]


def blocks_of(model: nn.Module) -> list[SkippableBlock]:
    """Return the blocks of a net, from input to output."""
    return [module for module in model.modules() if isinstance(module, SkippableBlock)]


def drawn(rule: Rule, model: nn.Module, count: int, generator: torch.Generator) -> list[KeepSet]:
    """Draw keep-sets, independently of each other.

    Args:
        rule: How each is drawn.
        model: The net whose blocks they are.
        count: How many.
        generator: The source of all randomness.

    Returns:
        The keep-sets; some may be equal.
    """
    blocks = blocks_of(model)
    return [
        tuple(index for index, kept in enumerate(rule.draw(blocks, generator)) if kept)
        for _ in range(count)
    ]


def weighed(model: nn.Module, weights: Sequence[float]) -> nn.Module:
    """Return a copy of a net whose branches count something else in evaluation.

    Args:
        model: The net; if it was trained with branches left out, it weighs each in evaluation by
            how often it was there.
        weights: What each branch is multiplied by instead; one, as in training.

    Returns:
        The copy.
    """
    copied = copy.deepcopy(model)
    for block, weight in zip(blocks_of(copied), weights, strict=True):
        block.survival = weight
    return copied


def probabilities(
    model: nn.Module, data: LabelledData, keep_sets: Sequence[KeepSet] = ()
) -> Floats:
    """Run a net with all its branches, and with those of each keep-set only.

    All run in one pass over the data, and what keep-sets begin with in common is run once.

    Args:
        model: The net, in evaluation.
        data: What it is asked.
        keep_sets: Which branches are kept.

    Returns:
        Probabilities of the classes, (1 + keep-sets, examples, classes), the full net's first.
    """
    device = next(model.parameters()).device
    inputs = next(iter(data.batches(2)))[0].to(device)
    with torch.no_grad():
        classes = model(inputs).shape[1]
    chain = unravel(model, inputs)
    plans = [
        bind(done, chain.outline) for done in (Compose(), *(Keep(*kept) for kept in keep_sets))
    ]
    measure = ClassificationWithLogits(classes)
    found = Engine(chain, plans, measure=measure).measure(data.batches(_BATCH)).outcomes
    logits = np.stack([found[name] for name in measure.logit_names], axis=-1, dtype=np.float64)
    answers: Floats = softmax(logits, axis=-1)
    return answers
