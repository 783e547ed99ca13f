"""From a model to a chain that is proved equal to it: the parts of discovery put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor, fx, nn

from ensemble_view.core.chain import Addition, Chain, ShortcutKind
from ensemble_view.core.sites import modes_on, unwrapped
from ensemble_view.discovery.blocks import Span, find_residual_blocks, find_units, stack_of
from ensemble_view.discovery.capture import Arguments, Capture, Example, as_arguments, capture
from ensemble_view.discovery.cutting import cut
from ensemble_view.discovery.dataflow import Flow, carries_data, flow_from
from ensemble_view.discovery.granularity import Granularity, Group, group_spans
from ensemble_view.discovery.obstacles import refuse_obstacles
from ensemble_view.discovery.places import where_the_trunk_is_lost
from ensemble_view.discovery.proof import (
    check_deterministic,
    copied,
    first_two,
    prove,
    prove_whole,
    tolerance_of,
)
from ensemble_view.discovery.provenance import trace_provenance
from ensemble_view.discovery.residual_forms import write_as_additions
from ensemble_view.discovery.streams import describe_streams
from ensemble_view.errors import DiscoveryError
from ensemble_view.shared_state import EXPORT

__all__ = ["Located", "locate_blocks", "unravel", "unravel_arguments"]

Progress: TypeAlias = Callable[[str], None]
"""Told the name of each stage as it begins."""


def unravel(
    model: nn.Module,
    example: Example,
    *,
    plain: bool = False,
    granularity: Granularity = "block",
    output: str | int | None = None,
    progress: Progress | None = None,
) -> Chain:
    """Take a residual net apart into stem, blocks, links and head.

    Blocks are same-shape sums on the dominator chain of the output whose summands share a nearest
    common dominator; the shortcut is the summand that reaches it by identity or by linear
    operations only. The chain is proved before it is returned: it equals the model on the example
    and on a second batch of another size with other values, to 1e-10 of the largest output in
    float64, 1e-4 in float32, 1e-2 in float16 and 5e-2 in bfloat16 (the coarsest type on the
    trunk), and cutting all branches changes the output.

    Args:
        model: Any module that ``torch.export`` can trace; left exactly as it was.
        example: What the model is called with: a tensor, a tuple of positional arguments or a
            dictionary of keyword arguments. The first dimension is the batch.
        plain: Take the conv-norm-activation units of a net without shortcuts as blocks.
        granularity: ``block``: all residual sums of a layer (a transformer layer's attention and
            feed-forward branch) are one block; ``branch``: each is one.
        output: Which of several outputs to follow, by key or position; by default ``logits``, else
            the first floating-point tensor. ``"all"`` follows the same and makes
            ``Chain.whole`` as well, for nets whose outputs part after the last block.
        progress: Told the name of each stage as it begins.

    Returns:
        The chain. It shares the model's parameters; unravel again after moving the model to
        another device or type.

    Raises:
        DiscoveryError: If the model cannot run on the example, is not deterministic, hides its code
            or weights (TorchScript, quantised or sharded weights), cannot be exported, has no
            block, or is not equalled by the chain.

    Example:
        >>> import torch, torchvision
        >>> chain = unravel(torchvision.models.resnet18(), torch.randn(2, 3, 64, 64))
        >>> len(chain.blocks), chain.blocks[2]
        (8, Block(2, 'layer2.0', projection, 64×16×16 → 128×8×8))
    """
    return unravel_arguments(
        model,
        as_arguments(example),
        plain=plain,
        granularity=granularity,
        output=output,
        progress=progress,
    )


def unravel_arguments(
    model: nn.Module,
    arguments: Arguments,
    *,
    plain: bool = False,
    granularity: Granularity = "block",
    output: str | int | None = None,
    progress: Progress | None = None,
) -> Chain:
    """Do the same for an example that is split into positional and keyword arguments.

    Args:
        model: As for :func:`unravel`.
        arguments: Positional arguments and keyword arguments.
        plain: As for :func:`unravel`.
        granularity: As for :func:`unravel`.
        output: As for :func:`unravel`.
        progress: As for :func:`unravel`.

    Returns:
        The chain.

    Raises:
        DiscoveryError: As for :func:`unravel`.
    """
    if not isinstance(model, nn.Module):
        raise DiscoveryError(
            f"A model is a torch.nn.Module; this is a {type(model).__name__}. Build the model and "
            "load its weights first, for example with load_checkpoint(path)."
        )
    model = unwrapped(model)
    if modes_on(model):
        raise DiscoveryError(
            f"{type(model).__name__} is being edited, so it is not itself; unravel it before the "
            "with, and give the chain to edited(...)."
        )
    refuse_obstacles(model)
    with EXPORT, torch.inference_mode(False):
        arguments = copied(arguments)
        return _unravel(
            model,
            arguments,
            plain=plain,
            granularity=granularity,
            output=output,
            progress=progress or (lambda stage: None),
        )


def _unravel(
    model: nn.Module,
    arguments: Arguments,
    *,
    plain: bool,
    granularity: Granularity,
    output: str | int | None,
    progress: Progress,
) -> Chain:
    progress("run the model twice")
    known = check_deterministic(model, arguments)
    progress("export its graph")
    captured = capture(model, arguments, output)
    progress("find the blocks")
    flow, spans, additions = _find(captured, plain=plain)
    if not spans:
        raise DiscoveryError(_nothing_found(model, flow, additions, plain=plain))
    groups = group_spans(flow, spans, model, granularity)
    progress("cut the chain")
    chain = replace(
        cut(captured, flow, groups),
        model=model,
        output=captured.name,
        other_outputs=captured.others,
        output_chosen=captured.is_chosen,
        additions=_of_blocks(additions, spans, groups),
        provenance=trace_provenance(captured, flow, groups, first_two(arguments)),
    )
    progress("prove the chain equal to the model")
    prove(chain, model, arguments, captured.pick, known, tolerance_of(flow))
    if chain.whole is not None:
        prove_whole(chain, model, arguments, tolerance_of(flow))
    return chain


def _of_blocks(
    additions: Sequence[Addition], spans: Sequence[Span], groups: Sequence[Group]
) -> tuple[Addition, ...]:
    """Number the additions' blocks, which may be made of several sums each.

    Args:
        additions: With the positions of residual sums for blocks.
        spans: The residual sums.
        groups: The blocks that they make.

    Returns:
        The same additions with the indices of blocks.
    """
    of_span = {id(span): number for number, (_, members) in enumerate(groups) for span in members}

    def block(index: int | None) -> int | None:
        return None if index is None else of_span[id(spans[index])]

    return tuple(replace(a, block=block(a.block), within=block(a.within)) for a in additions)


@dataclass(frozen=True)
class Located:
    """One residual sum as discovery sees it, before anything is cut.

    Args:
        owner: Path of the module whose ``forward`` makes the sum.
        shortcut_kind: How the shortcut reaches what it shares with the branch.
        block: Which block it belongs to at granularity ``block``, counted from 0.
    """

    owner: str
    shortcut_kind: ShortcutKind
    block: int


def locate_blocks(model: nn.Module, arguments: Arguments) -> tuple[Located, ...]:
    """Find a model's residual sums without cutting or proving a chain.

    Args:
        model: As for :func:`unravel`.
        arguments: Positional arguments and keyword arguments.

    Returns:
        One entry per sum, in order.
    """
    with EXPORT:
        flow, spans, _ = _find(capture(model, arguments), plain=False)
    groups = group_spans(flow, spans, model, "block")
    return tuple(
        Located(stack_of(span.total)[-1][0], span.shortcut_kind, block)
        for block, (_, members) in enumerate(groups)
        for span in members
    )


def _find(captured: Capture, *, plain: bool) -> tuple[Flow, list[Span], list[Addition]]:
    """Find the blocks from the start that gives most of them."""
    flows = _flows(captured)
    # Every flow has its own trunk, so all are gone through.
    rewritten = [write_as_additions(flow) for flow in flows]
    if any(rewritten):
        flows = _flows(captured)
    found = [(flow, *find_residual_blocks(flow)) for flow in flows]
    if not found:
        raise DiscoveryError(
            "The output does not depend on any floating-point input; pass an example with one."
        )
    flow, spans, additions = max(found, key=lambda one: len(one[1]))
    # A stream of its own, such as an encoder beside a decoder, would be cut into the context.
    beside = {
        span.total: span.name
        for _, others, _ in found
        for span in others
        if span.total not in flow.members
    }
    if beside:
        raise DiscoveryError(
            f"This net has two streams: {len(spans)} blocks on one ({spans[0].name}, …) and "
            f"{len(beside)} on another ({next(iter(beside.values()))}, …). Unravel one stream "
            "alone, such as the encoder, or build the chain by hand with Chain.from_parts(stem, "
            "blocks, head)."
        )
    if not plain:
        streams = describe_streams(flow, spans)
        if streams is not None:
            raise DiscoveryError(
                f"This net has several streams: {streams}. Unravel one stream alone, or build the "
                "chain by hand with Chain.from_parts(stem, blocks, head)."
            )
        return flow, spans, additions
    if spans:
        raise DiscoveryError(
            f"This net has {len(spans)} residual blocks ({spans[0].name}, …); plain is for nets "
            "without shortcuts: leave it out."
        )
    units = [(flow, find_units(flow), additions) for flow, _, additions in found]
    return max(units, key=lambda one: len(one[1]))


def _flows(captured: Capture) -> list[Flow]:
    flows = [flow_from(start, captured.output) for start in _starts(captured)]
    return [flow for flow in flows if flow is not None]


def _starts(captured: Capture) -> list[fx.Node]:
    """Floating-point inputs, and the first floating-point values computed from integer ones."""

    def is_float(node: fx.Node) -> bool:
        value = node.meta.get("val")
        return isinstance(value, Tensor) and value.is_floating_point()

    inputs = [node for node in captured.inputs if node is not None]
    starts = [node for node in inputs if is_float(node)]
    # What descends from a start is no start of its own, also where a mask or a size meets it; sizes
    # alone do not descend.
    descended = set(starts)
    reached = set(inputs) - descended
    for node in captured.graph.nodes:
        if node.op != "call_function":
            continue
        if not descended.isdisjoint(node.all_input_nodes) and carries_data(node):
            descended.add(node)
        elif not reached.isdisjoint(node.all_input_nodes):
            if is_float(node):
                starts.append(node)
                descended.add(node)
            else:
                reached.add(node)
    return starts


def _nothing_found(model: nn.Module, flow: Flow, additions: list[Addition], *, plain: bool) -> str:
    name = type(model).__name__
    if plain:
        return (
            f"{name} has no convolution on the way that every path takes; there is no unit to "
            "delete. Build the chain by hand with Chain.from_parts(stem, blocks, head)."
        )
    otherwise = (
        "For a net without shortcuts use plain=True (--plain), which takes its "
        "conv-norm-activation units as the chain"
    )
    if not additions:
        return f"{name} has no residual block: it adds nothing. {otherwise}."
    last = additions[-1]
    where = where_the_trunk_is_lost(flow)
    return (
        f"{name} has no residual block: none of its {len(additions)} additions is one (the last, "
        f"{last.place}: {last.reason}). {where}{' ' if where else ''}{otherwise}; else build the "
        "chain by hand with Chain.from_parts(stem, blocks, head)."
    )
