"""A net of what a plan leaves: equal to what it means by hand, independent, smaller, exportable."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import extraction_speed
import pytest
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.resnet import BasicBlock, ResNet

import ensemble_view.nets.models.resnet as ours
import nets
from altered import altered_by_hand, means_by_hand
from cases import error, images
from ensemble_view import (
    Block,
    Chain,
    Compose,
    Delete,
    DropShortcut,
    Engine,
    Extracted,
    Keep,
    MiddleRepeat,
    Parallel,
    Repeat,
    Replace,
    Scale,
    Swap,
    edited,
    extract,
    load_checkpoint,
    parse_interventions,
    save_checkpoint,
    unravel,
)
from ensemble_view.core.interventions.base import Intervention
from ensemble_view.core.plan import bind
from ensemble_view.errors import DiscoveryError, InterventionError
from ensemble_view.nets.models.building import build
from layers import wake
from state import unchanged
from test_interventions_executed import (
    BATCH,
    BITE,
    DATA,
    EXACT,
    ON_BRANCHES,
    ON_PLACES,
    parts_of,
    prepared,
    simple,
)


def depends_on_batch(what: object) -> bool:
    return any(word in str(what) for word in ("resample", "perturbed", "constant"))


def extractable(interventions: list[Intervention]) -> list[Intervention]:
    return [one for one in interventions if not depends_on_batch(one)]


def storages(model: nn.Module) -> set[int]:
    tensors = [*model.parameters(), *model.buffers()]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def flops(model: nn.Module, *args: Any) -> int:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(*args)
    return counter.get_total_flops()


def check(kind: type[nets.Net], intervention: Intervention) -> nn.Module:
    """Equal to the formulas on a batch of another size, and on its own."""
    model, chain, means = prepared(kind)
    with unchanged(model):
        net = extract(chain, intervention, means=means)
    assert not storages(net) & storages(model)
    with torch.no_grad():
        found = net(BATCH.clone())
        expected = altered_by_hand(model, BATCH, parts_of(intervention), means_by_hand(model, DATA))
    assert error(found, expected) <= EXACT
    return net


@cache
def resnet20() -> tuple[nn.Module, Chain]:
    """Three stages of three blocks; 3 and 6 change the shape."""
    model = wake(build("resnet20,width=4", classes=5))
    return model, unravel(model, images())


CUT = [Delete(1), Delete(0, 2), Keep(1), Swap(0, 1) | Delete(0), Compose()]
KINDS = [
    nets.EntryReLU,
    nets.RootLoop,
    nets.InPlaceLoop,
    nets.Additions,
    nets.InPlaceSum,
    nets.Shortcuts,
    nets.TwoSums,
    nets.Layers,
    nets.PostNorm,
    nets.FromInput,
    nets.SharedWeights,
    nets.Plain,
]


@pytest.mark.parametrize("kind", KINDS)
def test_every_intervention_can_be_extracted(kind):
    for intervention in extractable([*CUT, *ON_BRANCHES, *ON_PLACES]):
        if kind is nets.Plain and "dropshortcut" in str(intervention):
            continue
        check(kind, intervention)


@pytest.mark.parametrize("intervention", [Delete(1, 2), DropShortcut(0), Replace(1, "mean")])
def test_a_shared_preamble_and_links_are_kept(intervention):
    check(nets.SharedPreamble, intervention)
    check(nets.Linked, intervention)
    check(nets.Linked, MiddleRepeat(0, 1))


@pytest.mark.parametrize("kind", [nets.RootLoop, nets.Additions, nets.Plain])
@given(st.lists(simple, min_size=1, max_size=5))
@settings(max_examples=20)
def test_what_is_composed_is_extracted(kind, parts):
    composed = Compose(tuple(parts))
    try:
        bind(composed, prepared(kind)[1].outline)
    except InterventionError:
        assume(False)
    assume(not depends_on_batch(bind(composed, prepared(kind)[1].outline)))
    model, chain, means = prepared(kind)
    net = extract(chain, composed, means=means)
    with torch.no_grad():
        expected = altered_by_hand(model, BATCH, parts, means_by_hand(model, DATA))
        difference = (net(BATCH.clone()) - expected).abs().max()
    assert float(difference) <= EXACT * float(expected.abs().max())


@pytest.mark.parametrize(
    "intervention",
    [
        Delete(1),
        Delete(3),
        Keep(0, 3, 6),
        Delete(0) | Swap(4, 5),
        Delete(3) | Scale(1, 0.5),
        Repeat(1, 2) | Parallel(4, 5),
    ],
    ids=str,
)
def test_it_equals_hooks_and_engine_and_can_be_exported(intervention):
    model, chain = resnet20()
    net = extract(chain, intervention)
    exported = torch.export.export(
        net, (images(),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
    ).module()
    ((_, from_engine),) = Engine(chain, [bind(intervention, chain.outline)]).logits(BATCH)
    with torch.no_grad():
        with edited(chain, intervention):
            from_hooks = model(BATCH)
        assert error(from_hooks, model(BATCH)) >= BITE
        for found in (net(BATCH), exported(BATCH)):
            assert error(found, from_hooks) <= EXACT
            assert error(found, from_engine) <= EXACT


def test_a_model_is_unravelled_on_an_example_and_a_plan_taken_as_it_is():
    model, chain, _ = prepared(nets.RootLoop)
    plan = bind(Delete(1) | Scale(0, 2.0), chain.outline)
    of_chain = extract(chain, plan)
    of_model = extract(model, Delete(1) | Scale(0, 2.0), images())
    assert torch.equal(of_chain(BATCH), of_model(BATCH))


@pytest.mark.parametrize(
    ("intervention", "left"),
    [(Delete(1, 3), 4), (Delete(0, 1, 2, 4, 5), 1), (Delete(2) | Scale(0, 0.5), 5)],
    ids=str,
)
def test_only_what_runs_is_left(intervention, left):
    """Counted from outside: each branch has two convolutions of equal cost but at a stage's end."""
    model = wake(build("resnet14,width=4", classes=5))
    chain = unravel(model, images())
    plan = bind(intervention, chain.outline)
    net = extract(chain, plan)
    alone = [flops(model, images()) - flops(extract(chain, Delete(i)), images()) for i in range(6)]
    assert len(plan.deleted) == 6 - left
    saved = flops(model, images()) - flops(net, images())
    assert saved == sum(alone[i] for i in plan.deleted) > 0
    gone = [chain.blocks[i].name for i in plan.deleted]
    weights = sum(size(model.get_submodule(name)) for name in gone)
    assert size(net) == size(model) - weights
    if isinstance(net, Extracted):
        assert not [name for name in net.weights if name.startswith(tuple(f"{g}." for g in gone))]
        own = model.state_dict()
        assert all(torch.equal(value, own[name]) for name, value in net.weights.items())


def test_a_weight_that_blocks_share_is_copied_once():
    model, chain, _ = prepared(nets.SharedWeights)
    net = extract(chain, Delete(1))
    assert size(net) == size(model)
    assert set(net.weights) == {n for n in model.state_dict() if "num_batches" not in n}


def test_gradients_and_further_training_do_not_reach_the_model():
    model = wake(build("resnet8,width=4", classes=5))
    model.conv1.requires_grad_(False)
    chain = unravel(model, images())
    for intervention in (Delete(0), Delete(1)):
        net = extract(chain, intervention)
        frozen = {p.numel() for p in net.parameters() if not p.requires_grad}
        assert frozen == {model.conv1.weight.numel()}
        with unchanged(model):
            net(BATCH).sum().backward()
            torch.optim.SGD([p for p in net.parameters() if p.requires_grad], 0.1).step()
            net.train()(BATCH)


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [
        (Delete(1), Delete(0), Delete(0, 1)),
        (Delete(3), Delete(1), Delete(1, 3)),
        (Delete(0, 3), Swap(5, 6), Delete(0, 3) | Swap(7, 8)),
        (Delete(3) | Scale(0, 0.5), Scale(0, 3.0), Delete(3) | Scale(0, 1.5)),
        (Replace(3, "zero") | Swap(4, 5), Delete(3), Delete(3, 5) | Swap(4, 5)),
    ],
    ids=str,
)
def test_what_is_left_can_be_lesioned_again(first, second, together):
    model, chain = resnet20()
    net = extract(chain, first)
    again = unravel(net, images())
    assert len(again) == 9 - len(bind(first, chain.outline).deleted)
    with torch.no_grad():
        with edited(chain, together):
            expected = model(BATCH)
        with edited(again, second):
            found = net(BATCH)
        assert error(found, expected) <= EXACT
        assert error(extract(again, second)(BATCH), expected) <= EXACT


def test_blocks_are_called_by_the_number_that_they_had():
    _, chain = resnet20()
    again = unravel(extract(chain, Delete(0, 3) | Swap(4, 5)), images())
    assert [block.name for block in again] == [f"blocks.{i}" for i in (1, 2, 5, 4, 6, 7, 8)]


def of_torchvision(*counts: int, block: Any = BasicBlock) -> nn.Module:
    with torch.device("meta"):
        model = ResNet(block, list(counts), num_classes=5)
    return wake(model.to_empty(device="cpu"))


def test_torchvisions_class_with_fewer_blocks_loads_it():
    model = of_torchvision(2, 1, 2, 3)
    x = images(side=32)
    chain = unravel(model, x)
    names = [block.name for block in chain]
    net = extract(chain, Delete(names.index("layer1.0"), names.index("layer4.1")))
    smaller = of_torchvision(1, 1, 2, 2)
    smaller.load_state_dict(net.state_dict())
    with torch.no_grad():
        with edited(chain, Delete("layer1.0", "layer4.1")):
            expected = model(x)
        assert error(smaller(x), expected) <= EXACT
        assert error(net(x), expected) <= EXACT
        assert error(expected, model(x)) >= BITE


@pytest.mark.parametrize("name", ["resnet20,width=4", "resnet20v2,width=4"])
def test_our_class_with_fewer_blocks_loads_it(name):
    model = wake(build(name, classes=5))
    chain = unravel(model, images())
    intervention = Delete(2, 4, 8) | Swap(0, 1)
    net = extract(chain, intervention)
    depth14 = wake(build(name.replace("20", "14"), classes=5), seed=1)
    depth14.load_state_dict(net.state_dict())
    with torch.no_grad(), edited(chain, intervention):
        expected = model(BATCH)
    assert error(depth14(BATCH), expected) <= EXACT
    assert type(net) is ours.ResNet


def test_gpt2_with_fewer_layers_loads_it_and_goes_on_writing():
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    config = transformers.GPT2Config(
        vocab_size=31, n_positions=24, n_embd=16, n_layer=4, n_head=2, bos_token_id=0,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = wake(transformers.GPT2LMHeadModel(config))
    tokens = torch.randint(1, 31, (3, 9))
    chain = unravel(model, {"input_ids": tokens})
    net = extract(chain, Delete(0, 2))
    assert net.config.n_layer == 2
    assert model.config.n_layer == 4
    smaller = transformers.GPT2LMHeadModel(net.config).double().eval()
    smaller.load_state_dict(net.state_dict())
    with torch.no_grad():
        with edited(chain, Delete(0, 2)):
            expected = model(tokens).logits
        assert error(smaller(tokens).logits, expected) <= EXACT
        assert error(net(tokens[:, :5]).logits, expected[:, :5]) <= EXACT
        # The cache of keys is kept by each layer's number, which is another one now.
        written = [
            net.generate(tokens[:1], max_new_tokens=6, do_sample=False, use_cache=cached)
            for cached in (True, False)
        ]
    assert torch.equal(*written)
    assert net.lm_head.weight is net.transformer.wte.weight
    with torch.no_grad():
        exported = torch.export.export(net, (tokens,)).module()
        assert error(exported(tokens).logits, expected) <= EXACT


def test_timms_class_with_fewer_blocks_loads_it():
    timm = pytest.importorskip("timm", reason="needs the extra timm")

    def make(depth: int) -> nn.Module:
        return wake(
            timm.models.VisionTransformer(
                img_size=16, patch_size=8, embed_dim=16, depth=depth, num_heads=2, num_classes=5
            )
        )

    model, x = make(4), images(side=16)
    chain = unravel(model, x)
    net = extract(chain, Delete(1, 2))
    smaller = make(2)
    smaller.load_state_dict(net.state_dict())
    with torch.no_grad(), edited(chain, Delete(1, 2)):
        assert error(smaller(x), model(x)) <= EXACT


def test_named_entries_are_numbered_anew():
    with torch.device("meta"):
        model = torchvision.models.VisionTransformer(16, 8, 3, 2, 16, 16, num_classes=5)
    model = wake(model.to_empty(device="cpu"))
    nn.init.normal_(model.encoder.pos_embedding, std=0.5)
    nn.init.normal_(model.class_token, std=0.5)
    for name, value in model.named_parameters():
        if name.endswith(("in_proj_weight", "in_proj_bias")):
            nn.init.normal_(value, std=0.3)
    chain = unravel(model, images(side=16))
    net = extract(chain, Delete(1))
    smaller = torchvision.models.VisionTransformer(16, 8, 2, 2, 16, 16, num_classes=5)
    smaller.double().eval().load_state_dict(net.state_dict())
    with torch.no_grad(), edited(chain, Delete(1)):
        assert error(smaller(images(side=16)), model(images(side=16))) <= EXACT


class Numbered(nn.Module):
    """A branch that depends on its own place in the list."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.layer, self.place = nn.Linear(4, 4), place

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer(x) / (1 + self.place)


class Weighed(nn.Module):
    """A net that counts on the number of its blocks, or one whose blocks know their places."""

    def __init__(self, *, by_place: bool) -> None:
        super().__init__()
        self.by_place = by_place
        self.blocks = nn.ModuleList(Numbered(i if by_place else 0) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for index in range(3 if not self.by_place else len(self.blocks)):
            x = self.blocks[index](x)
        return x


@pytest.mark.parametrize("by_place", [False, True])
def test_a_shorter_list_is_not_used_where_it_means_something_else(by_place):
    model = wake(Weighed(by_place=by_place))
    x = torch.randn(2, 4, dtype=torch.float64)
    chain = unravel(model, x)
    net = extract(chain, Delete(1))
    assert isinstance(net, Extracted)
    with torch.no_grad(), edited(chain, Delete(1)):
        assert error(net(x), model(x)) <= EXACT


def test_what_stays_of_a_deleted_block_is_kept_where_it_matters():
    """BERT normalises after each sum, and a stage begins with a projection."""
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    config = transformers.BertConfig(
        vocab_size=31, hidden_size=16, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16,
    )  # fmt: skip
    torch.manual_seed(0)
    model = wake(transformers.BertForSequenceClassification(config))
    tokens = torch.randint(31, (3, 7))
    chain = unravel(model, (tokens,))
    net = extract(chain, Delete(1))
    assert isinstance(net, Extracted)
    norm = "bert.encoder.layer.1.attention.output.LayerNorm.weight"
    left = {name for name in net.weights if ".layer.1.attention" in name}
    assert left == {norm, norm.replace("weight", "bias")}
    with torch.no_grad(), edited(chain, Delete(1)):
        assert error(net(tokens), model(tokens).logits) <= EXACT
    message = (
        r"^This net was extracted for texts of 7 tokens, and was given 5; give as many "
        r"\(--length\), or extract it again for those\.$"
    )
    with pytest.raises(DiscoveryError, match=message):
        net(tokens[:, :5])


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("resample", "another example's"),
        ("perturbed", "itself with random noise"),
        ("constant", "itself with noise of its norm"),
    ],
)
def test_a_branch_that_depends_on_the_batch_is_refused(value, what):
    _, chain, _ = prepared(nets.RootLoop)
    message = (
        rf"^The branch of block 1 \(blocks\.1\) is to be replaced by {what}, which depends on the "
        r'batch and so cannot be part of a net; replace it by "mean" or "zero"\.$'
    )
    with pytest.raises(InterventionError, match=message):
        extract(chain, Replace(1, value))


def test_a_mean_that_is_not_given_is_asked_for():
    _, chain, _ = prepared(nets.RootLoop)
    with pytest.raises(InterventionError, match=r"which is not known; give means=branch_means"):
        extract(chain, Replace(1, "mean"))


def test_a_model_without_an_example_and_a_chain_without_a_model_are_refused():
    model, _, _ = prepared(nets.RootLoop)
    with pytest.raises(DiscoveryError, match=r"^To extract from a model, give an example of what"):
        extract(model, Delete(1))
    chain = Chain.from_parts(torch.clone, [Block(0, "F", branch=lambda x, c: -x)], torch.clone)
    with pytest.raises(DiscoveryError, match=r"^No model stands behind this chain \(it was built"):
        extract(chain, Delete(0))


def test_it_can_be_copied_and_moved_to_single_precision():
    chain = unravel(wake(build("resnet8,width=4", classes=5)), images())
    net = extract(chain, Delete(1))
    assert isinstance(net, Extracted)
    twin = copy.deepcopy(net).float()
    assert error(twin(BATCH.float()).double(), net(BATCH)) <= 1e-4


def test_the_speed_of_what_is_left_is_written_down_beside_its_operations(tmp_path):
    save_checkpoint(tmp_path / "net.pt", build("resnet20,width=4"), architecture="resnet20,width=4")
    checkpoint = load_checkpoint(tmp_path / "net.pt")
    wake(checkpoint.model).float()
    _, found = extraction_speed.run(tmp_path, checkpoint, counts=(3,), batch=2, rounds=2)
    assert [one.kind for one in found] == ["ResNet", "Extracted"]
    for one in found:
        left = extract(checkpoint.model, parse_interventions(one.deleted), checkpoint.example())
        assert one.operations == flops(left, torch.randn(2, 3, 32, 32)) / flops(
            checkpoint.model, torch.randn(2, 3, 32, 32)
        )
        assert len(one.ratios) == 2
        text = (tmp_path / "summary.md").read_text()
        assert f"| {one.deleted} | {one.kind} | {one.operations:.3f} |" in text
    # With the two blocks that change the shape among the three.
    assert {3, 6} < set(parse_interventions(found[1].deleted).parts[0].blocks)
