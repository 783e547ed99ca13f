"""Every intervention, alone and composed: engine and hooks equal what it means by hand."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

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
    Keep,
    MiddleRepeat,
    Parallel,
    Reorder,
    Repeat,
    Replace,
    Reverse,
    Scale,
    Swap,
    branch_means,
    edited,
    unravel,
)
from ensemble_view.core.interventions.base import Intervention
from ensemble_view.core.parts import perturb, resample
from ensemble_view.core.plan import bind
from ensemble_view.errors import InterventionError, MeasurementError
from ensemble_view.nets.models.building import build
from layers import wake
from state import unchanged

BITE = 1e-3
EXACT = 1e-10

DATA = [images(3, seed=5), images(4, seed=6)]
BATCH = images(5)


@cache
def prepared(kind: type[nets.Net]) -> tuple[nets.Net, Chain, dict[int, Tensor]]:
    model = wake(kind())
    granularity = "branch" if kind is nets.TwoSums else "block"
    chain = unravel(model, images(), plain=kind is nets.Plain, granularity=granularity)
    return model, chain, branch_means(chain, [(inputs, None) for inputs in DATA])


def both(
    kind: type[nets.Net], interventions: list[Intervention], x: Tensor = BATCH
) -> tuple[Tensor, Tensor, Tensor]:
    """By engine, by hooks, and by hand."""
    model, chain, means = prepared(kind)
    plan = bind(Compose(tuple(interventions)), chain.outline)
    engine = Engine(chain, [plan], means=means)
    ((_, from_engine),) = engine.logits(x)
    assert engine.block_evaluations == engine.cost.block_evaluations == plan.block_evaluations
    with torch.no_grad():
        with edited(chain, *interventions, means=means):
            from_hooks = model(x.clone())
        by_hand = altered_by_hand(model, x, interventions, means_by_hand(model, DATA))
    return from_engine, from_hooks, by_hand


ON_BRANCHES = [
    Scale(1, 0.5),
    Scale(0, -1.5),
    Scale(2, 0),
    DropShortcut(1),
    DropShortcut(2) | Scale(2, 2.0),
    Replace(0, "mean"),
    Replace(1, "mean") | Scale(1, 0.3),
    DropShortcut(1) | Replace(1, "mean"),
    Replace(1, "resample"),
    Replace(2, "resample", 7) | Scale(2, 2) | DropShortcut(2),
    Replace(1, "perturbed"),
    Replace(1, "constant"),
    Replace(2, "constant", 3) | Scale(2, 0.5) | Delete(1),
    Replace(2, "perturbed", 3) | Scale(2, 0.5) | Delete(0),
    Replace(1, "zero"),
    Delete(0) | Scale(1, 0.5) | Replace(2, "mean"),
]
ON_PLACES = [
    Repeat(1, 2),
    Repeat(0, 3) | Delete(2),
    Reverse(0, 2),
    Swap(0, 2) | Repeat(0, 2) | Scale(0, 0.5),
    Parallel(0, 1),
    Parallel(0, 2, "mean"),
    Parallel(1, 2, "mean") | Delete(1),
    Parallel(0, 2) | Scale(1, 0.5) | Repeat(0, 2) | Replace(2, "mean"),
    MiddleRepeat(0, 2),
    MiddleRepeat(0, 1) | Scale(0, 0.7),
    Reverse(0, 2) | Parallel(2, 1) | Swap(0, 1),
]
ALIKE = [
    nets.EntryReLU,
    nets.RootLoop,
    nets.InPlaceLoop,
    nets.NestedSums,
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


def parts_of(intervention: Intervention) -> list[Intervention]:
    return list(intervention.parts) if isinstance(intervention, Compose) else [intervention]


def check(kind: type[nets.Net], intervention: Intervention, *, bites: bool = True) -> None:
    from_engine, from_hooks, by_hand = both(kind, parts_of(intervention))
    assert error(from_engine, by_hand) <= EXACT, f"engine, {intervention}"
    assert error(from_hooks, by_hand) <= EXACT, f"hooks, {intervention}"
    whole = altered_by_hand(prepared(kind)[0], BATCH, [])
    assert not bites or error(by_hand, whole) >= BITE, f"{intervention} does not bite"


@pytest.mark.parametrize("kind", [*ALIKE, nets.SharedPreamble])
@pytest.mark.parametrize("intervention", ON_BRANCHES, ids=str)
@torch.no_grad()
def test_branches_and_shortcuts_are_altered_as_the_formula_says(kind, intervention):
    drops = any(isinstance(part, DropShortcut) for part in parts_of(intervention))
    if kind is nets.Plain and drops:
        with pytest.raises(InterventionError, match="has no shortcut that could be dropped"):
            bind(intervention, prepared(kind)[1].outline)
        return
    check(kind, intervention)


@pytest.mark.parametrize("kind", ALIKE)
@pytest.mark.parametrize("intervention", ON_PLACES, ids=str)
@torch.no_grad()
def test_blocks_run_again_elsewhere_and_beside_each_other_as_the_formula_says(kind, intervention):
    # Three calls of one module are one block three times: most changes of order change nothing.
    check(kind, intervention, bites=kind is not nets.SharedWeights)


@pytest.mark.parametrize(
    "intervention",
    [Reverse(2, 3) | Scale(3, 0.4), MiddleRepeat(0, 1), Parallel(2, 3), Repeat(2, 2) | Swap(0, 1)],
    ids=str,
)
@torch.no_grad()
def test_links_stay_where_they_are(intervention):
    check(nets.Linked, intervention)


index = st.integers(0, 3)
pair = st.tuples(index, index).map(sorted)
factor = st.floats(-2, 2).map(lambda value: round(value, 2))
simple: st.SearchStrategy[Intervention] = st.one_of(
    st.lists(index, min_size=1, max_size=2).map(lambda found: Delete(*found)),
    st.lists(index, min_size=2, max_size=4).map(lambda found: Keep(*found)),
    st.builds(Scale, index, factor),
    st.builds(DropShortcut, index),
    st.builds(Replace, index, st.sampled_from(["mean", "zero"])),
    st.builds(
        Replace, index, st.sampled_from(["resample", "perturbed", "constant"]), st.integers(0, 3)
    ),
    st.builds(Repeat, index, st.integers(1, 3)),
    st.builds(Swap, index, index),
    st.permutations(range(4)).map(Reorder),
    pair.map(lambda ends: Reverse(*ends)),
    pair.map(lambda ends: MiddleRepeat(*ends)),
    st.builds(lambda ends, how: Parallel(*ends, how), pair, st.sampled_from(["sum", "mean"])),
)


@pytest.mark.parametrize("kind", [nets.RootLoop, nets.InPlaceLoop, nets.Additions, nets.Plain])
@given(st.lists(simple, min_size=1, max_size=5))
@settings(max_examples=40)
@torch.no_grad()
def test_composed_interventions_are_executed_as_they_read(kind, parts):
    try:
        bind(Compose(tuple(parts)), prepared(kind)[1].outline)
    except InterventionError:
        assume(False)
    from_engine, from_hooks, by_hand = both(kind, parts)
    scale = by_hand.abs().max()
    assert float((from_engine - by_hand).abs().max()) <= EXACT * scale
    assert float((from_hooks - by_hand).abs().max()) <= EXACT * scale


@pytest.mark.parametrize("name", ["resnet14", "resnet14v2"])
@pytest.mark.parametrize("factor", [0.3, -1.0])
def test_scaling_is_what_scaling_the_last_layer_does(name, factor):
    """On a deep copy the last layer of the branch is multiplied instead."""
    model = wake(build(f"{name},width=4", classes=5))
    chain = unravel(model, images())
    for number in (0, 3, 5):
        twin = copy.deepcopy(model)
        block = twin.get_submodule(chain.blocks[number].name)
        with torch.no_grad():
            for value in (block.conv2 if name.endswith("v2") else block.bn2).parameters():
                value.mul_(factor)
            expected, whole = twin(BATCH), model(BATCH)
            with edited(chain, Scale(number, factor)):
                assert error(model(BATCH), expected) <= EXACT
        plan = bind(Scale(number, factor), chain.outline)
        ((_, found),) = Engine(chain, [plan]).logits(BATCH)
        assert error(found, expected) <= EXACT
        assert error(expected, whole) >= BITE


@pytest.mark.parametrize("kind", [nets.Linked, nets.Layers, nets.Plain])
def test_means_are_those_over_all_examples(kind):
    model, chain, means = prepared(kind)
    with torch.no_grad(), unchanged(model):
        expected = means_by_hand(model, DATA)
    assert means.keys() == expected.keys()
    for number, mean in means.items():
        assert mean.shape == (1, *chain.blocks[number].shape_out)
        assert error(mean, expected[number]) <= EXACT


def test_means_are_found_for_the_blocks_that_are_asked_for():
    _, chain, means = prepared(nets.RootLoop)
    found = branch_means(chain, [([inputs], None) for inputs in DATA], [2])
    assert list(found) == [2]
    assert torch.equal(found[2], means[2])


def test_a_mean_that_is_not_known_is_asked_for():
    model, chain, _ = prepared(nets.RootLoop)
    message = (
        r"^The branch of block 1 \(blocks\.1\) is to be replaced by its mean, which is not known; "
        r"give means=branch_means\(chain, batches\), over the data that it is to be of\.$"
    )
    plan = bind(Replace(1, "mean"), chain.outline)
    with pytest.raises(InterventionError, match=message):
        Engine(chain, [plan], means={0: torch.zeros(1)})
    with unchanged(model):
        for edit in (Replace(1, "mean"), Replace(1, "mean") | Repeat(0, 2)):
            with pytest.raises(InterventionError, match=message), edited(chain, edit):
                pass


def test_there_is_no_mean_of_nothing_or_of_values_of_several_shapes():
    chain = Chain.from_parts(torch.clone, [Block(0, "F", branch=lambda x, c: -x)], torch.clone)
    with pytest.raises(MeasurementError, match=r"^The data hold no example, so branches have no"):
        branch_means(chain, [])
    ragged = [(torch.ones(1, 3), None), (torch.ones(1, 4), None)]
    message = (
        r"^The branch of block 0 \(F\) has the shape \(3,\) in one batch and \(4,\) in another"
    )
    with pytest.raises(MeasurementError, match=message):
        branch_means(chain, ragged)


@given(st.integers(2, 60), st.integers(0, 99))
def test_resampling_leads_through_all_examples_and_gives_none_its_own(count, seed):
    others = resample(torch.arange(count), (seed, 0)).tolist()
    place, seen = 0, []
    for _ in range(count):
        place = others[place]
        seen.append(place)
    assert sorted(seen) == list(range(count))
    assert others == resample(torch.arange(count), (seed, 0)).tolist()


def test_resampling_depends_on_seed_and_block():
    found = {tuple(resample(torch.arange(20), seed).tolist()) for seed in ((0, 0), (0, 1), (1, 0))}
    assert len(found) == 3


def test_perturbations_have_the_branchs_norm_in_uniform_directions():
    """Each example's its own; over 400 seeds the mean direction is small, its spread even."""
    values = images(3).reshape(3, -1)[:, :8]
    draws = torch.stack([perturb(values, (seed, 2)) - values for seed in range(400)])
    norms = values.norm(dim=1).expand(400, 3)
    assert torch.allclose(draws.norm(dim=2), norms, rtol=1e-12)
    unit = draws / norms[..., None]
    # An entry has variance 1/8; its square is Beta(1/2, 7/2).
    assert float(unit.mean(0).abs().max()) < 5 * (8 * 400) ** -0.5
    assert float((unit.square().mean(0) - 1 / 8).abs().max()) < 5 * (0.5 * 3.5 / 80 / 400) ** 0.5
    assert float((unit[:, 0] * unit[:, 1]).sum(1).mean().abs()) < 5 * (8 * 400) ** -0.5
    assert torch.equal(perturb(values, (0, 2)), perturb(values, (0, 2)))
    assert not torch.equal(perturb(values, (0, 2)), perturb(values, (0, 3)))


def test_a_perturbation_keeps_the_number_format():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        large = torch.full((2, 4096), 300.0, dtype=dtype)
        noise = (perturb(large, (0,)) - large).double().norm(dim=1)
        assert perturb(large, (0,)).dtype is dtype
        assert noise.tolist() == pytest.approx([300 * 64] * 2, rel=1e-2)


def test_one_example_has_no_other():
    model, chain, _ = prepared(nets.RootLoop)
    message = r"^Replacing a branch by another example's needs batches of at least two examples;"
    engine = Engine(chain, [bind(Replace(1, "resample"), chain.outline)])
    with pytest.raises(MeasurementError, match=message):
        list(engine.logits(images(1)))
    with pytest.raises(MeasurementError, match=message), edited(chain, Replace(1, "resample")):
        model(images(1))


@pytest.mark.parametrize(
    ("intervention", "branches"),
    [
        (Compose(), 4),
        (Delete(1), 3),
        (Replace(1, "zero"), 3),
        (Replace(1, "mean"), 3),
        (Replace(1, "resample"), 4),
        (Replace(1, "perturbed"), 4),
        (Replace(1, "constant"), 4),
        (Scale(1, 0), 4),
        (DropShortcut(1), 4),
        (Repeat(1, 3), 6),
        (Repeat(1, 3) | Delete(1), 3),
        (Parallel(0, 3), 4),
        (Parallel(0, 3) | Delete(1, 2), 2),
        (MiddleRepeat(0, 3) | Replace(1, "mean"), 0),
    ],
    ids=str,
)
def test_a_plan_costs_the_branches_that_are_computed(intervention, branches):
    """Counted from outside, in convolutions of one size; the stem's has 3 channels for 4."""
    _, chain, means = prepared(nets.RootLoop)
    plan = bind(intervention, chain.outline)
    engine = Engine(chain, [plan], means=means)
    with FlopCounterMode(display=False) as counter:
        list(engine.logits(images(1) if "resample" not in str(intervention) else images(2)))
    count = 2 if "resample" in str(intervention) else 1
    one = 2 * count * 64 * 4 * 9
    assert counter.get_total_flops() == 3 * one + branches * 2 * 4 * one + 2 * count * 4 * 5
    assert plan.block_evaluations == engine.block_evaluations == branches


def test_altered_plans_share_their_prefixes():
    model, chain, means = prepared(nets.RootLoop)
    interventions = [
        Compose(),
        Scale(3, 0.5),
        Scale(3, 0.25),
        Replace(3, "mean"),
        Repeat(3, 2),
        Parallel(2, 3),
    ]
    engine = Engine(chain, [bind(one, chain.outline) for one in interventions], means=means)
    with unchanged(model):
        found = dict(engine.logits(BATCH))
    # The whole; block 3 twice anew; its mean; block 3 again; the last two side by side.
    assert engine.block_evaluations == engine.cost.block_evaluations == 4 + 2 + 0 + 1 + 2
    for number, one in enumerate(interventions):
        with torch.no_grad():
            expected = altered_by_hand(model, BATCH, parts_of(one), means_by_hand(model, DATA))
        assert error(found[number], expected) <= EXACT


@pytest.mark.parametrize("kind", [nets.RootLoop, nets.InPlaceSum, nets.Layers])
@pytest.mark.parametrize("intervention", [*ON_BRANCHES[::3], *ON_PLACES[::3]], ids=str)
def test_nothing_is_left_of_an_edit(kind, intervention):
    model, chain, means = prepared(kind)
    with torch.no_grad():
        before = model(images())
        with unchanged(model), edited(chain, intervention, means=means):
            model(images())
        assert torch.equal(model(images()), before)


def test_edits_of_branches_nest():
    model, chain, _ = prepared(nets.InPlaceSum)
    for outer, inner in ((Scale(1, 0.5), Scale(1, 3.0)), (DropShortcut(3), Scale(2, 0.5))):
        with torch.no_grad(), edited(chain, outer), edited(chain, inner):
            found = model(images())
        with torch.no_grad():
            assert error(found, altered_by_hand(model, images(), [outer, inner])) <= EXACT


def test_single_precision_runs_in_fused_graphs():
    """Folded and overwritten as for a block that is kept; the mean is of the weights' type."""
    chain = unravel(wake(build("resnet14,width=4", classes=5)).float(), images().float())
    means = branch_means(chain, [(DATA[0].float(), None)])
    assert {mean.dtype for mean in means.values()} == {torch.float32}
    plans = [
        bind(one, chain.outline)
        for one in (Scale(1, 0.5), Replace(1, "mean"), DropShortcut(2), Parallel(0, 1))
    ]
    engine = Engine(chain, plans, means=means)
    for part in engine._altered.values():
        targets = [str(node.target) for node in part.graph.nodes]
        assert not any("batch_norm" in target for target in targets)
    found = dict(engine.logits(BATCH.float()))
    exact = wake(build("resnet14,width=4", classes=5))
    reference = unravel(exact, images())
    means = branch_means(reference, [(DATA[0], None)])
    for number, one in enumerate(
        (Scale(1, 0.5), Replace(1, "mean"), DropShortcut(2), Parallel(0, 1))
    ):
        with torch.no_grad(), edited(reference, one, means=means):
            assert error(found[number].double(), exact(BATCH)) <= 1e-4


@pytest.mark.parametrize(
    ("intervention", "calls"),
    [
        (Reverse(0, 4) | Swap(1, 5), [1, 1, 1, 1, 1, 1]),
        (Reverse(1, 4) | Scale(4, 0.5) | DropShortcut(0), [1, 1, 1, 1, 1, 1]),
    ],
    ids=str,
)
def test_whole_modules_stand_in_where_they_can(intervention, calls):
    """The modules themselves are called, and none else."""
    model, chain, means = prepared(nets.Additions)
    counts = [0] * 6

    def counting(number: int) -> None:
        counts[number] += 1

    handles = [
        block.register_forward_hook(lambda *_, number=number: counting(number))
        for number, block in enumerate(model.blocks)
    ]
    try:
        with torch.no_grad(), edited(chain, intervention, means=means):
            for _ in range(2):
                found = model(BATCH.clone())
    finally:
        for handle in handles:
            handle.remove()
    assert counts == [2 * count for count in calls]
    with torch.no_grad():
        assert error(found, altered_by_hand(model, BATCH, parts_of(intervention))) <= EXACT


def transformer(granularity: str) -> tuple[torch.nn.Module, Chain, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True)

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(copy.deepcopy(layer) for _ in range(4))
            self.embed, self.head = torch.nn.Linear(3, 8), torch.nn.Linear(8, 5)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            x = self.embed(x)
            for layer in self.layers:
                x = layer(x, src_mask=mask)
            return self.head(x.mean(1))

    model, x = wake(Encoder()), torch.randn(3, 6, 3, dtype=torch.float64)
    mask = torch.triu(torch.full((6, 6), float("-inf"), dtype=torch.float64), 1)
    return model, unravel(model, (x, mask), granularity=granularity), (x, mask)


@pytest.mark.parametrize("granularity", ["block", "branch"])
def test_a_transformer_with_a_mask_is_altered_alike_by_engine_and_hooks(granularity):
    """The mask is context: it goes along to every place, and is not resampled."""
    model, chain, arguments = transformer(granularity)
    assert len(chain) == (4 if granularity == "block" else 8)
    means = branch_means(chain, [(arguments, None)])
    interventions = [Compose(), *ON_BRANCHES, *ON_PLACES]
    plans = [bind(one, chain.outline) for one in interventions]
    found = dict(Engine(chain, plans, means=means).logits(*arguments))
    for number, one in enumerate(interventions):
        with torch.no_grad(), edited(chain, one, means=means):
            assert error(found[number], model(*arguments)) <= EXACT, one
        assert number == 0 or error(found[number], found[0]) >= BITE, one


@torch.no_grad()
def test_a_layer_of_a_transformer_is_scaled_as_a_whole():
    """By torch's own layers: x + α (layer(x) - x), and layers side by side x + Σ (layer(x) - x)."""
    model, chain, (x, mask) = transformer("block")
    start = model.embed(x)

    def change(number: int, h: Tensor) -> Tensor:
        return model.layers[number](h, src_mask=mask) - h

    h = start + 0.3 * change(0, start)
    h = h + (change(1, h) + change(2, h)) / 2
    expected = model.head((h + change(3, h)).mean(1))
    with edited(chain, Scale(0, 0.3) | Parallel(1, 2, "mean")):
        assert error(model(x, mask), expected) <= EXACT


@pytest.mark.parametrize("value", ["mean", "resample", "perturbed", "constant"])
def test_values_of_other_examples_need_a_sum_by_example(value):
    """Positions may come first, or be joined with the examples: rows are then no examples."""

    class Sequences(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))

        def forward(self, x):
            x = x + self.layers[0](x).relu()
            x = x.transpose(0, 1)
            x = x + self.layers[1](x).relu()
            x = x.transpose(0, 1).reshape(-1, 4)
            x = x + self.layers[2](x).relu()
            return x.reshape(-1, 3, 4).mean(1)

    chain = unravel(Sequences().eval(), torch.randn(2, 3, 4))
    assert [block.by_example for block in chain] == [True, False, False]
    bind(Replace(0, value) | Replace(1, "zero"), chain.outline)
    message = (
        rf"^Block 2 \(block#2\) adds up values whose first dimension does not count examples, so "
        rf"its branch cannot be replaced by '{value}'; by 'zero' it can\.$"
    )
    with pytest.raises(InterventionError, match=message):
        bind(Replace(2, value), chain.outline)


def test_branches_laid_out_otherwise_than_the_output_do_not_run_beside_others():
    class Windowed(torch.nn.Linear):
        def forward(self, x):
            windows = x.reshape(-1, 3, 2, 4)
            return (windows + super().forward(windows).relu()).reshape(-1, 6, 4)

    model = torch.nn.Sequential(*(Windowed(4, 4) for _ in range(3))).eval()
    chain = unravel(model, torch.randn(2, 6, 4))
    assert [block.sums_as_output for block in chain] == [False] * 3
    bind(Swap(0, 2) | Repeat(1, 2) | Scale(0, 0.5), chain.outline)
    message = (
        r"^Block 0 \(0\) adds up values that are laid out otherwise than its output, so its branch "
        r"cannot be added to those of others; it cannot run beside them\.$"
    )
    with pytest.raises(InterventionError, match=message):
        bind(Parallel(0, 1), chain.outline)
