"""Delete blocks and measure what each deletion costs (Veit et al. 2016, section 4.1, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

from torch import nn

from ensemble_view.core.chain import Chain
from ensemble_view.core.engine import Progress
from ensemble_view.core.interventions.arrangement import Arrangement
from ensemble_view.core.interventions.base import Intervention
from ensemble_view.core.interventions.branches import Delete
from ensemble_view.core.interventions.parsing import parse_interventions
from ensemble_view.core.interventions.text import BlockName, parse_blocks
from ensemble_view.core.plan import Action, Plan, bind
from ensemble_view.errors import InterventionError
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.studies.lesion.base import LesionStudyResult
from ensemble_view.studies.lesion.language import LanguageResult
from ensemble_view.studies.lesion.own import MeasuredResult
from ensemble_view.studies.lesion.result import LesionResult
from ensemble_view.study.experiment import Options, experiment, subject_of
from ensemble_view.study.lesions import Lesion, NotDeletable, describe
from ensemble_view.study.outcomes import LanguageOutcomes
from ensemble_view.study.run import Run
from ensemble_view.study.study import Option, PreparedExperiment, Study

__all__ = ["LesionStudy", "PreparedLesions", "lesion"]


@dataclass(frozen=True, eq=False)
class PreparedLesions(PreparedExperiment[LesionStudyResult[Any]]):
    """A lesion study whose cost is known and which has not run yet.

    Args:
        experiment: The lesions on the subject.
        lesions: What is deleted, one entry per plan after the full net's.
        not_deletable: Blocks that are listed but cannot be deleted.
    """

    lesions: tuple[Lesion, ...]
    not_deletable: tuple[NotDeletable, ...]

    def __str__(self) -> str:
        return (
            f"{len(self.lesions)} lesion{'s' * (len(self.lesions) != 1)} of "
            f"{len(self.experiment.subject.chain)} blocks on {self.experiment}"
        )

    def result(self, run: Run) -> LesionStudyResult[Any]:
        """Say what follows from the outcomes."""
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


@dataclass(frozen=True)
class LesionStudy(Study[LesionStudyResult[Any]]):
    """Delete each block in turn, a set of blocks, or do what is asked.

    Args:
        blocks: Delete this set together, instead of each block in turn.
        do: Measure this intervention instead.
    """

    name = "lesion"
    unit = "lesions"
    help = """Delete each block in turn and measure how much accuracy that costs.

    The branch of a block is set to zero at inference; its shortcut stays (Veit, Wilber and
    Belongie 2016, figure 3). Intervals are paired: the same examples before and after. On text:
    next-token accuracy, loss and perplexity.

    Example:  ensemble-view lesion resnet56.th --data cifar10 --out lesions/
    """

    blocks: Annotated[
        str | Sequence[BlockName] | None,
        Option(
            "Delete this set together: indices from 0 and module paths, 3,7-9 or 'layer3.*'. "
            "Default: each block in turn.",
            kind=str,
        ),
    ] = None
    do: Annotated[
        str | Intervention | None,
        Option('Do this instead: "delete 3; swap 7 8; scale 4 0.5; replace 5 mean".', kind=str),
    ] = None

    def prepare(
        self, model: nn.Module | Chain | Checkpoint, data: Any, **options: Unpack[Options]
    ) -> PreparedLesions:
        """Choose the plans, and find out what running them will cost."""
        subject = subject_of(model, data, options)
        changes, lesions = _chosen(subject.chain, self.blocks, self.do)
        return PreparedLesions(
            experiment=experiment(subject, changes, options),
            lesions=lesions,
            not_deletable=tuple(
                NotDeletable(block.index, block.name, "changes the shape and has no shortcut")
                for block in subject.chain
                if not block.deletable
            ),
        )


def lesion(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    blocks: str | Sequence[BlockName] | None = None,
    do: str | Intervention | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> LesionStudyResult[Any]:
    """Delete each block in turn and measure what that costs.

    The protocol of Veit, Wilber and Belongie (2016), section 4.1: the branch of a block is set to
    zero at inference, its shortcut stays, nothing is trained again. Everything is paired: the same
    examples before and after. On labelled examples the drop in accuracy has Tango's (1998) score
    interval and McNemar's exact test (:class:`~ensemble_view.studies.lesion.result.LesionResult`).
    On text it is next-token accuracy, loss, perplexity and KL per token, with t intervals over
    sequences (:class:`~ensemble_view.studies.lesion.language.LanguageResult`); the model is taken
    apart anew for each padded length. By a measure of one's own it is that measure's paired change
    (:class:`~ensemble_view.studies.lesion.own.MeasuredResult`).

    Args:
        model: A module, a chain, or a loaded checkpoint. It is left as it was.
        data: A name such as ``"digits"`` or a path, a DataLoader, a data set, or a pair (inputs,
            labels) of tensors; text as for :func:`~ensemble_view.data.text_sources.open_text`. With
            a measure of one's own, targets may be anything.
        blocks: Delete this set together, instead of each block in turn: indices from 0, module
            paths, or text as on the command line (``"3,7-9"``).
        do: Measure this intervention instead, as a value or as text (``"delete 3; swap 7 8"``).
            Where a branch is replaced by its mean, that is its mean over these data.
        progress: Called with the block evaluations done, times examples.
        **options: Those that all studies share (:class:`~ensemble_view.study.experiment.Options`):
            ``measure``, ``limit``, ``seed``, ``batch_size``, ``level`` and the others.

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
    return LesionStudy(blocks, do).prepare(model, data, **options).run(progress)


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
