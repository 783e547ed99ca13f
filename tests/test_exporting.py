"""Files of extracted nets: written by the command, opened again without further options."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

import ensemble_view as ev
from cases import error
from ensemble_view import Extracted, branch_means, load_checkpoint, open_data, save_checkpoint
from ensemble_view.cli.application import main
from ensemble_view.errors import CheckpointError, InterventionError
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.nets.models.building import build
from layers import wake

SINGLE = 1e-5
BITE = 1e-3


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def saved(path: Path, name: str, **options: int) -> Path:
    """An awake net for the digits; as many channels and classes as only its weights say."""
    model = wake(build(name, in_channels=1, **options)).float()
    save_checkpoint(
        path,
        model,
        architecture=name,
        normalisation=((0.3,), (0.4,)),
        data="digits",
        class_names=[str(digit) for digit in range(10)],
        input_shape=(1, 8, 8),
    )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("whole")
    saved(where / "net.safetensors", "resnet14,width=4")
    saved(where / "plain.pt", "plain8,width=4")
    return where


def described(file: Path) -> dict[str, Any]:
    with safetensors.safe_open(file, framework="pt") as stored:
        content: dict[str, Any] = json.loads(stored.metadata()["ensemble_view"])
    return content


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def edited_logits(whole: Checkpoint, do: str, x: Any, **means: Any) -> Tensor:
    chain = ev.unravel(whole.model, whole.example(), **means.pop("unravelled", {}))
    args, kwargs = ((), x) if isinstance(x, dict) else ((x,), {})
    with torch.no_grad():
        before = whole.model(*args, **kwargs)
        with ev.edited(chain, ev.parse_interventions(do), **means):
            after = whole.model(*args, **kwargs)
    before, after = (getattr(output, "logits", output) for output in (before, after))
    assert error(after, before) >= BITE
    return after


def test_the_command_saves_a_smaller_net_that_opens_by_itself(folder, tmp_path, capsys):
    out = tmp_path / "made" / "smaller.safetensors"
    assert run("export", folder / "net.safetensors", "--do", "delete 1,5", "-o", out) == 0
    printed = capsys.readouterr().out
    whole, smaller = load_checkpoint(folder / "net.safetensors"), load_checkpoint(out)
    before = size(whole.model)
    after = before - size(whole.model.layer1[1]) - size(whole.model.layer3[1])
    assert printed == (
        f"net, delete 1,5: 4 of 6 branches, {after:,} of {before:,} parameters "
        f"({after / before:.1%}); saved to {out}. The weights load in ResNet, built with fewer "
        "blocks, as well.\n"
    )
    assert smaller.architecture == "cifar:resnet14,width=4 after delete 1,5"
    assert smaller.lesion == "delete 1,5"
    assert (smaller.data, smaller.class_names) == (whole.data, whole.class_names)
    assert (smaller.normalisation, smaller.input_shape) == (whole.normalisation, (1, 8, 8))
    x = whole.example(5, seed=3)
    with torch.no_grad():
        assert error(smaller.model(x), edited_logits(whole, "delete 1,5", x)) <= SINGLE
    stored = described(out)
    assert stored["architecture"]["name"] == "resnet14"
    assert stored["extraction"]["do"] == "delete 1,5"
    assert stored["extraction"]["entries"] == {"layer1": [0], "layer3": [0]}
    assert set(safetensors.torch.load_file(out)) == set(smaller.model.state_dict())
    assert out.stat().st_size < (folder / "net.safetensors").stat().st_size


def test_its_accuracy_is_that_of_the_lesion(folder, tmp_path, capsys):
    """The lesion is measured on the whole net by the engine, then on what was saved of it."""
    for do, left in (("delete 1", 5), ("delete 2; scale 0 0.5; replace 3 mean", 4)):
        out = tmp_path / "smaller.safetensors"
        assert run("export", folder / "net.safetensors", "--do", do, "-o", out, "--overwrite") == 0
        capsys.readouterr()
        words = ("--limit", 200, "--json")
        if "mean" not in do:
            assert run("lesion", folder / "net.safetensors", "--do", do, *words) == 0
            row = json.loads(capsys.readouterr().out)["lesions"][0]
        assert run("lesion", out, *words) == 0
        again = json.loads(capsys.readouterr().out)
        assert len(again["lesions"]) == left
        if "mean" not in do:
            assert again["baseline"]["accuracy"] == pytest.approx(row["accuracy"])


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_what_is_no_net_of_its_class_is_built_again(folder, tmp_path, suffix):
    out, source = tmp_path / f"smaller{suffix}", folder / "net.safetensors"
    do = "delete 1,2; replace 5 mean; repeat 0 2; scale 4 0.5"
    assert run("export", source, "--do", do, "-o", out) == 0
    whole, smaller = load_checkpoint(source), load_checkpoint(out)
    assert isinstance(smaller.model, Extracted)
    data = open_data("digits", mean=(0.3,), std=(0.4,))
    means = branch_means(ev.unravel(whole.model, whole.example()), data.batches(), [5])
    x = whole.example(5, seed=3)
    with torch.no_grad():
        expected = edited_logits(whole, do, x, means=means)
        assert error(smaller.model(x), expected) <= SINGLE
    if suffix == ".safetensors":
        weights = safetensors.torch.load_file(out)
        assert "ensemble_view.mean.5" in weights
        # Of block 2 its zero-padding shortcut is left, of 5 its mean, of 1 nothing.
        gone = ("layer1.1.", "layer2.0.", "layer3.1.")
        assert not [name for name in weights if name.startswith(gone)]
        assert weights["layer1.0.conv1.weight"].equal(whole.model.layer1[0].conv1.weight)
    assert [block.name for block in ev.unravel(smaller.model, smaller.example())] == [
        f"blocks.{name}" for name in ("0", "0_2", "3", "4")
    ]


def test_a_projection_stays(tmp_path):
    source, out = tmp_path / "net.pt", tmp_path / "smaller.safetensors"
    saved(source, "resnet14,width=4,shortcut=B")
    assert run("export", source, "--do", "delete 2", "-o", out) == 0
    left = {name for name in safetensors.torch.load_file(out) if name.startswith("layer2.0.")}
    assert {name.split(".")[2] for name in left} == {"shortcut"}
    whole, smaller = load_checkpoint(source), load_checkpoint(out)
    x = whole.example(5, seed=3)
    with torch.no_grad():
        assert error(smaller.model(x), edited_logits(whole, "delete 2", x)) <= SINGLE


def test_units_of_a_plain_net_are_deleted(folder, tmp_path):
    out = tmp_path / "smaller.safetensors"
    words = ("--do", "delete 1", "--plain", "-o", out)
    assert run("export", folder / "plain.pt", *words) == 0
    whole, smaller = load_checkpoint(folder / "plain.pt"), load_checkpoint(out)
    x = whole.example(5, seed=3)
    expected = edited_logits(whole, "delete 1", x, unravelled={"plain": True})
    with torch.no_grad():
        assert error(smaller.model(x), expected) <= SINGLE


def test_the_file_loads_in_torchvisions_class(tmp_path):
    torch.manual_seed(0)
    with torch.device("meta"):
        model = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=5)
    source, out = tmp_path / "net.pt", tmp_path / "smaller.safetensors"
    model = wake(model.to_empty(device="cpu")).float()
    save_checkpoint(source, model, architecture="torchvision:resnet18", input_shape=(3, 32, 32))
    assert run("export", source, "--do", "delete layer1.0,layer4.1", "-o", out) == 0
    with torch.device("meta"):
        smaller = ResNet(BasicBlock, [1, 2, 2, 1], num_classes=5)
    smaller = smaller.to_empty(device="cpu").eval()
    smaller.load_state_dict(safetensors.torch.load_file(out))
    whole, again = load_checkpoint(source), load_checkpoint(out)
    x = whole.example(3, seed=3)
    expected = edited_logits(whole, "delete layer1.0,layer4.1", x)
    with torch.no_grad():
        assert error(smaller(x), expected) <= SINGLE
        assert error(again.model(x), expected) <= SINGLE


def test_a_net_of_timm_is_built_again(tmp_path):
    timm = pytest.importorskip("timm", reason="needs the extra timm")

    def make(depth: int) -> nn.Module:
        return timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, depth=depth)

    source, out = tmp_path / "net.pt", tmp_path / "smaller.safetensors"
    architecture = "timm:vit_tiny_patch16_224,img_size=32,depth=4"
    save_checkpoint(source, wake(make(4)).float(), architecture=architecture)
    assert run("export", source, "--do", "keep 0,3", "-o", out) == 0
    smaller = make(2).eval()
    smaller.load_state_dict(safetensors.torch.load_file(out))
    whole, again = load_checkpoint(source), load_checkpoint(out)
    x = whole.example(2, seed=3)
    expected = edited_logits(whole, "keep 0,3", x)
    with torch.no_grad():
        assert error(smaller(x), expected) <= SINGLE
        assert error(again.model(x), expected) <= SINGLE


@pytest.mark.parametrize("do", ["delete 0", "delete 0; scale 1 0.5"])
def test_a_model_of_transformers_takes_its_configuration_along(tmp_path, do, capsys):
    transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
    config = transformers.GPT2Config(
        vocab_size=256, n_positions=48, n_embd=16, n_layer=3, n_head=2, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    source, out = tmp_path / "gpt2", tmp_path / "smaller.safetensors"
    model.save_pretrained(source)
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be " * 8)
    words = ("--data", text, "--length", 16)
    assert run("export", source, "--do", do, "-o", out, *words) == 0
    whole, smaller = load_checkpoint(source), load_checkpoint(out)
    tokens = {"input_ids": torch.randint(256, (3, 16))}
    chain = ev.unravel(whole.model, tokens)
    with torch.no_grad():
        with ev.edited(chain, ev.parse_interventions(do)):
            expected = whole.model(**tokens).logits
        found = smaller.model(**tokens)
    assert error(getattr(found, "logits", found), expected) <= SINGLE
    capsys.readouterr()
    assert run("lesion", out, *words, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["lesions"]) == 2
    if "scale" in do:
        assert isinstance(smaller.model, Extracted)
        assert run("lesion", out, "--data", text, "--length", 8) == 2
        assert "was extracted for texts of 16 tokens, and was given 8" in capsys.readouterr().err
    else:
        assert smaller.model.config.n_layer == 2


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (
            "scale 3 1",
            r"^Error: 'scale 3 1\.0' changes nothing of this net's 6 ",
        ),
        (
            "delete 0-5",
            r"^Error: 'delete 0,1,2,3,4,5' leaves none of this net's 6 ",
        ),
        ("delete 9", r"^Error: There is no block 9: this chain has 6 blocks, 0 to 5\."),
        ("swap 1 2", r"^Error: Block 2 \(layer2\.0\) takes 4×8×8 to 8×4×4; it cannot run in the "),
        ("replace 1 resample", r"^Error: The branch of block 1 .* depends on the batch and so"),
        ("delte 1", r"^Error: 'delte 1' is no intervention"),
    ],
)
def test_what_cannot_be_exported_is_told_and_nothing_is_written(
    folder, tmp_path, capsys, do, message
):

    out = tmp_path / "smaller.safetensors"
    assert run("export", folder / "net.safetensors", "--do", do, "-o", out) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not out.exists()


def test_places_that_cannot_be_written_are_told_first(folder, tmp_path, capsys):
    words = ("export", folder / "net.safetensors", "--do", "delete 1", "-o")
    assert run(*words, tmp_path / "smaller.onnx") == 2
    assert "has the suffix '.onnx': expected one of .pt" in capsys.readouterr().err
    assert run(*words, tmp_path) == 2
    assert capsys.readouterr().err != ""


def test_means_need_data(tmp_path):
    saved(tmp_path / "net.pt", "resnet8,width=4")
    checkpoint = load_checkpoint(tmp_path / "net.pt")
    message = r"^'replace 0 mean' replaces a branch by its mean over data, and no data are given;"
    with pytest.raises(ev.EnsembleViewError, match=message):
        ev.export(checkpoint, "replace 0 mean", tmp_path / "smaller.pt")


def test_an_export_is_not_exported_again(folder, tmp_path):
    out = tmp_path / "smaller.pt"
    ev.export(load_checkpoint(folder / "net.safetensors"), ev.Delete(1), out)
    message = r"^The net is what an export left already \(delete 1\); export the net that it was "
    with pytest.raises(CheckpointError, match=message):
        ev.export(load_checkpoint(out), ev.Delete(2), tmp_path / "again.pt")


def test_a_pickled_module_has_no_name_to_be_built_by(tmp_path):
    torch.save(wake(build("resnet8,width=4", in_channels=1)).float(), tmp_path / "net.pt")
    checkpoint = load_checkpoint(tmp_path / "net.pt", trust_pickle=True)
    message = (
        r"^The net is a ensemble_view\.nets\.models\.resnet\.ResNet, which no file can build again"
    )
    with pytest.raises(CheckpointError, match=message):
        ev.export(checkpoint, ev.Delete(1), tmp_path / "smaller.pt")


def test_a_users_own_net_is_named_again(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(
        "from ensemble_view.nets.models.building import build\n\n"
        "def make():\n    return build('resnet8,width=4', in_channels=1)\n"
    )
    arch, out = f"{tmp_path / 'mine.py'}:make", tmp_path / "smaller.pt"
    model = wake(build("resnet8,width=4", in_channels=1)).float()
    torch.save(model.state_dict(), tmp_path / "net.pt")
    assert run("export", tmp_path / "net.pt", "--arch", arch, "--do", "delete 1", "-o", out) == 0
    smaller = load_checkpoint(out, architecture=arch)
    whole = load_checkpoint(tmp_path / "net.pt", architecture=arch)
    x = whole.example(5, seed=3)
    with torch.no_grad():
        assert error(smaller.model(x), edited_logits(whole, "delete 1", x)) <= SINGLE


def test_damaged_files_are_refused(folder, tmp_path):
    out = tmp_path / "smaller.safetensors"
    ev.export(load_checkpoint(folder / "net.safetensors"), ev.Delete(1, 2), out)
    weights, stored = safetensors.torch.load_file(out), described(out)

    def written(**changes: Any) -> Path:
        content = {**stored, "extraction": {**stored["extraction"], **changes}}
        metadata = {"ensemble_view": json.dumps(content)}
        safetensors.torch.save_file(weights, tmp_path / "damaged.safetensors", metadata=metadata)
        return tmp_path / "damaged.safetensors"

    message = r"^What the file says of how the net was extracted is damaged \(TypeError\): export"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(written(weights=None))
    with pytest.raises(InterventionError, match=r"^There is no block 77"):
        load_checkpoint(written(do="delete 77"))
    del weights["conv1.weight"]
    with pytest.raises(CheckpointError, match=r"do not fit .*: missing conv1\.weight"):
        load_checkpoint(written())


def test_the_function_takes_values_as_well(folder, tmp_path):
    checkpoint = load_checkpoint(folder / "net.safetensors")
    told = ev.export(checkpoint, ev.Delete(1) | ev.Delete(5), tmp_path / "smaller.pt")
    assert (told.blocks, told.left, told.own_class) == (6, 4, "ResNet")
    assert isinstance(load_checkpoint(told.path).model, nn.Module)
    told = ev.export(checkpoint, ev.Delete(2), tmp_path / "smaller.pt", overwrite=True)
    assert told.own_class is None
    assert str(told).endswith(
        "What is left is no net of its own class, so ensemble_view alone builds it again."
    )
