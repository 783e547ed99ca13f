"""The pace of a run: the batch size and the threads that are fastest, by a clock of our own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ensemble_view.study import pace
from ensemble_view.study.pace import fastest_pace


class Clocked:
    """An engine that takes as long as a table says, by batch size and threads."""

    device = torch.device("cpu")

    def __init__(self, seconds: Any) -> None:
        self.seconds, self.sizes = seconds, []

    def profile(self, inputs: torch.Tensor, targets: torch.Tensor) -> float:
        assert len(inputs) == len(targets)
        self.sizes.append(len(inputs))
        return self.seconds(len(inputs), torch.get_num_threads())


SAMPLE = torch.ones(2, 3), torch.tensor([0, 1])


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("best", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_fastest_is_chosen_wherever_it_lies(best, threads):
    def seconds(size: int, used: int) -> float:
        return size * (0.5 if (size, used) == (best, threads) else 1.0)

    found = fastest_pace(Clocked(seconds), SAMPLE)
    assert (found.batch_size, found.threads, found.seconds_per_example) == (best, threads, 0.5)
    assert torch.get_num_threads() == 2


def test_a_larger_batch_must_be_worth_it():
    found = fastest_pace(
        Clocked(lambda size, used: size * (1 - 0.0001 * size)), SAMPLE, sizes=[16, 32]
    )
    assert (found.batch_size, found.threads) == (16, 1)


def test_no_batch_is_larger_than_there_are_examples():
    engine = Clocked(lambda size, used: 1.0)
    assert fastest_pace(engine, SAMPLE, most=20).batch_size == 20
    assert max(engine.sizes) == 20


def test_where_memory_runs_out_smaller_batches_do():
    def seconds(size: int, used: int) -> float:
        if size > 32:
            raise torch.OutOfMemoryError
        return 1.0

    assert fastest_pace(Clocked(seconds), SAMPLE).batch_size == 32


def test_measuring_ends_in_time(monkeypatch):
    clock = SimpleNamespace(now=0.0)

    def seconds(size: int, used: int) -> float:
        clock.now += 1.0
        return 1.0 * size

    monkeypatch.setattr(pace.time, "perf_counter", lambda: clock.now)
    engine = Clocked(seconds)
    fastest_pace(engine, SAMPLE)
    # A second a call, three calls a size: the smallest of each number of threads, and no more.
    assert engine.sizes == [16] * 6
