"""The untrained net beside the trained one: fresh weights by its own initialisation."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ensemble_view import Block, Chain, GradientsByLength, gradients_by_length, unravel
from ensemble_view.cli.application import main
from ensemble_view.errors import MeasurementError
from ensemble_view.nets.checkpoints import load_checkpoint, save_checkpoint
from ensemble_view.nets.models.building import build
from ensemble_view.studies.gradients.study import GradientStudy, prepare_gradients
from ensemble_view.study.untrained import calibrate_batchnorm, untrained_copy
from layers import wake
from state import state_of

EXAMPLES = 12


def make_net(name: str = "resnet8,width=4") -> nn.Module:
    return wake(build(name, in_channels=1))


def make_data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(EXAMPLES, 1, 8, 8, generator=generator, dtype=torch.float64)
    return x, torch.arange(EXAMPLES) % 10


@pytest.mark.parametrize("name", ["resnet8,width=16", "resnet8v2,width=16", "plain8,width=16"])
def test_our_nets_are_drawn_by_the_rule_they_are_built_by(name):
    model = wake(build(name, in_channels=1))
    before = state_of(model)
    fresh = untrained_copy(model, 3)
    assert state_of(model) == before
    convolutions = 0
    for module in fresh.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 2000:
            # He et al.'s backward form, not torch's own uniform rule.
            variance = 2 / (module.weight.shape[0] * module.weight[0, 0].numel())
            error = (2 / module.weight.numel()) ** 0.5
            assert module.weight.var().item() == pytest.approx(variance, rel=5 * error)
            convolutions += 1
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.running_var.eq(1).all()
    assert convolutions > 3
    assert not any(module.training for module in fresh.modules())
    for (key, old), new in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert not torch.equal(old, new), key


class Gain(nn.Module):
    """A block with a weight of its own, which its own code sets when it is built."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.inner = nn.Parameter(torch.ones(4)), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gain * self.inner(x).tanh()


class Drawn(Gain):
    """The same as many have it: a function of a module, applied to all."""

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Drawn):
            nn.init.constant_(module.gain, 0.25)
        elif isinstance(module, nn.Linear):
            nn.init.constant_(module.weight, 0.5)


def test_a_weight_that_nothing_initialises_is_refused_by_name():
    net = nn.Sequential(Gain(), Gain())
    before = state_of(net)
    with pytest.raises(MeasurementError, match=r"How 0.gain is initialised cannot be told"):
        untrained_copy(net, 0)
    assert state_of(net) == before
    drawn = untrained_copy(Drawn(), 0)
    assert drawn.gain.eq(0.25).all()
    assert drawn.inner.weight.eq(0.5).all()
    assert drawn.inner.bias.ne(0).any()


def test_language_models_are_drawn_as_their_library_draws_them():
    transformers = pytest.importorskip("transformers", reason="GPT-2 is from transformers")
    config = transformers.GPT2Config(
        vocab_size=300, n_embd=64, n_layer=2, n_head=2, n_positions=32,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    fresh = untrained_copy(model, 0)
    # Normal with 0.02; projections back to the stream less by the root of their number.
    expected = {"wte": 0.02, "h.0.mlp.c_fc": 0.02, "h.0.mlp.c_proj": 0.02 / (2 * 2) ** 0.5}
    for name, spread in expected.items():
        weight = fresh.transformer.get_submodule(name).weight
        assert weight.std().item() == pytest.approx(spread, rel=0.05)
    assert fresh.lm_head.weight is fresh.transformer.wte.weight
    assert all((parameter == 7).all() for parameter in model.parameters())


def test_batchnorm_is_calibrated_on_the_batch():
    fresh, (x, _) = untrained_copy(make_net(), 0), make_data()
    calibrate_batchnorm(fresh, x)
    seen: dict[str, Tensor] = {}
    for name, module in fresh.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.training, module.momentum) == (False, 0.1)
            module.register_forward_hook(
                lambda module, arguments, output, name=name: seen.update({name: output})
            )
    with torch.no_grad():
        fresh(x)
    # Whose own statistics were zero and one: normalised only now, to within n / (n - 1).
    assert len(seen) == 7
    for output in seen.values():
        assert output.mean((0, 2, 3)).abs().max() < 0.2
        assert 0.6 < output.var((0, 2, 3)).min() <= output.var((0, 2, 3)).max() < 1.4


@pytest.fixture(scope="module")
def result() -> GradientsByLength:
    return gradients_by_length(
        make_net(), make_data(), method="all", samples=4, groups=16, vectors=2, untrained=True,
        seed=3,
    )  # fmt: skip


def test_the_result_holds_what_the_untrained_net_gives_by_itself(result):
    fresh, (x, labels) = untrained_copy(make_net(), 3), make_data()
    calibrate_batchnorm(fresh, x)
    alone = gradients_by_length(
        fresh, (x, labels), method="all", samples=4, groups=16, vectors=2, seed=3
    )
    assert result.untrained is not None
    assert result.untrained.rows == alone.rows
    assert result.untrained.settings == result.settings
    assert result.untrained.rows != result.rows
    assert result.untrained.provenance.model["name"] == "ResNet, untrained"
    same = gradients_by_length(
        make_net(), make_data(), method="all", samples=4, groups=16, vectors=2, seed=3
    )
    assert result.rows == same.rows


def test_the_model_is_left_as_it_was_and_both_are_counted():
    model = make_net()
    model.train()
    before = state_of(model)
    study = prepare_gradients(model, make_data(), untrained=True)
    told: list[int] = []
    study.run(told.append)
    assert state_of(model) == before
    assert sum(told) == study.work == 2 * 6 * EXAMPLES
    assert str(study).endswith("with the untrained net")


def test_the_untrained_net_may_be_given(result):
    given = untrained_copy(make_net(), 11)
    found = gradients_by_length(make_net(), make_data(), untrained=given)
    assert found.untrained is not None
    assert found.untrained.rows == gradients_by_length(given, make_data()).rows
    assert "Before training (as it was given), mean length" in found.summary
    assert "(weights drawn anew by its modules, seed 3; BatchNorm, if" in result.summary


def test_a_chain_by_hand_has_no_untrained_net():
    blocks = [Block(0, "F", branch=lambda x, context: x)]
    chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
    data = torch.ones(2, 3), torch.tensor([0, 1])
    with pytest.raises(MeasurementError, match="no model that could be initialised anew"):
        gradients_by_length(chain, data, untrained=True)
    model = make_net()
    of_model = gradients_by_length(unravel(model, make_data()[0]), make_data(), untrained=True)
    assert of_model.untrained is not None


def test_saved_results_hold_both(result, tmp_path):
    result.save(tmp_path)
    assert GradientsByLength.load(tmp_path) == result
    assert (tmp_path / "gradients_untrained.csv").read_text() == result.untrained.frame.to_csv(
        index=False, lineterminator="\n"
    )
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(content["untrained"]["rows"]) == 4


def test_the_figure_shows_both(result):
    sizes, shares = result.plot().axes
    dashed = {line.get_label(): line for line in sizes.lines if line.get_linestyle() == "--"}
    assert set(dashed) == {
        "_norm of the sum, untrained",
        "_root of the energy, untrained",
        "_mean norm of one path, untrained",
    }
    norms = [row.summed_norm for row in result.untrained.rows]
    assert list(dashed["_norm of the sum, untrained"].get_ydata()) == norms
    drawn = [list(line.get_ydata()) for line in shares.lines if line.get_linestyle() == "--"]
    assert drawn == [list(weights) for weights in result.untrained.weights.values()]
    assert "untrained" in [text.get_text() for text in shares.get_legend().get_texts()]


def test_an_interruption_of_the_second_half_keeps_the_first(monkeypatch):
    run = GradientStudy._run

    def interrupted(self: Any, progress: Any) -> GradientsByLength:
        if self.subject.model["name"].endswith("untrained"):
            raise KeyboardInterrupt
        return run(self, progress)

    monkeypatch.setattr(GradientStudy, "_run", interrupted)
    found = gradients_by_length(make_net(), make_data(), untrained=True)
    assert found.interrupted
    assert found.untrained is None
    assert found.examples == EXAMPLES


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "resnet8.pt"
    save_checkpoint(
        path,
        make_net().float(),
        architecture="resnet8,width=4",
        normalisation=((0.3,), (0.4,)),
        data="digits",
        input_shape=(1, 8, 8),
    )
    return path


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_the_command_shows_both(saved, tmp_path, capsys):
    assert run("gradients", saved, "--limit", 20, "--untrained", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "Before training (built anew, seed 0; BatchNorm" in " ".join(printed.split())
    lines = printed.splitlines()
    (cost,) = [line for line in lines if line.startswith("Paths through 3 blocks on 20 examples: ")]
    assert max(len(line) for line in lines if line != cost) <= 80
    found = GradientsByLength.load(tmp_path / "out").untrained
    assert found is not None
    assert found.provenance.model["name"] == "resnet8, untrained"


def test_checkpoints_are_built_anew_by_the_name_of_their_architecture(saved, tmp_path):
    checkpoint = load_checkpoint(saved)
    state = torch.get_rng_state()
    fresh = checkpoint.untrained(5)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        built = build("resnet8,width=4", in_channels=1)
    assert all(
        torch.equal(one, other)
        for one, other in zip(fresh.parameters(), built.parameters(), strict=True)
    )
    renamed = dataclasses.replace(checkpoint, architecture="somewhere.Net")
    assert renamed.untrained() is None
    deeper = dataclasses.replace(checkpoint, architecture="cifar:resnet14")
    assert deeper.untrained() is None
    drawn = gradients_by_length(renamed, "digits", limit=6, untrained=True)
    assert "(weights drawn anew by its modules, seed 0" in drawn.summary


def test_another_librarys_net_is_built_by_its_own_rule(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = torchvision.models.resnet18(num_classes=5)
    nn.init.ones_(net.conv1.weight)
    path = tmp_path / "net.pt"
    torch.save(net.state_dict(), path)
    fresh = load_checkpoint(path).untrained(1)
    # Normal by the outputs, where a convolution's own reset_parameters is uniform by the inputs.
    weight = fresh.layer4[1].conv2.weight
    assert weight.var().item() == pytest.approx(2 / (512 * 9), rel=0.02)
    assert weight.abs().max() > 4 * weight.std()


def test_options_about_lengths_are_refused_by_block(saved, capsys):
    assert run("gradients", saved, "--by-block", "--untrained", "--samples", 5) == 2
    assert "--untrained, --samples is about the lengths of paths" in capsys.readouterr().err
