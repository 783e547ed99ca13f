"""Run many plans over batches of data, each distinct prefix once.

The plans are sorted into a trie (:mod:`ensemble_view.core.plan`) and walked depth-first, batches
outermost; one activation is kept for each node that has children still to be visited. The blocks
are those of the fused chain (:mod:`ensemble_view.core.fusion`). Results equal the slow reference
(:mod:`ensemble_view.edits.hooks`) up to rounding. What is measured of each output is a value given
to the engine (:mod:`ensemble_view.measures.measure`).
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
from torch.utils import _pytree as pytree

from ensemble_view.core.alteration import alter
from ensemble_view.core.chain import Chain, arguments_of
from ensemble_view.core.fusion import FusedChain, fuse, fuse_part
from ensemble_view.core.parts import Context
from ensemble_view.core.plan import Action, Plan, Step
from ensemble_view.core.trie import Cost, Node, Trie
from ensemble_view.errors import MeasurementError
from ensemble_view.measures.classification import Classification
from ensemble_view.measures.measure import Measure
from ensemble_view.measures.own import OwnMeasure

__all__ = ["Engine", "Measurements", "Progress", "Reduction"]

Progress = Callable[[int], None]
"""Called with the number of block evaluations times examples done since the last call."""

Reduction = Callable[[dict[str, npt.NDArray[Any]]], dict[str, npt.NDArray[Any]]]
"""From one batch's outcomes of all plans to what is kept of them; examples stay the last axis."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """What was measured of each plan on each example.

    Args:
        outcomes: For each name in the measure's ``types`` an array (plans, examples).
        facts: What the measure knows of each example, such as its label: arrays (examples,).
        block_evaluations: Branches really computed, over all batches.
        batches: How many batches were completed.
        seconds: Wall time of the run.
        interrupted: Whether the user stopped it before the data ended.
    """

    outcomes: dict[str, npt.NDArray[Any]]
    facts: dict[str, npt.NDArray[Any]]
    block_evaluations: int
    batches: int
    seconds: float
    interrupted: bool

    @property
    def examples(self) -> int:
        """How many examples were measured."""
        return int(next(iter(self.outcomes.values())).shape[1])


class Engine:
    """Runs plans on one chain.

    Args:
        chain: The chain; its weights are taken as they are now.
        plans: What to run. The first is the reference that the others are measured against, as a
            rule the full net.
        device: Where batches are sent; the chain must live there. Default: where its weights are.
        measure: What is measured of each output; by default that of classification.
        means: Of the branches that a plan replaces by their mean: ``branch_means(chain, batches)``.

    Raises:
        MeasurementError: If there is no plan.
        InterventionError: If a mean is needed that is not given.

    Example:
        >>> import torch
        >>> from ensemble_view import Block, Chain, Compose, Delete
        >>> from ensemble_view.core.plan import bind
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
        measure: Measure | None = None,
        means: Mapping[int, Tensor] | None = None,
    ) -> None:
        if not plans:
            raise MeasurementError(
                "There is no plan to run; give at least the full net's, bind(Compose(), outline)."
            )
        self.plans = tuple(plans)
        self.block_evaluations = 0
        self._trie = Trie(self.plans)
        self._measure: Measure = measure or Classification()
        self._fused: FusedChain = fuse(chain)
        self._end: Callable[[Tensor, Context], Any] = self._fused.head
        if isinstance(self._measure, OwnMeasure) and self._measure.all_outputs:
            if self._fused.whole is None:
                raise MeasurementError(
                    f"The measure {self._measure.name} asks for all outputs of a chain that gives "
                    'one; unravel the model with output="all".'
                )
            self._end = self._fused.whole
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
    def logits(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Any]]:
        """Run all plans on one batch.

        Args:
            *args: The model's positional arguments.
            **kwargs: Its keyword arguments.

        Yields:
            A plan's position and its output, the first plan's first; all outputs in the model's own
            form where the measure asks for all. Plans that are equal share one tensor.
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
                output = self._end(activation, context)
                for number in node.plans:
                    yield number, output
            waiting.extend((child, activation) for child in reversed(node.children))

    def profile(self, inputs: Any, targets: Any) -> float:
        """Reckon the time of all plans on one batch from one evaluation of each block.

        Args:
            inputs: As for :meth:`measure`.
            targets: As for :meth:`measure`; None leaves out what measuring takes.

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
            activation, context = self._start(*arguments_of(inputs))
            total += self._clock() - clock
            evaluations = self.block_evaluations
            for step in self.plans[0].steps:
                clock = self._clock()
                activation = self._execute(step, activation, context)
                total += counts[step] * (self._clock() - clock)
            self.block_evaluations = evaluations
            clock = self._clock()
            output = self._end(activation, context)
            total += len(self.plans) * (self._clock() - clock)
            if targets is not None:
                reference = self._measure.reference(output, self._sent(targets))
                clock = self._clock()
                self._measure.rows(output, reference)
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
        return self._fused.layout(self._sent(value))

    def _sent(self, value: Any) -> Any:
        """All tensors in a value on the engine's device."""

        def send(leaf: Any) -> Any:
            if isinstance(leaf, Tensor):
                leaf = leaf.to(self.device, non_blocking=True)
            return leaf

        return pytree.tree_map(send, value)

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
        self,
        batches: Iterable[tuple[Any, Any]],
        progress: Progress | None = None,
        reduction: Reduction | None = None,
    ) -> Measurements:
        """Run all plans over data and measure every example.

        Args:
            batches: Pairs of inputs and targets; several inputs come as a tuple or list, those
                with names as a dictionary.
            progress: Told of the block evaluations done, times examples.
            reduction: Of each batch's outcomes, where too many plans run to keep all.

        Returns:
            The measurements of all completed batches; if the user interrupts, of those before.

        Raises:
            MeasurementError: If there is no batch, or outputs cannot be measured.
            KeyboardInterrupt: If the user interrupts before the first batch is complete.
        """
        started = time.perf_counter()
        before = self.block_evaluations
        outcomes: list[dict[str, npt.NDArray[Any]]] = []
        facts: list[dict[str, npt.NDArray[Any]]] = []
        interrupted = False
        try:
            for inputs, targets in batches:
                measured, known = self._measure_batch(inputs, targets, progress)
                facts.append(known)
                outcomes.append(measured if reduction is None else reduction(measured))
        except KeyboardInterrupt:
            if not outcomes:
                raise
            interrupted = True
        if not outcomes:
            raise MeasurementError(
                "The data hold no example; there is nothing to measure. Check the data set and "
                "its split."
            )
        return Measurements(
            outcomes=_joined(outcomes),
            # An interruption may have come between the two.
            facts=_joined(facts[: len(outcomes)]),
            block_evaluations=self.block_evaluations - before,
            batches=len(outcomes),
            seconds=time.perf_counter() - started,
            interrupted=interrupted,
        )

    @torch.inference_mode()
    def _measure_batch(
        self, inputs: Any, targets: Any, progress: Progress | None
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, npt.NDArray[Any]]]:
        reference: Any = None
        rows: dict[int, Tensor] = {}
        done = self.block_evaluations
        args, kwargs = arguments_of(inputs)
        for number, output in self.logits(*args, **kwargs):
            if not rows:
                reference = self._measure.reference(output, self._sent(targets))
            rows[number] = self._measure.rows(output, reference)
            if progress is not None:
                progress((self.block_evaluations - done) * rows[number].shape[1])
                done = self.block_evaluations
        facts = {name: fact.cpu().numpy() for name, fact in self._measure.facts(reference).items()}
        return self._gather(torch.stack([rows[number] for number in range(len(rows))])), facts

    def _gather(self, rows: Tensor) -> dict[str, npt.NDArray[Any]]:
        """Bring the rows of all plans, the last one of each telling what is finite, to the host."""
        values = rows.cpu().numpy()
        broken = np.flatnonzero(~values[:, -1].astype(bool).all(axis=1))
        if broken.size:
            raise MeasurementError(self._measure.not_finite(str(self.plans[int(broken[0])])))
        return {
            name: values[:, row].astype(kind)
            for row, (name, kind) in enumerate(self._measure.types.items())
        }


def _joined(parts: Sequence[Mapping[str, npt.NDArray[Any]]]) -> dict[str, npt.NDArray[Any]]:
    """Arrays of several batches behind each other; examples are the last dimension."""
    return {name: np.concatenate([part[name] for part in parts], axis=-1) for name in parts[0]}
