"""Nets of several streams, which no chain describes: told by residual sums beside the trunk.

A residual sum that lies beside the trunk and in no block belongs to a link, a stem or a head. That
is all right where these sums follow each other (the blocks inside a cross-stage connection). It is
not where they run side by side (the resolutions of a high-resolution net, the patch sizes of a
two-scale transformer), or where the net ends in several exits of different depth: a chain of what
is left on the trunk would say little of such a net.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import fx

from ensemble_view.discovery.blocks import (
    Span,
    is_meeting,
    residual_sums_beside,
    shape_of,
    stack_of,
)
from ensemble_view.discovery.dataflow import Flow

__all__ = ["describe_streams"]


def describe_streams(flow: Flow, spans: Sequence[Span]) -> str | None:
    """Say why a net has several streams, if it has.

    Two streams meet where an addition or concatenation brings together values that each descend
    from at least two residual sums that the other does not descend from. (A query that a stretch of
    residual sums computes for the attention of others is met by a product, and no stream.)

    Args:
        flow: The data flow that has most blocks.
        spans: Its blocks.

    Returns:
        What runs side by side, in words; None for a net of one stream.
    """
    beside = residual_sums_beside(flow, spans)
    above = _sums_above(flow, beside)
    for node in above:
        sources = [source for source in node.all_input_nodes if source in above]
        if not is_meeting(node) or len({above[source] for source in sources}) < 2:
            continue
        if _is_logits(flow, node, sources):
            return f"it has {len(sources)} exits of different depth"
        for first, second in itertools.combinations(sources, 2):
            own = above[first] & ~above[second], above[second] & ~above[first]
            if all(sums.bit_count() > 1 for sums in own):
                here, there = (_place(beside[sums.bit_length() - 1]) for sums in own)
                return f"the residual sums of {here} and of {there} run side by side"
    return None


def _is_logits(flow: Flow, node: fx.Node, sources: Sequence[fx.Node]) -> bool:
    """Whether a value of the trunk is made of vectors that are like the output each."""
    shape = shape_of(flow.trunk[-1])
    return len(shape) == 1 and node in flow.trunk and all(shape_of(s) == shape for s in sources)


def _sums_above(flow: Flow, sums: Sequence[fx.Node]) -> dict[fx.Node, int]:
    """Of each value, which of the sums it descends from or is: a bit per sum."""
    bit = {node: 1 << number for number, node in enumerate(sums)}
    above: dict[fx.Node, int] = {}
    for node in flow.trunk[-1].graph.nodes:
        if node in flow.members:
            above[node] = bit.get(node, 0)
            for source in node.all_input_nodes:
                above[node] |= above.get(source, 0)
    return above


def _place(node: fx.Node) -> str:
    path, _ = stack_of(node)[-1]
    return path or "the model itself"
