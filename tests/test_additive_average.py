"""A test that ensembles pass and serial nets fail, and a comparison that tells neither apart."""

from __future__ import annotations

import itertools

import additive_average
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import softmax

from ensemble_view import Block, Chain, Compose, Engine, Keep
from ensemble_view.core.plan import bind
from miniature import miniature_scale

BLOCKS, WIDTH, CLASSES, IMAGES = 20, 12, 5, 300


def ensemble_branch(member):
    """A branch that reads the image and adds to the logits, which no other branch reads."""
    return lambda state, context: torch.cat(
        [torch.zeros_like(state[:, :WIDTH]), member(state[:, :WIDTH])], dim=1
    )


def serial_branch(weight):
    """A branch that replaces what the blocks before it said by something else."""
    return lambda state, context: torch.tanh(state @ weight) * 3 - state


def net_of(kind, seed=0):
    """A chain of known kind, and images."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def member():
        first, last = drawn(WIDTH, 16) / WIDTH**0.5, drawn(16, CLASSES) / 4
        return lambda x: torch.relu(x @ first) @ last

    if kind == "serial":
        weights = [drawn(WIDTH, WIDTH) / WIDTH**0.5 for _ in range(BLOCKS)]
        out = drawn(WIDTH, CLASSES)
        blocks = [Block(0, str(i), branch=serial_branch(w)) for i, w in enumerate(weights)]
        return Chain.from_parts(lambda x: x, blocks, lambda x: x @ out), drawn(IMAGES, WIDTH)
    truth, members = member(), [member() for _ in range(BLOCKS)]
    if kind == "copies":
        members = [truth] * BLOCKS
    if kind == "noisy":
        members = [lambda x, own=own: (truth(x) + own(x)) / 4 for own in members]
    blocks = [Block(0, str(i), branch=ensemble_branch(m)) for i, m in enumerate(members)]

    def stem(x):
        return torch.cat([x, torch.zeros(len(x), CLASSES, dtype=x.dtype)], dim=1)

    return Chain.from_parts(stem, blocks, lambda state: state[:, WIDTH:]), drawn(IMAGES, WIDTH)


def truth_of(seed=0):
    """What the members of the noisy ensemble have in common: its first draw."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(WIDTH, 16, generator=generator, dtype=torch.float64) / WIDTH**0.5
    last = torch.randn(16, CLASSES, generator=generator, dtype=torch.float64) / 4
    return lambda x: torch.relu(x @ first) @ last


def answers_of(kind, left_out, seed=0):
    """Logits of the full net, without each branch, and of 20 random keep-sets."""
    chain, images = net_of(kind, seed)
    rng = np.random.default_rng(seed)
    keep_sets = [
        tuple(sorted(rng.choice(BLOCKS, BLOCKS - left_out, replace=False).tolist()))
        for _ in range(20)
    ]
    singles = [tuple(i for i in range(BLOCKS) if i != left) for left in range(BLOCKS)]
    edits = [Compose(), *(Keep(*kept) for kept in (*singles, *keep_sets))]
    plans = [bind(edit, chain.outline) for edit in edits]
    logits = {number: found.numpy() for number, found in Engine(chain, plans).logits(images)}
    every = np.stack([logits[number] for number in range(len(plans))])
    return every[0], every[1 : 1 + BLOCKS], every[1 + BLOCKS :], keep_sets


@pytest.mark.parametrize("left_out", [2, 5, 10])
@pytest.mark.parametrize("kind", ["independent", "copies"])
def test_nets_wired_as_branches_add_up(kind, left_out):
    full, without, said, keep_sets = answers_of(kind, left_out)
    predicted = additive_average.additive(full, without, keep_sets)
    assert additive_average.misfit(full, said, predicted) < 1e-18


@pytest.mark.parametrize(("left_out", "seed"), itertools.product([2, 5, 10], range(3)))
def test_a_serial_net_does_not(left_out, seed):
    full, without, said, keep_sets = answers_of("serial", left_out, seed)
    predicted = additive_average.additive(full, without, keep_sets)
    assert additive_average.misfit(full, said, predicted) > 2 * additive_average.MOST


@pytest.mark.parametrize("left_out", [2, 5, 10])
def test_a_true_ensemble_fails_the_comparison_with_the_full_net_too(left_out):
    """Each member is the truth and its own noise; together they are best."""
    full, _, said, _ = answers_of("noisy", left_out)
    _, images = net_of("noisy")
    labels = truth_of()(images).argmax(dim=1).numpy()
    of_label = np.arange(IMAGES), labels
    average, whole = softmax(said, axis=-1).mean(axis=0), softmax(full, axis=-1)
    assert (whole.argmax(axis=1) != labels).mean() < 0.3
    assert (average.argmax(axis=1) != labels).mean() > (
        whole.argmax(axis=1) != labels
    ).mean() - 0.01
    assert np.log(average[of_label]).mean() < np.log(whole[of_label]).mean()


def test_the_prediction_is_the_sum_by_hand():
    rng = np.random.default_rng(0)
    full, without = rng.normal(size=(3, 4)), rng.normal(size=(5, 3, 4))
    (found,) = additive_average.additive(full, without, [(0, 3)])
    assert found == pytest.approx(full - sum(full - without[i] for i in (1, 2, 4)))
    assert np.isnan(additive_average.misfit(full, np.stack([full] * 2), np.stack([full] * 2)))


def test_miniature(tmp_path):
    scale = miniature_scale(tmp_path / "nets", epochs=1)
    table = additive_average.run(tmp_path, scale, ("resnet8",))
    assert table["left_out"].unique().tolist() == [2]
    assert (table["misfit"] >= 0).all()
    assert pd.read_csv(tmp_path / "misfits.csv")["seed"].tolist() == [0, 1]
    assert "| resnet8 | 2 of 3 |" in (tmp_path / "summary.md").read_text()
