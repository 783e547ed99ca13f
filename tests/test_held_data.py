"""Data are held against the net: class folders, images, outputs, and nets that mix a batch."""

from __future__ import annotations

import os
import types

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ensemble_view as ev
from ensemble_view.data.class_folders import read_class_folders
from ensemble_view.errors import CheckpointError, DataError, MeasurementError
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.nets.weights import fill

CLASSES = 12


class Brightness(nn.Module):
    """A residual net that is right on every image of :func:`write`: class k is grey level 20 k."""

    def __init__(self, channels: int = 3, second: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2, 1)
        self.branch = nn.Conv2d(2, 2, 1)
        self.head = nn.Linear(2, CLASSES)
        self.second = second
        levels = torch.arange(CLASSES) * 20 / 255
        with torch.no_grad():
            self.conv.weight.fill_(1 / channels)
            self.conv.bias.zero_()
            self.branch.weight.zero_()
            self.branch.bias.fill_(1e-3)
            # -(x - level)^2 up to what is the same for every class.
            self.head.weight.copy_(levels[:, None].expand(-1, 2))
            self.head.bias.copy_(-(levels**2) - 2e-3 * levels)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        x = self.conv(x)
        x = x + self.branch(x)
        scores = self.head(x.mean((2, 3)))
        return (scores, scores.flip(1)) if self.second else scores


def write(root, name=lambda k: f"c{k:02d}", classes=range(CLASSES), mode="RGB", count=2):
    """Images whose grey level tells the class, one folder per class."""
    for k in classes:
        folder = root / name(k)
        folder.mkdir(parents=True)
        for number in range(count):
            pixels = np.full((4, 4, 3) if mode == "RGB" else (4, 4), 20 * k, np.uint8)
            if mode == "I;16":
                pixels = pixels.astype(np.uint16) * 257
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def checkpoint(net, names=None):
    return Checkpoint(net.eval(), "own", None, None, names, (3, 4, 4), None, None)


def accuracy(net, data, **options):
    return ev.lesion(net, data, blocks="0", **options).baseline.accuracy


def test_folders_in_the_order_of_the_outputs_are_right(tmp_path):
    assert accuracy(checkpoint(Brightness()), str(write(tmp_path / "all"))) == 1


@pytest.mark.parametrize("name", ["train", "val"])
def test_splits_are_no_classes_unless_one_is_chosen(tmp_path, name):
    for part in ("train", "val"):
        write(tmp_path / "root" / part)
    with pytest.raises(DataError, match=r"train, val, which are splits .* --split val"):
        ev.open_data(tmp_path / "root")
    data = ev.open_data(tmp_path / "root", split=name)
    assert data.split == name
    assert len(data.class_names) == CLASSES
    result = ev.lesion(Brightness(), data, blocks="0")
    assert any(f"has splits; {name} was taken" in note for note in result.notes)


def test_a_missing_class_is_refused_and_names_mend_it(tmp_path):
    root = write(tmp_path / "some", classes=[k for k in range(CLASSES) if k != 4])
    with pytest.raises(DataError, match=r"11 class folders .* has 12 outputs.*--classes FILE"):
        accuracy(Brightness(), str(root))
    names = [f"c{k:02d}" for k in range(CLASSES)]
    data = ev.open_data(root, classes=names)
    assert accuracy(Brightness(), data) == 1
    assert accuracy(checkpoint(Brightness(), tuple(names)), str(root)) == 1


def test_hidden_folders_are_left_out_and_said(tmp_path):
    root = write(tmp_path / "hidden", classes=range(CLASSES))
    for hidden in (".ipynb_checkpoints", "__MACOSX", "c00/.ipynb_checkpoints"):
        (root / hidden).mkdir()
        Image.new("RGB", (4, 4)).save(root / hidden / "copy.png")
    result = ev.lesion(Brightness(), str(root), blocks="0")
    assert (result.baseline.accuracy, result.baseline.n) == (1, 2 * CLASSES)
    (note,) = [note for note in result.notes if "left out" in note]
    assert "3 hidden entries were left out" in note


def test_numbers_sorted_as_text_stop_where_the_net_knows_better(tmp_path):
    root = write(tmp_path / "numeric", str)
    with pytest.raises(DataError, match=r"right on 100% .* in numeric order .* --class-order"):
        accuracy(Brightness(), str(root))
    assert accuracy(Brightness(), ev.open_data(root, class_order="numeric")) == 1
    assert accuracy(Brightness(), ev.open_data(root, class_order="text")) < 0.5


def test_names_in_another_order_are_matched_to_id2label(tmp_path):
    net = Brightness()
    net.config = types.SimpleNamespace(
        id2label={k: f"Class {'zyxwvutsrqpo'[k]}, a thing" for k in range(CLASSES)}
    )
    root = write(tmp_path / "named", lambda k: f"class_{'zyxwvutsrqpo'[k]}")
    result = ev.lesion(net, str(root), blocks="0")
    assert result.baseline.accuracy == 1
    assert result.to_json()["data"]["class_order"] == "by name: the net's id2label"
    assert any("matched by name" in note for note in result.notes)
    (root / "class_z").rename(root / "class_a")
    with pytest.raises(DataError, match=r"1 of the 12 class names .*: class_a; the net's are"):
        accuracy(net, str(root))


def test_links_that_loop_end_and_every_folder_counts_once(tmp_path):
    root = write(tmp_path / "loop", classes=range(2))
    os.symlink(root, root / "c00" / "back")
    os.symlink(root / "c01", root / "c01" / "self")
    found = read_class_folders(root, "test")
    assert (found.names, len(found.files)) == (("c00", "c01"), 4)
    os.symlink(root / "c01", root / "c02")
    with pytest.raises(DataError, match=r"no labelled images in the class folder c02"):
        read_class_folders(root, "test")


def test_an_empty_class_is_named(tmp_path):
    root = write(tmp_path / "empty", classes=range(2))
    (root / "nothing").mkdir()
    with pytest.raises(DataError, match=r"class folder nothing"):
        read_class_folders(root, "test")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB"])
def test_grey_and_deep_images_have_their_values(tmp_path, channels, mode):
    root = write(tmp_path / "grey", mode=mode)
    inputs, labels = next(ev.open_data(root).batches(64))
    assert torch.allclose(inputs, (labels * 20 / 255).view(-1, 1, 1, 1).expand_as(inputs))
    assert accuracy(Brightness(channels), str(root)) == 1


def test_images_without_a_known_white_are_refused_by_name(tmp_path):
    (tmp_path / "deep" / "one").mkdir(parents=True)
    file = tmp_path / "deep" / "one" / "a.tif"
    Image.fromarray(np.full((4, 4), 300.0, np.float32)).save(file)
    with pytest.raises(DataError, match=r"a\.tif holds real numbers from 300 to 300"):
        next(ev.open_data(tmp_path / "deep").batches())
    Image.fromarray(np.full((4, 4), 0.25, np.float32)).save(file)
    assert float(next(ev.open_data(tmp_path / "deep").batches())[0].max()) == 0.25
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(file)
    with pytest.raises(DataError, match=r"a\.tif has pixels of 32 bits"):
        next(ev.open_data(tmp_path / "deep").batches())


def test_colour_is_not_read_with_one_channel(tmp_path):
    root = write(tmp_path / "colour")
    Image.new("RGB", (4, 4), (255, 0, 0)).save(root / "c00" / "0.png")
    with pytest.raises(DataError, match=r"0\.png is an image in colour"):
        accuracy(Brightness(1), str(root))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("axes", [3, 4])
def test_arrays_of_any_floating_type_with_and_without_channels(tmp_path, dtype, axes):
    labels = np.arange(CLASSES).repeat(2)
    images = (labels * 20 / 255).astype(dtype).reshape(-1, 1, 1).repeat(4, 1).repeat(4, 2)
    images = images if axes == 3 else images[:, None]
    np.savez(tmp_path / "a.npz", images=images, labels=labels)
    assert accuracy(Brightness(1), str(tmp_path / "a.npz")) == 1
    assert accuracy(Brightness(1), (images, labels)) == 1


def test_whole_number_images_need_no_axis_of_channels():
    labels = np.arange(CLASSES).repeat(2)
    images = (labels * 20).astype(np.uint8).reshape(-1, 1, 1).repeat(4, 1).repeat(4, 2)
    assert accuracy(Brightness(1), (images, labels)) == 1


def test_values_in_other_units_than_the_mean_are_refused(tmp_path):
    images = np.full((4, 1, 4, 4), 200, np.float32)
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(4))
    data = ev.open_data(tmp_path / "a.npz", mean=(0.5,), std=(0.5,))
    with pytest.raises(DataError, match=r"run from 200 to 200, but the mean \(0.5\) is of pixels"):
        next(data.batches())
    assert float(next(ev.open_data(tmp_path / "a.npz").batches())[0].max()) == 200


def test_complex_weights_keep_their_imaginary_part(tmp_path):
    weights = {"weight": torch.ones(2, 2, dtype=torch.complex64), "bias": torch.ones(2)}
    with pytest.raises(CheckpointError, match=r"complex \(weight\) .* imaginary part"):
        fill(nn.Linear(2, 2), weights, "linear", tmp_path / "w.pt")


def grey_pair():
    labels = torch.arange(CLASSES).repeat_interleave(2)
    return (labels * 20 / 255).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).contiguous(), labels


def test_of_two_heads_the_measured_one_is_named_and_can_be_chosen():
    net = Brightness(second=True)
    result = ev.lesion(net, grey_pair(), blocks="0")
    assert result.baseline.accuracy == 1
    (note,) = [note for note in result.notes if "several outputs" in note]
    assert note.startswith("The net has several outputs; 0 is measured, the others are not: 1.")
    assert result.to_json()["model"]["output"] == "0"
    other = ev.lesion(net, grey_pair(), blocks="0", output="1")
    assert other.baseline.accuracy == 0
    assert other.to_json()["model"]["output"] == "1"
    assert any("1 is measured; the others: 0" in note for note in other.notes)
    with pytest.raises(ev.EnsembleViewError, match="no floating-point output called 7"):
        ev.lesion(net, grey_pair(), output=7)


class Normalised(Brightness):
    """The same with BatchNorm that has no running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x = x + self.branch(x)
        return self.head(self.norm(x).mean((2, 3)))


def test_a_net_that_mixes_the_batch_needs_its_size():
    with pytest.raises(MeasurementError, match=r"1 BatchNorm layers .*\(norm\).* --batch-size"):
        ev.lesion(Normalised(), grey_pair(), blocks="0")
    result = ev.lesion(Normalised(), grey_pair(), blocks="0", batch_size=8)
    assert any("of batches of at most 8" in note for note in result.notes)
    assert result.provenance.batch_size == 8


def test_nets_that_answer_each_example_by_itself_say_nothing_of_batches():
    assert not any("batch" in note for note in ev.lesion(Brightness(), grey_pair()).notes)
