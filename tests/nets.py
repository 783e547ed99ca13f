"""Hand-written residual nets, each with its forward pass written out a second time.

``forward`` is code as users write it, with one habit that is hard to take apart; ``parts`` says by
formula what shortcut and branch of one block are, and ``after`` what follows their sum. ``by_hand``
runs blocks in any order: an oracle that knows neither graphs nor hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from layers import conv, two_layers

CLASSES = 5


class Net(nn.Module):
    """Stem, blocks and head; a subclass says what a block is, twice."""

    count = 3
    channels = 4

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, self.channels), nn.BatchNorm2d(self.channels))
        self.blocks = nn.ModuleList(self.block(index) for index in range(self.count))
        self.head = nn.Linear(self.channels, CLASSES)

    def block(self, index: int) -> nn.Module:
        return two_layers(self.channels)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))

    def length(self) -> int:
        """How many blocks there are."""
        return self.count

    def start(self, x: Tensor) -> Tensor:
        return self.stem(x)

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """What shortcut and branch of a block give."""
        raise NotImplementedError

    def after(self, index: int, total: Tensor) -> Tensor:
        return total

    def step(self, index: int, x: Tensor, *, keep: bool) -> Tensor:
        shortcut, branch = self.parts(index, x)
        return self.after(index, shortcut + branch if keep else shortcut)

    def link(self, position: int, x: Tensor) -> Tensor:
        return x

    def by_hand(self, x: Tensor, order: Sequence[int], deleted: Iterable[int]) -> Tensor:
        x = self.start(x)
        for position, index in enumerate(order):
            x = self.step(index, self.link(position, x), keep=index not in deleted)
        return self.head(x.mean((2, 3)))


class EntryReLUBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = two_layers(channels)
        self.branch.insert(0, nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class EntryReLU(Net):
    """A pre-activation block whose in-place ReLU overwrites its own input, so the shortcut too."""

    def block(self, index: int) -> nn.Module:
        return EntryReLUBlock(self.channels)

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clamp(min=0)
        return x, self.blocks[index].branch[1:](x.clone())


class RootLoop(Net):
    """The sums are made by the model's own forward; no module is a block."""

    count = 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.blocks:
            x = F.relu(x + branch(x))
        return self.head(x.mean((2, 3)))

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.blocks[index](x)

    def after(self, index: int, total: Tensor) -> Tensor:
        return total.clamp(min=0)


class Backbone(nn.Module):
    """The same net as a part of another module."""

    count = RootLoop.count

    def __init__(self) -> None:
        super().__init__()
        self.backbone = RootLoop()

    def forward(self, x: Tensor) -> Tensor:
        return self.backbone(x).tanh()

    def by_hand(self, x: Tensor, order: Sequence[int], deleted: Iterable[int]) -> Tensor:
        return torch.tanh(self.backbone.by_hand(x, order, deleted))


class InPlaceLoop(RootLoop):
    """The same, each sum and ReLU written over the block's own input."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.blocks:
            x += branch(x)
            F.relu(x, inplace=True)
        return self.head(x.mean((2, 3)))


class NestedSumsBlock(nn.Module):
    def __init__(self, channels: int, *, outermost: bool) -> None:
        super().__init__()
        self.first, self.second = two_layers(channels), two_layers(channels, bias=True)
        self.outermost = outermost

    def forward(self, x: Tensor) -> Tensor:
        if self.outermost:
            return self.first(x) + self.second(x) + x
        return self.first(x) + (x + self.second(x))


class NestedSums(Net):
    """Two branches beside one shortcut, which is added first or last."""

    def block(self, index: int) -> nn.Module:
        return NestedSumsBlock(self.channels, outermost=index == 1)

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        block = self.blocks[index]
        return x, block.first(x) + block.second(x)


class AdditionsBlock(nn.Module):
    def __init__(self, channels: int, written: int) -> None:
        super().__init__()
        self.branch = two_layers(channels)
        self.written = written

    def forward(self, x: Tensor) -> Tensor:
        branch = self.branch(x)
        forms = (
            lambda: torch.add(x, branch),
            lambda: torch.add(branch, x),
            lambda: x.add(branch),
            lambda: torch.add(other=x, input=branch),
            lambda: torch.add(branch, other=x),
            lambda: branch.__radd__(x),
        )
        return forms[self.written]()


class Additions(Net):
    """The sum written in six ways, the shortcut on either side."""

    count = 6

    def block(self, index: int) -> nn.Module:
        return AdditionsBlock(self.channels, index)

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.blocks[index].branch(x)


class InPlaceSumBlock(nn.Module):
    def __init__(self, channels: int, target: str) -> None:
        super().__init__()
        self.branch = two_layers(channels)
        self.target = target
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.branch(x)
        if self.target == "branch":
            branch += x
            return self.relu(branch)
        if self.target == "method":
            return self.relu(branch.add_(x))
        x += branch
        return self.relu(x)


class InPlaceSum(Net):
    """The sum is written over the branch's value, or over the block's own input."""

    count = 5

    def block(self, index: int) -> nn.Module:
        return InPlaceSumBlock(
            self.channels, ("branch", "shortcut", "method", "shortcut", "branch")[index]
        )

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.blocks[index].branch(x)

    def after(self, index: int, total: Tensor) -> Tensor:
        return total.clamp(min=0)


class SharedPreambleBlock(nn.Module):
    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.preamble = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.project = nn.Conv2d(channels, channels, 1, stride)
        self.branch = nn.Sequential(
            conv(channels, channels, stride, bias=True), nn.ReLU(), conv(channels, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.preamble(x)
        return self.project(x) + self.branch(x)


class SharedPreamble(Net):
    """Pre-activation that branch and projection shared, the second block halving the image."""

    def block(self, index: int) -> nn.Module:
        return SharedPreambleBlock(self.channels, stride=1 + (index == 1))

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        block = self.blocks[index]
        x = block.preamble[0](x).clamp(min=0)
        return block.project(x), block.branch(x)


class ShortcutsBlock(nn.Module):
    def __init__(self, channels: int, kind: int) -> None:
        super().__init__()
        self.kind = kind
        self.branch = two_layers(channels)
        self.project = nn.Conv2d(channels, channels, 1)
        self.gain = nn.Parameter(torch.linspace(0.3, 0.9, channels)[:, None, None])
        self.depth = StochasticDepth(0.5, "row")

    def forward(self, x: Tensor) -> Tensor:
        branch = self.branch(x)
        half, zeros = x[:, :2], torch.zeros(x.shape[0], 2, *x.shape[2:], dtype=x.dtype)
        forms = (
            lambda: x + self.depth(branch),
            lambda: self.gain * branch + x,
            lambda: F.avg_pool2d(x, 3, 1, 1) + branch,
            lambda: self.project(F.avg_pool2d(x, 3, 1, 1)) + branch,
            lambda: torch.cat([half, zeros], 1) + branch,
            lambda: torch.cat([half, half.mul(0)], 1) + branch,
        )
        return forms[self.kind]()


class Shortcuts(Net):
    """Identity beside a branch that is dropped or scaled, pooling, projection, zero padding."""

    count = 6

    def block(self, index: int) -> nn.Module:
        return ShortcutsBlock(self.channels, index)

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        block = self.blocks[index]
        branch = (block.gain if index == 1 else 1) * block.branch(x)
        if index in (2, 3):
            x = F.avg_pool2d(x, 3, 1, 1)
        if index == 3:
            x = block.project(x)
        if index in (4, 5):
            x = x * torch.tensor([1, 1, 0, 0])[:, None, None]
        return x, branch


class DropoutBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Dropout(0.5)
        self.branch = two_layers(channels)
        self.inside = nn.Dropout2d(0.5, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        # In eval mode dropout gives its very input back, so the ReLU overwrites x as well.
        branch = self.branch(F.relu_(self.before(x)))
        branch = F.dropout(self.inside(branch), 0.5, training=self.training)
        return x + branch


class DropoutNet(Net):
    """Dropout as a module, in place and as a function."""

    def block(self, index: int) -> nn.Module:
        return DropoutBlock(self.channels)

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clamp(min=0)
        return x, self.blocks[index].branch(x)


class DictOutput(RootLoop):
    """Called by keywords, returns a dictionary in which the logits come second."""

    count = 3

    def forward(self, images: Tensor, *, scale: Tensor) -> dict[str, Any]:
        x = self.stem(images * scale)
        for branch in self.blocks:
            x = F.relu(x + branch(x))
        pooled = x.mean((2, 3))
        return {"features": pooled, "logits": self.head(pooled), "count": len(images)}


class Linked(Net):
    """A convolution without shortcut, BatchNorm and ReLU lies between two residual stages."""

    count = 4

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            conv(self.channels, self.channels, 2), nn.BatchNorm2d(self.channels), nn.ReLU()
        )
        self.blocks = nn.ModuleList(InPlaceSumBlock(self.channels, "branch") for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.blocks[1](self.blocks[0](x))
        x = self.blocks[3](self.blocks[2](self.down(x)))
        return self.head(x.mean((2, 3)))

    def link(self, position: int, x: Tensor) -> Tensor:
        return self.down(x) if position == 2 else x

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.blocks[index].branch(x)

    def after(self, index: int, total: Tensor) -> Tensor:
        return total.clamp(min=0)


class SharedWeights(Net):
    """One module is called three times; each call is a block of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([InPlaceSumBlock(self.channels, "branch")])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(self.count):
            x = self.blocks[0](x)
        return self.head(x.mean((2, 3)))

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.blocks[0].branch(x)

    def after(self, index: int, total: Tensor) -> Tensor:
        return total.clamp(min=0)


class TwoSumsBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = two_layers(channels), two_layers(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.first(x)
        return x + F.relu(self.second(x))


class TwoSums(Net):
    """Two residual sums in one module's forward, as in a transformer's layer."""

    def length(self) -> int:
        return 2 * self.count

    def block(self, index: int) -> nn.Module:
        return TwoSumsBlock(self.channels)

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        block = self.blocks[index // 2]
        return x, block.second(x).clamp(min=0) if index % 2 else block.first(x)


class Layers(TwoSums):
    """The same net with both sums of a layer taken for one block."""

    def length(self) -> int:
        return self.count

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        first = x + self.blocks[index].first(x)
        return x, first + self.blocks[index].second(first).clamp(min=0) - x


class FromInput(Net):
    """The first block reads the model's input itself, and the net writes over nothing of it."""

    channels = 3

    def block(self, index: int) -> nn.Module:
        return two_layers(self.channels)

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.blocks:
            x = branch(x) + x
        return self.head(x.mean((2, 3)))

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.blocks[index](x)

    def start(self, x: Tensor) -> Tensor:
        return x


class OverInput(FromInput):
    """The same net writing over its input, as a careless user's does."""

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.blocks:
            x += branch(x)
        return self.head(x.mean((2, 3)))


class InnerSumsBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter, self.leave = conv(channels, channels), conv(channels, channels)
        self.squeeze = nn.Conv2d(channels, channels, 1)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.enter(x))
        h = h + F.relu(self.leave(h))
        h = torch.add(F.avg_pool2d(h, 3, 1, 1), self.squeeze(h.mean((2, 3), keepdim=True)))
        h = torch.add(F.avg_pool2d(h, 3, 1, 1), self.norm(self.leave(h)), alpha=0.5)
        return x + h


class InnerSums(Net):
    """Inside each branch a residual, a broadcast and a scaled sum, none of which is a block."""

    def block(self, index: int) -> nn.Module:
        return InnerSumsBlock(self.channels)

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        block = self.blocks[index]
        h = block.enter(x).clamp(min=0)
        h = h + block.leave(h).clamp(min=0)
        h = F.avg_pool2d(h, 3, 1, 1) + block.squeeze(h.mean((2, 3), keepdim=True))
        return x, F.avg_pool2d(h, 3, 1, 1) + 0.5 * block.norm(block.leave(h))


class PostNormBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = two_layers(channels), two_layers(channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](x + self.first(x))
        return self.norms[1](x + self.second(x))


class PostNorm(Net):
    """Layers of two sums, each followed by its own normalisation, as in the first transformer."""

    def block(self, index: int) -> nn.Module:
        return PostNormBlock(self.channels)

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        block = self.blocks[index]
        way, first = block.norms[0](x), block.norms[0](x + block.first(x))
        return way, first + block.second(first) - way

    def after(self, index: int, total: Tensor) -> Tensor:
        return self.blocks[index].norms[1](total)


class Plain(Net):
    """No shortcuts: each unit is a convolution, a normalisation and an activation."""

    count = 4
    channels = 3

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Tanh()

    def block(self, index: int) -> nn.Module:
        layers = conv(self.channels, self.channels), nn.BatchNorm2d(self.channels), nn.ReLU()
        return nn.Sequential(*layers)

    def parts(self, index: int, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, self.blocks[index](x) - x
