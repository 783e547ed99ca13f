"""The engine equals oracle and hooks, computes what its trie says, and writes over nothing."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import ensemble_view.core.engine
import nets
from cases import error, images, logits
from definitions import measured
from ensemble_view import Block, Chain, Compose, Delete, Engine, Reorder, Swap, edited, unravel
from ensemble_view.core.fusion import FusedBlock, FusedChain, fuse
from ensemble_view.core.plan import Action, Plan, bind
from ensemble_view.edits.hooks import edited_by_plan
from ensemble_view.errors import MeasurementError
from ensemble_view.measures.classification import MEASURES
from ensemble_view.nets.models.building import build
from layers import wake
from state import unchanged

BITE = 1e-3
EXACT = 1e-10


def test_the_engine_equals_the_oracle(prepared):
    interventions = [Compose(), *prepared.case.interventions]
    plans = [prepared.bind(intervention) for intervention in interventions]
    args, kwargs = prepared.arguments
    engine = Engine(prepared.chain, plans)
    with unchanged(prepared.model):
        found = dict(engine.logits(*args, **kwargs))
    assert sorted(found) == list(range(len(plans)))
    for number, plan in enumerate(plans):
        assert error(found[number], prepared.expected(plan)) <= EXACT, interventions[number]
    prefixes = {p.steps[:end] for p in plans for end in range(1, len(p.steps) + 1)}
    kept = sum(prefix[-1].action is Action.KEEP for prefix in prefixes)
    assert engine.block_evaluations == engine.cost.block_evaluations == kept


def watched(monkeypatch: pytest.MonkeyPatch, watch: Callable[[str, Tensor], None]) -> None:
    """Let ``watch`` see the input of each part that the engine runs."""

    def wrap(name: str, part: Any) -> Any:
        def run(x: Tensor, context: Any) -> Tensor:
            watch(name, x)
            return part(x, context)

        return run

    def fuse_and_wrap(chain: Chain) -> FusedChain:
        fused = fuse(chain)
        return replace(
            fused,
            blocks=tuple(
                FusedBlock(wrap("keep", b.kept), wrap("delete", b.deleted)) for b in fused.blocks
            ),
            links={place: wrap("link", link) for place, link in fused.links.items()},
            head=wrap("head", fused.head),
        )

    monkeypatch.setattr(ensemble_view.core.engine, "fuse", fuse_and_wrap)


WALKED = [nets.EntryReLU, nets.InPlaceSum, nets.FromInput, nets.Linked, nets.DropoutNet]


@pytest.mark.parametrize("net", WALKED)
def test_no_activation_changes_while_the_trie_is_walked(monkeypatch, net):
    seen: list[tuple[Tensor, Tensor]] = []
    watched(monkeypatch, lambda name, x: seen.append((x, x.clone())))
    model, batch = wake(net()), images()
    chain = unravel(model, batch)
    subsets = itertools.product((False, True), repeat=len(chain))
    plans = [
        bind(Delete(*(i for i, gone in enumerate(subset) if gone)), chain.outline)
        for subset in subsets
    ]
    list(Engine(chain, plans).logits(batch))
    assert torch.equal(batch, images())
    assert len(seen) > 2 ** len(chain)
    assert all(torch.equal(now, before) for now, before in seen)


def pieces(count: int) -> Chain:
    """A chain whose every step, deleted or not, makes a tensor of its own."""
    blocks = [
        Block(i, str(i), branch=lambda x, c: 0.5 * x, after=lambda x, c: 1 * x)
        for i in range(count)
    ]
    return Chain.from_parts(torch.clone, blocks, torch.clone)


@st.composite
def plan_sets(draw: st.DrawFn, count: int) -> list[Plan]:
    one = st.tuples(st.permutations(range(count)), st.sets(st.integers(0, count - 1)))
    chosen = draw(st.lists(one, min_size=1, max_size=8))
    moved = draw(st.booleans())
    outline = pieces(count).outline
    return [
        bind(Reorder(order if moved else range(count)) | Delete(*deleted), outline)
        for order, deleted in chosen
    ]


@given(plan_sets(5))
def test_as_many_activations_are_alive_as_the_cost_says(plans):
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def watch(name: str, x: Tensor) -> None:
        nonlocal most
        if not any(ref() is x for ref in alive):
            alive.append(weakref.ref(x))
        most = max(most, sum(ref() is not None for ref in alive))

    with pytest.MonkeyPatch.context() as monkeypatch:
        watched(monkeypatch, watch)
        engine = Engine(pieces(5), plans)
        for _, output in engine.logits(torch.ones(1, 2)):
            del output
    assert most == engine.cost.activations


@pytest.fixture(scope="module")
def small() -> tuple[Any, Chain]:
    model = wake(build("resnet14,width=4", classes=5))
    return model, unravel(model, images())


SHAPED = st.tuples(st.booleans(), st.booleans(), st.sets(st.integers(0, 5)))


@given(st.lists(SHAPED, min_size=1, max_size=8))
@settings(max_examples=25)
def test_engine_and_hooks_agree_on_random_plans(small, chosen):
    """Blocks 0 and 1 may change places, and any may be deleted; the rest change the shape."""
    model, chain = small
    plans = []
    for swapped, first, deleted in chosen:
        swap = Swap(0, 1) if swapped else Compose()
        parts = (Delete(*deleted), swap) if first else (swap, Delete(*deleted))
        plans.append(bind(Compose(parts), chain.outline))
    found = dict(Engine(chain, plans).logits(images()))
    for number, plan in enumerate(plans):
        with torch.no_grad(), edited_by_plan(chain, plan):
            assert error(found[number], model(images())) <= EXACT


def test_the_first_plan_comes_first_and_equal_plans_share_their_logits(small):
    _, chain = small
    whole = bind(Compose(), chain.outline)
    plans = [bind(Delete(3), chain.outline), whole, bind(Delete(3, 3), chain.outline), whole]
    found = list(Engine(chain, plans).logits(images()))
    assert [number for number, _ in found][:2] == [0, 2]
    assert found[0][1] is found[1][1]
    assert sorted(number for number, _ in found) == [0, 1, 2, 3]


def test_operations_are_counted_from_outside():
    """Multiplications and additions of convolutions and linear layers, reckoned by hand."""
    chain = unravel(wake(build("resnet20,width=4", classes=5)), images())
    count, batch = 9, 2

    def convolution(inputs: int, outputs: int, side: int) -> int:
        return 2 * batch * side**2 * outputs * inputs * 9

    blocks = []
    for stage, side in enumerate((8, 4, 2)):
        width = 4 * 2**stage
        for place in range(3):
            inputs = width // 2 if stage and not place else width
            blocks.append(convolution(inputs, width, side) + convolution(width, width, side))
    stem, head = convolution(3, 4, 8), 2 * batch * 16 * 5
    plans = [bind(i, chain.outline) for i in (Compose(), *map(Delete, range(count)))]
    engine = Engine(chain, plans)
    with FlopCounterMode(display=False) as counter:
        list(engine.logits(images()))
    # Block i runs once with all blocks before it, and once for each of these that is deleted.
    shared = sum((index + 1) * flops for index, flops in enumerate(blocks))
    assert counter.get_total_flops() == stem + shared + len(plans) * head
    assert engine.block_evaluations == sum(range(1, count + 1)) == 45


def batches(*sizes: int, classes: int = 5, **options: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(4)
    return [
        (images(size, seed=number, **options), torch.randint(classes, (size,), generator=generator))
        for number, size in enumerate(sizes)
    ]


def test_measurements_are_those_of_the_hooks_logits(small):
    model, chain = small
    interventions = [Compose(), Delete(2), Delete(0, 5), Swap(0, 1)]
    plans = [bind(intervention, chain.outline) for intervention in interventions]
    data = batches(7, 3, 5)
    labels = np.concatenate([targets.numpy() for _, targets in data])
    answers = []
    for intervention in interventions:
        with torch.no_grad(), edited(chain, intervention):
            answers.append(np.concatenate([model(inputs).numpy() for inputs, _ in data]))
    told: list[int] = []
    engine = Engine(chain, plans)
    with unchanged(model):
        result = engine.measure(data, told.append)
    for row, answer in enumerate(answers):
        for name, expected in measured(answer, answers[0], labels).items():
            np.testing.assert_allclose(
                result.outcomes[name][row].astype(float), expected, rtol=1e-6, atol=1e-6
            )
    assert set(result.outcomes) == set(MEASURES)
    assert result.outcomes["correct"].dtype == result.outcomes["agreement"].dtype == np.bool_
    np.testing.assert_array_equal(result.facts["labels"], labels)
    assert (result.batches, result.interrupted) == (3, False)
    assert result.block_evaluations == 3 * engine.cost.block_evaluations
    assert sum(told) == 15 * engine.cost.block_evaluations
    assert result.seconds > 0


def test_inputs_come_as_a_tensor_a_tuple_a_list_or_by_name():
    model = wake(nets.DictOutput())
    scale = torch.full((1, 1, 1), 2.0, dtype=torch.float64)
    (batch, labels), *_ = batches(4)
    plain = unravel(wake(nets.RootLoop()), (batch,))
    named = unravel(model, {"images": batch, "scale": scale})
    assert unravel(plain.model, [batch]).blocks
    results = [
        Engine(plain, [bind(Compose(), plain.outline)]).measure([(form, labels)]).outcomes
        for form in (batch, (batch,), [batch])
    ]
    for result in results[1:]:
        assert all((result[name] == results[0][name]).all() for name in MEASURES)
    inputs = {"images": batch, "scale": scale}
    found = Engine(named, [bind(Compose(), named.outline)]).measure([(inputs, labels)])
    with torch.no_grad():
        expected = measured(*2 * (logits(model(**inputs)).numpy(),), labels.numpy())
    np.testing.assert_allclose(found.outcomes["loss"][0], expected["loss"], rtol=1e-6)


def interrupted_after(count: int, data: list[Any]):
    yield from data[:count]
    raise KeyboardInterrupt


def test_an_interrupted_run_keeps_what_is_done(small):
    _, chain = small
    plans = [bind(i, chain.outline) for i in (Compose(), Delete(1))]
    data = batches(3, 4, 5)
    result = Engine(chain, plans).measure(interrupted_after(2, data))
    whole = Engine(chain, plans).measure(data[:2])
    assert (result.interrupted, result.batches, len(result.facts["labels"])) == (True, 2, 7)
    assert (whole.interrupted, whole.batches) == (False, 2)
    for name in MEASURES:
        np.testing.assert_array_equal(result.outcomes[name], whole.outcomes[name])


def test_an_interruption_in_the_middle_of_a_batch_drops_that_batch(small):
    _, chain = small
    plans = [bind(i, chain.outline) for i in (Compose(), Delete(1), Delete(2))]
    cost = Engine(chain, plans).cost.block_evaluations
    done = 0

    def interrupt(evaluations: int) -> None:
        nonlocal done
        done += evaluations
        if done > 4 * cost:
            raise KeyboardInterrupt

    result = Engine(chain, plans).measure(batches(4, 4), interrupt)
    assert (result.interrupted, result.batches, len(result.facts["labels"])) == (True, 1, 4)


def test_an_interruption_before_the_first_batch_passes_through(small):
    _, chain = small
    engine = Engine(chain, [bind(Compose(), chain.outline)])
    with pytest.raises(KeyboardInterrupt):
        engine.measure(interrupted_after(0, batches(3)))


def flat(head: Callable[[Tensor], Tensor], count: int = 2) -> Chain:
    blocks = [Block(i, str(i), branch=lambda x, c: -x) for i in range(count)]
    return Chain.from_parts(torch.clone, blocks, head)


ONES = [(torch.ones(2, 3), torch.tensor([0, 2]))]

UNMEASURABLE: list[tuple[Chain, Any, str]] = [
    (flat(torch.clone), [], "^The data hold no example; there is nothing to measure. Check the"),
    (
        flat(lambda x: x * float("nan")),
        ONES,
        "^The full net's logits are not finite; check its weights, the normalisation of the input",
    ),
    (
        flat(torch.clone),
        [(torch.ones(2, 3), torch.tensor([0, 3]))],
        r"^The labels run from 0 to 3, but the model has 3 classes \(0 to 2\); check that data set",
    ),
    (
        flat(lambda x: x[:, :, None]),
        ONES,
        r"^The model's output has the shape \(2, 3, 1\); measuring accuracy needs logits of the sh",
    ),
    (flat(lambda x: x[:1]), ONES, r"^The model's output has the shape \(1, 3\); .* \(2, classes\)"),
    (
        flat(lambda x: x * 1e30 * 1e30),
        ONES,
        r"^The logits are not finite after the plan delete 0-1, though the full net's are; use "
        r"float32 or float64 instead of a half-precision format\.$",
    ),
]


@pytest.mark.parametrize(("chain", "data", "message"), UNMEASURABLE)
def test_what_cannot_be_measured_is_refused_in_words(chain, data, message):
    plans = [bind(i, chain.outline) for i in (Compose(), Delete(0, 1))]
    with pytest.raises(MeasurementError, match=message):
        Engine(chain, plans).measure(data)


def test_an_engine_needs_a_plan():
    with pytest.raises(MeasurementError, match=r"^There is no plan to run; give at least the"):
        Engine(flat(torch.clone), [])


def test_a_loop_over_logits_runs_in_the_mode_it_was_started_in(small):
    _, chain = small
    plans = [bind(i, chain.outline) for i in (Compose(), Delete(0), Delete(1))]
    for number, output in Engine(chain, plans).logits(images()):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        assert not output.requires_grad
        if number:
            break
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_neither_layout_nor_gradients_of_the_input_matter(small, layout):
    model, chain = small
    batch = images().to(memory_format=layout).requires_grad_()
    ((_, found),) = Engine(chain, [bind(Delete(1), chain.outline)]).logits(batch)
    with torch.no_grad(), edited(chain, Delete(1)):
        assert error(found, model(images())) <= EXACT
    assert batch.grad is None
    assert torch.equal(batch.detach(), images())


def test_several_batches_of_different_sizes_use_one_engine(small):
    model, chain = small
    engine = Engine(chain, [bind(Compose(), chain.outline)], device="cpu")
    for size in (1, 5, 2):
        ((_, found),) = engine.logits(images(size))
        with torch.no_grad():
            assert error(found, model(images(size))) <= EXACT
    assert engine.block_evaluations == 3 * engine.cost.block_evaluations
