"""Nets by name, from the hub's cache, from folders and from programs: loaded for real, off line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import urllib.error
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn
from torch.export import Dim

from ensemble_view import edited, inspect, load_checkpoint, save_checkpoint, unravel
from ensemble_view.cli.application import main
from ensemble_view.core.engine import Engine
from ensemble_view.core.interventions.branches import Delete
from ensemble_view.core.plan import bind
from ensemble_view.errors import CheckpointError
from ensemble_view.nets.adapters.architectures import build_for_weights

timm = pytest.importorskip("timm", reason="needs the extra timm")
transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
hub = pytest.importorskip("huggingface_hub", reason="needs the extra timm or transformers")

REVISION = "0123456789abcdef0123456789abcdef01234567"
SMALL = "shufflenet_v2_x0_5"


class Touch:
    """Unpickling this makes a folder: the code that must not run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Net(nn.Module):
    """Two residual blocks and a head, with every type of tensor an archive can hold."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.blocks = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)])
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.register_buffer("low", torch.ones(3).half())
        self.register_buffer("switch", torch.tensor([True, False]))
        self.register_buffer("fixed", torch.ones(2), persistent=False)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = x + torch.relu(block(x))
        return self.head(self.norm(x).mean((2, 3)))


def net(seed=0):
    torch.manual_seed(seed)
    return Net().eval()


def biting(model):
    """The model with no weight at zero, as fresh ones at the end of a branch are."""
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def same(one, other):
    weights, others = one.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(
        torch.equal(weights[name].float(), others[name].float()) for name in weights
    )


def refused(name, match, **options):
    with pytest.raises(CheckpointError, match=match) as found:
        load_checkpoint(name, **options)
    assert "\n" not in str(found.value)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, with the network forbidden."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(folder))
    return folder


def put_in_cache(cache, repository, folder):
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(REVISION)
    shutil.copytree(folder, place / "snapshots" / REVISION)


def saved_timm(folder, name="test_resnet", seed=0, **options):
    torch.manual_seed(seed)
    model = biting(timm.create_model(name, **options))
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    return model


WIDTH = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
TEXT = {"vocab_size": 99, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# Class, settings, and what an example of two has to look like.
MODELS = {
    "gpt2": (
        "GPT2LMHeadModel",
        {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 16, **TEXT},
        {"input_ids": (2, 16)},
    ),
    "bert": ("BertForSequenceClassification", WIDTH | TEXT, {"input_ids": (2, 32)}),
    "vit": (
        "ViTForImageClassification",
        {**WIDTH, "image_size": 16, "patch_size": 8, "num_channels": 1},
        (2, 1, 16, 16),
    ),
    "resnet": (
        "ResNetForImageClassification",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2], "layer_type": "basic"},
        (2, 3, 224, 224),
    ),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, **TEXT},
        {"input_ids": (2, 32), "decoder_input_ids": (2, 32)},
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "decoder_ffn_dim": 64,
            "num_mel_bins": 8,
            "max_source_positions": 20,
            "max_target_positions": 48,
            "decoder_start_token_id": 1,
            **TEXT,
        },
        {"input_features": (2, 8, 40), "decoder_input_ids": (2, 32)},
    ),
    "audio-spectrogram-transformer": (
        "ASTForAudioClassification",
        {**WIDTH, "max_length": 64, "num_mel_bins": 32},
        {"input_values": (2, 64, 32)},
    ),
    "wav2vec2": (
        "Wav2Vec2ForCTC",
        {**WIDTH, **TEXT, "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 8}
        | {"num_conv_pos_embedding_groups": 4},
        {"input_values": (2, 16_000)},
    ),
}


def saved_transformers(folder, kind="gpt2"):
    name, settings, _ = MODELS[kind]
    torch.manual_seed(0)
    made = getattr(transformers, name)
    model = made(made.config_class(**settings)).eval()
    model.save_pretrained(folder)
    return model


def change(file, **entries):
    content = json.loads(file.read_text()) if file.exists() else {}
    content.update(entries)
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


class TestTorchvision:
    @pytest.fixture
    def weights_file(self, tmp_path, monkeypatch):
        """Where torchvision looks for the weights before it fetches them."""
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        url = torchvision.models.get_model_weights(SMALL).DEFAULT.url
        file = tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]
        file.parent.mkdir(parents=True)
        return file

    def test_default_weights_and_what_they_say_of_the_image(self, weights_file):
        torch.manual_seed(0)
        model = torchvision.models.get_model(SMALL)
        torch.save(model.state_dict(), weights_file)
        found = load_checkpoint(f"torchvision:{SMALL}")
        assert same(found.model, model)
        assert not found.model.training
        assert found.architecture == f"torchvision:{SMALL}"
        assert found.path is None
        assert found.normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert found.example(3).shape == (3, *found.input_shape) == (3, 3, 224, 224)

    def test_code_in_the_cached_file_is_not_run(self, weights_file, tmp_path):
        marker = tmp_path / "marker"
        weights_file.write_bytes(pickle.dumps(Touch(marker), protocol=2))
        refused(f"torchvision:{SMALL}", r"a pickle with more in it .* add --trust-pickle")
        assert not marker.exists()
        assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ
        # The control: trusted, the same file would run it.
        refused(f"torchvision:{SMALL}", "could not be loaded", trust_pickle=True)
        assert marker.exists()

    def test_no_network_and_unknown_names_are_told(self, weights_file, monkeypatch):
        def fail(*_, **__):
            raise urllib.error.URLError("no route")

        monkeypatch.setattr("torch.hub.download_url_to_file", fail)
        refused(f"torchvision:{SMALL}", r"could not be fetched \(.*no route.*not in the cache")
        refused("torchvision:resnet5", r"no classifier 'resnet5': .* did you mean .*resnet50")
        refused("torchvision:", "no classifier ''")

    @pytest.mark.parametrize(
        ("name", "side"),
        [
            ("resnet50", 224),
            ("inception_v3", 299),
            ("efficientnet_b7", 600),
            ("vit_h_14", 224),
            ("vit_b_16,image_size=64", 64),
            ("maxvit_t", 224),
            ("swin_v2_t", 256),
        ],
    )
    def test_size_of_the_image_is_that_of_the_weights_or_the_net(self, name, side):
        with torch.device("meta"):
            found = build_for_weights(f"torchvision:{name}", {})
        assert found.input_shape == (3, side, side)

    def test_every_classifier_has_weights_that_say_it(self):
        for name in torchvision.models.list_models(module=torchvision.models):
            preset = torchvision.models.get_model_weights(name).DEFAULT.transforms()
            assert len(preset.crop_size) == 1
            assert len(preset.mean) == len(preset.std) == 3


class TestTimm:
    @pytest.mark.parametrize("name", ["test_resnet", "test_resnet.r160_in1k"])
    def test_pretrained_by_name_with_or_without_tag(self, tmp_path, cache, name):
        model = saved_timm(tmp_path / "saved")
        put_in_cache(cache, "timm/test_resnet.r160_in1k", tmp_path / "saved")
        found = load_checkpoint(f"timm:{name}")
        assert same(found.model, model)
        assert (found.architecture, found.path) == (f"timm:{name}", None)
        own = timm.models.get_pretrained_cfg("test_resnet.r160_in1k")
        assert found.normalisation == (own.mean, own.std)
        assert found.input_shape == own.input_size == (3, 160, 160)

    @pytest.mark.parametrize("where", ["hub", "folder"])
    def test_saved_model_of_another_size(self, tmp_path, cache, where):
        model = saved_timm(tmp_path / "saved", "test_vit", img_size=64, num_classes=7)
        put_in_cache(cache, "some/net", tmp_path / "saved")
        found = load_checkpoint("hf-hub:some/net" if where == "hub" else tmp_path / "saved")
        assert same(found.model, model)
        assert found.input_shape == (3, 64, 64)
        assert found.architecture == "timm:test_vit"
        assert len(unravel(found.model, found.example())) == 6

    def test_pickled_weights_are_read_but_their_code_is_not_run(self, tmp_path):
        folder, marker = tmp_path / "saved", tmp_path / "marker"
        model = saved_timm(folder)
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
        assert same(load_checkpoint(folder).model, model)
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(marker), protocol=2))
        refused(folder, r"a pickle with more in it|could not be loaded")
        assert not marker.exists()

    @pytest.mark.parametrize(
        ("name", "match"),
        [
            ("resnet81", r"timm .* has no model 'resnet81': .* did you mean resnet"),
            ("resnet18.nowhere", r"no weights 'nowhere' of resnet18: .*resnet18\.a1_in1k"),
            ("coatnet_0_224", r"no pretrained weights of .* --arch timm:coatnet_0_224"),
            ("test_resnet", r"could not be fetched .* not in the cache, and the network"),
        ],
    )
    def test_what_cannot_be_had_is_told(self, cache, name, match):
        refused(f"timm:{name}", match)

    def test_unknown_architecture_of_a_saved_model(self, tmp_path):
        saved_timm(tmp_path)
        change(tmp_path / "config.json", architecture="test_resnets")
        refused(tmp_path, "has no model 'test_resnets': .* did you mean test_resnet")

    @pytest.mark.parametrize(("channels", "stated"), [(3, True), (1, False)])
    def test_weights_of_a_user_by_arch(self, tmp_path, channels, stated):
        torch.manual_seed(0)
        model = timm.create_model("test_vit", num_classes=7, in_chans=channels).eval()
        torch.save({"state_dict": model.state_dict()}, tmp_path / "net.pt")
        found = load_checkpoint(tmp_path / "net.pt", architecture="timm:test_vit")
        assert same(found.model, model)
        assert found.input_shape == (channels, 160, 160)
        assert (found.normalisation is not None) == stated
        refused(tmp_path / "net.pt", "do not fit timm:test_resnet", architecture="timm:test_resnet")
        refused(
            tmp_path / "net.pt",
            r"timm cannot build timm:test_vit,colour=3",
            architecture="timm:test_vit,colour=3",
        )

    def test_own_file_remembers_architecture_and_options(self, tmp_path):
        torch.manual_seed(0)
        model = timm.create_model("test_vit", img_size=32, num_classes=5).eval()
        name = "timm:test_vit.r160_in1k,img_size=32"
        save_checkpoint(tmp_path / "net.safetensors", model, architecture=name)
        found = load_checkpoint(tmp_path / "net.safetensors")
        assert same(found.model, model)
        assert found.architecture == name
        assert found.input_shape == (3, 32, 32)


class TestTransformers:
    @pytest.mark.parametrize("kind", MODELS)
    def test_folder_gives_the_model_and_an_example_that_it_takes(self, tmp_path, kind):
        model = saved_transformers(tmp_path, kind)
        found = load_checkpoint(tmp_path)
        assert type(found.model) is type(model)
        assert same(found.model, model)
        assert (found.normalisation, found.path) == (None, tmp_path)
        expected, example = MODELS[kind][2], found.example(2)
        if isinstance(expected, tuple):
            assert example.shape == expected
            assert found.input_shape == expected[1:]
            arguments = ((example,), {})
        else:
            assert {name: tuple(value.shape) for name, value in example.items()} == expected
            assert found.input_shape is None
            arguments = ((), example)
        with torch.no_grad():
            assert torch.isfinite(found.model(*arguments[0], **arguments[1])[0]).all()

    @pytest.mark.parametrize("kind", ["gpt2", "bert", "vit"])
    def test_model_of_the_hub_is_taken_apart(self, tmp_path, cache, kind):
        model = saved_transformers(tmp_path / "saved", kind)
        put_in_cache(cache, "some/model", tmp_path / "saved")
        found = load_checkpoint("hf-hub:some/model")
        assert same(found.model, model)
        assert len(unravel(found.model, found.example())) == 2
        assert same(load_checkpoint(f"hf-hub:some/model@{REVISION}").model, model)

    def test_examples_are_drawn_from_the_seed(self, tmp_path):
        saved_transformers(tmp_path)
        found = load_checkpoint(tmp_path)
        one, again, other = (found.example(9, seed=seed)["input_ids"] for seed in (0, 0, 1))
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
        assert 0 <= one.min() <= one.max() < 99

    @pytest.mark.parametrize(
        ("file", "settings", "stated"),
        [
            ("preprocessor_config.json", {}, True),
            ("preprocessor_config.json", {"do_normalize": False}, False),
            ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}, False),
            ("processor_config.json", {}, True),
        ],
    )
    def test_image_processor_says_normalisation_and_size(self, tmp_path, file, settings, stated):
        saved_transformers(tmp_path, "resnet")
        processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
        processor |= {"size": {"shortest_edge": 64}, **settings}
        nested = file.startswith("processor")
        change(tmp_path / file, **({"image_processor": processor} if nested else processor))
        found = load_checkpoint(tmp_path)
        assert found.input_shape == (3, 64, 64)
        expected = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)) if stated else None
        assert found.normalisation == expected

    def test_processor_as_transformers_itself_saves_it(self, tmp_path):
        saved_transformers(tmp_path, "resnet")
        size = {"height": 48, "width": 32}
        transformers.ViTImageProcessor(size=size, image_mean=[0.1] * 3).save_pretrained(tmp_path)
        found = load_checkpoint(tmp_path)
        assert found.input_shape == (3, 48, 32)
        assert found.normalisation == ((0.1,) * 3, (0.5,) * 3)

    def test_pickled_weights_need_trust(self, tmp_path):
        model = saved_transformers(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
        refused(tmp_path, r"no \.safetensors file: its weights may be pickled; .*--trust-pickle")
        assert same(load_checkpoint(tmp_path, trust_pickle=True).model, model)

    def test_weights_that_are_missing_are_not_made_up(self, tmp_path):
        saved_transformers(tmp_path, "bert")
        file = tmp_path / "model.safetensors"
        weights = safetensors.torch.load_file(file)
        del weights["classifier.weight"]
        safetensors.torch.save_file(weights, file, metadata={"format": "pt"})
        refused(tmp_path, r"leave 1 of BertForSequenceClassification unset \(classifier\.weight\)")

    @pytest.mark.parametrize(
        ("entries", "match"),
        [
            ({"architectures": ["GPT2LMHeadModels"]}, r"no model GPT2LMHeadModels.* did you mean"),
            ({"architectures": ["pipeline"]}, "no model pipeline"),
            (
                {"architectures": ["OwnModel"], "auto_map": {"AutoModel": "own.OwnModel"}},
                "needs code of its own .OwnModel., which is never run",
            ),
            ({"quantization_config": {"quant_method": "gptq"}}, r"quantised weights \(gptq\)"),
            ({"architectures": None, "model_type": None}, "neither architectures nor a model_type"),
        ],
    )
    def test_configurations_that_cannot_be_followed(self, tmp_path, entries, match):
        saved_transformers(tmp_path)
        change(tmp_path / "config.json", **entries)
        refused(tmp_path, match)

    def test_code_beside_the_weights_is_not_run(self, tmp_path):
        model = saved_transformers(tmp_path)
        marker = tmp_path / "marker"
        (tmp_path / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
        change(tmp_path / "config.json", auto_map={"AutoModelForCausalLM": "own.GPT2LMHeadModel"})
        assert same(load_checkpoint(tmp_path).model, model)
        assert not marker.exists()

    def test_without_a_class_the_type_of_the_model_is_taken(self, tmp_path):
        model = saved_transformers(tmp_path)
        change(tmp_path / "config.json", architectures=None)
        found = load_checkpoint(tmp_path).model
        assert type(found) is transformers.GPT2Model
        assert same(found, model.transformer)

    def test_damaged_files_are_told(self, tmp_path):
        saved_transformers(tmp_path)
        (tmp_path / "model.safetensors").write_bytes(b"short")
        refused(tmp_path, "could not be loaded")
        (tmp_path / "config.json").write_text("{")
        refused(tmp_path, r"config\.json cannot be read as JSON")
        (tmp_path / "config.json").write_text("[]")
        refused(tmp_path, "holds a list: expected an object")


class TestSources:
    @pytest.mark.parametrize(
        ("module", "name", "extra"),
        [
            ("timm", "timm:resnet18", "timm"),
            ("huggingface_hub", "hf-hub:some/net", "transformers"),
        ],
    )
    def test_missing_library_names_the_extra(self, monkeypatch, module, name, extra):
        monkeypatch.setitem(sys.modules, module, None)
        refused(name, rf"{name} needs the library {module}, .*'ensemble-view\[{extra}\]'")

    def test_missing_library_of_a_folder_or_an_architecture(self, tmp_path, monkeypatch):
        saved_transformers(tmp_path / "model")
        saved_timm(tmp_path / "net")
        torch.save(nn.Linear(2, 3).state_dict(), tmp_path / "net.pt")
        monkeypatch.setitem(sys.modules, "transformers", None)
        monkeypatch.setitem(sys.modules, "timm", None)
        refused(tmp_path / "model", r"needs the library transformers")
        refused(tmp_path / "net", r"needs the library timm")
        refused(tmp_path / "net.pt", r"needs the library timm", architecture="timm:resnet18")

    @pytest.mark.parametrize(
        ("error", "match"),
        [
            ("GatedRepoError", "is gated: ask for access .* hf auth login"),
            ("RepositoryNotFoundError", "There is no hf-hub:some/net that you may see"),
            ("RevisionNotFoundError", "has no such revision"),
            ("RemoteEntryNotFoundError", r"has no config\.json, so that it is neither"),
            ("LocalEntryNotFoundError", "could not be fetched"),
        ],
    )
    def test_what_the_hub_answers_is_told(self, monkeypatch, error, match):
        def answer(*_, **__):
            kind = getattr(hub.errors, error)
            raise kind.__new__(kind)

        monkeypatch.setattr(hub, "hf_hub_download", answer)
        refused("hf-hub:some/net", match)

    def test_names_that_are_none_and_an_empty_cache(self, cache):
        refused("hf-hub:a/b/c", r"expected hf-hub:ORG/NAME")
        refused("hf-hub:some/net", "could not be fetched .* not in the cache")
        refused("absent.pt", r"expected a path, torchvision:NAME, timm:NAME or hf-hub:ORG/NAME")

    def test_a_file_of_that_name_comes_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        save_checkpoint(
            "net.pt", torchvision.models.resnet18(), architecture="torchvision:resnet18"
        )
        Path("net.pt").rename("timm:resnet18")
        assert load_checkpoint("timm:resnet18").architecture == "torchvision:resnet18"

    def test_architecture_is_for_weights_only(self, tmp_path):
        saved_transformers(tmp_path)
        for name in (tmp_path, f"torchvision:{SMALL}"):
            refused(name, "says its architecture itself: leave out --arch", architecture="resnet8")

    def test_quantised_model_stays_as_it_is(self, tmp_path, monkeypatch):
        saved_transformers(tmp_path)

        def fail(_):
            raise ValueError("cannot be cast")

        monkeypatch.setattr(transformers.GPT2LMHeadModel, "is_quantized", True, raising=False)
        monkeypatch.setattr(transformers.GPT2LMHeadModel, "float", fail)
        assert load_checkpoint(tmp_path).model.is_quantized

    def test_command_line_off_line_in_a_process_of_its_own(self, tmp_path, cache):
        saved_transformers(tmp_path / "saved")
        put_in_cache(cache, "some/model", tmp_path / "saved")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
        words = [sys.executable, "-m", "ensemble_view", "inspect"]
        done = subprocess.run(
            [*words, "hf-hub:some/model"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert "GPT2LMHeadModel: 2 blocks, 0 links" in done.stdout
        assert "‖F‖/‖h‖" not in done.stdout
        done = subprocess.run(
            [*words, "hf-hub:some/other"], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert done.stderr.startswith("Error: hf-hub:some/other could not be fetched")


def exported(path, model, shape=(2, 3, 8, 8), **options):
    torch.export.save(torch.export.export(model, (torch.randn(shape),), **options), path)


OPEN = {"dynamic_shapes": ({0: Dim.DYNAMIC},)}


class TestExported:
    def test_program_is_taken_apart_with_its_module_paths(self, tmp_path):
        file, model = tmp_path / "net.pt2", net()
        exported(file, model, **OPEN)
        refused(file, r"is a program of torch\.export.*unpickles.*--trust-pickle")
        found = load_checkpoint(file, trust_pickle=True)
        assert (found.architecture, found.input_shape) == ("torch.export", (3, 8, 8))
        images = found.example(3)
        with torch.no_grad():
            assert torch.allclose(found.model(images), model(images), atol=1e-6)
        chain = unravel(found.model, images)
        assert len(chain) == 2
        model.blocks[1].weight.data.zero_()
        model.blocks[1].bias.data.zero_()
        plan = bind(Delete(1), chain.outline)
        with torch.no_grad():
            engine = dict(Engine(chain, [plan]).logits(images))[0]
            with edited(chain, Delete(1)):
                hooks = found.model(images)
            assert torch.allclose(engine, model(images), atol=1e-6)
            assert torch.allclose(hooks, model(images), atol=1e-6)

    def test_paths_of_nested_modules_survive(self, tmp_path):
        torch.manual_seed(0)
        exported(tmp_path / "net", biting(timm.create_model("test_resnet")), (2, 3, 64, 64), **OPEN)
        found = load_checkpoint(tmp_path / "net", trust_pickle=True)
        names = [block.name for block in unravel(found.model, found.example())]
        assert names == ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]

    def test_what_the_export_settled_is_told(self, tmp_path):
        exported(tmp_path / "fixed.pt2", net())
        refused(tmp_path / "fixed.pt2", "exported for batches of 2 only", trust_pickle=True)
        for name, model in (("norm", net()), ("dropout", nn.Sequential(nn.Dropout(), net()))):
            exported(tmp_path / f"{name}.pt2", model.train(), **OPEN)
            refused(tmp_path / f"{name}.pt2", "exported in training mode", trust_pickle=True)

    def test_weights_of_a_program_with_a_batch_of_its_own(self, tmp_path):
        torch.manual_seed(0)
        model = torchvision.models.resnet18(num_classes=3).eval()
        exported(tmp_path / "net.pt2", model, (2, 3, 32, 32))
        options = {"architecture": "torchvision:resnet18", "trust_pickle": True}
        assert same(load_checkpoint(tmp_path / "net.pt2", **options).model, model)

    def test_keyword_arguments_are_made_up_as_they_were_exported(self, tmp_path):
        class Tokens(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(7, 4)

            def forward(self, *, words, scale):
                return self.embedding(words) * scale[:, None]

        words, scale = torch.tensor([[1, 6, 2], [0, 3, 4]]), torch.ones(2, 1)
        program = torch.export.export(
            Tokens().eval(),
            (),
            {"words": words, "scale": scale},
            dynamic_shapes={"words": {0: Dim.AUTO}, "scale": {0: Dim.AUTO}},
        )
        torch.export.save(program, tmp_path / "net.pt2")
        found = load_checkpoint(tmp_path / "net.pt2", trust_pickle=True)
        example = found.example(5)
        assert {name: value.shape for name, value in example.items()} == {
            "words": (5, 3),
            "scale": (5, 1),
        }
        assert example["words"].max() <= 6
        assert found.model(**example).shape == (5, 3, 4)

    def test_outputs_of_a_library_are_known_in_a_process_of_their_own(self, tmp_path):
        model = saved_transformers(tmp_path / "saved")
        model.config.use_cache = False
        tokens = {"input_ids": torch.randint(99, (2, 8))}
        dynamic = {"input_ids": {0: Dim.AUTO}}
        program = torch.export.export(model, (), tokens, dynamic_shapes=dynamic, strict=False)
        torch.export.save(program, tmp_path / "net.pt2")
        words = [sys.executable, "-m", "ensemble_view", "inspect", str(tmp_path / "net.pt2")]
        done = subprocess.run([*words, "--trust-pickle"], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "transformer.h.1  8×32   identity" in done.stdout

    def test_damaged_program_is_told(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "net.pt2", "w") as archive:
            archive.writestr("net/archive_format", "pt2")
        refused(tmp_path / "net.pt2", "could not be loaded .*version", trust_pickle=True)


class Stateful(nn.Module):
    """Loading this as TorchScript runs a method of the file, which prints."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return x * self.weight

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        print("code of the file")
        self.weight = state[0]
        self.training = state[1]


@pytest.mark.filterwarnings("ignore")
class TestScripted:
    def archive(self, path, model, traced=False):
        script = torch.jit.trace(model, torch.randn(1, 3, 8, 8)) if traced else None
        script = torch.jit.script(model) if script is None else script
        script.save(str(path))
        return script

    @pytest.mark.parametrize("traced", [True, False])
    def test_weights_are_used_for_a_named_architecture(self, tmp_path, traced):
        file, model = tmp_path / "net.pt", net(seed=3)
        self.archive(file, model, traced)
        (tmp_path / "nets.py").write_text(
            f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            "from test_adapters import Net as make\n"
        )
        refused(file, r"TorchScript archive, whose program is not run: .* name the architecture")
        for trust_pickle in (False, True):
            found = load_checkpoint(
                file, architecture=f"{tmp_path}/nets.py:make", trust_pickle=trust_pickle
            )
            assert same(found.model, model)

    def test_tensors_equal_those_of_the_interpreter(self, tmp_path):
        from ensemble_view.nets.adapters.scripted import read_scripted_weights

        script = self.archive(tmp_path / "net.pt", net())
        weights = read_scripted_weights(tmp_path / "net.pt")
        for name, value in script.state_dict().items():
            assert weights[name].dtype == value.dtype
            assert torch.equal(weights[name], value)

    def test_architecture_that_the_weights_look_like_is_only_named(self, tmp_path):
        self.archive(tmp_path / "net.pt", torchvision.models.resnet18().eval())
        refused(tmp_path / "net.pt", "for example torchvision:resnet18, which its weights look")
        found = load_checkpoint(tmp_path / "net.pt", architecture="torchvision:resnet18")
        assert found.input_shape == (3, 224, 224)

    def test_code_of_the_archive_is_not_run(self, tmp_path, capfd):
        file = tmp_path / "net.pt"
        torch.jit.script(Stateful()).save(str(file))
        # The control: torch.jit.load runs it.
        torch.jit.load(str(file))
        assert "code of the file" in capfd.readouterr().out
        refused(file, "a module with a __setstate__ of its own", architecture="cifar:resnet8")
        assert "code of the file" not in capfd.readouterr().out

    def test_pickle_that_calls_something_is_refused(self, tmp_path):
        self.archive(tmp_path / "net.pt", net())
        marker = tmp_path / "marker"
        with (
            zipfile.ZipFile(tmp_path / "net.pt") as old,
            zipfile.ZipFile(tmp_path / "hostile.pt", "w") as new,
        ):
            for name in old.namelist():
                hostile = name.endswith("/data.pkl")
                new.writestr(name, pickle.dumps(Touch(marker)) if hostile else old.read(name))
        refused(tmp_path / "hostile.pt", "holds .*mkdir, which is not read", trust_pickle=True)
        assert not marker.exists()

    def test_frozen_and_damaged_archives_are_told(self, tmp_path):
        torch.jit.freeze(torch.jit.script(net())).save(str(tmp_path / "frozen.pt"))
        refused(tmp_path / "frozen.pt", r"without named weights, as torch\.jit\.freeze leaves it")
        with zipfile.ZipFile(tmp_path / "short.pt", "w") as archive:
            archive.writestr("net/constants.pkl", b"")
        refused(tmp_path / "short.pt", "is no complete TorchScript archive")


def test_inspect_takes_whatever_the_model_takes():
    model = net()
    images = torch.randn(2, 3, 8, 8)
    tables = [
        inspect(unravel(model, sample), sample).frame
        for sample in (images, (images,), {"x": images})
    ]
    # A 3×3 convolution of 4 channels on 8×8 pixels: a multiplication and an addition each.
    assert tables[0]["flops"].tolist() == [2 * 4 * 4 * 9 * 64] * 2
    assert tables[0]["branch_ratio"].gt(0).all()
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    made_up = inspect(unravel(model, images), images, made_up=True).frame
    assert made_up["branch_ratio"].isna().all()
    assert made_up["flops"].tolist() == tables[0]["flops"].tolist()


def test_bench_says_that_it_takes_no_tokens(tmp_path, capsys):
    saved_transformers(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["bench", str(tmp_path)])
    assert stop.value.code == 2
    assert "GPT2LMHeadModel takes input_ids" in capsys.readouterr().err
