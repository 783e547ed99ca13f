"""Scale branches step by step, and set several other changes beside each deletion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Unpack

from torch import nn

from ensemble_view.core.chain import Chain
from ensemble_view.core.engine import Progress
from ensemble_view.core.interventions.arrangement import Arrangement
from ensemble_view.core.interventions.base import Compose, Intervention
from ensemble_view.core.interventions.branches import Delete, Replace, Scale
from ensemble_view.core.interventions.text import BlockName, format_blocks, parse_blocks
from ensemble_view.data.seeds import LARGEST_SEED
from ensemble_view.errors import InterventionError, MeasurementError
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.studies.dose.result import NULLS, Dose, DoseResult
from ensemble_view.study.experiment import Experiment, Options, experiment, subject_of
from ensemble_view.study.run import Run
from ensemble_view.study.study import Option, PreparedExperiment, Study

__all__ = ["DOSES", "DoseStudy", "PreparedDoses", "dose"]

_MOST_DRAWS = 1_000
_MOST_DOSES = 1_000

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True, eq=False)
class PreparedDoses(PreparedExperiment[DoseResult]):
    """A study of doses whose cost is known and which has not run yet.

    Args:
        experiment: The plans on the subject.
        doses: What each does.
        undefined: Nulls that are not measured, with the reason.
    """

    doses: tuple[Dose, ...]
    undefined: Mapping[str, str]

    def __str__(self) -> str:
        nulls = sum(each.dose is None for each in self.doses)
        return f"{len(self.doses) - nulls} doses and {nulls} nulls on {self.experiment}"

    def result(self, run: Run) -> DoseResult:
        """Say what follows from the outcomes."""
        return DoseResult(self.doses, run, self.undefined)


@dataclass(frozen=True)
class DoseStudy(Study[DoseResult]):
    """Scale branches step by step, and set several other changes beside each deletion.

    Args:
        blocks: Which; by default all that can be deleted.
        doses: What branches are multiplied by; 1 is the full net.
        draws: Of each random null for each block; 0 leaves all nulls out.
        nulls: Which, of ``noise``, ``constant``, ``donor``, ``mean`` and ``flipped``.
    """

    name = "dose"
    unit = "doses"
    help = """Scale branches from 0 to 1.5, one and all; set other changes beside deletions.

    Is it because branches are small that deleting one does little (Chang et al. 2017)? Then noise
    of the same norm, another example's branch, the mean branch and the branch with its sign changed
    would do as much. Which null is taken decides much, so that all are shown.

    Example:  ensemble-view dose resnet56.th --data cifar10 --blocks 3,7-9 --out dose/
    """

    blocks: Annotated[
        str | Sequence[BlockName] | None,
        Option(
            "Which branches: indices from 0 and module paths, 3,7-9 or 'layer3.*'. Default: all "
            "that can be deleted.",
            kind=str,
        ),
    ] = None
    doses: Annotated[
        str | Sequence[float], Option("What they are multiplied by; 1: full net.", kind=str)
    ] = DOSES
    draws: Annotated[int, Option("Of each random null beside each deletion.", least=0)] = 3
    nulls: Sequence[str] = NULLS

    def prepare(
        self, model: nn.Module | Chain | Checkpoint, data: Any, **options: Unpack[Options]
    ) -> PreparedDoses:
        """Choose the plans, and find out what running them will cost."""
        wanted = sorted(_numbers(self.doses) - {1.0})
        if not wanted:
            raise MeasurementError(
                "There is no dose beside 1, which is the full net; give some such as 0, 0.5 and "
                "1.5."
            )
        if self.draws < 0:
            raise MeasurementError(f"draws is {self.draws}; expected at least 0.")
        if self.draws > _MOST_DRAWS:
            raise MeasurementError(f"draws is {self.draws:,}; expected at most {_MOST_DRAWS:,}.")
        if len(wanted) > _MOST_DOSES or not all(map(math.isfinite, wanted)):
            raise MeasurementError(
                f"There are {len(wanted):,} doses; expected at most {_MOST_DOSES:,} finite "
                "numbers, such as 0, 0.5 and 1.5."
            )
        unknown = [null for null in self.nulls if null not in NULLS]
        if unknown:
            raise MeasurementError(
                f"There is no null {unknown[0]!r}; expected some of {', '.join(NULLS)}."
            )
        subject = subject_of(model, data, options)
        chain = subject.chain
        if self.blocks is None:
            chosen = tuple(block.index for block in chain if block.deletable)
        else:
            names = (
                parse_blocks(self.blocks, len(chain))
                if isinstance(self.blocks, str)
                else tuple(self.blocks)
            )
            chosen = Arrangement.of([block.name for block in chain]).find_all(names)
        if not chosen:
            raise InterventionError(
                "There is no block to scale: none was named, or none of this net's can be deleted."
            )
        seed = options.get("seed", 0)
        plans: list[tuple[Dose, Intervention]] = []
        groups: list[tuple[str, tuple[int, ...]]] = [(str(index), (index,)) for index in chosen]
        if len(chosen) > 1:
            groups.append(("all" if self.blocks is None else format_blocks(chosen), chosen))
        for label, members in groups:
            changes = any(chain.blocks[index].changes_shape for index in members)
            for dose in wanted:
                scaled = Compose(tuple(Scale(index, dose) for index in members))
                done = Delete(*members) if dose == 0 else scaled
                plans.append((Dose(label, members, dose, changes_shape=changes), done))
            if len(members) == 1 and 0.0 in wanted and self.draws:
                plans += _nulls(members[0], self.nulls, self.draws, seed, chain, changes=changes)
        undefined: dict[str, str] = {}
        uncounted = [chain.blocks[i].name for i in chosen if not chain.blocks[i].by_example]
        if uncounted and self.draws:
            undefined[f"Any null but flipped for {', '.join(uncounted)}"] = (
                "the first dimension of the sum does not count examples"
            )
        ready = experiment(subject, [done for _, done in plans], options)
        if any(dose.null == "donor" for dose, _ in plans if dose.dose is None) and _alone(ready):
            fitting = _without_one_left(ready, options)
            if fitting is None:
                undefined["The donor"] = "a batch is of one example, which has no other"
                plans = [(dose, done) for dose, done in plans if dose.dose is not None
                         or dose.null != "donor"]  # fmt: skip
            else:
                options = {**options, "batch_size": fitting}
            ready = experiment(subject, [done for _, done in plans], options)
        return PreparedDoses(ready, tuple(dose for dose, _ in plans), undefined)


def _numbers(doses: str | Sequence[float]) -> set[float]:
    try:
        return {float(dose) for dose in (doses.split(",") if isinstance(doses, str) else doses)}
    except ValueError:
        raise MeasurementError(
            f"The doses are {doses!r}; write numbers separated by commas, such as 0,0.5,1.5."
        ) from None


def dose(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    blocks: str | Sequence[BlockName] | None = None,
    doses: Sequence[float] = DOSES,
    draws: int = 3,
    nulls: Sequence[str] = NULLS,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> DoseResult:
    """Measure what a net loses as branches are scaled, and as nulls stand in for a deletion.

    Each block's branch is multiplied by each dose, alone and together with the others; of a unit G
    without shortcut ``x + α (G(x) - x)`` is computed. Is it because branches are small that
    deleting one does little (Chang et al. 2017, arXiv 1710.10348)? Then other changes of that size
    would do as much. Which ones decides much, so that several stand beside each deletion (dose 0):

    ``noise``: the branch stays, and noise of its norm in a direction that is uniform over all its
    entries is added, each example's own. ``constant``: the same in one direction that all examples
    share. ``donor``: another example's branch of the same batch in its place, by a random cycle.
    ``mean``: its mean over the data in its place. ``flipped``: -F in the place of F, a change of
    2F, which is twice as large as the deletion's; the others are as large, or as large as branches
    differ. The result gives the ratio of what each makes worse to what the deletion does, and says
    that size does not explain it only where all of them lie on one side.

    Args:
        model: As for :func:`ensemble_view.lesion`.
        data: As for :func:`ensemble_view.lesion`.
        blocks: Which, as for :func:`ensemble_view.lesion`; by default all that can be deleted.
        doses: What branches are multiplied by; 1 is the full net.
        draws: Of each random null for each block; 0 leaves all nulls out.
        nulls: Which, of ``noise``, ``constant``, ``donor``, ``mean`` and ``flipped``.
        progress: Called with the block evaluations done, times examples.
        **options: As :func:`ensemble_view.lesion` takes them: measure, limit, seed, level, ...

    Returns:
        The result: ``.frame``, ``.nulls_frame``, ``.ranges_frame``, ``.plot()``, ``.save(folder)``.

    Raises:
        EnsembleViewError: If model, data or options do not fit each other; the sentence says how.

    Example:
        >>> import ensemble_view
        >>> net = ensemble_view.load_checkpoint("digits-resnet110")
        >>> result = ensemble_view.dose(
        ...     net, "digits", blocks="3,7", doses=[0, 0.5], draws=2, limit=20)
        >>> result.frame[["blocks", "dose", "n"]].tail(4)
          blocks  dose   n
        5      7   1.0  20
        6    3,7   0.0  20
        7    3,7   0.5  20
        8    3,7   1.0  20
        >>> result.nulls_frame[["blocks", "null", "draws"]].values.tolist()[:5]
        [['3', 'noise', 2], ['3', 'constant', 2], ['3', 'donor', 2], ['3', 'mean', 1], \
['3', 'flipped', 1]]
    """
    study = DoseStudy(blocks, doses, draws, nulls)
    return study.prepare(model, data, **options).run(progress)


def _nulls(
    index: int, nulls: Sequence[str], draws: int, seed: int, chain: Chain, *, changes: bool
) -> list[tuple[Dose, Intervention]]:
    """What stands beside one block's deletion."""
    kinds: dict[str, Literal["perturbed", "constant", "resample"]] = {
        "noise": "perturbed",
        "constant": "constant",
        "donor": "resample",
    }
    found: list[tuple[Dose, Intervention]] = []
    for null in NULLS:
        if null not in nulls or not (chain.blocks[index].by_example or null == "flipped"):
            continue
        done: list[Intervention] = [Scale(index, -1)]
        if null == "mean":
            done = [Replace(index, "mean")]
        elif null != "flipped":
            done = [
                Replace(index, kinds[null], (seed * draws + draw) % LARGEST_SEED)
                for draw in range(draws)
            ]
        found += [
            (Dose(str(index), (index,), None, draw, changes, null), each)
            for draw, each in enumerate(done)
        ]
    return found


def _alone(ready: Experiment, batch_size: int | None = None) -> bool:
    """Whether some batch would be of one example."""
    size = batch_size or ready.pace.batch_size
    return any(
        len(portion.data) % (own := max(1, int(size * portion.size))) == 1 or own == 1
        for _, portion in ready.subject.portions
    )


def _without_one_left(ready: Experiment, options: Options) -> int | None:
    """The next smaller batch size that leaves no example alone, if it is ours to choose."""
    if options.get("batch_size") is not None:
        return None
    sizes = range(ready.pace.batch_size - 1, 1, -1)
    return next((size for size in sizes if not _alone(ready, size)), None)
