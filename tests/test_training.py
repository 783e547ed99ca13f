"""Training: same seed, same weights, interrupted or not; and the record says what was done."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble_view.data.opening import as_data, open_data
from ensemble_view.errors import CheckpointError
from ensemble_view.nets.bundled import bundled
from ensemble_view.nets.checkpoints import load_checkpoint
from ensemble_view.nets.models.architecture import ArchitectureError
from ensemble_view.nets.models.building import build
from ensemble_view.training.recipe import (
    Recipe,
    TrainingError,
    augment,
    epoch_generator,
    learning_rate_at,
)
from ensemble_view.training.state import resume_path
from ensemble_view.training.training import channel_statistics, train

QUICK = Recipe(epochs=3, batch_size=32, learning_rate=0.05, warmup_epochs=1, seed=5)
NET = "resnet8,width=4"


@pytest.fixture(scope="module")
def digits():
    return open_data("digits", split="train", limit=96), open_data("digits", limit=50)


@pytest.fixture(scope="module")
def finished(digits):
    return train(NET, *digits, recipe=QUICK)


def interrupt_at(step):
    """A progress callback that acts like Ctrl-C at one step."""

    def progress(now):
        if now.step == step:
            raise KeyboardInterrupt

    return progress


class TestRepetition:
    def test_same_seed_same_weights_whatever_the_global_generators(self, digits, finished):
        torch.manual_seed(123)
        np.random.seed(123)
        before = torch.get_rng_state()
        again = train(NET, *digits, recipe=QUICK)
        assert again.weights_hash == finished.weights_hash
        assert again.training["history"] == finished.training["history"]
        assert torch.equal(torch.get_rng_state(), before)

    @pytest.mark.parametrize("change", [{"seed": 6}, {"batch_size": 31}, {"shift": 0}])
    def test_other_settings_other_weights(self, digits, finished, change):
        other = train(NET, *digits, recipe=replace(QUICK, **change))
        assert other.weights_hash != finished.weights_hash

    @pytest.mark.parametrize("step", [4, 5, 6, 8])
    def test_interrupted_and_resumed_run_equals_the_uninterrupted(
        self, digits, finished, tmp_path, step
    ):
        path = tmp_path / "net.safetensors"
        stopped = train(
            NET, *digits, recipe=QUICK, checkpoint_path=path, progress=interrupt_at(step)
        )
        full_epochs = (step - 1) // 3
        assert stopped.training["interrupted"]
        assert stopped.training["epochs_done"] == full_epochs
        assert load_checkpoint(path).weights_hash == stopped.weights_hash
        expected = train(NET, *digits, recipe=QUICK, progress=interrupt_at(3 * full_epochs + 1))
        assert stopped.weights_hash == expected.weights_hash
        resumed = train(NET, *digits, recipe=QUICK, checkpoint_path=path, resume=True)
        assert resumed.weights_hash == finished.weights_hash
        assert not resumed.training["interrupted"]
        assert resumed.training["history"] == finished.training["history"]
        assert not resume_path(path).exists()

    def test_killed_run_can_be_resumed_too(self, digits, finished, tmp_path):
        path = tmp_path / "net.pt"

        def die(now):
            if now.step == 5:
                raise MemoryError

        with pytest.raises(MemoryError):
            train(NET, *digits, recipe=QUICK, checkpoint_path=path, progress=die)
        assert not path.exists()
        resumed = train(NET, *digits, recipe=QUICK, checkpoint_path=path, resume=True)
        assert resumed.weights_hash == finished.weights_hash

    def test_interruption_in_the_first_epoch_keeps_nothing(self, digits, tmp_path):
        path = tmp_path / "net.pt"
        with pytest.raises(KeyboardInterrupt):
            train(NET, *digits, recipe=QUICK, checkpoint_path=path, progress=interrupt_at(2))
        assert list(tmp_path.iterdir()) == []

    def test_resume_needs_the_same_settings(self, digits, tmp_path):
        path = tmp_path / "net.pt"
        train(NET, *digits, recipe=QUICK, checkpoint_path=path, progress=interrupt_at(5))
        for message, call in (
            ("has epochs 3, this one 4", {"recipe": replace(QUICK, epochs=4)}),
            ("has seed 5, this one 1", {"recipe": replace(QUICK, seed=1)}),
        ):
            with pytest.raises(TrainingError, match=f"{message}: resume it with the same"):
                train(NET, *digits, checkpoint_path=path, resume=True, **call)
        with pytest.raises(TrainingError, match="has architecture cifar:resnet8,width=4, this"):
            train("plain8", *digits, recipe=QUICK, checkpoint_path=path, resume=True)
        fewer = digits[0].subset(64)
        with pytest.raises(TrainingError, match="has train_examples 96, this one 64"):
            train(NET, fewer, digits[1], recipe=QUICK, checkpoint_path=path, resume=True)

    def test_resume_needs_a_whole_state(self, digits, tmp_path):
        path = tmp_path / "net.pt"
        with pytest.raises(TrainingError, match=r"no unfinished training to resume at .* anew"):
            train(NET, *digits, recipe=QUICK, checkpoint_path=path, resume=True)
        with pytest.raises(TrainingError, match="no unfinished training to resume at None"):
            train(NET, *digits, recipe=QUICK, resume=True)
        resume_path(path).write_bytes(b"PK damaged")
        with pytest.raises(CheckpointError, match="is no complete training state: start anew"):
            train(NET, *digits, recipe=QUICK, checkpoint_path=path, resume=True)


class TestRecord:
    def test_record_says_what_was_done(self, digits, finished):
        record = json.loads(json.dumps(finished.training, allow_nan=False))
        assert record["architecture"] == "cifar:resnet8,width=4"
        assert record["recipe"] == asdict(QUICK)
        assert (record["train_examples"], record["test_examples"]) == (96, 50)
        assert [entry["epoch"] for entry in record["history"]] == [0, 1, 2]
        assert set(record["versions"]) == {"python", "torch", "torchvision", "numpy"}
        assert record["parameters"] == sum(p.numel() for p in finished.model.parameters())
        mean, std = channel_statistics(digits[0])
        assert record["train_fingerprint"] == digits[0].with_normalisation(mean, std).fingerprint()

    @pytest.mark.parametrize("half", [False, True])
    def test_saved_net_is_the_returned_one_and_as_good_as_the_record_says(
        self, digits, tmp_path, half
    ):
        path = tmp_path / "net.safetensors"
        made = train(NET, *digits, recipe=QUICK, checkpoint_path=path, half=half)
        found = load_checkpoint(path)
        assert found.weights_hash == made.weights_hash
        assert found.training == json.loads(json.dumps(made.training))
        assert (found.data, found.input_shape) == ("digits", (1, 8, 8))
        assert found.class_names == tuple("0123456789")
        mean, std = found.normalisation
        right = 0
        for inputs, labels in digits[1].batches(1):
            logits = found.model((inputs - mean[0]) / std[0])
            right += int(logits[0].argmax() == labels[0])
        assert right / 50 == found.training["test_accuracy"]

    def test_half_precision_rounds_only_matrices(self, digits, finished):
        made = train(NET, *digits, recipe=QUICK, half=True)
        whole = finished.model.state_dict()
        for name, value in made.model.state_dict().items():
            expected = whole[name].half().float() if value.ndim > 1 else whole[name]
            assert torch.equal(value, expected)

    def test_without_test_data_nothing_is_said_about_it(self, digits):
        for nothing in ((), (digits[0],)):
            made = train(NET, digits[0], *nothing, recipe=replace(QUICK, epochs=1))
            assert made.training["test_accuracy"] is None
            assert made.training["test_fingerprint"] is None

    def test_progress_counts_every_step(self, digits):
        seen = []
        train(NET, *digits, recipe=QUICK, progress=seen.append)
        assert [now.step for now in seen] == list(range(1, 10))
        assert {now.steps for now in seen} == {9}
        assert [now.epoch for now in seen] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert [now.test_accuracy is None for now in seen] == [True] * 3 + [False] * 6

    def test_given_normalisation_is_kept(self, digits):
        given_ = [data.with_normalisation((0.25,), (0.5,)) for data in digits]
        made = train(NET, *given_, recipe=replace(QUICK, epochs=1))
        assert made.normalisation == ((0.25,), (0.5,))


def test_only_data_with_a_name_of_its_own_is_named_in_the_checkpoint(digits, finished):
    assert finished.data == "digits"
    made = train(NET, as_data(next(digits[0].batches(96))), recipe=replace(QUICK, epochs=1))
    assert made.data is None
    assert made.training["data"] == "data"


def test_training_learns(digits):
    recipe = Recipe(epochs=12, batch_size=32, learning_rate=0.1, warmup_epochs=2, seed=1)
    made = train("resnet8,width=8", *digits, recipe=recipe)
    losses = [entry["loss"] for entry in made.training["history"]]
    assert losses[-1] < 0.5 * losses[0]
    assert made.training["test_accuracy"] > 0.5


def test_steps_are_those_of_momentum_written_by_hand(digits):
    """One epoch without augmentation, against the update rule written out in numbers."""
    data = digits[0].with_normalisation((0.3,), (0.4,))
    recipe = Recipe(epochs=1, batch_size=40, warmup_epochs=0.0, shift=0, schedule="steps", seed=2)
    made = train("plain8,width=2", data, recipe=recipe)
    torch.manual_seed(2)
    net = build("plain8,width=2", in_channels=1).train()
    order = torch.randperm(96, generator=epoch_generator(2, 0)).tolist()
    everything, labels = next(data.batches(96))
    velocity = {name: 0.0 for name, _ in net.named_parameters()}
    for step, start in enumerate((0, 40, 80)):
        rate = 0.1 * (1.0, 1.0, 0.1)[step]
        chosen = order[start : start + 40]
        loss = F.cross_entropy(net(everything[chosen]), labels[chosen])
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for (name, value), gradient in zip(net.named_parameters(), gradients, strict=True):
                velocity[name] = 0.9 * velocity[name] + gradient + 1e-4 * value
                value -= rate * velocity[name]
    for name, value in net.state_dict().items():
        found = made.model.state_dict()[name]
        torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-4, msg=name)


def test_channel_statistics_are_those_of_numpy():
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 6, 3), dtype=np.uint8)
    mean, std = channel_statistics(as_data((images, np.arange(40) % 4)))
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=1e-6)


def test_channel_without_variation_is_not_divided_by_zero():
    assert channel_statistics(as_data((torch.ones(4, 1, 2, 2), [0, 1, 0, 1])))[1] == (1.0,)


class TestLearningRate:
    @given(
        epochs=st.integers(1, 60),
        steps=st.integers(1, 40),
        warmup=st.floats(0, 70),
        schedule=st.sampled_from(["cosine", "linear", "steps"]),
    )
    @settings(deadline=None)
    def test_rises_in_the_warm_up_then_falls(self, epochs, steps, warmup, schedule):
        recipe = Recipe(epochs=epochs, warmup_epochs=warmup, schedule=schedule, learning_rate=0.2)
        rates = [learning_rate_at(recipe, step, steps) for step in range(epochs * steps)]
        assert all(0 < rate <= 0.2 + 1e-12 for rate in rates)
        top = min(math.ceil(warmup * steps), len(rates) - 1)
        rising = rates[: max(top - 1, 0)]
        assert all(a < b for a, b in itertools.pairwise(rising))
        assert all(a >= b - 1e-12 for a, b in itertools.pairwise(rates[top:]))

    @pytest.mark.parametrize(
        ("schedule", "expected"),
        [
            ("steps", [0.1] * 4 + [0.01] * 2 + [0.001] * 2),
            ("cosine", [0.05 * (1 + math.cos(math.pi * t / 8)) for t in range(8)]),
        ],
    )
    def test_schedules_without_warm_up(self, schedule, expected):
        recipe = Recipe(epochs=4, warmup_epochs=0, schedule=schedule)
        found = [learning_rate_at(recipe, step, 2) for step in range(8)]
        assert found == pytest.approx(expected)


class TestAugment:
    @given(shift=st.integers(0, 3), flip=st.booleans(), seed=st.integers(0, 1000))
    @settings(deadline=None, max_examples=30)
    def test_every_image_is_a_shifted_and_mirrored_one(self, shift, flip, seed):
        images = torch.arange(3 * 2 * 5 * 6, dtype=torch.float32).reshape(3, 2, 5, 6)
        found = augment(images, shift, flip, torch.Generator().manual_seed(seed))
        for image, result in zip(images.numpy(), found.numpy(), strict=True):
            possible = []
            for mirrored in (False, True)[: 1 + flip]:
                padded = np.pad(image, [(0, 0), (shift, shift), (shift, shift)], mode="edge")
                for top in range(2 * shift + 1):
                    for left in range(2 * shift + 1):
                        window = padded[:, top : top + 5, left : left + 6]
                        possible.append(window[:, :, ::-1] if mirrored else window)
            assert any(np.array_equal(result, other) for other in possible)

    def test_shifts_and_mirrors_are_uniform(self):
        images = torch.zeros(20000, 1, 5, 5)
        images[:, :, 2, 1] = 1
        found = augment(images, 1, True, torch.Generator().manual_seed(0))
        places = found.flatten(1).argmax(1)
        counts = np.bincount(places, minlength=25).reshape(5, 5)
        assert counts.sum() == 20000
        # Columns 0 to 2 unmirrored, 2 to 4 mirrored; each place 1/18 of the draws, column 2 twice.
        expected = np.zeros((5, 5))
        expected[1:4] = np.array([1, 1, 2, 1, 1]) * 20000 / 18
        deviation = (counts - expected)[1:4] / np.sqrt(expected[1:4])
        assert np.abs(deviation).max() < 4
        assert counts[[0, 4]].sum() == 0

    def test_epochs_and_seeds_draw_differently(self):
        draws = {
            tuple(torch.randperm(20, generator=epoch_generator(seed, epoch)).tolist())
            for seed in range(10)
            for epoch in range(10)
        }
        assert len(draws) == 100


class TestBadInput:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"epochs": 0}, "epochs is 0: expected at least 1"),
            ({"batch_size": 1}, "batch size is 1: expected at least 2"),
            ({"shift": -1}, "shift is -1: expected at least 0"),
            ({"seed": -1}, "seed is -1: expected at least 0"),
            ({"learning_rate": 0.0}, "learning rate is 0.0: expected a finite number above"),
            ({"learning_rate": math.nan}, "learning rate is nan"),
            ({"momentum": 1.0}, "momentum is 1.0: expected 0 or more, below 1"),
            ({"weight_decay": -1.0}, "weight decay is -1.0: expected a finite number, 0 or"),
            ({"warmup_epochs": math.inf}, "warm-up is inf"),
            ({"schedule": "stairs"}, "no schedule 'stairs': expected cosine, linear or steps"),
        ],
    )
    def test_impossible_recipes_are_refused(self, change, message):
        with pytest.raises(TrainingError, match=message):
            Recipe(**change)

    def test_diverging_loss_is_named(self, digits):
        recipe = replace(QUICK, learning_rate=1e30, warmup_epochs=0.0)
        with pytest.raises(TrainingError, match=r"loss became (nan|inf) in epoch \d, step \d"):
            train(NET, *digits, recipe=recipe)

    def test_inputs_have_to_be_images(self):
        with pytest.raises(TrainingError, match=r"shape \(4,\): expected images"):
            train(NET, as_data((torch.zeros(3, 4), [0, 1, 2])), recipe=QUICK)
        with pytest.raises(TrainingError, match="one training example: expected at least 2"):
            train(NET, as_data((torch.zeros(1, 1, 8, 8), [0])), recipe=QUICK)

    def test_problems_are_found_before_the_work(self, digits, tmp_path):
        def never(_):
            raise AssertionError

        (tmp_path / "blocked").touch()
        for name, path, kind, message in (
            (NET, "net.onnx", CheckpointError, "suffix"),
            (NET, "blocked/net.pt", CheckpointError, "cannot be written"),
            ("resnet9", "net.pt", ArchitectureError, "Depth 9"),
        ):
            with pytest.raises(kind, match=message):
                train(name, *digits, recipe=QUICK, checkpoint_path=tmp_path / path, progress=never)

    def test_unknown_device_is_refused(self, digits):
        with pytest.raises(TrainingError, match="The device 'abacus' cannot be used"):
            train(NET, *digits, recipe=QUICK, device="abacus")

    def test_test_images_of_another_depth_are_refused(self, digits):
        other = as_data((torch.zeros(4, 3, 8, 8), [0, 1, 2, 3]))
        with pytest.raises(TrainingError, match=r"test images have shape \(3, 8, 8\), the"):
            train(NET, digits[0], other, recipe=QUICK)


BUNDLED = {
    "digits-resnet110": "cifar:resnet110",
    "digits-resnet110v2": "cifar:resnet110v2",
    "digits-plain32": "cifar:plain32",
    "digits-vgg15": "cifar:vgg15,width=16",
}


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_nets_are_as_good_as_their_records_say(name):
    found = load_checkpoint(name)
    data = open_data(found.data, mean=found.normalisation[0], std=found.normalisation[1])
    right = 0
    with torch.no_grad():
        for inputs, labels in data.batches(256):
            right += int((found.model(inputs).argmax(1) == labels).sum())
    assert found.architecture == BUNDLED[name]
    # Another processor may round the logits of one example in doubt the other way.
    assert right / len(data) == pytest.approx(found.training["test_accuracy"], abs=1.5 / 797)
    assert right / len(data) >= 0.97
    assert found.training["test_fingerprint"] == data.fingerprint()
    readme = bundled("README.md").read_text(encoding="utf-8")
    assert f"{100 * found.training['test_accuracy']:.2f} %" in readme
