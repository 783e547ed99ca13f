"""Ask of each block what gradient its branch and its shortcut carry, and what the branch adds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ensemble_view.core.chain import Chain
from ensemble_view.data.data import examples_in
from ensemble_view.data.text_data import TextData
from ensemble_view.errors import MeasurementError, warn
from ensemble_view.measures.classification import Classification
from ensemble_view.measures.language import Language
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.paths.blocks import MEASURES, block_measures, early_outputs
from ensemble_view.paths.losses import Loss
from ensemble_view.paths.trace import refuse_random_blocks, trace
from ensemble_view.statistics.bounded import bounded_mean
from ensemble_view.statistics.paired import accuracy_interval
from ensemble_view.statistics.ratios import ratio_mean
from ensemble_view.studies.gradients.blocks_result import BlockRow, GradientsByBlock
from ensemble_view.study.near_chance import near_chance_of
from ensemble_view.study.path_subject import gradient_subject, loss_name, pieces, placed
from ensemble_view.study.provenance import WARNING
from ensemble_view.study.subject import Subject

__all__ = ["BlockGradientStudy", "gradients_by_block", "prepare_block_gradients"]

_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class BlockGradientStudy:
    """A study of gradients by block that has not run yet.

    Args:
        subject: Chains and data.
        loss: Of each example.
        seed: Of the choice of examples.
        batch_size: Examples at a time.
        level: Of the intervals.
        command: What made the result.
    """

    subject: Subject
    loss: Loss
    seed: int
    batch_size: int
    level: float
    command: str | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers."""
        return self.subject.notes

    @property
    def work(self) -> int:
        """Blocks times examples: the total of what ``progress`` is told."""
        return len(self.subject.chain) * len(self.subject.data)

    def __str__(self) -> str:
        data = self.subject.data
        return (
            f"{len(self.subject.chain)} blocks on {len(data):,} {data.unit}: one backward pass, "
            f"batches of {self.batch_size}"
        )

    def run(self, progress: Callable[[int], None] | None = None) -> GradientsByBlock:
        """Measure.

        Args:
            progress: Told of the blocks done, times examples.

        Returns:
            The result; of the examples done so far, if the user interrupted.

        Raises:
            KeyboardInterrupt: If the user interrupts before the first batch is complete.
        """
        started = time.perf_counter()
        found, interrupted = _Found(), False
        told = progress or (lambda amount: None)
        try:
            for chain, portion in self.subject.portions:
                size = max(1, int(self.batch_size * portion.size))
                for batch in portion.data.batches(size):
                    for inputs, labels in pieces(*batch, size):
                        self._measure(chain, inputs, labels, found)
                        told(len(chain) * examples_in(inputs))
        except KeyboardInterrupt:
            if not found.measures:
                raise
            interrupted = True
        provenance = self.subject.provenance(
            seed=self.seed,
            command=self.command,
            batch_size=self.batch_size,
            threads=torch.get_num_threads(),
        )
        if (low := found.near_chance(len(self.subject.chain) - 1, self.level)) is not None:
            warn(low)
            provenance = replace(provenance, notes=(*provenance.notes, f"{WARNING}{low}"))
        return GradientsByBlock(
            rows=found.rows(self.subject.chain, self.level),
            loss=loss_name(self.loss),
            examples=sum(map(len, found.measures)),
            unit=self.subject.data.unit,
            level=self.level,
            seconds=time.perf_counter() - started,
            provenance=provenance,
            interrupted=interrupted,
        )

    def _measure(self, chain: Chain, inputs: Any, labels: Any, found: _Found) -> None:
        inputs = placed(inputs, self.subject.device)
        labels = placed(labels, self.subject.device)
        measured = block_measures(trace(chain, inputs, labels, loss=self.loss))
        outputs = early_outputs(chain, inputs)
        heads = {position: self._correct(output, labels) for position, output in outputs}
        # Only now, so that an interruption leaves no example half done.
        stacked = torch.stack([measured[name] for name in MEASURES], 2)
        found.measures.append(stacked.detach().cpu().numpy())
        for position, correct in heads.items():
            if correct is not None:
                found.heads.setdefault(position, []).append(correct)
        if heads.get(len(chain) - 1) is not None and not isinstance(self.subject.data, TextData):
            found.labels.append(labels.cpu().numpy())

    def _correct(self, output: Any, labels: Any) -> _Floats | None:
        """How many answers are right, and of how many, (examples, 2)."""
        measure: Classification | Language
        if isinstance(self.subject.data, TextData):
            measure = Language()
        elif _are_classes(output, labels):
            measure = Classification()
        else:
            return None
        reference: Any = measure.reference(output, labels)
        right = measure.rows(output, reference)[0].double()
        of = measure.facts(reference).get("tokens", torch.ones_like(right))
        return torch.stack([right, of.to(right)], 1).cpu().numpy()


def _are_classes(output: Any, labels: Any) -> bool:
    return (
        isinstance(output, Tensor)
        and output.ndim == 2
        and isinstance(labels, Tensor)
        and labels.ndim == 1
        and not labels.is_floating_point()
    )


@dataclass(eq=False)
class _Found:
    """What was measured so far, batch after batch.

    Args:
        measures: (examples, blocks, measures).
        heads: By block, how many answers are right and of how many, (examples, 2).
        labels: Of a classifier, the true classes.
    """

    measures: list[_Floats] = field(default_factory=list)
    heads: dict[int, list[_Floats]] = field(default_factory=dict)
    labels: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def near_chance(self, last: int, level: float) -> str | None:
        """Warn of a classifier near chance: after the last block its head is that of the net."""
        if not self.labels:
            return None
        right = np.concatenate(self.heads[last])[:, 0]
        return near_chance_of(right, np.concatenate(self.labels), level)

    def rows(self, chain: Chain, level: float) -> tuple[BlockRow, ...]:
        values = np.concatenate(self.measures)
        rows = []
        for position, block in enumerate(chain):
            columns: dict[str, Any] = {}
            for number, name in enumerate(MEASURES):
                columns |= _mean(name, values[:, position, number], level)
            if position in self.heads:
                columns |= _accuracy(np.concatenate(self.heads[position]), level)
            rows.append(
                BlockRow(
                    block.index,
                    block.name,
                    "×".join(map(str, block.shape_out)),
                    block.changes_shape,
                    **columns,
                )
            )
        return tuple(rows)


def _mean(name: str, values: _Floats, level: float) -> dict[str, float | None]:
    # Undefined for some examples: a gradient of zero has no direction.
    defined = values[np.isfinite(values)]
    if not len(defined):
        return {}
    found = ratio_mean(defined, level=level)
    return _interval(name, found.value, found.low, found.high)


def _accuracy(right: _Floats, level: float) -> dict[str, float | None]:
    """Wilson's interval of independent answers; of the tokens of sequences its like for ratios."""
    right = right[right[:, 1] > 0]
    if not len(right):
        return {}
    if (right[:, 1] == 1).all():
        correct = int(right[:, 0].sum())
        limits = accuracy_interval(correct, len(right), level)
        return _interval("head_accuracy", correct / len(right), limits.low, limits.high)
    found = bounded_mean(right[:, 0], right[:, 1], level)
    return _interval("head_accuracy", found.value, found.low, found.high)


def _interval(name: str, value: float, low: float, high: float) -> dict[str, float | None]:
    limits = {"": value, "_low": low, "_high": high}
    return {f"{name}{end}": None if math.isnan(each) else each for end, each in limits.items()}


def gradients_by_block(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    loss: Loss | None = None,
    tokenizer: Any = None,
    length: int | None = None,
    output: str | int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    level: float = 0.95,
    command: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> GradientsByBlock:
    """Measure, block by block, what gradient passes through the branch and through the shortcut.

    With c the gradient of the loss at a block's output: ‖Bᵀ Aᵀ c‖ against ‖Sᵀ Aᵀ c‖, exact, for one
    backward pass. Beside them what rival explanations go by: ‖F(h)‖ / ‖h‖ (Chang et al. 2017), and
    cos(F(h), −∂L/∂h) and the accuracy of the head after each block of the last stage, the later
    ones deleted (Greff et al. 2016; Jastrzębski et al. 2017). Means over examples with t intervals.

    Args:
        model: A module, a chain of granularity ``branch``, or a loaded checkpoint. It is left as it
            was.
        data: As for :func:`ensemble_view.lesion`; with a loss of one's own, targets may be
            anything.
        loss: From the model's output, the labels and the inputs of a batch to one loss per example;
            by default cross-entropy in nats, of text the mean over a sequence's next tokens.
        tokenizer: Of text, as for :func:`ensemble_view.lesion`.
        length: Of text, as for :func:`ensemble_view.lesion`.
        output: As for :func:`ensemble_view.lesion`.
        limit: At most so many examples, class-balanced where they have classes.
        seed: Of the choice of examples.
        batch_size: Examples at a time; it bounds the memory.
        level: Of the intervals.
        command: Recorded in the result; by default the program's command line.
        progress: Called with the blocks done, times examples.

    Returns:
        The result: ``.frame``, a row per block; ``.plot()``, ``.save(folder)``.

    Raises:
        EnsembleViewError: If model, data or options do not fit each other; the sentence says how.

    Example:
        >>> import ensemble_view
        >>> net = ensemble_view.load_checkpoint("digits-resnet110")
        >>> result = ensemble_view.gradients_by_block(net, "digits", limit=8)
        >>> sum(row.head_accuracy is not None for row in result.rows), len(result.frame)
        (18, 54)
    """
    study = prepare_block_gradients(
        model,
        data,
        loss=loss,
        tokenizer=tokenizer,
        length=length,
        output=output,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        level=level,
        command=command,
    )
    return study.run(progress)


def prepare_block_gradients(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    loss: Loss | None = None,
    tokenizer: Any = None,
    length: int | None = None,
    output: str | int | None = None,
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    level: float = 0.95,
    command: str | None = None,
) -> BlockGradientStudy:
    """Do all of :func:`gradients_by_block` but the measurement.

    Args:
        model: As for :func:`gradients_by_block`.
        data: As for :func:`gradients_by_block`.
        loss: As for :func:`gradients_by_block`.
        tokenizer: As for :func:`gradients_by_block`.
        length: As for :func:`gradients_by_block`.
        output: As for :func:`gradients_by_block`.
        limit: As for :func:`gradients_by_block`.
        seed: As for :func:`gradients_by_block`.
        batch_size: As for :func:`gradients_by_block`.
        level: As for :func:`gradients_by_block`.
        command: As for :func:`gradients_by_block`.

    Returns:
        The study, ready to run.

    Raises:
        MeasurementError: If an option has no such value, or a block is random.
    """
    if batch_size < 1:
        raise MeasurementError(f"batch_size is {batch_size}; expected at least 1.")
    if not 0 < level < 1:
        raise MeasurementError(
            f"The confidence level is {level}; expected a proportion between 0 and 1, such as 0.95."
        )
    subject, loss = gradient_subject(
        model, data, loss, limit=limit, seed=seed, tokenizer=tokenizer, length=length,
        output=output, batch_size=batch_size,
    )  # fmt: skip
    refuse_random_blocks(subject.chain, subject.sample[0])
    return BlockGradientStudy(subject, loss, seed, batch_size, level, command)
