"""Delete k random blocks, for each k (Veit et al. 2016, section 4.2, figure 5(a))."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Annotated, Any, Unpack

import numpy as np
from torch import nn

from ensemble_view.core.chain import Chain
from ensemble_view.core.engine import Progress
from ensemble_view.core.interventions.branches import Delete
from ensemble_view.core.trie import Trie
from ensemble_view.errors import InterventionError
from ensemble_view.measures.logits import ClassificationWithLogits
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.statistics.subsets import Subsets
from ensemble_view.studies.random.law import AdditivePredictions
from ensemble_view.studies.random.reduction import AdditiveReduction, reason_for_no_law
from ensemble_view.studies.random.result import ManyResult
from ensemble_view.study.counts import Counts, read_counts
from ensemble_view.study.draws import stages_of
from ensemble_view.study.experiment import Options, experiment, measure_with_logits, subject_of
from ensemble_view.study.study import Option, PricedExperiment, Study

__all__ = ["PreparedRandom", "RandomStudy", "check_trials", "random"]

_MOST = 20
_MOST_TRIALS = 10_000


@dataclass(frozen=True, eq=False)
class PreparedRandom(PricedExperiment):
    """Random deletions whose cost is known and which have not run yet.

    Args:
        experiment: The deletions on the subject, then each block's alone.
        deleted: The blocks that each trial deletes, one entry per plan after the full net's.
        enumerated: Numbers of deletions at which these are all subsets.
        subsets: What was drawn from.
        singles: The blocks that are deleted alone, one entry per plan after those of the trials.
    """

    deleted: tuple[tuple[int, ...], ...]
    enumerated: tuple[int, ...]
    subsets: Subsets
    singles: tuple[int, ...]

    @property
    def added(self) -> int:
        """How many of the block evaluations are for the single deletions only."""
        plans = self.experiment.engine.plans
        without = Trie(plans[: 1 + len(self.deleted)]).cost.block_evaluations
        return self.experiment.engine.cost.block_evaluations - without

    def __str__(self) -> str:
        counts = sorted({len(blocks) for blocks in self.deleted})
        span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        added = self.added
        beside = f", and each alone ({added:,} block evaluations of these)" if added else ""
        return (
            f"{len(self.deleted):,} sets of {span} of {self.subsets.size} blocks{beside} on "
            f"{self.experiment}"
        )

    def run(self, progress: Progress | None = None) -> ManyResult:
        """Measure all trials and single deletions.

        Args:
            progress: Told of the block evaluations done, times examples.

        Returns:
            The result; of the examples done so far, if the user interrupted.
        """
        measure = self.experiment.measure
        reduction = None
        if isinstance(measure, ClassificationWithLogits):
            reduction = AdditiveReduction(measure.logit_names, self.deleted, self.singles)
        measured = self.experiment.measured(progress, reduction)
        outcomes = dict(measured.outcomes)
        predicted = outcomes.pop("additive", None)
        run = self.experiment.run_of(replace(measured, outcomes=outcomes))
        trials = len(self.deleted)
        return ManyResult(
            run=run.part(slice(0, trials)),
            names=tuple(block.name for block in self.experiment.subject.chain),
            deleted=self.deleted,
            enumerated=self.enumerated,
            groups=self.subsets.groups,
            alone=run.part(slice(trials, None)),
            additive=None
            if predicted is None
            else AdditivePredictions(predicted, measured.facts["labels"]),
            no_law=reason_for_no_law(measure),
        )


@dataclass(frozen=True)
class RandomStudy(Study[ManyResult]):
    """Delete k random blocks, for each k.

    Args:
        count: Numbers of blocks to delete; by default 1 to 20, or as many as there are.
        trials: Subsets per number, at least 2; of single blocks all.
        shape_keeping: Whether only blocks are drawn that keep the shape.
        stratified: Whether the deletions are shared out evenly over the stages.
    """

    name = "random"
    unit = "lesions"
    help = """Delete k random blocks for each k, and measure how the error grows.

    The protocol of Veit, Wilber and Belongie (2016), figure 5a, with an interval over trials and
    examples. The additive law predicts from single deletions what an ensemble would lose.

    Example:  ensemble-view random resnet56.th --data cifar10 --count 1-20 --trials 50
    """

    count: Annotated[
        Counts | None,
        Option("Numbers of blocks to delete: 1-20, 1,2,5. Default: 1 to 20.", kind=str),
    ] = None
    trials: Annotated[int, Option("Random draws per number; all, where there are no more.")] = 50
    shape_keeping: Annotated[bool, Option("Draw only blocks that keep the shape.")] = False
    stratified: Annotated[bool, Option("Share the deletions out evenly over the stages.")] = False

    def prepare(
        self, model: nn.Module | Chain | Checkpoint, data: Any, **options: Unpack[Options]
    ) -> PreparedRandom:
        """Choose the plans, and find out what running them will cost."""
        check_trials(self.trials)
        wanted = None if self.count is None else read_counts(self.count, "blocks to delete")
        subject = subject_of(model, data, options)
        subsets = _drawn_from(
            subject.chain, shape_keeping=self.shape_keeping, stratified=self.stratified
        )
        counts = wanted or tuple(range(1, min(_MOST, subsets.size) + 1))
        if counts[-1] > subsets.size:
            which = "keep the shape" if self.shape_keeping else "can be deleted"
            raise InterventionError(
                f"{counts[-1]} blocks are to be deleted, but only {subsets.size} of the "
                f"{len(subject.chain)} blocks {which}; ask for at most {subsets.size}."
            )
        rng = np.random.default_rng(options.get("seed", 0))
        # All single deletions are measured in any case.
        drawn = {
            each: subsets.draw(each, subsets.size if each == 1 else self.trials, rng)
            for each in counts
        }
        deleted = tuple(blocks for found, _ in drawn.values() for blocks in found)
        singles = tuple(sorted(itertools.chain(*subsets.groups)))
        plans = [Delete(*blocks) for blocks in (*deleted, *((block,) for block in singles))]
        measure = measure_with_logits(subject, options)
        return PreparedRandom(
            experiment=experiment(
                subject,
                plans,
                options,
                measure=measure,
                held=len(plans) + 1 if isinstance(measure, ClassificationWithLogits) else 1,
            ),
            deleted=deleted,
            enumerated=tuple(each for each, (_, complete) in drawn.items() if complete),
            subsets=subsets,
            singles=singles,
        )


def random(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    count: Counts | None = None,
    trials: int = 50,
    shape_keeping: bool = False,
    stratified: bool = False,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> ManyResult:
    """Delete k random blocks for each k, and measure how the error grows.

    The protocol of Veit, Wilber and Belongie (2016), section 4.2: subsets of k blocks are drawn
    uniformly, no subset twice, and all trials are measured on the same examples. Trials and
    examples are crossed, so that the interval of the mean is that of a two-way table. Where there
    are no more subsets than trials, all of them are taken, and no error of the trials' choice is
    left.

    Every block is deleted alone, too. These single deletions share their prefixes with the trials
    (:attr:`PreparedRandom.added` is what they add), and serve twice: as a control variate that
    takes out which blocks happened to be drawn (:func:`
    ~ensemble_view.statistics.subset_mean.subset_mean`), and for the additive law, which says what
    an ensemble would lose: the accuracy of ``argmax(f - sum over i in D of (f - f_-i))`` is set
    against the measured one of the same sets D on the same examples (:class:`
    ~ensemble_view.studies.random.law.AdditiveLaw`).

    Args:
        model: As for :func:`ensemble_view.lesion`.
        data: As for :func:`ensemble_view.lesion`.
        count: Numbers of blocks to delete: ``"1-20"``, ``"1,2,5"``, a range or numbers; by default
            1 to 20, or as many as there are.
        trials: Subsets per number, at least 2; of single blocks all.
        shape_keeping: Whether only blocks are drawn that keep the shape.
        stratified: Whether the deletions are shared out evenly over the stages (runs of blocks of
            one output shape): numbers differ by one at most unless a stage is all deleted, and all
            such subsets are equally likely.
        progress: Called with the block evaluations done, times examples.
        **options: As for :func:`ensemble_view.lesion`: ``limit``, ``seed`` (also of the drawing),
            ``measure``, ``batch_size``, ``level`` and the others.

    Returns:
        The result: ``.frame``, ``.trials_frame``, ``.correlation``, ``.plot()``, ``.save(folder)``.

    Raises:
        EnsembleViewError: If model, data and numbers do not fit each other; the sentence says how.

    Example:
        >>> import ensemble_view
        >>> checkpoint = ensemble_view.load_checkpoint("digits-resnet110")
        >>> result = ensemble_view.random(checkpoint, "digits", count="1,10", trials=3, limit=50)
        >>> result.frame[["deleted", "trials", "enumerated"]].to_dict("list")
        {'deleted': [1, 10], 'trials': [54, 3], 'enumerated': [True, False]}
    """
    study = RandomStudy(count, trials, shape_keeping, stratified)
    return study.prepare(model, data, **options).run(progress)


def check_trials(trials: int) -> None:
    """Refuse a number of trials that gives no interval.

    Args:
        trials: As a user gave it.

    Raises:
        InterventionError: If there are fewer than two, or more than 10,000.

    Example:
        >>> check_trials(50)
    """
    if trials < 2:
        raise InterventionError(
            f"{trials} trial{'s' * (trials != 1)} cannot tell how much trials differ; ask for at "
            "least 2, such as 50."
        )
    if trials > _MOST_TRIALS:
        raise InterventionError(
            f"{trials:,} trials were asked for; ask for at most {_MOST_TRIALS:,} of each number."
        )


def _drawn_from(chain: Chain, *, shape_keeping: bool, stratified: bool) -> Subsets:
    pool = {
        block.index
        for block in chain
        if block.deletable and not (shape_keeping and block.changes_shape)
    }
    if not pool:
        raise InterventionError(
            f"None of the {len(chain)} blocks of this net keeps its shape, so there is none to "
            "draw."
        )
    if not stratified:
        return Subsets((tuple(sorted(pool)),))
    stages = stages_of(chain.outline.slots)
    kept = (tuple(index for index in stage if index in pool) for stage in stages)
    return Subsets(tuple(stage for stage in kept if stage))
