"""Results of language models and of a user's own measure: files, tables, words, figures."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from ensemble_view.errors import MeasurementError
from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.studies.lesion.base import LesionStudyResult
from ensemble_view.studies.lesion.language import LanguageResult
from ensemble_view.studies.lesion.own import MeasuredResult
from ensemble_view.studies.lesion.result import LesionResult
from ensemble_view.studies.lesion.sizes import SIZES
from ensemble_view.study.files import ResultError
from ensemble_view.study.outcomes import LanguageOutcomes, MeasuredOutcomes
from simulated_results import simulated_result

BLOCKS, SEQUENCES = 12, 60


def shared(result: LesionResult) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(LesionStudyResult))
    return {name: getattr(result, name) for name in names if name != "outcomes"}


def language_result(harm: float = 0.3, **changes: Any) -> LanguageResult:
    """Each block's deletion raises the loss by up to ``harm`` nats per token, the last most."""
    rng = np.random.default_rng(3)
    tokens = rng.integers(20, 400, SEQUENCES)
    loss = tokens * rng.normal(3, 0.2, SEQUENCES)
    correct = np.floor(0.4 * tokens)
    rise = harm * np.arange(BLOCKS)[:, None] / BLOCKS + rng.normal(0, 0.05, (BLOCKS, SEQUENCES))
    outcomes = LanguageOutcomes(
        correct=np.floor(correct * rng.uniform(0.8, 1, (BLOCKS, SEQUENCES))),
        loss=loss + tokens * rise,
        agreement=np.floor(0.7 * tokens) * np.ones((BLOCKS, 1)),
        divergence=tokens * np.abs(rise),
        baseline_correct=correct,
        baseline_loss=loss,
        commonest=np.floor(0.06 * tokens).astype(np.int64),
        tokens=tokens,
    )
    base = shared(simulated_result(BLOCKS, downsampling=()))
    return LanguageResult(**{**base, "outcomes": outcomes, **changes})


def measured_result(higher_is_better: bool = True, **changes: Any) -> MeasuredResult:
    rng = np.random.default_rng(4)
    baseline = rng.uniform(0.4, 0.9, SEQUENCES)
    sign = -1 if higher_is_better else 1
    harm = 0.03 * np.arange(BLOCKS)[:, None] + rng.normal(0, 0.02, (BLOCKS, SEQUENCES))
    outcomes = MeasuredOutcomes(values=baseline + sign * harm, baseline=baseline)
    base = shared(simulated_result(BLOCKS, downsampling=(4,)))
    made = {"measure": "IoU", "higher_is_better": higher_is_better}
    return MeasuredResult(**{**base, "outcomes": outcomes, **made, **changes})


RESULTS = {
    "language": language_result,
    "own measure": measured_result,
    "own error": lambda: measured_result(higher_is_better=False),
}
LANGUAGE_COLUMNS = {
    "accuracy", "drop", "drop_low", "drop_high", "loss", "loss_change", "loss_change_low",
    "loss_change_high", "perplexity", "perplexity_ratio", "perplexity_ratio_low",
    "perplexity_ratio_high", "divergence", "agreement", "p_value", "p_adjusted", "tokens",
    "sequences",
}  # fmt: skip


@pytest.fixture(params=RESULTS)
def result(request: pytest.FixtureRequest) -> Any:
    return RESULTS[request.param]()


def test_a_saved_result_comes_back_equal(tmp_path, result):
    out = tmp_path / "new" / "out"
    result.save(out)
    loaded = type(result).load(out)
    assert loaded == result
    assert loaded.frame.equals(result.frame)
    assert repr(loaded) == repr(result)
    assert {path.name for path in out.iterdir()} == {
        "lesion.csv", "results.json", "outcomes.npz", "lesion.pdf", "lesion.png",
    }  # fmt: skip
    content = json.loads((out / "results.json").read_text(), parse_constant=pytest.fail)
    assert content.pop("digests").keys() == {path.name for path in out.iterdir()}
    assert content == result.to_json()
    table = pd.read_csv(out / "lesion.csv", dtype={"blocks": str})
    assert table["p_adjusted"].to_list() == result.frame["p_adjusted"].to_list()
    result.save(tmp_path / "again")
    for path in out.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_a_result_is_loaded_by_its_own_class_only(tmp_path, result):
    result.save(tmp_path)
    with pytest.raises(ResultError, match=r"holds a result of kind '.*'; expected 'lesion'; load"):
        LesionResult.load(tmp_path)


def test_language_has_the_columns_and_the_baseline_that_it_should():
    result = language_result()
    assert set(result.frame.columns) >= LANGUAGE_COLUMNS
    assert set(result.to_json()["baseline"]) >= {
        "accuracy", "chance", "loss", "perplexity", "tokens", "sequences",
    }  # fmt: skip
    assert result.baseline.n == SEQUENCES


def test_a_perplexity_beyond_all_numbers_is_infinite_and_null_in_json():
    outcomes = language_result().outcomes
    outcomes = dataclasses.replace(outcomes, loss=outcomes.loss + 1000.0 * outcomes.tokens)
    result = language_result(outcomes=outcomes)
    assert np.isinf(result.frame["perplexity"]).all()
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert content["lesions"][0]["perplexity"] is None
    assert max(map(len, repr(result).splitlines())) <= 80


def test_one_sequence_has_a_value_but_no_interval():
    outcomes = language_result().outcomes
    one = LanguageOutcomes(**{name: a[..., :1] for name, a in outcomes.arrays.items()})
    result = language_result(outcomes=one)
    assert result.frame["loss_change"].notna().all()
    assert result.frame[["loss_change_low", "p_value", "p_adjusted"]].isna().all(axis=None)
    assert "No deletion is shown to raise the loss" in result.summary
    assert max(map(len, repr(result).splitlines())) <= 80


def test_tables_fit_eighty_columns_and_html_escapes(result):
    lesions = [
        dataclasses.replace(lesion, names=(f"model.<b>.decoder.layers.{'x' * 40}",))
        for lesion in result.lesions
    ]
    lesions[5] = dataclasses.replace(lesions[5], label="0,2,4,6,8,10,12-29,40")
    changed = dataclasses.replace(result, lesions=tuple(lesions))
    lines = repr(changed).splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) > BLOCKS
    assert "<b>" not in changed._repr_html_()
    assert "&lt;b&gt;" in changed._repr_html_()


def test_columns_of_the_table_stand_under_their_heads(result):
    head, first, *_ = repr(result).splitlines()
    assert head.index("p (Holm)") + 8 == len(first) == len(head)
    assert first.index("[") == head.index("simultaneous 95%")


def test_the_summary_of_a_language_model_names_what_matters():
    result = language_result()
    frame = result.frame
    worse = frame[(frame["p_adjusted"] <= 0.05) & (frame["loss_change"] > 0)]["blocks"]
    text = result.summary
    assert 0 < len(worse) < BLOCKS
    assert f"Deletion raises the loss (t test over sequences, Holm's correction over {BLOCKS}" in (
        text
    )
    assert f"for {len(worse)} blocks: {', '.join(worse)}; by size, " in text
    counts = [int((frame["size"] == size).sum()) for size in SIZES]
    assert sum(counts) == BLOCKS
    classes = ", ".join(f"{count} {size}" for count, size in zip(counts, SIZES, strict=True))
    assert f" blocks that keep the shape: {classes}" in text
    assert f"{result.baseline.tokens:,} next tokens in 60 sequences of cifar10" in text
    assert "the highest, after deleting 11, is" in text
    assert "No deletion is shown to raise" in language_result(harm=0).summary


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_summary_of_an_own_measure_names_what_matters(higher_is_better):
    result = measured_result(higher_is_better)
    direction = "higher" if higher_is_better else "lower"
    assert f"{direction} is better. Deletion worsens IoU (paired t test, Holm's" in result.summary
    assert (result.frame["worsening"].iloc[1:] > 0).all()


def test_outcomes_that_do_not_fit_are_refused():
    outcomes = language_result().outcomes
    with pytest.raises(MeasurementError, match=r"outcomes' commonest has shape \(3,\); expected"):
        dataclasses.replace(outcomes, commonest=np.zeros(3, np.int64))
    with pytest.raises(MeasurementError, match=r"^There are 11 lesions but outcomes of 12; expect"):
        dataclasses.replace(measured_result(), lesions=measured_result().lesions[1:])
    assert outcomes != dataclasses.replace(outcomes, loss=outcomes.loss + 1)


def drawn(axes: Axes) -> tuple[dict[float, float], dict[float, tuple[float, float]]]:
    """Markers and intervals by position."""
    points = {
        float(x): float(y)
        for line in axes.lines
        if line.get_marker() not in ("None", "")
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    ends = {
        float(segment[0][0]): (float(segment[0][1]), float(segment[1][1]))
        for collection in axes.collections
        if isinstance(collection, LineCollection)
        for segment in collection.get_segments()
    }
    return points, ends


def test_limits_of_a_language_model_are_where_the_paired_t_test_turns():
    """The ratio's limits by definition: values whose t test has the p-value of the level."""
    result = language_result()
    outcomes, alpha = result.outcomes, 0.05 / BLOCKS
    tokens, full = outcomes.tokens, outcomes.baseline_correct
    for index in (0, BLOCKS - 1):
        row, right = result.frame.iloc[index], outcomes.correct[index]
        above = full - result.baseline.chance * tokens
        for name, over, under in (
            ("normalised_drop", full - right, above),
            ("error_ratio", tokens - right, tokens - full),
        ):
            for end in ("low", "high"):
                own = over - row[f"{name}_{end}"] * under
                assert ratio_mean(own, tokens).p_value == pytest.approx(0.05, rel=1e-6)
                joint = over - row[f"{name}_simultaneous_{end}"] * under
                assert ratio_mean(joint, tokens).p_value == pytest.approx(alpha, rel=1e-6)


def test_an_own_measure_has_no_classes_and_says_why():
    result = measured_result()
    assert "size" not in result.frame
    assert "no scale of IoU is known on which a change is small" in result.summary
    assert "The largest worsening is that of block" in result.summary


def test_the_figure_of_a_language_model_shows_perplexities():
    result = language_result()
    frame, full = result.frame, result.baseline.perplexity
    (axes,) = result.plot().axes
    points, ends = drawn(axes)
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "Perplexity"
    for index, row in frame.iterrows():
        assert points[index] == pytest.approx(row["perplexity"])
        expected = [full * row[f"perplexity_ratio_simultaneous_{end}"] for end in ("low", "high")]
        assert ends[index] == pytest.approx(tuple(expected))
    (baseline,) = (line for line in axes.lines if list(line.get_xdata()) == [0, 1])
    assert float(baseline.get_ydata()[0]) == full


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_figure_of_an_own_measure_shows_it_the_way_it_runs(higher_is_better):
    result = measured_result(higher_is_better)
    (axes,) = result.plot().axes
    points, ends = drawn(axes)
    assert axes.get_ylabel() == "IoU"
    for index, row in result.frame.iterrows():
        low, high = ends[index]
        assert points[index] == pytest.approx(row["value"])
        assert low <= points[index] <= high
        ends_of = [row[f"worsening_simultaneous_{end}"] for end in ("low", "high")]
        assert high - low == pytest.approx(ends_of[1] - ends_of[0])


@pytest.mark.parametrize("harm", [0.01, 0.3, 30.0])
def test_axes_have_numbers_over_decades_and_within_one(tmp_path, harm):
    figure = language_result(harm=harm).plot()
    figure.savefig(tmp_path / "lesion.png")
    (axes,) = figure.axes
    low, high = axes.get_ylim()
    labels = [t for t in axes.get_yticklabels() if low <= t.get_position()[1] <= high]
    shown = [label.get_text() for label in labels if label.get_text()]
    assert len(set(shown)) == len(shown) >= 2


def test_sets_of_blocks_are_named_and_what_cannot_be_deleted_is_said():
    base = shared(simulated_result(sets=((0, 1), (3, 4, 5))))
    rng = np.random.default_rng(0)
    full = rng.uniform(0.4, 0.9, SEQUENCES)
    harm = np.array([[0.0], [0.3]]) + rng.normal(0, 0.02, (2, SEQUENCES))
    harm[0] -= harm[0].mean()
    result = MeasuredResult(**{**base, "outcomes": MeasuredOutcomes(full - harm, full)})
    assert "for 1 set of blocks: 3,4,5." in result.summary
    assert result.plot().axes[0].get_xlabel() == "Deleted blocks"
    fixed = shared(simulated_result(13, downsampling=(4,), shape="fixed"))
    assert "Not deletable: 1 of 13 blocks." in measured_result(**fixed).summary
