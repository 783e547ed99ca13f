"""What all single deletions cost, in units of one unmodified forward pass, on this machine.

CPU time of one thread in one process, the things compared taken in turns, so that a drift of the
machine's speed meets all of them. Beside them the convolutions alone, on tensors of the same
shapes: the bound that no sharing and no fusing goes below. :func:`overhead` holds the engine's
block evaluations against the same ones by the model's own blocks.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ensemble_view.bench.conditions import cpu_seconds, evaluation_layouts, one_thread
from ensemble_view.core.chain import Chain
from ensemble_view.core.engine import Engine
from ensemble_view.core.fusion import FusedChain, fuse
from ensemble_view.core.interventions.base import Compose
from ensemble_view.core.interventions.branches import Delete
from ensemble_view.core.plan import Action, Plan, bind
from ensemble_view.core.trie import Trie
from ensemble_view.edits.hooks import edited_by_plan
from ensemble_view.errors import MeasurementError

__all__ = ["Benchmark", "bench"]

_CONVOLUTIONS = {
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv3d.default,
}


@dataclass(frozen=True, repr=False)
class Benchmark:
    """CPU seconds per example of the unmodified net and of all its single deletions.

    Args:
        forward: One unmodified forward pass in evaluation mode, at its best batch size and layout.
        forward_setting: Which these are.
        engine: All single deletions and the baseline by the engine, at its best batch size.
        engine_batch_size: Which that is.
        convolutions: The convolutions alone of the same block evaluations; nan if there are none.
        hooks: The same plans by hooks, a forward pass each; nan unless asked for.
        engine_ratio: Median over rounds of engine / forward, both from the same round.
        convolution_ratio: Median over rounds of convolutions / forward.
        hooks_ratio: Median over rounds of hooks / forward.
        block_evaluations: Per batch.
        plans: How many, the baseline included.
        rounds: How often each was timed.
    """

    forward: float
    forward_setting: str
    engine: float
    engine_batch_size: int
    convolutions: float
    hooks: float
    engine_ratio: float
    convolution_ratio: float
    hooks_ratio: float
    block_evaluations: int
    plans: int
    rounds: int

    def __repr__(self) -> str:
        """The figures as a table.

        Returns:
            One row per thing timed.
        """
        rows = [
            (f"unmodified forward ({self.forward_setting})", self.forward, 1.0),
            (f"engine, batches of {self.engine_batch_size}", self.engine, self.engine_ratio),
            ("the same convolutions alone", self.convolutions, self.convolution_ratio),
            ("hooks, a forward pass per plan", self.hooks, self.hooks_ratio),
        ]
        lines = [
            f"{self.plans} plans, {self.block_evaluations} block evaluations; CPU time, one "
            f"thread, medians of {self.rounds} rounds",
            f"{'':44}{'ms/example':>12}{'forwards':>10}",
        ]
        lines += [
            f"{name:44}{1e3 * seconds:12.3f}{ratio:10.2f}"
            for name, seconds, ratio in rows
            if seconds == seconds
        ]
        return "\n".join(lines)


def bench(
    chain: Chain,
    images: Tensor,
    *,
    rounds: int = 7,
    sizes: tuple[int, ...] = (16, 32, 64, 128),
    hooks: bool = False,
) -> Benchmark:
    """Time all single deletions against one unmodified forward pass.

    Args:
        chain: With a model behind it, on the CPU.
        images: At least as many as the largest batch.
        rounds: How often each thing is timed, in turns.
        sizes: Batch sizes to choose from, for the forward pass and for the engine alike.
        hooks: Also time the slow reference.

    Returns:
        The figures.

    Raises:
        MeasurementError: If there is no model behind the chain or too few images.

    Example:
        >>> import torchvision
        >>> from ensemble_view import unravel
        >>> images = torch.randn(4, 3, 32, 32)
        >>> net = torchvision.models.resnet18().eval()
        >>> figures = bench(unravel(net, images), images, rounds=1, sizes=(4,))
        >>> figures.block_evaluations, figures.plans
        (36, 9)
    """
    model = chain.model
    if model is None or len(images) < max(sizes):
        raise MeasurementError(
            f"The benchmark needs a chain with a model behind it and at least {max(sizes)} images; "
            f"found {len(images)} images."
        )
    plans = [bind(Compose(), chain.outline)]
    plans += [bind(Delete(b.index), chain.outline) for b in chain if b.deletable]
    engine = Engine(chain, plans)
    with one_thread(), evaluation_layouts(model) as set_layout:
        forwards: dict[str, Callable[[], float]] = {}
        for size in sizes:
            for layout in (torch.contiguous_format, torch.channels_last):
                name = f"batch {size}, {str(layout).removeprefix('torch.')}"
                forwards[name] = _forward(model, set_layout, images[:size], layout)
        # Warm up, then choose each one's best batch size and layout.
        setting = min(forwards, key=lambda name: min(forwards[name]() for _ in range(4)))
        engines = {size: _engine(engine, images[:size]) for size in sizes}
        best = min(engines, key=lambda size: min(engines[size]() for _ in range(2)))
        timed = {"forward": forwards[setting], "engine": engines[best]}
        alone = _convolutions(engine, fuse(chain), images[:best])
        if alone is not None:
            timed["convolutions"] = alone
        if hooks:
            timed["hooks"] = _hooks(chain, plans, images[: sizes[0]])
        times: dict[str, list[float]] = {name: [] for name in timed}
        for _ in range(rounds):
            for name, run in timed.items():
                times[name].append(run())

    def median(name: str) -> float:
        return statistics.median(times.get(name, [float("nan")]))

    def ratio(name: str) -> float:
        pairs = zip(times.get(name, [float("nan")]), times["forward"], strict=False)
        return statistics.median(value / unit for value, unit in pairs)

    return Benchmark(
        forward=median("forward"),
        forward_setting=setting,
        engine=median("engine"),
        engine_batch_size=best,
        convolutions=median("convolutions"),
        hooks=median("hooks"),
        engine_ratio=ratio("engine"),
        convolution_ratio=ratio("convolutions"),
        hooks_ratio=ratio("hooks"),
        block_evaluations=engine.cost.block_evaluations,
        plans=len(plans),
        rounds=rounds,
    )


def _forward(
    model: nn.Module,
    set_layout: Callable[[torch.memory_format], None],
    images: Tensor,
    layout: torch.memory_format,
) -> Callable[[], float]:
    laid_out = images.contiguous(memory_format=layout)
    # Several passes, so that a round times about as much work as the engine's single one.
    repetitions = 4

    def run() -> float:
        set_layout(layout)
        return cpu_seconds(lambda: model(laid_out), repetitions, len(images))

    return run


def _engine(engine: Engine, images: Tensor) -> Callable[[], float]:
    labels = torch.zeros(len(images), dtype=torch.int64)
    batches = [(images, labels)]
    return lambda: cpu_seconds(lambda: engine.measure(batches), 1, len(images))


def _hooks(chain: Chain, plans: list[Plan], images: Tensor) -> Callable[[], float]:
    def all_plans() -> None:
        for plan in plans:
            with edited_by_plan(chain, plan):
                assert chain.model is not None
                chain.model(images)

    return lambda: cpu_seconds(all_plans, 1, len(images))


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps what each convolution was called with."""

    def __init__(self, part: fx.GraphModule) -> None:
        super().__init__(part)
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in _CONVOLUTIONS:
            self.calls.append((target, args))
        return super().call_function(target, args, kwargs)


def _convolutions(engine: Engine, fused: FusedChain, images: Tensor) -> Callable[[], float] | None:
    """All convolutions of the engine's block evaluations, and nothing else."""
    evaluations = dict.fromkeys(range(len(fused.blocks)), 0)
    for node in Trie(engine.plans):
        if node.step is not None and node.step.action is Action.KEEP:
            evaluations[node.step.index] += 1
    calls: list[tuple[int, list[tuple[Any, tuple[Any, ...]]]]] = []
    x, context = fused.stem(fused.layout(images))
    for position, block in enumerate(fused.blocks):
        if position in fused.links:
            x = fused.links[position](x, context)
        if isinstance(block.kept, fx.GraphModule):
            recorder = _Recorder(block.kept)
            recorder.run(x, context)
            calls.append((evaluations[position], recorder.calls))
        x = block.kept(x, context)
    if not any(recorded for _, recorded in calls):
        return None

    def all_convolutions() -> None:
        for count, recorded in calls:
            for _ in range(count):
                for function, args in recorded:
                    function(*args)

    return lambda: cpu_seconds(all_convolutions, 1, len(images))
