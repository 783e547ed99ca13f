"""Cut a captured graph into parts that can be run alone and share the model's parameters."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ensemble_view.core.chain import Block, Chain
from ensemble_view.core.parts import Context, Part, identity
from ensemble_view.discovery.blocks import Span, shape_of
from ensemble_view.discovery.capture import Capture, is_tensor
from ensemble_view.discovery.dataflow import Flow, ancestors
from ensemble_view.discovery.granularity import Group
from ensemble_view.errors import DiscoveryError

__all__ = ["cut"]


def cut(captured: Capture, flow: Flow, groups: Sequence[Group]) -> Chain:
    """Cut a graph along block boundaries.

    Args:
        captured: The model's graph.
        flow: Its trunk.
        groups: The blocks, in order, not overlapping, each with its residual sums.

    Returns:
        A chain without a model behind it; its stem takes the model's own arguments.
    """
    cutter = _Cutter(captured, flow)
    blocks: list[Block] = []
    links: dict[int, Part] = {}
    first = groups[0][1][0].entry
    end = first
    for index, (name, spans) in enumerate(groups):
        if spans[0].entry is not end:
            links[index] = cutter.part(end, [spans[0].entry])
        units: list[Block] = []
        for number, span in enumerate(spans):
            unit = _block(cutter, number, span)
            if number and span.entry is not end:
                unit = unit.preceded_by(cutter.part(end, [span.entry]), shape_of(end))
            units.append(unit)
            end = span.exit
        blocks.append(Block.of_units(index, name, units))
    head = cutter.part(end, [captured.output])
    whole = None if captured.out_spec is None else cutter.whole(end)
    # The parts before have told which context they need; only now can the stem be cut.
    return Chain(stem=cutter.stem(first), blocks=tuple(blocks), head=head, links=links, whole=whole)


def _block(cutter: _Cutter, index: int, span: Span) -> Block:
    shortcut = identity if span.shortcut is None else cutter.part(span.shared, [span.shortcut])
    return Block(
        index=index,
        name=span.name,
        before=cutter.part(span.entry, [span.shared]),
        shortcut=shortcut,
        branch=cutter.part(span.shared, span.branches),
        after=cutter.part(span.total, [span.exit]),
        shortcut_kind=span.shortcut_kind,
        shape_in=shape_of(span.entry),
        shape_out=shape_of(span.exit),
        by_example=cutter.is_by_example(span.total),
        sums_as_output=span.shortcut is None or shape_of(span.total) == shape_of(span.exit),
    )


class _Cutter:
    """Copies node ranges into graph modules and collects the context they need."""

    def __init__(self, captured: Capture, flow: Flow) -> None:
        self._captured = captured
        self._flow = flow
        self._context: list[fx.Node] = []
        self._rank = {node: position for position, node in enumerate(captured.graph.nodes)}
        self._depends_on_input = {node for node in captured.inputs if node is not None}
        for node in captured.graph.nodes:
            if not self._depends_on_input.isdisjoint(node.all_input_nodes):
                self._depends_on_input.add(node)

    def is_by_example(self, node: fx.Node) -> bool:
        """Whether the first dimension of a value is that of an input: its size is the batch's."""
        inputs = [given for given in self._captured.inputs if given is not None]
        return _leading_size(node) in map(_leading_size, inputs)

    def part(self, source: fx.Node, targets: Sequence[fx.Node]) -> Part:
        """Cut what lies between a trunk value and the sum of the targets."""
        if list(targets) == [source]:
            return identity
        graph = fx.Graph()
        tensors: dict[str, Tensor] = {}
        copies = self._copies(graph, tensors, source, self._origins(source, targets))
        total = copies[targets[0]]
        for target in targets[1:]:
            total = graph.call_function(torch.ops.aten.add.Tensor, (total, copies[target]))
        graph.output(total)
        return cast("Part", _module(tensors, graph))

    def whole(self, source: fx.Node) -> _Whole:
        """Cut what lies between a trunk value and all outputs of the model."""
        spec = self._captured.out_spec
        assert spec is not None
        every = self._captured.every
        targets = [node for node in every if isinstance(node, fx.Node)]
        # What only the other outputs need is no member of the flow to the one that is followed.
        beyond = {
            node
            for node in ancestors(targets, stop=source)
            if node is not source and source in ancestors([node], stop=source)
        }
        origins = self._origins(source, targets, beyond)
        late = set(self._flow.trunk[1:])
        for node, origin in origins.items():
            if origin is _Origin.CONTEXT and ancestors([node]) & late:
                raise DiscoveryError(
                    f"Not all outputs can be had at once: one needs the value {node.name}, which "
                    "is read off the middle of the trunk, before the last block. Choose one output "
                    "by output= (--output), or wrap the model so that it returns one."
                )
        graph = fx.Graph()
        tensors: dict[str, Tensor] = {}
        copies = self._copies(graph, tensors, source, origins)
        graph.output(fx.map_arg(every, lambda node: copies[node]))
        return _Whole(_module(tensors, graph), spec)

    def _copies(
        self,
        graph: fx.Graph,
        tensors: dict[str, Tensor],
        source: fx.Node,
        origins: Mapping[fx.Node, _Origin],
    ) -> dict[fx.Node, fx.Node]:
        """Bring all values that a part needs into its graph."""
        x, context = graph.placeholder("x"), graph.placeholder("context")
        copies: dict[fx.Node, fx.Node] = {source: x}
        for node in sorted(origins, key=self._rank.__getitem__):
            origin = origins[node]
            if origin is _Origin.ATTRIBUTE:
                copies[node] = self._attribute(graph, tensors, node)
            elif origin is _Origin.SIZE:
                dimension = _dimension_of(source, node)
                copies[node] = graph.call_function(torch.ops.aten.sym_size.int, (x, dimension))
            elif origin is _Origin.CONTEXT:
                place = self._place_in_context(node)
                copies[node] = graph.call_function(operator.getitem, (context, place))
            else:
                copies[node] = graph.node_copy(node, lambda old: copies[old])
        return copies

    def _origins(
        self, source: fx.Node, targets: Sequence[fx.Node], beyond: Collection[fx.Node] = ()
    ) -> dict[fx.Node, _Origin]:
        """Of each value that a part needs, where the part takes it from."""
        found: dict[fx.Node, _Origin] = {}
        waiting = list(targets)
        while waiting:
            node = waiting.pop()
            if node not in found and node is not source:
                copied = node in beyond
                found[node] = _Origin.COPY if copied else self._origin(node, source)
                if found[node] is _Origin.COPY:
                    waiting.extend(node.all_input_nodes)
        return found

    def _origin(self, node: fx.Node, source: fx.Node) -> _Origin:
        if node in self._captured.tensors:
            return _Origin.ATTRIBUTE
        if node in self._flow.members:
            return _Origin.COPY
        if node not in self._depends_on_input:
            return _Origin.COPY
        if is_tensor(node) or node.op == "placeholder":
            return _Origin.CONTEXT
        if _dimension_of(source, node) is not None:
            return _Origin.SIZE
        read_off = [tensor for tensor in node.all_input_nodes if is_tensor(tensor)]
        here = all(tensor is source or self._is_downstream(tensor, source) for tensor in read_off)
        return _Origin.COPY if here else _Origin.CONTEXT

    def _is_downstream(self, node: fx.Node, source: fx.Node) -> bool:
        return node in self._flow.members and source in ancestors([node], stop=source)

    def stem(self, target: fx.Node) -> Callable[..., tuple[Tensor, Context]]:
        """Cut what lies between the model's arguments and a trunk value, with the context."""
        graph = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        tensors: dict[str, Tensor] = {}
        for number, node in enumerate(self._captured.inputs):
            placeholder = graph.placeholder(f"input{number}")
            if node is not None:
                copies[node] = placeholder
        needed = ancestors([target, *self._context])
        for node in self._captured.graph.nodes:
            if node not in needed or node in copies:
                continue
            if node in self._captured.tensors:
                copies[node] = self._attribute(graph, tensors, node)
            elif node.op == "call_function":
                copies[node] = graph.node_copy(node, lambda old: copies[old])
        graph.output((copies[target], tuple(copies[node] for node in self._context)))
        return _Stem(_module(tensors, graph), self._captured.in_spec)

    def _attribute(self, graph: fx.Graph, tensors: dict[str, Tensor], node: fx.Node) -> fx.Node:
        tensors[node.name] = self._captured.tensors[node]
        return graph.get_attr(node.name)

    def _place_in_context(self, node: fx.Node) -> int:
        if node not in self._context:
            if ancestors([node]) & set(self._flow.trunk[1:]):
                raise DiscoveryError(
                    f"A block needs the value {node.name}, which is read off the middle of the "
                    "trunk; build the chain by hand with Chain.from_parts(stem, blocks, head)."
                )
            self._context.append(node)
        return self._context.index(node)


class _Origin(Enum):
    """Where a part takes a value from."""

    ATTRIBUTE = "the model's own tensors"
    CONTEXT = "the context, computed once per batch"
    SIZE = "the shape of the part's input, so that it follows the batch"
    COPY = "computed in the part"


def _dimension_of(source: fx.Node, node: fx.Node) -> int | None:
    """Which dimension of a value has the symbolic size that a node stands for."""
    wanted = node.meta.get("val")
    if not isinstance(wanted, torch.SymInt):
        return None
    for dimension, size in enumerate(source.meta["val"].shape):
        if isinstance(size, torch.SymInt) and size.node.expr == wanted.node.expr:
            return dimension
    return None


def _module(tensors: dict[str, Tensor], graph: fx.Graph) -> fx.GraphModule:
    graph.lint()
    return fx.GraphModule(cast("dict[str, Any]", tensors), graph)


class _Stem(nn.Module):
    """Flattens the model's arguments as they were when it was captured, and runs the stem."""

    def __init__(self, part: fx.GraphModule, in_spec: pytree.TreeSpec) -> None:
        super().__init__()
        self.part = part
        self._in_spec = in_spec

    def with_part(self, part: fx.GraphModule) -> _Stem:
        """The same stem with another graph, for example a faster one."""
        return _Stem(part, self._in_spec)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Context]:
        expected = self._in_spec.children()[1].context or []
        if set(expected) == set(kwargs):
            kwargs = {name: kwargs[name] for name in expected}
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec != self._in_spec:
            raise DiscoveryError(
                f"The chain was found for arguments of the form {self._in_spec}; it was called "
                f"with {spec}. Unravel the model again with such an example."
            )
        return cast("tuple[Tensor, Context]", self.part(*leaves))


class _Whole(nn.Module):
    """From the last block's output to all that the model returns, in the model's own form."""

    def __init__(self, part: fx.GraphModule, out_spec: pytree.TreeSpec) -> None:
        super().__init__()
        self.part = part
        self._out_spec = out_spec

    def with_part(self, part: fx.GraphModule) -> _Whole:
        """The same with another graph, for example a faster one."""
        return _Whole(part, self._out_spec)

    def forward(self, x: Tensor, context: Context) -> Any:
        return pytree.tree_unflatten(list(self.part(x, context)), self._out_spec)


def _leading_size(node: fx.Node) -> str | None:
    """The first dimension as a formula of the batch size, such as ``s72`` or ``16*s72``."""
    shape = node.meta["val"].shape
    return str(shape[0]) if shape else None
