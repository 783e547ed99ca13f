"""Residuals that are not written ``+`` become additions, so that blocks are found in them.

Only operations on the trunk are rewritten, and those that a sum on the trunk is made of:

    x - f, rsub(f, x)         x + (-f)
    add(x, f, alpha=s)        x + s f                (sub and rsub likewise)
    addcmul(x, a, b, value=v) x + v (a b)            (addcdiv: a / b)
    addmm(x, a, b, ...)       βx + α (a b)           (baddbmm; where x has the full shape, no bias)
    lerp(x, h, t)             x + t (h - x)
    t h + (1 - t) x           x + t (h - x)

The last two are gated shortcuts (highway; Srivastava, Greff and Schmidhuber 2015): deleting such a
block closes the transfer gate, and its input passes unscaled. The input is the operand that reaches
what both operands share by identity; where neither does, nothing is rewritten but ``lerp``, whose
first operand is the input.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import fx

from ensemble_view.discovery.capture import is_tensor
from ensemble_view.discovery.dataflow import Flow

__all__ = ["write_as_additions"]

aten = torch.ops.aten

_SAME = {aten.alias, aten.clone, aten.contiguous, aten.detach, aten._to_copy, aten.to}
_SUMS = {aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor}
_COMPOUND = {
    aten.addcmul.default: aten.mul.Tensor,
    aten.addcdiv.default: aten.div.Tensor,
    aten.addmm.default: aten.mm.default,
    aten.baddbmm.default: aten.bmm.default,
}
# What a value minus its own average is made of: that normalises, and is no residual.
_AVERAGING = {
    aten.mean, aten.sum, aten.amax, aten.expand, aten.expand_as, aten.unsqueeze, aten.view,
    aten.reshape, aten.div, aten.avg_pool1d, aten.avg_pool2d, aten.adaptive_avg_pool2d,
    aten.upsample_nearest2d, *_SAME,
}  # fmt: skip
_LERPS = {aten.lerp.Scalar, aten.lerp.Tensor}
_FORMS = {*_SUMS, *_COMPOUND, *_LERPS}


def write_as_additions(flow: Flow) -> bool:
    """Rewrite the residual forms on a trunk, in place.

    Args:
        flow: From a start to the output; find it anew if anything was rewritten.

    Returns:
        Whether anything was.
    """
    changed = False
    for node in flow.trunk:
        changed |= _rewrite_sum(node, node, flow)
    return changed


def _rewrite_sum(node: fx.Node, total: fx.Node, flow: Flow) -> bool:
    """Rewrite a sum, and those of its summands that the shortcut goes through."""
    if node.target not in _FORMS or not _is_float(node):
        return False
    changed = _rewrite(node, flow)
    for part in node.all_input_nodes[:2]:
        if _holds_shared(part, total, flow):
            changed |= _rewrite_sum(part, total, flow)
    return changed


def _holds_shared(node: fx.Node, total: fx.Node, flow: Flow) -> bool:
    if node.target not in _FORMS or len(node.users) > 1:
        return False
    return any(
        _is_shared(part, total, flow) or _holds_shared(part, total, flow)
        for part in node.all_input_nodes[:2]
    )


def _is_float(node: fx.Node) -> bool:
    return is_tensor(node) and bool(node.meta["val"].is_floating_point())


def _rewrite(node: fx.Node, flow: Flow) -> bool:
    """Turn one node into an addition, if it is of one of the forms."""
    terms = _terms(node, flow)
    if terms is None:
        return False
    # The node itself stays: others know it as the output, or as the last one of its place.
    node.target, node.args, node.kwargs = aten.add.Tensor, terms, {}
    return True


def _terms(node: fx.Node, flow: Flow) -> tuple[fx.Node, fx.Node] | None:
    """The two summands that a node's value is the sum of, or None for another operation."""
    target, args, kwargs = node.target, node.args, node.kwargs
    alpha = cast("float", kwargs.get("alpha", 1))
    if target in _SUMS and _are_like(node, args[:2]):
        first, second = cast("tuple[fx.Node, ...]", args[:2])
        if target is aten.add.Tensor and alpha == 1:
            return _highway(node, first, second, flow)
        if target is aten.rsub.Tensor:
            first, second = second, first
        if target is not aten.add.Tensor and _is_average(second, first):
            return None
        return first, _scaled(node, second, alpha if target is aten.add.Tensor else -alpha)
    if target in _COMPOUND and _are_like(node, args[:1]):
        x, first, second = cast("tuple[fx.Node, ...]", args[:3])
        change = _insert(node, _COMPOUND[target], first, second)
        factor = cast("float", kwargs.get("value", alpha))
        return _scaled(node, x, cast("float", kwargs.get("beta", 1))), _scaled(node, change, factor)
    if target in _LERPS and _are_like(node, args[:2]):
        x, h = cast("tuple[fx.Node, ...]", args[:2])
        gate = cast("fx.Node | float", args[2])
        if not _is_shared(h, node, flow) or _is_shared(x, node, flow):
            return x, _gated(node, gate, h, x)
        open_ = _insert(node, aten.rsub.Scalar, gate, 1) if isinstance(gate, fx.Node) else 1 - gate
        return h, _gated(node, open_, x, h)
    return None


def _highway(
    node: fx.Node, first: fx.Node, second: fx.Node, flow: Flow
) -> tuple[fx.Node, fx.Node] | None:
    """The terms of t h + (1 - t) x, told by the gates: one is one minus the other."""
    if first.target is not aten.mul.Tensor or second.target is not aten.mul.Tensor:
        return None
    for here, there in ((first, second), (second, first)):
        for x, gate in _orders(here):
            for h, other in _orders(there):
                if _are_opposite(gate, other) and _is_shared(x, node, flow):
                    return x, _gated(node, other, h, x)
    return None


def _orders(product: fx.Node) -> tuple[tuple[fx.Node, fx.Node], ...]:
    first, second = product.args[:2]
    if not (isinstance(first, fx.Node) and isinstance(second, fx.Node)):
        # A constant is a weight, no gate that could be closed.
        return ()
    return (first, second), (second, first)


def _are_opposite(gate: fx.Node, other: fx.Node) -> bool:
    return any(
        one.target is aten.rsub.Scalar and one.args[:2] == (rest, 1) and not one.kwargs
        for one, rest in ((gate, other), (other, gate))
    )


def _is_shared(value: fx.Node, total: fx.Node, flow: Flow) -> bool:
    """Whether a summand is, by identity, the value that all summands descend from."""
    shared = flow.dominator.get(total)
    while value is not shared and getattr(value.target, "overloadpacket", None) in _SAME:
        value = cast("fx.Node", value.args[0])
    return value is shared


def _is_average(value: fx.Node, x: fx.Node) -> bool:
    while value is not x and getattr(value.target, "overloadpacket", None) in _AVERAGING:
        value = cast("fx.Node", value.args[0])
    return value is x


def _gated(node: fx.Node, gate: fx.Node | float, h: fx.Node, x: fx.Node) -> fx.Node:
    difference = _insert(node, aten.sub.Tensor, h, x)
    return _insert(node, aten.mul.Tensor, difference, gate)


def _scaled(node: fx.Node, value: fx.Node, scale: float) -> fx.Node:
    if scale == 1:
        return value
    if scale == -1:
        return _insert(node, aten.neg.default, value)
    return _insert(node, aten.mul.Tensor, value, scale)


def _insert(node: fx.Node, target: Any, *args: Any) -> fx.Node:
    """Add an operation in front of a node, at the same place in the model's code."""
    with node.graph.inserting_before(node):
        made = node.graph.call_function(target, args)
    values = [arg.meta["val"] if isinstance(arg, fx.Node) else arg for arg in args]
    made.meta = {**node.meta, "val": target(*values)}
    return made


def _are_like(node: fx.Node, terms: tuple[Any, ...]) -> bool:
    """Whether all terms are tensors of the shape of the result."""
    shape = node.meta["val"].shape
    return all(
        isinstance(term, fx.Node) and is_tensor(term) and term.meta["val"].shape == shape
        for term in terms
    )
