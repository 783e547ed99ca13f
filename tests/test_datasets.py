"""Labelled data: deterministic batches, checks of bad input, and what a fingerprint sees."""

from __future__ import annotations

import hashlib
import json
import pickle
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from ensemble_view.data import opening as datasets
from ensemble_view.data.labelled_data import Preprocessing
from ensemble_view.data.loader_data import LoaderData
from ensemble_view.data.opening import as_data, default_root, open_data
from ensemble_view.errors import DataError
from ensemble_view.nets.bundled import bundled, bundled_names


def everything(data, batch_size=7):
    inputs, labels = zip(*data.batches(batch_size), strict=True)
    return torch.cat(inputs), torch.cat(labels)


def save_npz(path, **arrays):
    images = np.arange(4 * 5 * 5 * 3, dtype=np.uint8).reshape(4, 5, 5, 3)
    defaults = {"images": images, "labels": np.array([0, 1, 2, 1])}
    arrays = {**defaults, **arrays}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


def save_images(root, shape=(6, 5), names=("cat", "dog"), count=3, seed=0):
    generator = np.random.default_rng(seed)
    pixels = {}
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(count):
            values = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
            Image.fromarray(values).save(root / name / f"{index}.png")
            pixels[f"{name}/{index}.png"] = values
    return pixels


class TestDigits:
    def test_split_is_stratified_and_disjoint(self):
        parts = {split: open_data("digits", split=split) for split in ("train", "test")}
        assert {split: len(data) for split, data in parts.items()} == {"train": 1000, "test": 797}
        assert not set(parts["train"].indices) & set(parts["test"].indices)
        shares = [np.bincount(data.labels) / len(data) for data in parts.values()]
        assert np.abs(shares[0] - shares[1]).max() < 0.002

    def test_values_are_sixteenths(self):
        inputs, labels = everything(open_data("digits"))
        assert inputs.shape == (797, 1, 8, 8)
        assert inputs.dtype == torch.float32
        assert set((inputs * 16).unique().tolist()) == set(range(17))
        assert labels.dtype == torch.int64
        assert sorted(labels.unique().tolist()) == list(range(10))

    def test_unknown_split_is_refused(self):
        with pytest.raises(DataError, match="no split 'valid': it has test, train"):
            open_data("digits", split="valid")


class TestBundled:
    def test_checksums_in_the_readme_are_those_of_the_files(self):
        text = bundled("README.md").read_text(encoding="utf-8")
        stated = dict(re.findall(r"^([0-9a-f]{64})  (\S+)$", text, re.MULTILINE))
        files = [name for name in bundled_names() if name != "README.md"]
        assert sorted(stated.values()) == files
        for checksum, name in stated.items():
            assert hashlib.sha256(bundled(name).read_bytes()).hexdigest() == checksum

    def test_unknown_name_lists_what_there_is(self):
        with pytest.raises(DataError, match=r"No file 'absent' travels .* digits\.npz"):
            bundled("absent")

    def test_installed_package_comes_before_source_tree(self, tmp_path, monkeypatch):
        package = tmp_path / "src" / "ensemble_view"
        for folder, text in ((package / "_data", "wheel"), (tmp_path / "data", "tree")):
            folder.mkdir(parents=True)
            (folder / "x.txt").write_text(text)
        (tmp_path / "data" / "y.txt").write_text("tree")
        monkeypatch.setattr("ensemble_view.nets.bundled._PACKAGE", package)
        assert bundled("x.txt").read_text() == "wheel"
        assert bundled("y.txt").read_text() == "tree"
        assert bundled_names() == ["x.txt", "y.txt"]


class TestNpz:
    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_bytes_are_divided_by_255_and_moved_to_channels_first(self, tmp_path, channels):
        images = np.random.default_rng(0).integers(0, 256, (4, 5, 6, channels), dtype=np.uint8)
        inputs, _ = everything(open_data(save_npz(tmp_path / "a.npz", images=images)))
        for n, c, y, x in ((0, 0, 0, 0), (3, channels - 1, 4, 5), (1, 0, 2, 3)):
            assert inputs[n, c, y, x].item() == pytest.approx(images[n, y, x, c] / 255)
        assert inputs.shape == (4, channels, 5, 6)

    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    def test_floats_pass_as_they_are(self, tmp_path, kind):
        images = np.random.default_rng(0).normal(size=(4, 3, 5, 5)).astype(kind)
        data = open_data(save_npz(tmp_path / "a.npz", images=images), mean=None)
        inputs, _ = everything(data)
        np.testing.assert_array_equal(inputs.numpy(), images)
        assert inputs.numpy().dtype == kind

    def test_normalisation_is_by_channel(self, tmp_path):
        path = save_npz(tmp_path / "a.npz")
        plain, _ = everything(open_data(path))
        mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
        inputs, _ = everything(open_data(path, mean=mean, std=std))
        for channel in range(3):
            expected = (plain[:, channel] - mean[channel]) / std[channel]
            torch.testing.assert_close(inputs[:, channel], expected)

    def test_names_split_and_scale_are_read(self, tmp_path):
        path = save_npz(
            tmp_path / "a.npz",
            classes=np.array(["x", "y", "z"]),
            split=np.array(["test", "train", "test", "train"]),
            scale=np.array(100.0),
        )
        data = open_data(path, split="train")
        assert (data.class_names, data.split, data.name) == (("x", "y", "z"), "train", "a.npz")
        assert data.labels.tolist() == [1, 1]
        assert everything(data)[0][0, 0, 0, 0].item() == pytest.approx(75 / 100)

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"labels": None}, "holds images but no labels: expected images"),
            ({"images": None}, "holds labels but no images"),
            ({"images": None, "labels": None}, "holds no arrays but no images and no labels"),
            ({"images": np.zeros((4, 5), np.uint8)}, r"shape \(4, 5\) and type uint8"),
            ({"images": np.zeros((4, 5, 5, 3), np.int64)}, "type int64: expected N×H×W×C uint8"),
            ({"images": np.zeros((4, 5, 5, 7), np.uint8)}, "with 1, 3 or 4 channels"),
            ({"images": np.zeros((4, 5, 5, 3))}, "channels last: expected N×C×H×W"),
            ({"images": np.full((4, 3, 5, 5), np.nan)}, "not finite .* first in example 0"),
            ({"labels": np.array([0, 1, 2])}, "has 4 inputs and 3 labels"),
            ({"labels": np.array([0.0, 1, 2, 1])}, "of type float64: expected whole numbers"),
            ({"labels": np.array(["a", "b", "c", "d"])}, "expected numbers, one row per example"),
            ({"labels": np.array([[0, 1, 2, 1]])}, r"have shape \(1, 4\): expected one per"),
            ({"labels": np.array([0, -1, 2, 1])}, "run from -1 to 2: expected class indices"),
            ({"classes": np.array(["x", "y"])}, "run from 0 to 2: .* from 0 to 1"),
            (
                {"images": np.zeros((0, 5, 5, 3), np.uint8), "labels": np.zeros(0, int)},
                "holds no examples",
            ),
            ({"scale": np.array([1, 2])}, "expected one number above zero"),
            ({"scale": np.array(0)}, "expected one number above zero"),
            ({"split": np.array(["test"])}, "expected a word for each of the 4 examples"),
            ({"split": np.array(["a", "b", "a", "b"])}, "has no split 'test': it has a, b"),
        ],
    )
    def test_bad_arrays_are_refused(self, tmp_path, arrays, message):
        with pytest.raises(DataError, match=message):
            open_data(save_npz(tmp_path / "a.npz", **arrays))

    @pytest.mark.parametrize("kept", [0, 1, 30, 200, -1, -30])
    def test_truncated_file_is_refused(self, tmp_path, kept):
        path = save_npz(tmp_path / "a.npz")
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(DataError, match=r"cannot be read as data \(.*\): expected an \.npz"):
            open_data(path)

    def test_damaged_contents_are_refused(self, tmp_path):
        path = tmp_path / "a.npz"
        images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
        np.savez_compressed(path, images=images, labels=np.arange(50))
        content = bytearray(path.read_bytes())
        content[2000:2100] = bytes(100)
        path.write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as data"):
            open_data(path)

    def test_random_bytes_are_refused(self, tmp_path):
        path = tmp_path / "a.npz"
        path.write_bytes(np.random.default_rng(0).bytes(500))
        with pytest.raises(DataError, match="cannot be read as data"):
            open_data(path)

    def test_single_array_is_refused(self, tmp_path):
        path = tmp_path / "a.npy"
        np.save(path, np.zeros(3))
        with pytest.raises(
            DataError, match=r"a single array, as numpy.save writes it\): expected an \.npz"
        ):
            open_data(path)

    def test_pickled_arrays_are_not_loaded(self, tmp_path):
        marker = tmp_path / "marker"

        class Touch:
            def __reduce__(self):
                return open, (str(marker), "w")

        labels = np.array([Touch()] * 4, dtype=object)
        path = save_npz(tmp_path / "a.npz", labels=labels)
        with pytest.raises(DataError, match="pickled Python objects, which could run code"):
            open_data(path)
        raw = tmp_path / "raw.npz"
        raw.write_bytes(pickle.dumps(Touch()))
        with pytest.raises(DataError, match=r"expected an \.npz file"):
            open_data(raw)
        assert not marker.exists()


class TestNames:
    def test_missing_path_names_what_is_possible(self):
        with pytest.raises(DataError, match=r"no data 'absent\.npz': expected one of digits"):
            open_data("absent.npz")

    @pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist"])
    def test_data_that_was_not_fetched_says_how_to(self, tmp_path, name):
        with pytest.raises(DataError, match=f"{name} was not found in .* with --download"):
            open_data(name, root=tmp_path)

    def test_failed_download_says_so(self, tmp_path, monkeypatch):
        def refuse(*args, **kwargs):
            raise OSError("no route")

        monkeypatch.setattr("torchvision.datasets.CIFAR10", refuse)
        with pytest.raises(DataError, match=r"could not be downloaded to .* \(no route\)"):
            open_data("cifar10", root=tmp_path, download=True)

    def test_torchvision_split_is_train_or_test(self):
        with pytest.raises(DataError, match="no split 'val': it has train and test"):
            open_data("cifar10", split="val")

    @pytest.mark.parametrize(
        ("name", "shape", "kind"),
        [("cifar10", (6, 32, 32, 3), np.asarray), ("mnist", (6, 28, 28), torch.as_tensor)],
    )
    def test_torchvision_images_become_floats(self, tmp_path, monkeypatch, name, shape, kind):
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        asked = {}

        class Stored:
            def __init__(self, root, train, download):
                asked.update(root=root, train=train, download=download)
                self.data, self.targets, self.classes = (
                    kind(pixels),
                    [0, 1, 2, 2, 1, 0],
                    list("abc"),
                )

        monkeypatch.setattr(f"torchvision.datasets.{datasets._TORCHVISION[name]}", Stored)
        data = open_data(name, split="train", root=tmp_path)
        inputs, labels = everything(data)
        assert asked == {"root": str(tmp_path), "train": True, "download": False}
        assert (data.name, data.split, data.class_names) == (name, "train", ("a", "b", "c"))
        assert labels.tolist() == [0, 1, 2, 2, 1, 0]
        expected = pixels.reshape(6, *shape[1:3], -1)[4, 3, 2, 0] / 255
        assert inputs[4, 0, 3, 2].item() == pytest.approx(expected)

    def test_default_root_lies_in_the_folder_of_caches(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert default_root() == tmp_path / "ensemble_view"

    def test_default_root_lies_in_the_home_folder(self, monkeypatch, tmp_path):
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path))
        assert default_root() == tmp_path / ".cache" / "ensemble_view"


class TestFolder:
    def test_images_are_read_when_needed_in_order_of_classes(self, tmp_path):
        pixels = save_images(tmp_path / "pets")
        data = open_data(tmp_path / "pets")
        inputs, labels = everything(data, batch_size=4)
        assert (data.name, data.class_names, data.split) == ("pets/", ("cat", "dog"), None)
        assert labels.tolist() == [0, 0, 0, 1, 1, 1]
        expected = np.stack(list(pixels.values())).transpose(0, 3, 1, 2) / np.float32(255)
        np.testing.assert_array_equal(inputs.numpy(), expected)

    def test_subfolder_of_the_split_is_taken(self, tmp_path):
        save_images(tmp_path / "pets" / "train", count=2)
        save_images(tmp_path / "pets" / "test", count=1)
        assert len(open_data(tmp_path / "pets", split="train")) == 4
        data = open_data(tmp_path / "pets")
        assert (len(data), data.name, data.split) == (2, "pets/test", "test")

    def test_several_sizes_need_one(self, tmp_path):
        save_images(tmp_path, shape=(6, 5))
        save_images(tmp_path, shape=(7, 5), names=("emu",))
        with pytest.raises(DataError, match=r"several sizes, 6x5 and 7x5 .* --resize and --crop"):
            everything(open_data(tmp_path))
        assert everything(open_data(tmp_path, crop=4))[0].shape == (9, 3, 4, 4)
        assert everything(open_data(tmp_path, resize=8, crop=8))[0].shape == (9, 3, 8, 8)

    def test_resize_agrees_with_pillow(self, tmp_path):
        save_images(tmp_path, shape=(20, 20), names=("a",), count=1)
        inputs, _ = everything(open_data(tmp_path, resize=9))
        with Image.open(tmp_path / "a" / "0.png") as image:
            expected = np.asarray(image.resize((9, 9), Image.Resampling.BILINEAR), dtype=float)
        assert np.abs(inputs[0].permute(1, 2, 0).numpy() * 255 - expected).max() <= 1.01

    def test_crop_takes_the_centre(self, tmp_path):
        pixels = save_images(tmp_path, shape=(8, 8), names=("a",), count=1)["a/0.png"]
        inputs, _ = everything(open_data(tmp_path, crop=4))
        expected = pixels[2:6, 2:6].transpose(2, 0, 1) / np.float32(255)
        np.testing.assert_array_equal(inputs[0].numpy(), expected)

    def test_crop_larger_than_the_image_is_refused(self, tmp_path):
        save_images(tmp_path)
        with pytest.raises(DataError, match="6x5 pixels is smaller than the crop of 32"):
            everything(open_data(tmp_path, crop=32))

    @pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40)])
    def test_broken_image_is_named(self, tmp_path, content):
        save_images(tmp_path)
        (tmp_path / "cat" / "1.png").write_bytes(content)
        with pytest.raises(DataError, match=r"cat.1\.png is no readable image"):
            everything(open_data(tmp_path))

    @pytest.mark.parametrize("inner", [(), ("cat",)])
    def test_folder_without_images_is_refused(self, tmp_path, inner):
        for name in inner:
            (tmp_path / name).mkdir()
        with pytest.raises(DataError, match=r"holds no labelled images .* one subfolder per class"):
            open_data(tmp_path)

    def test_fingerprint_sees_names_and_sizes(self, tmp_path):
        for name in ("one", "two"):
            save_images(tmp_path / name)
        marks = [open_data(tmp_path / name).fingerprint() for name in ("one", "two")]
        assert marks[0] == marks[1]
        (tmp_path / "two" / "dog" / "2.png").rename(tmp_path / "two" / "dog" / "3.png")
        assert open_data(tmp_path / "two").fingerprint() != marks[0]


def test_files_and_folders_never_pass_for_data_with_a_name_of_its_own(tmp_path):
    (tmp_path / "a").mkdir()
    save_images(tmp_path / "a" / "mnist")
    found = [open_data(tmp_path / "a" / "mnist"), open_data(save_npz(tmp_path / "digits.npz"))]
    assert not {data.name for data in found} & set(datasets.DATA_NAMES)


class TestNormalisation:
    @pytest.mark.parametrize(
        ("mean", "std", "message"),
        [
            ((0.5,), None, "go together: give both or neither"),
            (None, (0.5,), "go together"),
            ((0.5,), (0.5, 0.5), "one finite number per channel"),
            ((0.5,), (0.0,), "deviations above zero"),
            ((float("nan"),), (1.0,), "one finite number per channel"),
        ],
    )
    def test_impossible_values_are_refused(self, mean, std, message):
        with pytest.raises(DataError, match=message):
            open_data("digits", mean=mean, std=std)

    def test_wrong_number_of_channels_is_refused(self):
        data = open_data("digits", mean=(0.1, 0.2, 0.3), std=(1, 1, 1))
        with pytest.raises(DataError, match="of 3 channels for images of 1"):
            everything(data)

    @pytest.mark.parametrize("name", ["resize", "crop"])
    def test_sizes_are_positive(self, name):
        with pytest.raises(DataError, match=f"The {name} is 0 pixels: expected 1 to 8,192"):
            open_data("digits", **{name: 0})


@given(
    labels=st.lists(st.integers(0, 6), min_size=1, max_size=60),
    limit=st.integers(1, 70),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_subset_is_balanced_nested_and_ordered(labels, limit, seed):
    data = as_data((torch.arange(len(labels), dtype=torch.float32)[:, None], labels))
    chosen = data.subset(limit, seed)
    assert len(chosen) == min(limit, len(labels))
    assert (np.diff(chosen.indices) > 0).all()
    assert everything(chosen)[0].flatten().tolist() == chosen.indices.tolist()
    taken, present = np.bincount(chosen.labels, minlength=7), np.bincount(labels, minlength=7)
    # A class has fewer examples than another by two or more only where it has no more to give.
    assert all(taken[c] >= taken.max() - 1 or taken[c] == present[c] for c in range(7))
    assert np.array_equal(data.subset(limit, seed).indices, chosen.indices)
    assert set(data.subset(max(1, limit // 2), seed).indices) <= set(chosen.indices)


def test_subset_depends_on_the_seed_and_on_nothing_global():
    data = open_data("digits")
    np.random.seed(1)
    torch.manual_seed(1)
    first = data.subset(50, 3).indices
    np.random.seed(2)
    torch.manual_seed(2)
    assert np.array_equal(open_data("digits", limit=50, seed=3).indices, first)
    assert not np.array_equal(data.subset(50, 4).indices, first)
    assert np.bincount(data.subset(50, 3).labels).tolist() == [5] * 10


@pytest.mark.parametrize("limit", [0, -3])
def test_impossible_limits_are_refused(limit):
    with pytest.raises(DataError, match=f"limit is {limit} examples: expected at least 1"):
        open_data("digits", limit=limit)


@given(first=st.integers(1, 900), second=st.integers(1, 900))
@settings(max_examples=20, deadline=None)
def test_batches_hold_the_same_examples_whatever_their_size(first, second):
    data = open_data("digits", limit=60)
    for one, other in zip(everything(data, first), everything(data, second), strict=True):
        assert torch.equal(one, other)


def test_batch_size_is_positive():
    with pytest.raises(DataError, match="batch size is 0: expected at least 1"):
        next(open_data("digits").batches(0))


class TestFingerprint:
    def test_same_contents_same_mark(self):
        x, y = torch.randn(5, 2), torch.tensor([0, 1, 0, 1, 1])
        assert (
            as_data((x, y)).fingerprint() == as_data((x.numpy().copy(), y.tolist())).fingerprint()
        )

    @pytest.mark.parametrize("change", ["input", "label", "order", "type", "shape", "fewer"])
    def test_every_change_is_seen(self, change):
        x, y = torch.arange(20.0).reshape(5, 4), torch.tensor([0, 1, 0, 1, 1])
        before = as_data((x.clone(), y.clone())).fingerprint()
        if change == "input":
            x[3, 1] += 1e-6
            x[3, 1] = torch.nextafter(torch.tensor(13.0), torch.tensor(14.0))
        elif change == "label":
            y[2] = 1
        elif change == "order":
            x, y = x.flip(0), y.flip(0)
        elif change == "type":
            x = x.double()
        elif change == "shape":
            x = x.reshape(5, 2, 2)
        else:
            x, y = x[:4], y[:4]
        assert as_data((x, y)).fingerprint() != before

    def test_preprocessing_is_seen(self):
        data = open_data("digits")
        assert data.with_normalisation((0.1,), (0.5,)).fingerprint() != data.fingerprint()

    def test_json_holds_plain_values(self):
        data = open_data("digits", limit=10, mean=(0.3,), std=(0.4,))
        stored = json.loads(json.dumps(data.to_json()))
        assert stored["fingerprint"] == data.fingerprint()
        assert (stored["name"], stored["split"], stored["n"]) == ("digits", "test", 10)
        assert stored["preprocessing"] == {
            "scale": 16.0,
            "resize": None,
            "crop": None,
            "mean": [0.3],
            "std": [0.4],
        }


class Pairs(torch.utils.data.Dataset):
    """Examples whose label can be made to change between readings."""

    def __init__(self, count=5, targets=None, steady=True):
        self.count, self.reads, self.steady = count, 0, steady
        if targets is not None:
            self.targets = targets

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.reads += 1
        return torch.full((1, 2, 2), float(index)), (index + (0 if self.steady else self.reads)) % 3


class TestAsData:
    def test_labelled_data_passes_as_it_is(self):
        data = open_data("digits", limit=5)
        assert as_data(data) is data
        assert as_data(data, mean=(0.3,), std=(0.4,)).preprocessing.mean == (0.3,)

    @pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.int64])
    def test_pair_keeps_type_and_values(self, kind):
        x = torch.arange(12).reshape(3, 4).to(kind)
        inputs, labels = everything(as_data((x, torch.tensor([2, 0, 1]))))
        assert inputs.dtype == kind
        assert torch.equal(inputs, x)
        assert labels.tolist() == [2, 0, 1]

    @pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2)])
    def test_byte_images_may_have_channels_first_or_last(self, order):
        images = torch.arange(2 * 5 * 6 * 3, dtype=torch.uint8).reshape(2, 5, 6, 3)
        inputs, _ = everything(as_data((images.permute(order), torch.tensor([0, 1]))))
        assert torch.equal(inputs, images.permute(0, 3, 1, 2) / 255)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (3, "of type int: expected a DataLoader"),
            ("digits", "of type str: expected a DataLoader"),
            (torch.zeros(3), "of type Tensor: expected"),
            ((torch.zeros(3, 2),), "of type tuple: expected"),
            ({"a": 1}, "of type dict: expected"),
            ((torch.zeros(3, 2), [0, 1]), "has 3 inputs and 2 labels"),
            ((torch.zeros(2, 2), [0, 1.5]), "type float64: expected whole numbers"),
            ((torch.zeros(2, 2), [0, -1]), "run from -1 to 0"),
            ((torch.zeros(2, 2), torch.eye(2)), r"have shape \(2, 2\): expected one per example"),
            ((torch.zeros(0, 2), torch.zeros(0, dtype=int)), "holds no examples"),
            ((torch.tensor([[1.0], [torch.inf]]), [0, 1]), "not finite .* first in example 1"),
            ((torch.tensor(1.0), [0]), "expected numbers, one row per example"),
            (("abc", [0]), "holds a str: expected tensors or arrays"),
            (([[1, 2], [3]], [0, 1]), "is no array .* expected inputs of one shape"),
            ((torch.zeros(2, 3, dtype=torch.uint8), [0, 1]), "expected N×H×W, or N×H×W×C"),
        ],
    )
    def test_unusable_data_is_refused(self, data, message):
        with pytest.raises(DataError, match=message):
            as_data(data)

    def test_labels_outside_the_classes_of_the_model_are_refused(self):
        data = as_data((torch.zeros(3, 2), [0, 1, 10]), name="mine")
        data.check_classes(11)
        with pytest.raises(DataError, match=r"mine run from 0 to 10: .* from 0 to 9"):
            data.check_classes(10)


class TestDataset:
    def test_examples_are_read_by_index(self):
        data = as_data(Subset(Pairs(9), [7, 2, 5]))
        inputs, labels = everything(data, 2)
        assert inputs[:, 0, 0, 0].tolist() == [7, 2, 5]
        assert labels.tolist() == [1, 2, 2]
        assert data.subset(2).labels.tolist() in ([1, 2], [1, 2])

    def test_targets_save_the_first_reading_only_if_they_agree(self):
        honest, liar = Pairs(5, [0, 1, 2, 0, 1]), Pairs(5, [1, 1, 1, 1, 1])
        assert as_data(honest).labels.tolist() == [0, 1, 2, 0, 1]
        assert honest.reads == 2
        assert as_data(liar).labels.tolist() == [0, 1, 2, 0, 1]

    def test_labels_that_change_between_passes_are_refused(self):
        data = as_data(Pairs(steady=False))
        with pytest.raises(DataError, match="other labels than on the first reading"):
            everything(data)

    @pytest.mark.parametrize(
        ("examples", "message"),
        [
            ([], "holds no examples"),
            ([1, 2, 3], "An example of .* is a int: expected a pair"),
            ([(torch.zeros(2), "cat")] * 3, "is 'cat': expected a whole number"),
            ([(torch.zeros(2), 0.5)] * 3, "is 0.5: expected a whole number"),
            ([(torch.zeros(2), -1)] * 3, "run from -1 to -1"),
        ],
    )
    def test_examples_that_are_no_pairs_are_refused(self, examples, message):
        class Stored(torch.utils.data.Dataset):
            def __len__(self):
                return len(examples)

            def __getitem__(self, index):
                return examples[index]

        with pytest.raises(DataError, match=message):
            as_data(Stored())

    def test_several_shapes_and_infinite_values_are_refused(self):
        shapes = TensorDataset(torch.zeros(3, 2), torch.tensor([0, 1, 2]))
        mixed = torch.utils.data.ConcatDataset(
            [shapes, TensorDataset(torch.zeros(1, 3), torch.tensor([1]))]
        )
        with pytest.raises(DataError, match=r"several shapes, \(2,\) and \(3,\)"):
            everything(as_data(mixed))
        endless = TensorDataset(torch.full((3, 2), torch.inf), torch.tensor([0, 1, 2]))
        with pytest.raises(DataError, match="Examples 0 to 2 hold values that are not finite"):
            everything(as_data(endless))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.full((2,), float(index)), index % 2) for index in range(5)])


class TestDataLoader:
    pairs = TensorDataset(torch.arange(10.0)[:, None], torch.arange(10) % 3)

    def test_batches_are_kept(self):
        data = as_data(DataLoader(self.pairs, batch_size=4))
        assert [len(labels) for _, labels in data.batches(1)] == [4, 4, 2]
        assert (len(data), data.labels) == (10, None)
        assert len(as_data(DataLoader(self.pairs, batch_size=4, drop_last=True))) == 8

    def test_shuffling_loader_is_read_in_order(self):
        data = as_data(DataLoader(self.pairs, batch_size=4, shuffle=True))
        for _ in range(2):
            assert everything(data)[0].flatten().tolist() == list(range(10))

    @pytest.mark.parametrize(
        "sampler",
        [
            WeightedRandomSampler([1.0] * 10, 10),
            RandomSampler(pairs, replacement=True),
            torch.utils.data.SubsetRandomSampler([1, 2, 3]),
        ],
    )
    def test_loader_that_draws_others_on_every_pass_is_refused(self, sampler):
        with pytest.raises(DataError, match=f"{type(sampler).__name__} draws examples at random"):
            as_data(DataLoader(self.pairs, sampler=sampler))

    def test_stream_is_counted_by_reading_it(self):
        data = as_data(DataLoader(Stream(), batch_size=2))
        assert len(data) == 5
        assert isinstance(data, LoaderData)
        assert everything(data)[1].tolist() == [0, 1, 0, 1, 0]

    def test_subset_and_fingerprint_agree_with_the_pair(self):
        data = as_data(DataLoader(self.pairs, batch_size=4))
        chosen = data.subset(6, seed=1)
        expected = as_data(self.pairs.tensors).subset(6, seed=1)
        assert torch.equal(everything(chosen)[0], everything(expected)[0])
        again = as_data(DataLoader(self.pairs, batch_size=4))
        assert data.fingerprint() == again.fingerprint()
        other = TensorDataset(self.pairs.tensors[0] + 1, self.pairs.tensors[1])
        assert as_data(DataLoader(other, batch_size=4)).fingerprint() != data.fingerprint()
        assert json.loads(json.dumps(data.to_json()))["n"] == 10

    @pytest.mark.parametrize(
        ("dataset", "message"),
        [
            (TensorDataset(torch.zeros(4, 2)), "is a list: expected a pair"),
            ([{"x": torch.zeros(2), "y": 1}] * 4, "is a dict: expected a pair"),
            ([("word", 1)] * 4, "holds tuple and Tensor: expected two tensors"),
            (TensorDataset(torch.full((4, 2), torch.nan), torch.zeros(4).long()), "not finite"),
            (TensorDataset(torch.zeros(4, 2), torch.zeros(4)), "type float32: expected whole"),
            (TensorDataset(torch.zeros(4, 2), -torch.ones(4).long()), "run from -1 to -1"),
            (TensorDataset(torch.zeros(4, 2).byte(), torch.zeros(4).long()), "type uint8"),
            (TensorDataset(torch.zeros(0, 2), torch.zeros(0).long()), "holds no examples"),
        ],
    )
    def test_unusable_batches_are_refused(self, dataset, message):
        with pytest.raises(DataError, match=message):
            everything(as_data(DataLoader(dataset, batch_size=2)))

    def test_batches_cannot_be_normalised_afterwards(self):
        loader = DataLoader(self.pairs)
        for data in (loader, as_data(loader)):
            with pytest.raises(DataError, match="let its data set do it"):
                as_data(data, mean=(0.5,), std=(0.5,))


def test_preprocessing_leaves_double_precision_alone():
    images = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    settings_ = Preprocessing(mean=(0.5,), std=(0.25,))
    torch.testing.assert_close(settings_(images), (images - 0.5) / 0.25)
