"""Deletions beside a control: by hand on deep copies, statistics, files, figure, command."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

import ensemble_view
import nets
from cases import images
from ensemble_view import ControlResult, save_checkpoint, unravel
from ensemble_view.cli.application import main
from ensemble_view.errors import DataError, InterventionError, MeasurementError
from ensemble_view.measures.change import RelativeChange
from ensemble_view.measures.language import IGNORED
from ensemble_view.nets.models.building import build
from ensemble_view.statistics.paired import tango_interval
from ensemble_view.statistics.paired_ratio import paired_ratio
from ensemble_view.studies.control.study import ControlStudy
from ensemble_view.study.study import prepare
from layers import wake
from state import unchanged

COUNT = 40
BLOCKS = 4


def awake(net: nets.Net, seed: int = 2) -> nets.Net:
    """Weights that matter, and a head that does not say the same class of most images."""
    wake(net, seed)
    with torch.no_grad():
        net.head.bias -= net(images(COUNT, seed=3)).mean(0)
    return net


def make_data(net: nn.Module) -> tuple[Tensor, Tensor]:
    """Data of which the net is right on two of three."""
    x = images(COUNT, seed=3)
    with torch.no_grad():
        labels = net(x).argmax(1)
    return x, torch.where(torch.arange(COUNT) % 3 > 0, labels, (labels + 1) % nets.CLASSES)


def make_calibration(count: int) -> tuple[Tensor, Tensor]:
    # Of another mean and spread, so that the statistics are others.
    return 0.3 + 1.7 * images(count, seed=5), torch.arange(count) % nets.CLASSES


def without(net: nn.Module, index: int | None) -> nn.Module:
    """A deep copy with one branch's last layer zeroed, or one plain unit taken out."""
    found = copy.deepcopy(net)
    if index is not None and isinstance(net, nets.Plain):
        found.blocks[index] = nn.Identity()
    elif index is not None:
        nn.init.zeros_(found.blocks[index][-1].weight)
        nn.init.zeros_(found.blocks[index][-1].bias)
    return found


def worsened(net: nn.Module, logits: Tensor, labels: Tensor) -> list[float]:
    with torch.no_grad():
        before, after = net(images(COUNT, seed=3)).argmax(1) != labels, logits.argmax(1) != labels
    return (after.double() - before.double()).tolist()


@pytest.fixture(scope="module")
def net() -> nets.Net:
    return awake(nets.RootLoop())


@pytest.fixture(scope="module")
def dropped(net) -> ControlResult:
    return ensemble_view.control(net, make_data(net), granularity="branch")


@pytest.fixture(scope="module")
def recalibrated(net) -> ControlResult:
    return ensemble_view.control(
        net, make_data(net), "batchnorm", granularity="branch", batch_size=16,
        calibration=make_calibration(200), calibration_examples=200,
    )  # fmt: skip


@torch.no_grad()
def test_a_block_without_its_shortcut_is_its_branch_alone(net, dropped):
    x, labels = make_data(net)
    assert dropped.frame["block"].tolist() == [str(i) for i in range(BLOCKS)]
    for index in range(BLOCKS):
        h = net.stem(x)
        for number, branch in enumerate(net.blocks):
            h = F.relu(branch(h) + (0 if number == index else h))
        found = dropped.controlled.scores.worsening[index]
        assert found.tolist() == worsened(net, net.head(h.mean((2, 3))), labels)
        expected = worsened(net, without(net, index)(x), labels)
        assert dropped.deleted.scores.worsening[index].tolist() == expected
    assert (dropped.frame["difference"] != 0).any()


@pytest.mark.parametrize("plain", [False, True])
@torch.no_grad()
def test_recalibrated_statistics_are_those_of_torch_in_training_mode(net, recalibrated, plain):
    if plain:
        net = awake(nets.Plain())
        recalibrated = ensemble_view.control(
            net, make_data(net), "batchnorm", plain=True,
            calibration=make_calibration(200), calibration_examples=200,
        )  # fmt: skip
    (x, labels), (inputs, _) = make_data(net), make_calibration(200)
    assert recalibrated.frame["block"].tolist() == ["none", *map(str, range(BLOCKS))]
    losses = recalibrated.controlled.outcomes.loss
    for row, index in enumerate([None, *range(BLOCKS)]):
        twin = without(net, index)
        for module in twin.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        twin.train()
        # 200 examples in even batches of at most 128.
        twin(inputs[:100]), twin(inputs[100:])
        logits = twin.eval()(x)
        expected = F.cross_entropy(logits, labels, reduction="none")
        assert np.allclose(losses[row], expected, atol=1e-6)
        found = recalibrated.controlled.scores.worsening[row]
        assert found.tolist() == worsened(net, logits, labels)
        plain_loss = F.cross_entropy(without(net, index)(x), labels, reduction="none")
        assert np.allclose(recalibrated.deleted.outcomes.loss[row], plain_loss, atol=1e-6)
        assert np.abs(losses[row] - plain_loss.numpy()).max() > 0.01


@pytest.mark.parametrize("control", ["shortcut", "untrained", "batchnorm"])
def test_the_model_is_left_as_it_was(net, control):
    data = make_data(net)
    given = {"calibration": make_calibration(20), "calibration_examples": 20}
    with unchanged(net, strictly=False):
        ensemble_view.control(net, data, control, granularity="branch", **given)


def test_the_model_is_left_as_it_was_after_an_error(net):
    x, labels = make_calibration(20)
    study = prepare(ControlStudy, net, make_data(net), control="batchnorm", granularity="branch",
        calibration=(x, labels), calibration_examples=20,
    )  # fmt: skip

    def stop(_: int) -> None:
        raise RuntimeError("stopped")

    with unchanged(net, strictly=False), pytest.raises(RuntimeError, match="stopped"):
        study.recalibrated.estimate(study.recalibrated.plans[1], stop)
    # The copy is in evaluation mode again, and can be used.
    twin = study.recalibrated._twin.model
    assert not any(module.training for module in twin.modules())
    assert "then with BatchNorm estimated anew on 20 examples of data: 5 forward" in str(study)
    told: list[int] = []
    study.run(told.append)
    assert sum(told) == study.work


@torch.no_grad()
def test_the_untrained_net_is_compared_by_the_change_of_its_output(net):
    other, (x, labels) = awake(nets.RootLoop(), seed=8), make_data(net)
    result = ensemble_view.control(
        net, (x, labels), "untrained", untrained=other, granularity="branch"
    )
    for run, model in ((result.deleted, net), (result.controlled, other)):
        full = model(x)
        for index in range(BLOCKS):
            change = (without(model, index)(x) - full).norm(dim=1) / full.norm(dim=1)
            assert run.scores.worsening[index] == pytest.approx(change.numpy(), rel=1e-9)
    row, values = result.frame.iloc[1], result.controlled.scores.values[1]
    difference = values - result.deleted.scores.values[1]
    assert row["control_drop"] == pytest.approx(values.mean())
    limits = stats.t.interval(0.95, COUNT - 1, difference.mean(), stats.sem(difference))
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(limits)
    assert row["p_value"] == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)
    assert result.plot().axes[0].get_ylabel() == "Relative change of the logits"
    # By itself the net is drawn anew, by the seed.
    drawn = ensemble_view.control(net, (x, labels), "untrained", granularity="branch", seed=2)
    assert drawn.controlled.provenance.model["untrained"].startswith("weights drawn anew by its")
    assert "beside the untrained net" in drawn.summary


def test_of_text_only_positions_with_a_next_token_count():
    full, output = torch.randn(2, 2, 3, 5, dtype=torch.float64)
    targets = torch.tensor([[1, 2, IGNORED], [4, IGNORED, IGNORED]])
    measure = RelativeChange()
    found = measure.rows(output, measure.reference(full, targets))[0]
    for row, count in enumerate((2, 1)):
        one, other = output[row, :count], full[row, :count]
        assert found[row].item() == pytest.approx(((one - other).norm() / other.norm()).item())
    with pytest.raises(MeasurementError, match=r"^The measure relative change of the logits of th"):
        measure.reference(torch.zeros(2, 3), None)


def test_rows_follow_from_the_outcomes(dropped):
    row = dropped.frame.iloc[2]
    for name, worse in (
        ("drop", dropped.deleted.scores.worsening[2]),
        ("control_drop", dropped.controlled.scores.worsening[2]),
        ("difference", dropped.controlled.scores.values[2] - dropped.deleted.scores.values[2]),
    ):
        lost, gained = int((worse > 0).sum()), int((worse < 0).sum())
        interval = tango_interval(lost, gained, COUNT)
        limits = (interval.low, interval.high)
        assert row[name] == pytest.approx((lost - gained) / COUNT)
        assert (row[f"{name}_low"], row[f"{name}_high"]) == limits
    expected = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert row["p_value"] == pytest.approx(expected)
    assert (dropped.frame["p_adjusted"] >= dropped.frame["p_value"]).all()
    assert dropped.shares_frame.empty


def test_the_share_removed_is_one_minus_the_ratio_of_the_drops(recalibrated):
    shares = recalibrated.shares_frame
    assert shares[["blocks", "against"]].to_numpy().tolist() == [
        ["all", "as it is"],
        ["all", "recalibrated"],
    ]
    drop = recalibrated.deleted.scores.worsening[1:].mean(0)
    left = recalibrated.controlled.scores.worsening[1:].mean(0)
    for number, own in enumerate((0, recalibrated.controlled.scores.worsening[0])):
        ratio = paired_ratio(left - own, drop)
        found = shares.iloc[number]
        assert found["share"] == pytest.approx(1 - ratio.value)
        assert (found["share_low"], found["share_high"]) == pytest.approx(
            (1 - ratio.high, 1 - ratio.low)
        )
    assert f"removes {100 * shares['share'][0]:.0f} % [" in recalibrated.summary
    assert "All BatchNorm layers were recalibrated at once" in recalibrated.summary


def test_saved_and_loaded_results_are_equal(recalibrated, tmp_path):
    recalibrated.save(tmp_path)
    loaded = ControlResult.load(tmp_path)
    assert loaded.blocks == recalibrated.blocks
    assert loaded.summary == recalibrated.summary
    pd.testing.assert_frame_equal(loaded.frame, recalibrated.frame)
    pd.testing.assert_frame_equal(loaded.shares_frame, recalibrated.shares_frame)
    assert loaded.controlled.provenance == recalibrated.controlled.provenance
    for name in ("control.csv", "shares.csv", "control.pdf", "control.png"):
        assert (tmp_path / name).stat().st_size > 90


def test_the_table_fits_the_terminal(dropped, recalibrated):
    for result in (dropped, recalibrated):
        lines = repr(result).splitlines()
        assert max(map(len, lines)) <= 80
        first = result.frame.iloc[0]
        drops = [f"{first['drop']:+.4f}", f"{first['control_drop']:+.4f}"]
        words = lines[1].split()
        assert words[0] == first["block"]
        assert [word for word in words if word in drops]


def test_the_figure_shows_both_drops_side_by_side(recalibrated):
    (axes,) = recalibrated.plot().axes
    lines = {line.get_label(): line for line in axes.lines}
    for column, label in zip(("drop", "control_drop"), recalibrated.labels, strict=True):
        heights = 100 * recalibrated.frame[column]
        assert list(lines[label].get_ydata()) == pytest.approx(heights.tolist())
    segments = [segment for each in axes.collections for segment in each.get_segments()]
    assert len(segments) == 2 * (BLOCKS + 1)
    assert segments[0][:, 1].tolist() == pytest.approx(
        (100 * recalibrated.frame.iloc[0][["drop_low", "drop_high"]]).tolist()
    )


def test_an_interrupted_control_is_of_the_examples_that_both_were_done_with(net):
    study = prepare(
        ControlStudy, net, make_data(net), control="batchnorm", granularity="branch", batch_size=10,
        calibration=make_calibration(20), calibration_examples=20,
    )  # fmt: skip
    left = study.work

    def stop(amount: int) -> None:
        nonlocal left
        left -= amount
        if left <= 0:
            raise KeyboardInterrupt

    result = study.run(stop)
    assert result.stopped_after == 30
    assert result.deleted.examples == result.controlled.examples == 30
    assert "interrupted" in result.summary


class NoNorm(nets.RootLoop):
    def __init__(self) -> None:
        super().__init__()
        self.stem = self.stem[0]

    def block(self, index: int) -> nn.Module:
        return nn.Conv2d(self.channels, self.channels, 3, padding=1)


@pytest.mark.parametrize(
    ("model", "control", "options", "error", "sentence"),
    [
        (
            NoNorm, "batchnorm",
            {"calibration": make_calibration(8), "calibration_examples": 8}, MeasurementError,
            r"^This net has no BatchNorm with running statistics, so that there is nothing to est",
        ),
        (
            nets.RootLoop, "batchnorm", {}, DataError,
            r"^Which examples the net was trained on cannot be told from these data; give some",
        ),
        (
            nets.RootLoop, "batchnorm",
            {"calibration": make_calibration(8), "calibration_examples": 1024}, DataError,
            r"^There are 8 examples in data to estimate the statistics on, but 1,024 were asked",
        ),
        (
            nets.RootLoop, "batchnorm",
            {"calibration": make_calibration(8), "calibration_examples": 1}, DataError,
            r"^Statistics cannot be estimated on 1 examples; expected at least 2\.$",
        ),
        (
            nets.Plain, "shortcut", {"plain": True}, InterventionError,
            r"^None of these units has a shortcut that could be dropped: a net without shortcuts",
        ),
        (nets.RootLoop, "none", {}, MeasurementError, r"^There is no control 'none'; expected sh"),
        (
            nets.RootLoop, "untrained", {"measure": lambda outputs, _: outputs[:, 0]},
            MeasurementError, r"^The untrained net is compared by the relative change of the outp",
        ),
        (
            nets.RootLoop, "untrained", {"untrained": nets.TwoSums().double().eval()},
            MeasurementError, r"^The untrained net comes apart into \d+ blocks, or others",
        ),
        (
            nets.RootLoop, "shortcut", {"limits": 100}, MeasurementError,
            r"^There is no option 'limits'; expected measure, higher_is_better, tokenizer, ",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(model, control, options, error, sentence):
    net = awake(model())
    words = {"granularity": "branch"} if "plain" not in options else {}
    with pytest.raises(error, match=sentence):
        prepare(ControlStudy, net, make_data(net), control=control, **words, **options)


def test_a_chain_that_was_cut_otherwise_or_by_hand_is_refused(net):
    data, chain = make_data(net), unravel(net, images(), granularity="branch")
    by_hand = type(chain).from_parts(
        lambda x: chain.stem(x)[0], chain.blocks, lambda x: x.flatten(1)[:, : nets.CLASSES]
    )
    given = {"calibration": data, "calibration_examples": 8}
    for control in ("batchnorm", "untrained"):
        with pytest.raises(MeasurementError, match=r"^A chain put together by hand has no model"):
            prepare(ControlStudy, by_hand, data, control=control, **given)
    fewer = replace(chain, blocks=chain.blocks[:2])
    with pytest.raises(MeasurementError, match=r"^The chain has 2 blocks, but its model comes apa"):
        prepare(ControlStudy, fewer, data, control="batchnorm", granularity="branch", **given)


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    return int(stopped.value.code or 0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("nets") / "small.pt"
    model = wake(build("resnet8,width=4", in_channels=1)).float()
    save_checkpoint(path, model, architecture="resnet8,width=4,in_channels=1", data="digits")
    return path


def test_the_commands(path, tmp_path, capsys):
    words = ("lesion", path, "--limit", 12, "--batch-size", 12)
    assert run(*words, "--control", "shortcut", "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert "\n3 blocks deleted, then without their shortcuts, on 12 examples: " in printed
    assert ControlResult.load(tmp_path).table in printed
    assert run(*words, "--control", "untrained", "--only", "1", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["control"] == "untrained"
    assert printed["controlled"]["model"]["untrained"].startswith("built anew, seed 0; BatchN")
    assert len(printed["rows"]) == 1
    assert run(*words, "--recalibrate-bn", 64, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    calibration = printed["controlled"]["model"]["calibration"]
    assert (calibration["name"], calibration["split"], calibration["n"]) == ("digits", "train", 64)
    assert [row["block"] for row in printed["rows"]] == ["none", "0", "1", "2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--control", "untrained", "--pairs"), "--control and --pairs were given, which are dif"),
        (("--count", "1", "--recalibrate-bn", 9), "--count and --recalibrate-bn were given, whic"),
        (("--control", "untrained", "--recalibrate-bn", 9), "--control and --recalibrate-bn were"),
        (("--calibration", "digits"), "--calibration is an option of control batchnorm, not"),
        (("--recalibrate-bn", 99999), "examples in digits to estimate the statistics on, but 99,9"),
        (("--recalibrate-bn", 1), "Statistics cannot be estimated on 1 examples; expected"),
    ],
)  # fmt: skip
def test_commands_that_do_not_fit_are_refused_in_words(path, capsys, words, message):
    assert run("lesion", path, "--limit", 12, *words) == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_data_without_a_training_split_are_no_training_examples(path, tmp_path, capsys):
    file = tmp_path / "digits.npz"
    rng = np.random.default_rng(0)
    shown = rng.integers(0, 255, (20, 8, 8, 1), dtype=np.uint8)
    np.savez(file, images=shown, labels=np.arange(20) % 10)
    words = ("lesion", path, "--data", file, "--recalibrate-bn", 10)
    assert run(*words) == 2
    assert "digits.npz have no training split; say which" in capsys.readouterr().err
    assert run(*words, "--calibration", "digits", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["controlled"]["model"]["calibration"]["name"] == "digits"
