"""What adds without being a residual block, and the reason that is given for it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import nets
from cases import images
from ensemble_view import Chain, unravel
from ensemble_view.errors import DiscoveryError
from ensemble_view.nets.models.building import build
from layers import Body, conv, two_layers, wake


class Concatenation(Body):
    def body(self, x):
        return torch.cat([x, F.relu(self.first(x))], 1)[:, 2:6]


class PositionalEmbedding(Body):
    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.ones(4, 8, 8))

    def body(self, x):
        x = x + self.position.expand(x.shape[0], 4, 8, 8)
        return x + self.first(x)


class BroadcastBias(Body):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(1, 4, 1, 1))

    def body(self, x):
        return F.relu(self.first(x) + self.bias)


class NonlinearMerge(Body):
    def body(self, x):
        return F.relu(self.first(x)) + F.relu(self.second(x))


class LinearMerge(Body):
    """Two convolutions with BatchNorm and no identity, as in a re-parametrised stem."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(conv(4, 4), nn.BatchNorm2d(4))
        self.second = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
        self.third = nn.BatchNorm2d(4)

    def body(self, x):
        return F.relu(self.first(x) + self.second(x))


class LinearMergeOfThree(LinearMerge):
    def body(self, x):
        return F.relu(self.first(x) + self.second(x) + self.third(x))


class Doubling(Body):
    def body(self, x):
        return F.relu(x + x)


class SumInsideABranch(Body):
    def body(self, x):
        inner = self.first(x)
        inner = inner + F.relu(self.second(inner))
        return torch.cat([x[:, :2], inner[:, 2:]], 1)


class DifferentShapes(Body):
    def body(self, x):
        return x + self.first(x).mean((2, 3), keepdim=True)


NOTHING = [
    (Concatenation, None),
    (BroadcastBias, "adds values of different shapes, or scaled: no residual"),
    (NonlinearMerge, "a merge: every summand passes a nonlinearity"),
    (LinearMerge, "a merge: every summand is linear in what they share, and none is the identity"),
    (LinearMergeOfThree, "a merge: every summand is linear in what they share"),
    (Doubling, "adds a value to itself"),
    (SumInsideABranch, "not on the trunk: paths from input to output go around it"),
    (DifferentShapes, "adds values of different shapes, or scaled: no residual"),
]


@pytest.mark.parametrize(("net", "reason"), NOTHING, ids=[net.__name__ for net, _ in NOTHING])
def test_what_adds_without_being_residual_is_no_block(net, reason):
    with pytest.raises(DiscoveryError, match=f"^{net.__name__} has no residual block: ") as raised:
        unravel(wake(net()), images())
    said = str(raised.value)
    assert "which takes its conv-norm-activation units as the chain" in said
    if reason is None:
        assert "it adds nothing" in said
    elif net is not LinearMergeOfThree:
        assert f"the last, the model itself: add: {reason}" in said


def reasons(chain: Chain) -> list[tuple[str, int | None, str]]:
    return [(addition.place, addition.block, addition.reason) for addition in chain.additions]


def test_a_positional_embedding_is_no_block_but_the_sum_after_it_is():
    chain = unravel(wake(PositionalEmbedding()), images())
    assert [block.name for block in chain] == ["first"]
    embedding = "adds something that does not depend on the trunk (an embedding or a bias)"
    assert reasons(chain) == [
        ("the model itself: add", None, embedding),
        ("the model itself: add 2", 0, "block: identity shortcut, 1 branch(es)"),
    ]


class BesideABlock(LinearMerge):
    """One residual block after a sum of each other sort."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = two_layers(4)

    def body(self, x):
        x = F.relu(self.first(x) + self.second(x) + self.third(x))
        x = F.relu(self.first(x)) + torch.sigmoid(self.second(x))
        return F.relu(x + self.branch(x))


def test_each_addition_says_why_it_is_a_block_or_none():
    chain = unravel(wake(BesideABlock()), images())
    linear = "a merge: every summand is linear in what they share, and none is the identity"
    assert reasons(chain) == [
        ("the model itself: add", None, "part of a sum of several summands"),
        ("the model itself: add 2", None, linear),
        ("the model itself: add 3", None, "a merge: every summand passes a nonlinearity"),
        ("the model itself: add 4", 0, "block: identity shortcut, 1 branch(es)"),
    ]


def test_additions_inside_the_branch_of_a_block_are_none():
    chain = unravel(wake(nets.InnerSums()), images())
    inside = [
        r for place, block, r in reasons(chain) if place.startswith("blocks.0") and block != 0
    ]
    assert inside == [
        "not on the trunk: paths from input to output go around it; adds a branch to the identity "
        "inside a branch",
        "adds values of different shapes, or scaled: no residual",
        "adds values of different shapes, or scaled: no residual",
    ]


@pytest.mark.parametrize(
    "make",
    [
        lambda: torchvision.models.DenseNet(4, (2, 3), 8, num_classes=5),
        lambda: build("vgg10,width=4"),
        pytest.param(
            lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["densenet", "vgg", "googlenet"],
)
def test_nets_without_shortcuts_have_no_block(make):
    with pytest.raises(DiscoveryError, match=r"^\w+ has no residual block: it adds nothing\."):
        unravel(make(), images(side=32).float())
