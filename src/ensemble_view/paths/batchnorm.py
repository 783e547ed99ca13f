"""A chain whose BatchNorm takes the statistics of each batch, as in training.

The parts of a chain were exported in evaluation mode. Here every BatchNorm of their graphs is put
into its training form, ``(x - mean) / sqrt(var + eps)`` with mean and variance of the batch, and
gradients go through these too; nothing is recorded in the model's running statistics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import fx

from ensemble_view.core.chain import Chain
from ensemble_view.core.parts import Part, identity
from ensemble_view.errors import MeasurementError

__all__ = ["with_batch_statistics"]

aten: Any = torch.ops.aten


def with_batch_statistics(chain: Chain) -> Chain:
    """Give a chain whose BatchNorm layers use the statistics of the batch at hand.

    All else, dropout included, stays in evaluation mode.

    Args:
        chain: Found by :func:`ensemble_view.unravel` at granularity ``branch``.

    Returns:
        Another chain of the same weights; model and chain are left as they were.

    Raises:
        MeasurementError: If there is no BatchNorm that could be told, or the chain was put together
            by hand.

    Example:
        >>> from ensemble_view import unravel
        >>> from ensemble_view.nets.models.building import build
        >>> images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        >>> model = build("resnet8,width=4")
        >>> found = with_batch_statistics(unravel(model, images))(images)
        >>> torch.allclose(found, model.train()(images), atol=1e-5)
        True
    """
    changed = 0

    def converted(part: Part) -> Part:
        nonlocal changed
        if part is identity:
            return part
        if not isinstance(part, fx.GraphModule):
            raise MeasurementError(
                "BatchNorm with the statistics of the batch needs a chain that unravel found, with "
                "granularity='branch'; of parts put together by hand it cannot be told. Give the "
                "model itself."
            )
        found, count = _converted(part)
        changed += count
        return cast("Part", found)

    # A stem by hand is a function, which has no graph either.
    stem: Any = chain.stem
    within = converted(getattr(stem, "part", cast("Part", stem)))
    blocks = tuple(
        replace(
            block,
            before=converted(block.before),
            shortcut=converted(block.shortcut),
            branch=converted(block.branch),
            after=converted(block.after),
        )
        for block in chain.blocks
    )
    links = {position: converted(link) for position, link in chain.links.items()}
    head = converted(chain.head)
    if not changed:
        raise MeasurementError(
            "This net has no BatchNorm that uses running statistics, so that training and "
            "evaluation do not differ in it; leave batchnorm at 'evaluation'."
        )
    with_part = cast("Callable[[Part], Any]", stem.with_part)
    return replace(chain, stem=with_part(within), blocks=blocks, links=links, head=head)


def _converted(part: fx.GraphModule) -> tuple[fx.GraphModule, int]:
    """A copy of a graph with its BatchNorm in training form, and how many there are."""
    graph, count = fx.Graph(), 0
    graph.output(graph.graph_copy(part.graph, {}))
    for node in graph.nodes:
        if node.target is aten.batch_norm.default and node.args[5] is False:
            x, weight, bias, _, _, _, *rest = node.args
            node.args = (x, weight, bias, None, None, True, *rest)
        elif node.target is aten._native_batch_norm_legit_no_training.default:
            x, weight, bias, _, _, *rest = node.args
            node.target = aten._native_batch_norm_legit.no_stats
            node.args = (x, weight, bias, True, *rest)
        else:
            continue
        count += 1
    graph.eliminate_dead_code()
    return fx.GraphModule(part, graph), count
