"""Run many plans over batches of data, each distinct prefix once.

The plans are sorted into a trie (:mod:`ensemble_view.plan`) and walked depth-first, batches
outermost; one activation is kept for each node that has children still to be visited. The blocks
are those of the fused chain (:mod:`ensemble_view.fusion`). Results equal the slow reference
(:mod:`ensemble_view.hooks`) up to rounding.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ensemble_view.alteration import alter
from ensemble_view.chain import Chain, Context
from ensemble_view.errors import MeasurementError
from ensemble_view.fusion import FusedChain, fuse, fuse_part
from ensemble_view.measures import MEASURES, Reference, gather, measure
from ensemble_view.plan import Action, Cost, Node, Plan, Step, Trie

__all__ = ["Engine", "Measurements", "Progress"]

Progress = Callable[[int], None]
"""Called with the number of block evaluations times examples done since the last call."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """What was measured of each plan on each example.

    Args:
        outcomes: For each name in :data:`~ensemble_view.measures.MEASURES` an array
            (plans, examples).
        labels: (examples,).
        block_evaluations: Branches really computed, over all batches.
        batches: How many batches were completed.
        seconds: Wall time of the run.
        interrupted: Whether the user stopped it before the data ended.
    """

    outcomes: dict[str, npt.NDArray[Any]]
    labels: npt.NDArray[np.int64]
    block_evaluations: int
    batches: int
    seconds: float
    interrupted: bool


class Engine:
    """Runs plans on one chain.

    Args:
        chain: The chain; its weights are taken as they are now.
        plans: What to run. The first is the reference that the others are measured against, as a
            rule the full net.
        device: Where batches are sent; the chain must live there. Default: where its weights are.
        means: Of the branches that a plan replaces by their mean: ``branch_means(chain, batches)``.

    Raises:
        MeasurementError: If there is no plan.
        InterventionError: If a mean is needed that is not given.

    Example:
        >>> import torch
        >>> from ensemble_view import Block, Chain, Compose, Delete
        >>> from ensemble_view.plan import bind
        >>> blocks = [Block(i, str(i), branch=lambda x, context: x) for i in range(3)]
        >>> chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
        >>> plans = [bind(i, chain.outline) for i in (Compose(), Delete(0), Delete(1, 2))]
        >>> engine = Engine(chain, plans)
        >>> {number: logits.item() for number, logits in engine.logits(torch.ones(1, 1))}
        {0: 8.0, 2: 2.0, 1: 4.0}
        >>> engine.cost.block_evaluations, engine.block_evaluations
        (5, 5)
    """

    def __init__(
        self,
        chain: Chain,
        plans: Sequence[Plan],
        *,
        device: torch.device | str | None = None,
        means: Mapping[int, Tensor] | None = None,
    ) -> None:
        if not plans:
            raise MeasurementError(
                "There is no plan to run; give at least the full net's, bind(Compose(), outline)."
            )
        self.plans = tuple(plans)
        self.block_evaluations = 0
        self._trie = Trie(self.plans)
        self._fused: FusedChain = fuse(chain)
        self._altered = {
            step: fuse_part(alter(chain, step, means or {}))
            for step in {node.step for node in self._trie if node.step is not None}
            if step.action in (Action.ALTER, Action.PARALLEL)
        }
        parameter = next(chain.model.parameters(), None) if chain.model is not None else None
        self.device = torch.device(device or (parameter.device if parameter is not None else "cpu"))

    @property
    def cost(self) -> Cost:
        """What one pass of all plans over a batch costs, known before it runs."""
        return self._trie.cost

    # As a decorator the mode ends at each yield; a with would leave it on in the caller's loop.
    @torch.inference_mode()
    def logits(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Tensor]]:
        """Run all plans on one batch.

        Args:
            *args: The model's positional arguments.
            **kwargs: Its keyword arguments.

        Yields:
            A plan's position and its output, the first plan's first. Plans that are equal share
            one tensor.
        """
        x, context = self._start(args, kwargs)
        # Depth-first: the last node pushed is the next to run.
        waiting: list[tuple[Node, Tensor]] = [(self._trie.root, x)]
        del x
        while waiting:
            node, activation = waiting.pop()
            if node.step is not None:
                activation = self._execute(node.step, activation, context)
            if node.plans:
                output = self._fused.head(activation, context)
                for number in node.plans:
                    yield number, output
            waiting.extend((child, activation) for child in reversed(node.children))

    def profile(self, *args: Any, **kwargs: Any) -> float:
        """Reckon the time of all plans on one batch from one evaluation of each block.

        Args:
            *args: The model's positional arguments.
            **kwargs: Its keyword arguments.

        Returns:
            Seconds: each part's time, weighed by how often the plans run it. Does not count as
            block evaluations.
        """
        # A block that is altered, or runs beside others, takes about as long as it does alone.
        counts = Counter(
            Step(step.index) if step.block_evaluations else step
            for node in self._trie
            if node.step is not None
            for step in node.step.blocks or (node.step,)
        )
        total = 0.0
        with torch.inference_mode():
            clock = self._clock()
            activation, context = self._start(args, kwargs)
            total += self._clock() - clock
            evaluations = self.block_evaluations
            for step in self.plans[0].steps:
                clock = self._clock()
                activation = self._execute(step, activation, context)
                total += counts[step] * (self._clock() - clock)
            self.block_evaluations = evaluations
            clock = self._clock()
            reference = self._fused.head(activation, context)
            if reference.ndim == 2:
                labels = torch.zeros(len(reference), dtype=torch.int64, device=reference.device)
                measure(reference, Reference.of(reference, labels))
            total += len(self.plans) * (self._clock() - clock)
        return total

    def _clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Context]:
        named = {name: self._placed(value) for name, value in kwargs.items()}
        return self._fused.stem(*(self._placed(value) for value in args), **named)

    def _placed(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            value = value.to(self.device, non_blocking=True)
        return self._fused.layout(value)

    def _execute(self, step: Step, activation: Tensor, context: Context) -> Tensor:
        self.block_evaluations += step.block_evaluations
        if step.action is Action.LINK:
            return self._fused.links[step.index](activation, context)
        if step.action is Action.KEEP:
            return self._fused.blocks[step.index].kept(activation, context)
        if step.action is Action.DELETE:
            return self._fused.blocks[step.index].deleted(activation, context)
        return self._altered[step](activation, context)

    def measure(
        self, batches: Iterable[tuple[Any, Tensor]], progress: Progress | None = None
    ) -> Measurements:
        """Run all plans over data and measure every example.

        Args:
            batches: Pairs of inputs and labels; several inputs come as a tuple or list, those
                with names as a dictionary.
            progress: Told of the block evaluations done, times examples.

        Returns:
            The measurements of all completed batches; if the user interrupts, of those before.

        Raises:
            MeasurementError: If there is no batch, or logits cannot be measured.
            KeyboardInterrupt: If the user interrupts before the first batch is complete.
        """
        started = time.perf_counter()
        before = self.block_evaluations
        collected: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in MEASURES}
        labels: list[npt.NDArray[np.int64]] = []
        interrupted = False
        try:
            for inputs, targets in batches:
                measured = self._measure_batch(inputs, targets, progress)
                for name, values in measured.items():
                    collected[name].append(values)
                labels.append(targets.cpu().numpy().astype(np.int64))
        except KeyboardInterrupt:
            if not labels:
                raise
            interrupted = True
        if not labels:
            raise MeasurementError(
                "The data hold no example; there is nothing to measure. Check the data set and "
                "its split."
            )
        count = min(len(labels), *(len(parts) for parts in collected.values()))
        return Measurements(
            outcomes={
                name: np.concatenate(parts[:count], axis=1) for name, parts in collected.items()
            },
            labels=np.concatenate(labels[:count]),
            block_evaluations=self.block_evaluations - before,
            batches=count,
            seconds=time.perf_counter() - started,
            interrupted=interrupted,
        )

    def _measure_batch(
        self, inputs: Any, targets: Tensor, progress: Progress | None
    ) -> dict[str, npt.NDArray[Any]]:
        reference: Reference | None = None
        rows: list[Tensor | None] = [None] * len(self.plans)
        done = self.block_evaluations
        kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
        args = () if kwargs else inputs if isinstance(inputs, tuple | list) else (inputs,)
        for number, logits in self.logits(*args, **kwargs):
            if reference is None:
                reference = Reference.of(logits, targets.to(logits.device))
            rows[number] = measure(logits, reference)
            if progress is not None:
                progress((self.block_evaluations - done) * len(targets))
                done = self.block_evaluations
        return gather(torch.stack([row for row in rows if row is not None]), self.plans)
