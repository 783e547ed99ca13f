"""Where in the model's code a walk stopped: what a refusal has to say besides its reason."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ensemble_view.core.chain import Chain
from ensemble_view.core.sites import Site, SiteMode
from ensemble_view.discovery.capture import Arguments, site_of
from ensemble_view.discovery.dataflow import Flow

__all__ = ["first_difference", "where_the_trunk_is_lost"]


def where_the_trunk_is_lost(flow: Flow) -> str:
    """Name the widest stretch between two values that every path passes.

    Args:
        flow: The data flow from the start to the output.

    Returns:
        A sentence with the places before and after it; empty where all values lie on the trunk.
    """
    rank = {
        node: position
        for position, node in enumerate(n for n in flow.start.graph.nodes if n in flow.members)
    }
    gaps = [
        (rank[later] - rank[earlier] - 1, earlier, later)
        for earlier, later in zip(flow.trunk, flow.trunk[1:], strict=False)
    ]
    width, earlier, later = max(gaps, key=lambda gap: gap[0], default=(0, flow.start, flow.start))
    if not width:
        return ""
    return (
        f"The values that every path passes are lost after {site_of(earlier) or 'the input'}; the "
        f"next one is {site_of(later) or later.name}, with {width} values in between."
    )


def first_difference(chain: Chain, model: nn.Module, arguments: Arguments, tolerance: float) -> str:
    """Say at which block a chain and its model part.

    Args:
        chain: With provenance.
        model: In evaluation mode.
        arguments: What both are called with; the model may write over them.
        tolerance: The largest difference, relative to the largest value, that is none.

    Returns:
        A sentence.
    """
    places = {
        _key(place.exit): index
        for index, place in enumerate(chain.provenance.blocks)
        if place.exit is not None
    }
    made: dict[int, Tensor] = {}

    def visit(site: Site, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = function(*args, **kwargs)
        index = places.get(_key(site))
        if index is not None and isinstance(output, Tensor):
            with torch._C.DisableTorchFunction():
                made[index] = output.clone()
        return output

    args, kwargs = arguments
    here = "the stem"
    try:
        x, context = chain.stem(*args, **kwargs)
        with SiteMode(model, visit):
            model(*args, **kwargs)
        for block in chain:
            place = chain.provenance.blocks[block.index].exit
            ends = f", which ends at {place}" if place is not None else ""
            here = f"block {block.index} ({block.name}){ends}"
            if block.index in chain.links:
                x = chain.links[block.index](x, context)
            x = block(x, context)
            expected = made.get(block.index, x)
            if x.shape != expected.shape or not _error(x, expected) <= tolerance:
                return f"They part in {here}."
    except RuntimeError:
        return f"It fails in {here}."
    return f"They part after the last block, {here}."


def _key(site: Site) -> tuple[Any, ...]:
    return site.owner, site.function, site.ordinal


def _error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max()) / (float(expected.abs().max()) or 1.0)
