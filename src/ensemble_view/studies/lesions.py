"""Delete blocks and measure what each deletion costs (Veit et al. 2016, section 4.1, figure 3).

What is measured depends on the data: the class of labelled examples, the next token of text, or
what a user's own measure says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ensemble_view.alteration import branch_means
from ensemble_view.calibration import Calibration, calibrate, duration
from ensemble_view.chain import Block, Chain
from ensemble_view.checkpoints import Checkpoint
from ensemble_view.datasets import Portion, TargetData, TextData, examples_in
from ensemble_view.datasets.loader_data import LoaderData
from ensemble_view.discovery import Granularity
from ensemble_view.discovery.capture import as_arguments
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
    parse_interventions,
)
from ensemble_view.measures import Classification, Language, Measure, OwnMeasure
from ensemble_view.plan import Action, Plan, bind
from ensemble_view.results import (
    Cost,
    LanguageOutcomes,
    LanguageResult,
    Lesion,
    LesionResult,
    LesionStudyResult,
    MeasuredOutcomes,
    MeasuredResult,
    NotDeletable,
    Outcomes,
)
from ensemble_view.studies.portions import Measured, measure_portions
from ensemble_view.studies.subject import Subject, examine

__all__ = ["LesionStudy", "OwnFunction", "lesion", "prepare_lesions"]

OwnFunction = Callable[[Tensor, Any], Any]
"""From a net's outputs and the targets of a batch to one number per example."""

# Of one batch's outputs, of which two or three exist at a time.
_MOST_NUMBERS = {"cpu": 2**27, "cuda": 2**30}
_SEQUENCES = (1, 4, 16, 64, 256)


@dataclass(frozen=True, eq=False)
class LesionStudy:
    """A lesion study whose cost is known and which has not run yet.

    Args:
        subject: Chains and data.
        lesions: What is deleted, one entry per plan after the full net's.
        not_deletable: Blocks that are listed but cannot be deleted.
        interventions: The full net, then the lesions.
        engine: Holds the plans for the first portion of the data.
        measure: What is measured.
        calibration: Batch size and expected time per example, of the first portion.
        seed: Of every random choice.
        level: Of the intervals.
        higher_is_better: Of a user's own measure.
        command: What made the result.
    """

    subject: Subject
    lesions: tuple[Lesion, ...]
    not_deletable: tuple[NotDeletable, ...]
    interventions: tuple[Intervention, ...]
    engine: Engine
    measure: Measure
    calibration: Calibration
    seed: int
    level: float
    higher_is_better: bool
    command: str | None

    @property
    def expected_seconds(self) -> float:
        """How long the run will take, from a short measurement on this machine."""
        examples = sum(len(p.data) / p.size for _, p in self.subject.portions)
        return self.calibration.seconds_per_example * examples

    @property
    def work(self) -> int:
        """Block evaluations times examples: the total of what ``progress`` is told."""
        return self.engine.cost.block_evaluations * len(self.subject.data)

    def __str__(self) -> str:
        cost, data = self.engine.cost, self.subject.data
        saved = 1 - cost.block_evaluations / max(cost.naive_block_evaluations, 1)
        lengths = len(self.subject.portions)
        return (
            f"{len(self.lesions)} lesion{'s' * (len(self.lesions) != 1)} of "
            f"{len(self.subject.chain)} blocks on "
            f"{len(data):,} {data.unit}{f' of {lengths} lengths' if lengths > 1 else ''}: "
            f"{cost.block_evaluations:,} block evaluations "
            f"per batch instead of {cost.naive_block_evaluations:,} ({saved:.0%} saved), batches "
            f"of {self.calibration.batch_size}, about {duration(self.expected_seconds)}"
        )

    def run(self, progress: Progress | None = None) -> LesionStudyResult[Any]:
        """Measure all lesions.

        Args:
            progress: Told of the block evaluations done, times examples.

        Returns:
            The result; of the examples done so far, if the user interrupted.
        """
        with self.calibration.threads_set():
            measured = measure_portions(self._engines(), self.calibration.batch_size, progress)
        shared: dict[str, Any] = {
            "lesions": self.lesions,
            "cost": Cost(
                block_evaluations=self.engine.cost.block_evaluations,
                naive_block_evaluations=self.engine.cost.naive_block_evaluations,
                batches=measured.batches,
            ),
            "seconds": measured.seconds,
            "provenance": self.subject.provenance(
                seed=self.seed,
                command=self.command,
                batch_size=self.calibration.batch_size,
                threads=self.calibration.threads,
            ),
            "block_count": len(self.subject.chain),
            "not_deletable": self.not_deletable,
            "level": self.level,
            "interrupted": measured.interrupted,
        }
        if isinstance(self.measure, OwnMeasure):
            return MeasuredResult(
                **shared,
                outcomes=_measured_outcomes(measured),
                measure=self.measure.name,
                higher_is_better=self.higher_is_better,
            )
        if isinstance(self.subject.data, TextData):
            return LanguageResult(
                **shared, outcomes=_language_outcomes(measured, self.subject.data)
            )
        return LesionResult(**shared, outcomes=_outcomes(measured))

    def _engines(self) -> Iterator[tuple[Engine, Portion]]:
        """An engine for each portion, made when its turn comes: it copies the weights."""
        for number, (chain, portion) in enumerate(self.subject.portions):
            if number:
                yield _engine(chain, portion, self.interventions, self.measure), portion
            else:
                yield self.engine, portion


def _engine(
    chain: Chain, portion: Portion, interventions: Sequence[Intervention], measure: Measure
) -> Engine:
    plans = [bind(intervention, chain.outline) for intervention in interventions]
    replaced = {
        step.index for plan in plans for step in plan.altered if step.treatment.branch == "mean"
    }
    # A branch's mean is over the examples of one shape.
    means = branch_means(chain, portion.data.batches(), replaced) if replaced else None
    return Engine(chain, plans, measure=measure, means=means)


def _outcomes(measured: Measured) -> Outcomes:
    outcomes = measured.outcomes
    return Outcomes(
        **{name: values[1:] for name, values in outcomes.items()},
        baseline_correct=outcomes["correct"][0],
        baseline_loss=outcomes["loss"][0],
        labels=measured.facts["labels"],
    )


def _language_outcomes(measured: Measured, text: TextData) -> LanguageOutcomes:
    outcomes = measured.outcomes
    return LanguageOutcomes(
        **{name: values[1:] for name, values in outcomes.items()},
        baseline_correct=outcomes["correct"][0],
        baseline_loss=outcomes["loss"][0],
        commonest=text.most_frequent(measured.positions),
        tokens=measured.facts["tokens"],
    )


def _measured_outcomes(measured: Measured) -> MeasuredOutcomes:
    values = measured.outcomes["values"]
    return MeasuredOutcomes(values=values[1:], baseline=values[0])


def lesion(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    blocks: str | Sequence[BlockName] | None = None,
    do: str | Intervention | None = None,
    measure: OwnFunction | OwnMeasure | None = None,
    higher_is_better: bool = True,
    tokenizer: Any = None,
    length: int | None = None,
    plain: bool = False,
    granularity: Granularity = "block",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    level: float = 0.95,
    command: str | None = None,
    progress: Progress | None = None,
) -> LesionStudyResult[Any]:
    """Delete each block in turn and measure what that costs.

    The protocol of Veit, Wilber and Belongie (2016), section 4.1: the branch of a block is set to
    zero at inference, its shortcut stays, nothing is trained again. Everything is paired: the same
    examples before and after. On labelled examples the drop in accuracy has Tango's (1998) score
    interval and McNemar's exact test (:class:`~ensemble_view.results.LesionResult`). On text it is
    next-token accuracy, loss, perplexity and KL per token, with t intervals over sequences
    (:class:`~ensemble_view.results.LanguageResult`); the model is taken apart anew for each padded
    length. By a measure of one's own it is that measure's paired change
    (:class:`~ensemble_view.results.MeasuredResult`).

    Args:
        model: A module, a chain, or a loaded checkpoint. It is left as it was.
        data: A name such as ``"digits"`` or a path, a DataLoader, a data set, or a pair (inputs,
            labels) of tensors; text as for :func:`~ensemble_view.datasets.open_text`. With a
            measure of one's own, targets may be anything.
        blocks: Delete this set together, instead of each block in turn: indices from 0, module
            paths, or text as on the command line (``"3,7-9"``).
        do: Measure this intervention instead, as a value or as text (``"delete 3; swap 7 8"``).
            Where a branch is replaced by its mean, that is its mean over these data.
        measure: For tasks other than these: a function from a net's outputs and the targets of the
            same batch to a tensor of one number per example.
        higher_is_better: Whether a larger value of that measure is better.
        tokenizer: Of text: a name or folder for transformers, a tokenizer, or a function from a
            string to token numbers; by default bytes, for a model of 256 tokens.
        length: Of text: the most tokens of a sequence; by default 512, or as many as the model
            takes.
        plain: For a net without shortcuts: its conv-norm-activation units are the blocks.
        granularity: ``block`` or ``branch``, as for :func:`ensemble_view.unravel`.
        limit: At most so many examples, class-balanced where they have classes.
        seed: Of the choice of examples.
        batch_size: Examples per batch; by default the fastest, found by a short measurement. Of
            text it is that of the length that most tokens have; others are in proportion.
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
        do=do,
        measure=measure,
        higher_is_better=higher_is_better,
        tokenizer=tokenizer,
        length=length,
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
    do: str | Intervention | None = None,
    measure: OwnFunction | OwnMeasure | None = None,
    higher_is_better: bool = True,
    tokenizer: Any = None,
    length: int | None = None,
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
        do: As for :func:`lesion`.
        measure: As for :func:`lesion`.
        higher_is_better: As for :func:`lesion`.
        tokenizer: As for :func:`lesion`.
        length: As for :func:`lesion`.
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
        InterventionError: If no block can be deleted, the blocks named cannot, or the intervention
            does not fit.
    """
    subject = examine(
        model,
        data,
        plain=plain,
        granularity=granularity,
        limit=limit,
        seed=seed,
        any_targets=measure is not None,
        tokenizer=tokenizer,
        length=length,
    )
    chain = subject.chain
    changes, lesions = _chosen(chain, blocks, do)
    interventions = (Compose(), *changes)
    chosen = _measure(measure, subject)
    engine = _engine(*subject.portions[0], interventions, chosen)
    return LesionStudy(
        subject=subject,
        lesions=lesions,
        not_deletable=tuple(
            NotDeletable(block.index, block.name, "changes the shape and has no shortcut")
            for block in chain
            if not block.deletable
        ),
        interventions=interventions,
        engine=engine,
        measure=chosen,
        calibration=_calibrate(engine, subject, batch_size, measure),
        seed=seed,
        level=level,
        higher_is_better=higher_is_better,
        command=command,
    )


def _measure(own: OwnFunction | OwnMeasure | None, subject: Subject) -> Measure:
    if own is not None:
        return own if isinstance(own, OwnMeasure) else OwnMeasure(own)
    return Language() if isinstance(subject.data, TextData) else Classification()


def _calibrate(
    engine: Engine, subject: Subject, batch_size: int | None, own: object
) -> Calibration:
    args, kwargs = as_arguments(subject.sample[0])
    _, output = next(engine.logits(*args, **kwargs))
    data = subject.portions[0][1].data
    if isinstance(data, TextData) and output.ndim == 3:
        data.check_vocabulary(output.shape[2])
    if isinstance(data, LoaderData) or (isinstance(data, TargetData) and data.loader is not None):
        batch_size = examples_in(next(iter(data.batches())))
    # A user's own measure sees the targets of real batches only.
    sample = subject.sample if own is None else (subject.sample[0], None)
    if batch_size is not None:
        return calibrate(engine, sample, sizes=[batch_size], most=len(data))
    most = max(1, _MOST_NUMBERS.get(engine.device.type, 2**27) // output[0].numel())
    sizes = _SEQUENCES if isinstance(data, TextData) else None
    return calibrate(engine, sample, sizes=sizes, most=min(len(data), most))


def _chosen(
    chain: Chain, blocks: str | Sequence[BlockName] | None, do: str | Intervention | None
) -> tuple[list[Intervention], tuple[Lesion, ...]]:
    """What is measured against the full net, and how it is described."""
    if do is not None:
        if blocks is not None:
            raise InterventionError(
                "Both blocks to delete and something to do were given; give one of the two: "
                '"delete 3; swap 7 8".'
            )
        done = parse_interventions(do) if isinstance(do, str) else do
        touched = _touched(bind(done, chain.outline))
        if not touched:
            raise InterventionError(f"{done!r} changes nothing in this net.")
        return [done], (_describe([chain.blocks[i] for i in touched], str(done)),)
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
    described = (_describe([chain.blocks[i] for i in deleted]) for deleted in sets)
    return [Delete(*deleted) for deleted in sets], tuple(described)


def _touched(plan: Plan) -> list[int]:
    """Blocks that do not run, or not as they did where they did."""
    moved = set(plan.moved)
    changed = {step.index for step in plan.blocks if step.action is not Action.KEEP}
    return sorted(moved | changed)


def _describe(blocks: Sequence[Block], label: str | None = None) -> Lesion:
    kinds = {block.shortcut_kind for block in blocks}
    return Lesion(
        label=label or format_blocks([block.index for block in blocks]),
        names=tuple(block.name for block in blocks),
        blocks=tuple(block.index for block in blocks),
        changes_shape=any(block.changes_shape for block in blocks),
        shortcut_kind=kinds.pop() if len(kinds) == 1 else "mixed",
    )
