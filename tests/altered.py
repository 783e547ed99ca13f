"""What composed interventions mean for a hand-written net, interpreted with lists and loops.

Neither arrangements nor plans nor graphs are used, only the formulas of :mod:`nets`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

import nets
from ensemble_view import (
    Delete,
    DropShortcut,
    Keep,
    MiddleRepeat,
    Parallel,
    Reorder,
    Repeat,
    Replace,
    Reverse,
    Scale,
    Swap,
)
from ensemble_view.core.interventions.base import Intervention
from ensemble_view.core.parts import perturb, resample


def means_by_hand(net: nets.Net, batches: Sequence[Tensor]) -> dict[int, Tensor]:
    """The mean of every branch of the unmodified net, over all examples at once."""
    x = net.start(torch.cat(list(batches)))
    found = {}
    for index in range(net.length()):
        x = net.link(index, x)
        shortcut, branch = net.parts(index, x)
        found[index] = branch.mean(0, keepdim=True)
        x = net.after(index, shortcut + branch)
    return found


def directions(shape: Sequence[int], seed: tuple[int, int]) -> Tensor:
    """Normal numbers in double precision, which :func:`perturb` adds to zeros but for their norm.

    Adding them to the first unit vector, whose norm is one, gives them away.
    """
    unit = torch.zeros(shape, dtype=torch.float64)
    unit.flatten(1)[:, 0] = 1
    return perturb(unit, seed) - unit


def altered_by_hand(
    net: nets.Net,
    x: Tensor,
    interventions: Sequence[Intervention],
    means: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Interpret interventions one after another, then run what they leave."""
    places: list[list[int]] = [[index] for index in range(net.length())]
    averaged = [False] * net.length()
    kind: list[Any] = ["own"] * net.length()
    factor, times = [1.0] * net.length(), [1] * net.length()
    dropped: set[int] = set()
    for one in interventions:
        if isinstance(one, Delete | Keep):
            for index in range(net.length()):
                if (index in one.blocks) == isinstance(one, Delete):
                    kind[index], factor[index] = "zero", 1.0
        elif isinstance(one, Scale):
            factor[one.block] *= one.factor
        elif isinstance(one, DropShortcut):
            dropped.add(one.block)
        elif isinstance(one, Replace):
            kind[one.block], factor[one.block] = one.value, 1.0
            if one.value in ("resample", "perturbed", "constant"):
                kind[one.block] = (one.value, one.seed, one.block)
        elif isinstance(one, Repeat):
            times[one.block] *= one.times
        elif isinstance(one, Swap):
            for place in places:
                for k, index in enumerate(place):
                    if index in (one.first, one.second):
                        place[k] = one.first + one.second - index
        elif isinstance(one, Reorder):
            places, averaged = [[index] for index in one.order], [False] * net.length()
        else:
            start = next(p for p, place in enumerate(places) if one.first in place)
            end = next(p for p, place in enumerate(places) if one.last in place)
            inside = [index for place in places[start : end + 1] for index in place]
            if isinstance(one, Reverse):
                places[start : end + 1] = reversed(places[start : end + 1])
                averaged[start : end + 1] = reversed(averaged[start : end + 1])
            elif isinstance(one, MiddleRepeat):
                middle = inside[(len(inside) + 1) // 2 - 1]
                for place in places[start : end + 1]:
                    place[:] = [middle] * len(place)
            elif isinstance(one, Parallel):
                places[start] = inside
                places[start + 1 : end + 1] = [[] for _ in range(end - start)]
                averaged[start : end + 1] = [one.combine == "mean"] + [False] * (end - start)

    def parts(index: int, value: Tensor) -> tuple[Tensor, Any]:
        shortcut, branch = net.parts(index, value)
        if kind[index] == "zero":
            branch = 0.0 * branch
        elif kind[index] == "mean":
            branch = means[index].expand_as(branch)
        elif kind[index][0] == "resample":
            branch = branch[resample(torch.arange(len(branch)), kind[index][1:])]
        elif kind[index][0] == "constant":
            (direction,) = directions((1, *branch.shape[1:]), kind[index][1:])
            unit = direction / direction.norm()
            branch = torch.stack([one + one.norm() * unit for one in branch])
        elif kind[index][0] == "perturbed":
            branch = torch.stack(
                [
                    one + one.norm() * direction / direction.norm()
                    for one, direction in zip(
                        branch, directions(branch.shape, kind[index][1:]), strict=True
                    )
                ]
            )
        return (0.0 if index in dropped else 1.0) * shortcut, factor[index] * branch

    x = net.start(x)
    for position, place in enumerate(places):
        x = net.link(position, x)
        every = [index for index in place for _ in range(times[index])]
        if len(place) == 1:
            for index in every:
                shortcut, branch = parts(index, x)
                x = net.after(index, shortcut + branch)
        elif every:
            branches = [parts(index, x)[1] for index in every]
            way = x
            for index in every[:-1]:
                way = net.after(index, parts(index, way)[0])
            total = sum(branches) / (len(every) if averaged[position] else 1)
            x = net.after(every[-1], parts(every[-1], way)[0] + total)
    return net.head(x.mean((2, 3)))
