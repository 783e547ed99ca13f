"""BatchNorm statistics estimated anew for each lesioned net, on a copy of the model.

A lesion shifts what reaches the later layers, while their BatchNorm still normalises by what the
full net gave them. Estimating the statistics anew tells that shift from what the lesion took away.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ensemble_view.core.chain import Chain, arguments_of
from ensemble_view.core.engine import Engine, Measurements, Progress, Reduction
from ensemble_view.core.interventions.base import Compose
from ensemble_view.core.plan import Plan, bind
from ensemble_view.data.data import Data
from ensemble_view.discovery.unravelling import unravel
from ensemble_view.edits.hooks import edited_by_plan
from ensemble_view.errors import MeasurementError
from ensemble_view.measures.measure import Measure
from ensemble_view.study.experiment import Options
from ensemble_view.study.subject import Subject

__all__ = ["LARGEST_BATCH", "RecalibratedEngine", "twin_of"]

LARGEST_BATCH = 128
"""Of the calibration: fixed, so that the statistics do not depend on the machine's speed."""


def twin_of(subject: Subject, options: Options) -> Chain:
    """Copy a subject's model and take the copy apart as the model was.

    Args:
        subject: Of the study.
        options: Of the study.

    Returns:
        The copy's chain.

    Raises:
        MeasurementError: If there is no BatchNorm with running statistics, no model behind the
            chain, the examples differ in shape, or the copy comes apart differently.
    """
    chain = subject.chain
    if chain.model is None:
        raise MeasurementError(
            "A chain put together by hand has no model whose BatchNorm could be told; give the "
            "model itself."
        )
    if not _norms(chain):
        raise MeasurementError(
            "This net has no BatchNorm with running statistics, so that there is nothing to "
            "estimate anew; leave the recalibration out."
        )
    if len(subject.portions) > 1:
        raise MeasurementError(
            f"The examples come in {len(subject.portions)} shapes, but statistics are estimated "
            "for one; give examples of one shape."
        )
    twin = unravel(
        copy.deepcopy(chain.model),
        subject.sample[0],
        plain=options.get("plain", False),
        granularity=options.get("granularity", "block"),
        output=chain.output or None,
    )
    if [block.name for block in twin] != [block.name for block in chain]:
        raise MeasurementError(
            f"The chain has {len(chain)} blocks, but its model comes apart into {len(twin)}, or "
            "into others; give the model itself, with plain and granularity as options."
        )
    return twin


def _norms(chain: Chain) -> list[_BatchNorm]:
    modules = chain.model.modules() if chain.model is not None else ()
    return [m for m in modules if isinstance(m, _BatchNorm) and m.running_mean is not None]


class RecalibratedEngine(Engine):
    """Runs plans with BatchNorm statistics that were estimated under each of them.

    The first output is the full net's, as it is. For each plan the copy is edited, its running
    statistics are reset, and the calibration data pass it once with only the BatchNorm modules in
    training mode: each normalises by the batch and keeps the mean of the batches' statistics, all
    layers at once. Then the edited copy is measured in evaluation mode. That is a forward pass per
    plan, over both data.

    Args:
        chain: The full net's.
        twin: Of a copy of its model, which is changed.
        plans: What to run.
        calibration: Examples for the statistics.
        measure: What is measured.
    """

    def __init__(
        self, chain: Chain, twin: Chain, plans: Sequence[Plan], calibration: Data, measure: Measure
    ) -> None:
        full = bind(Compose(), chain.outline)
        super().__init__(chain, [full], measure=measure)
        self.plans = (full, *plans)
        self._twin = twin
        self._norms = _norms(twin)
        self._calibration = calibration
        self._statistics: list[list[tuple[Tensor, Tensor]]] = []

    def estimate(self, plan: Plan, progress: Progress | None = None) -> list[tuple[Tensor, Tensor]]:
        """Estimate the statistics of one lesioned net.

        Args:
            plan: The lesion.
            progress: Told of the block evaluations done, times examples.

        Returns:
            Mean and variance of each BatchNorm, in the order of the model's modules.
        """
        for norm in self._norms:
            norm.reset_running_stats()
            norm.momentum = None
        with edited_by_plan(self._twin, plan), torch.no_grad():
            try:
                for norm in self._norms:
                    norm.training = True
                for inputs, examples in self._calibration_batches():
                    self._run(inputs)
                    if progress is not None:
                        progress(plan.block_evaluations * examples)
            finally:
                for norm in self._norms:
                    norm.training = False
        return [(_copied(norm.running_mean), _copied(norm.running_var)) for norm in self._norms]

    def _calibration_batches(self) -> Iterator[tuple[Any, int]]:
        """Batches as even as they can be, since the mean over them weighs them alike."""
        count = len(self._calibration)
        size = -(-count // -(-count // LARGEST_BATCH))
        left = count
        for inputs, _ in self._calibration.batches(size):
            yield inputs, min(size, left)
            left -= size

    def seconds_per_example(self) -> float:
        """Time a forward pass of the copy.

        Returns:
            Seconds, after a first pass that is not counted.
        """
        inputs, examples = next(self._calibration_batches())
        with edited_by_plan(self._twin, self.plans[0]), torch.no_grad():
            self._run(inputs)
            started = time.perf_counter()
            self._run(inputs)
        return (time.perf_counter() - started) / examples

    def measure(
        self,
        batches: Iterable[tuple[Any, Any]],
        progress: Progress | None = None,
        reduction: Reduction | None = None,
    ) -> Measurements:
        """Estimate the statistics under every plan, then measure.

        Args:
            batches: As for :class:`~ensemble_view.core.engine.Engine`.
            progress: Told of both.
            reduction: As for :class:`~ensemble_view.core.engine.Engine`.

        Returns:
            The measurements.
        """
        self._statistics = [self.estimate(plan, progress) for plan in self.plans[1:]]
        return super().measure(batches, progress, reduction)

    @torch.inference_mode()
    def logits(self, *args: Any, **kwargs: Any) -> Iterator[tuple[int, Tensor]]:
        """Run the full net and all plans on one batch.

        Args:
            *args: The model's positional arguments.
            **kwargs: Its keyword arguments.

        Yields:
            A plan's position and its output.
        """
        yield from super().logits(*args, **kwargs)
        for number, plan in enumerate(self.plans[1:]):
            for norm, (mean, variance) in zip(self._norms, self._statistics[number], strict=True):
                _copied(norm.running_mean, mean)
                _copied(norm.running_var, variance)
            with edited_by_plan(self._twin, plan):
                output = self._run(kwargs or args)
            self.block_evaluations += plan.block_evaluations
            yield number + 1, output

    def _run(self, inputs: Any) -> Tensor:
        assert self._twin.model is not None
        args, kwargs = arguments_of(self._sent(inputs))
        output: Tensor = self._twin.provenance.pick(self._twin.model(*args, **kwargs))
        return output


def _copied(buffer: Tensor | None, values: Tensor | None = None) -> Tensor:
    assert buffer is not None
    return buffer.clone() if values is None else buffer.copy_(values)
