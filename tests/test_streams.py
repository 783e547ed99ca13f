"""Nets of several streams are refused by name; blocks beside the trunk of one stream are told."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cases import images
from ensemble_view import inspect, unravel
from ensemble_view.errors import DiscoveryError
from layers import conv, wake


class Units(nn.Module):
    """Residual units in a row."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(conv(4, 4) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x).tanh()
        return x


class Base(nn.Module):
    """A stem, two residual units on the trunk, something, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.head = conv(3, 4), Units(2), nn.Linear(4, 5)
        self.left, self.right = Units(2), Units(2)

    def pooled(self, x: Tensor) -> Tensor:
        return self.head(x.mean((2, 3)))


class SideBySide(Base):
    """Two streams of residual units, added where they end."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x).tanh())
        return self.pooled(self.left(x.tanh()) + self.right(x.sigmoid()))


class Concatenated(SideBySide):
    """The same, concatenated."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x).tanh())
        both = torch.cat([self.left(x.tanh()), self.right(x.sigmoid())], 3)
        return self.pooled(both)


class Exits(Base):
    """The logits are those of two depths, averaged."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x).tanh())
        return torch.stack([self.pooled(x.tanh()), self.pooled(self.left(x.cos()))]).mean(0)


class Bypassed(Base):
    """Residual units inside a connection that goes round them: one stream, and a link."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x).tanh())
        return self.pooled(torch.cat([x, self.left(x.tanh())], 3))


class Queried(Base):
    """Residual units that compute what others are multiplied by, as a global query is."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x).tanh())
        query = self.left(x.sin())
        x = self.first(x.tanh())
        x = x + query * x
        return self.pooled(x.relu())


@pytest.mark.parametrize(
    ("net", "what"),
    [
        (SideBySide, "the residual sums of left and of right run side by side"),
        (Concatenated, "the residual sums of left and of right run side by side"),
        (Exits, "it has 2 exits of different depth"),
    ],
)
def test_several_streams_are_refused_by_name(net, what):
    with pytest.raises(DiscoveryError, match=f"This net has several streams: {what}. Unravel one"):
        unravel(wake(net()), images())


@pytest.mark.parametrize(("net", "beside"), [(Bypassed, 2), (Queried, 4)])
def test_residual_sums_in_a_link_are_told_apart_from_blocks(net, beside):
    chain = unravel(wake(net()), images(), granularity="branch")
    assert [block.name for block in chain] == ["first#0", "first#1"]
    found = [addition for addition in chain.additions if addition.beside]
    assert len(found) == beside
    assert all(addition.block is None for addition in found)
    assert all("a branch to the identity in stem, a link or head" in a.reason for a in found)
    counted = (
        f"2 blocks hold 2 of {2 + beside} residual sums of the model; no block stands for the "
        f"other {beside} (in stem, links or head)."
    )
    assert chain.residual_sums == counted
    assert counted in " ".join(repr(inspect(chain)).split())


class SharedByName(Base):
    """A module that two others hold, which export calls through stand-ins."""

    def __init__(self) -> None:
        super().__init__()
        self.again = self.left

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.left(self.first(self.stem(x).tanh()).tanh()).tanh())
        return self.pooled(x)


def test_a_module_with_two_names_keeps_its_place_in_the_code():
    chain = unravel(wake(SharedByName()), images(), granularity="branch")
    names = [block.name for block in chain]
    assert names == ["first#0", "first#1", "left#0", "left#1", "left@1#0", "left@1#1"]
