"""Graph facts that block finding stands on: what descends from a value, and the trunk.

The *trunk* is the dominator chain of the output: the values that every path from the start to the
output passes (Prosser 1959; Cooper, Harvey and Kennedy 2001 for the algorithm). Numbers, shapes
among them, carry no data flow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from ensemble_view.discovery.capture import is_tensor

__all__ = ["Flow", "ancestors", "between", "carries_data", "flow_from"]


@dataclass(frozen=True, eq=False)
class Flow:
    """The data flow from one value to the output.

    Args:
        start: Where it begins.
        members: All values that descend from the start and reach the output.
        dominator: Immediate dominator of each member but the start.
        trunk: The dominator chain, from the start to the output.
    """

    start: fx.Node
    members: frozenset[fx.Node]
    dominator: dict[fx.Node, fx.Node]
    trunk: tuple[fx.Node, ...]


def ancestors(nodes: Iterable[fx.Node], stop: fx.Node | None = None) -> set[fx.Node]:
    """Collect what values are computed from, themselves included.

    Args:
        nodes: The values.
        stop: Is included, but not what it is computed from.

    Returns:
        All nodes reached backwards.
    """
    found: set[fx.Node] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            if node is not stop:
                waiting.extend(node.all_input_nodes)
    return found


def between(flow: Flow, first: fx.Node, last: fx.Node) -> list[fx.Node]:
    """List the members on the paths from one value to another, without the first.

    Args:
        flow: The data flow.
        first: Dominates ``last``.
        last: Where the paths end.

    Returns:
        Members in the order of execution; empty if the two are one.
    """
    region = ancestors([last], stop=first) & flow.members
    # A size read off the input leads back to it, past the first value.
    reached = {first}
    found: list[fx.Node] = []
    for node in last.graph.nodes:
        if node in region and not reached.isdisjoint(node.all_input_nodes):
            reached.add(node)
            found.append(node)
    return found


def flow_from(start: fx.Node, output: fx.Node) -> Flow | None:
    """Find the trunk between a value and the output.

    Args:
        start: A tensor-valued node.
        output: A tensor-valued node.

    Returns:
        The data flow, or None where the output does not descend from the start.
    """
    needed = ancestors([output])
    rank: dict[fx.Node, int] = {start: 0}
    dominator: dict[fx.Node, fx.Node] = {}
    for node in start.graph.nodes:
        if node not in needed or node is start or not carries_data(node):
            continue
        sources = [source for source in node.all_input_nodes if source in rank]
        if not sources:
            continue
        rank[node] = len(rank)
        common = sources[0]
        for source in sources[1:]:
            while common is not source:
                if rank[common] > rank[source]:
                    common = dominator[common]
                else:
                    source = dominator[source]
        dominator[node] = common
    if output not in rank:
        return None
    trunk = [output]
    while trunk[-1] is not start:
        trunk.append(dominator[trunk[-1]])
    return Flow(start, frozenset(rank), dominator, tuple(reversed(trunk)))


def carries_data(node: fx.Node) -> bool:
    """Tell whether a node's value is a tensor or a tuple, and not a number.

    Args:
        node: A node of a captured graph.

    Returns:
        True for what data flow through.
    """
    return is_tensor(node) or isinstance(node.meta.get("val"), tuple | list)
