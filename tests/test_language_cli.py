"""Text on the command line: a tokenizer, lengths, and what does not fit the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ensemble_view
from ensemble_view.cli.application import main

transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
tokenizers = pytest.importorskip("tokenizers", reason="needs the extra transformers")

NETS = """\
import transformers

def build(vocabulary):
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=vocabulary, n_embd=16, n_layer=2, n_head=2, n_positions=32,
        bos_token_id=0, eos_token_id=0))

def of_words():
    return build(5)

def of_bytes():
    return build(256)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 of four words with its tokenizer, one of bytes, and texts."""
    where = tmp_path_factory.mktemp("language")
    known = {"[UNK]": 0, "to": 1, "be": 2, "or": 3, "not": 4}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    saved = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    saved.save_pretrained(str(where / "words"))
    (where / "nets.py").write_text(NETS)
    made: dict[str, object] = {}
    exec(NETS, made)
    torch.manual_seed(0)
    for name in ("of_words", "of_bytes"):
        model = made[name]()
        for parameter in model.parameters():
            parameter.data += 0.2 * torch.randn_like(parameter)
        torch.save(model.state_dict(), where / f"{name}.pt")
    (where / "play.txt").write_text("to be or not to be " * 40)
    lines = [json.dumps({"text": "to be or not " * count}) for count in (1, 2, 6, 3)]
    (where / "plays.jsonl").write_text("\n".join(lines))
    return where


def lesion(where: Path, net: str, data: str, *words: object) -> int:
    arguments = ["lesion", where / f"{net}.pt", "--arch", f"{where / 'nets.py'}:{net}"]
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in (*arguments, "--data", where / data, *words)])
    return int(stop.value.code or 0)


def test_text_is_measured_by_the_next_token(folder, tmp_path, capsys):
    words = ("--tokenizer", folder / "words", "--length", 16, "--out", tmp_path / "out")
    assert lesion(folder, "of_words", "play.txt", *words) == 0
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    said = "2 lesions of 2 blocks on 15 sequences: 3 block evaluations per batch instead of 4"
    (cost,) = [line for line in lines if said in line]
    assert max(len(line) for line in lines if line != cost) <= 80
    assert lines[0] == "2 blocks hold all 4 residual sums of the model."
    assert "next tokens in 15 sequences of play.txt" in " ".join(printed.split())
    result = ensemble_view.LanguageResult.load(tmp_path / "out")
    assert result.baseline.tokens == 15 * 15
    assert result.provenance.data["tokenizer"] == "words"
    checkpoint = ensemble_view.load_checkpoint(
        folder / "of_words.pt", architecture=f"{folder / 'nets.py'}:of_words"
    )
    data = ensemble_view.open_text(folder / "play.txt", tokenizer=str(folder / "words"), length=16)
    expected = ensemble_view.lesion(checkpoint, data, batch_size=4).frame["loss"]
    assert result.frame["loss"].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_lengths_limits_and_bytes(folder, capsys):
    assert lesion(folder, "of_bytes", "plays.jsonl", "--json", "--limit", 3) == 0
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert content["kind"] == "language lesion"
    assert content["baseline"]["sequences"] == 3
    assert content["data"]["length"] == 32
    assert "3 sequences of 2 lengths" in printed.err


@pytest.mark.parametrize(
    ("net", "data", "words", "message"),
    [
        ("of_words", "play.txt", (), "the text comes as bytes, of which there are 256; name the"),
        ("of_bytes", "play.txt", ("--length", 64), "the model takes at most 32; choose a shorter"),
        ("of_bytes", "missing.txt", (), "There is no text"),
        ("of_words", "play.txt", ("--tokenizer", "nets.py"), "cannot be loaded"),
    ],
)
def test_text_that_does_not_fit_is_one_sentence(
    folder, capsys, monkeypatch, net, data, words, message
):
    monkeypatch.chdir(folder)
    assert lesion(folder, net, data, *words) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
