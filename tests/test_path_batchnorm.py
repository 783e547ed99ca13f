"""Gradients by path with the statistics of the batch in BatchNorm, against the net in training."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from ensemble_view import Block, Chain, gradients_by_length, unravel
from ensemble_view.cli.application import main
from ensemble_view.errors import MeasurementError
from ensemble_view.nets.checkpoints import save_checkpoint
from ensemble_view.nets.models.building import build
from ensemble_view.paths.batchnorm import with_batch_statistics
from ensemble_view.paths.gradients import path_gradients, summed_gradients
from ensemble_view.paths.trace import trace
from layers import wake
from path_oracles import enumerate_paths
from state import state_of

EXAMPLES = 6


def make_data(channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(EXAMPLES, channels, 16, 16, generator=generator, dtype=torch.float64)
    return x, torch.arange(EXAMPLES) % 5


def bottlenecks() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], 5, width_per_group=8
        )


class InPlaceViews(nn.Module):
    """A branch that writes into a view, so that its graph is decomposed when it is exported."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x)).clone()
        y[:, :2] = torch.tanh(y[:, :2])
        return x + y


class Decomposed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.blocks = nn.Sequential(*(InPlaceViews() for _ in range(3)))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


NETS: dict[str, Any] = {
    "v1": lambda: build("resnet14,width=4", classes=5),
    "v1, projection": lambda: build("resnet14,width=4,shortcut=B", classes=5),
    "v2": lambda: build("resnet14v2,width=4", classes=5),
    "bottlenecks": bottlenecks,
    "decomposed": Decomposed,
}


@pytest.fixture(scope="module", params=NETS.values(), ids=NETS.keys())
def net(request: pytest.FixtureRequest) -> nn.Module:
    return wake(request.param())


def in_training(model: nn.Module) -> nn.Module:
    """A copy whose BatchNorm is in training mode."""
    twin = copy.deepcopy(model).eval()
    for module in twin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    return twin


def test_the_lengths_sum_to_autograds_gradient_of_the_net_in_training(net):
    x, labels = make_data()
    before = state_of(net)
    chain = with_batch_statistics(unravel(net, x, granularity="branch"))
    found = sum(summed_gradients(trace(chain, x, labels, at=None)))
    assert state_of(net) == before
    point = x.clone().requires_grad_()
    loss = F.cross_entropy(in_training(net)(point), labels, reduction="sum")
    (expected,) = torch.autograd.grad(loss, point)
    assert (found - expected).norm() <= 1e-10 * expected.norm()
    still = F.cross_entropy(net(point), labels, reduction="sum")
    assert (torch.autograd.grad(still, point)[0] - expected).norm() > 0.01 * expected.norm()


def test_the_study_measures_batches_and_leaves_running_statistics_alone():
    model, (x, labels) = wake(build("resnet8,width=4", classes=5)), make_data()
    model.train()
    before = state_of(model)
    result = gradients_by_length(
        model, (x, labels), method=["summed", "sampled"], samples=8, batch_size=3,
        batchnorm="training",
    )  # fmt: skip
    assert state_of(model) == before
    twin = in_training(model)
    sums, singles, shares = [], [], []
    for part in (slice(0, 3), slice(3, 6)):
        # The chain's own parts once more, but the gradient of each path by autograd.
        chain = with_batch_statistics(unravel(model, x[part]))
        assert torch.allclose(chain(x[part]), twin(x[part]), rtol=1e-10)
        every = enumerate_paths(
            chain, (x[part],),
            lambda output, part=part: F.cross_entropy(output, labels[part], reduction="none") / 3,
        )  # fmt: skip
        by_length = [sum(g for path, g in every.items() if len(path) == k) for k in range(4)]
        whole = sum(by_length)
        sums.append([each.norm().item() for each in by_length])
        shares.append([(each * whole).sum().item() / whole.square().sum() for each in by_length])
        singles.append(
            [[g.norm().item() for p, g in every.items() if len(p) == k] for k in range(4)]
        )
    for k, row in enumerate(result.rows):
        assert row.summed_norm == pytest.approx((sums[0][k] + sums[1][k]) / 2, rel=1e-10)
        assert row.projected == pytest.approx(float(shares[0][k] + shares[1][k]) / 2, rel=1e-9)
        norms = singles[0][k] + singles[1][k]
        assert row.sampled_mean == pytest.approx(sum(norms) / len(norms), rel=1e-10)
    assert (result.settings.norm, result.settings.batchnorm) == ("batch", "training")
    assert "BatchNorm took the statistics of each batch of 3" in result.summary
    assert min(each for each in result.overstatement if each is not None) >= 1 - 1e-9


def test_sampled_norms_of_batches_are_not_held_against_sums_of_examples():
    model, data = wake(build("resnet8,width=4", classes=5)), make_data()
    result = gradients_by_length(model, data, method=["summed", "sampled"], samples=8, norm="batch")
    assert result.overstatement == (None,) * 4


def test_single_paths_go_through_the_statistics_too():
    model, (x, labels) = wake(build("resnet8,width=4", classes=5)), make_data()
    chain = with_batch_statistics(unravel(model, x))
    (found,) = path_gradients(trace(chain, x, labels), [(0, 2)])
    # Changing one example moves the gradient of another.
    other = x.clone()
    other[0] *= 2
    (moved,) = path_gradients(trace(chain, other, labels), [(0, 2)])
    assert (found[1] - moved[1]).norm() > 1e-3 * found[1].norm()


def hand_made() -> Chain:
    blocks = [Block(0, "F", branch=lambda x, context: x)]
    return Chain.from_parts(lambda x: x, blocks, lambda x: x)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm": "example"}, "none has a gradient of its own; leave norm at 'batch'"),
        ({"method": "all"}, "The energy mixes each example by itself.*choose summed, sampled"),
        ({"batchnorm": "running"}, "There is no batchnorm 'running'; expected 'evaluation' or"),
    ],
)
def test_what_does_not_go_together_is_refused(options, sentence):
    model = wake(build("resnet8,width=4", classes=5))
    with pytest.raises(MeasurementError, match=sentence):
        gradients_by_length(model, make_data(), **{"batchnorm": "training", **options})


def test_nets_without_batchnorm_and_chains_by_hand_are_refused():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = torchvision.models.VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=5)
        nn.init.ones_(transformer.heads.head.weight)
    with pytest.raises(MeasurementError, match="This net has no BatchNorm that uses running"):
        gradients_by_length(transformer.double(), make_data(), batchnorm="training")
    with pytest.raises(MeasurementError, match="put together by hand it cannot be told"):
        gradients_by_length(hand_made(), make_data(), batchnorm="training")


def test_the_command_says_so(tmp_path, capsys):
    path = tmp_path / "net.pt"
    save_checkpoint(
        path,
        wake(build("resnet8,width=4", in_channels=1)).float(),
        architecture="resnet8,width=4",
        normalisation=((0.3,), (0.4,)),
        data="digits",
        input_shape=(1, 8, 8),
    )
    words = ["gradients", path, "--limit", 20, "--batchnorm", "training", "--json"]
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    assert stop.value.code in (None, 0)
    content = json.loads(capsys.readouterr().out)
    assert content["settings"]["batchnorm"] == "training"
    assert content["settings"]["norm"] == "batch"
    assert math.fsum(row["projected"] for row in content["rows"]) == pytest.approx(1, abs=1e-5)
