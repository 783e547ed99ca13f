"""One partition of the lesions: it adds up, never overlaps, and names what it does not decide."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble_view.statistics.paired import PairedCounts
from ensemble_view.statistics.simultaneous import adjusted_level, error_ratio, share_limits
from ensemble_view.studies.lesion.sizes import SIZES, definition, size_of
from simulated_results import simulated_result

LIMITS = st.floats(-3, 3) | st.sampled_from([0.02, 0.1, 0.5, np.nan])


@given(low=LIMITS, width=st.floats(0, 3), ratio=st.floats(0, 10) | st.just(np.inf))
def test_every_interval_is_in_exactly_one_class(low, width, ratio):
    high = low + width
    of_size = {
        "negligible": high <= 0.02 and ratio <= 1.25,
        "small": high <= 0.10 and not (high <= 0.02 and ratio <= 1.25),
        "large": 0.10 < low < 0.50,
        "ruinous": low >= 0.50,
        "undecided": not high <= 0.10 and not low > 0.10,
    }
    assert [size for size in SIZES if of_size[size]] == [size_of(low, high, ratio)]


def test_errors_of_11_per_cent_in_place_of_2_are_not_negligible():
    """However many examples there are: the share of the accuracy alone would not tell."""
    for n in (1_000, 100_000):
        lost = round(0.086 * n)
        counts = PairedCounts(n - round(0.11 * n), lost, 0, round(0.11 * n) - lost)
        level = adjusted_level(0.95, 54)
        share, ratio = share_limits(counts, 0.1, level), error_ratio(counts, level)
        assert size_of(share.low, share.high, ratio.high) in ("small", "undecided")
        assert ratio.low > 2


def test_few_errors_that_double_are_not_negligible():
    counts = PairedCounts(9_800, 100, 0, 100)
    level = adjusted_level(0.95, 54)
    share, ratio = share_limits(counts, 0.1, level), error_ratio(counts, level)
    assert share.high < 0.02
    assert size_of(share.low, share.high, ratio.high) == "small"


@pytest.mark.parametrize(
    ("damage", "examples", "accuracy"),
    [(0.0, 400, 0.83), (0.002, 2000, 0.83), (0.05, 400, 0.9), (0.3, 2000, 0.9), (0.95, 400, 0.8)],
)
def test_the_classes_in_the_words_add_up_to_the_blocks(damage, examples, accuracy):
    result = simulated_result(27, damage=damage, examples=examples, accuracy=accuracy)
    said = re.findall(
        r"of (\d+) blocks? that (?:keeps?|changes?) the shape: (\d+) negligible, (\d+) small, "
        r"(\d+) large, (\d+) ruinous, (\d+) undecided",
        result.summary,
        re.IGNORECASE,
    )
    assert [int(total) for total, *_ in said] == [25, 2]
    for total, *classes in said:
        assert sum(map(int, classes)) == int(total)
    counts = result.frame["size"].value_counts()
    for size, *each in zip(SIZES, *(classes for _, *classes in said), strict=True):
        assert sum(map(int, each)) == counts.get(size, 0)


def test_what_is_significant_is_said_with_its_size_and_the_largest_is_named():
    result = simulated_result(27, damage=0.002, examples=2000)
    frame, text = result.frame, result.summary
    worse = frame[(frame["p_adjusted"] <= 0.05) & (frame["drop"] > 0)]
    assert f"for {len(worse)} blocks: {', '.join(worse['blocks'])}; by size, 2 small." in text
    worst = frame.loc[frame["drop"].idxmax()]
    assert f"The largest drop is that of block {worst['blocks']} ({worst['names']})" in text
    assert f"{100 * worst['drop']:+.1f} accuracy points" in text
    assert f"{worst['error_ratio']:.3g} times as high" in text


def test_where_the_full_net_is_at_chance_all_are_undecided():
    result = simulated_result(3, downsampling=(), accuracy=0.1, examples=100)
    assert set(result.frame["size"]) == {"undecided"}
    assert "cannot be told from chance (10.0%), so that no deletion" in result.summary
    assert "all 3 are undecided" in result.summary


def test_a_net_without_an_error_has_no_negligible_lesion():
    result = simulated_result(3, downsampling=(), accuracy=1.0, damage=0.0, examples=5000)
    assert set(result.frame["size"]) == {"small"}
    assert result.frame["error_ratio"].isna().all()
    assert (
        "not even a deletion that changes no answer counts as negligible: the full net makes"
        in (result.summary)
    )


def test_nothing_is_said_of_negligible_where_it_can_be_shown():
    assert "not even" not in definition(0.95, 27, "deletion", 1.1, 0.01)
    assert "its error may be 1.55 times as high." in definition(0.95, 54, "deletion", 1.551, 0.01)
    assert "it may cost 2.50%." in definition(0.95, 1, "intervention", 1.1, 0.025)
    assert "not even an intervention that" in definition(0.95, 1, "intervention", 1.1, 0.025)


def test_more_lesions_widen_the_simultaneous_limits_only():
    one, many = (simulated_result(blocks, downsampling=(), seed=3) for blocks in (1, 27))
    for result in (one, many):
        frame = result.frame
        assert (frame["drop_simultaneous_low"] <= frame["drop"]).all()
        assert (frame["drop_simultaneous_high"] >= frame["drop"]).all()
    outcomes = dataclasses.replace(
        many.outcomes,
        **{
            name: getattr(many.outcomes, name)[:1]
            for name in ("correct", "loss", "agreement", "divergence")
        },
    )
    alone = dataclasses.replace(many, lesions=many.lesions[:1], outcomes=outcomes)
    first, single = many.frame.iloc[0], alone.frame.iloc[0]
    for name in ("drop", "normalised_drop", "error_ratio"):
        assert first[f"{name}_low"] == single[f"{name}_low"]
        assert first[f"{name}_simultaneous_low"] < single[f"{name}_simultaneous_low"]
        assert first[f"{name}_simultaneous_high"] > single[f"{name}_simultaneous_high"]
    assert "simultaneous 95%" in many.table
    assert "95% interval" in alone.table


def test_an_empty_column_of_sizes_is_no_class():
    assert size_of(float("nan"), float("nan"), float("nan")) == "undecided"
    assert pd.Series(SIZES).is_unique
