"""Nets of the same weights that compute something else: said, chosen, and told apart by data."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

import ensemble_view as ev
from ensemble_view.cli.application import main
from ensemble_view.errors import CheckpointError
from ensemble_view.nets.adapters.torchvision_models import build_torchvision
from ensemble_view.nets.models.architecture import Architecture, ArchitectureError
from ensemble_view.nets.models.building import build
from ensemble_view.nets.models.untraced import untraced

MEAN, STD = (0.304559,), (0.376019,)


def conv(inputs, outputs, kernel=3, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class ByHand(nn.Module):
    """A block as public code for small images has it: `downsample`, a ReLU behind the sum."""

    def __init__(self, widths, kernels, strides, downsample):
        super().__init__()
        self.n, self.downsample = len(kernels), downsample
        for j, (kernel, stride) in enumerate(zip(kernels, strides, strict=True), 1):
            setattr(self, f"conv{j}", conv(widths[j - 1], widths[j], kernel, stride))
            setattr(self, f"bn{j}", nn.BatchNorm2d(widths[j]))

    def forward(self, x):
        y = x
        for j in range(1, self.n + 1):
            y = getattr(self, f"bn{j}")(getattr(self, f"conv{j}")(y))
            y = F.relu(y) if j < self.n else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ZerosBehind(nn.Module):
    def forward(self, x):
        x = x[:, :, ::2, ::2]
        return torch.cat([x, torch.zeros_like(x)], 1)


class HandMade(nn.Module):
    def __init__(self, n, bottleneck, place=1):
        super().__init__()
        self.conv1, self.bn1 = conv(1, 16), nn.BatchNorm2d(16)
        inputs = 16
        for stage, width in enumerate((16, 32, 64), 1):
            blocks = []
            for i in range(n):
                stride = 2 if stage > 1 and i == 0 else 1
                outputs = width * (4 if bottleneck else 1)
                link = None
                if bottleneck and inputs != outputs:
                    link = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
                elif inputs != outputs:
                    link = ZerosBehind()
                widths = [inputs, width, width, outputs] if bottleneck else [inputs, width, width]
                kernels = [1, 3, 1] if bottleneck else [3, 3]
                strides = [1] * len(kernels)
                strides[place if bottleneck else 0] = stride
                blocks.append(ByHand(widths, kernels, strides, link))
                inputs = outputs
            setattr(self, f"layer{stage}", nn.Sequential(*blocks))
        self.fc = nn.Linear(inputs, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean((2, 3)))


def trained(net, seed=0):
    torch.manual_seed(seed)
    x, y = ev.open_data("digits", split="train", mean=MEAN, std=STD).take(range(1000))
    optimizer = torch.optim.Adam(net.parameters(), 0.003)
    for _ in range(5):
        for each in torch.randperm(1000).view(-1, 50):
            optimizer.zero_grad()
            F.cross_entropy(net(x[each]), y[each]).backward()
            optimizer.step()
    return net.eval()


def accuracy(net, data):
    with torch.inference_mode():
        return float(
            torch.cat([(net(x).argmax(1) == y).double() for x, y in data.batches()]).mean()
        )


@pytest.fixture(scope="module")
def digits():
    return ev.open_data("digits", mean=MEAN, std=STD)


@pytest.fixture(scope="module", params=["zeros behind", "stride in the 1x1"])
def misread(request, tmp_path_factory):
    """A net whose file reads as another one, and the architecture that it is."""
    torch.manual_seed(1)
    if request.param == "zeros behind":
        net, true = HandMade(1, False), "cifar:resnet8,padding=end"
    else:
        net, true = HandMade(1, True, place=0), "cifar:resnet11,layers=3,shortcut=B,stride=1x1"
    file = tmp_path_factory.mktemp("net") / "net.pth"
    torch.save({"state_dict": trained(net).state_dict()}, file)
    return net, file, true


def test_data_tell_which_of_two_nets_a_file_holds(misread, digits):
    net, file, true = misread
    guessed = ev.load_checkpoint(file)
    assert guessed.inferred
    with pytest.raises(CheckpointError) as told:
        ev.lesion(guessed, digits, blocks="1")
    sentence = str(told.value)
    assert f"--arch {true}" in sentence
    assert "inferred as" in sentence
    sample = digits.subset(200)
    assert f"right on {accuracy(guessed.model, sample):.1%}" in sentence
    assert f"right on {accuracy(net, sample):.1%}" in sentence


def test_what_was_named_is_what_is_computed(misread, digits):
    net, file, true = misread
    named = ev.load_checkpoint(file, architecture=true)
    assert named.inferred is None
    assert named.architecture == true
    result = ev.lesion(named, digits, blocks="1", batch_size=100)
    assert result.baseline.accuracy == pytest.approx(accuracy(net, digits), abs=1e-9)


def test_the_inferred_one_can_be_kept(misread, digits):
    _, file, _ = misread
    guess = ev.load_checkpoint(file).architecture
    kept = ev.load_checkpoint(file, architecture=guess)
    ev.lesion(kept, digits, blocks="1", limit=50, batch_size=50)


def test_a_net_that_was_guessed_rightly_passes_and_says_so(tmp_path, digits):
    torch.manual_seed(1)
    net = HandMade(1, True)
    torch.save(trained(net).state_dict(), tmp_path / "net.pth")
    result = ev.lesion(ev.load_checkpoint(tmp_path / "net.pth"), digits, blocks="1", batch_size=100)
    assert result.baseline.accuracy == pytest.approx(accuracy(net, digits), abs=1e-9)
    model = result.to_json()["model"]
    assert model["architecture"] == "cifar:resnet11,layers=3,shortcut=B,stride=3x3"
    assert model["inferred"][0]["what"] == "which convolution of a bottleneck has the stride"
    first = " ".join(repr(result).split("\n\n")[0].split())
    assert first.startswith("Architecture inferred from the names and shapes of the weights")
    assert "else cifar:resnet11,layers=3,shortcut=B,stride=1x1" in first
    assert "choose with --arch" in first


def test_an_untrained_net_is_not_told_from_its_variants(tmp_path, digits):
    torch.manual_seed(0)
    torch.save(HandMade(1, False).state_dict(), tmp_path / "net.pth")
    ev.lesion(ev.load_checkpoint(tmp_path / "net.pth"), digits, blocks="1", limit=50, batch_size=50)


def test_a_guess_stays_one_when_it_is_exported(tmp_path):
    torch.manual_seed(0)
    torch.save(HandMade(2, False).state_dict(), tmp_path / "net.pth")
    found = ev.load_checkpoint(tmp_path / "net.pth")
    ev.export(found, "delete 1", tmp_path / "less.pt")
    assert ev.load_checkpoint(tmp_path / "less.pt").inferred == found.inferred
    named = ev.load_checkpoint(tmp_path / "net.pth", architecture="cifar:resnet14,padding=end")
    ev.export(named, "delete 1", tmp_path / "named.pt")
    again = ev.load_checkpoint(tmp_path / "named.pt")
    assert again.inferred is None
    assert again.architecture == "cifar:resnet14,padding=end after delete 1"


def test_the_command_line_says_it_first(tmp_path, capsys):
    torch.manual_seed(0)
    torch.save(HandMade(1, False).state_dict(), tmp_path / "net.pth")
    words = ["lesion", str(tmp_path / "net.pth"), "--data", "digits", "--limit", "20"]
    with pytest.raises(SystemExit):
        main([*words, "--normalise", "digits", "--blocks", "1", "--batch-size", "20"])
    out = capsys.readouterr().out
    assert out.startswith("Architecture inferred from the names and shapes of the weights:")
    assert "cifar:resnet8,padding=end" in out
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path / "net.pth"), "--json"])
    record = json.loads(capsys.readouterr().out)
    assert record["setting"][0].startswith("Architecture inferred")


def test_option_a_puts_its_zeros_where_it_is_told():
    x = torch.rand(2, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    from ensemble_view.nets.models.shortcuts import ZeroPadShortcut

    assert torch.equal(ZeroPadShortcut(16, 2, "end")(x), ZerosBehind()(x))
    sides = ZeroPadShortcut(16, 2)(x)
    assert torch.equal(sides[:, 8:24], x[:, :, ::2, ::2])
    assert not sides[:, :8].any()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet20,stride=3x3", "is about bottlenecks"),
        ("resnet20v2,padding=end", "is about shortcuts of zeros"),
        ("resnet20,padding=left", "one of sides, end"),
    ],
)
def test_options_that_fit_no_such_net_are_refused(name, sentence):
    with pytest.raises(ArchitectureError, match=sentence):
        build(name)


def strided_first():
    net = torchvision.models.resnet50(num_classes=7)
    for stage in (net.layer2, net.layer3, net.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return net


def without_pool():
    net = torchvision.models.resnet18(num_classes=7)
    net.maxpool = nn.Identity()
    return net


def averaged():
    net = torchvision.models.resnet18(num_classes=7)
    for stage in (net.layer2, net.layer3, net.layer4):
        link = stage[0].downsample[0]
        pooled = nn.Conv2d(link.in_channels, link.out_channels, 1, bias=False)
        stage[0].downsample = nn.Sequential(
            nn.Sequential(nn.AvgPool2d(2), pooled), stage[0].downsample[1]
        )
    return net


def dilated():
    return torchvision.models.resnet50(
        num_classes=7, replace_stride_with_dilation=[False, True, True]
    )


@pytest.mark.parametrize(
    ("text", "make"),
    [
        ("torchvision:resnet50,stride=1x1", strided_first),
        ("torchvision:resnet18,maxpool=none", without_pool),
        ("torchvision:resnet18,shortcut=avgpool", averaged),
        ("torchvision:resnet50,output_stride=8", dilated),
    ],
)
def test_the_options_of_torchvisions_nets_compute_what_they_say(text, make):
    torch.manual_seed(0)
    there = make().double().eval()
    here = build_torchvision(Architecture.parse(text), 7).model.double().eval()
    weights = {
        name.replace("downsample.0.1.", "downsample.0."): value
        for name, value in there.state_dict().items()
    }
    here.load_state_dict(weights)
    plain = build_torchvision(Architecture.parse(text.partition(",")[0]), 7).model.double().eval()
    plain.load_state_dict(weights)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.inference_mode():
        assert torch.allclose(here(x), there(x), rtol=1e-10, atol=1e-12)
        assert not torch.allclose(plain(x), there(x), rtol=1e-3)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("torchvision:resnet18,stride=1x1", "is about bottlenecks"),
        ("torchvision:resnet50,stride=2x2", "one of 1x1, 3x3"),
        ("torchvision:resnet50,output_stride=7", "expected 32"),
        ("torchvision:vgg11,maxpool=none", "is about residual nets"),
    ],
)
def test_options_of_torchvisions_nets_that_fit_not_are_refused(text, sentence):
    with pytest.raises(ArchitectureError, match=sentence):
        build_torchvision(Architecture.parse(text), 7)


def test_nets_under_torchvisions_names_say_what_leaves_no_trace(tmp_path):
    torch.save(strided_first().state_dict(), tmp_path / "net.pth")
    found = ev.load_checkpoint(tmp_path / "net.pth")
    others = {str(other) for each in found.inferred for other in each.others}
    assert {
        "torchvision:resnet50,stride=1x1", "torchvision:resnet50,maxpool=none",
        "torchvision:resnet50,output_stride=8", "timm:resnetblur50", "timm:resnetaa50",
    } <= others  # fmt: skip
    named = ev.load_checkpoint(tmp_path / "net.pth", architecture="torchvision:resnet50,stride=1x1")
    assert named.inferred is None
    assert named.untrained().layer2[0].conv1.stride == (2, 2)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_every_variant_takes_the_same_weights(name):
    pytest.importorskip("timm")
    from ensemble_view.nets.adapters.architectures import build_for_weights

    weights = torchvision.models.get_model(name, num_classes=3).state_dict()
    for each in untraced(Architecture(name, family="torchvision")):
        for other in each.others:
            build_for_weights(other, weights).model.load_state_dict(weights)
