"""The engine's block evaluations against the same ones by the unmodified model's own blocks.

The engine walks its plans; each block that it evaluates is evaluated as often by the module that is
this block in the model, called in eager mode with the very arguments that the model calls it with.
What a deleted block costs (its shortcut) is on neither side.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ensemble_view.bench.conditions import evaluation_layouts, one_thread
from ensemble_view.core.chain import Chain
from ensemble_view.core.engine import Engine
from ensemble_view.core.interventions.base import Compose, Intervention
from ensemble_view.core.interventions.branches import Delete
from ensemble_view.core.parts import Context
from ensemble_view.core.plan import Action, Plan, Step, bind
from ensemble_view.core.trie import Trie
from ensemble_view.discovery.capture import Arguments, Example, as_arguments
from ensemble_view.discovery.evaluation import evaluating
from ensemble_view.discovery.provenance import Provenance
from ensemble_view.errors import MeasurementError

__all__ = ["Overhead", "overhead"]

_Call: TypeAlias = tuple[nn.Module, Arguments]


@dataclass(frozen=True, repr=False)
class Overhead:
    """CPU seconds per batch of one set of block evaluations, by the engine and by the model.

    Args:
        blocks: The engine's block evaluations.
        eager: The same evaluations by the model's own modules, in the faster layout.
        walk: All that the engine does for its plans: the stem, links, block evaluations, the
            shortcuts of deleted blocks and a head per plan; nothing is measured of the outputs.
        ratios: Of each round ``blocks / eager``.
        walk_ratio: Median over rounds of ``walk / eager``.
        layout: The memory layout in which the eager blocks were faster.
        block_evaluations: Per batch, on either side.
        left_out: Names of blocks that no module of the model is, which neither side counts.
        batch_size: Examples per batch.
        plans: How many.
    """

    blocks: float
    eager: float
    walk: float
    ratios: tuple[float, ...]
    walk_ratio: float
    layout: str
    block_evaluations: int
    left_out: tuple[str, ...]
    batch_size: int
    plans: int

    @property
    def ratio(self) -> float:
        """Median over rounds of the engine's time over that of the model's own blocks."""
        return statistics.median(self.ratios)

    def __repr__(self) -> str:
        """The figures as a table.

        Returns:
            One row per thing timed.
        """
        rows = [
            (f"the model's own blocks, eager ({self.layout})", self.eager, 1.0),
            ("the same block evaluations by the engine", self.blocks, self.ratio),
            ("all of the engine: with stem, shortcuts, heads", self.walk, self.walk_ratio),
        ]
        lines = [
            f"{self.plans} plans, {self.block_evaluations} block evaluations, batches of "
            f"{self.batch_size}; CPU time, one thread,",
            f"medians of {len(self.ratios)} rounds; smallest ratio {min(self.ratios):.2f}, largest "
            f"{max(self.ratios):.2f}",
            f"{'':48}{'s/batch':>10}{'ratio':>8}",
        ]
        lines += [f"{name:48}{seconds:10.3f}{ratio:8.2f}" for name, seconds, ratio in rows]
        if self.left_out:
            lines.append(f"Left out, since no one module is the block: {', '.join(self.left_out)}")
        return "\n".join(lines)


def overhead(
    chain: Chain,
    example: Example,
    interventions: Sequence[Intervention] | None = None,
    *,
    rounds: int = 5,
) -> Overhead:
    """Time the engine's block evaluations against those by the model's own blocks.

    Both sides run on the CPU with one thread in inference mode, in turns. The modules keep what
    torch gives them in evaluation mode, such as the fused path of multi-head attention; their
    arguments are copied before each call, outside the clock, since a module may write over them.

    Args:
        chain: With a model behind it, on the CPU.
        example: One batch, in any form that :func:`ensemble_view.unravel` takes.
        interventions: What the engine runs; by default the full net and all single deletions.
        rounds: How often each side is timed.

    Returns:
        The figures.

    Raises:
        MeasurementError: If no model stands behind the chain, or no block is a module of its own.

    Example:
        >>> import torchvision
        >>> from ensemble_view import unravel
        >>> images = torch.randn(4, 3, 32, 32)
        >>> found = overhead(unravel(torchvision.models.resnet18(), images), images, rounds=1)
        >>> found.block_evaluations, found.plans, found.left_out
        (36, 9, ())
    """
    model, provenance = chain.model, chain.provenance
    if model is None or not isinstance(provenance, Provenance):
        raise MeasurementError(
            "No model stands behind this chain (it was built from parts), so there are no eager "
            "blocks to time the engine against."
        )
    if interventions is None:
        interventions = [Compose(), *(Delete(b.index) for b in chain if b.deletable)]
    plans = [bind(intervention, chain.outline) for intervention in interventions]
    paths = {i: b.module for i, b in enumerate(provenance.blocks) if b.module is not None}
    counts = Counter(
        node.step.index
        for node in Trie(plans)
        if node.step is not None and node.step.action is Action.KEEP
    )
    counts = Counter({index: count for index, count in counts.items() if index in paths})
    if not counts:
        raise MeasurementError(
            f"No block of {type(model).__name__} is a module of its own, so that there are no "
            "eager blocks to time the engine against."
        )
    arguments = as_arguments(example)
    calls = _record(model, {index: paths[index] for index in counts}, arguments)
    engine = _TimedEngine(chain, plans, frozenset(counts))
    times: dict[str, list[float]] = {"blocks": [], "eager": [], "walk": []}
    with one_thread(), evaluation_layouts(model) as set_layout:
        layouts = _layouts(calls.values())
        # A first pass of everything warms up and chooses the layout.
        engine.run(arguments)
        first = {}
        for layout in layouts:
            set_layout(layout)
            first[layout] = _eager(calls, Counter(dict.fromkeys(counts, 1)), layout)
        layout = min(first, key=first.__getitem__)
        set_layout(layout)
        for _ in range(rounds):
            walk = engine.run(arguments)
            times["walk"].append(walk)
            times["blocks"].append(engine.seconds)
            times["eager"].append(_eager(calls, counts, layout))

    def ratios(name: str) -> tuple[float, ...]:
        return tuple(a / b for a, b in zip(times[name], times["eager"], strict=True))

    leaves = [leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Tensor)]
    return Overhead(
        **{name: statistics.median(values) for name, values in times.items()},
        ratios=ratios("blocks"),
        walk_ratio=statistics.median(ratios("walk")),
        layout=str(layout).removeprefix("torch."),
        block_evaluations=counts.total(),
        left_out=tuple(block.name for block in chain if block.index not in paths),
        batch_size=next(leaf.shape[0] for leaf in leaves if leaf.ndim),
        plans=len(plans),
    )


def _record(model: nn.Module, paths: dict[int, str], arguments: Arguments) -> dict[int, _Call]:
    """Keep what the unmodified model calls its blocks with."""
    calls: dict[int, _Call] = {}

    def keep(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls[index] = module, _copied((args, kwargs))

        return hook

    handles = []
    try:
        for index, path in paths.items():
            module = model.get_submodule(path)
            handles.append(module.register_forward_pre_hook(keep(index), with_kwargs=True))
        args, kwargs = _copied(arguments)
        with evaluating(model), torch.inference_mode():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _copied(arguments: Arguments, layout: torch.memory_format = torch.preserve_format) -> Arguments:
    def copied(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.clone(memory_format=layout if leaf.ndim == 4 else torch.preserve_format)

    args, kwargs = pytree.tree_map(copied, arguments)
    return args, kwargs


def _layouts(calls: Iterable[_Call]) -> list[torch.memory_format]:
    """Which layouts to try: images may lie channels-last."""
    leaves = pytree.tree_leaves([arguments for _, arguments in calls])
    images = any(isinstance(leaf, Tensor) and leaf.ndim == 4 for leaf in leaves)
    return [torch.contiguous_format, *([torch.channels_last] if images else [])]


def _eager(calls: dict[int, _Call], counts: Counter[int], layout: torch.memory_format) -> float:
    total = 0.0
    for index, count in counts.items():
        module, arguments = calls[index]
        for _ in range(count):
            args, kwargs = _copied(arguments, layout)
            started = time.process_time()
            module(*args, **kwargs)
            total += time.process_time() - started
    return total


class _TimedEngine(Engine):
    """The engine with a clock around its evaluations of some blocks."""

    def __init__(self, chain: Chain, plans: Sequence[Plan], timed: frozenset[int]) -> None:
        super().__init__(chain, plans)
        self.seconds = 0.0
        self._timed = timed

    def run(self, arguments: Arguments) -> float:
        """Run all plans, and give the CPU seconds of everything."""
        self.seconds = 0.0
        args, kwargs = arguments
        started = time.process_time()
        for _ in self.logits(*args, **kwargs):
            pass
        return time.process_time() - started

    def _execute(self, step: Step, activation: Tensor, context: Context) -> Tensor:
        started = time.process_time()
        output = super()._execute(step, activation, context)
        if step.action is Action.KEEP and step.index in self._timed:
            self.seconds += time.process_time() - started
        return output
