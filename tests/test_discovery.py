"""What is a block, what is not and why; the chain equals the model; refusals in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import nets
from cases import stages
from ensemble_view import Block, Chain, unravel
from ensemble_view.errors import DiscoveryError
from ensemble_view.models import build
from nets import conv, two_layers, wake
from state import unchanged


def images(count: int = 2, channels: int = 3, side: int = 8, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, generator=generator, dtype=torch.float64)


def logits(output: Any) -> Tensor:
    return output["logits"] if isinstance(output, dict) else output


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def test_the_blocks_are_those_of_the_net(prepared):
    chain, case = prepared.chain, prepared.case
    assert tuple(block.name for block in chain) == case.blocks
    assert tuple(block.shortcut_kind for block in chain) == case.kinds
    assert [block.index for block in chain] == list(range(len(chain)))
    assert tuple(chain.links) == case.links
    assert tuple(block.index for block in chain if not block.deletable) == case.fixed
    for group in case.alike:
        shapes = {(chain.blocks[i].shape_in, chain.blocks[i].shape_out) for i in group}
        assert len(shapes) == 1


def test_the_chain_equals_the_model_on_batches_of_other_sizes(prepared):
    generator = torch.Generator().manual_seed(5)
    for count in (1, 5):
        shape = (count, *prepared.images.shape[1:])
        batch = torch.randn(shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            args, kwargs = prepared.case.arguments(batch)
            expected = logits(prepared.model(*args, **kwargs))
            args, kwargs = prepared.case.arguments(batch)
            assert error(prepared.chain(*args, **kwargs), expected) <= 1e-10


def test_a_block_is_the_sum_of_its_parts_and_writes_over_nothing(prepared):
    chain = prepared.chain
    args, kwargs = prepared.arguments
    with torch.no_grad():
        x, context = chain.stem(*args, **kwargs)
        for block in chain:
            if block.index in chain.links:
                x = chain.links[block.index](x, context)
            given_x = x.clone()
            assert tuple(x.shape[1:]) == block.shape_in
            shared = block.before(x, context)
            total = branch = block.branch(shared, context)
            if block.is_residual:
                shortcut = block.shortcut(shared, context)
                total = shortcut + branch
                left = block.after(shortcut, context)
                assert torch.equal(block.deleted(x, context), left)
            elif block.deletable:
                assert block.deleted(x, context) is x
            output = block(x, context)
            assert torch.equal(output, block.after(total, context))
            assert tuple(output.shape[1:]) == block.shape_out
            assert torch.equal(x, given_x)
            x = output


COUNTS = [
    ("resnet34", (3, 4, 6, 3), 16),
    pytest.param("resnet101", (3, 4, 23, 3), 33, marks=pytest.mark.slow),
    pytest.param("resnet152", (3, 8, 36, 3), 50, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "per_stage", "count"), COUNTS)
def test_torchvision_nets_have_their_known_number_of_blocks(name, per_stage, count):
    model = wake(torchvision.models.get_model(name, weights=None, num_classes=5)).float()
    chain = unravel(model, images(side=32).float())
    assert len(chain) == count
    assert tuple(block.name for block in chain) == stages(*per_stage)


class Body(nn.Module):
    """Stem and head around a body that a subclass writes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 4), nn.Linear(4, 5)
        self.first, self.second = two_layers(4), two_layers(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError


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


class ScaledSum(Body):
    def body(self, x):
        return torch.add(x, self.first(x), alpha=0.5)


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
    (ScaledSum, "adds values of different shapes, or scaled: no residual"),
    (DifferentShapes, "adds values of different shapes, or scaled: no residual"),
]


@pytest.mark.parametrize(("net", "reason"), NOTHING, ids=[net.__name__ for net, _ in NOTHING])
def test_what_adds_without_being_residual_is_no_block(net, reason):
    with pytest.raises(DiscoveryError, match=f"^{net.__name__} has no residual block: ") as raised:
        unravel(wake(net()), images())
    said = str(raised.value)
    assert said.endswith("which takes its conv-norm-activation units as the chain.")
    if reason is None:
        assert "it adds nothing" in said
    elif net is not LinearMergeOfThree:
        assert f"the first, the model itself: add: {reason}" in said


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
        "not on the trunk: paths from input to output go around it",
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
    """Its code depends on the size of the batch."""

    def body(self, x):
        return x + self.first(x) * (2.0 if x.shape[0] == 2 else 1.0)


class IntegersOnly(nn.Module):
    def forward(self, x):
        return x.sum(1)


def small(**values: float) -> nn.Module:
    model = wake(build("resnet8,width=4", classes=5))
    for name, value in values.items():
        nn.init.constant_(model.get_parameter(name.replace("__", ".")), value)
    return model


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
        "^The chain of Stubborn does not equal it: outputs differ by .* of the largest one",
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


@pytest.mark.parametrize("grad_mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_unravelling_leaves_no_trace(grad_mode):
    model = wake(nets.DropoutNet()).train()
    model.blocks[0].eval()
    model.blocks[1].branch[0].weight.requires_grad_(False)
    model.blocks[2].register_forward_hook(lambda module, args, output: None)
    model(images()).sum().backward()
    batch = images()
    given_batch = batch.clone()
    with grad_mode(), unchanged(model):
        chain = unravel(model, batch)
    assert torch.equal(batch, given_batch)
    assert batch.grad_fn is None
    assert len(chain) == 3


EXAMPLES = {
    "tensor": lambda x: x,
    "one example": lambda x: x[:1],
    "tuple": lambda x: (x,),
    "list": lambda x: [x],
    "dictionary": lambda x: {"x": x},
    "float that wants a gradient": lambda x: x.clone().requires_grad_(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("form", EXAMPLES)
def test_an_example_comes_in_many_forms(form):
    model = small()
    chain = unravel(model, EXAMPLES[form](images()))
    arguments = {"x": images(4)} if form == "dictionary" else images(4)
    with torch.no_grad():
        found = chain(**arguments) if form == "dictionary" else chain(arguments)
        assert error(found, model(images(4))) <= 1e-10


def test_a_chain_refuses_arguments_of_another_form():
    chain = unravel(wake(nets.DictOutput()), {"images": images(), "scale": images(1)[0, :, :1, :1]})
    with pytest.raises(DiscoveryError, match="Unravel the model again with such an example"):
        chain(images())


@pytest.mark.parametrize(("output", "width"), [(None, 5), ("logits", 5), ("features", 4)])
def test_the_output_that_is_followed_can_be_chosen(output, width):
    model = wake(nets.DictOutput())
    arguments = {"images": images(), "scale": images(1)[0, :, :1, :1]}
    chain = unravel(model, arguments, output=output)
    with torch.no_grad():
        found, expected = chain(**arguments), model(**arguments)[output or "logits"]
    assert found.shape == (2, width)
    assert error(found, expected) <= 1e-10


class TupleOutput(nets.RootLoop):
    def forward(self, x):
        return len(x), super().forward(x), x.mean((1, 2, 3))


def test_the_first_floating_point_output_is_followed_unless_another_is_asked_for():
    model, batch = wake(TupleOutput()), images()
    with torch.no_grad():
        assert error(unravel(model, batch)(batch), model(batch)[1]) <= 1e-10
    with pytest.raises(DiscoveryError, match=r"^TupleOutput has no residual block: none of its 4"):
        unravel(model, batch, output=2)


def test_a_chain_shares_the_parameters_of_its_model():
    model, batch = small(), images()
    chain = unravel(model, batch)
    before = chain(batch)
    with torch.no_grad():
        model.layer2[0].conv1.weight.mul_(2)
    with torch.no_grad():
        assert error(chain(batch), model(batch)) <= 1e-10
        assert error(chain(batch), before) > 1e-3
    chain(batch).sum().backward()
    assert model.layer2[0].conv1.weight.grad.abs().sum() > 0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0, 2**16))
@settings(max_examples=8)
def test_random_sequences_of_blocks_are_found_in_order(kinds, seed):
    """Nets put together at random from modules of four sorts; plain units lie between as links."""

    class Unit(nn.Sequential):
        def forward(self, x):
            return F.relu(super().forward(x))

    sorts = (
        lambda: nets.EntryReLUBlock(4),
        lambda: nets.InPlaceSumBlock(4, "shortcut"),
        lambda: nets.SharedPreambleBlock(4, 1),
        lambda: Unit(conv(4, 4), nn.BatchNorm2d(4)),
    )
    model = nets.Net()
    model.blocks = nn.ModuleList(sorts[kind]() for kind in kinds)
    wake(model, seed)
    expected = [f"blocks.{place}" for place, kind in enumerate(kinds) if kind < 3]
    if not expected:
        with pytest.raises(DiscoveryError, match=r"^Net has no residual block: it adds nothing\."):
            unravel(model, images())
        return
    chain = unravel(model, images())
    assert [block.name for block in chain] == expected
    inner = range(kinds.index(next(k for k in kinds if k < 3)), len(kinds))
    links = {
        sum(kind < 3 for kind in kinds[:place])
        for place in inner
        if kinds[place] == 3 and any(kind < 3 for kind in kinds[place:])
    }
    assert set(chain.links) == links


def test_a_chain_made_of_parts_runs_without_a_model():
    maps = [nn.Linear(4, 4).double() for _ in range(3)]
    blocks = [Block(7, f"F{i}", branch=lambda x, c, f=f: f(x)) for i, f in enumerate(maps)]
    chain = Chain.from_parts(lambda x: 2 * x, blocks, lambda x: x.sum(1))
    x = torch.ones(2, 4, dtype=torch.float64)
    expected = 2 * x
    for layer in maps:
        expected = expected + expected @ layer.weight.T + layer.bias
    assert torch.allclose(chain(x), expected.sum(1), rtol=1e-12)
    assert [block.index for block in chain] == [0, 1, 2]
    assert chain.model is None
    assert repr(chain).splitlines()[0] == "Chain of 3 blocks from parts"


def test_a_chain_needs_a_block():
    with pytest.raises(DiscoveryError, match=r"^A chain needs at least one block; none"):
        Chain.from_parts(lambda x: x, [], lambda x: x)


def test_a_unit_that_changes_the_shape_cannot_be_deleted():
    chain = unravel(wake(build("plain8,width=4", classes=5)), images(), plain=True)
    message = (
        r"^Block 3 \(units\.2\.conv\) has no shortcut and changes the shape from \(4, 8, 8\) to "
        r"\(8, 4, 4\); it cannot be deleted\.$"
    )
    assert not chain.blocks[3].deletable
    with pytest.raises(DiscoveryError, match=message):
        chain.blocks[3].deleted(torch.zeros(2, 4, 8, 8, dtype=torch.float64))


def test_a_chain_prints_its_blocks_and_links():
    lines = repr(unravel(wake(nets.Linked()), images())).splitlines()
    assert lines[0] == "Chain of 4 blocks from Linked"
    assert [line.strip() for line in lines[2:5]] == [
        "Block(1, 'blocks.1', identity, 4×8×8)",
        "link",
        "Block(2, 'blocks.2', identity, 4×4×4)",
    ]
    halving = unravel(small(), images()).blocks[1]
    assert repr(halving) == "Block(1, 'layer2.0', zero-pad, 4×8×8 → 8×4×4)"
    assert halving.changes_shape


def test_numbers_in_a_batch_do_not_decide_what_is_found():
    """Blocks are told by structure: all-zero and huge examples give the same chain."""
    model = small()
    for batch in (torch.zeros(2, 3, 8, 8).double(), 1e6 * images()):
        assert [block.name for block in unravel(model, batch)] == list(stages(1, 1, 1))
    assert np.isfinite(model(images()).detach().numpy()).all()
