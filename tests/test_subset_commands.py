"""The studies of subsets on the command line, also as they were written before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import ensemble_view
from ensemble_view import PairsResult, PowerSetResult, SurrogatesResult, save_checkpoint
from ensemble_view.cli.application import main
from ensemble_view.nets.models.building import build


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("nets") / "resnet8.pt"
    torch.manual_seed(0)
    save_checkpoint(
        file, build("resnet8,width=4", in_channels=1).eval(), architecture="resnet8,width=4",
        normalisation=((0.3,), (0.4,)), data="digits", input_shape=(1, 8, 8),
    )  # fmt: skip
    return file


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_all_is_the_study_of_the_same_name(net, tmp_path, capsys):
    options = ("--limit", 30, "--batch-size", 30, "--seed", 2)
    assert run("lesion", net, *options, "--all", "--only", "1,2", "--out", tmp_path) == 0
    said = capsys.readouterr().out
    assert "all 4 subnetworks of 2 of 3 blocks on 30 examples: 4 block evaluations per" in said
    assert "Shapley value" in said
    checkpoint = ensemble_view.load_checkpoint(net)
    data = ensemble_view.open_data("digits", mean=(0.3,), std=(0.4,), limit=30, seed=2)
    expected = ensemble_view.subsets(checkpoint, data, only="1,2", batch_size=30)
    assert PowerSetResult.load(tmp_path).frame.equals(expected.frame)
    assert {file.name for file in tmp_path.iterdir()} >= {"subsets.pdf", "subsets.csv"}


def test_pairs_and_surrogates_are_saved_and_printed_for_machines(net, tmp_path, capsys):
    options = ("--limit", 20, "--batch-size", 20)
    assert run("lesion", net, *options, "--pairs", "--out", tmp_path / "pairs") == 0
    assert "all 3 pairs of 3 blocks, and each alone, on 20 exam" in capsys.readouterr().out
    assert len(PairsResult.load(tmp_path / "pairs").frame) == 3
    words = ("--surrogates", "--json", "--out", tmp_path / "surrogates")
    assert run("lesion", net, *options, *words) == 0
    printed = json.loads(capsys.readouterr().out)
    found = SurrogatesResult.load(tmp_path / "surrogates")
    assert printed == found.to_json()
    assert printed["kind"] == "additivity"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--all", "--pairs"), "--all and --pairs were given, which are different studies; give"),
        (("--do", "delete 1", "--surrogates"), "--surrogates and --do were given, which are"),
        (("--only", "1"), "--only is an option of pairs, subsets, additivity and control, not"),
        (("--all", "--only", "0,7"), "There is no block 7: this chain has 3 blocks, 0 to 2."),
        (("--pairs", "--only", "layer9.0"), "No block is called 'layer9.0'; the blocks of this"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(net, capsys, words, message):
    assert run("lesion", net, "--limit", 20, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
