"""Text as data: where it comes from, how it is cut and padded, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ensemble_view import open_text
from ensemble_view.data.text_data import TextData
from ensemble_view.data.text_sources import is_text, windows
from ensemble_view.errors import DataError
from ensemble_view.measures.language import IGNORED


def drawn(lengths: list[int], length: int = 64, seed: int = 0) -> TextData:
    generator = np.random.default_rng(seed)
    return windows("drawn", [generator.integers(0, 9, n) for n in lengths], length, "drawn")


def tokens_of(data: TextData) -> list[list[int]]:
    return [sequence.tolist() for sequence in data.sequences]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(2, 20))
def test_windows_hold_each_document_but_for_rests_of_one(lengths, length):
    documents = [np.arange(count) + 1000 * place for place, count in enumerate(lengths)]
    if max(lengths) < 2:
        with pytest.raises(
            DataError, match=r"^none holds no two tokens in a row: there is nothing"
        ):
            windows("none", documents, length, "none")
        return
    data = windows("some", documents, length, "none")
    assert all(2 <= len(sequence) <= length for sequence in data.sequences)
    rests = sum(count % length == 1 for count in lengths)
    assert sum(map(len, data.sequences)) == sum(lengths) - rests
    for sequence in data.sequences:
        assert (np.diff(sequence) == 1).all()
        assert sequence[0] % 1000 % length == 0


@given(st.lists(st.integers(2, 64), min_size=1, max_size=12), st.integers(1, 5))
def test_batches_are_padded_on_the_right_and_padding_is_no_target(lengths, batch_size):
    data = drawn(lengths)
    rows = [
        (ids[mask == 1].tolist(), mask, row)
        for inputs, labels in data.batches(batch_size)
        for ids, mask, row in zip(
            inputs["input_ids"], inputs["attention_mask"], labels, strict=True
        )
    ]
    assert [tokens for tokens, _, _ in rows] == tokens_of(data)
    for tokens, mask, labels in rows:
        assert mask.tolist() == [1] * len(tokens) + [0] * (len(mask) - len(tokens))
        assert labels.tolist() == tokens + [IGNORED] * (len(mask) - len(tokens))


@given(st.lists(st.integers(2, 50), min_size=1, max_size=30))
def test_portions_are_all_sequences_each_of_one_length(lengths):
    data = drawn(lengths, length=50)
    portions = data.portions()
    positions = np.concatenate([portion.positions for portion in portions])
    assert sorted(positions.tolist()) == list(range(len(data)))
    widths = []
    for portion in portions:
        found = {labels.shape[1] for _, labels in portion.data.batches(4)}
        assert len(found) == 1
        widths.append(found.pop())
        assert tokens_of(portion.data) == [tokens_of(data)[place] for place in portion.positions]
        assert portion.size == widths[0] / widths[-1]
    assert len(set(widths)) == len(widths)
    assert set(widths) <= {16, 32, 50}
    sizes = [width * len(portion.data) for width, portion in zip(widths, portions, strict=True)]
    assert sizes[0] == max(sizes)


def test_a_text_file_is_one_document_and_lines_of_jsonl_are_their_own(tmp_path):
    (tmp_path / "a.txt").write_text("abcdef\n\nghij", encoding="utf-8")
    (tmp_path / "a.jsonl").write_text('{"text": "abc"}\n\n{"text": "defgh", "id": 3}\n')
    found = [
        ["".join(map(chr, tokens)) for tokens in tokens_of(open_text(tmp_path / name, length=5))]
        for name in ("a.txt", "a.jsonl")
    ]
    assert found == [["abcde", "f\n\nghi"[:5], "ij"], ["abc", "defgh"]]
    assert open_text(tmp_path / "a.txt", length=5).name == "a.txt"


def test_fingerprints_follow_tokens_and_cut_not_files(tmp_path):
    (tmp_path / "a.txt").write_text("abcdef")
    (tmp_path / "b.jsonl").write_text('{"text": "abcdef"}')
    first = open_text(tmp_path / "a.txt", length=4)
    assert first.fingerprint() == open_text(tmp_path / "b.jsonl", length=4).fingerprint()
    others = [
        open_text(tmp_path / "a.txt", length=5),
        open_text(tmp_path / "a.txt", length=4, tokenizer=lambda text: [0] * len(text)),
        first.subset(1),
    ]
    assert len({first.fingerprint(), *(other.fingerprint() for other in others)}) == 4
    assert first.to_json() == {
        "name": "a.txt", "n": 2, "tokens": 6, "length": 4, "tokenizer": "bytes",
        "fingerprint": first.fingerprint(),
    }  # fmt: skip
    assert json.dumps(first.to_json())


def test_a_limit_is_repeatable_and_lies_within_a_larger_one():
    data = drawn(list(range(2, 42)))
    small, large = data.subset(5, seed=3), data.subset(20, seed=3)
    assert (
        tokens_of(small) == tokens_of(data.subset(5, seed=3)) != tokens_of(data.subset(5, seed=4))
    )
    assert all(sequence in tokens_of(large) for sequence in tokens_of(small))
    order = [tokens_of(data).index(sequence) for sequence in tokens_of(large)]
    assert order == sorted(order)
    assert data.subset(40) is data
    with pytest.raises(DataError, match=r"^The limit is 0 sequences: expected at least 1\.$"):
        data.subset(0)


def test_the_most_frequent_token_is_counted_where_it_is_predicted():
    data = windows("some", [np.array([7, 7, 1, 1, 2]), np.array([7, 3, 1])], 8, "none")
    assert data.most_frequent(np.array([0, 1])).tolist() == [2, 1]
    assert data.most_frequent(np.array([1])).tolist() == [1]


TOKENISED: list[tuple[Any, list[list[int]]]] = [
    ({"input_ids": [[1, 2, 3], [4, 5, 6]]}, [[1, 2, 3], [4, 5, 6]]),
    ({"input_ids": torch.tensor([[1, 2, 3]])}, [[1, 2, 3]]),
    # Padding on either side goes.
    (
        {
            "input_ids": torch.tensor([[0, 0, 1, 2], [3, 4, 5, 0]]),
            "attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]]),
        },
        [[1, 2], [3, 4, 5]],
    ),
    ([{"input_ids": [[1, 2]]}, {"input_ids": [[3, 4, 5]]}], [[1, 2], [3, 4, 5]]),
]


@pytest.mark.parametrize(("batches", "expected"), TOKENISED)
def test_tokenised_batches_are_taken_without_their_padding(batches, expected):
    assert is_text(batches)
    assert tokens_of(open_text(batches)) == expected


def test_labels_of_tokenised_batches_leave_tokens_out():
    batch = {
        "input_ids": [[1, 2, 3, 4, 5], [1, 2, 3, 4, 5]],
        "labels": [[IGNORED, IGNORED, 3, 4, 5], [1, IGNORED, IGNORED, IGNORED, IGNORED]],
    }
    data = open_text(batch)
    assert [labels.tolist() for labels in data.labels] == [[IGNORED, IGNORED, 3, 4, 5]]
    assert tokens_of(data) == [[1, 2, 3, 4, 5]]


def words_tokenizer(folder: Path) -> None:
    """Save a tokenizer of four words as transformers does."""
    tokenizers = pytest.importorskip("tokenizers", reason="needs the extra transformers")
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    known = {"[UNK]": 0, "to": 1, "be": 2, "or": 3, "not": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", model_max_length=4
    ).save_pretrained(str(folder))


def test_tokenizers_come_by_folder_as_objects_and_as_functions(tmp_path, capfd):
    words_tokenizer(tmp_path / "words")
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "words"))
    file = tmp_path / "play.txt"
    file.write_text("to be or not to be")
    assert tokens_of(open_text(file, tokenizer=str(tmp_path / "words"))) == [[1, 2, 3, 4, 1, 2]]
    assert "longer than" not in "".join(capfd.readouterr())
    others = (tmp_path / "words", loaded, loaded.encode, loaded.backend_tokenizer.encode)
    for tokenizer in others:
        assert tokens_of(open_text(file, tokenizer=tokenizer)) == [[1, 2, 3, 4, 1, 2]]
    assert open_text(file, tokenizer=str(tmp_path / "words")).tokenizer == "words"


def test_hugging_face_data_sets_are_taken_as_objects_and_from_folders(tmp_path):
    datasets = pytest.importorskip("datasets", reason="needs the extra transformers")
    rows = datasets.Dataset.from_dict({"text": ["abc", "", "defgh"], "id": [1, 2, 3]})
    tokens = datasets.Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]]})
    rows.save_to_disk(str(tmp_path / "rows"))
    datasets.DatasetDict({"train": rows, "test": tokens}).save_to_disk(str(tmp_path / "parts"))
    expected = [list(b"abc"), list(b"defgh")]
    for source in (rows, str(tmp_path / "rows")):
        assert is_text(source)
        assert tokens_of(open_text(source)) == expected
    assert tokens_of(open_text(tokens)) == [[1, 2, 3], [4, 5]]
    assert is_text(tmp_path / "parts")
    assert tokens_of(open_text(tmp_path / "parts")) == [[1, 2, 3], [4, 5]]
    assert tokens_of(open_text(tmp_path / "parts", split="train")) == expected
    with pytest.raises(DataError, match=r"parts has no split 'validation': it has train, test\.$"):
        open_text(tmp_path / "parts", split="validation")


def test_other_data_are_no_text(tmp_path):
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(2, 2)))
    pair = (torch.zeros(2, 3), torch.tensor([0, 1]))
    for data in ("digits", tmp_path, "images.npz", pair, loader, {"images": [1]}, [], None):
        assert not is_text(data)


class Takes(nn.Module):
    def forward(self, input_ids, attention_mask=None): ...


class TakesTokens(nn.Module):
    def forward(self, input_ids): ...


class TakesAnything(nn.Module):
    def forward(self, x): ...


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Takes(), ("input_ids", "attention_mask")),
        (TakesTokens(), ("input_ids",)),
        (TakesAnything(), ()),
        (None, ()),
    ],
)
def test_inputs_go_by_the_names_that_the_model_has(model, names):
    data = drawn([5, 20]).for_model(model)
    inputs, labels = next(data.batches(2))
    if names:
        assert tuple(inputs) == names
    tokens = inputs["input_ids"] if names else inputs
    assert torch.equal(tokens[labels != IGNORED], labels[labels != IGNORED])


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.txt", "abc", {"length": 1}, r"^The length is 1 tokens: expected at least 2, one to r"),
        (
            "a.txt",
            "a",
            {},
            r"^a\.txt holds no two tokens in a row: there is nothing to predict\. Gi",
        ),
        ("a.txt", b"\xff\xfe", {}, r"a\.txt is no text in UTF-8 \(.*\): convert it first\.$"),
        (
            "a.jsonl",
            '{"a": 1}',
            {},
            r'^Line 1 of .*a\.jsonl is no object with a text: expected \{"t',
        ),
        ("a.jsonl", '{"text": "a"}\n{', {}, r"^Line 2 of .* is no object with a text"),
        (
            None,
            "",
            {},
            r"^There is no text '.*': expected a text file, a \.jsonl file, or a folder",
        ),
        (
            "a.txt",
            "abc",
            {"tokenizer": 3},
            r"^The tokenizer is a int: expected a name or folder, a",
        ),
        (
            "a.txt",
            "abc",
            {"tokenizer": lambda t: t.split()},
            r"^The tokenizer's output has a row o",
        ),
        (
            "a.txt",
            "abc",
            {"tokenizer": lambda t: [[1, 2]]},
            r"of type int64 and shape \(1, 2\): exp",
        ),
    ],
)
def test_what_is_no_text_is_refused_in_words(tmp_path, name, content, options, message):
    path = tmp_path / (name or "missing.txt")
    if name is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        open_text(path, **options)


def test_what_is_no_data_set_or_tokenizer_is_refused_in_words(tmp_path):
    pytest.importorskip("transformers", reason="needs the extra transformers")
    (tmp_path / "a.txt").write_text("abc")
    with pytest.raises(
        DataError, match=r"^The tokenizer '.*' cannot be loaded \(.*\): give the fold"
    ):
        open_text(tmp_path / "a.txt", tokenizer=str(tmp_path))
    with pytest.raises(
        DataError, match=r"^A text is of type int: expected a file, a data set with"
    ):
        open_text([1, 2])
    with pytest.raises(
        DataError, match=r"^Tokenised batches have input_ids, attention_mask and lab"
    ):
        open_text({"input_ids": [[1, 2]], "labels": [[1, 2, 3]]})
    with pytest.raises(DataError, match=r"^The batch size is 0: expected at least 1\.$"):
        next(drawn([4]).batches(0))


def test_a_folder_that_holds_no_data_set_is_refused_in_words(tmp_path):
    pytest.importorskip("datasets", reason="needs the extra transformers")
    (tmp_path / "dataset_info.json").write_text("{}")
    with pytest.raises(
        DataError, match=r"holds no saved data set \(.*\): give a folder that save_t"
    ):
        open_text(tmp_path)
