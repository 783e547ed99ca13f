"""The comparison of committed tables with those made anew tells noise from change."""

from __future__ import annotations

from pathlib import Path

import pytest
import reproduced


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(["net,value,seconds", *rows, ""]))
    return path


def test_equal_tables_and_other_times_are_reproduced(tmp_path):
    one, other = table(tmp_path / "a.csv", "x,0.5,1"), table(tmp_path / "b.csv", "x,0.5,9")
    small: list[float] = []
    assert list(reproduced.differences(one, other, small)) == []
    assert small == []


def test_last_digits_are_counted_and_changes_are_named(tmp_path):
    one = table(tmp_path / "a.csv", "x,0.5,1", "y,0.25,1", "z,nan,1")
    other = table(tmp_path / "b.csv", "x,0.50000000001,1", "y,0.26,1", "z,nan,1")
    small: list[float] = []
    assert list(reproduced.differences(one, other, small)) == [
        "a.csv, row 1, value: 0.26 instead of 0.25"
    ]
    assert small == [pytest.approx(1e-11)]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["x,0.5,1", "y,1,1"], "a.csv has 2 rows instead of 1"),
        (["w,0.5,1"], "a.csv, row 0, net: w instead of x"),
        (["x,large,1"], "a.csv, row 0, value: large instead of 0.5"),
    ],
)
def test_other_rows_and_words_are_changes(tmp_path, rows, said):
    one, other = table(tmp_path / "a.csv", "x,0.5,1"), table(tmp_path / "b.csv", *rows)
    assert list(reproduced.differences(one, other, [])) == [said]


def test_a_table_that_was_not_written_is_a_change(tmp_path):
    one = table(tmp_path / "a.csv", "x,0.5,1")
    assert list(reproduced.differences(one, tmp_path / "b.csv", [])) == ["a.csv was not written"]
