"""Interventions on a subject, bound and priced: what every study by interventions runs.

What is measured depends on the data: the class of labelled examples, the next token of text, or
what a user's own measure says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ensemble_view.core.alteration import branch_means
from ensemble_view.core.chain import Chain
from ensemble_view.core.engine import Engine, Progress, Reduction
from ensemble_view.core.interventions.base import Compose, Intervention
from ensemble_view.core.plan import bind
from ensemble_view.data.data import Portion, examples_in
from ensemble_view.data.loader_data import LoaderData
from ensemble_view.data.seeds import check_seed
from ensemble_view.data.target_data import TargetData
from ensemble_view.data.text_data import TextData
from ensemble_view.discovery.capture import as_arguments
from ensemble_view.discovery.granularity import Granularity
from ensemble_view.errors import MeasurementError, warn
from ensemble_view.measures.classification import Classification
from ensemble_view.measures.language import Language
from ensemble_view.measures.logits import ClassificationWithLogits
from ensemble_view.measures.measure import Measure
from ensemble_view.measures.own import OwnMeasure
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.study.near_chance import near_chance
from ensemble_view.study.outcomes import ExampleArrays, LanguageOutcomes, MeasuredOutcomes, Outcomes
from ensemble_view.study.pace import Pace, duration, fastest_pace
from ensemble_view.study.portions import Measured, measure_portions
from ensemble_view.study.provenance import WARNING, Cost
from ensemble_view.study.run import Run
from ensemble_view.study.subject import Subject, examine

__all__ = [
    "Experiment",
    "Options",
    "OwnFunction",
    "experiment",
    "measure_of",
    "measure_with_logits",
    "subject_of",
]

OwnFunction = Callable[[Any, Any], Any]
"""From a net's output (all of them with output="all") and a batch's targets to one number each."""

# Of one batch's outputs, of which two or three exist at a time.
_MOST_NUMBERS = {"cpu": 2**27, "cuda": 2**30}
_SEQUENCES = (1, 4, 16, 64, 256)


class Options(TypedDict, total=False):
    """What every study takes beside its own options.

    Attributes:
        measure: For tasks other than classes and text: a function from a net's output and the
            targets of the same batch to a tensor of one number per example. Of a net with several
            outputs it gets the one that ``output`` names; with ``output="all"`` what the net
            returns.
        higher_is_better: Whether a larger value of that measure is better.
        tokenizer: Of text: a name or folder for transformers, a tokenizer, or a function from a
            string to token numbers; by default bytes, for a model of 256 tokens.
        length: Of text: the most tokens of a sequence; by default 512, or as many as the model
            takes.
        plain: For a net without shortcuts: its conv-norm-activation units are the blocks.
        granularity: ``block`` or ``branch``, as for :func:`ensemble_view.unravel`.
        output: Of a net with several outputs, which is measured, by key or position; by default
            ``logits``, else the first floating-point tensor, and the others are named. ``"all"``
            gives a measure of one's own all outputs, where they part after the last block.
        limit: At most so many examples, class-balanced where they have classes.
        seed: Of every random choice.
        batch_size: Examples per batch; by default the fastest, found by a short measurement. Of
            text it is that of the length that most tokens have; others are in proportion.
        level: Of the intervals.
        command: Recorded in the result; by default the program's command line.
    """

    measure: OwnFunction | OwnMeasure | None
    higher_is_better: bool
    tokenizer: Any
    length: int | None
    plain: bool
    granularity: Granularity
    output: str | int | None
    limit: int | None
    seed: int
    batch_size: int | None
    level: float
    command: str | None


@dataclass(frozen=True, eq=False)
class Experiment:
    """Interventions on a subject whose cost is known and which have not run yet.

    Args:
        subject: Chains and data.
        interventions: The full net, then what is done to it.
        engine: Holds the plans for the first portion of the data.
        measure: What is measured.
        pace: Batch size and expected time per example, of the first portion.
        seed: Of every random choice.
        level: Of the intervals.
        higher_is_better: Of a user's own measure.
        command: What made the result.
    """

    subject: Subject
    interventions: tuple[Intervention, ...]
    engine: Engine
    measure: Measure
    pace: Pace
    seed: int
    level: float
    higher_is_better: bool
    command: str | None

    @property
    def expected_seconds(self) -> float:
        """How long the run will take, from a short measurement on this machine."""
        examples = sum(len(p.data) / p.size for _, p in self.subject.portions)
        return self.pace.seconds_per_example * examples

    @property
    def work(self) -> int:
        """Block evaluations times examples: the total of what ``progress`` is told."""
        return self.engine.cost.block_evaluations * len(self.subject.data)

    def __str__(self) -> str:
        cost, data = self.engine.cost, self.subject.data
        saved = 1 - cost.block_evaluations / max(cost.naive_block_evaluations, 1)
        lengths = len(self.subject.portions)
        return (
            f"{len(data):,} {data.unit}{f' of {lengths} lengths' if lengths > 1 else ''}: "
            f"{cost.block_evaluations:,} block evaluations "
            f"per batch instead of {cost.naive_block_evaluations:,} ({saved:.0%} saved), batches "
            f"of {self.pace.batch_size}, about {duration(self.expected_seconds)}"
        )

    def run(self, progress: Progress | None = None) -> Run:
        """Measure all plans on all examples.

        Args:
            progress: Told of the block evaluations done, times examples.

        Returns:
            The outcomes; of the examples done so far, if the user interrupted.
        """
        return self.run_of(self.measured(progress))

    def measured(
        self, progress: Progress | None = None, reduction: Reduction | None = None
    ) -> Measured:
        """Measure all plans on all examples, and keep what a reduction leaves of each batch.

        Args:
            progress: Told of the block evaluations done, times examples.
            reduction: As for :meth:`~ensemble_view.core.engine.Engine.measure`.

        Returns:
            What was kept; of the examples done so far, if the user interrupted.
        """
        with self.pace.threads_set():
            return measure_portions(self._engines(), self.pace.batch_size, progress, reduction)

    def run_of(self, measured: Measured) -> Run:
        """Make a run of what was measured, the first plan's outcomes being the full net's.

        Args:
            measured: Of any number of plans, by the names of the experiment's measure.

        Returns:
            The run.
        """
        outcomes = self._outcomes(measured)
        provenance = self.subject.provenance(
            seed=self.seed,
            command=self.command,
            batch_size=self.pace.batch_size,
            threads=self.pace.threads,
        )
        if isinstance(outcomes, Outcomes) and (found := near_chance(outcomes, self.level)):
            warn(found)
            provenance = replace(provenance, notes=(*provenance.notes, f"{WARNING}{found}"))
        return Run(
            outcomes=outcomes,
            cost=Cost(
                block_evaluations=self.engine.cost.block_evaluations,
                naive_block_evaluations=self.engine.cost.naive_block_evaluations,
                batches=measured.batches,
            ),
            seconds=measured.seconds,
            provenance=provenance,
            level=self.level,
            interrupted=measured.interrupted,
            measure=self.measure.name if isinstance(self.measure, OwnMeasure) else None,
            higher_is_better=self.higher_is_better,
        )

    def _engines(self) -> Iterator[tuple[Engine, Portion]]:
        """An engine for each portion, made when its turn comes: it copies the weights."""
        for number, (chain, portion) in enumerate(self.subject.portions):
            if number:
                yield _engine(chain, portion, self.interventions, self.measure), portion
            else:
                yield self.engine, portion

    def _outcomes(self, measured: Measured) -> ExampleArrays:
        """The outcomes of the plans beside those of the full net, which ran first."""
        outcomes, data = measured.outcomes, self.subject.data
        if isinstance(self.measure, OwnMeasure):
            values = outcomes["values"]
            return MeasuredOutcomes(values=values[1:], baseline=values[0])
        shared: dict[str, Any] = {
            **{name: values[1:] for name, values in outcomes.items()},
            "baseline_correct": outcomes["correct"][0],
            "baseline_loss": outcomes["loss"][0],
        }
        if isinstance(data, TextData):
            return LanguageOutcomes(
                **shared,
                commonest=data.most_frequent(measured.positions),
                tokens=measured.facts["tokens"],
            )
        return Outcomes(**shared, labels=measured.facts["labels"])


def subject_of(
    model: nn.Module | Chain | Checkpoint, data: Any, options: Options, *, any_targets: bool = False
) -> Subject:
    """Bring a model and data together as a study's options say.

    Args:
        model: A module, a chain, or a loaded checkpoint.
        data: As for :func:`ensemble_view.lesion`.
        options: Of the study.
        any_targets: Whether targets are not looked at.

    Returns:
        The subject.

    Raises:
        MeasurementError: If there is no option of one of the names, or the seed is none.
    """
    # Keywords that no study knows would otherwise be dropped without a word.
    unknown = [name for name in options if name not in Options.__annotations__]
    if unknown:
        raise MeasurementError(
            f"There is no option {' or '.join(map(repr, unknown))}; expected "
            f"{', '.join(Options.__annotations__)}, or an argument of the study itself."
        )
    check_seed(options.get("seed", 0))
    return examine(
        model,
        data,
        plain=options.get("plain", False),
        granularity=options.get("granularity", "block"),
        limit=options.get("limit"),
        seed=options.get("seed", 0),
        any_targets=any_targets or options.get("measure") is not None,
        tokenizer=options.get("tokenizer"),
        length=options.get("length"),
        output=options.get("output"),
        all_outputs=options.get("measure") is not None,
        batch_size=options.get("batch_size"),
    )


def experiment(
    subject: Subject,
    interventions: Sequence[Intervention],
    options: Options,
    *,
    measure: Measure | None = None,
    held: int = 1,
) -> Experiment:
    """Bind interventions to a subject, and find out what running them will cost.

    Args:
        subject: Chains and data.
        interventions: What is measured against the full net.
        options: Of the study.
        measure: What is measured, if not what the data and options say.
        held: How many outputs of one example exist at a time, which bounds the batch size.

    Returns:
        Ready to run.

    Raises:
        InterventionError: If an intervention does not fit.
    """
    own = options.get("measure")
    measure = measure or measure_of(own, subject)
    every = (Compose(), *interventions)
    engine = _engine(*subject.portions[0], every, measure)
    return Experiment(
        subject=subject,
        interventions=every,
        engine=engine,
        measure=measure,
        pace=_paced(engine, subject, options.get("batch_size"), own, held),
        seed=options.get("seed", 0),
        level=options.get("level", 0.95),
        higher_is_better=options.get("higher_is_better", True),
        command=options.get("command"),
    )


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


def measure_of(own: OwnFunction | OwnMeasure | None, subject: Subject) -> Measure:
    """Say what is measured: a measure of one's own, or what suits the data.

    Args:
        own: Of the study's options.
        subject: Chains and data.

    Returns:
        The measure.
    """
    if own is not None:
        measure = own if isinstance(own, OwnMeasure) else OwnMeasure(own)
        every = subject.chain.whole is not None
        return replace(measure, all_outputs=True) if every else measure
    return Language() if isinstance(subject.data, TextData) else Classification()


def _paced(
    engine: Engine, subject: Subject, batch_size: int | None, own: object, held: int
) -> Pace:
    args, kwargs = as_arguments(subject.sample[0])
    _, output = next(engine.logits(*args, **kwargs))
    data = subject.portions[0][1].data
    tensors = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    if isinstance(data, TextData) and isinstance(output, Tensor) and output.ndim == 3:
        data.check_vocabulary(output.shape[2])
    if isinstance(data, LoaderData) or (isinstance(data, TargetData) and data.loader is not None):
        batch_size = examples_in(next(iter(data.batches())))
    # A user's own measure sees the targets of real batches only.
    sample = subject.sample if own is None else (subject.sample[0], None)
    if batch_size is not None:
        return fastest_pace(engine, sample, sizes=[batch_size], most=len(data))
    numbers = sum(leaf.numel() // max(len(leaf), 1) if leaf.ndim else 1 for leaf in tensors)
    most = max(1, _MOST_NUMBERS.get(engine.device.type, 2**27) // (held * numbers))
    sizes = _SEQUENCES if isinstance(data, TextData) else None
    return fastest_pace(engine, sample, sizes=sizes, most=min(len(data), most))


def measure_with_logits(subject: Subject, options: Options) -> Measure:
    """Say what is measured, of a classifier with its logits.

    Args:
        subject: Chains and data.
        options: Of the study.

    Returns:
        The measure.
    """
    measure = measure_of(options.get("measure"), subject)
    if not isinstance(measure, Classification):
        return measure
    args, kwargs = as_arguments(subject.sample[0])
    with torch.inference_mode():
        output = subject.chain(*args, **kwargs)
    classes = output.shape[1] if output.ndim == 2 else 0
    return ClassificationWithLogits(classes, output.dtype == torch.float64)
