"""Results: derived tables, files that come back equal, words, and errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.paired import (
    PairedCounts,
    mcnemar_test,
    normalised_drop,
    tango_interval,
)
from ensemble_view.studies.lesion import result as results_module
from ensemble_view.studies.lesion.result import LesionResult
from ensemble_view.studies.lesion.words import text_table
from ensemble_view.study.files import ResultError, plain
from ensemble_view.study.lesions import NotDeletable
from ensemble_view.study.outcomes import Outcomes
from simulated_results import simulated_result

ISSUE_COLUMNS = {
    "blocks", "count", "accuracy", "drop", "drop_low", "drop_high", "p_value", "p_adjusted",
    "normalised_drop", "n",
}  # fmt: skip
ISSUE_KEYS = {"baseline", "model", "data", "versions", "seed", "command", "cost", "seconds"}


def test_every_row_says_what_counting_by_hand_says() -> None:
    result = simulated_result(blocks=6, downsampling=(2,), examples=120, seed=8)
    frame, outcomes = result.frame, result.outcomes
    majority = max(np.bincount(outcomes.labels)) / 120
    for index, row in frame.iterrows():
        before, after = outcomes.baseline_correct, outcomes.correct[index]
        pairs = list(zip(before.tolist(), after.tolist(), strict=True))
        lost, gained = pairs.count((True, False)), pairs.count((False, True))
        drop = tango_interval(lost, gained, 120)
        counts = PairedCounts(pairs.count((True, True)), lost, gained, pairs.count((False, False)))
        share = normalised_drop(counts, majority)
        assert row["accuracy"] == sum(after) / 120
        assert row["drop"] == (lost - gained) / 120
        assert (row["drop_low"], row["drop_high"]) == (drop.low, drop.high)
        assert row["p_value"] == mcnemar_test(lost, gained).p_value
        assert row["normalised_drop_high"] == share.high
        assert row["loss_change"] == pytest.approx(
            np.mean([float(x) for x in outcomes.loss[index]])
            - np.mean([float(x) for x in outcomes.baseline_loss]),
            rel=1e-6,
        )
        assert row["agreement"] == np.mean(outcomes.agreement[index])
        assert (row["lost"], row["gained"], row["n"]) == (lost, gained, 120)
    assert frame["p_adjusted"].to_numpy() == pytest.approx(holm_by_hand(frame["p_value"]))


def holm_by_hand(p: pd.Series) -> list[float]:
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, (len(p) - rank) * p[index])
        adjusted[index] = min(1.0, largest)
    return adjusted


def test_chance_is_the_largest_class_share_of_the_labels() -> None:
    result = simulated_result(blocks=2, downsampling=(), examples=10)
    labels = np.array([3, 3, 3, 3, 1, 1, 0, 7, 7, 7])
    outcomes = dataclasses.replace(result.outcomes, labels=labels)
    assert dataclasses.replace(result, outcomes=outcomes).baseline.chance == 0.4


def test_saved_result_comes_back_equal(tmp_path: Path) -> None:
    result = simulated_result(interrupted=True)
    result.save(tmp_path / "new" / "folder")
    loaded = LesionResult.load(tmp_path / "new" / "folder")
    assert loaded == result
    assert loaded.frame.equals(result.frame)
    assert repr(loaded) == repr(result)
    assert loaded.provenance.model["shape"] == [3, 32, 32]


def test_result_of_a_plain_net_comes_back_equal(tmp_path: Path) -> None:
    result = simulated_result(blocks=9, downsampling=(3, 6), shape="fixed", damage=0.9)
    result.save(tmp_path)
    assert LesionResult.load(tmp_path) == result
    assert result.not_deletable[0] == NotDeletable(
        3, "features.3", "changes the shape and has no shortcut"
    )


def test_results_of_different_outcomes_differ() -> None:
    result = simulated_result()
    flipped = result.outcomes.correct.copy()
    flipped[0, 0] = ~flipped[0, 0]
    other = dataclasses.replace(result.outcomes, correct=flipped)
    assert dataclasses.replace(result, outcomes=other) != result
    assert result != "a result"


def test_folder_holds_what_the_command_line_promises(tmp_path: Path) -> None:
    result = simulated_result()
    result.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "lesion.csv", "results.json", "outcomes.npz", "lesion.pdf", "lesion.png",
    }  # fmt: skip
    table = pd.read_csv(tmp_path / "lesion.csv", dtype={"blocks": str})
    assert set(table.columns) >= ISSUE_COLUMNS
    assert table["drop_high"].to_list() == result.frame["drop_high"].to_list()
    content = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert content.keys() >= ISSUE_KEYS
    assert content["baseline"].keys() >= {"accuracy", "chance", "n"}
    assert content["cost"] == {
        "block_evaluations": 378, "naive_block_evaluations": 729, "batches": 7,
    }  # fmt: skip
    assert content.pop("digests").keys() == {path.name for path in tmp_path.iterdir()}
    assert content == result.to_json()
    with np.load(tmp_path / "outcomes.npz") as outcomes:
        assert np.array_equal(outcomes["correct"], result.outcomes.correct)


def test_equal_results_give_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        simulated_result(seed=4).save(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_json_has_null_where_the_normalised_drop_is_undefined() -> None:
    result = simulated_result(blocks=3, downsampling=(), accuracy=0.1, examples=100)
    text = json.dumps(result.to_json(), allow_nan=False)
    assert json.loads(text)["lesions"][0]["normalised_drop"] is None
    assert "cannot be told from chance (10.0%)" in result.summary
    assert len(repr(result)) > 0


def test_provenance_is_kept_plain() -> None:
    with pytest.raises(ResultError, match="holds a set, which JSON cannot hold"):
        dataclasses.replace(simulated_result().provenance, model={"layers": {1, 2}})
    assert plain({1: (np.float32(0.5), Path("a"), float("inf"))}) == {"1": [0.5, "a", None]}


def edit_json(folder: Path, **changes: object) -> None:
    path = folder / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def save_one_array(folder: Path) -> None:
    with (folder / "outcomes.npz").open("wb") as file:
        np.save(file, np.arange(3))


BROKEN = [
    (lambda f: (f / "results.json").unlink(), "There is no results.json in .*; expected a folder"),
    (
        lambda f: (f / "results.json").write_text("{"),
        r"results.json cannot be read \(it is no JSON: Expecting",
    ),
    (lambda f: (f / "results.json").write_text("[1]"), "of kind None; expected 'lesion'"),
    (lambda f: edit_json(f, kind="pairs"), "holds a result of kind 'pairs'; expected 'lesion'"),
    (lambda f: edit_json(f, version=9), "is of version 9; expected version 1; load it with"),
    (lambda f: edit_json(f, lesions=[]), "do not fit together .There are 0 lesions"),
    (lambda f: edit_json(f, cost={}), "do not fit together"),
    (lambda f: (f / "outcomes.npz").unlink(), "outcomes.npz cannot be read"),
    (lambda f: (f / "outcomes.npz").write_bytes(b"junk"), "outcomes.npz cannot be read"),
    (lambda f: (f / "outcomes.npz").write_bytes(b""), "outcomes.npz cannot be read"),
    (save_one_array, "outcomes.npz cannot be read"),
    (lambda f: np.savez(f / "outcomes.npz", labels=np.arange(3)), "outcomes.npz lacks the array"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN)
def test_damaged_folders_are_refused_in_one_sentence(
    tmp_path: Path, damage: object, message: str
) -> None:
    simulated_result(blocks=3, downsampling=(), examples=30).save(tmp_path)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(ResultError, match=message):
        LesionResult.load(tmp_path)


def test_truncated_outcomes_are_refused(tmp_path: Path) -> None:
    simulated_result(blocks=3, downsampling=(), examples=300).save(tmp_path)
    whole = (tmp_path / "outcomes.npz").read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "outcomes.npz").write_bytes(whole[:length])
        with pytest.raises(ResultError, match=r"outcomes\.npz"):
            LesionResult.load(tmp_path)


def test_unwritable_places_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("taken")
    result = simulated_result(blocks=3, downsampling=(), examples=30)
    with pytest.raises(ResultError, match=r"file cannot be written .* choose another one"):
        result.save(tmp_path / "file")
    (tmp_path / "out" / "lesion.png").mkdir(parents=True)
    with pytest.raises(ResultError, match=r"lesion\.png cannot be written"):
        result.save(tmp_path / "out")
    assert not (tmp_path / "out" / "results.json").exists()


def test_table_fits_eighty_columns() -> None:
    result = simulated_result(54, downsampling=(18, 36), examples=2000)
    lesions = [
        dataclasses.replace(lesion, names=("module.encoder.stages.2.blocks.17.residual",))
        for lesion in result.lesions
    ]
    lesions[5] = dataclasses.replace(lesions[5], label="0,2,4,6,8,10,12-29,40")
    lines = repr(dataclasses.replace(result, lesions=tuple(lesions))).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) > 54
    assert sum(line.lstrip().startswith(("18*", "36*")) for line in lines) == 2


def test_long_tables_leave_out_their_middle() -> None:
    frame = pd.concat([simulated_result().frame] * 10, ignore_index=True)
    lines = text_table(frame).splitlines()
    rows = [line for line in lines[1:] if line.split()[0].rstrip("*").isdigit()]
    (gap,) = (line for line in lines if "more, in .frame" in line)
    assert len(rows) + int(gap.split()[1]) == len(frame)
    assert len(lines) < 90


def test_html_escapes_names() -> None:
    result = simulated_result(blocks=3, downsampling=())
    lesion = dataclasses.replace(result.lesions[0], names=("<script>",))
    markup = dataclasses.replace(result, lesions=(lesion, *result.lesions[1:]))._repr_html_()
    assert "<script>" not in markup
    assert "&lt;script&gt;" in markup
    assert "<table" in markup


def test_summary_counts_the_classes_and_names_what_matters() -> None:
    result = simulated_result(27, damage=0.002, examples=2000)
    frame = result.frame
    keeping = frame[~frame["changes_shape"]]["size"]
    worse = frame[(frame["p_adjusted"] <= 0.05) & (frame["drop"] > 0)]["blocks"]
    text = result.summary
    assert f"Of 25 blocks that keep the shape: {(keeping == 'negligible').sum()} negligible" in text
    assert "of 2 blocks that change the shape" in text
    assert f"for {len(worse)} block" in text
    assert ", ".join(worse) in text
    assert "the best constant guess would reach 10.0%" in text
    assert "These statements concern this net on these 2,000 examples." in text


def test_summary_of_a_net_that_collapses() -> None:
    text = simulated_result(9, downsampling=(3, 6), shape="fixed", damage=0.95).summary
    assert "Of 7 blocks that keep the shape: 0 negligible, 0 small, 0 large, 7 ruinous, 0" in text
    assert "for all 7 blocks" in text
    assert "Not deletable: 2 of 9 blocks" in text


def test_summary_says_where_nothing_is_shown_and_where_accuracy_rises() -> None:
    result = simulated_result(3, downsampling=(), damage=0.0)
    assert "No deletion is shown to cost accuracy" in result.summary
    better = result.outcomes.correct.copy()
    better[1] = True
    outcomes = dataclasses.replace(result.outcomes, correct=better)
    assert (
        "It raises accuracy for 1 block: 1."
        in dataclasses.replace(result, outcomes=outcomes).summary
    )


def test_summary_speaks_of_sets_and_of_interruption() -> None:
    text = simulated_result(sets=((0, 1), (3, 4, 5)), interrupted=True).summary
    assert "2 sets of blocks that keep the shape" in text
    assert "the study was interrupted" in text


def with_outcomes(**changes: object) -> Outcomes:
    return dataclasses.replace(simulated_result(3, downsampling=()).outcomes, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(0, np.int64)}, r"labels have shape \(0,\)"),
        ({"loss": np.zeros((3, 5), np.float32)}, r"loss has shape \(3, 5\); expected \(3, 400\)"),
        ({"baseline_correct": np.zeros(7, bool)}, r"baseline_correct has shape \(7,\)"),
    ],
)
def test_outcomes_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        with_outcomes(**changes)


def test_lesions_and_outcomes_must_be_as_many() -> None:
    result = simulated_result()
    with pytest.raises(MeasurementError, match="26 lesions but outcomes of 27"):
        dataclasses.replace(result, lesions=result.lesions[1:])


def test_public_names_are_there() -> None:
    assert all(hasattr(results_module, name) for name in results_module.__all__)
