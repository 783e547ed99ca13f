"""Delete blocks and measure what each deletion costs (Veit et al. 2016, section 4.1, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ensemble_view.chain import Block, Chain
from ensemble_view.checkpoints import Checkpoint
from ensemble_view.discovery import Granularity
from ensemble_view.engine import Progress
from ensemble_view.errors import InterventionError
from ensemble_view.interventions import (
    Arrangement,
    BlockName,
    Delete,
    Intervention,
    format_blocks,
    parse_blocks,
    parse_interventions,
)
from ensemble_view.measures import OwnMeasure
from ensemble_view.plan import Action, Plan, bind
from ensemble_view.results import (
    LanguageOutcomes,
    LanguageResult,
    Lesion,
    LesionResult,
    LesionStudyResult,
    MeasuredResult,
    NotDeletable,
)
from ensemble_view.studies.experiment import (
    Experiment,
    Options,
    OwnFunction,
    experiment,
    subject_of,
)

__all__ = ["LesionStudy", "OwnFunction", "describe", "lesion", "prepare_lesions"]


@dataclass(frozen=True, eq=False)
class LesionStudy:
    """A lesion study whose cost is known and which has not run yet.

    Args:
        experiment: The lesions on the subject.
        lesions: What is deleted, one entry per plan after the full net's.
        not_deletable: Blocks that are listed but cannot be deleted.
    """

    experiment: Experiment
    lesions: tuple[Lesion, ...]
    not_deletable: tuple[NotDeletable, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers."""
        return self.experiment.subject.notes

    @property
    def work(self) -> int:
        """Block evaluations times examples: the total of what ``progress`` is told."""
        return self.experiment.work

    def __str__(self) -> str:
        return (
            f"{len(self.lesions)} lesion{'s' * (len(self.lesions) != 1)} of "
            f"{len(self.experiment.subject.chain)} blocks on {self.experiment}"
        )

    def run(self, progress: Progress | None = None) -> LesionStudyResult[Any]:
        """Measure all lesions.

        Args:
            progress: Told of the block evaluations done, times examples.

        Returns:
            The result; of the examples done so far, if the user interrupted.
        """
        run = self.experiment.run(progress)
        shared: dict[str, Any] = {
            "lesions": self.lesions,
            "outcomes": run.outcomes,
            "cost": run.cost,
            "seconds": run.seconds,
            "provenance": run.provenance,
            "block_count": len(self.experiment.subject.chain),
            "not_deletable": self.not_deletable,
            "level": run.level,
            "interrupted": run.interrupted,
        }
        if run.measure is not None:
            return MeasuredResult(
                **shared, measure=run.measure, higher_is_better=run.higher_is_better
            )
        if isinstance(run.outcomes, LanguageOutcomes):
            return LanguageResult(**shared)
        return LesionResult(**shared)


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
    output: str | int | None = None,
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
        measure: For tasks other than these: a function from a net's output and the targets of the
            same batch to a tensor of one number per example. Of a net with several outputs it gets
            the one that ``output`` names; with ``output="all"`` it gets what the net returns.
        higher_is_better: Whether a larger value of that measure is better.
        tokenizer: Of text: a name or folder for transformers, a tokenizer, or a function from a
            string to token numbers; by default bytes, for a model of 256 tokens.
        length: Of text: the most tokens of a sequence; by default 512, or as many as the model
            takes.
        output: Of a net with several outputs, which is measured, by key or position; by default
            ``logits``, else the first floating-point tensor, and the others are named. ``"all"``
            gives a measure of one's own all outputs, where they part after the last block.
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
        output=output,
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
    output: str | int | None = None,
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
        output: As for :func:`lesion`.
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
    options: Options = {
        "measure": measure,
        "higher_is_better": higher_is_better,
        "tokenizer": tokenizer,
        "length": length,
        "output": output,
        "plain": plain,
        "granularity": granularity,
        "limit": limit,
        "seed": seed,
        "batch_size": batch_size,
        "level": level,
        "command": command,
    }
    subject = subject_of(model, data, options)
    changes, lesions = _chosen(subject.chain, blocks, do)
    return LesionStudy(
        experiment=experiment(subject, changes, options),
        lesions=lesions,
        not_deletable=tuple(
            NotDeletable(block.index, block.name, "changes the shape and has no shortcut")
            for block in subject.chain
            if not block.deletable
        ),
    )


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
        return [done], (describe([chain.blocks[i] for i in touched], str(done)),)
    sets: list[tuple[int, ...]]
    if blocks is None:
        sets = [(block.index,) for block in chain if block.deletable]
    else:
        names = parse_blocks(blocks, len(chain)) if isinstance(blocks, str) else tuple(blocks)
        sets = [Arrangement.of([block.name for block in chain]).find_all(names)]
    if not sets:
        raise InterventionError(
            f"None of the {len(chain)} units of this net keeps its shape, so none can be deleted."
        )
    described = (describe([chain.blocks[i] for i in deleted]) for deleted in sets)
    return [Delete(*deleted) for deleted in sets], tuple(described)


def _touched(plan: Plan) -> list[int]:
    """Blocks that do not run, or not as they did where they did."""
    moved = set(plan.moved)
    changed = {step.index for step in plan.blocks if step.action is not Action.KEEP}
    return sorted(moved | changed)


def describe(blocks: Sequence[Block], label: str | None = None) -> Lesion:
    """Describe what a lesion deletes.

    Args:
        blocks: The deleted blocks.
        label: What was done, in words; by default the blocks' indices.

    Returns:
        The description.
    """
    kinds = {block.shortcut_kind for block in blocks}
    return Lesion(
        label=label or format_blocks([block.index for block in blocks]),
        names=tuple(block.name for block in blocks),
        blocks=tuple(block.index for block in blocks),
        changes_shape=any(block.changes_shape for block in blocks),
        shortcut_kind=kinds.pop() if len(kinds) == 1 else "mixed",
    )
