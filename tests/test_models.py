"""The reference nets: shapes, sizes, and equality with forward passes written out by hand."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ensemble_view.nets.adapters.architectures import build_for_weights, is_factory
from ensemble_view.nets.models.architecture import Architecture, ArchitectureError
from ensemble_view.nets.models.building import build
from ensemble_view.nets.models.inference import infer

Weights = dict[str, Tensor]

NAMES = [
    "resnet20",
    "resnet20,shortcut=B",
    "resnet20v2",
    "resnet20v2,shortcut=A",
    "resnet8,width=4",
    "plain20",
    "plain8,width=6",
    "vgg10,width=4",
    "vgg15,width=4",
    "vgg18,width=3",
]


def awake(net: nn.Module, seed: int = 0) -> nn.Module:
    """Give BatchNorm statistics and gains that make every layer matter, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            for value, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 1.5),
            ):
                with torch.no_grad():
                    value.uniform_(low, high, generator=generator)
    return net.double().eval()


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """BatchNorm in eval mode, written out."""
    gain = w[f"{name}.weight"] / torch.sqrt(w[f"{name}.running_var"] + 1e-5)
    axes = (None, slice(None)) + (None,) * (x.ndim - 2)
    return (x - w[f"{name}.running_mean"][axes]) * gain[axes] + w[f"{name}.bias"][axes]


def zero_pad(x: Tensor) -> Tensor:
    """Option A, as the layout of common CIFAR-10 checkpoints has it."""
    small = x[:, :, ::2, ::2]
    zeros = torch.zeros_like(small[:, : small.shape[1] // 2])
    return torch.cat([zeros, small, zeros], dim=1)


def resnet_by_hand(w: Weights, x: Tensor, n: int, option: str) -> Tensor:
    x = norm(w, "bn1", F.conv2d(x, w["conv1.weight"], padding=1)).clamp(min=0)
    for stage in (1, 2, 3):
        for index in range(n):
            at = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            h = F.conv2d(x, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            h = norm(w, f"{at}.bn1", h).clamp(min=0)
            h = norm(w, f"{at}.bn2", F.conv2d(h, w[f"{at}.conv2.weight"], padding=1))
            if stride == 2 and option == "A":
                x = zero_pad(x)
            elif stride == 2:
                x = F.conv2d(x, w[f"{at}.shortcut.0.weight"], stride=2)
                x = norm(w, f"{at}.shortcut.1", x)
            x = (x + h).clamp(min=0)
    return x.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]


def resnet_v2_by_hand(w: Weights, x: Tensor, n: int, option: str) -> Tensor:
    x = F.conv2d(x, w["conv1.weight"], padding=1)
    for stage in (1, 2, 3):
        for index in range(n):
            at = f"layer{stage}.{index}"
            stride = 2 if stage > 1 and index == 0 else 1
            u = norm(w, f"{at}.bn1", x).clamp(min=0)
            h = F.conv2d(u, w[f"{at}.conv1.weight"], stride=stride, padding=1)
            h = norm(w, f"{at}.bn2", h).clamp(min=0)
            h = F.conv2d(h, w[f"{at}.conv2.weight"], padding=1)
            if stride == 2:
                x = (
                    zero_pad(u)
                    if option == "A"
                    else F.conv2d(u, w[f"{at}.shortcut.weight"], None, 2)
                )
            x = x + h
    x = norm(w, "bn", x).clamp(min=0)
    return x.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]


def plain_by_hand(w: Weights, x: Tensor, n: int, _: str) -> Tensor:
    x = norm(w, "stem.bn", F.conv2d(x, w["stem.conv.weight"], padding=1)).clamp(min=0)
    for index in range(6 * n):
        stride = 2 if index in {2 * n, 4 * n} else 1
        x = F.conv2d(x, w[f"units.{index}.conv.weight"], stride=stride, padding=1)
        x = norm(w, f"units.{index}.bn", x).clamp(min=0)
    return x.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]


def vgg15_by_hand(w: Weights, x: Tensor, _: int, __: str) -> Tensor:
    for stage, count in enumerate((2, 2, 3, 3, 3)):
        for index in range(count):
            at = f"stages.{stage}.{index}"
            x = norm(w, f"{at}.bn", F.conv2d(x, w[f"{at}.conv.weight"], padding=1)).clamp(min=0)
        if x.shape[2] > 1:
            x = x.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    x = norm(w, "hidden_bn", x.mean((2, 3)) @ w["hidden.weight"].T).clamp(min=0)
    return x @ w["linear.weight"].T + w["linear.bias"]


@pytest.mark.parametrize("side", [8, 12])
@pytest.mark.parametrize(
    ("name", "by_hand", "n", "option"),
    [
        ("resnet20", resnet_by_hand, 3, "A"),
        ("resnet14,shortcut=B", resnet_by_hand, 2, "B"),
        ("resnet14v2", resnet_v2_by_hand, 2, "B"),
        ("resnet20v2,shortcut=A", resnet_v2_by_hand, 3, "A"),
        ("plain14", plain_by_hand, 2, ""),
        ("vgg15,width=4", vgg15_by_hand, 0, ""),
    ],
)
def test_net_equals_its_forward_pass_by_hand(name, by_hand, n, option, side):
    torch.manual_seed(1)
    net = awake(build(name, in_channels=2, classes=5))
    x = torch.randn(3, 2, side, side, dtype=torch.float64)
    expected = by_hand(dict(net.state_dict()), x, n, option)
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
    assert expected.std() > 1e-3


@pytest.mark.parametrize(
    ("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.7)]
)
def test_parameter_counts_are_those_of_the_paper(depth, millions):
    """He et al. 2015, table 6."""
    with torch.device("meta"):
        net = build(f"resnet{depth}")
        plain = build(f"plain{depth}")
    count = sum(parameter.numel() for parameter in net.parameters())
    assert round(count / 1e6, 2 if depth < 110 else 1) == millions
    assert sum(parameter.numel() for parameter in plain.parameters()) == count


@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet164v2,layers=3", 1.7), ("resnet1001v2,layers=3", 10.2)],
)
def test_parameter_counts_of_bottleneck_nets_are_those_of_the_paper(name, millions):
    """He et al. 2016 (arXiv 1603.05027); the count is that of convolutions and linear layer."""
    with torch.device("meta"):
        net = build(name)
    count = sum(parameter.numel() for parameter in net.parameters() if parameter.ndim > 1)
    assert round(count / 1e6, 1) == millions


@pytest.mark.parametrize("name", ["resnet32", "resnet32v2", "plain32", "resnet32,layers=1"])
def test_depth_counts_convolutions_and_the_linear_layer(name):
    with torch.device("meta"):
        net = build(name)
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(layers) + 1 == 32


def test_vgg15_has_thirteen_convolutions_and_two_linear_layers():
    with torch.device("meta"):
        net = build("vgg15")
    kinds = [type(m) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert kinds == [nn.Conv2d] * 13 + [nn.Linear] * 2
    assert sum(parameter.numel() for parameter in net.parameters()) > 14_000_000


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 32)])
def test_nets_take_small_images_and_can_be_trained(name, channels, side):
    net = build(name, in_channels=channels, classes=7)
    logits = net(torch.randn(4, channels, side, side))
    assert logits.shape == (4, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize("version", ["", "v2"])
def test_a_block_that_keeps_its_shape_passes_its_input_on_when_its_branch_is_zero(version):
    net = awake(build(f"resnet20{version}", in_channels=1))
    block = net.layer2[1]
    last = block.conv2 if version else block.bn2
    with torch.no_grad():
        last.weight.zero_()
        if not version:
            last.bias.zero_()
            last.running_mean.zero_()
        x = torch.rand(2, 32, 4, 4, dtype=torch.float64)
        assert torch.equal(block(x), x)


def test_initial_weights_follow_the_seed_only():
    first, second, third = (
        (torch.manual_seed(seed), build("resnet20").state_dict())[1] for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], third["conv1.weight"])


names = st.sampled_from(["resnet{}", "resnet{}v2", "plain{}", "highway{}"])
architectures = st.one_of(
    st.tuples(names, st.integers(1, 3), st.integers(1, 4)),
    st.tuples(st.sampled_from(["vgg10", "vgg12", "vgg15", "vgg18", "notes_v1", "notes_v2"])),
)


@given(form=architectures, width=st.sampled_from([4, 16, 64]), data=st.data())
@settings(max_examples=60, deadline=None)
def test_architecture_is_inferred_from_its_own_weights(form, width, data):
    options, name = {"width": width}, form[0]
    if name.startswith("resnet"):
        options["shortcut"] = data.draw(st.sampled_from("ABC"))
        options["layers"] = form[1]
    if len(form) > 1:
        period = {"plain{}": 6, "highway{}": 3}.get(name, 3 * form[1])
        name = name.format(period * form[2] + 2)
    if name.startswith(("vgg", "highway")):
        options["norm"] = data.draw(st.sampled_from(["batch", "none"]))
    if name.startswith("notes"):
        options["pixels"] = data.draw(st.sampled_from([64, 1024]))
    architecture = Architecture(name, options)
    with torch.device("meta"):
        weights = build(architecture, in_channels=2, classes=7).state_dict()
    found = infer(weights)
    assert (found.in_channels, found.classes) == (2, 7)
    with torch.device("meta"):
        again = build(found.architecture, in_channels=2, classes=7).state_dict()
    assert {k: v.shape for k, v in again.items()} == {k: v.shape for k, v in weights.items()}
    assert found.architecture.name == name


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext50_32x4d",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "wide_resnet50_2",
        "wide_resnet101_2",
    ],
)
def test_torchvision_residual_nets_are_inferred(name):
    with torch.device("meta"):
        weights = torchvision.models.get_model(name, num_classes=11).state_dict()
        found = infer(weights)
        assert str(found.architecture) == f"torchvision:{name}"
        net = build_for_weights(found.architecture, weights, found).model
    assert net.fc.out_features == 11


@pytest.mark.parametrize(
    "name", ["densenet121", "vgg11", "mobilenet_v2", "vit_b_16", "convnext_tiny"]
)
def test_other_weights_are_not_mistaken_for_residual_nets(name):
    with torch.device("meta"):
        weights = torchvision.models.get_model(name, num_classes=11).state_dict()
        assert infer(weights) is None
        found = build_for_weights(f"torchvision:{name}", weights)
    assert found.architecture == f"torchvision:{name}"
    assert {k: v.shape for k, v in found.model.state_dict().items()} == {
        k: v.shape for k, v in weights.items()
    }


words = st.from_regex(r"[a-z]\w{0,6}", fullmatch=True).filter(str.isascii)
options = st.dictionaries(words, st.one_of(st.integers(-(10**6), 10**6), words), max_size=3)


names = st.one_of(words, st.tuples(words, words).map(".".join))


@given(name=names, options=options, family=st.sampled_from(["cifar", "torchvision", "timm"]))
def test_architecture_round_trips_through_text_and_json(name, options, family):
    architecture = Architecture(name, options, family)
    assert Architecture.parse(str(architecture)) == architecture
    assert Architecture.from_json(json.loads(json.dumps(architecture.to_json()))) == architecture


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet111", r"Depth 111 does not fit .* 6n \+ 2: the nearest is 110"),
        ("plain2", "Depth 2 does not fit .* the nearest is 8"),
        ("vgg16", "no VGG of depth 16 .* choose one of 10, 12, 15, 18"),
        ("lenet5", "no net cifar:lenet5 here: expected resnetD"),
        ("plain20v2", "no net cifar:plain20v2 here"),
        ("resnet20v3", "no net cifar:resnet20v3 here"),
        ("torchvision:resnet50", "no net torchvision:resnet50 here"),
        ("resnet 20", "'resnet 20' is no architecture: expected a name such as"),
        ("resnet20,depth=3", "takes no option 'depth'"),
        ("resnet20,version=2", "takes no option 'version': it takes shortcut, layers"),
        ("plain20,shortcut=A", "takes no option 'shortcut'"),
        ("resnet20,shortcut=D", "shortcut is one of A, B, C, found 'D'"),
        ("resnet20,layers=4", "layers is a whole number from 1 to 3, found 4"),
        ("resnet26,layers=3", r"Depth 26 does not fit .* 3-layer .* 9n \+ 2: the nearest is 29"),
        ("highway21", r"Depth 21 does not fit .* 3n \+ 2: the nearest is 20"),
        ("resnet20,variant=odd", "variant is one of identity, scaled, .*, found 'odd'"),
        ("resnet20v2,placement=relu_only", "Version 2 does not go with placement=relu_only"),
        ("resnet20,placement=full", "Version 1 does not go with placement=full"),
        ("resnet20,survival=0", "survival is a whole number from 1 to 100, found 0"),
        ("resnet20,kept=10", "kept is 10, but there are 9 blocks: expected at most that"),
        ("resnet20,kept=5,survival=50", "survival=50 and kept=5 exclude each other"),
        ("plain20,survival=50", "takes no option 'survival'"),
        ("vgg15,norm=layer", "norm is one of batch, none, found 'layer'"),
        ("highway20,gate_bias=-30", "gate_bias is a whole number from -20 to 20, found -30"),
        ("notes_v3", "no net cifar:notes_v3 here"),
        ("resnet20,width=0", "width is a whole number from 1 to 4096, found 0"),
        ("vgg15,width=big", "width is a whole number from 1 to 4096, found 'big'"),
    ],
)
def test_impossible_architectures_are_refused(name, message):
    with pytest.raises(ArchitectureError, match=message):
        build(name)


@pytest.mark.parametrize("values", [{}, {"name": 3}, {"name": "resnet20", "options": [1]}])
def test_damaged_architecture_values_are_refused(values):
    with pytest.raises(ArchitectureError, match="stored as name, options and family, found"):
        Architecture.from_json(values)


def test_options_given_to_build_win_over_those_of_the_architecture():
    net = build("resnet8,width=4", width=8, in_channels=1, classes=3)
    assert net.conv1.weight.shape == (8, 1, 3, 3)
    assert net.linear.out_features == 3


FACTORY = """
from torch import nn
def make():
    return nn.Linear(2, 3)
def word():
    return "no net"
def fails():
    raise ValueError("no weights today")
number = 3
"""


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("absent", "has no function 'absent': expected one without arguments"),
        ("number", "has no function 'number'"),
        ("word", "returned a str: expected a torch.nn.Module"),
        ("fails", "failed with ValueError: no weights today"),
    ],
)
def test_factories_that_give_no_net_are_refused(tmp_path, function, message):
    file = tmp_path / "nets.py"
    file.write_text(FACTORY)
    with pytest.raises(ArchitectureError, match=message):
        build_for_weights(f"{file}:{function}", {})


def test_factory_file_is_executed_and_its_neighbours_are_found(tmp_path):
    (tmp_path / "neighbour_of_the_factory.py").write_text("SIZE = 4\n")
    file = tmp_path / "nets.py"
    file.write_text(
        "from neighbour_of_the_factory import SIZE\nfrom torch import nn\n"
        "def make():\n    return nn.Linear(SIZE, 2)\n"
    )
    found = build_for_weights(f"{file}:make", {})
    assert found.model.in_features == 4
    assert found.architecture == f"{file}:make"
    assert is_factory(found.architecture)


def test_factory_in_a_missing_or_broken_file_is_refused(tmp_path):
    with pytest.raises(ArchitectureError, match=r"no Python file .*absent\.py"):
        build_for_weights(f"{tmp_path}/absent.py:make", {})
    (tmp_path / "broken.py").write_text("def make(:\n")
    with pytest.raises(ArchitectureError, match=r"broken\.py:make failed with SyntaxError"):
        build_for_weights(f"{tmp_path}/broken.py:make", {})


def test_unknown_torchvision_nets_and_options_are_refused():
    with pytest.raises(ArchitectureError, match="torchvision has no classifier 'resnet51'"):
        build_for_weights("torchvision:resnet51", {})
    with pytest.raises(ArchitectureError, match="torchvision cannot build"):
        build_for_weights("torchvision:resnet18,colour=3", {})
