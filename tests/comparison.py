"""Edits of a net of three blocks, and the comparison of hooks and engine with an oracle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import nets
from cases import error, images
from ensemble_view import Chain, Compose, Delete, Engine, Swap, edited
from ensemble_view.core.plan import bind
from layers import wake

BITE = 1e-3
EXACT = 1e-10

EDITS = [
    (Compose(), (0, 1, 2), ()),
    (Delete(0), (0, 1, 2), (0,)),
    (Delete(1), (0, 1, 2), (1,)),
    (Delete(0, 2), (0, 1, 2), (0, 2)),
]
MOVES = [(Swap(0, 2), (2, 1, 0), ()), (Swap(0, 1) | Delete(0), (1, 0, 2), (0,))]


def plain() -> nets.Layers:
    return wake(nets.Layers())


def compare(
    model: nn.Module,
    chain: Chain,
    twin: nets.Net,
    edits: Any,
    *,
    tolerance: float = EXACT,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Hooks and engine against the oracle of a net of its own, in double precision."""
    batch = images().to(dtype)
    plans = [bind(intervention, chain.outline) for intervention, _, _ in edits]
    from_engine = dict(Engine(chain, plans).logits(batch))
    with torch.no_grad():
        whole = twin.by_hand(batch.double(), range(twin.count), ())
        for number, (intervention, order, deleted) in enumerate(edits):
            expected = twin.by_hand(batch.double(), order, deleted)
            with edited(chain, intervention):
                found = model(batch)
            assert error(found.double(), expected) <= tolerance, intervention
            assert error(from_engine[number].double(), expected) <= tolerance, intervention
            assert number == 0 or error(expected, whole) >= BITE, f"{intervention} does not bite"


class Holding(nn.Module):
    """A model inside another one."""

    def __init__(self, net: nn.Module, around: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self.net = net
        self.around = around

    def forward(self, x: Tensor) -> Tensor:
        if self.around is None:
            return self.net(x)
        with self.around():
            return self.net(x)
