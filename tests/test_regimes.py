"""Regimes and recipes: who is drawn, what a step does, what a resumed run and the file are."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ensemble_view import load_checkpoint, open_data
from ensemble_view.cli.application import main
from ensemble_view.nets.checkpoints import weights_hash
from ensemble_view.nets.models.architecture import Architecture
from ensemble_view.nets.models.blocks import SkippableBlock
from ensemble_view.nets.models.building import build
from ensemble_view.training.presets import PRESETS, preset
from ensemble_view.training.recipe import Recipe, TrainingError, epoch_generator, learning_rate_at
from ensemble_view.training.regimes import EffectivePaths, Ordinary, StochasticDepth, regime_of
from ensemble_view.training.state import kept_path
from ensemble_view.training.training import train

QUICK = Recipe(epochs=3, batch_size=32, learning_rate=0.05, warmup_epochs=1, seed=5)


@pytest.fixture(scope="module")
def digits():
    return open_data("digits", split="train", limit=64), open_data("digits", limit=50)


def blocks_of(net):
    return [module for module in net.modules() if isinstance(module, SkippableBlock)]


def drawn(name, count):
    architecture = Architecture.parse(name)
    blocks = blocks_of(build(architecture, width=1))
    generator = torch.Generator().manual_seed(0)
    regime = regime_of(architecture)
    return blocks, np.array([regime.draw(blocks, generator) for _ in range(count)])


class TestDraws:
    def test_effective_paths_go_through_exactly_k_blocks_evenly(self):
        blocks, kept = drawn("resnet110,kept=23", 4000)
        assert kept.shape == (4000, 54)
        assert set(kept.sum(1)) == {23}
        share = 23 / 54
        deviations = (kept.mean(0) - share) / (share * (1 - share) / 4000) ** 0.5
        assert np.abs(deviations).max() < 4
        assert {block.survival for block in blocks} == {share}

    def test_stochastic_depth_keeps_blocks_as_often_as_they_count_in_evaluation(self):
        blocks, kept = drawn("resnet56,survival=50", 4000)
        expected = np.array([1 - 0.5 * number / 27 for number in range(1, 28)])
        deviations = (kept.mean(0) - expected) / np.sqrt(expected * (1 - expected) / 4000)
        assert np.abs(deviations).max() < 4
        # Independent: the number that is there varies as the sum of Bernoulli draws does.
        assert kept.sum(1).var() == pytest.approx((expected * (1 - expected)).sum(), rel=0.1)
        assert [block.survival for block in blocks] == pytest.approx(list(expected))

    def test_evaluation_is_the_expectation_over_the_draws(self):
        """Of one block that nothing follows: the mean of its outputs over many draws."""
        torch.manual_seed(0)
        net = build("resnet8v2,survival=40", width=4).eval()
        block = blocks_of(net)[-1]
        x = torch.randn(2, 8, 4, 4)
        _, kept = drawn("resnet8v2,survival=40", 4000)
        with torch.no_grad():
            evaluated = block(x)
            block.training = True
            outputs = {}
            for keep in (True, False):
                block.keep = keep
                outputs[keep] = block(x)
        share = kept[:, -1].mean()
        mean = share * outputs[True] + (1 - share) * outputs[False]
        spread = (0.4 * 0.6 / 4000) ** 0.5 * (outputs[True] - outputs[False]).abs()
        assert bool(((mean - evaluated).abs() <= 4 * spread + 1e-6).all())
        assert float((outputs[True] - outputs[False]).abs().max()) > 0.1

    @pytest.mark.parametrize(
        ("name", "regime"),
        [
            ("resnet20", Ordinary()),
            ("vgg15", Ordinary()),
            ("resnet20,survival=100", Ordinary()),
            ("highway20,survival=80", StochasticDepth(0.8)),
            ("resnet110,kept=23", EffectivePaths(23)),
        ],
    )
    def test_the_architecture_says_the_regime(self, name, regime):
        assert regime_of(Architecture.parse(name)) == regime


def interrupt_at(step):
    def progress(now):
        if now.step == step:
            raise KeyboardInterrupt

    return progress


RUNS = {
    "stochastic depth": ("resnet14,width=4,survival=50", QUICK),
    # Four channels would meet convolutions of oneDNN that corrupt memory on some processors.
    "effective paths": ("resnet8v2,width=8,kept=1", QUICK),
    "highway": ("highway8,width=4,survival=50", QUICK),
    "dropout": ("resnet8,width=4,variant=dropout", QUICK),
    "notes": ("notes_v2,width=2,kept=1", QUICK),
    "bfloat16": ("resnet8,width=4", replace(QUICK, precision="bfloat16", nesterov=True)),
    "low": (
        "plain8,width=4",
        replace(QUICK, warmup="low", label_smoothing=0.1, channels_last=False),
    ),
}


class TestRuns:
    @pytest.mark.parametrize("kind", RUNS)
    def test_interrupted_and_resumed_run_equals_the_uninterrupted(self, digits, tmp_path, kind):
        name, recipe = RUNS[kind]
        torch.manual_seed(7)
        whole = train(name, *digits, recipe=recipe, checkpoint_path=tmp_path / "whole.pt", keep=[2])
        path = tmp_path / "net.pt"
        train(name, *digits, recipe=recipe, checkpoint_path=path, progress=interrupt_at(4))
        torch.manual_seed(8)
        resumed = train(name, *digits, recipe=recipe, checkpoint_path=path, resume=True, keep=[2])
        assert resumed.weights_hash == whole.weights_hash
        assert resumed.training["history"] == whole.training["history"]
        assert resumed.training["recipe"] == json.loads(json.dumps(whole.training["recipe"]))
        middle = [load_checkpoint(kept_path(tmp_path / n, 2)) for n in ("whole.pt", "net.pt")]
        assert middle[0].weights_hash == middle[1].weights_hash != whole.weights_hash

    def test_other_seed_other_blocks(self, digits):
        """With weights and order held, so that only the blocks drawn can differ."""
        hashes = {
            train(name, *digits, recipe=QUICK).weights_hash
            for name in ("resnet14,width=4", "resnet14,width=4,kept=3", "resnet14,width=4,kept=6")
        }
        # All six of six blocks in each batch is ordinary training.
        assert len(hashes) == 2

    def test_a_block_left_out_is_only_decayed(self, digits):
        recipe = Recipe(epochs=1, batch_size=64, warmup_epochs=0, schedule="steps", seed=3)
        name = "resnet14,width=4,kept=2"
        made = train(name, digits[0], recipe=recipe)
        torch.manual_seed(3)
        before = build(name, in_channels=1)
        generator = epoch_generator(3, 0, 1)
        kept = set(torch.randperm(6, generator=generator)[:2].tolist())
        pairs = zip(blocks_of(made.model), blocks_of(before), strict=True)
        for index, (after, first) in enumerate(pairs):
            expected = first.conv1.weight * (1 - 0.1 * 1e-4)
            same = torch.allclose(after.conv1.weight, expected, rtol=1e-6, atol=0)
            assert same != (index in kept)
            assert bool((after.bn1.running_mean == 0).all()) != (index in kept)

    def test_file_is_as_good_as_the_record_says_where_branches_were_left_out(
        self, digits, tmp_path
    ):
        path = tmp_path / "net.safetensors"
        made = train("resnet14,width=8,survival=40", *digits, recipe=QUICK, checkpoint_path=path)
        found = load_checkpoint(path)
        assert found.architecture == "cifar:resnet14,survival=40,width=8"
        assert found.training["regime"] == {"name": "stochastic depth", "last_survival": 0.4}
        mean, std = found.normalisation
        right = 0
        with torch.no_grad():
            for inputs, labels in digits[1].batches(50):
                right += int((found.model((inputs - mean[0]) / std[0]).argmax(1) == labels).sum())
        assert right / 50 == made.training["test_accuracy"]

    def test_layout_changes_no_more_than_rounding(self, digits):
        recipe = replace(QUICK, epochs=1)
        one, other = (
            train("resnet8,width=4", *digits, recipe=replace(recipe, channels_last=layout))
            for layout in (True, False)
        )
        for name, value in one.model.state_dict().items():
            torch.testing.assert_close(other.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)

    def test_bfloat16_trains_float32_weights(self, digits):
        recipe = replace(QUICK, epochs=8, learning_rate=0.1, precision="bfloat16")
        made = train("resnet8,width=8", *digits, recipe=recipe)
        assert all(value.dtype == torch.float32 for value in made.model.parameters())
        losses = [entry["loss"] for entry in made.training["history"]]
        assert losses[-1] < 0.7 * losses[0]
        exact = train("resnet8,width=8", *digits, recipe=replace(recipe, precision="float32"))
        assert exact.weights_hash != made.weights_hash

    @pytest.mark.parametrize("nesterov", [False, True])
    def test_step_with_smoothed_labels_by_hand(self, digits, nesterov):
        """Two steps on all examples, against the update rule written out."""
        data = digits[0].with_normalisation((0.3,), (0.4,))
        recipe = Recipe(
            epochs=2, batch_size=64, warmup_epochs=0, shift=0, schedule="linear", seed=2,
            label_smoothing=0.2, nesterov=nesterov,
        )  # fmt: skip
        made = train("plain8,width=2", data, recipe=recipe)
        torch.manual_seed(2)
        net = build("plain8,width=2", in_channels=1).train()
        inputs, labels = next(data.batches(64))
        target = 0.2 / 10 + 0.8 * torch.eye(10)[labels]
        velocity = {name: 0.0 for name, _ in net.named_parameters()}
        for rate in (0.1, 0.05):
            loss = -(target * net(inputs).log_softmax(1)).sum(1).mean()
            gradients = torch.autograd.grad(loss, list(net.parameters()))
            with torch.no_grad():
                for (name, value), gradient in zip(net.named_parameters(), gradients, strict=True):
                    gradient = gradient + 1e-4 * value
                    velocity[name] = 0.9 * velocity[name] + gradient
                    value -= rate * (
                        gradient + 0.9 * velocity[name] if nesterov else velocity[name]
                    )
        for name, value in net.state_dict().items():
            torch.testing.assert_close(
                made.model.state_dict()[name], value, rtol=1e-3, atol=1e-4, msg=name
            )


class TestKept:
    def test_nets_of_chosen_epochs_are_kept(self, digits, tmp_path):
        path = tmp_path / "net.safetensors"
        name = "resnet8,width=4"
        made = train(name, *digits, recipe=QUICK, checkpoint_path=path, keep=[0, 1, 3], half=True)
        found = {epoch: load_checkpoint(kept_path(path, epoch)) for epoch in (0, 1, 3)}
        assert sorted(file.name for file in tmp_path.iterdir()) == [
            "net-epoch000.safetensors",
            "net-epoch001.safetensors",
            "net-epoch003.safetensors",
            "net.safetensors",
        ]
        torch.manual_seed(5)
        untrained = build(name, in_channels=1)
        for value, expected in zip(
            found[0].model.parameters(), untrained.parameters(), strict=True
        ):
            torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3)
        assert found[3].weights_hash == made.weights_hash
        assert [found[e].training["epochs_done"] for e in (0, 1, 3)] == [0, 1, 3]
        assert 0 <= found[0].training["test_accuracy"] < 0.5
        assert found[1].training["history"] == made.training["history"][:1]
        # Keeping copies does not disturb the run.
        plain = train(name, *digits, recipe=QUICK, half=True)
        assert plain.weights_hash == made.weights_hash == weights_hash(made.model)

    def test_epochs_that_are_not_there_are_refused(self, digits, tmp_path):
        with pytest.raises(TrainingError, match="Epoch 4 cannot be kept: there are 3; 0 is"):
            train("resnet8", *digits, recipe=QUICK, checkpoint_path=tmp_path / "n.pt", keep=[4])
        with pytest.raises(TrainingError, match="no checkpoint path beside which"):
            train("resnet8", *digits, recipe=QUICK, keep=[1])


class TestPresets:
    def test_he_steps_down_after_32000_and_48000_of_64000_steps(self):
        recipe = preset("he", "resnet56")
        per_epoch = -(-50_000 // recipe.batch_size)
        total = per_epoch * recipe.epochs
        assert total == pytest.approx(64_000, rel=0.002)
        rates = [learning_rate_at(recipe, step, per_epoch) for step in range(total)]
        changes = [step for step in range(1, total) if rates[step] != rates[step - 1]]
        assert changes == [pytest.approx(32_000, rel=0.002), pytest.approx(48_000, rel=0.002)]
        assert (rates[0], rates[-1]) == (0.1, pytest.approx(0.001))
        assert (recipe.momentum, recipe.weight_decay, recipe.flip) == (0.9, 1e-4, True)

    def test_deep_nets_warm_up_at_a_tenth(self):
        recipe = preset("he", "resnet110v2")
        rates = [learning_rate_at(recipe, step, 391) for step in range(500)]
        assert rates == pytest.approx([0.01] * 390 + [0.1] * 110)

    def test_fast_goes_up_and_down_in_lines(self):
        recipe = PRESETS["fast"]
        rates = np.array([learning_rate_at(recipe, step, 10) for step in range(300)])
        assert rates.argmax() in (59, 60)
        assert rates.max() == pytest.approx(recipe.learning_rate)
        assert np.abs(np.diff(rates[:59], 2)).max() < 1e-12
        assert np.abs(np.diff(rates[61:], 2)).max() < 1e-12
        assert 0 < rates[-1] < 0.01 * recipe.learning_rate

    def test_unknown_recipe_is_refused(self):
        with pytest.raises(TrainingError, match="no recipe 'slow': expected he, fast, cosine"):
            preset("slow", "resnet20")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"label_smoothing": 1.0}, "label smoothing is 1.0: expected 0 or more, below 1"),
            ({"nesterov": True, "momentum": 0.0}, "ahead by the momentum, which is 0"),
            ({"warmup": "hot"}, "no warmup 'hot': expected linear or low"),
            ({"precision": "int8"}, "no precision 'int8': expected float32 or bfloat16"),
        ],
    )
    def test_impossible_recipes_are_refused(self, change, message):
        with pytest.raises(TrainingError, match=message):
            Recipe(**change)


class TestCommand:
    def run(self, *words: object) -> int:
        with pytest.raises(SystemExit) as stop:
            main(["train", *map(str, words)])
        return int(stop.value.code or 0)

    def test_options_reach_the_record(self, tmp_path, capsys):
        out = tmp_path / "net.pt"
        code = self.run(
            "resnet8,width=4,kept=2", "--recipe", "fast", "--epochs", 2, "--limit", 40, "--no-flip",
            "--out", out, "--keep-every", 2, "--keep-at", "1", "--warmup-epochs", 1,
        )  # fmt: skip
        assert code == 0
        record = load_checkpoint(out).training
        expected = replace(PRESETS["fast"], epochs=2, flip=False, warmup_epochs=1.0)
        assert record["recipe"] == json.loads(json.dumps(expected.__dict__))
        assert record["regime"] == {"name": "effective paths", "kept": 2}
        assert [kept_path(out, epoch).exists() for epoch in (0, 1, 2)] == [True] * 3

    def test_bad_epochs_are_refused(self, tmp_path, capsys):
        assert self.run("resnet8", "--out", tmp_path / "n.pt", "--keep-at", "1,x") == 2
        assert "--keep-at is '1,x': expected epochs such as 0,1,5" in capsys.readouterr().err
