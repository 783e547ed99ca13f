"""Make a chain fast without changing what it computes: the engine's working copy.

Each block becomes one function for the kept and one for the deleted block. In their graphs,
BatchNorm in evaluation mode is folded into the convolution before it (w' = w γ/√(σ²+ε), b' = β +
(b - μ) γ/√(σ²+ε); computed in float64), what depends on weights alone is computed once, a linear
layer runs before a transposition that leaves the last dimension alone (its product is then one of
two matrices), elementwise operations overwrite intermediate values that nothing else reads, and
convolution weights lie channels-last. (One operation for an addition and the ReLU after it would
save next to nothing, and torch's makes 0 of NaN.) The model's own tensors are never written to.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from ensemble_view.core.chain import Block, Chain
from ensemble_view.core.parts import Constant, Context, Drawn, InTurn, Part, Sum, expand, identity
from ensemble_view.shared_state import EXPORT

__all__ = ["FusedBlock", "FusedChain", "fuse", "fuse_part"]

aten = torch.ops.aten

_CONVOLUTIONS = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default}
_TRANSPOSITIONS = {aten.transpose.int, aten.permute.default}
_IN_PLACE: dict[Any, Any] = {
    aten.relu.default: aten.relu_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.gelu.default: aten.gelu_.default,
    aten.tanh.default: aten.tanh_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.add.Tensor: aten.add_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
}
_COMMUTATIVE = {aten.add.Tensor, aten.mul.Tensor}
# Operations whose result is a tensor of its own, so that it may be overwritten once it is read.
_FRESH = {
    *_CONVOLUTIONS,
    *_IN_PLACE,
    *_IN_PLACE.values(),
    aten.batch_norm.default,
    aten.layer_norm.default,
    aten.linear.default,
    aten.addmm.default,
    aten.pow.Tensor_Scalar,
}


@dataclass(frozen=True, eq=False)
class FusedBlock:
    """A block as the engine runs it.

    Args:
        kept: The whole block.
        deleted: What is left without the branch.
    """

    kept: Part
    deleted: Part


@dataclass(frozen=True, eq=False)
class FusedChain:
    """A chain as the engine runs it; a snapshot of the model's weights.

    Args:
        stem: From the model's arguments to the trunk and the context.
        blocks: By index.
        links: By position.
        head: To the model's output.
        channels_last: Whether images should come in that layout.
        whole: To all outputs of the model, where they were asked for.
    """

    stem: Callable[..., tuple[Tensor, Context]]
    blocks: tuple[FusedBlock, ...]
    links: Mapping[int, Part]
    head: Part
    channels_last: bool
    whole: Callable[[Tensor, Context], Any] | None = None

    def layout(self, value: Any) -> Any:
        """Bring a batch of images into the layout that the convolutions are fastest with.

        Args:
            value: An argument of the model.

        Returns:
            The same values; anything but a batch of images is returned as it is.
        """
        if self.channels_last and isinstance(value, Tensor) and value.ndim == 4:
            return value.contiguous(memory_format=torch.channels_last)
        return value


def fuse(chain: Chain) -> FusedChain:
    """Build the engine's working copy of a chain.

    Args:
        chain: Any chain; parts that are no graph modules are run as they are.

    Returns:
        The fused chain, equal to the chain up to rounding.

    Example:
        >>> import torch, torchvision
        >>> from ensemble_view import unravel
        >>> images = torch.randn(2, 3, 64, 64)
        >>> chain = unravel(torchvision.models.resnet18().eval(), images)
        >>> fused = fuse(chain)
        >>> x, context = chain.stem(images)
        >>> bool(torch.allclose(fused.blocks[0].kept(x, context), chain.blocks[0](x), atol=1e-5))
        True
    """
    stem = chain.stem
    part = getattr(stem, "part", None)
    if isinstance(part, fx.GraphModule):
        stem = cast("Any", stem).with_part(_optimised(part))
    whole = chain.whole
    ending = getattr(whole, "part", None)
    if isinstance(ending, fx.GraphModule):
        whole = cast("Any", whole).with_part(_optimised(ending))
    parts = [stem, chain.head, *chain.links.values()]
    parts += [part for block in chain.blocks for part in block.parts]
    return FusedChain(
        stem=stem,
        blocks=tuple(_fuse_block(block) for block in chain.blocks),
        links={position: fuse_part(link) for position, link in chain.links.items()},
        head=fuse_part(chain.head),
        channels_last=any(
            node.target is aten.conv2d.default
            for piece in parts
            for node in getattr(getattr(piece, "part", piece), "graph", fx.Graph()).nodes
        ),
        whole=whole,
    )


def _fuse_block(block: Block) -> FusedBlock:
    if block.units:
        units = [_fuse_block(unit) for unit in block.units]
        return FusedBlock(
            InTurn(tuple(unit.kept for unit in units)),
            InTurn(tuple(unit.deleted for unit in units)),
        )
    # A block that is no graph runs as it is written, and a plain unit is deleted by letting x pass.
    kept = fuse_part(block.whole) if _is_graph(block.whole) else block.__call__
    deletable = block.is_residual and _is_graph(block.way)
    return FusedBlock(kept, fuse_part(block.way) if deletable else block.deleted)


def _is_graph(part: Part) -> bool:
    if isinstance(part, InTurn):
        return all(map(_is_graph, part.parts))
    if isinstance(part, Sum):
        return all(_is_graph(term) for _, term in part.terms)
    if isinstance(part, Drawn):
        return _is_graph(part.part)
    return part is identity or isinstance(part, fx.GraphModule | Constant)


def fuse_part(part: Part) -> Part:
    """Make one graph of a part and of those that it is made of.

    Args:
        part: Any part; where it holds one that is no graph module, it is run as it is.

    Returns:
        The fused part, equal to the part up to rounding.
    """
    if not _is_graph(part):
        return part
    graph = fx.Graph()
    x, context = graph.placeholder("x"), graph.placeholder("context")
    tensors: dict[str, Any] = {}
    output = _Inliner(graph, context, tensors).inline(part, x)
    if output is x:
        return identity
    graph.output(output)
    return cast("Part", _optimised(fx.GraphModule(tensors, graph)))


class _Inliner:
    """Copies parts into one graph."""

    def __init__(self, graph: fx.Graph, context: fx.Node, tensors: dict[str, Any]) -> None:
        self._graph = graph
        self._context = context
        self._tensors = tensors

    def inline(self, part: Part, value: fx.Node) -> fx.Node:
        """Copy a part behind a value, and give the node that holds the result."""
        if isinstance(part, InTurn):
            return functools.reduce(lambda node, then: self.inline(then, node), part.parts, value)
        if isinstance(part, Sum):
            terms = [self._scaled(self.inline(term, value), factor) for factor, term in part.terms]
            return functools.reduce(self._added, terms)
        if isinstance(part, Constant):
            return self._call(expand, value, self._tensor(part.value), like=None)
        if isinstance(part, Drawn):
            source = self.inline(part.part, value)
            return self._call(part.draw, source, part.seed, like=source)
        return self._copied(part, value) if isinstance(part, fx.GraphModule) else value

    def _scaled(self, node: fx.Node, factor: float) -> fx.Node:
        return node if factor == 1 else self._call(aten.mul.Tensor, node, factor, like=node)

    def _added(self, one: fx.Node, other: fx.Node) -> fx.Node:
        like = one if "val" in one.meta else other
        return self._call(aten.add.Tensor, one, other, like=like)

    def _call(self, target: Any, *args: Any, like: fx.Node | None) -> fx.Node:
        node = self._graph.call_function(target, args)
        node.meta = dict(like.meta) if like is not None else {}
        return node

    def _tensor(self, value: Any) -> fx.Node:
        name = f"tensor{len(self._tensors)}"
        self._tensors[name] = value
        return self._graph.get_attr(name)

    def _copied(self, part: fx.GraphModule, value: fx.Node) -> fx.Node:
        copies: dict[Any, fx.Node] = dict(
            zip(part.graph.find_nodes(op="placeholder"), (value, self._context), strict=True)
        )
        for node in part.graph.nodes:
            if node.op == "output":
                return copies[node.args[0]]
            if node.op == "get_attr":
                copies[node] = self._tensor(getattr(part, str(node.target)))
            elif node.op != "placeholder":
                copies[node] = self._graph.node_copy(node, lambda old: copies[old])
        raise AssertionError("a graph without output")


def _optimised(part: fx.GraphModule) -> fx.GraphModule:
    """A copy of a part with normalisation folded and intermediate values overwritten."""
    tensors: dict[str, Any] = {}
    graph = fx.Graph()
    graph.output(graph.graph_copy(part.graph, {}))
    for node in graph.find_nodes(op="get_attr"):
        tensors[str(node.target)] = getattr(part, str(node.target)).detach().clone()
    _compute_constants(graph, tensors)
    for node in list(graph.nodes):
        if node.target is aten.view.default:
            # Values lie otherwise here than they do in the model: not every view is possible.
            node.target = aten.reshape.default
        elif node.target is aten.batch_norm.default:
            _fold_batch_norm(graph, node, tensors)
        elif node.target is aten.linear.default:
            _transpose_afterwards(graph, node)
    graph.eliminate_dead_code()
    for node in graph.nodes:
        if node.target in _CONVOLUTIONS:
            name = str(cast("fx.Node", node.args[1]).target)
            # A weight that is computed from the input has no layout to be kept in.
            if name in tensors and tensors[name].ndim == 4:
                tensors[name] = tensors[name].contiguous(memory_format=torch.channels_last)
        elif node.target in _IN_PLACE:
            _overwrite(node)
    return fx.GraphModule(tensors, graph)


def _compute_constants(graph: fx.Graph, tensors: dict[str, Any]) -> None:
    """Compute once what depends on the weights alone: parametrised, pruned or converted weights."""
    for node in list(graph.nodes):
        sources = node.all_input_nodes
        if node.op != "call_function" or not sources:
            continue
        if any(source.op != "get_attr" for source in sources):
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: tensors[str(n.target)])
        with torch.no_grad():
            value = node.target(*args, **kwargs)
        if not isinstance(value, Tensor):
            continue
        name = f"constant{len(tensors)}"
        tensors[name] = value
        with graph.inserting_before(node):
            constant = graph.get_attr(name)
        constant.meta = node.meta
        node.replace_all_uses_with(constant)
        graph.erase_node(node)


def _fold_batch_norm(graph: fx.Graph, norm: fx.Node, tensors: dict[str, Any]) -> None:
    convolution, gamma, beta, mean, variance, training, _, epsilon, *_ = norm.args
    if not isinstance(convolution, fx.Node) or convolution.target not in _CONVOLUTIONS:
        return
    image, weight, *rest = convolution.args
    bias = rest[0] if rest else None
    values = (weight, bias, gamma, beta, mean, variance)
    known = all(value is None or getattr(value, "op", "") == "get_attr" for value in values)
    if training or not known or len(convolution.users) > 1 or mean is None:
        return

    def tensor(value: Any, default: float) -> Tensor:
        if value is None:
            return torch.full_like(tensors[str(cast("fx.Node", mean).target)].double(), default)
        return cast("Tensor", tensors[str(value.target)]).double()

    kernel = cast("Tensor", tensors[str(cast("fx.Node", weight).target)])
    scale = tensor(gamma, 1.0) / torch.sqrt(tensor(variance, 1.0) + cast("float", epsilon))
    folded_bias = tensor(beta, 0.0) + (tensor(bias, 0.0) - tensor(mean, 0.0)) * scale
    folded = kernel.double() * scale.reshape(-1, *[1] * (kernel.ndim - 1))
    names = (f"folded{len(tensors)}", f"folded{len(tensors) + 1}")
    tensors[names[0]], tensors[names[1]] = folded.to(kernel), folded_bias.to(kernel)
    with graph.inserting_before(convolution):
        new_weight, new_bias = (graph.get_attr(name) for name in names)
    convolution.args = (image, new_weight, new_bias, *rest[1:])
    norm.replace_all_uses_with(convolution)
    graph.erase_node(norm)


def _transpose_afterwards(graph: fx.Graph, linear: fx.Node) -> None:
    """Apply a linear layer to the rows as they lie in memory, and transpose its output instead."""
    transposed, *weights = linear.args
    if not isinstance(transposed, fx.Node) or transposed.target not in _TRANSPOSITIONS:
        return
    source, *dimensions = transposed.args
    ndim = transposed.meta["val"].ndim
    if transposed.target is aten.permute.default:
        order = [cast("int", d) % ndim for d in cast("list[Any]", dimensions[0])]
    else:
        first, second = (cast("int", d) % ndim for d in dimensions)
        order = list(range(ndim))
        order[first], order[second] = second, first
    if order[-1] != ndim - 1:
        return
    with graph.inserting_before(linear):
        before = graph.call_function(aten.linear.default, (source, *weights))
        after = graph.call_function(aten.permute.default, (before, order))
    after.meta = dict(linear.meta)
    linear.replace_all_uses_with(after)
    graph.erase_node(linear)


def _overwrite(node: fx.Node) -> None:
    """Let an elementwise operation write over an operand that nothing else reads."""
    operands = node.args[:2] if node.target in _COMMUTATIVE else node.args[:1]
    # A second operand that is scaled (alpha) cannot change places with the first.
    for position, operand in enumerate(operands if not node.kwargs else operands[:1]):
        if not isinstance(operand, fx.Node) or not _is_fresh(operand):
            continue
        other = operands[1 - position] if len(operands) == 2 else None
        if other is operand or not _has_room(operand, node):
            continue
        if other is not None:
            node.args = (operand, other, *node.args[2:])
        node.target = _IN_PLACE[node.target]
        return


def _is_fresh(node: fx.Node) -> bool:
    """Whether a value's memory is read by its one user and by nothing else."""
    if len(node.users) > 1:
        return False
    if node.target is aten.reshape.default:
        return _is_fresh(cast("fx.Node", node.args[0]))
    return node.target in _FRESH


def _has_room(operand: fx.Node, node: fx.Node) -> bool:
    """Whether a node's value fits into an operand's memory: a broadcast sum may be larger."""
    there, here = operand.meta.get("val"), node.meta.get("val")
    # While a thread exports, torch records what any thread asks of symbolic shapes.
    with EXPORT:
        return (
            isinstance(there, Tensor)
            and isinstance(here, Tensor)
            and (there.shape, there.dtype) == (here.shape, here.dtype)
        )
