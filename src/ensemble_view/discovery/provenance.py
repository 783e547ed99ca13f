"""Where in the model's own code the blocks of a chain happen: what the hooks edit by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from ensemble_view.core.sites import ModuleCall, Site
from ensemble_view.discovery.blocks import Span
from ensemble_view.discovery.capture import Arguments, Capture, site_of
from ensemble_view.discovery.dataflow import Flow, between, carries_data
from ensemble_view.discovery.granularity import Group

__all__ = ["BlockProvenance", "Provenance", "trace_provenance"]

_ADDITION_FUNCTIONS = {"add", "add_", "__add__", "__iadd__", "__radd__"}


@dataclass(frozen=True)
class BlockProvenance:
    """Where one block happens.

    Args:
        additions: The additions that hold the shortcut, each with the position of the operand
            that does; empty where an addition is hidden inside a compound function.
        module: Path of the module whose one call is exactly this block, if there is one.
        entry: Where the block's input is made: a site, or the position of a model input.
        exit: Where its output is made.
    """

    additions: tuple[tuple[Site, int], ...]
    module: str | None
    entry: Site | int | None
    exit: Site | None


@dataclass(frozen=True)
class Provenance:
    """Where all blocks of a chain happen, and what the model was called with.

    Args:
        blocks: One entry per block, in order.
        example: The first two examples of the batch that the chain was found with.
        pick: Finds the output that was followed in what the model returns.
    """

    blocks: tuple[BlockProvenance, ...]
    example: Arguments
    pick: Callable[[Any], Tensor]


def trace_provenance(
    captured: Capture, flow: Flow, groups: Sequence[Group], example: Arguments
) -> Provenance:
    """Find the places of all blocks in the model's code.

    Args:
        captured: The graph, whose nodes know their sites.
        flow: The trunk that the blocks lie on.
        groups: The blocks, each with its residual sums.
        example: A small one, which the chain keeps.

    Returns:
        Where the hooks have to act.
    """
    makers: dict[Site, list[fx.Node]] = {}
    for node in captured.graph.nodes:
        site = site_of(node)
        if site is not None:
            makers.setdefault(site, []).append(node)

    def place(node: fx.Node) -> Site | int | None:
        if node in captured.inputs:
            return captured.inputs.index(node)
        site = site_of(node)
        return site if site is not None and makers[site][-1] is node else None

    def additions(span: Span) -> tuple[tuple[Site, int], ...]:
        found: list[tuple[Site, int]] = []
        for node, operand in span.holders:
            site = site_of(node)
            if site is None or makers[site] != [node] or site.function not in _ADDITION_FUNCTIONS:
                return ()
            found.append((site, operand))
        return tuple(found)

    members: dict[ModuleCall, set[fx.Node]] = {}
    lending: set[ModuleCall] = set()
    for node in captured.graph.nodes:
        site = site_of(node)
        for call in site.stack if site is not None else ():
            if node in flow.members:
                members.setdefault(call, set()).add(node)
            elif carries_data(node) and any(_is_outside(user, call) for user in node.users):
                lending.add(call)
    # A module that lends other modules a value (T5's first layer the position bias of all) cannot
    # change places with them by itself. A size is no such value: each computes it anew.
    members = {call: nodes for call, nodes in members.items() if call not in lending}
    blocks: list[BlockProvenance] = []
    for _, spans in groups:
        entry, exit_ = spans[0].entry, spans[-1].exit
        exit_place = place(exit_)
        found = [additions(span) for span in spans]
        blocks.append(
            BlockProvenance(
                additions=sum(found, ()) if all(found) else (),
                module=_whole_module(
                    {node for node in between(flow, entry, exit_) if site_of(node)}, members
                ),
                entry=place(entry),
                exit=exit_place if isinstance(exit_place, Site) else None,
            )
        )
    return Provenance(tuple(blocks), example, captured.pick)


def _is_outside(node: fx.Node, call: ModuleCall) -> bool:
    site = site_of(node)
    return site is not None and call not in site.stack


def _whole_module(region: set[fx.Node], members: dict[ModuleCall, set[fx.Node]]) -> str | None:
    """The innermost module, called once, whose call holds just this region."""
    exact = [call for call, nodes in members.items() if nodes == region]
    calls = {path: sum(call[0] == path for call in members) for path, _ in exact}
    found = [path for path, _ in exact if path and calls[path] == 1]
    return max(found, key=len) if found else None
