"""Which residual sums make one block: each for itself, or all of a layer together.

At the granularity ``branch`` every residual sum is a block. At ``block`` (the default) a block is
the run of sums inside the innermost element of a ``Sequential`` or ``ModuleList`` that has a
sibling of its own class: a transformer layer with its attention and its feed-forward branch, a
residual unit of a ResNet. A module that is called several times makes one block per call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import nn

from ensemble_view.core.sites import ModuleCall
from ensemble_view.discovery.blocks import Span, common_stack, stack_of
from ensemble_view.discovery.dataflow import Flow, between

__all__ = ["Granularity", "Group", "group_spans"]

Granularity: TypeAlias = Literal["block", "branch"]

Group: TypeAlias = tuple[str, tuple[Span, ...]]
"""A block's name and the residual sums it is made of, in order."""


def group_spans(
    flow: Flow, spans: Sequence[Span], model: nn.Module, granularity: Granularity
) -> list[Group]:
    """Put the sums together that make one block.

    Args:
        flow: The trunk that they lie on.
        spans: One per residual sum, in order.
        model: The model, whose containers tell its layers.
        granularity: ``block`` or ``branch``.

    Returns:
        The groups, in order; together they hold each span once.
    """
    groups: list[tuple[ModuleCall | None, list[Span]]] = []
    repeated = {path for span in spans for path, call in stack_of(span.total) if call}
    for span in spans:
        layer = _layer(flow, span, model, repeated) if granularity == "block" else None
        if groups and layer is not None and groups[-1][0] == layer:
            groups[-1][1].append(span)
        else:
            groups.append((layer, [span]))
    return [(_name(layer, members), tuple(members)) for layer, members in groups]


def _name(layer: ModuleCall | None, spans: Sequence[Span]) -> str:
    if layer is None or len(spans) == 1:
        return spans[0].name
    path, call = layer
    return path + (f"@{call}" if call else "")


def _layer(flow: Flow, span: Span, model: nn.Module, repeated: set[str]) -> ModuleCall | None:
    """The module call that a sum's layer is, or None for a sum that stands for itself."""
    stack = stack_of(span.total)
    for call in reversed(stack):
        if _is_repeated_element(model, call[0], repeated):
            return call
    region = [n for branch in span.branches for n in between(flow, span.shared, branch)]
    for call in reversed(common_stack([stack_of(node) for node in region])):
        if _is_repeated_element(model, call[0], repeated):
            return call
    return stack[-1] if stack[-1][0] else None


def _is_repeated_element(model: nn.Module, path: str, repeated: set[str]) -> bool:
    """Whether a module in a container is called several times, or is beside one of its class."""
    parent_path, _, _ = path.rpartition(".")
    if not path:
        return False
    parent = model.get_submodule(parent_path)
    if not isinstance(parent, nn.Sequential | nn.ModuleList):
        return False
    if path in repeated:
        return True
    kind = type(model.get_submodule(path))
    return sum(type(child) is kind for child in parent) > 1
