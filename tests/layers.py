"""Layers that the tests' nets are made of, and weights under which every layer matters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def wake(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draw all weights and statistics so that every layer matters; double precision, eval mode."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(value: Tensor | None, low: float, high: float) -> None:
        if value is not None:
            value.uniform_(low, high, generator=generator)

    model.double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.LayerNorm):
                uniform(module.weight, 0.5, 1.5)
                uniform(module.bias, -0.2, 0.2)
                uniform(getattr(module, "running_mean", None), -0.2, 0.2)
                uniform(getattr(module, "running_var", None), 0.5, 1.5)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                spread = (2 / module.weight[0].numel()) ** 0.5
                module.weight.normal_(0, spread, generator=generator)
                uniform(module.bias, -0.2, 0.2)
    return model


def conv(inputs: int, outputs: int, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=bias)


def two_layers(channels: int, *, bias: bool = False) -> nn.Sequential:
    return nn.Sequential(
        conv(channels, channels, bias=bias),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        conv(channels, channels, bias=bias),
        nn.BatchNorm2d(channels),
    )


class Body(nn.Module):
    """Stem and head around a body that a subclass writes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 4), nn.Linear(4, 5)
        self.first, self.second = two_layers(4), two_layers(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))

    def body(self, x: Tensor) -> Tensor:
        raise NotImplementedError
