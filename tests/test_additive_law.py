"""The additive law of decay, against nets whose decay is known and against one plain net."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ensemble_view as ev
from ensemble_view import Block, Chain
from ensemble_view.paths.lengths import surviving_weight

MEMBERS, FEATURES, HIDDEN, CLASSES = 20, 8, 48, 4


def task(examples, seed):
    """Points of four classes, which lie about four centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(CLASSES, FEATURES)) * 1.3
    labels = np.arange(examples) % CLASSES
    return centres[labels] + rng.normal(size=(examples, FEATURES)), labels


def trained_member(seed):
    """A net of one hidden layer that no other member knows: own weights, own examples."""
    rng = np.random.default_rng(seed)
    points, labels = task(400, 1000 + seed)
    first = rng.normal(size=(FEATURES, HIDDEN)) / FEATURES**0.5
    hidden = np.maximum(points @ first, 0)
    wanted = np.eye(CLASSES)[labels] - 1 / CLASSES
    last = np.linalg.solve(hidden.T @ hidden + np.eye(HIDDEN), hidden.T @ wanted)
    return first, last


def said(member, points):
    """What a member says of points: its logits, by hand."""
    first, last = member
    return np.maximum(points @ first, 0) @ last


class Ensemble(nn.Module):
    """Nets that read the same point, each of which adds what it says to the logits."""

    def __init__(self, members):
        super().__init__()
        self.firsts = nn.ParameterList(torch.from_numpy(first) for first, _ in members)
        self.lasts = nn.ParameterList(torch.from_numpy(last) for _, last in members)

    def forward(self, x: Tensor) -> Tensor:
        # Point and logits side by side; a branch reads the one and adds to the other.
        state = torch.nn.functional.pad(x, (0, CLASSES))
        for first, last in zip(self.firsts, self.lasts, strict=True):
            answer = torch.relu(state[:, :FEATURES] @ first) @ last
            state = state + torch.nn.functional.pad(answer, (FEATURES, 0))
        return state[:, FEATURES:]


def chain_of(members):
    """The same without a module behind it."""

    def branch(first, last):
        return lambda state, context: nn.functional.pad(
            torch.relu(state[:, :FEATURES] @ first) @ last, (FEATURES, 0)
        )

    pairs = [tuple(map(torch.from_numpy, member)) for member in members]
    return Chain.from_parts(
        lambda x: nn.functional.pad(x, (0, CLASSES)),
        [Block(i, f"net {i}", branch=branch(*pair)) for i, pair in enumerate(pairs)],
        lambda state: state[:, FEATURES:],
    )


def classes_left(members, points, deleted):
    """The class that the members say together without those of a set, ``[sets, examples]``."""
    each = [said(member, points) for member in members]
    return np.array(
        [sum(each[i] for i in range(len(each)) if i not in gone).argmax(1) for gone in deleted]
    )


def measured_and_predicted(model, points, labels, **options):
    data = torch.from_numpy(points), torch.from_numpy(labels)
    return ev.random(model, data, **{"trials": 30, "seed": 3, "batch_size": 64, **options})


@pytest.mark.parametrize("wired", [Ensemble, chain_of])
def test_independent_nets_lose_little_by_ten_of_twenty_deletions_and_the_law_says_so(wired):
    members = [trained_member(seed) for seed in range(MEMBERS)]
    points, labels = task(400, 0)
    result = measured_and_predicted(wired(members), points, labels, count="1,5,10")
    assert len(result.names) == MEMBERS
    left = classes_left(members, points, result.deleted)
    np.testing.assert_array_equal(result.additive.predicted, left)
    np.testing.assert_array_equal(result.run.outcomes.correct, left == labels)
    law = result.law
    assert (law.frame["difference"] == 0).all()
    assert (law.agrees_up_to, law.departs_from, law.decision) == (10, None, "agrees")
    # The members are different nets, and agree on most points without being copies.
    answers = np.array([said(member, points).argmax(1) for member in members])
    assert 0 < (answers != answers[0]).mean() < 0.2
    full = 1 - result.full
    ten = law.frame.set_index("deleted").loc[10]
    for accuracy in (ten["measured"], ten["predicted"]):
        assert 0.98 < accuracy / full < 1.01
    # By path weights, all on single branches, a half would be left.
    by_weights = surviving_weight([0.0, 1.0, *[0.0] * (MEMBERS - 1)], deleted=10)
    assert by_weights == pytest.approx(0.5)
    chance = 1 - result.run.scores.chance
    assert (ten["measured"] - chance) / (full - chance) > by_weights + 0.45


@pytest.mark.parametrize("wired", [Ensemble, chain_of])
def test_copies_say_the_same_until_the_last_is_gone_and_the_law_says_so(wired):
    members = [trained_member(0)] * 8
    points, labels = task(200, 1)
    result = measured_and_predicted(wired(members), points, labels, count="1-7", trials=12)
    alone = said(members[0], points).argmax(1)
    assert (result.additive.predicted == alone).all()
    assert (result.run.outcomes.correct == (alone == labels)).all()
    assert (result.law.frame["difference"] == 0).all()
    assert result.law.agrees_up_to == 7
    assert result.law.decision == "agrees"
    assert surviving_weight([0.0, 1.0, *[0.0] * 7], deleted=6) == pytest.approx(0.25)


def rotations(blocks, degrees):
    """A serial chain that turns a point of the plane; its class is the nearest half-axis."""
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    # A point is a row, so that it is turned by the transpose.
    further = torch.tensor([[cosine - 1, sine], [-sine, cosine - 1]], dtype=torch.float64)
    return Chain.from_parts(
        lambda x: x,
        [Block(i, str(i), branch=lambda x, context: x @ further) for i in range(blocks)],
        lambda x: torch.cat([x, -x], 1),
    )


def circle(blocks, degrees, examples=720):
    """Points on a circle, and their classes after all turns."""
    angles = (np.arange(examples) + 0.37) * 360 / examples
    points = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], 1)
    return points, quadrant(angles + blocks * degrees)


def quadrant(angles):
    return (np.floor((angles + 45) / 90) % 4).astype(np.int64)


@pytest.mark.parametrize(
    ("degrees", "deleted", "measured", "predicted"),
    [
        # Turned back by 90: no point is in its quadrant. e^(-18i) - 1 = -0.0489 - 0.3090i, five
        # times that and 1 is 0.7553 - 1.5451i, an angle of -63.95: 26.05 of 90 degrees are left.
        (18, 5, 0.0, 26.05 / 90),
        # Turned back by 36: 54 are left; 0.9021 - 0.6180i, an angle of -34.41.
        (18, 2, 54 / 90, 55.59 / 90),
        # Three turns of 120 are none, so that nothing is lost; the law has 1 + 3 (-1.5 - 0.866i),
        # an angle of 216.59, beyond the quadrant.
        (120, 3, 1.0, 0.0),
    ],
)
def test_a_chain_of_rotations_departs_by_what_is_reckoned_by_hand(
    degrees, deleted, measured, predicted
):
    points, labels = circle(6, degrees)
    result = measured_and_predicted(rotations(6, degrees), points, labels, count=deleted)
    assert result.full == 0
    (row,) = result.law.rows
    # A point is 1/720.
    assert row["measured"] == pytest.approx(measured, abs=0.0058)
    assert row["predicted"] == pytest.approx(predicted, abs=0.0058)
    assert row["difference"] == pytest.approx(predicted - measured, abs=0.0058)
    assert row["low"] <= predicted - measured <= row["high"]
    departs = abs(predicted - measured) > 0.2
    assert row["law"] == ("departs" if departs else "agrees")
    assert result.law.departs_from == (deleted if departs else None)


def test_a_law_that_departs_within_half_is_decided_and_one_beyond_is_only_said():
    points, labels = circle(6, 120)
    decided = measured_and_predicted(rotations(6, 120), points, labels, count=3).law
    assert (decided.half_gone, decided.decision) == (None, "departs")
    points, labels = circle(6, 18)
    beyond = measured_and_predicted(rotations(6, 18), points, labels, count="1-5").law
    assert (beyond.half_gone, beyond.departs_from, beyond.decision) == (2, 4, "agrees")


class Serial(nn.Module):
    """Six random residual blocks, one after another."""

    def __init__(self, weights):
        super().__init__()
        self.stem, self.out, *rest = (nn.Parameter(torch.from_numpy(w)) for w in weights)
        self.into = nn.ParameterList(rest[::2])
        self.back = nn.ParameterList(rest[1::2])

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.stem
        for into, back in zip(self.into, self.back, strict=True):
            x = x + torch.relu(x @ into) @ back
        return x @ self.out


def serial_logits(weights, points, deleted):
    """One plain pass without some blocks, in numpy."""
    stem, out, *rest = weights
    x = points @ stem
    for index in range(len(rest) // 2):
        if index not in deleted:
            x = x + np.maximum(x @ rest[2 * index], 0) @ rest[2 * index + 1]
    return x @ out


def test_predictions_for_a_serial_net_are_those_of_plain_passes_without_each_block():
    rng = np.random.default_rng(5)
    sizes = [(FEATURES, 12), (12, CLASSES), *[(12, 10), (10, 12)] * 6]
    weights = [rng.normal(size=size) / size[0] ** 0.5 for size in sizes]
    points = rng.normal(size=(150, FEATURES))
    full = serial_logits(weights, points, ())
    # The net's own answer, but for some: it is right on most.
    labels = np.where(rng.random(150) < 0.8, full.argmax(1), rng.integers(CLASSES, size=150))
    result = measured_and_predicted(Serial(weights), points, labels, count="1-5", trials=20)
    changes = [serial_logits(weights, points, (block,)) - full for block in range(6)]
    sets = [s for size in range(1, 6) for s in itertools.combinations(range(6), size)]
    assert sorted(result.deleted) == sorted(sets)
    found = dict(zip(result.deleted, result.additive.predicted, strict=True))
    correct = dict(zip(result.deleted, result.run.outcomes.correct, strict=True))
    measured, predicted = {}, {}
    for gone in sets:
        said_by_law = (full + sum(changes[block] for block in gone)).argmax(1)
        after = serial_logits(weights, points, gone).argmax(1)
        np.testing.assert_array_equal(found[gone], said_by_law)
        np.testing.assert_array_equal(correct[gone], after == labels)
        measured.setdefault(len(gone), []).append((after == labels).mean())
        predicted.setdefault(len(gone), []).append((said_by_law == labels).mean())
    law = result.law.frame.set_index("deleted")
    for count in range(1, 6):
        assert law.loc[count, "measured"] == pytest.approx(np.mean(measured[count]), abs=1e-12)
        assert law.loc[count, "predicted"] == pytest.approx(np.mean(predicted[count]), abs=1e-12)
    assert law.loc[1, "difference"] == pytest.approx(0, abs=1e-12)
    # The law is no identity for this net.
    assert law["difference"].abs().max() > 0.02
