"""Deletions beside a control: the shortcut dropped, the net untrained, BatchNorm recalibrated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self, TypeAlias, Unpack, get_args

from torch import nn

from ensemble_view.core.chain import Chain
from ensemble_view.core.engine import Progress
from ensemble_view.core.interventions.base import Compose, Intervention
from ensemble_view.core.interventions.branches import Delete, DropShortcut
from ensemble_view.core.interventions.text import BlockName
from ensemble_view.data.data import Data
from ensemble_view.errors import DataError, InterventionError, MeasurementError
from ensemble_view.measures.change import RelativeChange
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.studies.control.recalibration import LARGEST_BATCH, RecalibratedEngine, twin_of
from ensemble_view.studies.control.result import ControlResult
from ensemble_view.study.experiment import Experiment, Options, experiment, subject_of
from ensemble_view.study.lesions import Lesion, chosen_blocks, describe
from ensemble_view.study.pace import duration
from ensemble_view.study.path_subject import pieces, placed
from ensemble_view.study.portions import measure_portions
from ensemble_view.study.provenance import Cost
from ensemble_view.study.run import Run
from ensemble_view.study.study import Argument, Option, Study
from ensemble_view.study.subject import Subject, open_for
from ensemble_view.study.untrained import untrained_net

__all__ = ["Control", "ControlStudy", "PreparedControl", "check_split", "control"]

Control: TypeAlias = Literal["shortcut", "untrained", "batchnorm"]

_FIRST_BATCH = 128
_CALIBRATION = 1024


@dataclass(frozen=True, eq=False)
class PreparedControl:
    """Deletions and their control, whose cost is known and which have not run yet.

    Args:
        control: Which.
        blocks: What each row deletes.
        experiment: The deletions; with ``shortcut``, the control's plans after them.
        untrained: The deletions of the untrained net.
        recalibrated: Runs the deletions with statistics of their own.
        calibration: The examples of these statistics.
        seconds: What the recalibrated runs will take.
    """

    control: Control
    blocks: tuple[Lesion, ...]
    experiment: Experiment
    untrained: Experiment | None = None
    recalibrated: RecalibratedEngine | None = None
    calibration: Data | None = None
    seconds: float = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers."""
        return self.experiment.subject.notes

    @property
    def work(self) -> int:
        """Block evaluations times examples: the total of what ``progress`` is told."""
        work = self.experiment.work
        if self.untrained is not None:
            work += self.untrained.work
        if self.recalibrated is not None and self.calibration is not None:
            examples = len(self.experiment.subject.data)
            work += self._evaluations * (examples + len(self.calibration))
            work += self.recalibrated.cost.block_evaluations * examples
        return work

    @property
    def _evaluations(self) -> int:
        """Of all recalibrated plans."""
        plans = self.recalibrated.plans[1:] if self.recalibrated is not None else ()
        return sum(plan.block_evaluations for plan in plans)

    def __str__(self) -> str:
        many = sum(bool(lesion.blocks) for lesion in self.blocks)
        words = f"{many} block{'s' * (many != 1)} deleted"
        if self.untrained is not None:
            return (
                f"{words}, in the net and in the untrained net, each on {self.untrained}; the "
                f"untrained net: {self.untrained.subject.model['untrained']}"
            )
        if self.calibration is None:
            return f"{words}, then without their shortcuts, on {self.experiment}"
        return (
            f"{words} on {self.experiment}; then with BatchNorm estimated anew on "
            f"{len(self.calibration):,} examples of {self.calibration.name}: {len(self.blocks)} "
            f"forward passes over both, about {duration(self.seconds)}"
        )

    def run(self, progress: Progress | None = None) -> ControlResult:
        """Measure the deletions, then the control.

        Args:
            progress: Told of the block evaluations done, times examples.

        Returns:
            The result; if the user interrupted the control, of the examples done by both.

        Raises:
            KeyboardInterrupt: If there is no example that both were done with.
        """
        deleted = self.experiment.run(progress)
        if self.control == "shortcut":
            n = len(self.blocks)
            runs = deleted.part(slice(n)), deleted.part(slice(n, None))
            return ControlResult(self.control, self.blocks, *runs)
        if deleted.interrupted:
            raise KeyboardInterrupt
        controlled = self._recalibrated(progress) if self.untrained is None else (
            self.untrained.run(progress)
        )  # fmt: skip
        if controlled.interrupted:
            if len(self.experiment.subject.portions) > 1:
                raise KeyboardInterrupt
            deleted = replace(deleted.part(slice(None), controlled.examples), interrupted=True)
        return ControlResult(self.control, self.blocks, deleted, controlled)

    def _recalibrated(self, progress: Progress | None) -> Run:
        assert self.recalibrated is not None
        assert self.calibration is not None
        ready, engine = self.experiment, self.recalibrated
        with ready.pace.threads_set():
            measured = measure_portions(
                [(engine, ready.subject.portions[0][1])], ready.pace.batch_size, progress
            )
        run = ready.run_of(measured)
        evaluations = engine.cost.block_evaluations + self._evaluations
        model = {
            **run.provenance.model,
            "batchnorm": "running statistics estimated anew after each lesion, all layers at once: "
            f"means over batches of at most {LARGEST_BATCH}",
            "calibration": self.calibration.to_json(),
        }
        return replace(
            run,
            cost=Cost(evaluations, evaluations, measured.batches),
            provenance=replace(run.provenance, model=model),
        )


@dataclass(frozen=True)
class ControlStudy(Study[ControlResult]):
    """Delete each block, and hold what that does against a control.

    Args:
        control: ``shortcut``, ``untrained`` or ``batchnorm``.
        only: Blocks to delete, one at a time; by default all that can be.
        untrained: The untrained net itself, where it cannot be made from the model.
        calibration: For ``batchnorm``: data; by default the training split.
        calibration_examples: How many of them; by default 1,024, or as many as there are.
    """

    name = "control"
    unit = "lesions"
    help = """Delete each block beside a control.

    shortcut: the same block without its shortcut. untrained: the same deletion in the untrained
    net. batchnorm: the same deletion with BatchNorm's statistics, of all layers at once, estimated
    anew on training examples.

    Example:  ensemble-view control shortcut digits-resnet110
    """

    control: Annotated[
        Control, Argument("shortcut, untrained or batchnorm.", metavar="CONTROL")
    ] = "shortcut"
    only: Annotated[
        str | Sequence[BlockName] | None,
        Option("These blocks alone: 3,7-9 or 'layer3.*'; the others stay.", kind=str),
    ] = None
    untrained: nn.Module | None = None
    calibration: Annotated[
        Any,
        Option(
            "With batchnorm: estimate the statistics on these data. Default: the training split.",
            kind=str,
            metavar="DATA",
        ),
    ] = None
    calibration_examples: Annotated[
        int | None,
        Option("With batchnorm: on so many of them. Default: 1,024, or as many as there are."),
    ] = None

    def opened(self, training: Callable[[str | None], Data]) -> Self:
        """Open the data of BatchNorm's statistics."""
        if self.control != "batchnorm":
            if self.calibration is not None:
                raise InterventionError(
                    f"--calibration is for the control batchnorm; leave it out of {self.control}."
                )
            return self
        data = training(self.calibration)
        if self.calibration is None:
            check_split(data)
        return replace(self, calibration=data)

    def prepare(
        self, model: nn.Module | Chain | Checkpoint, data: Any, **options: Unpack[Options]
    ) -> PreparedControl:
        """Choose the plans, and find out what running them will cost."""
        if self.control not in get_args(Control):
            raise MeasurementError(
                f"There is no control {self.control!r}; expected {', '.join(get_args(Control))}."
            )
        subject = subject_of(model, data, options)
        blocks = chosen_blocks(subject.chain, self.only)
        if self.control == "shortcut":
            blocks = tuple(block for block in blocks if block.is_residual)
            if not blocks:
                raise InterventionError(
                    "None of these units has a shortcut that could be dropped: a net without "
                    "shortcuts has no such control; compare it with a residual net instead."
                )
        lesions = tuple(describe([block]) for block in blocks)
        changes: list[Intervention] = [Delete(block.index) for block in blocks]
        if self.control == "shortcut":
            changes += [DropShortcut(block.index) for block in blocks]
            return PreparedControl(self.control, lesions, experiment(subject, changes, options))
        if self.control == "untrained":
            return _beside_untrained(model, subject, lesions, changes, self.untrained, options)
        chosen = _calibration(model, data, self.calibration, self.calibration_examples, options)
        twin = twin_of(subject, options)
        ready = experiment(subject, [Compose(), *changes], options)
        engine = RecalibratedEngine(
            subject.chain, twin, ready.engine.plans[1:], chosen, ready.measure
        )
        passes = (len(changes) + 1) * (len(chosen) + len(subject.data))
        with ready.pace.threads_set():
            seconds = passes * engine.seconds_per_example()
        full = Lesion("none", ("the full net",), (), changes_shape=False, shortcut_kind="none")
        return PreparedControl(self.control, (full, *lesions), ready, None, engine, chosen, seconds)


def control(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    control: Control = "shortcut",
    *,
    only: str | Sequence[BlockName] | None = None,
    untrained: nn.Module | None = None,
    calibration: Any = None,
    calibration_examples: int | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> ControlResult:
    """Delete each block, and hold what that does against a control.

    ``shortcut``: the same block keeps its branch and loses its shortcut, which Veit, Wilber and
    Belongie (2016, section 4.1) did not try. ``untrained``: the same deletions in the same
    architecture with random weights; its accuracy is at chance, so that both nets are measured by
    ``‖logits − full‖ / ‖full‖`` per example. ``batchnorm``: the running statistics of BatchNorm
    are estimated anew after each deletion, all layers at once, on a copy of the model: reset, then
    the mean over batches of training examples that pass with only BatchNorm in training mode. The
    drop that this removes was no loss of what the block computes. Everything is paired: the same
    examples under both.

    Args:
        model: A module, a chain, or a loaded checkpoint. It is left as it was.
        data: As for :func:`ensemble_view.lesion`.
        control: ``shortcut``, ``untrained`` or ``batchnorm``.
        only: Blocks to delete, one at a time; by default all that can be.
        untrained: The untrained net itself, where it cannot be made from the model.
        calibration: For ``batchnorm``: data as for :func:`ensemble_view.lesion`; by default the
            training split, where ``data`` is a name.
        calibration_examples: How many of them; by default 1,024, or as many as there are.
        progress: Told of the block evaluations done, times examples.
        **options: As :func:`ensemble_view.lesion` takes them.

    Returns:
        The result.

    Raises:
        EnsembleViewError: If model, data and control do not fit each other; the sentence says how.

    Example:
        >>> import torch
        >>> from ensemble_view.nets.models.building import build
        >>> images, labels = torch.randn(8, 3, 8, 8), torch.arange(8)
        >>> net = build("resnet8,width=4").eval()
        >>> control(net, (images, labels)).frame["block"].tolist()
        ['0', '1', '2']
    """
    study = ControlStudy(control, only, untrained, calibration, calibration_examples)
    return study.prepare(model, data, **options).run(progress)


def _beside_untrained(
    model: nn.Module | Chain | Checkpoint,
    subject: Subject,
    lesions: tuple[Lesion, ...],
    changes: Sequence[Intervention],
    given: nn.Module | None,
    options: Options,
) -> PreparedControl:
    if options.get("measure") is not None:
        raise MeasurementError(
            "The untrained net is compared by the relative change of the output, not by a measure "
            "of one's own; leave measure out."
        )
    if given is None:
        batch = next(iter(subject.portions[0][1].data.batches(_FIRST_BATCH)))
        inputs, _ = next(pieces(*batch, _FIRST_BATCH))
        inputs = placed(inputs, subject.device)
        fresh, how = untrained_net(model, subject.chain, inputs, options.get("seed", 0))
    else:
        fresh, how = given, "as it was given"
    shape: Options = {
        "plain": options.get("plain", False),
        "granularity": options.get("granularity", "block"),
        # That of the net, also where a checkpoint names it.
        "output": subject.chain.output or None,
        "batch_size": options.get("batch_size"),
    }
    beside = subject_of(fresh, subject.data, shape)
    if [block.name for block in beside.chain] != [block.name for block in subject.chain]:
        raise MeasurementError(
            f"The untrained net comes apart into {len(beside.chain)} blocks, or others than the "
            f"{len(subject.chain)} of the net; give one of the same architecture, with plain and "
            "granularity as options."
        )
    name = f"{subject.model['name']}, untrained"
    beside = replace(beside, model={**beside.model, "name": name, "untrained": how})
    options = {**options, "higher_is_better": False}
    ready, fresh_ready = (
        experiment(each, changes, options, measure=RelativeChange()) for each in (subject, beside)
    )
    return PreparedControl("untrained", lesions, ready, fresh_ready)


def _calibration(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    given: Any,
    examples: int | None,
    options: Options,
) -> Data:
    """The examples that the statistics are estimated on."""
    if given is None and not isinstance(data, str):
        raise DataError(
            "Which examples the net was trained on cannot be told from these data; give some of "
            "them: calibration=."
        )
    opened = open_for(
        model,
        data if given is None else given,
        any_targets=options.get("measure") is not None,
        tokenizer=options.get("tokenizer"),
        length=options.get("length"),
        split="train",
    )
    if given is None:
        check_split(opened)
    if examples is None:
        examples = min(_CALIBRATION, len(opened))
    if examples < 2:
        raise DataError(
            f"Statistics cannot be estimated on {examples} examples; expected at least 2."
        )
    if len(opened) < examples:
        raise DataError(
            f"There are {len(opened):,} examples in {opened.name} to estimate the statistics on, "
            f"but {examples:,} were asked for; ask for fewer, or give other calibration data."
        )
    return opened.subset(examples, options.get("seed", 0))


def check_split(data: Data) -> None:
    """Refuse to take data without a training split for training examples.

    Args:
        data: Opened for its training split.

    Raises:
        DataError: If they have no parts, so that these are the examples that are measured.
    """
    if getattr(data, "split", None) is None:
        raise DataError(
            f"The data {data.name} have no training split; say which examples BatchNorm is to be "
            "estimated on: --calibration on the command line, calibration= in Python."
        )
