"""Interventions against what they mean for a list of labels, whichever chain they are bound to."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ensemble_view
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
    parse_interventions,
)
from ensemble_view.core.interventions.arrangement import Arrangement, Treatment
from ensemble_view.core.interventions.base import Intervention
from ensemble_view.core.interventions.text import format_blocks, parse_blocks
from ensemble_view.errors import InterventionError

COUNT = 6
NAMES = ("layer1.0", "layer1.1", "layer2.0", "layer2.1", "layer3.0", "layer3.1")
UNCHANGED = Arrangement.of(NAMES)

index = st.integers(0, COUNT - 1)
blocks = st.lists(index, max_size=COUNT)
simple: st.SearchStrategy[Intervention] = st.one_of(
    blocks.map(lambda found: Delete(*found)),
    blocks.map(lambda found: Keep(*found)),
    st.builds(Swap, index, index),
    st.permutations(range(COUNT)).map(Reorder),
)


def by_lists(interventions: list[Intervention]) -> tuple[list[int], set[int]]:
    """The order and the deleted blocks, by lists and sets alone."""
    order, deleted = list(range(COUNT)), set()
    for intervention in interventions:
        if isinstance(intervention, Swap):
            first, second = order.index(intervention.first), order.index(intervention.second)
            order[first], order[second] = order[second], order[first]
        elif isinstance(intervention, Reorder):
            order = list(intervention.order)
        elif isinstance(intervention, Keep):
            deleted |= {i for i in range(COUNT) if i not in intervention.blocks}
        elif isinstance(intervention, Delete):
            deleted |= set(intervention.blocks)
    return order, deleted


@given(st.lists(simple, max_size=5))
def test_composed_interventions_act_one_after_another(parts):
    composed = Compose()
    for part in parts:
        composed = composed | part
    result = composed.apply(UNCHANGED)
    assert (list(result.order), set(result.deleted)) == by_lists(parts)


@given(simple, simple, simple)
def test_composition_is_associative_and_flat(first, second, third):
    assert (first | second) | third == first | (second | third)
    assert (first | (second | third)).parts == (first, second, third)


@given(simple)
def test_compose_of_nothing_changes_nothing(intervention):
    assert Compose().apply(UNCHANGED) == UNCHANGED
    alone = intervention.apply(UNCHANGED)
    assert (Compose() | intervention).apply(UNCHANGED) == alone
    assert (intervention | Compose()).apply(UNCHANGED) == alone


@given(st.lists(simple, max_size=4), index, index)
def test_swapping_twice_changes_nothing_whatever_the_order(parts, first, second):
    before = Compose(tuple(parts)).apply(UNCHANGED)
    assert (Swap(first, second) | Swap(second, first)).apply(before) == before


@given(blocks)
def test_keep_is_the_complement_of_delete(kept):
    others = [i for i in range(COUNT) if i not in kept]
    assert Keep(*kept).apply(UNCHANGED) == Delete(*others).apply(UNCHANGED)


def test_a_block_keeps_its_number_where_it_is_moved():
    moved_first = (Swap(0, 5) | Delete(0)).apply(UNCHANGED)
    assert moved_first == (Delete(0) | Swap(0, 5)).apply(UNCHANGED)
    assert (moved_first.order, moved_first.deleted) == ((5, 1, 2, 3, 4, 0), {0})


def test_reorder_forgets_earlier_orders_and_swap_does_not():
    order = (1, 0, 2, 3, 4, 5)
    assert (Swap(3, 4) | Reorder(order)).apply(UNCHANGED).order == order
    assert (Reorder(order) | Swap(1, 2)).apply(UNCHANGED).order == (2, 0, 1, 3, 4, 5)


path = st.from_regex(r"[a-z*][a-z0-9_.*]{0,8}", fullmatch=True)
name = st.one_of(index, path)
numbers = st.floats(allow_nan=False, allow_infinity=False)
anything: st.SearchStrategy[Intervention] = st.one_of(
    st.lists(name, min_size=1, max_size=COUNT).map(lambda found: Delete(*found)),
    st.lists(name, min_size=1, max_size=COUNT).map(lambda found: Keep(*found)),
    st.builds(Swap, name, name),
    st.permutations(range(COUNT)).map(Reorder),
    st.builds(Reverse, name, name),
    st.builds(Repeat, name, st.integers(1, 9)),
    st.builds(Scale, name, numbers),
    st.builds(DropShortcut, name),
    st.builds(Replace, name, st.sampled_from(["mean", "resample", "zero"])),
    st.builds(
        Replace, name, st.sampled_from(["resample", "perturbed", "constant"]), st.integers(0, 2**32)
    ),
    st.builds(Parallel, name, name, st.sampled_from(["sum", "mean"])),
    st.builds(MiddleRepeat, name, name),
)


@given(st.lists(anything, max_size=4))
def test_interventions_are_values_that_print_as_they_are_written(parts):
    composed = Compose(tuple(parts))
    again = eval(repr(composed), vars(ensemble_view).copy())
    assert again == composed or Compose((again,)) == composed
    assert len({composed, Compose(tuple(parts))}) == 1


@given(st.lists(anything, min_size=1, max_size=4))
def test_interventions_are_read_back_from_the_words_they_print(parts):
    assert parse_interventions(str(Compose(tuple(parts)))) == Compose(tuple(parts))


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("delete 3", Delete(3)),
        (" Delete 3, 1-2 ;keep layer3.*", Delete(3, 1, 2) | Keep("layer3.*")),
        ("swap 7 8; reverse 2 5", Swap(7, 8) | Reverse(2, 5)),
        ("scale layer1.0 -.5;dropshortcut 4", Scale("layer1.0", -0.5) | DropShortcut(4)),
        ("replace 5 mean; replace 6 resample 3", Replace(5, "mean") | Replace(6, "resample", 3)),
        ("reorder 2,0-1", Compose((Reorder([2, 0, 1]),))),
        ("repeat 3 2; parallel 1 4 mean", Repeat(3, 2) | Parallel(1, 4, "mean")),
        ("parallel 1 4; middlerepeat 1 4", Parallel(1, 4) | MiddleRepeat(1, 4)),
    ],
)
def test_interventions_are_read_in_the_words_of_python(text, meant):
    assert parse_interventions(text) == (meant if isinstance(meant, Compose) else Compose((meant,)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            r"^'' is no intervention; write one of delete, keep, .*: \"delete 3; swap 7 8\"\.$",
        ),
        ("delete 3;", r"^'' is no intervention; write one of delete, "),
        ("remove 3", r"^'remove 3' is no intervention; write one of delete, "),
        ("delete", r"^'' is no list of blocks: "),
        ("delete 3 4", r"^'3 4' is no list of blocks: "),
        ("swap 3", r"^'swap 3' cannot be read; write swap BLOCK BLOCK\.$"),
        ("swap 3 4 5", r"^'swap 3 4 5' cannot be read; write swap BLOCK BLOCK\.$"),
        ("swap 3,4 5", r"^'swap 3,4 5' cannot be read; write swap BLOCK BLOCK\.$"),
        ("scale 3 half", r"^'scale 3 half' cannot be read; write scale BLOCK FACTOR\.$"),
        ("scale 3 inf", r"^A branch is scaled by a finite factor; got inf\.$"),
        ("repeat 3 1.5", r"^'repeat 3 1\.5' cannot be read; write repeat BLOCK TIMES\.$"),
        ("repeat 3 0", r"^A block is repeated a whole number of times, at least once; got 0\.$"),
        ("reorder 1,a", r"^'reorder 1,a' cannot be read; write reorder ORDER, such as 1,0,2\.$"),
        (
            "replace 3",
            r"^'replace 3' cannot be read; write replace BLOCK mean\|resample\|perturbed\|",
        ),
        (
            "replace 3 median",
            r"^A branch is replaced by mean, resample, perturbed, constant or zero; got 'median'",
        ),
        (
            "replace 3 mean 1",
            r"^A seed, from 0, is that of resample, perturbed or constant; got 1 with mean\.$",
        ),
        ("parallel 3 4 max", r"^Parallel branches are combined by sum or mean; got 'max'\.$"),
    ],
)
def test_words_that_cannot_be_read_are_refused_in_words(text, message):
    with pytest.raises(InterventionError, match=message):
        parse_interventions(text)


def test_factors_may_not_overflow_together():
    message = r"^A branch is scaled by a finite factor; 1e\+200 times 1e\+200 is inf\.$"
    with pytest.raises(InterventionError, match=message):
        (Scale(0, 1e200) | Scale(0, 1e200)).apply(UNCHANGED)


@given(st.lists(anything, max_size=3), st.integers(0, 9))
def test_what_is_done_with_a_block_is_written_as_it_would_be_done(parts, block):
    on_one = [part for part in parts if isinstance(part, Scale | Replace | DropShortcut)]
    moved = [dataclasses.replace(part, block=0) for part in on_one]
    try:
        done = Compose(tuple(moved)).apply(Arrangement.of(["a"])).treatments[0]
    except InterventionError as error:
        assert re.fullmatch(r"A branch is scaled by .*; \S+ times \S+ is -?inf\.", str(error))  # noqa: PT017
        return
    words = done.written(block)
    assert bool(words) == (done != Treatment())
    chain = Arrangement.of(list("abcdefghij"))
    if words:
        assert parse_interventions(words).apply(chain).treatments[block] == done


@pytest.mark.parametrize(
    ("intervention", "treatment"),
    [
        (Delete(0) | Scale(0, 3), Treatment("zero")),
        (Scale(0, 3) | Delete(0), Treatment("zero")),
        (Scale(0, 3) | Scale(0, 0.5), Treatment(factor=1.5)),
        (Scale(0, 3) | Replace(0, "mean"), Treatment("mean")),
        (Replace(0, "mean") | Scale(0, 3), Treatment("mean", 3.0)),
        (Delete(0) | Replace(0, "resample", 2), Treatment("resample", seed=2)),
        (Replace(0, "resample", 2) | Replace(0, "mean"), Treatment("mean")),
        (DropShortcut(0) | Scale(0, 3), Treatment(factor=3.0, shortcut=False)),
        (DropShortcut(0) | Replace(0, "mean"), Treatment("mean", shortcut=False)),
        (Scale("layer?.0", 2), Treatment(factor=2.0)),
        (Keep(1), Treatment("zero")),
    ],
    ids=str,
)
def test_what_is_done_with_a_branch_builds_on_what_was_done(intervention, treatment):
    assert intervention.apply(UNCHANGED).treatments[0] == treatment


@pytest.mark.parametrize(
    ("intervention", "places"),
    [
        (Reverse(1, 3), [(0,), (3,), (2,), (1,), (4,), (5,)]),
        (Reverse(2, 2), [(0,), (1,), (2,), (3,), (4,), (5,)]),
        (Swap(1, 3) | Reverse(3, 4), [(0,), (4,), (1,), (2,), (3,), (5,)]),
        (MiddleRepeat(1, 5), [(0,), (3,), (3,), (3,), (3,), (3,)]),
        (MiddleRepeat(1, 4), [(0,), (2,), (2,), (2,), (2,), (5,)]),
        (MiddleRepeat(0, 2) | Swap(1, 5), [(5,), (5,), (5,), (3,), (4,), (1,)]),
        (Parallel(1, 3), [(0,), (1, 2, 3), (), (), (4,), (5,)]),
        (Parallel(1, 2) | Parallel(2, 4), [(0,), (1, 2, 3, 4), (), (), (), (5,)]),
        (Parallel(1, 3) | Swap(2, 5), [(0,), (1, 5, 3), (), (), (4,), (2,)]),
        (Parallel(1, 3) | Reverse(0, 4), [(4,), (), (), (1, 2, 3), (0,), (5,)]),
        (Parallel(1, 3) | MiddleRepeat(0, 4), [(2,), (2, 2, 2), (), (), (2,), (5,)]),
        (Parallel(1, 3) | Reorder(range(6)), [(0,), (1,), (2,), (3,), (4,), (5,)]),
        (Reverse("layer1.1", "layer2.1"), [(0,), (3,), (2,), (1,), (4,), (5,)]),
    ],
    ids=str,
)
def test_blocks_stand_where_they_are_put(intervention, places):
    result = intervention.apply(UNCHANGED)
    assert [place.blocks for place in result.places] == places
    assert result.treatments == UNCHANGED.treatments


def test_a_block_is_repeated_as_often_as_is_said_together_and_wherever_it_goes():
    result = (Repeat(1, 2) | Swap(1, 3) | Repeat("layer1.*", 3)).apply(UNCHANGED)
    assert result.times == (3, 6, 1, 1, 1, 1)
    assert result.order == (0, 3, 2, 1, 4, 5)


def test_interventions_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Delete(1).blocks = (2,)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((3,), {3}),
        (("layer2.1",), {3}),
        (("layer2.*",), {2, 3}),
        (("*.0", 1), {0, 1, 2, 4}),
        (("layer[13].1",), {1, 5}),
        ((np.int64(4), np.uint8(2)), {2, 4}),
        ((), set()),
    ],
)
def test_blocks_are_named_by_index_or_path(names, found):
    assert Delete(*names).apply(UNCHANGED).deleted == found


def test_a_path_with_one_match_names_the_blocks_of_a_swap():
    assert Swap("layer1.0", "*3.1").apply(UNCHANGED).order == (5, 1, 2, 3, 4, 0)


@pytest.mark.parametrize(
    ("intervention", "message"),
    [
        (Delete(6), r"There is no block 6: this chain has 6 blocks, 0 to 5\."),
        (Keep(-1), r"There is no block -1: this chain has 6 blocks, 0 to 5\."),
        (
            Delete("layer9.*"),
            r"No block is called 'layer9\.\*'; the blocks of this chain are called "
            r"layer1\.0, layer1\.1, layer2\.0, …",
        ),
        (Reverse(3, 1), r"^Block 3 runs after block 1 here; name first the one that runs first\.$"),
        (
            Reverse(1, 3) | Parallel(1, 3),
            r"^Block 1 runs after block 3 here; name first the one that runs first\.$",
        ),
        (
            MiddleRepeat(0, 2) | Delete(0),
            r"^Block 0 \(layer1\.0\) does not run any more: another block has taken its place\.$",
        ),
        (MiddleRepeat(0, 2) | Keep(2), r"^Block 2 \(layer2\.0\) does not run any more"),
        (MiddleRepeat(0, 2) | Swap(3, 2), r"^Block 2 \(layer2\.0\) does not run any more"),
        (MiddleRepeat(0, 2) | Repeat(0, 2), r"^Block 0 \(layer1\.0\) does not run any more"),
        (
            MiddleRepeat(0, 2) | Reverse(1, 4),
            r"^Block 1 \(layer1\.1\) runs in 3 places here, where one is needed\.$",
        ),
        (Swap("layer1.*", 0), r"'layer1\.\*' means 2 blocks \(0-1\), where one is needed\."),
        (Delete(1.5), r"A block is named by its index or its module path; 1\.5 is neither\."),
        (Delete([1, 2]), r"its index or its module path; \[1, 2\] is neither\."),
        (Reorder([0, 1]), r"Reorder needs each block from 0 to 5 exactly once; got \[0, 1\]\."),
        (Reorder([0, 0, 2, 3, 4, 5]), r"exactly once; got \[0, 0, 2, 3, 4, 5\]\."),
    ],
)
def test_interventions_that_do_not_fit_are_refused_in_words(intervention, message):
    with pytest.raises(InterventionError, match=message):
        intervention.apply(UNCHANGED)


@pytest.mark.parametrize("part", [3, "layer1.0", Delete, None])
def test_only_interventions_are_composed(part):
    message = r" is no intervention; write what to do with it, such as Delete\(3\)\.$"
    with pytest.raises(InterventionError, match=message):
        Compose((part,))
    with pytest.raises(InterventionError, match=message):
        Delete(1) | part


@given(st.sets(st.integers(0, 200)))
def test_formatted_blocks_are_read_back(found):
    text = format_blocks(list(found))
    assert not found or parse_blocks(text) == tuple(sorted(found))
    assert bool(found) == bool(text)


item = st.one_of(
    st.integers(0, 99).map(lambda i: (str(i), [i])),
    st.tuples(st.integers(0, 50), st.integers(0, 9)).map(
        lambda pair: (f"{pair[0]}-{sum(pair)}", list(range(pair[0], sum(pair) + 1)))
    ),
    path.map(lambda name: (name, [name])),
)


@given(st.lists(item, min_size=1), st.sampled_from([",", ", ", " ,"]))
def test_lists_of_blocks_are_read_in_the_order_written(items, separator):
    text = separator.join(written for written, _ in items)
    assert parse_blocks(text) == tuple(name for _, names in items for name in names)


@pytest.mark.parametrize("text", ["", "3,", ",3", "3,,4", "-1", "3-", "1.5", "3 4", "7-9-11"])
def test_lists_that_cannot_be_read_are_refused_in_words(text):
    with pytest.raises(InterventionError, match=r"is no list of blocks: .* is neither an index, a"):
        parse_blocks(text)


def test_ranges_that_run_backwards_are_refused_in_words():
    with pytest.raises(InterventionError, match=r"^The range 9-7 runs backwards; write 7-9\.$"):
        parse_blocks("1,9-7")


def test_an_intervention_of_ones_own_composes():
    class Reverse(Intervention):
        def apply(self, arrangement):
            return dataclasses.replace(arrangement, places=arrangement.places[::-1])

    assert (Delete(0) | Reverse()).apply(UNCHANGED).order == (5, 4, 3, 2, 1, 0)


def test_what_a_link_parts_cannot_run_side_by_side():
    parted = Arrangement.of(NAMES, links={0, 2})
    message = (
        r"^Blocks 1 to 3 cannot read the same input: something that belongs to none of them runs "
        r"before position 2\.$"
    )
    with pytest.raises(InterventionError, match=message):
        Parallel(1, 3).apply(parted)
    assert Parallel(2, 5).apply(parted).places[2].blocks == (2, 3, 4, 5)
    assert Parallel(0, 1).apply(parted).places[0].blocks == (0, 1)
