"""Threads: who works at once gets the right result, and the process is left as it was."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import ensemble_view as ev
from ensemble_view import Delete, Swap, edited, unravel
from ensemble_view.errors import DiscoveryError, InterventionError
from ensemble_view.nets.adapters.libraries import loading
from ensemble_view.nets.models.building import build
from ensemble_view.study.untrained import untrained_copy


def at_once(*work: Callable[[], object]) -> list[object]:
    """Do things in threads that start together; an error is the result."""
    found: list[object] = [None] * len(work)
    together = threading.Barrier(len(work))

    def do(index: int) -> None:
        together.wait()
        try:
            found[index] = work[index]()
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=do, args=(index,)) for index in range(len(work))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made = build("resnet14,width=4", in_channels=1).eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return made


@pytest.fixture
def nets() -> list[nn.Module]:
    return [net(seed) for seed in range(2)]


@pytest.fixture
def data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(24, 1, 8, 8, generator=generator)
    return images, torch.randint(0, 10, (24,), generator=generator)


def state() -> tuple[object, ...]:
    """What of the whole process must come back."""
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch.get_num_threads(),
        torch.get_rng_state().tolist(),
        list(warnings.filters),
        dict(os.environ),
        len(nn.modules.module._global_forward_hooks),
        len(nn.modules.module._global_forward_pre_hooks),
        torch._dynamo.eval_frame._stance.stance,
    )


def test_lesions_in_two_threads_are_those_of_one(nets, data):
    alone = [ev.lesion(each, data, batch_size=8).outcomes for each in nets]
    before = state()
    for _ in range(2):
        found = at_once(*(lambda n=each: ev.lesion(n, data, batch_size=8) for each in nets))
        for result, expected in zip(found, alone, strict=True):
            assert isinstance(result, ev.LesionResult)
            assert np.array_equal(result.outcomes.correct, expected.correct)
            np.testing.assert_allclose(result.outcomes.loss, expected.loss, rtol=1e-5)
    assert state() == before
    assert not any(module.training for each in nets for module in each.modules())
    exported = torch.export.export(nn.Linear(8, 8), (torch.ones(2, 8),))
    assert exported.module()(torch.ones(2, 8)).shape == (2, 8)


def test_one_net_unravelled_in_two_threads_is_left_as_it_was(nets, data):
    model = nets[0].train()
    before, modes = state(), [module.training for module in model.modules()]
    chains = at_once(*[lambda: unravel(model, data[0][:2])] * 2)
    assert [len(chain) for chain in chains] == [6, 6]
    assert state() == before
    assert [module.training for module in model.modules()] == modes


def test_edits_in_two_threads_act_each_in_its_own_and_leave_no_trace(nets, data):
    chains = [unravel(each, data[0][:2]) for each in nets]

    def logits(index: int, pause: threading.Barrier) -> torch.Tensor:
        with edited(chains[index], Delete(index + 1)):
            pause.wait(60)
            found = nets[index](data[0])
            pause.wait(60)
        return found

    with torch.no_grad():
        alone = []
        for index in range(2):
            with edited(chains[index], Delete(index + 1)):
                alone.append(nets[index](data[0]))
            assert not torch.equal(alone[index], nets[index](data[0]))
    before = state()
    # Opened and closed in each order that threads can come to.
    for _ in range(3):
        pause = threading.Barrier(2)
        found = at_once(lambda p=pause: logits(0, p), lambda p=pause: logits(1, p))
        assert all(torch.equal(*pair) for pair in zip(found, alone, strict=True))
    assert state() == before


@pytest.mark.parametrize("is_bare", [False, True])
def test_calling_an_edited_model_in_another_thread_is_refused_aloud(nets, data, is_bare):
    model = nets[0]
    target = model if is_bare else unravel(model, data[0][:2])
    plain = model(data[0])
    with edited(target, Delete(1)):
        (error,) = at_once(lambda: model(data[0]))
        assert isinstance(error, InterventionError)
        assert str(error) == (
            "ResNet is called in another thread than that of with edited(...), where no edit is "
            "seen; open edited in the thread that calls the model, or give each thread a model of "
            "its own."
        )
        # Another model there is nobody's business, and here the edit acts.
        (other,) = at_once(lambda: nets[1](data[0]))
        assert torch.equal(other, nets[1](data[0]))
        assert not torch.equal(model(data[0]), plain)
    assert torch.equal(model(data[0]), plain)
    (after,) = at_once(lambda: model(data[0]))
    assert torch.equal(after, plain)


def test_one_model_may_be_edited_in_two_threads_unless_its_blocks_move(nets, data):
    model = nets[0]
    chain = unravel(model, data[0][:2])

    def deleted() -> torch.Tensor:
        with edited(chain, Delete(2)):
            return model(data[0])

    alone = deleted()
    with edited(chain, Delete(1)):
        (found,) = at_once(deleted)
        (refused,) = at_once(lambda: unravel(model, data[0][:2]))
    assert torch.equal(found, alone)
    assert isinstance(refused, DiscoveryError)
    assert "is being edited, so it is not itself" in str(refused)
    with edited(chain, Swap(0, 1)):
        (refused,) = at_once(deleted)
    assert isinstance(refused, InterventionError)
    assert "one of the two edits moves blocks" in str(refused)


def test_random_weights_in_two_threads_are_those_of_their_seeds(nets):
    alone = [untrained_copy(nets[0], seed).conv1.weight for seed in range(4)]
    before = torch.get_rng_state()
    found = at_once(*(lambda s=s: untrained_copy(nets[0], s).conv1.weight for s in range(4)))
    assert all(torch.equal(*pair) for pair in zip(found, alone, strict=True))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_environment_comes_back_after_two_threads_have_loaded():
    before = dict(os.environ)
    pause = threading.Event()

    def load() -> str:
        with loading("a model", trust_pickle=False):
            pause.wait(0.05)
            return os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"]

    assert at_once(load, load) == ["1", "1"]
    assert dict(os.environ) == before
