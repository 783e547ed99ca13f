"""The command line: what it prints, writes and refuses."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import ensemble_view
from ensemble_view import LesionResult, save_checkpoint
from ensemble_view.cli.application import main
from ensemble_view.data.labelled_data import IndexedData
from ensemble_view.nets.models.building import build

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _bite(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small untrained nets for the digits, one residual and one plain."""
    where = tmp_path_factory.mktemp("nets")
    torch.manual_seed(0)
    for name in ("resnet8", "plain8"):
        save_checkpoint(
            where / f"{name}.pt",
            _bite(build(name, in_channels=1)),
            architecture=name,
            normalisation=((0.3,), (0.4,)),
            data="digits",
            input_shape=(1, 8, 8),
        )
    return where


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_lesion_does_what_it_is_told_and_saves_it(folder, tmp_path, capsys):
    """The row is what the unmodified model under the same edit classifies correctly."""
    words = "replace 0 mean; scale 2 0.5"
    out = tmp_path / "out"
    limit = ("--limit", 60, "--batch-size", 30)
    assert run("lesion", folder / "resnet8.pt", *limit, "--do", words, "--out", out) == 0
    said = capsys.readouterr().out
    assert "1 lesion of 3 blocks on 60 examples: 5 block eval" in said
    assert "No intervention is shown to cost accuracy" in " ".join(said.split())
    (row,) = LesionResult.load(out).frame.to_dict("records")
    assert (row["blocks"], row["count"], row["n"]) == ("replace 0 mean; scale 2 0.5", 2, 60)
    checkpoint = ensemble_view.load_checkpoint(folder / "resnet8.pt")
    model = checkpoint.model.double()
    data = ensemble_view.open_data("digits", mean=(0.3,), std=(0.4,), limit=60)
    batches = [(images.double(), labels) for images, labels in data.batches(60)]
    chain = ensemble_view.unravel(model, batches[0][0])
    means = ensemble_view.branch_means(chain, batches)
    edit = ensemble_view.parse_interventions(words)
    (images, labels), *_ = batches
    with torch.no_grad(), ensemble_view.edited(chain, edit, means=means):
        correct = float((model(images).argmax(1) == labels).double().mean())
    assert row["accuracy"] == pytest.approx(correct)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--do", "explode 3"), "'explode 3' is no intervention; write one of delete, keep, "),
        (("--do", "swap 0 1"), "it cannot run in the place of block 0 (layer1.0), which takes"),
        (("--do", "scale 1 1"), "Scale(1, 1.0) changes nothing in this net."),
        (("--do", "delete 1", "--blocks", 1), "Both blocks to delete and something to do were"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words(folder, capsys, words, message):
    assert run("lesion", folder / "resnet8.pt", "--limit", 60, *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_lesion_prints_cost_table_and_sentence(folder, capsys):
    assert run("lesion", folder / "resnet8.pt", "--limit", 60) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    (cost,) = [line for line in lines if line.startswith("3 lesions of 3 blocks on 60 examples")]
    assert "examples: 6 block evaluations per batch instead of 9" in cost
    assert max(len(line) for line in lines if line != cost) <= 80
    assert any(line.split()[:2] == ["0", "layer1.0"] for line in lines)
    assert any(line.split()[:2] == ["1*", "layer2.0"] for line in lines)
    assert "These statements concern this net" in " ".join(printed.out.split())
    # Hardly trained, as it is.
    said = "Warning: The full net is at chance, 10.0% right of 60 examples"
    assert " ".join(printed.out.split()).count(said) == 1
    assert "Warning" not in printed.err
    # Its record holds the warning too, but nobody reads the notes there.
    assert run("lesion", folder / "resnet8.pt", "--limit", 60, "--json") == 0
    assert capsys.readouterr().err.count(said) == 1


def test_out_holds_table_record_outcomes_and_figures(folder, tmp_path, capsys):
    assert (
        run("lesion", folder / "resnet8.pt", "--limit", 60, "--out", tmp_path / "new" / "out") == 0
    )
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == {
        "lesion.csv", "results.json", "outcomes.npz", "lesion.pdf", "lesion.png",
    }  # fmt: skip
    table = pd.read_csv(out / "lesion.csv")
    columns = {
        "blocks", "count", "accuracy", "drop", "drop_low", "drop_high",
        "p_value", "p_adjusted", "normalised_drop", "n",
    }  # fmt: skip
    assert columns <= set(table.columns)
    record = json.loads((out / "results.json").read_text())
    assert {"accuracy", "chance", "n"} <= set(record["baseline"])
    assert {"model", "data", "versions", "seed", "command", "cost", "seconds"} <= set(record)
    assert record["cost"]["block_evaluations"] == 6
    assert record["cost"]["naive_block_evaluations"] == 9
    assert record["model"]["weights_hash"]
    loaded = LesionResult.load(out)
    assert loaded.frame["drop"].tolist() == pytest.approx(table["drop"].tolist())


def test_json_prints_nothing_else_on_standard_output(folder, capsys):
    assert run("lesion", folder / "resnet8.pt", "--limit", 40, "--json", "--seed", 3) == 0
    printed = capsys.readouterr()
    content = json.loads(printed.out)
    assert content["baseline"]["n"] == 40
    assert content["seed"] == 3
    assert "block evaluations per batch" in printed.err


@pytest.mark.parametrize(
    ("blocks", "label"), [("0,1-2", "0-2"), ("layer2.*", "1"), ("layer*.0,2", "0-2")]
)
def test_named_blocks_are_lesioned_together(folder, capsys, blocks, label):
    assert run("lesion", folder / "resnet8.pt", "--limit", 40, "--blocks", blocks, "--json") == 0
    rows = json.loads(capsys.readouterr().out)["lesions"]
    assert [row["blocks"] for row in rows] == [label]


def test_plain_net_needs_plain_and_lists_what_cannot_be_deleted(folder, capsys):
    assert run("lesion", folder / "plain8.pt", "--limit", 40) == 2
    assert "has no residual block" in capsys.readouterr().err
    assert run("lesion", folder / "plain8.pt", "--limit", 40, "--plain", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert len(content["lesions"]) + len(content["not_deletable"]) == content["block_count"] == 7
    assert [block["index"] for block in content["not_deletable"]] == [0, 3, 5]


def test_inspect_lists_the_blocks_and_explains(folder, capsys):
    assert run("inspect", folder / "resnet8.pt", "--explain") == 0
    text = capsys.readouterr().out
    assert "ResNet: 3 blocks, 0 links" in text
    assert "‖F‖/‖h‖" in text
    assert "block 0  layer1.0: add" in text
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 80
    assert run("inspect", folder / "resnet8.pt", "--json") == 0
    blocks = json.loads(capsys.readouterr().out)["blocks"]
    assert [block["shortcut_kind"] for block in blocks] == ["identity", "zero-pad", "zero-pad"]
    # Two 3×3 convolutions with 16 channels and their BatchNorms; 2·(2·16·16·9·64) operations.
    assert blocks[0]["parameters"] == 2 * (16 * 16 * 9 + 32)
    assert blocks[0]["flops"] == 2 * 2 * 16 * 16 * 9 * 64


def test_train_writes_a_net_that_lesion_reads(tmp_path, capsys):
    out = tmp_path / "net.pt"
    words = ("resnet8", "--epochs", 1, "--limit", 64, "--out", out, "--batch-size", 32)
    assert run("train", *words) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert run("lesion", out, "--limit", 20) == 0


def test_bench_prints_the_ratio_and_the_bound(folder, capsys):
    assert run("bench", folder / "resnet8.pt", "--rounds", 1, "--hooks") == 0
    text = capsys.readouterr().out
    assert "4 plans, 6 block evaluations" in text
    for row in ("unmodified forward", "engine", "the same convolutions alone", "hooks"):
        assert row in text


def test_bench_at_one_batch_size_holds_the_engine_against_the_models_own_blocks(folder, capsys):
    words = ("--rounds", 1, "--batch-size", 6)
    assert run("bench", folder / "resnet8.pt", *words) == 0
    text = capsys.readouterr().out
    assert "4 plans, 6 block evaluations, batches of 6" in text
    assert "the same block evaluations by the engine" in text


def _file(tmp_path: Path, kind: str, folder: Path) -> list[object]:
    """The words after ``lesion`` for one kind of bad input."""
    net = folder / "resnet8.pt"
    path = tmp_path / "input.pt"
    images = np.zeros((4, 8, 8, 1), np.uint8)
    labels = np.array([0, 1, 2, 3])
    npz = tmp_path / "data.npz"
    if kind == "missing":
        return [tmp_path / "none.pt"]
    if kind == "random":
        path.write_bytes(np.random.default_rng(0).bytes(1000))
        return [path]
    if kind == "truncated":
        path.write_bytes(net.read_bytes()[:5000])
        return [path]
    if kind == "code":
        path.write_bytes(pickle.dumps({"state_dict": subprocess.Popen}))
        return [path]
    if kind == "misfit":
        weights = build("resnet8").state_dict()
        weights.pop("layer1.0.conv1.weight")
        torch.save(weights, path)
        return [path, "--arch", "cifar:resnet8", "--data", "digits"]
    if kind == "channels":
        torch.save(build("resnet8").state_dict(), path)
        return [path, "--arch", "cifar:resnet8", "--data", "digits"]
    if kind == "labels":
        np.savez(npz, images=images, labels=labels + 20)
        return [net, "--data", npz]
    if kind == "empty":
        np.savez(npz, images=images[:0], labels=labels[:0])
        return [net, "--data", npz]
    if kind == "nan":
        model = build("resnet8", in_channels=1)
        model.linear.weight.data.fill_(float("nan"))
        torch.save(model.state_dict(), path)
        return [path, "--arch", "cifar:resnet8", "--data", "digits"]
    if kind == "no data named":
        torch.save(build("resnet8", in_channels=1).state_dict(), path)
        return [path, "--arch", "cifar:resnet8"]
    if kind == "unwritable":
        (tmp_path / "taken").write_text("a file")
        return [net, "--out", tmp_path / "taken"]
    words = {
        "block": ["--blocks", "2,17"],
        "block name": ["--blocks", "layer9.*"],
        "block list": ["--blocks", "1,,2"],
        "mean": ["--mean", "a,b"],
        "device": ["--device", "quantum"],
        "plain residual": ["--plain"],
        "data": ["--data", "no-such-set"],
    }
    return [net, *words[kind]]


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", "none.pt"),
        ("random", "input.pt"),
        ("truncated", "input.pt"),
        ("code", "subprocess.Popen"),
        ("misfit", "layer1.0.conv1.weight"),
        ("channels", "does not run on the example"),
        ("labels", "20"),
        ("empty", "no example"),
        ("nan", "not finite"),
        ("no data named", "does not name its data set"),
        ("unwritable", "taken"),
        ("block", "There is no block 17: this chain has 3 blocks, 0 to 2."),
        ("block name", "No block is called 'layer9.*'"),
        ("block list", "is no list of blocks"),
        ("mean", "one number per channel"),
        ("device", "There is no device 'quantum'"),
        ("plain residual", "plain is for nets without shortcuts"),
        ("data", "There is no data 'no-such-set'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(folder, tmp_path, capsys, kind, sentence):
    assert run("lesion", *_file(tmp_path, kind, folder)) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert printed.err.startswith("Error: ")
    assert "Traceback" not in printed.err
    assert "block  module" not in printed.out


def test_debug_shows_the_error_itself(tmp_path):
    with pytest.raises(ensemble_view.EnsembleViewError):
        main(["lesion", str(tmp_path / "none.pt"), "--debug"])


@pytest.mark.parametrize("words", [["lesion"], ["lesion", "x.pt", "--limit", "0"], ["nonsense"]])
def test_wrong_usage_is_exit_code_2(capsys, words):
    assert run(*words) == 2
    assert "Usage" in capsys.readouterr().err


def test_interruption_keeps_what_is_done(folder, tmp_path, capsys, monkeypatch):
    batches = IndexedData.batches

    def interrupted(self, batch_size=64):
        for number, batch in enumerate(batches(self, 16)):
            if number == 2:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(IndexedData, "batches", interrupted)
    assert run("lesion", folder / "resnet8.pt", "--limit", 100, "--out", tmp_path / "out") == 1
    assert "Stopped after 32 of 100 examples" in capsys.readouterr().err
    assert LesionResult.load(tmp_path / "out").interrupted


@pytest.mark.parametrize("command", [[], ["lesion"], ["inspect"], ["train"], ["bench"]])
def test_help_teaches(capsys, command):
    assert run(*command, "--help") == 0
    text = capsys.readouterr().out
    assert "Usage" in text
    assert "ensemble-view" in text


def test_module_and_version_in_a_process_of_their_own():
    done = subprocess.run(
        [sys.executable, "-m", "ensemble_view", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"ensemble-view {ensemble_view.__version__}"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the CIFAR-10 checkpoints are not at ../shared")
def test_published_resnet56_by_engine_equals_hooks_one_by_one(capsys):
    from ensemble_view import Delete, edited, load_checkpoint, open_data, unravel

    path = SHARED / "checkpoints" / "resnet56-4bfd9763.th"
    data = SHARED / "data" / "cifar10_test.npz"
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    words = [f"--{name}={','.join(map(str, v))}" for name, v in (("mean", mean), ("std", std))]
    assert run("lesion", path, "--data", data, *words, "--limit", 200, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["block_count"] == 27
    assert content["cost"]["block_evaluations"] == 378
    labelled = open_data(str(data), mean=mean, std=std, limit=200)
    ((images, labels),) = labelled.batches(200)
    model = load_checkpoint(path).model
    chain = unravel(model, images[:2])
    with torch.no_grad():
        full = (model(images).argmax(1) == labels).float().mean()
        for row in content["lesions"]:
            with edited(chain, Delete(*row["indices"])):
                lesioned = (model(images).argmax(1) == labels).float().mean()
            assert row["drop"] == pytest.approx(float(full - lesioned), abs=1e-6)
