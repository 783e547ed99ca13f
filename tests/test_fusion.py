"""The fused chain computes what the chain computes, faster, and touches nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx

import nets
from cases import error, images
from ensemble_view import Compose, Delete, Engine, Swap, edited, unravel
from ensemble_view.core.fusion import fuse
from ensemble_view.core.plan import bind
from ensemble_view.edits.hooks import edited_by_plan
from ensemble_view.nets.models.building import build
from layers import conv, wake

BITE = 1e-3
EXACT = 1e-10


def test_no_part_of_the_fused_chain_writes_over_its_input(prepared):
    chain, fused = prepared.chain, fuse(prepared.chain)
    args, kwargs = prepared.arguments
    with torch.inference_mode():
        x, context = fused.stem(*args, **kwargs)
        assert all(map(torch.equal, _tensors(args, kwargs), _tensors(*prepared.arguments)))
        for block, fast in zip(chain, fused.blocks, strict=True):
            parts = [fast.kept, *([fast.deleted] if block.deletable else [])]
            if block.index in fused.links:
                before = x.clone()
                linked = fused.links[block.index](x, context)
                assert torch.equal(x, before)
                x = linked
            before = x.clone()
            for part in (*parts, *parts):
                part(x, context)
                assert torch.equal(x, before)
            expected = block(x, context)
            x = fast.kept(x, context)
            assert error(x, expected) <= EXACT
        before = x.clone()
        fused.head(x, context)
        assert torch.equal(x, before)


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    return [*args, *kwargs.values()]


@pytest.mark.parametrize("name", ["resnet20,width=8", "resnet20v2,width=8", "resnet14,shortcut=B"])
def test_single_precision_is_close_to_double(name):
    exact = wake(build(name, classes=5))
    fast = wake(build(name, classes=5)).float()
    chain = unravel(fast, images(4).float())
    interventions = [Compose(), *map(Delete, range(len(chain))), Delete(0, 4)]
    plans = [bind(intervention, chain.outline) for intervention in interventions]
    found = dict(Engine(chain, plans).logits(images(4).float()))
    reference = unravel(exact, images(4))
    whole = None
    for number, intervention in enumerate(interventions):
        with torch.no_grad(), edited(reference, intervention):
            expected = exact(images(4))
        whole = expected if whole is None else whole
        assert found[number].dtype == torch.float32
        assert error(found[number].double(), expected) <= 1e-4
        assert number == 0 or error(expected, whole) >= BITE


def operations(part: Any) -> list[str]:
    nodes = part.graph.nodes if isinstance(part, fx.GraphModule) else ()
    return [str(node.target) for node in nodes if node.op == "call_function"]


@pytest.mark.parametrize(
    ("name", "left"), [("resnet8,shortcut=B", [0, 0, 0]), ("resnet8v2", [1, 1, 1])]
)
def test_normalisation_after_a_convolution_is_folded(name, left):
    chain = unravel(wake(build(name, classes=5)), images())
    fused = fuse(chain)
    counts = [
        sum("batch_norm" in operation for operation in operations(block.kept))
        for block in fused.blocks
    ]
    assert counts == left
    unfused = [operations(block.before) + operations(block.branch) for block in chain]
    assert all(sum("batch_norm" in operation for operation in found) == 2 for found in unfused)
    assert not any("batch_norm" in operation for operation in operations(fused.stem.part))


def test_convolutions_without_normalisation_and_other_layers_are_left_alone():
    """Normalisation by groups, or of a value that is read twice, is not folded."""

    class Mixed(nets.Net):
        def block(self, index):
            return torch.nn.ModuleDict(
                {
                    "conv": conv(4, 4, bias=True),
                    "norm": torch.nn.BatchNorm2d(4, affine=index > 0),
                    "groups": torch.nn.GroupNorm(2, 4).double(),
                }
            )

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                h = block["conv"](x)
                x = x + block["groups"](torch.tanh(block["norm"](h)) * h)
            return self.head(x.mean((2, 3)))

    model = wake(Mixed())
    chain = unravel(model, images())
    plans = [bind(i, chain.outline) for i in (Compose(), Delete(1), Swap(0, 2))]
    found = dict(Engine(chain, plans).logits(images()))
    for number, plan in enumerate(plans):
        with torch.no_grad(), edited_by_plan(chain, plan):
            assert error(found[number], model(images())) <= EXACT


def test_a_weight_that_is_computed_is_left_as_it_is():
    """Weight standardisation: the convolution's weight is a value of the graph, not a tensor."""

    class Standardised(nets.Net):
        def block(self, index):
            return conv(4, 4)

        def forward(self, x):
            x = self.stem(x)
            for block in self.blocks:
                weight = block.weight - block.weight.mean((1, 2, 3), keepdim=True)
                x = x + torch.nn.functional.conv2d(x, weight, padding=1)
            return self.head(x.mean((2, 3)))

    model = wake(Standardised())
    chain = unravel(model, images())
    (_, found), *_ = Engine(chain, [bind(Delete(1), chain.outline)]).logits(images())
    with torch.no_grad(), edited(chain, Delete(1)):
        assert error(found, model(images())) <= EXACT


@pytest.mark.parametrize("net", [nets.RootLoop, nets.EntryReLU, nets.InPlaceSum, nets.InnerSums])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_not_finite_stays_so(net, dtype):
    """One bad pixel gives the same infinities and NaNs, place by place, as in the chain."""
    chain = unravel(wake(net()).to(dtype), images().to(dtype))
    fused = fuse(chain)
    for value in (float("nan"), float("inf"), -float("inf")):
        x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
        x[1, 2, 3, 4] = value
        for block, fast in zip(chain, fused.blocks, strict=True):
            for mine, exact in ((fast.kept, block), (fast.deleted, block.deleted)):
                with torch.inference_mode():
                    found, expected = mine(x.clone(), ()), exact(x.clone(), ())
                assert torch.equal(found.isfinite(), expected.isfinite())
                assert torch.equal(found.isnan(), expected.isnan())
                assert found[0].isfinite().all()
                assert value < 0 or not found[1].isfinite().all()


def test_the_engine_keeps_the_weights_that_it_was_made_with():
    model, batch = wake(build("resnet8v2,width=4", classes=5)), images()
    chain = unravel(model, batch)
    engine = Engine(chain, [bind(Compose(), chain.outline)])
    ((_, before),) = engine.logits(batch)
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            value.mul_(2)
        assert error(model(batch), before) > BITE
    ((_, after),) = engine.logits(batch)
    assert torch.equal(after, before)


class Attending(torch.nn.Module):
    """Attention over the first dimension, so that the batch, which comes first, is transposed."""

    def __init__(self, written):
        super().__init__()
        self.written = written
        self.stem, self.head = torch.nn.Linear(6, 8), torch.nn.Linear(8, 5)
        self.norms = torch.nn.ModuleList(torch.nn.LayerNorm(8) for _ in range(3))
        self.mixing = torch.nn.ModuleList(
            torch.nn.MultiheadAttention(8, 2, batch_first=True)
            if written == "attention"
            else torch.nn.Linear(4 if written == "last" else 8, 4 if written == "last" else 8)
            for _ in range(3)
        )

    def mix(self, layer, h):
        if self.written == "attention":
            return layer(h, h, h, need_weights=False)[0]
        if self.written == "permuted":
            return layer(h.permute(1, 0, 2)).tanh().permute(1, 0, 2)
        # A linear layer that mixes what was transposed into the last dimension stays where it is.
        return layer(h.transpose(-1, 1)).tanh().mul(0.5).transpose(-1, 1)

    def forward(self, x):
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.mixing, strict=True):
            x = x + self.mix(layer, norm(x))
        return self.head(x.mean(1))


@pytest.mark.parametrize(("written", "moved"), [("attention", 1), ("permuted", 1), ("last", 0)])
def test_linear_layers_run_on_rows_as_they_lie_and_equal_the_hooks(written, moved):
    model = wake(Attending(written).double())
    batch = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chain = unravel(model, batch)
    transpositions = {"aten.transpose.int", "aten.permute.default"}

    def on_transposed(part):
        return sum(
            str(node.target) == "aten.linear.default" and str(node.args[0].target) in transpositions
            for node in part.graph.nodes
        )

    for block, fast in zip(chain, fuse(chain).blocks, strict=True):
        assert on_transposed(block.branch) == 1
        assert on_transposed(fast.kept) == 1 - moved
    interventions = [Compose(), Delete(1), Swap(0, 2)]
    plans = [bind(intervention, chain.outline) for intervention in interventions]
    found = dict(Engine(chain, plans).logits(batch))
    whole = found[0]
    for number, intervention in enumerate(interventions):
        with torch.no_grad(), edited(chain, intervention):
            expected = model(batch)
        assert error(found[number], expected) <= EXACT
        assert number == 0 or error(expected, whole) >= BITE


class Activations(nets.Net):
    """Everything that may be written over, of values that are read once, twice, or viewed."""

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            h = block(x)
            once = torch.sigmoid(torch.nn.functional.gelu(h.view(h.shape[0], -1)) * 1.5)
            twice = torch.tanh(h * 0.5)
            x = x + (once.view(x.shape) * twice + (twice + 1.0) * h)
        return self.head(x.mean((2, 3)))


def test_only_what_nothing_else_reads_is_written_over():
    model = wake(Activations())
    chain = unravel(model, images())
    fused = fuse(chain)
    written = [name for name in operations(fused.blocks[0].kept) if "_." in name]
    assert {"aten.gelu_.default", "aten.mul_.Tensor", "aten.sigmoid_.default"} & set(written)
    with torch.inference_mode():
        x, context = fused.stem(images())
        for block, fast in zip(chain, fused.blocks, strict=True):
            before = x.clone()
            for _ in range(2):
                assert error(fast.kept(x, context), block(before.contiguous(), context)) <= EXACT
            assert torch.equal(x, before)
            x = fast.kept(x, context)
