"""Models and examples that cannot be unravelled are refused in words, and left as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cases import images, small
from ensemble_view import unravel
from ensemble_view.errors import DiscoveryError
from layers import Body, wake
from state import unchanged


class Noisy(Body):
    def body(self, x):
        return x + F.dropout(self.first(x), 0.5)


class Counting(Body):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def body(self, x):
        self.seen += 1
        return x + self.first(x)


class Adapting(Body):
    """BatchNorm that goes on learning its statistics in evaluation mode."""

    def body(self, x):
        norm = self.first[1]
        hidden = F.batch_norm(self.first[0](x), norm.running_mean, norm.running_var, training=True)
        return x + F.relu(hidden)


class Stubborn(Body):
    """The code of its second block depends on the size of the batch."""

    def body(self, x):
        x = x + self.first(x)
        return x + self.second(x) * (2.0 if x.shape[0] == 2 else 1.0)


class Narrow(Body):
    """Its second block is written for the size of the batch that it was exported with."""

    def body(self, x):
        x = x + self.first(x)
        half = x.shape[0] // 2
        if x.shape[0] == 2:
            return x + self.second(x[: x.shape[0]].view(2, 4, 8, 8))
        return x + self.second(x) + half


class Lost(Body):
    """Its streams part after the stem and meet again in a sum of two branches."""

    def body(self, x):
        first, second = F.relu(self.first(x)), F.relu(self.second(x))
        return F.relu(first + second) + F.relu(first * second)


class Untraceable(Body):
    """Its code asks for a value."""

    def body(self, x):
        h = self.first(x)
        return x + h if float(h.mean()) > 100 else x


class IntegersOnly(nn.Module):
    def forward(self, x):
        return x.sum(1)


MUTE = {f"layer{s}__0__bn2__{p}": 0.0 for s in (1, 2, 3) for p in ("weight", "bias")}

REFUSALS: list[tuple[Callable[[], nn.Module], Any, dict[str, Any], str]] = [
    (
        small,
        lambda: images(channels=1),
        {},
        r"^ResNet does not run on the example \(float64 \(2, 1, 8, 8\)\): .*expected input\[2, 1, 8"
        r", 8\] to have 3 channels.* Pass an example of the size and channels that the model was",
    ),
    (small, lambda: images().float(), {}, r"does not run on the example \(float32 \(2, 3, 8, 8\)"),
    (small, lambda: (images(), images()), {}, "takes 2 positional arguments but 3 were given"),
    (small, lambda: {"y": images()}, {}, "got an unexpected keyword argument 'y'"),
    (
        small,
        lambda: "abc",
        {},
        "^The example is a str; pass a tensor, a tuple of arguments or a dictionary of keyword",
    ),
    (small, lambda: None, {}, "^The example is a NoneType; pass a tensor"),
    (small, lambda: images().numpy(), {}, "^The example is a ndarray; pass a tensor"),
    (small, lambda: (1, 2), {}, "^The example holds no tensor with a batch of at least one; pass"),
    (small, lambda: images()[:0], {}, "^The example holds no tensor with a batch of at least one"),
    (small, lambda: torch.tensor(1.0), {}, "^The example holds no tensor with a batch of at"),
    (
        lambda: small(linear__weight=0.0),
        images,
        {},
        "^Cutting all branches of ResNet changes nothing in its output: its head or branches are "
        r"zero\. Load trained weights before the analysis\.$",
    ),
    (lambda: small(**MUTE), images, {}, "^Cutting all branches of ResNet changes nothing"),
    (
        lambda: small(linear__weight=float("nan")),
        images,
        {},
        "^ResNet returns values that are not finite on the example; check its weights",
    ),
    (
        lambda: wake(Noisy()),
        images,
        {},
        "^Noisy gives two different outputs for one input in evaluation mode; a lesion's effect "
        r"could not be told from that noise\. Make it deterministic\.$",
    ),
    (
        lambda: wake(Counting()),
        images,
        {},
        r"^Counting changes its buffers in evaluation mode \(seen\), so that what it computes "
        "depends on what it computed before; freeze them before the analysis.$",
    ),
    (
        lambda: wake(Adapting()),
        images,
        {},
        r"^Adapting changes its buffers in evaluation mode \(first\.1\.running_mean, first\.1\.run",
    ),
    (
        lambda: wake(Stubborn()),
        images,
        {},
        r"^The chain of Stubborn does not equal it on a batch of float64 \(3, 3, 8, 8\): outputs "
        r"differ by .* of the largest one\. They part in block 1 \(block\), which ends at the "
        r"model itself: add 2\. The model's code there does something else than when it was",
    ),
    (
        lambda: wake(Narrow()),
        images,
        {},
        r"^The chain of Narrow fails on a batch of another size \(float64 \(3, 3, 8, 8\)\): .*\. "
        r"It fails in block 1 \(block\), which ends at the model itself: add 2\. The model's code",
    ),
    (
        lambda: wake(Lost()),
        images,
        {},
        r"^Lost has no residual block: none of its 2 additions is one \(the last, the model "
        r"itself: add 2: a merge: every summand passes a nonlinearity\)\. The values that every "
        r"path passes are lost after stem: conv2d; the next one is the model itself: add 2, with "
        r"\d+ values in between\. For a net without shortcuts use plain=True",
    ),
    (
        lambda: wake(Untraceable()),
        images,
        {},
        r"^Untraceable chooses its way by the values of a tensor .* The last operation reached was "
        r"the model itself: .*\. Use torch\.where or torch\.cond there, or build the chain by hand "
        r"with Chain\.from_parts\(stem, blocks, head\)\.$",
    ),
    (
        small,
        images,
        {"output": "nope"},
        "^The model has no floating-point output called 'nope'; found: one tensor. Name one by",
    ),
    (
        small,
        images,
        {"plain": True},
        r"^This net has 3 residual blocks \(layer1\.0, …\); plain is for nets without shortcuts: "
        r"leave it out\.$",
    ),
    (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).double(),
        images,
        {},
        r"^Sequential has no residual block: it adds nothing\. For a net without shortcuts use "
        r"plain=True \(--plain\), which takes its conv-norm-activation units as the chain\.$",
    ),
    (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).double(),
        images,
        {"plain": True},
        "^Sequential has no convolution on the way that every path takes; there is no unit to "
        r"delete\. Build the chain by hand with Chain\.from_parts\(stem, blocks, head\)\.$",
    ),
    (
        IntegersOnly,
        lambda: torch.ones(2, 3, dtype=torch.int64),
        {},
        "^The model has no floating-point output; found: none",
    ),
]


@pytest.mark.parametrize("thing", ["model.pt", {"weight": torch.ones(1)}, None, nn.Linear])
def test_only_modules_are_unravelled(thing):
    with pytest.raises(
        DiscoveryError, match=r"^A model is a torch\.nn\.Module; this is a \w+\. Bu"
    ):
        unravel(thing, images())


@pytest.mark.parametrize(("make", "example", "options", "message"), REFUSALS)
def test_refusals_say_what_is_wrong_and_leave_the_model_as_it_was(make, example, options, message):
    model = make()
    # Not strictly: a model that counts its calls or draws noise is run before it is refused.
    with (
        torch.random.fork_rng(),
        unchanged(model, strictly=False),
        pytest.raises(DiscoveryError, match=message),
    ):
        unravel(model, example(), **options)
