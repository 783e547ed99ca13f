"""Checkpoints: every format that is read, every damage that is named, and no code that is run."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import io
import json
import os
import pickle
import tarfile

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from ensemble_view.errors import CheckpointError
from ensemble_view.nets.checkpoints import (
    load_checkpoint,
    resolve_model,
    save_checkpoint,
    weights_hash,
)
from ensemble_view.nets.models.building import build
from ensemble_view.nets.weights import fill, strip, weights_in
from ensemble_view.nets.weights_file import SUFFIXES, check_destination


def net(name="resnet8", seed=0, **options):
    torch.manual_seed(seed)
    return build(name, **options).eval()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "net.pt"


class Touch:
    """Unpickling this makes a folder: the code that must not run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Pickled(nn.Module):
    """A user's own module, pickled whole."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x):
        return self.linear(x)


def same(one, other):
    weights, others = one.state_dict(), other.state_dict()
    return list(weights) == list(others) and all(
        torch.equal(weights[name], others[name]) for name in weights
    )


class TestOwnFormat:
    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_everything_comes_back(self, tmp_path, suffix):
        path, model = tmp_path / f"net{suffix}", net("resnet8v2,width=4", in_channels=1, classes=3)
        record = {"epochs": 2, "history": [{"loss": 0.5, "test_accuracy": None}]}
        save_checkpoint(
            path,
            model,
            architecture="resnet8v2,width=4",
            normalisation=((0.25,), (0.5,)),
            data="digits",
            class_names=["a", "b", "c"],
            input_shape=(1, 8, 8),
            training=record,
        )
        found = load_checkpoint(path)
        assert same(found.model, model)
        assert not found.model.training
        assert found.architecture == "cifar:resnet8v2,width=4"
        assert found.normalisation == ((0.25,), (0.5,))
        assert (found.data, found.class_names) == ("digits", ("a", "b", "c"))
        assert (found.input_shape, found.training) == ((1, 8, 8), record)
        assert found.weights_hash == weights_hash(model)
        assert found.path == path

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_what_is_not_known_stays_none(self, tmp_path, suffix):
        path = tmp_path / f"net{suffix}"
        save_checkpoint(path, net(), architecture="resnet8")
        found = load_checkpoint(path)
        unknown = (found.normalisation, found.data, found.class_names, found.input_shape)
        assert (*unknown, found.training) == (None,) * 5

    def test_half_precision_halves_the_file_and_keeps_small_weights(self, tmp_path):
        model = net("resnet8")
        sizes = {}
        for half in (False, True):
            path = tmp_path / f"{half}.safetensors"
            save_checkpoint(path, model, architecture="resnet8", half=half)
            sizes[half] = path.stat().st_size
        found = load_checkpoint(tmp_path / "True.safetensors").model
        assert sizes[True] < 0.6 * sizes[False]
        for name, value in model.state_dict().items():
            loaded = found.state_dict()[name]
            assert loaded.dtype == value.dtype
            assert torch.equal(loaded, value.half().float() if value.ndim > 1 else value)

    def test_weights_too_large_for_half_precision_stay_whole(self, file):
        model = net()
        with torch.no_grad():
            model.linear.weight[0, 0] = 1e6
        save_checkpoint(file, model, architecture="resnet8", half=True)
        assert load_checkpoint(file).model.linear.weight[0, 0] == 1e6

    def test_tied_weights_can_be_saved(self, tmp_path):
        code = "from torch import nn\ndef make():\n    a = nn.Linear(2, 2)\n"
        code += "    return nn.Sequential(a, a)\n"
        (tmp_path / "nets.py").write_text(code)
        layer = nn.Linear(2, 2)
        model = nn.Sequential(layer, layer)
        name = f"{tmp_path}/nets.py:make"
        for suffix in (".pt", ".safetensors"):
            save_checkpoint(tmp_path / f"net{suffix}", model, architecture=name)
            assert same(load_checkpoint(tmp_path / f"net{suffix}", architecture=name).model, model)

    def test_compiled_and_wrapped_nets_are_saved_under_plain_names(self, file):
        model = net()
        save_checkpoint(file, nn.DataParallel(model), architecture="resnet8")
        assert same(load_checkpoint(file).model, model)

    def test_factory_in_the_file_is_not_run_unless_named(self, tmp_path, file):
        marker = tmp_path / "marker"
        (tmp_path / "nets.py").write_text(
            f"open({str(marker)!r}, 'w').close()\nfrom torch import nn\n"
            "def make():\n    return nn.Linear(2, 3)\n"
        )
        factory = f"{tmp_path}/nets.py:make"
        save_checkpoint(file, nn.Linear(2, 3), architecture=factory)
        with pytest.raises(CheckpointError, match=r"from the factory .*nets\.py:make: name it"):
            load_checkpoint(file)
        assert not marker.exists()
        assert load_checkpoint(file, architecture=factory).architecture == factory
        assert marker.exists()

    def test_unknown_suffix_and_unwritable_places_are_refused(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"suffix '\.onnx': expected one of \.pt"):
            save_checkpoint(tmp_path / "net.onnx", net(), architecture="resnet8")
        (tmp_path / "blocked").write_text("a file where a folder should be")
        for act in (
            lambda path: save_checkpoint(path, net(), architecture="resnet8"),
            check_destination,
        ):
            with pytest.raises(CheckpointError, match=r"cannot be written \(.*\): choose another"):
                act(tmp_path / "blocked" / "net.pt")
        folder = tmp_path / "folder.pt"
        folder.mkdir()
        with pytest.raises(CheckpointError, match="is a folder: name a file to write"):
            check_destination(folder)

    def test_probing_a_place_leaves_nothing(self, tmp_path):
        check_destination(tmp_path / "new" / "net.pt")
        assert os.listdir(tmp_path / "new") == []

    def test_failed_write_keeps_the_old_file(self, file, monkeypatch):
        save_checkpoint(file, net(), architecture="resnet8")
        before = file.read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.replace", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            save_checkpoint(file, net(seed=1), architecture="resnet8")
        assert file.read_bytes() == before
        assert os.listdir(file.parent) == [file.name]

    def test_later_version_is_refused(self, file):
        torch.save({"ensemble_view": {"version": 2}, "state_dict": net().state_dict()}, file)
        with pytest.raises(CheckpointError, match=r"version 2 of this format, .* install a newer"):
            load_checkpoint(file)

    @pytest.mark.parametrize(
        ("described", "message"),
        [
            ([1], "description in .* is damaged"),
            ({"version": 1, "class_names": "abc"}, "description in .* is damaged"),
            ({"version": 1, "normalisation": {"mean": [1]}}, "expected mean and std"),
            ({"version": 1, "normalisation": 3}, "expected mean and std"),
            (
                {"version": 1, "architecture": {"name": 3}},
                "architecture is .* expected a name, options and a family",
            ),
            ({"version": 1, "architecture": {"name": "resnet9"}}, "Depth 9 does not fit"),
        ],
    )
    def test_damaged_description_is_refused(self, file, described, message):
        torch.save({"ensemble_view": described, "state_dict": net().state_dict()}, file)
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(file)


class TestWeightsHash:
    def test_same_for_every_format(self, tmp_path):
        model = net()
        for suffix in SUFFIXES:
            save_checkpoint(tmp_path / f"net{suffix}", model, architecture="resnet8")
            found = load_checkpoint(tmp_path / f"net{suffix}")
            assert found.weights_hash == weights_hash(model)

    def test_every_change_is_seen(self):
        model = net()
        before = weights_hash(model)
        with torch.no_grad():
            model.layer2[0].bn1.running_var[3] += 1e-3
        assert weights_hash(model) != before

    def test_equals_a_hash_written_by_hand(self):
        model = nn.Linear(2, 1)
        bias, weight = model.bias.detach().numpy(), model.weight.detach().numpy()
        text = b"bias torch.float32 (1,)\n" + bias.astype("<f4").tobytes()
        text += b"weight torch.float32 (1, 2)\n" + weight.astype("<f4").tobytes()
        assert weights_hash(model) == hashlib.sha256(text).hexdigest()


WRAPPINGS = {
    "bare": lambda weights: weights,
    "ordered": collections.OrderedDict,
    "state_dict": lambda weights: {"state_dict": weights, "best_prec1": 93.5, "epoch": 3},
    "model": lambda weights: {"model": weights},
    "net": lambda weights: {"net": weights, "acc": 93.0},
    "twice": lambda weights: {"model": {"state_dict": weights}},
    "module": lambda weights: {f"module.{name}": value for name, value in weights.items()},
    "compiled": lambda weights: {f"_orig_mod.{name}": value for name, value in weights.items()},
    "both": lambda weights: {
        "state_dict": {f"module._orig_mod.{name}": value for name, value in weights.items()}
    },
}


class TestForeignFiles:
    @pytest.mark.parametrize("wrapping", WRAPPINGS)
    @pytest.mark.parametrize("name", ["resnet8", "resnet14v2", "plain8", "vgg10,width=4"])
    def test_weights_are_found_and_the_architecture_told(self, file, wrapping, name):
        model = net(name, in_channels=1, classes=7)
        torch.save(WRAPPINGS[wrapping](model.state_dict()), file)
        found = load_checkpoint(file)
        assert same(found.model, model)
        assert found.architecture == f"cifar:{name}"
        assert (found.normalisation, found.data) == (None, None)

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".th"])
    def test_both_formats_of_torch_are_read(self, tmp_path, suffix, zipped):
        path, model = tmp_path / f"net{suffix}", net()
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=zipped)
        assert same(load_checkpoint(path).model, model)

    def test_safetensors_of_others_are_read(self, tmp_path):
        path, model = tmp_path / "net.safetensors", net()
        safetensors.torch.save_file(model.state_dict(), path, metadata={"format": "pt"})
        assert same(load_checkpoint(path).model, model)

    @pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions_become_single(self, file, kind):
        weights = {
            k: v.to(kind) if v.is_floating_point() else v for k, v in net().state_dict().items()
        }
        torch.save(weights, file)
        found = load_checkpoint(file).model
        assert {value.dtype for value in found.parameters()} == {torch.float32}
        assert torch.equal(found.conv1.weight, weights["conv1.weight"].float())

    def test_common_names_of_the_layout_are_taken(self, file):
        model = net("resnet8,shortcut=B")
        weights = {
            name.replace("linear.", "fc.").replace("shortcut", "downsample"): value
            for name, value in model.state_dict().items()
        }
        torch.save(weights, file)
        found = load_checkpoint(file)
        assert found.architecture == "cifar:resnet8,shortcut=B"
        assert same(found.model, model)

    def test_counters_of_batch_norm_may_be_missing(self, file):
        weights = {k: v for k, v in net().state_dict().items() if "num_batches" not in k}
        torch.save(weights, file)
        assert load_checkpoint(file).architecture == "cifar:resnet8"

    def test_torchvision_net_is_told_and_normalised_as_imagenet(self, file):
        model = torchvision.models.resnet18(num_classes=5).eval()
        torch.save(model.state_dict(), file)
        found = load_checkpoint(file)
        assert found.architecture == "torchvision:resnet18"
        assert found.normalisation == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert same(found.model, model)

    def test_architecture_named_by_the_user_comes_first(self, tmp_path, file):
        torch.save(net("resnet8").state_dict(), file)
        assert load_checkpoint(file, architecture="cifar:resnet8").architecture == "cifar:resnet8"
        model = torchvision.models.squeezenet1_1(num_classes=6)
        torch.save(model.state_dict(), file)
        found = load_checkpoint(file, architecture="torchvision:squeezenet1_1")
        assert same(found.model, model)
        (tmp_path / "nets.py").write_text(
            "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(2, 3))\n"
        )
        torch.save(nn.Sequential(nn.Linear(2, 3)).state_dict(), file)
        name = f"{tmp_path / 'nets.py'}:make"
        assert load_checkpoint(file, architecture=name).architecture == name

    def test_unknown_device_is_refused(self, file):
        torch.save(net().state_dict(), file)
        with pytest.raises(CheckpointError, match="The device 'abacus' cannot be used"):
            load_checkpoint(file, device="abacus")


class TestMisfits:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda w: w.pop("layer1.0.bn1.weight"), r"missing layer1\.0\.bn1\.weight; name"),
            (lambda w: w.update(extra=torch.ones(1)), "unexpected extra; name another"),
            (
                lambda w: w.update({"layer1.0.bn1.weight": torch.ones(3)}),
                r"reshaped layer1\.0\.bn1\.weight \(3 instead of 16\)",
            ),
        ],
    )
    def test_what_does_not_fit_is_named(self, file, change, message):
        weights = dict(net().state_dict())
        change(weights)
        torch.save(weights, file)
        with pytest.raises(CheckpointError, match=f"do not fit cifar:resnet8: {message}"):
            load_checkpoint(file)

    def test_long_lists_are_shortened(self, file):
        torch.save(net("resnet8").state_dict(), file)
        with pytest.raises(
            CheckpointError, match=r"missing layer1\.1.* and \d+ more; name"
        ) as info:
            load_checkpoint(file, architecture="cifar:resnet20")
        assert len(str(info.value)) < 500

    def test_unknown_architecture_names_file_and_choice(self, file):
        torch.save(net().state_dict(), file)
        with pytest.raises(CheckpointError, match=r"net\.pt: There is no net cifar:lenet here"):
            load_checkpoint(file, architecture="lenet")
        with pytest.raises(CheckpointError, match="torchvision has no classifier 'resnet7'"):
            load_checkpoint(file, architecture="torchvision:resnet7")
        with pytest.raises(CheckpointError, match=r"There is no Python file absent\.py"):
            load_checkpoint(file, architecture="absent.py:make")

    def test_weights_of_an_unknown_net_need_a_name(self, file):
        torch.save(nn.Linear(2, 3).state_dict(), file)
        with pytest.raises(CheckpointError, match=r"cannot be told .* 2 weights \(weight, bias"):
            load_checkpoint(file)

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ({}, "an empty dict"),
            ([torch.ones(2)], "list"),
            (torch.ones(2), "Tensor"),
            ({"epoch": 3, "loss": 0.5}, "a dict of epoch, loss"),
            ({"state_dict": {}}, "an empty dict"),
            ({"state_dict": {"weight": 3}}, "a dict of weight"),
            ({1: torch.ones(2)}, "a dict of 1"),
        ],
    )
    def test_files_without_weights_say_what_they_hold(self, file, content, found):
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=f"holds no weights but {found}: expected a"):
            load_checkpoint(file)


class TestDamage:
    def test_missing_file_names_the_bundled_nets(self):
        with pytest.raises(CheckpointError, match=r"no model file 'absent\.pt'.*digits-resnet110"):
            load_checkpoint("absent.pt")

    def test_folder_is_refused(self, tmp_path):
        with pytest.raises(CheckpointError, match="is a folder: name a model file in it"):
            load_checkpoint(tmp_path)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    def test_empty_file_is_refused(self, tmp_path, suffix):
        path = tmp_path / f"net{suffix}"
        path.touch()
        with pytest.raises(CheckpointError, match="is empty: expected a model"):
            load_checkpoint(path)

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
    def test_truncated_torch_file_is_refused(self, file, zipped, share):
        torch.save(net().state_dict(), file, _use_new_zipfile_serialization=zipped)
        content = file.read_bytes()
        file.write_bytes(content[: int(share * len(content))])
        with pytest.raises(CheckpointError, match="is no complete model file: expected what torch"):
            load_checkpoint(file)

    @pytest.mark.parametrize("share", [0.0001, 0.3, 0.999])
    def test_truncated_safetensors_are_refused(self, tmp_path, share):
        path = tmp_path / "net.safetensors"
        save_checkpoint(path, net(), architecture="resnet8")
        content = path.read_bytes()
        path.write_bytes(content[: max(1, int(share * len(content)))])
        with pytest.raises(CheckpointError, match=r"is no complete \.safetensors file \("):
            load_checkpoint(path)

    def test_safetensors_with_damaged_description_are_refused(self, tmp_path):
        path = tmp_path / "net.safetensors"
        safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata={"ensemble_view": "{"})
        with pytest.raises(CheckpointError, match=r"is no complete \.safetensors file"):
            load_checkpoint(path)

    @pytest.mark.parametrize("suffix", SUFFIXES)
    @pytest.mark.parametrize("seed", range(20))
    def test_random_bytes_are_refused(self, tmp_path, suffix, seed):
        path = tmp_path / f"net{suffix}"
        generator = np.random.default_rng(seed)
        path.write_bytes(generator.bytes(int(generator.integers(1, 2000))))
        with pytest.raises(CheckpointError, match="is no complete"):
            load_checkpoint(path)

    @pytest.mark.parametrize("text", ["<html>Not found</html>", "version https://git-lfs", "\x80"])
    def test_text_is_refused(self, file, text):
        file.write_text(text)
        with pytest.raises(CheckpointError, match="is no complete model file"):
            load_checkpoint(file)

    def test_safetensors_under_another_suffix_are_refused(self, tmp_path, file):
        save_checkpoint(tmp_path / "net.safetensors", net(), architecture="resnet8")
        file.write_bytes((tmp_path / "net.safetensors").read_bytes())
        with pytest.raises(CheckpointError, match="is no complete model file"):
            load_checkpoint(file)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
    def test_unreadable_file_is_refused(self, file):
        torch.save(net().state_dict(), file)
        file.chmod(0)
        with pytest.raises(CheckpointError, match="may not be read: check its permissions"):
            load_checkpoint(file)


def hostile_torch_zip(path, touch):
    torch.save({"state_dict": net().state_dict(), "extra": touch}, path)


def hostile_torch_legacy(path, touch):
    content = {"state_dict": net().state_dict(), "extra": touch}
    torch.save(content, path, _use_new_zipfile_serialization=False)


def hostile_raw_pickle(path, touch):
    path.write_bytes(pickle.dumps({"state_dict": touch}))


def hostile_old_pickle(path, touch):
    path.write_bytes(pickle.dumps({"state_dict": touch}, protocol=0))


HOSTILE = [hostile_torch_zip, hostile_torch_legacy, hostile_raw_pickle, hostile_old_pickle]


class TestCode:
    @pytest.mark.parametrize("write", HOSTILE)
    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".th"])
    def test_code_in_a_pickle_is_named_and_not_run(self, tmp_path, write, suffix):
        path, marker = tmp_path / f"net{suffix}", tmp_path / "marker"
        write(path, Touch(marker))
        with pytest.raises(CheckpointError, match=r"calls .*mkdir.* blocked .* --trust-pickle"):
            load_checkpoint(path)
        assert not marker.exists()

    @pytest.mark.parametrize("write", HOSTILE)
    def test_the_same_code_would_run_if_trusted(self, tmp_path, write):
        """The control: without it, the test above could pass on a harmless file."""
        path, marker = tmp_path / "net.pt", tmp_path / "marker"
        write(path, Touch(marker))
        with contextlib.suppress(CheckpointError):
            load_checkpoint(path, trust_pickle=True)
        assert marker.exists()

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("wrapped", [True, False])
    def test_pickled_module_needs_trust(self, file, zipped, wrapped):
        model = Pickled()
        content = {"model": model} if wrapped else model
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match=r"calls .*test_checkpoints\.Pickled.*blocked"):
            load_checkpoint(file)
        found = load_checkpoint(file, trust_pickle=True)
        assert same(found.model, model)
        assert found.architecture.endswith("test_checkpoints.Pickled")

    def test_pickle_of_a_missing_module_says_so_when_trusted(self, file):
        file.write_bytes(b"cabsent_module\nNet\n.")
        with pytest.raises(CheckpointError, match="could not be unpickled"):
            load_checkpoint(file, trust_pickle=True)

    def test_early_tar_format_needs_trust(self, file):
        with tarfile.open(file, "w") as archive:
            for name in ("sys_info", "pickle", "tensors", "storages"):
                content = pickle.dumps({})
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        with pytest.raises(CheckpointError, match="tar format of early PyTorch"):
            load_checkpoint(file)


class TestBundledNets:
    def test_names_and_paths_are_resolved(self, file):
        assert resolve_model("digits-resnet110").name == "digits-resnet110.safetensors"
        torch.save(net().state_dict(), file)
        assert resolve_model(file) == file
        assert resolve_model(str(file)) == file

    def test_a_file_of_that_name_comes_before_the_bundled_net(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "digits-resnet110").write_text("mine")
        assert resolve_model("digits-resnet110").read_text() == "mine"


def test_description_is_plain_json(tmp_path):
    path = tmp_path / "net.safetensors"
    save_checkpoint(path, net(), architecture="resnet8", training={"seed": 1})
    with safetensors.safe_open(path, "pt") as stored:
        described = json.loads(stored.metadata()["ensemble_view"])
    assert described["training"] == {"seed": 1}
    assert described["architecture"] == {"name": "resnet8", "options": {}, "family": "cifar"}


class Versioned(nn.Linear):
    """A layer that takes weights of its own version only, as some of torchvision do."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, metadata, *rest):
        if metadata.get("version") != self._version:
            raise ValueError(f"version should be {self._version}, not {metadata.get('version')}")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_versions_of_modules_are_kept_with_their_weights(tmp_path, prefix):
    source, net = nn.Sequential(Versioned(2, 2)), nn.Sequential(Versioned(2, 2))
    state = (nn.DataParallel(source) if prefix else source).state_dict()
    assert all(name.startswith(prefix) for name in state)
    fill(net, strip(weights_in(state, tmp_path)), "versioned", tmp_path)
    assert torch.equal(net[0].weight, source[0].weight)
    # A file that says nothing of versions is of today's; one that says another is refused.
    fill(net, dict(source.state_dict()), "versioned", tmp_path)
    state._metadata[f"{prefix}0"]["version"] = 1
    with pytest.raises(
        CheckpointError, match=r"^versioned does not take the weights in .* \(version"
    ):
        fill(net, strip(weights_in(state, tmp_path)), "versioned", tmp_path)
