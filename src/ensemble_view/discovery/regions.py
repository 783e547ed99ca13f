"""Regions that run under autocast or another gradient mode become part of the graph around them.

The export puts such a region into a graph of its own, behind one operation. A gradient mode changes
no value, so its region is copied into the place of that operation. Autocast converts what some
operations read: those conversions become operations of the graph, when it is decomposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import fx
from torch.export import ExportedProgram

__all__ = ["with_regions_inlined"]


def with_regions_inlined(program: ExportedProgram) -> ExportedProgram:
    """Copy all regions of a program into its own graph.

    Args:
        program: As the export made it; may be changed.

    Returns:
        A program of one graph, whose nodes keep their metadata.
    """
    _inline_gradient_modes(program.graph_module)
    regions = [m for m in program.graph_module.children() if isinstance(m, fx.GraphModule)]
    for module in regions:
        for region in module.modules():
            if isinstance(region, fx.GraphModule):
                # Node by node, so that the operations it is decomposed to keep the metadata.
                region.forward = fx.Interpreter(region).run
    return program.run_decompositions({}) if regions else program


def _inline_gradient_modes(module: fx.GraphModule) -> None:
    for child in module.children():
        if isinstance(child, fx.GraphModule):
            _inline_gradient_modes(child)
    inlined = False
    for node in list(module.graph.nodes):
        if node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
            place = cast("fx.Node", node.args[1])
            _inline(module, node, str(place.target), node.args[2:])
            module.graph.erase_node(place)
            delattr(module, str(place.target))
            inlined = True
    if inlined:
        module.recompile()


def _inline(module: fx.GraphModule, call: fx.Node, name: str, inputs: Sequence[Any]) -> None:
    """Copy a region into the place of the operation that calls it."""
    region = cast("fx.GraphModule", module.get_submodule(name))
    copies: dict[fx.Node, Any] = dict(
        zip(region.graph.find_nodes(op="placeholder"), inputs, strict=True)
    )
    outputs: Any = None
    with module.graph.inserting_before(call):
        for node in region.graph.nodes:
            if node.op == "output":
                outputs = fx.map_arg(node.args[0], lambda old: copies[old])
            elif node.op == "get_attr":
                path = f"{name}_{node.target}"
                module.add_module(path, region.get_submodule(str(node.target)))
                copies[node] = module.graph.get_attr(path)
            elif node.op != "placeholder":
                copies[node] = module.graph.node_copy(node, lambda old: copies[old])
    for user in list(call.users):
        user.replace_all_uses_with(outputs[user.args[1]])
        module.graph.erase_node(user)
    module.graph.erase_node(call)
