"""A model and an example become one functional graph whose nodes know their place in the code.

``torch.export`` (non-strict) runs the model's own Python once; a :class:`SiteMode` annotates every
node with its :class:`Site`. In-place operations are renamed to their functional form, dropout in
evaluation is taken out, and the model is left as it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import torch
import torch.fx.config
import torch.fx.traceback
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from ensemble_view.core.sites import Site, SiteMode
from ensemble_view.discovery.evaluation import evaluating
from ensemble_view.discovery.regions import with_regions_inlined
from ensemble_view.errors import DiscoveryError

__all__ = [
    "ALL",
    "Arguments",
    "Capture",
    "Example",
    "as_arguments",
    "capture",
    "is_tensor",
    "site_of",
    "unregistered",
]

Example: TypeAlias = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""What a model is called with: one tensor, positional arguments, or keyword arguments."""

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

_LOGITS = "logits"
ALL = "all"
"""What ``output=`` says to have all outputs of a net, unless one of them is called so."""

_SITE = "ensemble_view.site"
_DROPOUT = {
    getattr(torch.ops.aten, name + written).default
    for name in ("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout")
    for written in ("", "_")
}
_OVERWRITING = {torch.ops.aten.slice_scatter.default, torch.ops.aten.copy.default}


@dataclass(frozen=True, eq=False)
class Capture:
    """A model's functional graph with what is needed to run parts of it.

    Args:
        graph: Placeholders are the model's inputs and its parameters, buffers and constants.
        tensors: The model's own tensor behind each placeholder that is not an input.
        inputs: Placeholders of the model's flattened arguments; None where one is no tensor.
        in_spec: Tree of the arguments, as ``torch.utils._pytree`` writes it.
        output: The node whose value the chain computes.
        pick: Finds that value in what the model returns.
        name: Its key or position, where the model returns several.
        others: Those of the other outputs.
        is_chosen: Whether the caller named it, or it is called ``logits``.
        every: All that the model returns, flat, where the caller asked for all outputs.
        out_spec: Their tree.
    """

    graph: fx.Graph
    tensors: Mapping[fx.Node, Tensor]
    inputs: tuple[fx.Node | None, ...]
    in_spec: pytree.TreeSpec
    output: fx.Node
    pick: Callable[[Any], Tensor]
    name: str = ""
    others: tuple[str, ...] = ()
    is_chosen: bool = True
    every: tuple[Any, ...] = ()
    out_spec: pytree.TreeSpec | None = None


def as_arguments(example: Example) -> Arguments:
    """Bring an example into the form (positional arguments, keyword arguments).

    Args:
        example: A tensor, a tuple of arguments, or a dictionary of keyword arguments.

    Returns:
        The two, ready for ``model(*args, **kwargs)``.

    Raises:
        DiscoveryError: If the example is none of these or holds no tensor.

    Example:
        >>> as_arguments({"scale": torch.ones(2)})
        ((), {'scale': tensor([1., 1.])})
    """
    arguments: Arguments
    if isinstance(example, Tensor):
        arguments = (example,), {}
    elif isinstance(example, tuple | list):
        arguments = tuple(example), {}
    elif isinstance(example, Mapping):
        arguments = (), dict(example)
    else:
        raise DiscoveryError(
            f"The example is a {type(example).__name__}; pass a tensor, a tuple of arguments or a "
            "dictionary of keyword arguments, just as the model is called."
        )
    leaves = pytree.tree_leaves(arguments)
    for leaf in leaves:
        if dataclasses.is_dataclass(leaf):
            raise DiscoveryError(unregistered("The example holds", leaf))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    if not any(tensor.ndim and tensor.shape[0] for tensor in tensors):
        raise DiscoveryError(
            "The example holds no tensor with a batch of at least one; pass what the model is "
            "called with, for example torch.randn(2, 3, 32, 32)."
        )
    return arguments


def unregistered(where: str, value: Any) -> str:
    """Say of a dataclass that torch takes it for one opaque value, and what to do.

    Args:
        where: The beginning of the sentence.
        value: The dataclass.

    Returns:
        The sentence.
    """
    name = type(value).__name__
    return (
        f"{where} a {name}, a dataclass whose tensors torch does not see; register it once, "
        f"torch.export.register_dataclass({name}), or use a tuple or dictionary."
    )


def is_tensor(node: fx.Node) -> bool:
    """Tell whether a node's value is a tensor (and not a number or a tuple).

    Args:
        node: A node of a captured graph.

    Returns:
        True for tensors of any type.
    """
    return isinstance(node.meta.get("val"), Tensor)


def site_of(node: fx.Node) -> Site | None:
    """Look up where in the model's code a node comes from.

    Args:
        node: A node of a captured graph.

    Returns:
        The site, or None for a node that no torch function call made.
    """
    return cast("Site | None", (node.meta.get("custom") or {}).get(_SITE))


def capture(model: nn.Module, arguments: Arguments, output: str | int | None = None) -> Capture:
    """Export a model in evaluation mode into a functional graph with sites.

    Args:
        model: The model; left as it was.
        arguments: What it is called with; of a batch of one the export is given three copies.
        output: Which of several outputs to follow, by key or position; by default, and for
            :data:`ALL`, the one called ``logits``, else the first floating-point tensor.

    Returns:
        The graph and what belongs to it.

    Raises:
        DiscoveryError: If the model cannot be exported, changes its buffers in evaluation mode, or
            has no such output.
    """
    args, kwargs = arguments
    with evaluating(model), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = with_regions_inlined(_export(model, args, kwargs))
        if _mutates_a_view(program.graph):
            program = program.run_decompositions({})
    if program.graph_signature.buffers_to_mutate:
        names = ", ".join(sorted(program.graph_signature.buffers_to_mutate.values())[:3])
        raise DiscoveryError(
            f"The model changes its buffers in evaluation mode ({names}), so two runs of it "
            "differ; freeze them before the analysis."
        )
    graph = program.graph
    _rename_in_place(graph)
    _drop_what_does_nothing(graph)
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    tensors: dict[fx.Node, Tensor] = {}
    inputs: list[fx.Node | None] = []
    for spec in program.graph_signature.input_specs:
        node = placeholders[spec.arg.name]
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(node if is_tensor(node) else None)
        elif spec.kind is InputKind.PARAMETER:
            tensors[node] = model.get_parameter(str(spec.target))
        elif spec.kind is InputKind.BUFFER:
            tensors[node] = model.get_buffer(str(spec.target))
        elif spec.kind is InputKind.CONSTANT_TENSOR:
            tensors[node] = cast("Tensor", program.constants[str(spec.target)])
        else:
            raise DiscoveryError(
                f"The model needs an input of kind {spec.kind.name}, which cannot be cut into a "
                "chain; build it by Chain.from_parts(stem, blocks, head)."
            )
    outputs = cast("tuple[Any, ...]", next(iter(reversed(graph.nodes))).args[0])
    out_spec = cast("pytree.TreeSpec", program.call_spec.out_spec)
    named = _keys(out_spec, outputs)
    all_asked = output == ALL and ALL not in named
    position, keys = _choose_output(named, outputs, None if all_asked else output)
    chosen = keys.pop(position)
    return Capture(
        graph=graph,
        tensors=tensors,
        inputs=tuple(inputs),
        in_spec=cast("pytree.TreeSpec", program.call_spec.in_spec),
        output=outputs[position],
        pick=lambda value: cast("Tensor", pytree.tree_leaves(value)[position]),
        name=chosen if keys else "",
        others=tuple(keys.values()),
        is_chosen=output is not None or chosen.rpartition(".")[2] == _LOGITS,
        every=outputs if all_asked else (),
        out_spec=out_spec if all_asked else None,
    )


def _export(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> ExportedProgram:
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    batch = next(leaf.shape[0] for leaf in leaves if leaf.ndim)

    def is_batched(leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == batch

    def shape_of(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            # The export takes the shapes of a registered class's fields as a list.
            fields, _ = pytree.tree_flatten(value, is_leaf=lambda part: part is not value)
            return [
                pytree.tree_map(shape_of, part, is_leaf=dataclasses.is_dataclass) for part in fields
            ]
        return {0: Dim.AUTO} if is_batched(value) else None

    shapes = pytree.tree_map(shape_of, (args, kwargs), is_leaf=dataclasses.is_dataclass)
    bound = inspect.signature(model.forward).bind(*shapes[0], **shapes[1])
    dynamic = dict(bound.arguments)
    if batch == 1:
        # A dimension of size one is taken for a constant by the export. Three is neither this size
        # nor that of the batch that the chain is proved on besides.
        args, kwargs = pytree.tree_map(
            lambda leaf: torch.cat([leaf] * 3) if is_batched(leaf) else leaf, (args, kwargs)
        )

    reached: Site | None = None

    def annotate(site: Site, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal reached
        reached = site
        with torch.fx.traceback.annotate({_SITE: site}):
            return function(*args, **kwargs)

    try:
        with (
            torch.fx.traceback.preserve_node_meta(),
            # Where the export fails, it prints the graph so far.
            contextlib.redirect_stderr(io.StringIO()),
            _without_stack_traces(),
            SiteMode(model, annotate) as mode,
        ):
            if isinstance(model, fx.GraphModule):
                # The export runs its graph node by node and does not call the module itself.
                mode.join(args, kwargs)
            return torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].removesuffix(".")
        where = "" if reached is None else f" The last operation reached was {reached}."
        if "data-dependent" in str(error):
            raise DiscoveryError(
                f"{type(model).__name__} chooses its way by the values of a tensor (an if, while "
                f"or int() on one), so that no one graph computes it: {reason}.{where} Use "
                "torch.where or torch.cond there, or build the chain by hand with "
                "Chain.from_parts(stem, blocks, head)."
            ) from error
        raise DiscoveryError(
            f"torch.export could not trace {type(model).__name__}: {reason}.{where} Build the "
            "chain by hand with Chain.from_parts(stem, blocks, head)."
        ) from error


@contextlib.contextmanager
def _without_stack_traces() -> Iterator[None]:
    """Let the export write no stack trace on its nodes, which know their sites: it takes long."""
    settings: Any = torch.fx.config
    before = getattr(settings, "do_not_emit_stack_traces", None)
    if before is None:
        # Earlier versions of torch have no such setting.
        yield
        return
    settings.do_not_emit_stack_traces = True
    try:
        yield
    finally:
        settings.do_not_emit_stack_traces = before


def _schema(node: fx.Node) -> torch.FunctionSchema | None:
    return getattr(node.target, "_schema", None)


def _mutated(node: fx.Node) -> fx.Node | None:
    """The argument that a node writes to, if it does."""
    schema = _schema(node)
    if node.op != "call_function" or schema is None or not schema.is_mutable:
        return None
    first = node.args[0] if node.args else None
    return first if isinstance(first, fx.Node) else None


def _is_view(node: fx.Node) -> bool:
    schema = _schema(node)
    if node.op != "call_function" or schema is None or schema.is_mutable:
        return False
    return any(value.alias_info is not None for value in schema.returns)


def _functional(node: fx.Node) -> Any | None:
    """The overload that computes the same without writing, or None."""
    target = cast("torch._ops.OpOverload", node.target)
    namespace, name = target._schema.name.split("::")
    if not name.endswith("_"):
        return None
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    return getattr(packet, target._overloadname, None)


def _mutates_a_view(graph: fx.Graph) -> bool:
    for node in graph.nodes:
        written = _mutated(node)
        if written is None or node.target in _DROPOUT:
            continue
        views = [user for user in written.users if _is_view(user)]
        if _is_view(written) or views or _functional(node) is None:
            return True
    return False


def _rename_in_place(graph: fx.Graph) -> None:
    rank = {node: position for position, node in enumerate(graph.nodes)}
    for node in rank:
        written = _mutated(node)
        if written is None:
            continue
        functional = _functional(node)
        if functional is None:
            raise DiscoveryError(
                f"The operation {node.target} writes into its argument and has no form that does "
                "not; replace it in the model, or build the chain with Chain.from_parts."
            )
        for user in list(written.users):
            if rank[user] > rank[node]:
                user.replace_input_with(written, node)
        node.target = functional


def _drop_what_does_nothing(graph: fx.Graph) -> None:
    """Take out dropout in evaluation, idle conversions, whole slices, added zeros, assertions."""
    for node in list(graph.nodes):
        source = node.args[0] if node.args else None
        if node.target in _OVERWRITING:
            # Writing into all of a value is to replace it.
            source = node.args[1]
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)
        elif isinstance(source, fx.Node) and (
            node.target in _DROPOUT
            or _converts_nothing(node)
            or _takes_all(node)
            or _adds_nothing(node)
        ):
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _converts_nothing(node: fx.Node) -> bool:
    if getattr(node.target, "overloadpacket", None) is not torch.ops.aten.to:
        return False
    before, after = node.args[0].meta["val"], node.meta["val"]  # type: ignore[union-attr]
    return bool(before.dtype == after.dtype and before.device == after.device)


def _takes_all(node: fx.Node) -> bool:
    """Whether a slice, or what is written into a value, is the whole of it."""
    if node.target is torch.ops.aten.slice.Tensor:
        where: list[Any] = list(node.args[1:])
    elif node.target is torch.ops.aten.slice_scatter.default:
        where = list(node.args[2:])
    elif node.target is torch.ops.aten.copy.default:
        written, source = (cast("fx.Node", part).meta["val"] for part in node.args[:2])
        return bool((written.shape, written.dtype) == (source.shape, source.dtype))
    else:
        return False
    usual: list[Any] = [0, None, None, 1]
    where += usual[len(where) :]
    dimension, start, end, step = where
    size = node.args[0].meta["val"].shape[dimension]  # type: ignore[union-attr]
    whole = end in (None, sys.maxsize) or (isinstance(size, int) and end >= size)
    return bool(whole and start in (0, None) and step == 1)


def _adds_nothing(node: fx.Node) -> bool:
    """Whether a node adds the number zero, as Python's ``sum`` does to its first term."""
    return node.target is torch.ops.aten.add.Tensor and bool(node.args[1] == 0)


def _keys(spec: pytree.TreeSpec, outputs: tuple[Any, ...]) -> list[str]:
    """The name of each output."""
    tree = pytree.tree_unflatten(list(range(len(outputs))), spec)
    return [_key(path) for path, _ in pytree.tree_leaves_with_path(tree)]


def _choose_output(
    keys: list[str], outputs: tuple[Any, ...], wanted: str | int | None
) -> tuple[int, dict[int, str]]:
    """The position of the output that is followed, and the names of all that could be."""
    floats = [
        index
        for index, node in enumerate(outputs)
        if isinstance(node, fx.Node) and is_tensor(node) and node.meta["val"].is_floating_point()
    ]
    if wanted is not None:
        chosen = [index for index in floats if keys[index] == str(wanted)]
    else:
        chosen = [index for index in floats if keys[index] == _LOGITS] or floats
    if not chosen:
        found = ", ".join(keys[index] or "one tensor" for index in floats) or "none"
        asked = "" if wanted is None else f" called {wanted!r}"
        raise DiscoveryError(
            f"The model has no floating-point output{asked}; found: {found}. Name one by output=."
        )
    return chosen[0], {index: keys[index] for index in floats}


def _key(path: pytree.KeyPath) -> str:
    """The name of an output: ``"logits"`` for a key or attribute, ``"0"`` for a position."""
    return ".".join(
        str(getattr(entry, "key", getattr(entry, "name", getattr(entry, "idx", entry))))
        for entry in path
    )
