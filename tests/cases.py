"""The nets that discovery, hooks and engine are tested on, each with an oracle of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import nets
from ensemble_view import Compose, Delete, Keep, Reorder, Swap
from ensemble_view.core.interventions.base import Intervention
from ensemble_view.nets.models.building import build
from layers import wake
from oracles import Oracle, by_hand, by_surgery

SHARED = Path(__file__).resolve().parents[2] / "shared"


@dataclass(frozen=True)
class Case:
    """A net and what must be found in it.

    ``alone`` are the blocks that are deleted one at a time, by default all. ``alike`` lists groups
    of blocks of one shape, which may change places. ``fixed`` are units that cannot be deleted.
    """

    name: str
    make: Callable[[], nn.Module]
    oracle: Oracle
    blocks: tuple[str, ...]
    kinds: tuple[str, ...]
    alike: tuple[tuple[int, ...], ...]
    side: int = 8
    links: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()
    plain: bool = False
    alone: tuple[int, ...] = ()
    granularity: str = "block"
    by_keyword: bool = False

    def arguments(self, images: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the model is called with; for a call by keyword the images are halved."""
        if not self.by_keyword:
            return (images.clone(),), {}
        return (), {"images": 0.5 * images, "scale": torch.full((1, 1, 1), 2.0).to(images)}

    @property
    def interventions(self) -> list[Intervention]:
        """Single deletions, a few larger ones, and changes of order."""
        free = [index for index in range(len(self.blocks)) if index not in self.fixed]
        found: list[Intervention] = [Delete(index) for index in self.alone or free]
        found += [Delete(free[0], free[-1]), Keep(*self.fixed, free[1])]
        if self.alike:
            order = list(range(len(self.blocks)))
            for group in self.alike:
                for place, index in zip(group, reversed(group), strict=True):
                    order[place] = index
            first, second = self.alike[0][0], self.alike[-1][-1]
            found += [Swap(group[0], group[-1]) for group in self.alike]
            found += [Reorder(order), Swap(*self.alike[0][:2]) | Delete(first)]
            found += [Reorder(order) | Delete(second)]
        return found


def images(count: int = 2, channels: int = 3, side: int = 8, seed: int = 1) -> Tensor:
    """The same images every time."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, channels, side, side, generator=generator, dtype=torch.float64)


def logits(output: Any) -> Tensor:
    return output["logits"] if isinstance(output, dict) else output


def error(found: Tensor, expected: Tensor) -> float:
    """The largest difference in units of the largest expected value."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def small(**values: float) -> nn.Module:
    """A ResNet-8 with some of its parameters, dots written as two underscores, set to a number."""
    model = wake(build("resnet8,width=4", classes=5))
    for name, value in values.items():
        nn.init.constant_(model.get_parameter(name.replace("__", ".")), value)
    return model


def stages(*counts: int) -> tuple[str, ...]:
    """Paths of the blocks of a ResNet with so many in each stage."""
    return tuple(f"layer{s}.{i}" for s, count in enumerate(counts, 1) for i in range(count))


def awake(make: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: wake(make())


def resnet(
    name: str,
    counts: tuple[int, ...],
    last: str,
    shortcut: str,
    alike: tuple[tuple[int, ...], ...],
    make: Callable[[], nn.Module],
    side: int = 8,
    *,
    first: str = "identity",
) -> Case:
    """A net whose stages begin with a shortcut of the given kind."""
    paths = stages(*counts)
    begins = [shortcut if path.endswith(".0") else "identity" for path in paths]
    kinds = (first, *begins[1:])
    oracle = by_surgery([[path] for path in paths], last)
    return Case(name, make, oracle, paths, kinds, alike, side)


def ours(name: str, per_stage: int, last: str, shortcut: str, **options: int) -> Case:
    def make() -> nn.Module:
        return wake(build(f"{name},width=4", classes=5, **options))

    n = per_stage
    alike = tuple(
        group
        for group in (range(n), range(n + 1, 2 * n), range(2 * n + 1, 3 * n))
        if len(group) > 1
    )
    return resnet(name, (n, n, n), last, shortcut, tuple(map(tuple, alike)), make)


def of_torchvision(
    name: str,
    counts: tuple[int, ...],
    last: str,
    side: int = 64,
    *,
    alone: tuple[int, ...] = (),
) -> Case:
    def make() -> nn.Module:
        # Without torchvision's own initial weights, which take longer than everything else here.
        with torch.device("meta"):
            model = torchvision.models.get_model(name, weights=None, num_classes=5)
        return wake(model.double().to_empty(device="cpu"))

    basic = last == "bn2"
    starts = [sum(counts[:stage]) for stage in range(len(counts))]
    alike = tuple(
        tuple(range(start + (not (basic and start == 0)), start + count))
        for start, count in zip(starts, counts, strict=True)
    )
    alike = tuple(group for group in alike if len(group) > 1)
    first = "identity" if basic else "projection"
    case = resnet(name, counts, last, "projection", alike, make, side, first=first)
    return dataclasses.replace(case, alone=alone)


class LambdaShortcut(nn.Module):
    """Option A as common CIFAR-10 code has it: a module that holds a lambda."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def cifar_resnet32() -> nn.Module:
    """The trained ResNet-32, its shortcuts written with lambdas."""
    file = SHARED / "checkpoints" / "resnet32-d509ac18.th"
    if not file.is_file():
        pytest.skip(f"no checkpoint {file.name} beside the repository")
    model = build("resnet32")
    for stage, planes in ((model.layer2, 32), (model.layer3, 64)):
        stage[0].shortcut = LambdaShortcut(
            lambda x, c=planes // 4: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, c, c), "constant", 0)
        )
    weights = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    model.load_state_dict({name.removeprefix("module."): w for name, w in weights.items()})
    return model.double().eval()


def hand_written(
    net: type[nets.Net | nets.Backbone],
    *,
    alike: tuple[tuple[int, ...], ...] = ((0, 1, 2),),
    blocks: tuple[str, ...] | None = None,
    kinds: tuple[str, ...] | None = None,
    links: tuple[int, ...] = (),
    granularity: str = "block",
    by_keyword: bool = False,
) -> Case:
    names = blocks or tuple(f"blocks.{index}" for index in range(net.count))
    return Case(
        name=net.__name__,
        make=awake(net),
        oracle=by_hand,
        blocks=names,
        kinds=kinds or ("identity",) * len(names),
        alike=alike,
        links=links,
        granularity=granularity,
        by_keyword=by_keyword,
    )


OURS = [
    ours("resnet8", 1, "bn2", "zero-pad"),
    ours("resnet14,shortcut=B", 2, "bn2", "projection", in_channels=3),
    ours("resnet20", 3, "bn2", "zero-pad"),
    ours("resnet8v2,shortcut=A", 1, "conv2", "zero-pad"),
    ours("resnet14v2", 2, "conv2", "projection"),
    ours("resnet20v2,shortcut=A", 3, "conv2", "zero-pad"),
]

CIFAR = [
    resnet(
        "cifar_resnet32",
        (5, 5, 5),
        "bn2",
        "zero-pad",
        ((0, 1, 2, 3, 4), (6, 7, 8, 9), (11, 12, 13, 14)),
        cifar_resnet32,
        16,
    )
]

TORCHVISION = [
    of_torchvision("resnet18", (2, 2, 2, 2), "bn2"),
    of_torchvision("resnet50", (3, 4, 6, 3), "bn3"),
    of_torchvision("resnext50_32x4d", (3, 4, 6, 3), "bn3", alone=(0, 2, 3, 7, 10, 13, 15)),
    of_torchvision("wide_resnet50_2", (3, 4, 6, 3), "bn3", 32, alone=(0, 2, 3, 7, 10, 13, 15)),
]

HAND_WRITTEN = [
    hand_written(nets.EntryReLU),
    hand_written(nets.RootLoop, alike=((0, 1, 2, 3),)),
    hand_written(
        nets.Backbone,
        alike=((0, 1, 2, 3),),
        blocks=tuple(f"backbone.blocks.{index}" for index in range(4)),
    ),
    hand_written(nets.InPlaceLoop, alike=((0, 1, 2, 3),)),
    hand_written(nets.NestedSums),
    hand_written(nets.Additions, alike=((0, 1, 2, 3, 4, 5),)),
    hand_written(nets.InPlaceSum, alike=((0, 1, 2, 3, 4),)),
    hand_written(nets.SharedPreamble, alike=(), kinds=("projection",) * 3),
    hand_written(
        nets.Shortcuts,
        alike=((0, 1, 2, 3, 4, 5),),
        kinds=("identity", "identity", "pooling", "projection", "zero-pad", "zero-pad"),
    ),
    hand_written(nets.DropoutNet),
    hand_written(nets.DictOutput, by_keyword=True),
    hand_written(nets.Linked, alike=((0, 1), (2, 3)), links=(2,)),
    hand_written(nets.SharedWeights, alike=(), blocks=("blocks.0", "blocks.0@1", "blocks.0@2")),
    hand_written(
        nets.TwoSums,
        alike=((0, 1, 2, 3, 4, 5),),
        blocks=(
            "blocks.0.first",
            "blocks.0",
            "blocks.1.first",
            "blocks.1",
            "blocks.2.first",
            "blocks.2",
        ),
        granularity="branch",
    ),
    hand_written(nets.Layers),
    hand_written(nets.FromInput),
    hand_written(nets.OverInput),
    hand_written(nets.InnerSums),
]


def plain_net(
    name: str,
    blocks: Sequence[str],
    fixed: tuple[int, ...],
    alike: tuple[tuple[int, ...], ...],
    make: Callable[[], nn.Module],
    oracle: Oracle,
    *,
    side: int,
    links: tuple[int, ...] = (),
) -> Case:
    return Case(
        name=name,
        make=awake(make),
        oracle=oracle,
        blocks=tuple(blocks),
        kinds=("none",) * len(blocks),
        alike=alike,
        side=side,
        links=links,
        fixed=fixed,
        plain=True,
    )


def vgg11() -> nn.Module:
    """Torchvision's VGG-11 with one linear layer in place of three large ones."""
    model = torchvision.models.vgg11_bn()
    model.classifier = nn.Linear(512 * 7 * 7, 5)
    return model


PLAIN_UNITS = ["stem", *(f"units.{i}" for i in range(18))]
VGG_UNITS = [f"stages.{s}.{i}" for s, count in enumerate((1, 1, 2, 2, 2)) for i in range(count)]
TORCHVISION_VGG = (0, 4, 8, 11, 15, 18, 22, 25)

PLAIN = [
    plain_net(
        "plain20",
        [f"{unit}.conv" for unit in PLAIN_UNITS],
        (0, 7, 13),
        ((1, 2, 3, 4, 5, 6), (8, 9, 10, 11, 12), (14, 15, 16, 17, 18)),
        lambda: build("plain20,width=4", classes=5),
        by_surgery([[unit] for unit in PLAIN_UNITS], None),
        side=8,
    ),
    plain_net(
        "vgg10",
        [f"{unit}.conv" for unit in VGG_UNITS],
        (0, 1, 2, 4),
        ((6, 7),),
        lambda: build("vgg10,width=4", classes=5),
        by_surgery([[unit] for unit in VGG_UNITS], None),
        side=16,
        links=(1, 2, 4, 6),
    ),
    plain_net(
        "vgg11_bn",
        [f"features.{place}" for place in TORCHVISION_VGG],
        (0, 1, 2, 4),
        ((6, 7),),
        vgg11,
        by_surgery(
            [[f"features.{place + offset}" for offset in range(3)] for place in TORCHVISION_VGG],
            None,
        ),
        side=32,
        links=(1, 2, 4, 6),
    ),
]

CASES = [*OURS, *HAND_WRITTEN, *PLAIN, *CIFAR, *TORCHVISION]

UNCHANGED = Compose()
