"""Plans and the trie against brute force over all prefixes."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble_view import (
    Compose,
    Delete,
    DropShortcut,
    Keep,
    MiddleRepeat,
    Parallel,
    Reorder,
    Repeat,
    Replace,
    Reverse,
    Scale,
    Swap,
)
from ensemble_view.core.plan import Action, Outline, Plan, Slot, Step, bind
from ensemble_view.core.trie import Node, Trie
from ensemble_view.errors import InterventionError

SMALL, LARGE = (4, 8, 8), (8, 4, 4)


def outline(count: int, links: frozenset[int] = frozenset()) -> Outline:
    return Outline(tuple(Slot(f"b{i}", SMALL, SMALL, True) for i in range(count)), links)


@st.composite
def plan_sets(draw: st.DrawFn) -> list[Plan]:
    """Random deletions in random orders of a small chain, some of them equal."""
    count = draw(st.integers(1, 6))
    links = draw(st.frozensets(st.integers(0, count - 1)))
    one = st.tuples(st.permutations(range(count)), st.sets(st.integers(0, count - 1)))
    chosen = draw(st.lists(one, min_size=1, max_size=12))
    moved = draw(st.booleans())
    return [
        bind(Reorder(order if moved else range(count)) | Delete(*deleted), outline(count, links))
        for order, deleted in chosen
    ]


def prefixes(plans: list[Plan]) -> set[tuple[Step, ...]]:
    return {plan.steps[:end] for plan in plans for end in range(1, len(plan.steps) + 1)}


def paths(trie: Trie) -> list[tuple[tuple[Step, ...], Node]]:
    """Every node with the steps from the root, in the order of the walk, by plain recursion."""

    def below(node: Node, steps: tuple[Step, ...]):
        yield steps, node
        for child in node.children:
            yield from below(child, (*steps, child.step))

    return list(below(trie.root, ()))


@given(plan_sets())
def test_every_plan_ends_at_the_one_node_whose_path_is_its_steps(plans):
    ends = [(number, steps) for steps, node in paths(Trie(plans)) for number in node.plans]
    assert sorted(ends) == [(number, plan.steps) for number, plan in enumerate(plans)]


@given(plan_sets())
def test_every_prefix_is_one_node_and_costs_its_last_branch(plans):
    trie = Trie(plans)
    assert sorted(steps for steps, _ in paths(trie)) == sorted({(), *prefixes(plans)})
    kept = [steps for steps in prefixes(plans) if steps[-1].action is Action.KEEP]
    assert trie.cost.block_evaluations == len(kept)
    naive = sum(step.action is Action.KEEP for plan in plans for step in plan.steps)
    assert trie.cost.naive_block_evaluations == naive
    assert trie.cost.plans == len(plans)


@given(plan_sets())
def test_the_walk_goes_depth_first_and_finishes_the_first_plan_first(plans):
    trie = Trie(plans)
    walked = list(trie)
    assert walked == [node for _, node in paths(trie)]
    assert next(node for node in walked if node.plans).plans[0] == 0
    depth = len(plans[0].steps)
    assert [node.step for node in walked[1 : depth + 1]] == list(plans[0].steps)


@given(plan_sets())
def test_activations_are_those_that_a_walk_keeps(plans):
    trie = Trie(plans)
    most = 0

    def walk(node: Node, above: int) -> None:
        """``above`` activations are kept for others while this node's own is in use."""
        nonlocal most
        most = max(most, above + 1)
        for place, child in enumerate(node.children):
            is_last = place == len(node.children) - 1
            walk(child, above + (not is_last))

    walk(trie.root, 0)
    assert trie.cost.activations == most


@given(plan_sets())
def test_smaller_subtrees_come_first_after_the_first_plan(plans):
    trie = Trie(plans)
    first = {id(node) for steps, node in paths(trie) if plans[0].steps[: len(steps)] == steps}

    def size(node: Node) -> int:
        return 1 + sum(map(size, node.children))

    for node in trie:
        others = [child for child in node.children if id(child) not in first]
        assert node.children[-len(others) :] == others or not others
        assert [size(child) for child in others] == sorted(size(child) for child in others)


@pytest.mark.parametrize("count", [1, 2, 9, 27, 54])
def test_single_deletions_and_the_baseline_share_half_the_work(count):
    plans = [bind(i, outline(count)) for i in (Compose(), *map(Delete, range(count)))]
    cost = Trie(plans).cost
    kept = {p for p in prefixes(plans) if p[-1].action is Action.KEEP}
    assert cost.block_evaluations == len(kept) == count * (count - 1) // 2 + count
    assert cost.naive_block_evaluations == count * (count - 1) + count
    # The baseline goes first, so each of its activations waits for the deletion that follows it.
    assert cost.activations == count + 1


@pytest.mark.parametrize("count", range(1, 11))
def test_all_subsets_cost_one_evaluation_each_but_one(count):
    subsets = [s for k in range(count + 1) for s in itertools.combinations(range(count), k)]
    cost = Trie([bind(Delete(*subset), outline(count)) for subset in subsets]).cost
    assert cost.block_evaluations == 2**count - 1
    assert cost.naive_block_evaluations == count * 2 ** (count - 1)


def evaluations(deletions: list[set[int]], count: int) -> tuple[int, int]:
    """Branches with shared prefixes and without, by numbering prefixes with their binary digits."""
    shared, alone = set(), 0
    for deleted in deletions:
        prefix = 1
        for index in range(count):
            prefix = 2 * prefix + (index in deleted)
            if index not in deleted:
                shared.add(prefix)
                alone += 1
    return len(shared), alone


def test_pairs_of_54_blocks_cost_what_the_design_says():
    whole = outline(54)
    chosen = list(itertools.combinations(range(54), 2))
    pairs = [bind(Delete(*pair), whole) for pair in chosen]
    singles = [bind(Delete(i), whole) for i in range(54)]
    alone, together = Trie(pairs).cost, Trie([bind(Compose(), whole), *singles, *pairs]).cost
    by_force = [
        evaluations(list(map(set, deletions)), 54)[0]
        for deletions in (chosen, [(), *((i,) for i in range(54)), *chosen])
    ]
    assert alone.block_evaluations == by_force[0] == 26_234
    assert together.block_evaluations == by_force[1] == 26_289
    assert alone.naive_block_evaluations == math.comb(54, 2) * 52 == 74_412


@pytest.mark.parametrize(
    ("trials", "size", "saved"),
    [(200, 2, 0.58), (200, 5, 0.31), (200, 10, 0.19), (50, 2, 0.44), (50, 5, 0.24), (50, 10, 0.15)],
)
def test_random_subsets_of_54_blocks_save_what_the_design_says(trials, size, saved):
    generator = random.Random(1)
    shares = []
    for _ in range(800 // trials):
        chosen = [set(generator.sample(range(54), size)) for _ in range(trials)]
        cost = Trie([bind(Delete(*blocks), outline(54)) for blocks in chosen]).cost
        found = cost.block_evaluations, cost.naive_block_evaluations
        assert found == evaluations(chosen, 54)
        shares.append(1 - found[0] / found[1])
    # A share varies by .006 to .03 from draw to draw.
    assert sum(shares) / len(shares) == pytest.approx(saved, abs=0.02)


def test_equal_plans_share_a_leaf():
    whole = outline(3)
    trie = Trie([bind(i, whole) for i in (Delete(0), Delete(1), Delete(0, 0), Keep(1, 2))])
    assert sorted(node.plans for node in trie if node.plans) == [[0, 2, 3], [1]]


@given(plan_sets())
def test_a_plan_says_what_it_deletes_and_in_which_order(plans):
    for plan in plans:
        blocks = [step for step in plan.steps if step.action is not Action.LINK]
        assert plan.order == tuple(step.index for step in blocks)
        assert set(plan.deleted) == {s.index for s in blocks if s.action is Action.DELETE}
        assert plan.block_evaluations == len(blocks) - len(plan.deleted)
        assert hash(plan) == hash(Plan(plan.steps))


@pytest.mark.parametrize(
    ("intervention", "words"),
    [
        (Compose(), "keep 0-3"),
        (Delete(1, 2), "delete 1-2"),
        (Swap(0, 2), "order 2,1,0,3"),
        (Swap(0, 2) | Delete(3), "delete 3; order 2,1,0,3"),
        (Scale(1, 0.5) | Delete(3), "delete 3; scale 1 0.5"),
        (DropShortcut(2) | Replace(1, "mean"), "replace 1 mean; dropshortcut 2"),
        (Repeat(1, 2), "order 0,1,1,2,3"),
        (MiddleRepeat(0, 2) | Scale(1, 2), "scale 1 2.0; order 1,1,1,3"),
        (Parallel(1, 2), "order 0,1+2,3"),
        (Parallel(0, 3, "mean") | Delete(1), "delete 1; order mean(0+1+2+3)"),
    ],
)
def test_plans_print_what_they_do(intervention, words):
    assert str(bind(intervention, outline(4))) == words


def test_links_stay_where_they_are():
    plan = bind(Swap(0, 1) | Delete(2), outline(3, frozenset({0, 2})))
    link, keep, delete = Action.LINK, Action.KEEP, Action.DELETE
    assert [(s.index, s.action) for s in plan.steps] == [
        (0, link), (1, keep), (0, keep), (2, link), (2, delete),
    ]  # fmt: skip


ON_BRANCHES = [
    # What is done with block 1, and how many branches are computed of four blocks.
    (Scale(1, 1), 4),
    (Scale(1, 0), 4),
    (DropShortcut(1), 4),
    (Replace(1, "resample"), 4),
    (Replace(1, "mean"), 3),
    (Replace(1, "zero"), 3),
    (Replace(1, "mean") | Scale(1, 2) | DropShortcut(1), 3),
    (Repeat(1, 3), 6),
    (Repeat(1, 3) | Replace(1, "mean"), 3),
    (Reverse(0, 3), 4),
    (MiddleRepeat(0, 3), 4),
    (MiddleRepeat(0, 3) | Delete(1), 0),
    (Parallel(0, 2), 4),
    (Parallel(0, 2) | Delete(1), 3),
    (Parallel(0, 2, "mean") | Repeat(1, 2), 5),
]


@pytest.mark.parametrize(("intervention", "branches"), ON_BRANCHES, ids=str)
def test_a_plan_costs_the_branches_that_must_be_computed(intervention, branches):
    plan = bind(intervention, outline(4))
    assert plan.block_evaluations == Trie([plan]).cost.block_evaluations == branches


def test_a_branch_that_is_scaled_by_one_is_kept_and_one_that_is_replaced_by_zero_deleted():
    whole = outline(4)
    assert bind(Scale(1, 2) | Scale(1, 0.5), whole) == bind(Compose(), whole)
    assert bind(Replace(1, "zero"), whole) == bind(Delete(1), whole)
    assert bind(Scale(1, 0), whole) != bind(Delete(1), whole)
    assert bind(Parallel(1, 1), whole) == bind(Repeat(1, 1), whole) == bind(Compose(), whole)


def test_plans_share_what_they_do_alike():
    plans = [
        bind(one, outline(4))
        for one in (Scale(1, 0.5), Scale(1, 0.5) | Delete(3), Scale(1, 2), Repeat(1, 2))
    ]
    # Block 0; 1, 2 and 3 after it; 1 anew, 2 and 3; 1, 1, 2 and 3: the deletion is free.
    assert Trie(plans).cost.block_evaluations == 1 + 3 + 3 + 4
    assert Trie(plans).cost.naive_block_evaluations == 4 + 3 + 4 + 5


def test_plans_know_where_things_run():
    plan = bind(Swap(0, 3) | Repeat(0, 2) | Parallel(1, 2) | Delete(2), outline(4, frozenset({1})))
    group = (Step(1), Step(2, Action.DELETE))
    assert plan.places == {
        0: (Step(3),),
        1: (Step(1, Action.PARALLEL, members=group),),
        3: (Step(0), Step(0)),
    }
    assert (plan.order, plan.deleted, plan.moved) == ((3, 1, 2, 0, 0), (2,), (0, 1, 2, 3))
    assert [step.index for step in plan.steps if step.action is Action.LINK] == [1]


MIXED = Outline(
    (
        Slot("keeps", SMALL, SMALL, True),
        Slot("halves", SMALL, LARGE, True),
        Slot("small", LARGE, LARGE, True),
        Slot("unit", LARGE, SMALL, False, False),
        Slot("plain", SMALL, SMALL, True, False),
    )
)


@pytest.mark.parametrize(
    ("intervention", "message"),
    [
        (
            Swap(0, 1),
            r"^Block 1 \(halves\) takes 4×8×8 to 8×4×4; it cannot run in the place of "
            r"block 0 \(keeps\), which takes 4×8×8 to 4×8×8\.$",
        ),
        (Reorder([2, 1, 0, 3, 4]), r"^Block 2 \(small\) takes 8×4×4 to 8×4×4; it cannot run in"),
        (
            Delete(0, 3),
            r"^Block 3 \(unit\) has no shortcut and takes 8×4×4 to 4×8×8; it cannot be deleted, "
            r"only units that keep their shape can\.$",
        ),
        (Delete(5), r"^There is no block 5: this chain has 5 blocks, 0 to 4\.$"),
        (
            Scale(3, 0.5),
            r"^Block 3 \(unit\) has no shortcut and takes .*; it cannot be scaled, only",
        ),
        (
            Replace(3, "mean"),
            r"^Block 3 \(unit\) has no shortcut and .*; it cannot be replaced, on",
        ),
        (DropShortcut(3), r"^Block 3 \(unit\) has no shortcut that could be dropped\.$"),
        (DropShortcut(4), r"^Block 4 \(plain\) has no shortcut that could be dropped\.$"),
        (
            DropShortcut(0) | Delete(0),
            r"^Of block 0 \(keeps\) neither shortcut nor branch would be left\.$",
        ),
        (
            Repeat(1, 2),
            r"^Block 1 \(halves\) takes 4×8×8 to 8×4×4; it cannot run again on what it gives\.$",
        ),
        (
            Parallel(0, 1),
            r"^Block 1 \(halves\) takes 4×8×8 to 8×4×4; it cannot run beside block 0 \(keeps\), "
            r"which takes 4×8×8 to 4×8×8\.$",
        ),
        (
            Parallel(1, 2),
            r"^Block 2 \(small\) takes 8×4×4 to 8×4×4; it cannot run beside block 1 \(halves\), "
            r"which takes 4×8×8 to 8×4×4\.$",
        ),
        (
            MiddleRepeat(0, 2),
            r"^Block 1 \(halves\) takes 4×8×8 to 8×4×4; it cannot run in the place",
        ),
        (
            Reverse(1, 2),
            r"^Block 2 \(small\) takes 8×4×4 to 8×4×4; it cannot run in the place of bl",
        ),
    ],
)
def test_plans_that_do_not_fit_are_refused_before_anything_runs(intervention, message):
    with pytest.raises(InterventionError, match=message):
        bind(intervention, MIXED)


def test_blocks_beside_each_other_share_their_shortcut():
    message = (
        r"^Block 1 \(b1\) runs beside others, with one shortcut for all; its own cannot be dropped"
    )
    with pytest.raises(InterventionError, match=message):
        bind(Parallel(0, 2) | DropShortcut(1), outline(3))
