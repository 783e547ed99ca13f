"""Nothing that comes with a model, a tokenizer or an image is run, or fetched as it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import transformers
from PIL import Image

from ensemble_view.data.opening import open_data
from ensemble_view.errors import CheckpointError, DataError
from ensemble_view.nets.adapters.configurations import check_configuration
from ensemble_view.nets.adapters.tokenizers import pretrained_tokenizer
from ensemble_view.nets.checkpoints import load_checkpoint, save_checkpoint
from ensemble_view.nets.weights_file import MARK


@pytest.fixture
def model() -> transformers.PreTrainedModel:
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=48, n_positions=32, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).eval()


def change(file: Path, **entries: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def canary(folder: Path, name: str) -> Path:
    """A module that leaves a mark when it is imported; returns where."""
    mark = folder / f"{name}.mark"
    (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    return mark


@pytest.fixture
def kernels(tmp_path, monkeypatch) -> Path:
    """A package `kernels` in whose place something else stands: nobody may import it."""
    mark = canary(tmp_path, "kernels")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield mark
    sys.modules.pop("kernels", None)


CODE = {
    "_attn_implementation": "org/kernel",
    "_attn_implementation_internal": "org/kernel@main:flash",
    "attn_implementation": "paged|org/kernel",
    "_experts_implementation": "org/kernel",
    "use_kernels": True,
    "kernel_config": {"RMSNorm": "org/kernel:RMSNorm"},
    "trust_remote_code": True,
    "configuration_files": ["config.9.0.0.json"],
    "compression_config": {"quant_method": "own"},
    "backbone": "org/net",
    "text_config": {"_attn_implementation": "org/kernel"},
    "sub_configs": [{"deeper": {"attn_implementation": {"": "org/kernel"}}}],
    "_own_setting": "word",
    "layer": "package.module",
    "place": "C:\\net",
}


@pytest.mark.parametrize("key", CODE)
def test_a_folder_whose_configuration_names_code_is_refused_by_name(
    tmp_path, model, kernels, key, monkeypatch
):
    folder = tmp_path / "net"
    model.save_pretrained(folder)
    change(folder / "config.json", **{key: CODE[key]})
    monkeypatch.setattr(
        transformers.GPT2LMHeadModel, "from_pretrained", lambda *a, **k: pytest.fail("was called")
    )
    inner = {"text_config": "_attn_implementation", "sub_configs": "attn_implementation"}
    with pytest.raises(CheckpointError, match=rf"configuration of .* says {inner.get(key, key)} "):
        load_checkpoint(folder)
    assert not kernels.exists()


@pytest.mark.parametrize("key", ["_attn_implementation", "text_config", "use_kernels"])
def test_a_file_of_weights_whose_configuration_names_code_is_refused(tmp_path, model, key):
    file = tmp_path / "net.safetensors"
    folder = tmp_path / "net"
    model.save_pretrained(folder)
    whole = load_checkpoint(folder)
    from ensemble_view.nets.adapters.architectures import architecture_to_store

    stored = architecture_to_store(whole.architecture, whole.model)
    save_checkpoint(file, whole.model, architecture=stored)
    assert load_checkpoint(file).weights_hash == whole.weights_hash
    with safetensors.safe_open(file, framework="pt") as opened:
        description = json.loads(opened.metadata()[MARK])
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    options = description["architecture"]["options"]
    options["config"] = json.dumps(json.loads(options["config"]) | {key: CODE[key]})
    safetensors.torch.save_file(weights, file, metadata={MARK: json.dumps(description)})
    with pytest.raises(
        CheckpointError, match=r"configuration of transformers:GPT2LMHeadModel says"
    ):
        load_checkpoint(file)


def test_attention_that_torch_itself_computes_may_be_chosen(tmp_path, model):
    model.save_pretrained(tmp_path)
    for choice in ("eager", "sdpa", None):
        change(tmp_path / "config.json", _attn_implementation=choice)
        found = load_checkpoint(tmp_path).model
        tokens = torch.arange(8)[None]
        assert torch.allclose(found(tokens).logits, model(tokens).logits, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    ["Bert", "Albert", "ViT", "Swin", "Llama", "Mistral", "Gemma2", "Qwen2", "T5", "GPTNeoX",
     "CLIP", "Whisper", "Mixtral", "Detr", "ConvNext", "DistilBert", "Llava", "Bart", "Phi3",
     "Wav2Vec2"],
)  # fmt: skip
def test_configurations_as_the_library_writes_them_pass(kind):
    config = getattr(transformers, f"{kind}Config")()
    check_configuration(json.loads(config.to_json_string(use_diff=False)), kind)


def test_an_adapter_that_names_another_model_is_refused(tmp_path, model):
    model.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/other"}')
    with pytest.raises(CheckpointError, match="holds an adapter for another model"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_tokenizer_with_code_of_its_own_is_refused_and_nobody_is_asked(
    tmp_path, model, monkeypatch, file
):
    folder = tmp_path / "net"
    model.save_pretrained(folder)
    mark = canary(folder, "own")
    kinds = {"AutoTokenizer": ["own.Own", None], "AutoConfig": "own.Own"}
    content = {"auto_map": kinds, "tokenizer_class": "Own", "model_type": "own"}
    (folder / file).write_text(json.dumps(content))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("was asked"))
    with pytest.raises(DataError, match=r"needs code of its own, which is never run"):
        pretrained_tokenizer(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"pretrained_cfg": {"file": "weights"}}, "says file 'weights', another place"),
        ({"pretrained_cfg": {"url": "https://x/y"}}, "says url 'https://x/y', which could be"),
        ({"pretrained_cfg": {"hf_hub_id": "org/net"}}, "says hf_hub_id 'org/net', which could be"),
        ({"model_args": {"checkpoint_path": "evil"}}, "says checkpoint_path"),
        ({"model_args": {"act_layer": "os.system"}}, "says act_layer 'os.system', which could be"),
    ],
)
def test_a_configuration_of_timm_that_names_other_places_is_refused(tmp_path, changes, match):
    torch.manual_seed(0)
    timm.models.save_for_hf(timm.create_model("test_resnet"), tmp_path, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, entries in changes.items():
        config[key] = {**config.get(key, {}), **entries}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("option", ["checkpoint_path=evil", "pretrained=True", "cache_dir=here"])
def test_an_architecture_of_timm_takes_options_of_the_net_only(tmp_path, option):
    net = timm.create_model("test_resnet")
    torch.save(net.state_dict(), tmp_path / "net.pt")
    with pytest.raises(CheckpointError, match="which is none of the net's: expected settings of"):
        load_checkpoint(tmp_path / "net.pt", architecture=f"timm:test_resnet,{option}")


def test_every_net_of_timm_passes():
    for name in timm.list_pretrained()[::25]:
        own = timm.models.get_pretrained_cfg(name).to_dict(remove_source=True, remove_null=True)
        check_configuration({"architecture": name.partition(".")[0], "pretrained_cfg": own}, name)


def test_postscript_is_no_image_whatever_it_is_called(tmp_path, monkeypatch):
    for number, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        pixels = np.full((8, 8, 3), 50 * number, np.uint8)
        Image.fromarray(pixels).save(tmp_path / name / "a.png")
    Image.fromarray(pixels).save(tmp_path / "cat.eps")
    (tmp_path / "cat" / "cat.png").write_bytes((tmp_path / "cat.eps").read_bytes())
    monkeypatch.setattr(
        "PIL.EpsImagePlugin.Ghostscript", lambda *a, **k: pytest.fail("Ghostscript was called")
    )
    (tmp_path / "cat.eps").unlink()
    data = open_data(str(tmp_path))
    with pytest.raises(DataError, match=r"cat\.png is no readable image"):
        list(data.batches(3))
