"""Half precision, mixed types and autocast: the net in float64 within stated tolerances."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nets
from cases import images
from comparison import EDITS, MOVES, Holding, compare, plain
from ensemble_view import Compose, Delete, unravel
from layers import wake

INSIDE = tuple(f"net.blocks.{index}" for index in range(3))

# The most that hooks or engine differed from the net in float64, over all edits below, was 4.1e-7,
# 1.4e-3 and 1.5e-2 of the largest logit; the engine folds BatchNorm into weights of that type.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 5e-2}


def rounded(net: nets.Net, dtype: torch.dtype) -> nets.Net:
    """The net in float64 with the weights that it has in a coarser type."""
    return copy.deepcopy(net).to(dtype).double()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_half_precision_stays_within_the_stated_tolerance(dtype):
    model = plain().to(dtype)
    chain = unravel(model, images().to(dtype))
    compare(
        model,
        chain,
        rounded(plain(), dtype),
        EDITS + MOVES,
        tolerance=TOLERANCES[dtype],
        dtype=dtype,
    )


class Mixed(nets.TwoSums):
    """Half-precision convolutions, the stream in single precision."""

    def forward(self, x: Tensor) -> Tensor:
        coarse = x.dtype
        x = self.stem(x).float()
        for block in self.blocks:
            x = x + block.first(x.to(coarse))
            x = x + F.relu(block.second(x.to(coarse)))
        return self.head(x.mean((2, 3)).to(coarse))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_mixed_types_stay_within_the_tolerance_of_the_coarser(dtype):
    model, twin = wake(Mixed()).to(dtype), rounded(wake(nets.TwoSums()), dtype)
    twin.count = 6
    chain = unravel(model, images().to(dtype))
    edits = [(Compose(), range(6), ()), *((Delete(i), range(6), (i,)) for i in range(6))]
    compare(model, chain, twin, edits, tolerance=TOLERANCES[dtype], dtype=dtype)


def autocast(dtype: torch.dtype) -> Callable[[], Any]:
    return lambda: torch.autocast("cpu", dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_model_may_enter_autocast_itself(dtype):
    model = Holding(plain().float(), autocast(dtype))
    chain = unravel(model, images().float())
    assert tuple(block.name for block in chain) == INSIDE
    compare(model, chain, plain(), EDITS + MOVES, tolerance=TOLERANCES[dtype], dtype=torch.float32)


class Nested(nets.RootLoop):
    """Each region lies in another one of another sort."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        with torch.enable_grad():
            x = F.relu(x + self.blocks[0](x))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                x = F.relu(x + self.blocks[1](x))
                with torch.enable_grad():
                    x = F.relu(x + self.blocks[2](x))
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
            x = F.relu(x + self.blocks[3](x))
        return self.head(x.mean((2, 3)))


class Partly(nets.RootLoop):
    """The first blocks under autocast, the others expressly not."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for block in self.blocks[:2]:
                x = F.relu(x + block(x))
        with torch.autocast("cpu", enabled=False):
            for block in self.blocks[2:]:
                x = F.relu(x.float() + block(x.float()))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("net", [Partly, Nested])
def test_a_model_may_enter_autocast_for_some_blocks(net):
    model, twin = wake(net()).float(), wake(nets.RootLoop())
    chain = unravel(model, images().float())
    assert len(chain) == 4
    edits = [(Compose(), range(4), ()), *((Delete(i), range(4), (i,)) for i in range(4))]
    compare(model, chain, twin, edits, tolerance=5e-2, dtype=torch.float32)


def test_autocast_outside_holds_for_model_chain_and_engine_alike():
    model, batch = plain().float(), images().float()
    for around in (autocast(torch.bfloat16), torch.no_grad):
        with around():
            chain = unravel(model, batch)
        with autocast(torch.bfloat16)():
            compare(model, chain, plain(), EDITS + MOVES, tolerance=5e-2, dtype=torch.float32)
            with torch.no_grad():
                assert chain(batch).dtype == model(batch).dtype == torch.bfloat16
        with torch.no_grad():
            assert torch.equal(chain(batch), model(batch))
