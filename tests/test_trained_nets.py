"""The nets that analyses share: trained once, kept, and refused when not what is said."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import reporting
import torch
import trained_nets
from PIL import Image

from ensemble_view import EnsembleViewError, load_checkpoint
from miniature import miniature_scale


@pytest.fixture(scope="module")
def scale(tmp_path_factory):
    return miniature_scale(tmp_path_factory.mktemp("nets"), epochs=3)


def state(net):
    return {name: value.clone() for name, value in net.model.state_dict().items()}


def test_a_net_is_trained_once_and_read_afterwards(scale, monkeypatch):
    first = scale.net("resnet8", 0)
    monkeypatch.setattr(trained_nets, "train", None)
    again = scale.net("resnet8", 0)
    assert all(torch.equal(value, state(again)[name]) for name, value in state(first).items())
    assert trained_nets.error(again) == trained_nets.error(first)
    # The error is that of the net on the test images.
    with torch.no_grad():
        wrong = sum(
            int((again.model.eval()(images).argmax(1) != labels).sum())
            for images, labels in scale.test.batches(50)
        )
    assert trained_nets.error(again) == pytest.approx(wrong / len(scale.test))


def test_seeds_and_architectures_are_kept_apart(scale):
    one, other = scale.net("resnet8", 0), scale.net("resnet8", 1)
    assert scale.path("resnet8", 0) != scale.path("resnet8", 1)
    assert any(not torch.equal(value, state(other)[name]) for name, value in state(one).items())
    assert scale.path("resnet8,variant=scaled", 0).parent == scale.path("resnet8", 0).parent


@pytest.mark.parametrize(
    "changed",
    [
        lambda scale: replace(scale, recipe=replace(scale.recipe, epochs=4)),
        lambda scale: replace(scale, train=scale.train.subset(32)),
        lambda scale: replace(scale, test=scale.test.subset(50)),
    ],
    ids=["recipe", "train", "test"],
)
def test_a_net_that_was_trained_otherwise_is_refused(scale, changed):
    scale.net("resnet8", 0)
    with pytest.raises(EnsembleViewError, match=r"seed0\.safetensors was trained otherwise"):
        changed(scale).net("resnet8", 0)


def test_nets_of_one_training_begin_untrained_and_end_at_the_trained_one(scale, monkeypatch):
    kept = scale.nets_of_training("resnet8", 2, (0, 1, 3))
    assert list(kept) == [0, 1, 3]
    start, middle, end = (state(load_checkpoint(path)) for path in kept.values())
    final = state(scale.net("resnet8", 2))
    assert all(torch.equal(value, final[name]) for name, value in end.items())
    assert not torch.equal(start["conv1.weight"], middle["conv1.weight"])
    assert not torch.equal(middle["conv1.weight"], end["conv1.weight"])
    monkeypatch.setattr(trained_nets, "train", None)
    assert scale.nets_of_training("resnet8", 2, (0, 1, 3)) == kept


def test_cifar_images_may_lie_one_by_one_as_jpeg_files(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    files = []
    for image in images:
        written = io.BytesIO()
        Image.fromarray(image).save(written, "JPEG", quality=95)
        files.append(written.getvalue())
    offsets = np.cumsum([0, *map(len, files)])
    path = tmp_path / "few.npz"
    stored = np.frombuffer(b"".join(files), dtype=np.uint8)
    np.savez(path, jpeg=stored, offsets=offsets, labels=np.array([3, 1, 2]))
    options = trained_nets.scale_options(None).parse_args(
        ["--scale", "cifar10-fast", "--train", str(path), "--test", str(path)]
    )
    threads = torch.get_num_threads()
    try:
        scale = trained_nets.chosen_scale(options)
    finally:
        torch.set_num_threads(threads)
    inputs, labels = next(scale.test.batches(3))
    assert labels.tolist() == [3, 1, 2]
    expected = np.stack([np.array(Image.open(io.BytesIO(file))) for file in files]) / 255
    # Normalised by the training images' own mean and deviation.
    mean, deviation = expected.mean((0, 1, 2)), expected.std((0, 1, 2))
    normalised = ((expected - mean) / deviation).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(inputs.numpy(), normalised, atol=1e-4)


def test_words_say_data_recipe_and_seeds(scale):
    assert scale.words == (
        f"Trained on 64 images of {scale.train.name}, tested on 100; 3 epochs in batches of 64, "
        "learning rate 0.1 after 1 epochs of warm-up, down to zero along a cosine; one recipe for "
        "all nets, chosen for none. Seeds 0, 1."
    )


def test_tables_are_markdown():
    lines = reporting.markdown_table(("net", "error"), [("plain20", 1.5)])
    assert lines == ["| net | error |", "|---|---|", "| plain20 | 1.5 |"]


def test_nets_of_other_epochs_are_kept_and_told_apart():
    options = trained_nets.scale_options(None).parse_args(["--epochs", "90", "--seeds", "3"])
    threads = torch.get_num_threads()
    try:
        longer = trained_nets.chosen_scale(options)
    finally:
        torch.set_num_threads(threads)
    usual = replace(longer, epochs=None)
    assert longer.recipe.epochs == 90
    assert longer.path("resnet8", 3).parent != usual.path("resnet8", 3).parent
    file = "analyses/effective_paths.py"
    assert trained_nets.folder_of(file, longer).name == "90-epochs"
    assert trained_nets.folder_of(file, longer).parent == trained_nets.folder_of(file, usual)
    command = "python analyses/effective_paths.py"
    assert trained_nets.command_of(file, longer) == f"{command} --epochs 90"
    assert trained_nets.command_of(file, usual) == command
