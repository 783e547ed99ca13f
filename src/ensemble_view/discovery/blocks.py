"""Where the blocks are: residual sums on the trunk, or conv-norm-activation units of a plain net.

A block is a same-shape sum on the trunk whose summands share a nearest common dominator D on the
trunk. Its shortcut is the summand that reaches D by identity, else by linear operations only while
another summand passes a nonlinearity. Everything is told by structure and by the place in the code,
never by a name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import fx

from ensemble_view.core.chain import Addition, ShortcutKind
from ensemble_view.core.sites import ModuleCall, Site
from ensemble_view.discovery.capture import is_tensor, site_of
from ensemble_view.discovery.dataflow import Flow, between

__all__ = [
    "Span",
    "common_stack",
    "find_residual_blocks",
    "find_units",
    "is_meeting",
    "residual_sums_beside",
    "shape_of",
    "stack_of",
]

aten = torch.ops.aten

_ADD = {"add"}
_SAME = {"alias", "clone", "contiguous", "detach", "_to_copy", "to", "expand_as"}
_WEIGHTED = {
    "conv1d", "conv2d", "conv3d", "conv_transpose2d", "convolution", "linear", "addmm", "mm",
    "matmul", "bmm",
}  # fmt: skip
_CONVOLUTION = {"conv1d", "conv2d", "conv3d", "convolution"}
_NORM = {
    "batch_norm", "group_norm", "layer_norm", "instance_norm", "native_batch_norm",
    "_native_batch_norm_legit_no_training", "native_layer_norm", "native_group_norm", "rms_norm",
}  # fmt: skip
_POOL = {
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool2d", "max_pool2d", "mean", "amax",
    "upsample_nearest2d", "upsample_bilinear2d",
}  # fmt: skip
# To select one entry of a dimension (a class token) leaves no way round for the others.
_PAD = {"pad", "constant_pad_nd", "slice", "cat"}
_RESHAPE = {"view", "reshape", "flatten", "permute", "transpose", "squeeze", "unsqueeze", "getitem"}
_SCALE = {"mul", "div", "neg"}
_SCALING = _SAME | {"mul", "div"}
_LINEAR = _SAME | _WEIGHTED | _NORM | _POOL | _PAD | _RESHAPE | _SCALE | _ADD | {"sub"}
_ACTIVATION = {
    "relu", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish",
    "hardtanh", "hardsigmoid", "relu6", "sigmoid", "tanh", "softplus", "clamp", "clamp_min",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Span:
    """Where one block lies in the graph.

    Args:
        name: Module path.
        entry: The block's input.
        shared: Value of ``before``, which shortcut and branch read (D).
        shortcut: The shortcut's value; None for a plain unit.
        branches: The other summands.
        total: The sum (for a plain unit, its branch's value).
        exit: The block's output.
        shortcut_kind: How the shortcut reaches ``shared``.
        holders: Additions that make up the sum and hold the shortcut, each with the position of
            the operand that holds it.
    """

    name: str
    entry: fx.Node
    shared: fx.Node
    shortcut: fx.Node | None
    branches: tuple[fx.Node, ...]
    total: fx.Node
    exit: fx.Node
    shortcut_kind: ShortcutKind
    holders: tuple[tuple[fx.Node, int], ...] = ()


@dataclass(frozen=True, eq=False)
class _Sum:
    """A residual sum before it is known what lies between it and its neighbours."""

    shared: fx.Node
    shortcut: fx.Node
    branches: tuple[fx.Node, ...]
    total: fx.Node
    kind: ShortcutKind
    holders: tuple[tuple[fx.Node, int], ...]


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's value without its batch dimension.

    Args:
        node: A tensor-valued node.

    Returns:
        Sizes from the second dimension on.
    """
    return tuple(int(size) for size in node.meta["val"].shape[1:])


def find_residual_blocks(flow: Flow) -> tuple[list[Span], list[Addition]]:
    """Find all residual blocks on a trunk.

    Args:
        flow: From the start to the output.

    Returns:
        The blocks in order, and of each addition why it is or is not one.
    """
    trunk = set(flow.trunk)
    inner = {part for node in flow.trunk if _is_sum(node) for part in _nested(node)}
    sums: list[_Sum] = []
    verdicts: list[tuple[fx.Node, int | None, str]] = []
    for node in flow.trunk[-1].graph.nodes:
        if not _is_addition(node):
            continue
        if node not in flow.members:
            verdicts.append((node, None, "does not depend on the trunk"))
        elif not _is_sum(node):
            verdicts.append((node, None, "adds values of different shapes, or scaled: no residual"))
        elif node in inner:
            verdicts.append((node, None, "part of a sum of several summands"))
        elif node not in trunk:
            verdicts.append(
                (node, None, "not on the trunk: paths from input to output go around it")
            )
        else:
            found = _classify(flow, node)
            if isinstance(found, str):
                verdicts.append((node, None, found))
            else:
                reason = f"block: {found.kind} shortcut, {len(found.branches)} branch(es)"
                verdicts.append((node, len(sums), reason))
                sums.append(found)
    spans = _spans(flow, sums)
    others = _residual_sums_elsewhere(flow, spans, inner)
    additions = [
        Addition(
            place=str(site_of(node) or node.name),
            shape=shape_of(node),
            block=block,
            reason=reason + (_elsewhere(*others[node]) if spans and node in others else ""),
            residual=block is not None or node in others,
            within=others[node][1] if node in others else None,
        )
        for node, block, reason in verdicts
    ]
    return spans, additions


def _operation(node: fx.Node) -> str:
    """The name of a node's operation without namespace and overload."""
    packet = getattr(node.target, "overloadpacket", None)
    return str(packet or getattr(node.target, "__name__", "")).rpartition(".")[2]


def _is_addition(node: fx.Node) -> bool:
    """Whether a node adds two tensors to a floating-point one."""
    if node.op != "call_function" or _operation(node) not in _ADD or not is_tensor(node):
        return False
    tensors = all(isinstance(term, fx.Node) and is_tensor(term) for term in node.args[:2])
    return tensors and node.meta["val"].is_floating_point()


def _is_sum(node: fx.Node) -> bool:
    """Whether a node adds two tensors of one shape, unscaled."""
    if not _is_addition(node):
        return False
    first, second = cast("tuple[fx.Node, ...]", node.args[:2])
    scaled = node.kwargs.get("alpha", 1) != 1
    return first.meta["val"].shape == second.meta["val"].shape and not scaled


def _nested(node: fx.Node) -> list[fx.Node]:
    """Additions inside a sum of several summands: used by nothing else."""
    found: list[fx.Node] = []
    for operand in cast("tuple[fx.Node, ...]", node.args[:2]):
        if _is_sum(operand) and len(operand.users) == 1:
            found += [operand, *_nested(operand)]
    return found


def _classify(flow: Flow, total: fx.Node) -> _Sum | str:
    """Tell shortcut from branches, or say why the sum is no block."""
    parts = {total, *_nested(total)}
    summands = [
        operand
        for part in total.graph.nodes
        if part in parts
        for operand in cast("tuple[fx.Node, ...]", part.args[:2])
        if operand not in parts
    ]
    data = [summand for summand in summands if summand in flow.members]
    if len(data) < 2:
        return "adds something that does not depend on the trunk (an embedding or a bias)"
    shared = flow.dominator[total]
    regions = {summand: between(flow, shared, summand) for summand in data}
    same = [s for s in data if all(_operation(n) in _SAME for n in regions[s])]
    linear = [s for s in data if all(_is_linear(n, flow) for n in regions[s])]
    scaled = [s for s in linear if all(_operation(n) in _SCALING for n in regions[s])]
    if len(same) == len(data):
        return "adds a value to itself"
    if same:
        shortcut = same[0]
        kind: ShortcutKind = "identity"
    elif len(scaled) == 1:
        # A factor is no map of its own, so this holds also where the branch happens to be linear.
        shortcut = scaled[0]
        kind = "scaling"
    elif linear and len(linear) < len(data):
        shortcut = min(linear, key=lambda summand: len(regions[summand]))
        kind = _kind(regions[shortcut])
    elif linear:
        return "a merge: every summand is linear in what they share, and none is the identity"
    else:
        return "a merge: every summand passes a nonlinearity"
    holders: list[tuple[fx.Node, int]] = []
    held = shortcut
    while held is not total:
        part = next(user for user in held.users if user in parts)
        holders.append((part, part.args.index(held)))
        held = part
    branches = tuple(summand for summand in summands if summand is not shortcut)
    return _Sum(shared, shortcut, branches, total, kind, tuple(holders))


def is_meeting(node: fx.Node) -> bool:
    """Whether a value is made of others by addition or side by side.

    Args:
        node: A value.

    Returns:
        True for sums, concatenations and stacks.
    """
    return _operation(node) in _ADD | {"cat", "stack"}


def _residual_sums_elsewhere(
    flow: Flow, spans: Sequence[Span], inner: Collection[fx.Node]
) -> dict[fx.Node, tuple[ShortcutKind, int | None]]:
    """Find the residual sums that no block holds.

    A sum counts only where a branch has weights or a matrix product (an activation may be written
    ``x + 0.04 x^3``), and with another shortcut than the identity only where a branch passes a
    nonlinearity as well: a rotation of features adds two linear maps, and is no residual.

    Args:
        flow: The data flow.
        spans: Its blocks.
        inner: Parts of sums of several summands.

    Returns:
        The kind of shortcut of each, and the block in whose branch it lies, if it lies in one.
    """
    regions = [set(between(flow, span.shared, span.total)) - {span.total} for span in spans]
    totals = {span.total for span in spans}
    parts = {part for node in flow.members if _is_sum(node) for part in _nested(node)} | set(inner)
    found: dict[fx.Node, tuple[ShortcutKind, int | None]] = {}
    for node in flow.trunk[-1].graph.nodes:
        if node not in flow.members or node in totals or node in parts or not _is_sum(node):
            continue
        one = _classify(flow, node)
        if isinstance(one, str) or not _is_residual(flow, one):
            continue
        within = next((index for index, region in enumerate(regions) if node in region), None)
        found[node] = one.kind, within
    return found


def _is_residual(flow: Flow, found: _Sum) -> bool:
    regions = [
        between(flow, found.shared, branch) for branch in found.branches if branch in flow.members
    ]
    weighted = any(_operation(node) in _WEIGHTED for region in regions for node in region)
    curved = any(not all(_is_linear(node, flow) for node in region) for region in regions)
    return weighted and (curved or found.kind == "identity")


def _elsewhere(kind: ShortcutKind, within: int | None) -> str:
    shortcut = "the identity" if kind == "identity" else f"a {kind} shortcut"
    where = "in stem, a link or head" if within is None else "inside a branch"
    return f"; adds a branch to {shortcut} {where}"


def residual_sums_beside(flow: Flow, spans: Sequence[Span]) -> list[fx.Node]:
    """List the sums with an identity shortcut that are neither on the trunk nor inside a block.

    Args:
        flow: The data flow.
        spans: Its blocks.

    Returns:
        The sums in order.
    """
    elsewhere = set(flow.trunk)
    for span in spans:
        elsewhere.update(between(flow, span.shared, span.total))
    found: list[fx.Node] = []
    for node in flow.trunk[-1].graph.nodes:
        if node in flow.members and node not in elsewhere and _is_sum(node):
            classified = _classify(flow, node)
            if isinstance(classified, _Sum) and classified.kind == "identity":
                found.append(node)
    return found


def _is_linear(node: fx.Node, flow: Flow) -> bool:
    operation = _operation(node)
    if operation in _SCALE | _WEIGHTED and operation != "neg":
        # A product of two values of the trunk is no linear map of it.
        return sum(source in flow.members for source in node.all_input_nodes) == 1
    return operation in _LINEAR


def _kind(region: Sequence[fx.Node]) -> ShortcutKind:
    operations = {_operation(node) for node in region}
    if operations & (_WEIGHTED | _NORM):
        return "projection"
    return "zero-pad" if operations & _PAD else "pooling"


def stack_of(node: fx.Node) -> tuple[ModuleCall, ...]:
    """The module calls around the code that makes a node's value, the model itself first."""
    site = site_of(node)
    return site.stack if isinstance(site, Site) else (("", 0),)


def common_stack(stacks: Sequence[tuple[ModuleCall, ...]]) -> tuple[ModuleCall, ...]:
    """The module calls that several stacks begin with."""
    if not stacks:
        return ()
    shortest = min(stacks, key=len)
    for depth, call in enumerate(shortest):
        if any(stack[depth] != call for stack in stacks):
            return shortest[:depth]
    return shortest


def _names(flow: Flow, sums: Sequence[_Sum]) -> list[str]:
    """The module whose code makes the sum; if it makes several, the module of the branch."""
    owners = Counter(stack_of(block.total)[-1] for block in sums)
    names: list[str] = []
    for block in sums:
        path, call = owner = stack_of(block.total)[-1]
        if not path or owners[owner] > 1:
            region = [node for b in block.branches for node in between(flow, block.shared, b)]
            inside = common_stack([stack_of(node) for node in region]) or ((path, call),)
            path, call = inside[-1] if inside[-1][0].startswith(path) else (path, call)
        names.append((path or "block") + (f"@{call}" if call else ""))
    repeated = {name for name, count in Counter(names).items() if count > 1}
    seen: Counter[str] = Counter()
    for position, name in enumerate(names):
        if name in repeated:
            names[position] = f"{name}#{seen[name]}"
            seen[name] += 1
    return names


def _spans(flow: Flow, sums: Sequence[_Sum]) -> list[Span]:
    """Give each value between two sums to the first (after), the second (before) or a link."""
    rank = {node: position for position, node in enumerate(flow.trunk)}
    owners = [stack_of(block.total) for block in sums]
    # A module that makes all the sums is like the model itself: its code tells nothing of one sum.
    depth = len(common_stack(owners)) if len(sums) > 1 else 1
    entries = [block.shared for block in sums]
    exits = [block.total for block in sums]
    for position in range(len(sums) + 1):
        low = rank[sums[position - 1].total] if position else 0
        high = rank[sums[position].shared] if position < len(sums) else len(flow.trunk) - 1
        gap = flow.trunk[low + 1 : high + 1]
        after = owners[position - 1] if position else None
        before = owners[position] if position < len(sums) else None
        taken = 0
        while taken < len(gap) and after and _belongs_after(gap[taken], after, before, depth):
            taken += 1
        if after and taken:
            exits[position - 1] = gap[taken - 1]
        left = len(gap)
        while left > taken and before and _belongs_before(gap[left - 1], before, after, depth):
            left -= 1
        if before:
            entries[position] = flow.trunk[low + left]
    return [
        Span(
            name=name,
            entry=entry,
            shared=block.shared,
            shortcut=block.shortcut,
            branches=block.branches,
            total=block.total,
            exit=exit_,
            shortcut_kind=block.kind,
            holders=block.holders,
        )
        for name, entry, block, exit_ in zip(_names(flow, sums), entries, sums, exits, strict=True)
    ]


def _is_inside(node: fx.Node, owner: tuple[ModuleCall, ...]) -> bool:
    return stack_of(node)[: len(owner)] == owner


def _belongs_after(
    node: fx.Node,
    owner: tuple[ModuleCall, ...],
    following: tuple[ModuleCall, ...] | None,
    depth: int,
) -> bool:
    if not _is_inside(node, owner):
        return False
    shared_owner = len(owner) <= depth or (following is not None and _is_inside(node, following))
    # Code that both blocks lie in does not tell whose it is: what follows an addition as an
    # activation or a normalisation is then the first one's.
    return not shared_owner or _operation(node) in _ACTIVATION | _NORM


def _belongs_before(
    node: fx.Node,
    owner: tuple[ModuleCall, ...],
    preceding: tuple[ModuleCall, ...] | None,
    depth: int,
) -> bool:
    if len(owner) <= depth or not _is_inside(node, owner):
        return False
    return preceding is None or not _is_inside(node, preceding)


def find_units(flow: Flow) -> list[Span]:
    """Find the conv-norm-activation units of a plain net on its trunk.

    Args:
        flow: From the start to the output.

    Returns:
        The units in order: a convolution with the normalisations and activations that follow it.
    """
    spans: list[Span] = []
    trunk = flow.trunk
    for position, node in enumerate(trunk[1:], start=1):
        if _operation(node) not in _CONVOLUTION or node.args[0] is not trunk[position - 1]:
            continue
        last = position
        while last + 1 < len(trunk) and _operation(trunk[last + 1]) in _NORM | _ACTIVATION:
            last += 1
        path, call = stack_of(node)[-1]
        spans.append(
            Span(
                name=(path or f"unit{len(spans)}") + (f"@{call}" if call else ""),
                entry=trunk[position - 1],
                shared=trunk[position - 1],
                shortcut=None,
                branches=(trunk[last],),
                total=trunk[last],
                exit=trunk[last],
                shortcut_kind="none",
            )
        )
    return spans
