"""The blocks are those of the net, and the chain equals the model and leaves it alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nets
from cases import error, images, logits, small, stages
from ensemble_view import Block, Chain, Delete, edited, unravel
from ensemble_view.discovery.unravelling import unravel_arguments
from ensemble_view.errors import DiscoveryError
from ensemble_view.nets.models.building import build
from layers import Body, conv, wake
from state import unchanged


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
                assert error(block.deleted(x, context), left) <= 1e-14
            elif block.deletable:
                assert block.deleted(x, context) is x
            output = block(x, context)
            assert error(output, block.after(total, context)) <= 1e-14
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


class Written(nets.RootLoop):
    def __init__(self, form):
        super().__init__()
        self.form = form

    def forward(self, x):
        x = self.stem(x)
        for branch in self.blocks:
            x = self.form(x, branch(x))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (lambda x, b: 0.7 * x + b, "scaling"),
        (lambda x, b: sum([x, b]), "identity"),
        (lambda x, b: x + (b - x / 2) * 0.5, "identity"),
        (lambda x, b: (x[:, :] + b)[:, 0:], "identity"),
        (lambda x, b: torch.empty_like(x).copy_(x + b), "identity"),
    ],
    ids=["scaled", "sum", "blended", "whole slices", "copied"],
)
def test_a_shortcut_is_called_what_it_does_and_both_ways_have_gradients(form, kind):
    chain = unravel(wake(Written(form)), images())
    assert [block.shortcut_kind for block in chain] == [kind] * 4
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64, requires_grad=True)
    block = chain.blocks[1]
    ways = [torch.autograd.grad(way(x, ()).sum(), x)[0] for way in (block.shortcut, block.branch)]
    (whole,) = torch.autograd.grad(block(x).sum(), x)
    assert torch.allclose(sum(ways), whole, atol=1e-12)


class Blurred(nets.RootLoop):
    """Branches that are linear themselves: pooling, as in PoolFormer."""

    def forward(self, x):
        x = self.stem(x)
        for _ in self.blocks:
            x = 0.9 * x + nn.functional.avg_pool2d(x, 3, 1, 1)
        return self.head(x.mean((2, 3)))


def test_a_scaled_shortcut_is_one_also_beside_a_linear_branch():
    chain = unravel(wake(Blurred()), images())
    assert [block.shortcut_kind for block in chain] == ["scaling"] * 4


class WrittenIntoSlice(nets.RootLoop):
    """Sums that are made in place on a slice that holds the whole value, as in GhostNet."""

    def forward(self, x):
        x = self.stem(x)
        for branch in self.blocks:
            whole = torch.cat([branch(x)], 1)[:, : x.shape[1]]
            whole += x
            x = whole
        return self.head(x.mean((2, 3)))


def test_a_sum_written_into_a_whole_slice_is_a_block():
    model = wake(WrittenIntoSlice())
    chain = unravel(model, images())
    assert [block.shortcut_kind for block in chain] == ["identity"] * 4
    shorter = copy.deepcopy(model)
    for parameter in shorter.blocks[1].parameters():
        parameter.data.zero_()
    with torch.no_grad(), edited(chain, Delete(1)):
        assert torch.allclose(model(images()), shorter(images()), atol=1e-10)


class Variadic(nets.RootLoop):
    def forward(self, *inputs, **options):
        return options["gain"] * super().forward(inputs[0] + 0 * inputs[1])


def test_a_model_may_take_any_number_of_arguments():
    model, gain = wake(Variadic()), torch.ones(2, 1, dtype=torch.float64)
    chain = unravel_arguments(model, ((images(), images(seed=2)), {"gain": gain}))
    args, options = (images(5), images(5, seed=3)), {"gain": torch.full((5, 1), 2.0)}
    with torch.no_grad():
        assert error(chain(*args, **options), model(*args, **options)) <= 1e-10


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


class DropsView(Body):
    """In-place dropout writes over a view, but in evaluation mode it does nothing."""

    def body(self, x):
        return x + self.first(x)

    def forward(self, x):
        pooled = self.body(self.stem(x)).mean((2, 3), keepdim=True).flatten(1)
        return self.head(F.dropout(pooled, 0.5, training=self.training, inplace=True))


def test_dropout_that_does_nothing_asks_for_no_second_trace(monkeypatch):
    def unexpected(*args, **kwargs):
        raise AssertionError("traced again")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", unexpected)
    model = wake(DropsView())
    with unchanged(model):
        chain = unravel(model, images())
    assert [block.name for block in chain] == ["first"]
