"""Averages of nets: of one with branches left out at random, of several trained independently.

What is averaged are the probabilities. The scores are such that less is better: the share of images
named wrongly, the negative log-likelihood of the labels in nats, the Brier score (Brier 1950: the
squared distance of the probabilities from the label's) and the expected calibration error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from calibration_error import Floats, Labels, calibration_error
from keep_sets import KeepEach, Rule, blocks_of, drawn, probabilities, weighed
from trained_nets import Scale

from ensemble_view.nets.models.architecture import Architecture
from ensemble_view.training.regimes import EffectivePaths, Ordinary, regime_of

SETS = 20
"""Keep-sets that are averaged."""
PROBABILITIES = (0.95, 0.9, 0.8, 0.5)
DELETED = (1, 2, 5)
FULL = "nothing left out"
AS_IN_TRAINING = "as in training"
DIVIDED = "each kept with {:g} and divided by it"
"""The way in which dropout keeps the mean of what is added up."""
CALIBRATION = "calibration error"
PER_IMAGE = ("error", "negative log-likelihood", "Brier score")
_SMALLEST = float(np.finfo(np.float64).tiny)
SCORES = (*PER_IMAGE, CALIBRATION)


@dataclass(frozen=True)
class Way:
    """A way to leave branches out at test time.

    Args:
        name: For tables.
        rule: Which branches are kept.
        left_out: Expected share of the branches left out.
        weights: What each branch counts where it is kept.
    """

    name: str
    rule: Rule
    left_out: float
    weights: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a net of one seed says when branches are left out in one way.

    Args:
        net: Its architecture.
        seed: Of its training, and of the keep-sets.
        way: How branches are left out.
        averaged: Probabilities, averaged over the keep-sets, (images, classes).
        alone: Scores of a single keep-set, averaged over the keep-sets.
    """

    net: str
    seed: int
    way: Way
    averaged: Floats
    alone: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """What nets trained independently say together.

    Args:
        member: Their architecture; they differ by seed.
        size: How many.
        averaged: Their probabilities, averaged, (images, classes).
        alone: Scores of a single member, averaged over the members.
    """

    member: str
    size: int
    averaged: Floats
    alone: Mapping[str, float]

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.size} × {self.member}"


def per_image(answers: Floats, labels: Labels) -> dict[str, Floats]:
    """Score each image.

    Args:
        answers: Probabilities, (images, classes).
        labels: (images,).

    Returns:
        By name, (images,): the scores whose mean is the score of the whole.

    Example:
        >>> found = per_image(np.array([[0.8, 0.2]]), np.array([1]))
        >>> {name: round(float(score[0]), 2) for name, score in found.items()}
        {'error': 1.0, 'negative log-likelihood': 1.61, 'Brier score': 1.28}
    """
    of_label = answers[np.arange(len(labels)), labels]
    return {
        "error": (answers.argmax(axis=1) != labels).astype(np.float64),
        "negative log-likelihood": -np.log(np.maximum(of_label, _SMALLEST)),
        "Brier score": (answers**2).sum(axis=1) - 2 * of_label + 1,
    }


def scores(answers: Floats, labels: Labels) -> dict[str, float]:
    """Score the answers to all images.

    Args:
        answers: Probabilities, (images, classes).
        labels: (images,).

    Returns:
        By name, see `SCORES`.
    """
    means = {name: float(values.mean()) for name, values in per_image(answers, labels).items()}
    return {**means, CALIBRATION: calibration_error(answers, labels)}


def ways_of(net: str, survivals: Sequence[float]) -> list[Way]:
    """Return the ways in which branches of a net are left out.

    Args:
        net: Its architecture.
        survivals: Of each block, in which share of the training batches its branch was there.

    Returns:
        None left out; each kept with one probability, as they are or divided by it; a fixed number
        deleted; and, if the net was trained with branches left out, as in training.
    """
    blocks, weights = len(survivals), tuple(survivals)
    ways = [Way(FULL, Ordinary(), 0.0, weights)]
    ways += [Way(f"each kept with {p:g}", KeepEach(p), 1 - p, weights) for p in PROBABILITIES]
    ways += [
        Way(DIVIDED.format(p), KeepEach(p), 1 - p, tuple(weight / p for weight in weights))
        for p in PROBABILITIES
    ]
    ways += [
        Way(f"{deleted} deleted", EffectivePaths(blocks - deleted), deleted / blocks, weights)
        for deleted in DELETED
        if deleted < blocks
    ]
    regime = regime_of(Architecture.parse(net))
    if regime != Ordinary():
        left_out = 1 - sum(survivals) / blocks
        ways.append(Way(AS_IN_TRAINING, regime, left_out, (1.0,) * blocks))
    return ways


def outcomes(scale: Scale, net: str, seed: int) -> list[Outcome]:
    """Run a net with branches left out in every way.

    Args:
        scale: Data and recipe.
        net: Its architecture.
        seed: Of its training, and of the keep-sets.

    Returns:
        One outcome per way, nothing left out first.
    """
    model = scale.net(net, seed).model.to(scale.device)
    generator = torch.Generator().manual_seed(seed)
    labels = scale.test.labels
    ways = ways_of(net, [block.survival for block in blocks_of(model)])
    found = []
    for weights in dict.fromkeys(way.weights for way in ways):
        chosen = [way for way in ways if way.weights == weights]
        keep_sets = [k for way in chosen for k in drawn(way.rule, model, SETS, generator)]
        answers = probabilities(weighed(model, weights), scale.test, keep_sets)[1:]
        for way, each in zip(chosen, np.split(answers, len(chosen)), strict=True):
            alone = _mean_scores(each, labels)
            found.append(Outcome(net, seed, way, each.mean(axis=0), alone))
    return found


def ensemble(scale: Scale, member: str) -> Ensemble:
    """Average nets of all seeds.

    Args:
        scale: Data, recipe and seeds.
        member: Their architecture.

    Returns:
        The ensemble.
    """
    answers = np.concatenate(
        [
            probabilities(scale.net(member, seed).model.to(scale.device), scale.test)
            for seed in scale.seeds
        ]
    )
    return Ensemble(
        member, len(answers), answers.mean(axis=0), _mean_scores(answers, scale.test.labels)
    )


def _mean_scores(answers: Floats, labels: Labels) -> dict[str, float]:
    """Return the mean over nets of their scores, from answers (nets, images, classes)."""
    found = [scores(single, labels) for single in answers]
    return {name: float(np.mean([each[name] for each in found])) for name in SCORES}
