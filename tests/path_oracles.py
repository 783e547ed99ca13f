"""What paths must carry, by means that the fast way does not use.

``enumerate_paths`` runs the model's own arithmetic once for each path: a value is switched off by
detaching it, so that autograd walks one path only. ``scaled`` lets autograd walk all of them with
every branch's cotangent multiplied by a number.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ensemble_view import Chain

Loss = Callable[[Any], Tensor]


class Scaled(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * gradient, None


def _gradient(
    chain: Chain, arguments: tuple[Tensor, ...], loss: Loss, change: Callable[..., Any], at: Any
) -> Tensor:
    if at is None:
        arguments = (arguments[0].clone().requires_grad_(), *arguments[1:])
    x, context = chain.stem(*arguments)
    point = arguments[0]
    for position, block in enumerate(chain.blocks):
        if position in chain.links:
            x = chain.links[position](x, context)
        if at == position:
            x = point = x.detach().requires_grad_()
        shared = block.before(x, context)
        around, through = block.shortcut(shared, context), block.branch(shared, context)
        around, through = change(position, around, through)
        x = block.after(around + through, context)
    (found,) = torch.autograd.grad(loss(chain.head(x, context)).sum(), point, allow_unused=True)
    return torch.zeros_like(point) if found is None else found


def along(
    chain: Chain, arguments: tuple[Tensor, ...], loss: Loss, path: tuple[int, ...], at: Any = 0
) -> Tensor:
    """The gradient along one path."""
    return _gradient(
        chain,
        arguments,
        loss,
        lambda position, around, through: (
            (around.detach(), through) if position in path else (around, through.detach())
        ),
        at,
    )


def enumerate_paths(
    chain: Chain, arguments: tuple[Tensor, ...], loss: Loss, at: Any = 0
) -> dict[tuple[int, ...], Tensor]:
    """The gradient along every path."""
    blocks = range(at or 0, len(chain))
    return {
        path: along(chain, arguments, loss, path, at)
        for length in range(len(blocks) + 1)
        for path in itertools.combinations(blocks, length)
    }


def scaled(
    chain: Chain, arguments: tuple[Tensor, ...], loss: Loss, factor: float, at: Any = 0
) -> Tensor:
    """The gradient with every branch's vector–Jacobian product multiplied by a number."""
    return _gradient(
        chain,
        arguments,
        loss,
        lambda position, around, through: (around, Scaled.apply(through, factor)),
        at,
    )
