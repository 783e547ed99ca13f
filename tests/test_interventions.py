"""Interventions against what they mean for a list of labels, whichever chain they are bound to."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble_view import Compose, Delete, Keep, Reorder, Swap
from ensemble_view.errors import InterventionError
from ensemble_view.interventions import (
    Arrangement,
    Intervention,
    format_blocks,
    parse_blocks,
)

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


@given(st.lists(simple, max_size=3))
def test_interventions_are_values_that_print_as_they_are_written(parts):
    composed = Compose(tuple(parts))
    names = {kind.__name__: kind for kind in (Compose, Delete, Keep, Reorder, Swap)}
    again = eval(repr(composed), names)
    assert again == composed or Compose((again,)) == composed
    assert len({composed, Compose(tuple(parts))}) == 1


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


path = st.from_regex(r"[a-z*][a-z0-9_.*]{0,8}", fullmatch=True)
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
