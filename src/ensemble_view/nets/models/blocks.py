"""Residual blocks: what the branch consists of, where activations stand, what the shortcut is."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ensemble_view.nets.models.architecture import ArchitectureError
from ensemble_view.nets.models.shortcuts import CarryGate, Gate, Scaling, ZeroPadShortcut

__all__ = [
    "EXPANSION",
    "PLACEMENTS",
    "VARIANTS",
    "BlockForm",
    "PostActivationBlock",
    "PreActivationBlock",
    "ResidualBlock",
    "SkippableBlock",
    "limit_branches",
]

EXPANSION = 4
"""How many times as many channels a bottleneck gives as its 3x3 convolution has."""

VARIANTS = ("identity", "scaled", "scaled_shortcut", "gated", "gated_shortcut", "dropout")
"""What may stand in the identity's place: table 1 of He et al. 2016."""

_DROPOUT = 0.5
_SCALE = 0.5


@dataclass(frozen=True)
class BlockForm:
    """How the blocks of a net are made.

    Args:
        layers: Convolutions of the branch: 1 or 2 of 3x3, or 3 for a bottleneck of 1x1, 3x3, 1x1
            that is a quarter as wide as the block (He et al. 2015, arXiv 1512.03385, figure 5).
        shortcut: Where the shape changes: "A" (zero padding) or "B" (1x1 convolution, in version 1
            with BatchNorm); "C" is B in every block (He et al. 2015, section 4.1); "bare" is a 1x1
            convolution of the block's input and nothing else.
        variant: What stands in the place of the identity, He et al. 2016 (arXiv 1603.05027), table
            1: "scaled" (shortcut and branch by 0.5), "scaled_shortcut" (by 0.5, not the branch),
            "gated" (shortcut by 1 - g(x), branch by g(x), g the sigmoid of a 1x1 convolution),
            "gated_shortcut" (shortcut by 1 - g(x)), "dropout" (0.5, on the shortcut). Shortcuts
            that change the shape are left as they are.
        gate_bias: What the shift of the gates begins with; negative values open the shortcut.
        padding: Where option A puts its zeros, "sides" or "end".
        stride: Which convolution of a bottleneck has the stride: "1x1", the first, or "3x3".
    """

    layers: int = 2
    shortcut: Literal["A", "B", "C", "bare"] = "A"
    variant: str = "identity"
    gate_bias: float = -6.0
    padding: str = "sides"
    stride: str = "1x1"


class SkippableBlock(nn.Module):
    """A block whose branch may be left out of a training batch, and is then weighed in evaluation.

    Huang et al. 2016 (arXiv 1603.09382), section 3: in training the branch is there or not, in
    evaluation it is multiplied by how often it was there.

    Attributes:
        keep: Whether the next training batch goes through the branch.
        survival: What the branch is multiplied by in evaluation.
    """

    keep: bool = True
    survival: float = 1.0

    @property
    def is_dropped(self) -> bool:
        """Whether the branch is left out now."""
        return self.training and not self.keep

    def weigh(self, value: Tensor) -> Tensor:
        """Return the branch's value, or its gate's, as it counts now."""
        return value if self.training or self.survival == 1 else value * self.survival


class ResidualBlock(SkippableBlock):
    """What all residual blocks share: `after(shortcut(x) + branch(entry(x)))`.

    Subclasses place BatchNorm and ReLU. Parameters are named conv1, bn1, conv2, bn2 and so on.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        stride: Of the first convolution, or as the form says.
        form: How the block is made.
    """

    normalises_inputs = False
    """Whether BatchNorm stands before its convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int, form: BlockForm) -> None:
        super().__init__()
        self.layers = form.layers
        widths = _widths(inputs, outputs, form.layers)
        strided = 2 if form.stride == "3x3" else 1
        for number, (before, after) in enumerate(itertools.pairwise(widths), 1):
            kernel = 1 if form.layers == 3 and number != 2 else 3
            step = stride if number == strided else 1
            convolution = nn.Conv2d(before, after, kernel, step, padding=kernel // 2, bias=False)
            norm = nn.BatchNorm2d(before if self.normalises_inputs else after)
            pair = [(f"conv{number}", convolution), (f"bn{number}", norm)]
            for name, module in reversed(pair) if self.normalises_inputs else pair:
                self.add_module(name, module)
        self.gate: Gate | None = None
        self.scale = 1.0
        self.shortcut: nn.Module
        keeps_shape = inputs == outputs and stride == 1
        self.starts_at_input = form.shortcut == "bare" or (keeps_shape and form.shortcut != "C")
        if keeps_shape and form.shortcut != "C":
            self._keep(outputs, form)
        elif form.shortcut == "A":
            self.shortcut = ZeroPadShortcut(outputs - inputs, stride, form.padding)
        else:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            bare = self.normalises_inputs or form.shortcut == "bare"
            norms = [] if bare else [nn.BatchNorm2d(outputs)]
            self.shortcut = nn.Sequential(projection, *norms) if norms else projection

    def _keep(self, channels: int, form: BlockForm) -> None:
        """Make the shortcut of a block that keeps the shape."""
        self.shortcut = nn.Identity()
        if form.variant in ("scaled", "scaled_shortcut"):
            self.shortcut = Scaling(_SCALE)
            self.scale = _SCALE if form.variant == "scaled" else 1.0
        elif form.variant == "gated":
            self.gate = Gate(channels, 1, form.gate_bias)
        elif form.variant == "gated_shortcut":
            self.shortcut = CarryGate(channels, form.gate_bias)
        elif form.variant == "dropout":
            self.shortcut = nn.Dropout(_DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output for `x` (N, C, H, W)."""
        entry = self.entry(x)
        shortcut: Tensor = self.shortcut(x if self.starts_at_input else entry)
        if self.is_dropped:
            return self.after(shortcut)
        branch = self.branch(entry)
        if self.gate is not None:
            gate = self.weigh(self.gate(x))
            return self.after(gate * branch + (1 - gate) * shortcut)
        branch = branch if self.scale == 1 else branch * self.scale
        return self.after(shortcut + self.weigh(branch))

    def entry(self, x: Tensor) -> Tensor:
        """Return where the branch starts, and a shortcut that changes the shape, too."""
        return x

    def branch(self, x: Tensor) -> Tensor:
        """Return F of the block's entry."""
        raise NotImplementedError

    def after(self, x: Tensor) -> Tensor:
        """Return what follows the addition."""
        return x

    def conv(self, number: int, x: Tensor) -> Tensor:
        """Return the convolution of that number, from 1."""
        result: Tensor = self.get_submodule(f"conv{number}")(x)
        return result

    def norm(self, number: int, x: Tensor) -> Tensor:
        """Return the BatchNorm of that number, from 1."""
        result: Tensor = self.get_submodule(f"bn{number}")(x)
        return result


def _widths(inputs: int, outputs: int, layers: int) -> list[int]:
    """Return the channels before, between and after the convolutions."""
    inner = outputs // EXPANSION if layers == 3 else outputs
    return [inputs, *[inner] * (layers - 1), outputs]


class PostActivationBlock(ResidualBlock):
    """Version 1: relu(shortcut(x) + branch(x)), branch = conv–BN–ReLU–conv–BN.

    He et al. 2015 (arXiv 1512.03385), figure 2.

    Example:
        >>> import torch
        >>> block = PostActivationBlock(16, 32, 2, BlockForm(shortcut="A"))
        >>> block(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    def branch(self, x: Tensor) -> Tensor:
        """Return F of the block's entry."""
        for number in range(1, self.layers):
            x = F.relu(self.norm(number, self.conv(number, x)))
        return self.norm(self.layers, self.conv(self.layers, x))

    def after(self, x: Tensor) -> Tensor:
        """Return relu(x)."""
        return F.relu(x)


class NormAfterAdditionBlock(PostActivationBlock):
    """The last BatchNorm follows the addition; He et al. 2016 (arXiv 1603.05027), figure 4(b)."""

    def branch(self, x: Tensor) -> Tensor:
        """Return F of the block's entry."""
        for number in range(1, self.layers):
            x = F.relu(self.norm(number, self.conv(number, x)))
        return self.conv(self.layers, x)

    def after(self, x: Tensor) -> Tensor:
        """Return relu(bn(x))."""
        return F.relu(self.norm(self.layers, x))


class ReluBeforeAdditionBlock(PostActivationBlock):
    """The last ReLU ends the branch; He et al. 2016 (arXiv 1603.05027), figure 4(c)."""

    def branch(self, x: Tensor) -> Tensor:
        """Return F of the block's entry."""
        return F.relu(super().branch(x))

    def after(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


class ReluOnlyBlock(ResidualBlock):
    """ReLU–conv–BN, twice; He et al. 2016 (arXiv 1603.05027), figure 4(d)."""

    def entry(self, x: Tensor) -> Tensor:
        """Return relu(x)."""
        return F.relu(x)

    def branch(self, x: Tensor) -> Tensor:
        """Return F of the block's entry."""
        x = self.norm(1, self.conv(1, x))
        for number in range(2, self.layers + 1):
            x = self.norm(number, self.conv(number, F.relu(x)))
        return x


class PreActivationBlock(ResidualBlock):
    """Version 2: x + branch(x), branch = BN–ReLU–conv–BN–ReLU–conv.

    He et al. 2016 (arXiv 1603.05027), figure 4(e). Where the shape changes, the shortcut starts at
    the pre-activated input, as in the authors' reference code.

    Example:
        >>> import torch
        >>> block = PreActivationBlock(16, 32, 2, BlockForm(shortcut="B"))
        >>> block(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 32, 4, 4])
    """

    normalises_inputs = True

    def entry(self, x: Tensor) -> Tensor:
        """Return relu(bn1(x))."""
        return F.relu(self.norm(1, x))

    def branch(self, x: Tensor) -> Tensor:
        """Return F of the block's entry."""
        x = self.conv(1, x)
        for number in range(2, self.layers + 1):
            x = self.conv(number, F.relu(self.norm(number, x)))
        return x


PLACEMENTS: dict[str, type[ResidualBlock]] = {
    "original": PostActivationBlock,
    "bn_after_addition": NormAfterAdditionBlock,
    "relu_before_addition": ReluBeforeAdditionBlock,
    "relu_only": ReluOnlyBlock,
    "full": PreActivationBlock,
}
"""Where BatchNorm and ReLU stand: table 2 of He et al. 2016, (a) to (e)."""


def limit_branches(blocks: Sequence[SkippableBlock], survival: int, kept: int | None) -> None:
    """Say how often each branch is there in training, and so what it counts in evaluation.

    Args:
        blocks: The blocks, from input to output.
        survival: Percentage of the batches in which the last block's branch is there; from 100 % at
            the input it falls linearly, p_l = 1 - (1 - p_L) l / L (Huang et al. 2016, equation 4).
        kept: How many branches are there in each batch, drawn evenly; None for all.

    Raises:
        ArchitectureError: If there are fewer blocks, or both are asked for.

    Example:
        >>> blocks = [SkippableBlock() for _ in range(4)]
        >>> limit_branches(blocks, 60, None)
        >>> [round(block.survival, 2) for block in blocks]
        [0.9, 0.8, 0.7, 0.6]
    """
    if kept is not None and survival != 100:
        raise ArchitectureError(
            f"The options survival={survival} and kept={kept} exclude each other: choose one."
        )
    if kept is not None and kept > len(blocks):
        raise ArchitectureError(
            f"The option kept is {kept}, but there are {len(blocks)} blocks: expected at most that."
        )
    for number, block in enumerate(blocks, 1):
        linear = 1 - (1 - survival / 100) * number / len(blocks)
        block.survival = linear if kept is None else kept / len(blocks)
