"""The unmodified model under edit equals the oracle, and nothing is left of the edit afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import nets
from cases import error, images, logits
from ensemble_view import Block, Chain, Compose, Delete, Reorder, Swap, edited, unravel
from ensemble_view.core.plan import bind
from ensemble_view.errors import DiscoveryError, InterventionError
from ensemble_view.nets.models.building import build
from layers import conv, wake
from state import unchanged

BITE = 1e-3
EXACT = 1e-10


def test_the_model_under_edit_equals_the_oracle(prepared):
    whole = prepared.expected(prepared.bind(Compose()))
    args, kwargs = prepared.arguments
    with torch.no_grad():
        assert error(logits(prepared.model(*args, **kwargs)), whole) <= EXACT
    for intervention in prepared.case.interventions:
        expected = prepared.expected(prepared.bind(intervention))
        args, kwargs = prepared.arguments
        with torch.no_grad(), edited(prepared.chain, intervention):
            found = logits(prepared.model(*args, **kwargs))
        assert error(found, expected) <= EXACT, intervention
        assert error(expected, whole) >= BITE, f"{intervention} does not bite"


def test_edits_leave_no_trace_in_any_family(prepared):
    """One edit of each kind; also what the model computes afterwards is bit-equal."""
    args, kwargs = prepared.arguments
    with torch.no_grad():
        before = logits(prepared.model(*args, **kwargs))
    first = prepared.case.interventions[0]
    last = prepared.case.interventions[-1]
    with unchanged(prepared.model):
        for intervention in (first, last):
            args, kwargs = prepared.arguments
            with torch.no_grad(), edited(prepared.chain, intervention):
                prepared.model(*args, **kwargs)
    args, kwargs = prepared.arguments
    with torch.no_grad():
        assert torch.equal(logits(prepared.model(*args, **kwargs)), before)


def looped(seed: int = 0) -> tuple[nn.Module, Tensor]:
    return wake(nets.RootLoop(), seed), images()


def by_hand(model: nn.Module, x: Tensor, deleted: set[int] = frozenset(), order=None) -> Tensor:
    with torch.no_grad():
        return model.by_hand(x, order or range(model.count), deleted)


def test_a_bare_model_is_unravelled_on_its_first_call():
    model, batch = looped()
    other = images(5, seed=3)
    with unchanged(model), torch.no_grad(), edited(model, Delete(1) | Swap(0, 3)):
        first, second, third = model(batch), model(other), model(batch)
    expected = by_hand(model, batch, {1}, (3, 1, 2, 0))
    assert error(first, expected) <= EXACT
    assert error(second, by_hand(model, other, {1}, (3, 1, 2, 0))) <= EXACT
    assert torch.equal(first, third)
    assert error(expected, by_hand(model, batch)) >= BITE
    with torch.no_grad():
        assert error(model(batch), by_hand(model, batch)) <= EXACT


def test_a_bare_model_that_is_never_called_is_left_alone():
    model, _ = looped()
    with unchanged(model), edited(model, Delete(99)):
        pass


def test_a_bare_model_says_at_its_first_call_that_the_edit_does_not_fit():
    model, batch = looped()
    refused = pytest.raises(InterventionError, match="There is no block 99")
    with unchanged(model), refused, edited(model, Delete(99)):
        model(batch)


@pytest.mark.parametrize("bare", [True, False], ids=["model", "chain"])
def test_edits_work_in_inference_mode(bare):
    model, batch = looped()
    with torch.inference_mode():
        target = model if bare else unravel(model, batch)
        with unchanged(model), edited(target, Delete(2)):
            found = model(batch)
            again = model(images())
    assert error(found, by_hand(model, batch, {2})) <= EXACT
    assert error(again, found) <= EXACT


@pytest.mark.parametrize("bare", [True, False], ids=["model", "chain"])
def test_edits_work_on_calls_by_keyword(bare):
    model = wake(nets.DictOutput())
    arguments = {"images": images(), "scale": torch.full((1, 1, 1), 3.0, dtype=torch.float64)}
    target = model if bare else unravel(model, arguments)
    expected = by_hand(model, 3 * images(), {0})
    with torch.no_grad(), edited(target, Delete(0)):
        for given in (arguments, dict(reversed(arguments.items()))):
            output = model(**given)
            assert sorted(output) == ["count", "features", "logits"]
            assert error(output["logits"], expected) <= EXACT


def test_several_interventions_act_one_after_another():
    model, batch = looped()
    chain = unravel(model, batch)
    with torch.no_grad(), edited(chain, Reorder([3, 2, 1, 0]), Swap(0, 1), Delete(2)):
        found = model(batch)
    assert error(found, by_hand(model, batch, {2}, (3, 2, 0, 1))) <= EXACT


NESTED = [
    (nets.RootLoop, 0, 2),
    (nets.RootLoop, 2, 0),
    (nets.TwoSums, 2, 3),
    (nets.TwoSums, 3, 2),
    (nets.NestedSums, 0, 1),
    (nets.InPlaceSum, 1, 3),
    (nets.Additions, 3, 4),
    (nets.SharedWeights, 1, 0),
    (nets.RootLoop, 1, 1),
]


@pytest.mark.parametrize(("net", "outer", "inner"), NESTED)
def test_nested_deletions_add_up(net, outer, inner):
    model, batch = wake(net()), images()
    chain = unravel(model, batch, granularity="branch")
    both = edited(chain, Delete(outer), Delete(inner))
    with torch.no_grad():
        with both:
            expected = model(images())
        with unchanged(model), edited(chain, Delete(outer)):
            only_outer = model(images())
            with edited(chain, Delete(inner)):
                assert torch.equal(model(images()), expected)
            assert torch.equal(model(images()), only_outer)
        assert outer == inner or error(only_outer, expected) >= BITE


def test_nested_deletions_of_plain_units_add_up():
    model, batch = wake(build("plain8,width=4", classes=5)), images()
    chain = unravel(model, batch, plain=True)
    with torch.no_grad():
        with edited(chain, Delete(1, 2, 4)):
            expected = model(batch)
        with edited(chain, Delete(4)), edited(chain, Delete(1)), edited(chain, Delete(2)):
            assert error(model(batch), expected) <= EXACT


class Copying(nn.Module):
    """A plain net that copies what each unit makes."""

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(conv(3, 3), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = unit(x).clone()
        return x.flatten(1)


@pytest.mark.parametrize(("outer", "inner"), [(2, 1), (1, 2), (3, 1)])
def test_what_one_edit_does_does_not_shift_the_places_of_another(outer, inner):
    model, batch = wake(Copying()), images()
    chain = unravel(model, batch, plain=True)
    with torch.no_grad():
        expected = batch
        for index, unit in enumerate(model.units):
            expected = expected if index in (outer, inner) else unit(expected)
        with edited(chain, Delete(outer)), edited(chain, Delete(inner)):
            assert error(model(batch), expected.flatten(1)) <= EXACT


@pytest.mark.parametrize(
    ("outer", "inner"),
    [(Swap(0, 1), Delete(0)), (Delete(0), Swap(0, 1)), (Swap(0, 1), Swap(1, 2))],
)
def test_nested_edits_that_move_blocks_are_refused_in_words(outer, inner):
    model, batch = looped()
    chain = unravel(model, batch)
    message = (
        r"^The model is being edited already, and one of the two edits moves blocks, so it is not "
        r"clear which block is meant; give all interventions to one edited\(\.\.\.\), in order\.$"
    )
    with unchanged(model), edited(chain, outer):
        with pytest.raises(InterventionError, match=message), edited(chain, inner):
            pass
        with torch.no_grad():
            assert model(batch).isfinite().all()


def test_two_models_can_be_edited_at_once():
    (first, batch), (second, _) = looped(1), looped(2)
    chains = unravel(first, batch), unravel(second, batch)
    with (
        torch.no_grad(),
        edited(chains[0], Swap(0, 1)),
        edited(chains[1], Reorder([1, 2, 3, 0])),
    ):
        found = first(batch), second(batch)
    assert error(found[0], by_hand(first, batch, order=(1, 0, 2, 3))) <= EXACT
    assert error(found[1], by_hand(second, batch, order=(1, 2, 3, 0))) <= EXACT


def test_a_model_under_edit_is_not_unravelled():
    model, batch = looped()
    message = "^RootLoop is being edited, so it is not itself; unravel it before the with, and give"
    chain, refused = unravel(model, batch), pytest.raises(DiscoveryError, match=message)
    with edited(chain, Delete(0)), refused:
        unravel(model, batch)
    with edited(chain, Delete(0)), refused, edited(model, Delete(1)):
        model(batch)


def test_a_bare_model_is_edited_once():
    model, batch = looped()
    message = (
        r"^RootLoop is being edited already; give all interventions to one edited\(\.\.\.\), or "
        r"unravel the model first and give the chain\.$"
    )
    with torch.no_grad(), unchanged(model), edited(model, Delete(0)):
        for _ in range(2):
            with pytest.raises(InterventionError, match=message), edited(model, Delete(1)):
                pass
            assert error(model(batch), by_hand(model, batch, {0})) <= EXACT


WRAPPERS = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "data parallel": nn.DataParallel,
}


# Compiled modules warn wherever a hook is registered for all modules.
@pytest.mark.filterwarnings("ignore:Using `torch.compile:UserWarning")
@pytest.mark.parametrize("wrap", WRAPPERS)
@pytest.mark.parametrize("target", ["wrapper", "its chain", "the model's chain"])
def test_a_wrapped_model_is_edited_like_the_model(wrap, target):
    model, batch = looped()
    wrapper = WRAPPERS[wrap](model)
    with torch.no_grad():
        before = wrapper(batch)
        edit = {
            "wrapper": lambda: wrapper,
            "its chain": lambda: unravel(wrapper, batch),
            "the model's chain": lambda: unravel(model, batch),
        }[target]()
        for intervention, order, deleted in (
            (Delete(1), range(4), {1}),
            (Swap(0, 3), (3, 1, 2, 0), ()),
        ):
            with edited(edit, intervention):
                found = wrapper(batch)
            assert error(found, by_hand(model, batch, deleted, order)) <= EXACT
        assert error(wrapper(batch), before) <= EXACT


@pytest.mark.parametrize("target", ["model.pt", Delete(1), None])
def test_only_models_and_chains_are_edited(target):
    message = "^edited takes a chain or the model itself, then interventions; the first argument is"
    with pytest.raises(InterventionError, match=message), edited(target, Delete(0)):
        pass


def test_a_chain_made_of_parts_cannot_be_edited():
    chain = Chain.from_parts(nn.Flatten(), [Block(0, "F")], nn.Identity())
    message = (
        r"^No model stands behind this chain \(it was built from parts\), so there is nothing to "
        r"edit; run its plans through the engine instead\.$"
    )
    with pytest.raises(InterventionError, match=message), edited(chain, Delete(0)):
        pass


@pytest.mark.parametrize(
    ("net", "intervention"),
    [
        (nets.RootLoop, Delete(1)),
        (nets.RootLoop, Swap(0, 3)),
        (nets.Linked, Delete(1, 2)),
        (nets.EntryReLU, Swap(0, 1) | Delete(2)),
    ],
)
def test_gradients_flow_through_an_edited_model(net, intervention):
    model, batch = wake(net()), images()
    chain = unravel(model, batch)
    meant = bind(intervention, chain.outline)
    with edited(chain, intervention):
        model(images()).pow(2).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    model.by_hand(images(), meant.order, meant.deleted).pow(2).sum().backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    scale = max(float(g.abs().max()) for g in expected.values() if g is not None)
    for name, gradient in expected.items():
        zero = torch.zeros_like(model.get_parameter(name))
        mine = zero if found[name] is None else found[name]
        theirs = zero if gradient is None else gradient
        assert float((mine - theirs).abs().max()) <= EXACT * scale, name
    assert any(g is None or not g.any() for g in expected.values()) == bool(meant.deleted)


class Trained(nets.Net):
    """BatchNorm's statistics and dropout's noise show which mode a net runs in."""

    def block(self, index: int) -> nn.Module:
        return nets.InPlaceSumBlock(self.channels, "branch")


@pytest.mark.parametrize("bare", [True, False], ids=["model", "chain"])
def test_a_net_in_training_mode_is_edited_in_training_mode(bare):
    model, batch = wake(Trained()).train(), images()
    target = model if bare else unravel(model, batch)
    twin = wake(Trained()).train()
    nn.init.zeros_(twin.blocks[1].branch[4].weight)
    nn.init.zeros_(twin.blocks[1].branch[4].bias)
    with torch.no_grad(), edited(target, Delete(1)):
        found = model(batch)
    with torch.no_grad():
        assert error(found, twin(batch)) <= EXACT
        assert error(found, twin.eval()(batch)) >= BITE
    assert all(module.training for module in model.modules())
    for (name, mine), theirs in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(mine, theirs), name


class Interruption(Exception):
    pass


class Failing(nets.Net):
    """Fails in the middle of a block, when told to."""

    fails = False

    def block(self, index: int) -> nn.Module:
        block = nets.InPlaceSumBlock(self.channels, "branch")
        block.branch.register_forward_hook(lambda *_: self._fail(index))
        return block

    def _fail(self, index: int) -> None:
        if self.fails and index == 1:
            raise Interruption


INTERVENTIONS = [Delete(1), Swap(0, 2), Reorder([2, 0, 1]) | Delete(0)]


@pytest.mark.parametrize("intervention", INTERVENTIONS, ids=str)
@pytest.mark.parametrize("bare", [True, False], ids=["model", "chain"])
@pytest.mark.parametrize("raised_by", ["body", "model", "wrong input", "nothing"])
def test_nothing_is_left_after_an_edit_however_it_ends(intervention, bare, raised_by):
    model, batch = wake(Failing()), images()
    target = model if bare else unravel(model, batch)
    kinds = {
        "body": Interruption,
        "model": Interruption,
        "wrong input": (RuntimeError, DiscoveryError),
    }
    with unchanged(model):
        try:
            with torch.no_grad(), edited(target, intervention):
                if raised_by != "wrong input":
                    model(batch)
                model.fails = raised_by == "model"
                if raised_by in ("model", "wrong input"):
                    model(batch if raised_by == "model" else images(channels=1))
                if raised_by == "body":
                    raise Interruption
        except kinds.get(raised_by, ()):
            assert raised_by != "nothing"
        else:
            assert raised_by == "nothing"
        finally:
            vars(model).pop("fails", None)
    with torch.no_grad():
        assert error(model(batch), wake(Failing())(batch)) <= EXACT


def test_a_call_that_failed_does_not_shift_the_next():
    model, batch = wake(Failing()), images()
    with torch.no_grad(), edited(unravel(model, batch), Delete(2)):
        expected = model(batch)
        model.fails = True
        with pytest.raises(Interruption):
            model(batch)
        model.fails = False
        assert torch.equal(model(batch), expected)


def test_a_part_of_the_model_called_alone_is_not_edited():
    model, batch = wake(Failing()), images()
    x = model.stem(batch)
    expected = model.blocks[0](x.clone())
    with edited(unravel(model, batch), Delete(0)):
        assert torch.equal(model.blocks[0](x.clone()), expected)


def test_an_edit_does_not_write_over_the_input():
    model, batch = wake(nets.FromInput()), images()
    for intervention in (Delete(0), Delete(2), Swap(0, 1), Delete(0, 1, 2)):
        with torch.no_grad(), edited(unravel(model, batch), intervention):
            model(batch)
        assert torch.equal(batch, images())


def test_an_edit_passes_on_what_is_not_finite():
    """An infinite branch is deleted, not multiplied by zero; a kept one is seen."""
    model, batch = looped()
    chain = unravel(model, batch)
    with torch.no_grad():
        model.blocks[1][0].weight.fill_(float("inf"))
        assert not model(batch).isfinite().all()
        with edited(chain, Delete(1)):
            assert error(model(batch), by_hand(model, batch, {1})) <= EXACT
        with edited(chain, Delete(0)):
            assert not model(batch).isfinite().all()
