"""Language models: measures, padding, lengths, and the study from text to result."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ensemble_view.measures.language
from ensemble_view import Block, Chain, Compose, Delete, Engine, TextData, edited, lesion, unravel
from ensemble_view.core.plan import bind
from ensemble_view.data.text_sources import windows
from ensemble_view.errors import DataError, DiscoveryError, MeasurementError
from ensemble_view.measures.language import IGNORED, TOTALS, Language
from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.studies.lesion.language import LanguageResult
from ensemble_view.studies.lesion.study import LesionStudy
from ensemble_view.study.study import prepare
from language_nets import (
    LONGEST,
    VOCABULARY,
    DeeperWhenLong,
    OwnNet,
    own_net,
    sequences,
    small_gpt2,
    sums_by_hand,
    without,
)
from state import unchanged

LENGTHS = (3, 40, 16, 17, 2, 64, 33, 9)


def text(*lengths: int, vocabulary: int = VOCABULARY) -> TextData:
    return windows("drawn", sequences(*lengths, vocabulary=vocabulary), LONGEST, "drawn")


@pytest.fixture(scope="module")
def gpt2() -> Any:
    pytest.importorskip("transformers", reason="needs the extra transformers")
    return small_gpt2()


@pytest.fixture(scope="module")
def studied(gpt2) -> LanguageResult:
    with unchanged(gpt2):
        return lesion(gpt2, text(*LENGTHS), batch_size=2)


def test_every_sum_is_that_of_the_sequence_alone_in_loops(gpt2, studied):
    """Padding, masks, buckets and the engine against copies with zeroed output projections."""
    outcomes = studied.outcomes
    for column, tokens in enumerate(sequences(*LENGTHS)):
        full = sums_by_hand(gpt2, gpt2, tokens)
        assert outcomes.tokens[column] == full["tokens"] == len(tokens) - 1
        assert outcomes.baseline_correct[column] == full["correct"]
        assert outcomes.baseline_loss[column] == pytest.approx(full["loss"], rel=1e-9)
        for row in range(3):
            expected = sums_by_hand(without(gpt2, [row]), gpt2, tokens)
            for name in TOTALS:
                found = getattr(outcomes, name)[row, column]
                assert found == pytest.approx(expected[name], rel=1e-8, abs=1e-10), (name, column)
    assert np.abs(outcomes.loss - outcomes.baseline_loss).min() > 1e-3


def test_rows_are_ratios_over_sequences(studied):
    outcomes, tokens = studied.outcomes, studied.outcomes.tokens
    share = np.bincount(np.concatenate([s[1:] for s in sequences(*LENGTHS)])).max() / tokens.sum()
    assert studied.baseline.chance == pytest.approx(share)
    assert studied.baseline.perplexity == pytest.approx(
        np.exp(outcomes.baseline_loss.sum() / tokens.sum())
    )
    for index, row in studied.frame.iterrows():
        drop = ratio_mean(outcomes.baseline_correct - outcomes.correct[index], tokens)
        change = ratio_mean(outcomes.loss[index] - outcomes.baseline_loss, tokens)
        assert (row["drop"], row["drop_low"], row["drop_high"]) == (drop.value, drop.low, drop.high)
        assert (row["loss_change_low"], row["p_value"]) == (change.low, change.p_value)
        assert row["loss"] == pytest.approx(studied.baseline.loss + row["loss_change"])
        assert row["perplexity"] == pytest.approx(
            studied.baseline.perplexity * row["perplexity_ratio"]
        )
        assert np.log(row["perplexity_ratio_high"]) == pytest.approx(change.high)
        assert (row["tokens"], row["sequences"]) == (tokens.sum(), len(LENGTHS))
        assert row["divergence"] == pytest.approx(outcomes.divergence[index].sum() / tokens.sum())


def test_the_engine_equals_the_hooks_on_padded_batches(gpt2):
    language = Language()
    for portion in text(*LENGTHS).portions():
        ((inputs, labels),) = portion.data.batches(8)
        chain = unravel(gpt2, inputs)
        interventions = [Compose(), Delete(1), Delete(0, 2)]
        engine = Engine(chain, [bind(i, chain.outline) for i in interventions], measure=language)
        found = engine.measure([(inputs, labels)]).outcomes
        with torch.no_grad():
            reference = language.reference(gpt2(**inputs).logits, labels)
            for row, intervention in enumerate(interventions):
                with edited(chain, intervention):
                    expected = language.rows(gpt2(**inputs).logits, reference)
                for name, values in zip(TOTALS, expected, strict=False):
                    np.testing.assert_allclose(found[name][row], values, rtol=1e-9, atol=1e-10)


def test_neither_batch_size_nor_company_matters(gpt2, studied):
    whole = lesion(gpt2, text(*LENGTHS), batch_size=8)
    np.testing.assert_allclose(whole.outcomes.loss, studied.outcomes.loss, rtol=1e-10)
    assert studied.provenance.batch_size == 2
    assert (
        whole.provenance.batch_size == 3
    )  # of the length of most tokens, of which there are three


def test_a_net_that_takes_tokens_only_is_measured_on_bytes(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("the quick brown fox jumps over the lazy dog: ä\n" * 2, encoding="utf-8")
    model = own_net()
    with unchanged(model):
        result = lesion(model, str(file), length=32, blocks="0")
    tokens = np.frombuffer(file.read_bytes(), np.uint8).astype(np.int64)
    parts = [tokens[start : start + 32] for start in range(0, len(tokens), 32)]
    twin = own_net()
    twin.blocks[0] = torch.nn.Identity()
    for column, part in enumerate(parts):
        expected = sums_by_hand(twin, model, part)
        for name in TOTALS:
            assert getattr(result.outcomes, name)[0, column] == pytest.approx(expected[name])
    assert result.provenance.data["tokenizer"] == "bytes"


def test_tokens_that_are_left_out_do_not_count(gpt2):
    tokens = sequences(20)[0]
    labels = tokens.copy()
    labels[:7] = IGNORED
    batch = {
        "input_ids": torch.from_numpy(tokens)[None].repeat(2, 1),
        "labels": torch.from_numpy(labels)[None].repeat(2, 1),
    }
    result = lesion(gpt2, batch, blocks="1")
    expected = sums_by_hand(without(gpt2, [1]), gpt2, tokens, (labels != IGNORED).tolist())
    assert result.outcomes.tokens.tolist() == [13, 13]
    assert result.outcomes.loss[0] == pytest.approx([expected["loss"]] * 2)


@given(st.integers(1, 5), st.integers(2, 6), st.integers(0, 2**16), st.sampled_from([1, 2**24]))
def test_measures_follow_their_definitions_whatever_the_chunks(count, width, seed, chunk):
    generator = torch.Generator().manual_seed(seed)
    full, mine = torch.randn(2, count, width, 7, generator=generator, dtype=torch.float64)
    labels = torch.randint(7, (count, width), generator=generator)
    labels[torch.rand(count, width, generator=generator) < 0.3] = IGNORED
    # What is predicted by padding counts for nothing, finite or not.
    mine[:, -1] = float("nan")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(ensemble_view.measures.language, "_LARGEST_CHUNK", chunk)
        language = Language()
        reference = language.reference(full, labels)
        *found, finite = language.rows(mine, reference)
    assert finite.all()
    for row in range(count):
        sums = dict.fromkeys(TOTALS, 0.0)
        for place in range(width - 1):
            target = int(labels[row, place + 1])
            if target == IGNORED:
                continue
            q, p = mine[row, place].exp(), full[row, place].exp()
            q, p = q / q.sum(), p / p.sum()
            sums["correct"] += float(q.argmax() == target)
            sums["loss"] -= float(q[target].log())
            sums["agreement"] += float(q.argmax() == p.argmax())
            sums["divergence"] += float((p * (p / q).log()).sum())
        assert [float(values[row]) for values in found] == pytest.approx(list(sums.values()))


@pytest.mark.parametrize(
    ("shape", "labels", "message"),
    [
        (
            (2, 5),
            [[0, 1], [1, 0]],
            r"^The model's output has the shape \(2, 5\); measuring the nex",
        ),
        ((2, 3, 5), [[0, 1], [1, 0]], r"needs logits of the shape \(2, 2, vocabulary\), one row"),
        (
            (1, 3, 5),
            [[0, 5, 1]],
            r"^The tokens run from 0 to 5, but the model's vocabulary has 5 t",
        ),
        ((1, 3, 5), [[0, -1, 1]], r"^The tokens run from -1 to 1, but the model's vocabulary has"),
    ],
)
def test_outputs_that_cannot_be_measured_are_refused_in_words(shape, labels, message):
    with pytest.raises(MeasurementError, match=message):
        Language().reference(torch.zeros(shape), torch.tensor(labels))


def test_logits_that_count_must_be_finite():
    labels = torch.tensor([[0, 1, IGNORED]])
    logits = torch.zeros(1, 3, 2)
    logits[0, 1] = float("nan")
    reference = Language().reference(logits, labels)
    assert Language().rows(logits, reference)[4].all()
    broken = logits.clone()
    broken[0, 0, 1] = float("inf")
    assert not Language().rows(broken, reference)[4].any()
    with pytest.raises(MeasurementError, match=r"^The full net's logits are not finite; check it"):
        Language().reference(broken, labels)


@pytest.mark.parametrize(
    ("sequences_done", "kept"),
    [(2, [1, 5]), (7, [0, 1, 2, 4, 5, 6, 7])],
    ids=["within the first length", "within the last"],
)
def test_an_interrupted_study_keeps_what_is_done_in_the_order_of_the_data(
    gpt2, studied, sequences_done, kept
):
    """Lengths 40, 64 and 33 come first, in two batches, then four short ones in one, then 17."""
    study = prepare(LesionStudy, gpt2, text(*LENGTHS), batch_size=2)
    done = 0

    def interrupt(evaluations: int) -> None:
        nonlocal done
        done += evaluations
        if done > sequences_done * study.experiment.engine.cost.block_evaluations:
            raise KeyboardInterrupt

    result = study.run(interrupt)
    assert result.interrupted
    np.testing.assert_array_equal(result.outcomes.loss, studied.outcomes.loss[:, kept])
    np.testing.assert_array_equal(result.outcomes.tokens, studied.outcomes.tokens[kept])
    targets = np.concatenate([sequences(*LENGTHS)[index][1:] for index in kept])
    assert result.baseline.chance == np.bincount(targets).max() / len(targets)
    assert "(the study was interrupted" in result.summary


def test_an_interruption_before_anything_is_measured_passes_through(gpt2):
    study = prepare(LesionStudy, gpt2, text(*LENGTHS), batch_size=2)

    def interrupt(evaluations: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        study.run(interrupt)


def test_the_cost_is_known_beforehand_and_told_as_it_is_paid(gpt2):
    study = prepare(LesionStudy, gpt2, text(*LENGTHS))
    assert (
        "3 lesions of 3 blocks on 8 sequences of 3 lengths: 6 block evaluations per batch instead "
        "of 9" in str(study)
    )
    told: list[int] = []
    study.run(told.append)
    assert sum(told) == study.work == 6 * len(LENGTHS)
    assert study.experiment.expected_seconds > 0


def test_batches_shrink_where_the_logits_are_large(gpt2, monkeypatch):
    numbers = LONGEST * VOCABULARY
    monkeypatch.setattr(
        ensemble_view.study.experiment, "_MOST_NUMBERS", {"cpu": 4 * numbers, "cuda": 4 * numbers}
    )
    study = prepare(LesionStudy, gpt2, text(*[64] * 40), blocks="0")
    assert study.experiment.pace.batch_size <= 4


def test_a_limit_chooses_sequences(gpt2, studied):
    result = lesion(gpt2, text(*LENGTHS), limit=3, seed=4, batch_size=2)
    chosen = np.sort(np.random.default_rng(4).permutation(len(LENGTHS))[:3])
    np.testing.assert_allclose(result.outcomes.loss, studied.outcomes.loss[:, chosen], rtol=1e-10)


def test_nets_that_change_with_the_length_are_refused():
    model = own_net(DeeperWhenLong, vocabulary=VOCABULARY)
    message = r"^The model comes apart into 1 and 2 blocks, or blocks of other names, for sequences"
    with pytest.raises(DiscoveryError, match=message):
        lesion(model, text(10, 20))
    assert lesion(model, text(20, 30)).block_count == 2


def test_a_chain_is_of_one_length_unless_it_is_made_by_hand():
    model = own_net(OwnNet, vocabulary=VOCABULARY)
    chain = unravel(model, torch.zeros(2, 16, dtype=torch.int64))
    assert len(lesion(chain, text(10, 12)).lesions) == 2
    with pytest.raises(DiscoveryError, match=r"^The chain was found for sequences of one length, "):
        lesion(chain, text(10, 20))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"^The model's vocabulary has 37 tokens, but the text comes as bytes, of which there"),
        (
            {"tokenizer": list},
            r"^The tokenizer's output has a row of type <U1 and shape \(23,\): exp",
        ),
        ({"tokenizer": lambda t: [1] * 90, "length": 65}, r"^The length is 65 tokens, but the mo"),
        (
            {"tokenizer": lambda t: [1, 2, 40]},
            r"^The text holds the token 40, but the model's voca",
        ),
    ],
)
def test_text_that_does_not_fit_the_model_is_refused(gpt2, tmp_path, options, message):
    file = tmp_path / "corpus.txt"
    file.write_text("what is to be predicted")
    with pytest.raises(DataError, match=message):
        lesion(gpt2, str(file), **options)


def test_bytes_are_for_vocabularies_of_256_also_without_a_configuration(tmp_path):
    file = tmp_path / "corpus.txt"
    file.write_text("what is to be predicted")
    with pytest.raises(
        DataError, match=r"^The model's vocabulary has 300 tokens, but the text com"
    ):
        lesion(own_net(OwnNet, vocabulary=300), str(file))


def test_a_classifier_is_no_language_model():
    model = own_net(OwnNet, vocabulary=VOCABULARY)
    model.head = torch.nn.Sequential(model.head, torch.nn.Flatten(1))
    with pytest.raises(
        MeasurementError, match=r"^The model's output has the shape \(.*measuring th"
    ):
        lesion(model, text(16, 16))


def test_a_hand_made_chain_runs_at_every_length():
    model = own_net(OwnNet, vocabulary=VOCABULARY)
    blocks = [
        Block(i, f"blocks.{i}", branch=lambda x, c, b=b: b(x) - x, shape_in=(8,), shape_out=(8,))
        for i, b in enumerate(model.blocks)
    ]
    found = lesion(Chain.from_parts(model.embedding, blocks, model.head), text(10, 20))
    expected = lesion(model, text(10, 20))
    np.testing.assert_allclose(found.outcomes.loss, expected.outcomes.loss, rtol=1e-10)
