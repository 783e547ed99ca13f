"""Blocks of other forms: equality with forward passes by hand, blocks found, deletion, files."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ensemble_view import (
    Compose,
    Delete,
    Engine,
    edited,
    inspect,
    load_checkpoint,
    save_checkpoint,
    unravel,
)
from ensemble_view.core.plan import bind
from ensemble_view.nets.models.blocks import SkippableBlock, limit_branches
from ensemble_view.nets.models.building import build
from ensemble_view.nets.models.inference import infer
from test_models import Weights, awake, norm


@dataclass(frozen=True)
class Case:
    """A residual net, and how it is written out."""

    name: str
    layers: int = 2
    placement: str = "original"
    shortcut: str = "A"
    variant: str = "identity"
    blocks: int = 3
    survival: tuple[float, ...] = (1.0,) * 9


CASES = [
    Case("resnet11,layers=3", layers=3),
    Case("resnet20,layers=3,shortcut=B", layers=3, shortcut="B", blocks=6),
    Case("resnet11v2,layers=3", layers=3, placement="full", shortcut="B"),
    Case("resnet8,shortcut=C", shortcut="C"),
    Case("resnet8v2,shortcut=C", placement="full", shortcut="C"),
    # Where the shape changes, a one-layer branch and the shortcut are both linear: a merge.
    Case("resnet8,layers=1", layers=1, blocks=4),
    Case("resnet8v2,layers=1", layers=1, placement="full", shortcut="B", blocks=4),
    Case("resnet14,variant=scaled", variant="scaled", blocks=6),
    Case("resnet14,variant=scaled_shortcut", variant="scaled_shortcut", blocks=6),
    Case("resnet14,variant=gated,gate_bias=-1", variant="gated", blocks=6),
    # A shortcut that depends on its input otherwise than linearly is no shortcut.
    Case("resnet14,variant=gated_shortcut,gate_bias=0", variant="gated_shortcut", blocks=2),
    Case("resnet14,variant=dropout", blocks=6),
    Case("resnet14v2,variant=gated", variant="gated", placement="full", shortcut="B", blocks=6),
    Case("resnet8,placement=bn_after_addition", placement="bn_after_addition"),
    Case("resnet8,placement=relu_before_addition", placement="relu_before_addition"),
    Case("resnet8,placement=relu_only", placement="relu_only"),
    Case("resnet14,survival=40", blocks=6, survival=(0.9, 0.8, 0.7, 0.6, 0.5, 0.4)),
    Case("resnet8v2,kept=2", placement="full", shortcut="B", survival=(2 / 3,) * 3),
    Case(
        "resnet14,variant=gated,survival=40,gate_bias=0",
        variant="gated",
        blocks=6,
        survival=(0.9, 0.8, 0.7, 0.6, 0.5, 0.4),
    ),
]


def resnet_by_hand(w: Weights, x: Tensor, case: Case, left_out: tuple[int, ...] = ()) -> Tensor:
    """The net in eval mode, written out from its weights alone."""
    period = 3 * case.layers
    n = (int("".join(filter(str.isdigit, case.name.split(",")[0].split("v")[0]))) - 2) // period
    x = F.conv2d(x, w["conv1.weight"], padding=1)
    if case.placement != "full":
        x = norm(w, "bn1", x).clamp(min=0)
    for index in range(3 * n):
        survival = 0.0 if index in left_out else case.survival[index]
        stage, place = index // n + 1, index % n
        stride = 2 if stage > 1 and place == 0 else 1
        x = block_by_hand(w, f"layer{stage}.{place}", x, stride, case, survival)
    if case.placement == "full":
        x = norm(w, "bn", x)
    if case.placement in ("full", "relu_only"):
        x = x.clamp(min=0)
    return x.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]


def block_by_hand(
    w: Weights, at: str, x: Tensor, stride: int, case: Case, survival: float
) -> Tensor:
    def convolve(number: int, value: Tensor) -> Tensor:
        kernel = w[f"{at}.conv{number}.weight"]
        step = stride if number == 1 else 1
        return F.conv2d(value, kernel, stride=step, padding=kernel.shape[-1] // 2)

    def bn(number: int, value: Tensor) -> Tensor:
        return norm(w, f"{at}.bn{number}", value)

    pre = {"full": lambda number, v: bn(number, v).clamp(min=0), "relu_only": lambda _, v: v.relu()}
    before = pre.get(case.placement, lambda _, value: value)
    start = h = before(1, x)
    for number in range(1, case.layers + 1):
        last = number == case.layers
        h = convolve(number, h if number == 1 else before(number, h))
        if case.placement == "relu_only":
            h = bn(number, h)
        elif case.placement != "full":
            h = h if last and case.placement == "bn_after_addition" else bn(number, h)
            h = h if last and case.placement != "relu_before_addition" else h.clamp(min=0)
    changes = h.shape != x.shape
    if not changes and case.shortcut != "C":
        y = {
            "identity": lambda: x + survival * h,
            "scaled": lambda: 0.5 * x + 0.5 * survival * h,
            "scaled_shortcut": lambda: 0.5 * x + survival * h,
            "gated": lambda: x + survival * gate_by_hand(w, f"{at}.gate", x) * (h - x),
            "gated_shortcut": lambda: (
                x - gate_by_hand(w, f"{at}.shortcut.gate", x) * x + survival * h
            ),
        }[case.variant]()
    elif case.shortcut == "A":
        added = h.shape[1] - x.shape[1]
        wide = torch.zeros_like(h)
        wide[:, added // 2 : h.shape[1] - added // 2] = start[:, :, ::stride, ::stride]
        y = wide + survival * h
    else:
        bare = f"{at}.shortcut.weight" in w
        kernel = w[f"{at}.shortcut.weight" if bare else f"{at}.shortcut.0.weight"]
        shortcut = F.conv2d(start, kernel, stride=stride)
        y = (shortcut if bare else norm(w, f"{at}.shortcut.1", shortcut)) + survival * h
    if case.placement == "bn_after_addition":
        y = bn(case.layers, y)
    return y.clamp(min=0) if case.placement in ("original", "bn_after_addition") else y


def gate_by_hand(w: Weights, at: str, x: Tensor) -> Tensor:
    kernel = w[f"{at}.weight"]
    return 1 / (1 + torch.exp(-F.conv2d(x, kernel, w[f"{at}.bias"], padding=kernel.shape[-1] // 2)))


def by_name(case: Case) -> str:
    return case.name


def net_and_images(name: str) -> tuple[torch.nn.Module, Tensor]:
    torch.manual_seed(1)
    net = awake(build(name, width=8, in_channels=2, classes=5, pixels=64))
    return net, torch.randn(3, 2, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_net_equals_its_forward_pass_by_hand(case):
    net, x = net_and_images(case.name)
    with torch.no_grad():
        expected = resnet_by_hand(dict(net.state_dict()), x, case)
        torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
    assert expected.std() > 1e-3


@pytest.mark.parametrize("case", CASES, ids=by_name)
def test_blocks_are_found_and_deletion_leaves_the_shortcut(case):
    net, x = net_and_images(case.name)
    chain = unravel(net, x)
    assert len(chain) == case.blocks
    plans = [bind(plan, chain.outline) for plan in (Compose(), Delete(case.blocks - 1))]
    full, without = (logits for _, logits in Engine(chain, plans).logits(x))
    weights = dict(net.state_dict())
    count = sum(isinstance(module, SkippableBlock) for module in net.modules())
    # The last block found is the last one, but where only those that change the shape are.
    last = count - 2 if case.variant == "gated_shortcut" else count - 1
    expected = resnet_by_hand(weights, x, case, left_out=(last,))
    torch.testing.assert_close(full, resnet_by_hand(weights, x, case), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(without, expected, rtol=1e-9, atol=1e-9)
    with torch.no_grad(), edited(chain, Delete(case.blocks - 1)):
        torch.testing.assert_close(net(x), expected, rtol=1e-9, atol=1e-9)
    assert float((full - without).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet8,variant=gated_shortcut", "layer1.0: add .* every summand passes a nonlinearity"),
        ("resnet8,layers=1", "layer2.0: add .* every summand is linear in what they share"),
    ],
)
def test_sums_that_are_no_blocks_are_explained(name, reason):
    net, x = net_and_images(name)
    assert re.search(reason, inspect(unravel(net, x), x).explain())


class TestHighway:
    @pytest.mark.parametrize("form", ["batch", "none"])
    def test_net_equals_its_forward_pass_by_hand(self, form):
        net, x = net_and_images(f"highway11,norm={form},gate_bias=-1")
        w = dict(net.state_dict())

        def unit(at: str, value: Tensor, stride: int = 1) -> Tensor:
            bias = w.get(f"{at}.conv.bias")
            value = F.conv2d(value, w[f"{at}.conv.weight"], bias, stride, padding=1)
            return (norm(w, f"{at}.bn", value) if form == "batch" else value).clamp(min=0)

        h = unit("stem", x)
        for stage in (1, 2, 3):
            for place in range(3):
                at = f"layer{stage}.{place}"
                if stage > 1 and place == 0:
                    h = unit(at, h, 2)
                else:
                    gate = gate_by_hand(w, f"{at}.gate", h)
                    h = h - gate * h + gate * unit(f"{at}.transform", h)
        expected = h.mean((2, 3)) @ w["linear.weight"].T + w["linear.bias"]
        with torch.no_grad():
            torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)

    def test_deletion_closes_the_transfer_gate(self):
        net, x = net_and_images("highway11,gate_bias=-1")
        chain = unravel(net, x)
        assert len(chain) == 7
        for index, block in enumerate(chain):
            (logits,) = (
                value for _, value in Engine(chain, [bind(Delete(index), chain.outline)]).logits(x)
            )
            closed = copy.deepcopy(net)
            gate = closed.get_submodule(block.name).gate
            with torch.no_grad():
                gate.weight.zero_()
                gate.bias.fill_(-1e4)
                torch.testing.assert_close(logits, closed(x), rtol=1e-9, atol=1e-9)
                assert float((logits - net(x)).abs().max()) > 1e-4

    def test_gates_begin_nearly_closed(self):
        net = build("highway11,gate_bias=-3")
        gates = [block.gate for block in net.modules() if hasattr(block, "gate")]
        assert len(gates) == 7
        assert all(bool((gate.bias == -3).all()) for gate in gates)


class TestNotes:
    def test_version_1_by_hand(self):
        net, x = net_and_images("notes_v1")
        w = dict(net.state_dict())
        x = F.conv2d(x, w["conv.weight"], padding=1)
        for at in ("blocks.0", "blocks.1"):
            h = norm(w, f"{at}.bn1", F.conv2d(x, w[f"{at}.conv1.weight"], padding=1)).clamp(min=0)
            h = norm(w, f"{at}.bn2", F.conv2d(h, w[f"{at}.conv2.weight"], padding=1))
            if at == "blocks.1":
                x = F.conv2d(x, w[f"{at}.shortcut.weight"])
            x = (x + h).clamp(min=0)
        expected = x.reshape(3, -1) @ w["linear.weight"].T + w["linear.bias"]
        self.compare("notes_v1", expected)

    def test_version_2_by_hand(self):
        net, x = net_and_images("notes_v2")
        w = dict(net.state_dict())
        x = F.conv2d(x, w["conv.weight"], padding=1)
        for at in ("blocks.0", "blocks.1"):
            h = F.conv2d(norm(w, f"{at}.bn1", x).clamp(min=0), w[f"{at}.conv1.weight"], padding=1)
            h = F.conv2d(norm(w, f"{at}.bn2", h).clamp(min=0), w[f"{at}.conv2.weight"], padding=1)
            if at == "blocks.1":
                x = F.conv2d(x, w[f"{at}.shortcut.weight"])
            x = x + h
        x = norm(w, "bn", x).clamp(min=0)
        expected = x.reshape(3, -1) @ w["linear.weight"].T + w["linear.bias"]
        self.compare("notes_v2", expected)

    def compare(self, name: str, expected: Tensor) -> None:
        net, x = net_and_images(name)
        with torch.no_grad():
            torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
        chain = unravel(net, x)
        assert [block.name for block in chain] == ["blocks.0", "blocks.1"]

    def test_widths_are_16_and_32_and_weights_are_he_normal(self):
        torch.manual_seed(0)
        net = build("notes_v1")
        shapes = [tuple(v.shape) for v in net.parameters() if v.ndim > 1]
        assert shapes == [
            (16, 3, 3, 3), (16, 16, 3, 3), (16, 16, 3, 3),
            (32, 16, 3, 3), (32, 32, 3, 3), (32, 16, 1, 1), (10, 32768),
        ]  # fmt: skip
        for value in net.state_dict().values():
            if value.ndim > 1:
                inputs = value[0].numel()
                spread = float(value.var() * inputs / 2)
                assert spread == pytest.approx(1, abs=5 * (2 / value.numel()) ** 0.5)


def test_vgg_without_batchnorm_by_hand():
    net, x = net_and_images("vgg10,norm=none")
    w = dict(net.state_dict())
    assert not any("running" in name for name in w)
    h = x
    for stage, count in enumerate((1, 1, 2, 2, 2)):
        for place in range(count):
            at = f"stages.{stage}.{place}.conv"
            h = F.conv2d(h, w[f"{at}.weight"], w[f"{at}.bias"], padding=1).clamp(min=0)
        h = F.max_pool2d(h, 2) if h.shape[-1] > 1 else h
    h = (h.mean((2, 3)) @ w["hidden.weight"].T + w["hidden.bias"]).clamp(min=0)
    expected = h @ w["linear.weight"].T + w["linear.bias"]
    with torch.no_grad():
        torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)
    assert len(unravel(net, x, plain=True)) == 8


FILES = [
    *(case.name for case in CASES),
    "highway11",
    "highway11,norm=none",
    "notes_v1",
    "notes_v2",
    "vgg10,norm=none",
    "resnet11,layers=3,shortcut=C",
]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
@pytest.mark.parametrize("name", FILES)
def test_saved_net_is_built_again(name, suffix, tmp_path):
    net, x = net_and_images(name)
    net.float()
    path = tmp_path / f"net.{suffix}"
    save_checkpoint(path, net, architecture=f"{name},width=8")
    found = load_checkpoint(path)
    with torch.no_grad():
        torch.testing.assert_close(found.model(x.float()), net(x.float()))


@pytest.mark.parametrize("name", ["resnet14", "resnet11,layers=3", "highway8", "notes_v1"])
def test_incomplete_weights_are_told_or_not_but_never_break(name):
    weights = build(name).state_dict()
    for left_out in weights:
        found = infer({key: value for key, value in weights.items() if key != left_out})
        assert found is None or found.architecture.name.startswith(("resnet", "highway", "notes"))


def test_weights_that_do_not_tell_their_gates_are_not_guessed():
    for variant in ("gated", "gated_shortcut"):
        assert infer(build(f"resnet14,variant={variant}").state_dict()) is None


class TestDropping:
    @pytest.mark.parametrize("name", [*(case.name for case in CASES), "highway11", "notes_v2"])
    def test_dropped_branches_get_no_gradient_and_change_nothing(self, name):
        net, x = net_and_images(name)
        blocks = [module for module in net.modules() if isinstance(module, SkippableBlock)]
        for block in blocks:
            # In training mode only where it counts, so that BatchNorm and dropout stay as they are.
            block.training = True
            block.keep = False
        empty = net(x)
        empty.sum().backward()
        inside = [p for b in blocks for n, p in b.named_parameters() if n.startswith("conv")]
        assert all(p.grad is None for p in inside)
        with torch.no_grad():
            for value in inside:
                value.add_(1.0)
            torch.testing.assert_close(net(x), empty, rtol=0, atol=0)

    @pytest.mark.parametrize("case", CASES, ids=by_name)
    def test_what_is_left_is_what_deletion_leaves(self, case):
        net, x = net_and_images(case.name)
        blocks = [module for module in net.modules() if isinstance(module, SkippableBlock)]
        whole = Case(**{**case.__dict__, "survival": (1.0,) * 9})
        left_out = (1, len(blocks) - 1)
        for index, block in enumerate(blocks):
            block.training, block.keep = True, index not in left_out
        with torch.no_grad():
            expected = resnet_by_hand(dict(net.state_dict()), x, whole, left_out)
            torch.testing.assert_close(net(x), expected, rtol=1e-10, atol=1e-10)

    def test_survival_falls_linearly_from_the_input(self):
        net = build("resnet110,survival=50")
        blocks = [module for module in net.modules() if isinstance(module, SkippableBlock)]
        found = [block.survival for block in blocks]
        assert found == pytest.approx([1 - 0.5 * number / 54 for number in range(1, 55)])
        limit_branches(blocks, 100, 23)
        assert {block.survival for block in blocks} == {23 / 54}

    def test_keep_does_not_count_in_evaluation(self):
        net, x = net_and_images("resnet14")
        full = net(x)
        for block in net.modules():
            if isinstance(block, SkippableBlock):
                block.keep = False
        torch.testing.assert_close(net(x), full, rtol=0, atol=0)
