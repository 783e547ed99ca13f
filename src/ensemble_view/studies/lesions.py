"""Delete blocks and measure what each deletion costs (Veit et al. 2016, section 4.1, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ensemble_view.calibration import Calibration, calibrate, duration
from ensemble_view.chain import Block, Chain
from ensemble_view.checkpoints import Checkpoint
from ensemble_view.datasets.loader_data import LoaderData
from ensemble_view.discovery import Granularity
from ensemble_view.engine import Engine, Progress
from ensemble_view.errors import InterventionError
from ensemble_view.interventions import (
    Arrangement,
    BlockName,
    Compose,
    Delete,
    Intervention,
    format_blocks,
    parse_blocks,
)
from ensemble_view.plan import bind
from ensemble_view.results import Cost, Lesion, LesionResult, NotDeletable, Outcomes
from ensemble_view.studies.subject import Subject, examine

__all__ = ["LesionStudy", "lesion", "prepare_lesions"]


@dataclass(frozen=True, eq=False)
class LesionStudy:
    """A lesion study whose cost is known and which has not run yet.

    Args:
        subject: Chain and data.
        lesions: What is deleted, one entry per plan after the full net's.
        not_deletable: Blocks that are listed but cannot be deleted.
        engine: Holds the plans.
        calibration: Batch size and expected time per example.
        seed: Of every random choice.
        level: Of the intervals.
        command: What made the result.
    """

    subject: Subject
    lesions: tuple[Lesion, ...]
    not_deletable: tuple[NotDeletable, ...]
    engine: Engine
    calibration: Calibration
    seed: int
    level: float
    command: str | None

    @property
    def expected_seconds(self) -> float:
        """How long the run will take, from a short measurement on this machine."""
        return self.calibration.seconds_per_example * len(self.subject.data)

    @property
    def work(self) -> int:
        """Block evaluations times examples: the total of what ``progress`` is told."""
        return self.engine.cost.block_evaluations * len(self.subject.data)

    def __str__(self) -> str:
        cost = self.engine.cost
        saved = 1 - cost.block_evaluations / max(cost.naive_block_evaluations, 1)
        return (
            f"{len(self.lesions)} lesions of {len(self.subject.chain)} blocks on "
            f"{len(self.subject.data):,} examples: {cost.block_evaluations:,} block evaluations "
            f"per batch instead of {cost.naive_block_evaluations:,} ({saved:.0%} saved), batches "
            f"of {self.calibration.batch_size}, about {duration(self.expected_seconds)}"
        )

    def run(self, progress: Progress | None = None) -> LesionResult:
        """Measure all lesions.

        Args:
            progress: Told of the block evaluations done, times examples.

        Returns:
            The result; of the examples done so far, if the user interrupted.
        """
        with self.calibration.threads_set():
            measured = self.engine.measure(
                self.subject.data.batches(self.calibration.batch_size), progress
            )
        outcomes = measured.outcomes
        return LesionResult(
            lesions=self.lesions,
            outcomes=Outcomes(
                **{name: values[1:] for name, values in outcomes.items()},
                baseline_correct=outcomes["correct"][0],
                baseline_loss=outcomes["loss"][0],
                labels=measured.labels,
            ),
            cost=Cost(
                block_evaluations=self.engine.cost.block_evaluations,
                naive_block_evaluations=self.engine.cost.naive_block_evaluations,
                batches=measured.batches,
            ),
            seconds=measured.seconds,
            provenance=self.subject.provenance(
                seed=self.seed,
                command=self.command,
                batch_size=self.calibration.batch_size,
                threads=self.calibration.threads,
            ),
            block_count=len(self.subject.chain),
            not_deletable=self.not_deletable,
            level=self.level,
            interrupted=measured.interrupted,
        )


def lesion(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    blocks: str | Sequence[BlockName] | None = None,
    plain: bool = False,
    granularity: Granularity = "block",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    level: float = 0.95,
    command: str | None = None,
    progress: Progress | None = None,
) -> LesionResult:
    """Delete each block in turn and measure how much accuracy that costs.

    The protocol of Veit, Wilber and Belongie (2016), section 4.1: the branch of a block is set to
    zero at inference, its shortcut stays, nothing is trained again. The drop is paired: the same
    examples before and after, with Tango's (1998) score interval and McNemar's exact test.

    Args:
        model: A module, a chain, or a loaded checkpoint. It is left as it was.
        data: A name such as ``"digits"`` or a path, a DataLoader, a data set, or a pair (inputs,
            labels) of tensors.
        blocks: Delete this set together, instead of each block in turn: indices from 0, module
            paths, or text as on the command line (``"3,7-9"``).
        plain: For a net without shortcuts: its conv-norm-activation units are the blocks.
        granularity: ``block`` or ``branch``, as for :func:`ensemble_view.unravel`.
        limit: At most so many examples, class-balanced.
        seed: Of the choice of examples.
        batch_size: Examples per batch; by default the fastest, found by a short measurement.
        level: Of the intervals.
        command: Recorded in the result; by default the program's command line.
        progress: Called with the block evaluations done, times examples.

    Returns:
        The result: ``.frame``, ``.baseline``, ``.plot()``, ``.save(folder)``.

    Raises:
        EnsembleViewError: If model, data or blocks do not fit each other; the sentence says how.

    Example:
        >>> import ensemble_view
        >>> checkpoint = ensemble_view.load_checkpoint("digits-resnet110")
        >>> result = ensemble_view.lesion(checkpoint, "digits", blocks="3,7-9", limit=100)
        >>> result.frame[["blocks", "count", "n"]].to_dict("records")
        [{'blocks': '3,7-9', 'count': 4, 'n': 100}]
    """
    study = prepare_lesions(
        model,
        data,
        blocks=blocks,
        plain=plain,
        granularity=granularity,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        level=level,
        command=command,
    )
    return study.run(progress)


def prepare_lesions(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    blocks: str | Sequence[BlockName] | None = None,
    plain: bool = False,
    granularity: Granularity = "block",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    level: float = 0.95,
    command: str | None = None,
) -> LesionStudy:
    """Do all of :func:`lesion` but the measurement, so that its cost is known beforehand.

    Args:
        model: As for :func:`lesion`.
        data: As for :func:`lesion`.
        blocks: As for :func:`lesion`.
        plain: As for :func:`lesion`.
        granularity: As for :func:`lesion`.
        limit: As for :func:`lesion`.
        seed: As for :func:`lesion`.
        batch_size: As for :func:`lesion`.
        level: As for :func:`lesion`.
        command: As for :func:`lesion`.

    Returns:
        The study, ready to run.

    Raises:
        InterventionError: If no block can be deleted, or the blocks named cannot.
    """
    subject = examine(model, data, plain=plain, granularity=granularity, limit=limit, seed=seed)
    chain = subject.chain
    sets: list[tuple[int, ...]]
    if blocks is None:
        sets = [(block.index,) for block in chain if block.deletable]
    else:
        names = parse_blocks(blocks) if isinstance(blocks, str) else tuple(blocks)
        sets = [Arrangement.of([block.name for block in chain]).find_all(names)]
    if not sets:
        raise InterventionError(
            f"None of the {len(chain)} units of this net keeps its shape, so none can be deleted."
        )
    interventions: list[Intervention] = [Compose(), *(Delete(*deleted) for deleted in sets)]
    engine = Engine(chain, [bind(intervention, chain.outline) for intervention in interventions])
    if isinstance(subject.data, LoaderData):
        batch_size = len(next(iter(subject.data.batches()))[1])
    sizes = None if batch_size is None else [batch_size]
    return LesionStudy(
        subject=subject,
        lesions=tuple(_describe([chain.blocks[i] for i in deleted]) for deleted in sets),
        not_deletable=tuple(
            NotDeletable(block.index, block.name, "changes the shape and has no shortcut")
            for block in chain
            if not block.deletable
        ),
        engine=engine,
        calibration=calibrate(engine, subject.sample, sizes=sizes, most=len(subject.data)),
        seed=seed,
        level=level,
        command=command,
    )


def _describe(blocks: Sequence[Block]) -> Lesion:
    kinds = {block.shortcut_kind for block in blocks}
    return Lesion(
        label=format_blocks([block.index for block in blocks]),
        names=tuple(block.name for block in blocks),
        blocks=tuple(block.index for block in blocks),
        changes_shape=any(block.changes_shape for block in blocks),
        shortcut_kind=kinds.pop() if len(kinds) == 1 else "mixed",
    )
