"""Run the blocks in another order (Veit et al. 2016, section 4.3, figure 5(b))."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

import numpy as np
from torch import nn

from ensemble_view.core.chain import Chain
from ensemble_view.core.engine import Progress
from ensemble_view.core.interventions.places import Reorder
from ensemble_view.core.interventions.text import format_blocks
from ensemble_view.errors import InterventionError
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.studies.lesion.base import LesionStudyResult
from ensemble_view.studies.lesion.study import PreparedLesions
from ensemble_view.studies.random.study import check_trials
from ensemble_view.studies.reorder.result import ReorderResult
from ensemble_view.study.counts import Counts, read_counts
from ensemble_view.study.draws import draw_swaps, exchanges, swapped
from ensemble_view.study.experiment import Options, experiment, subject_of
from ensemble_view.study.lesions import Lesion, describe
from ensemble_view.study.run import Run
from ensemble_view.study.study import Option, PreparedExperiment, Study

__all__ = ["PreparedReorder", "ReorderStudy", "reorder"]

_MOST = 20


@dataclass(frozen=True, eq=False)
class PreparedReorder(PreparedExperiment[ReorderResult]):
    """Random reorderings whose cost is known and which have not run yet.

    Args:
        experiment: The reorderings on the subject.
        orders: The order of each trial, one entry per plan after the full net's.
        swaps: How often two blocks were swapped in each.
        enumerated: Numbers of swaps at which these are all sequences.
    """

    orders: tuple[tuple[int, ...], ...]
    swaps: tuple[int, ...]
    enumerated: tuple[int, ...]

    def __str__(self) -> str:
        least, most = min(self.swaps), max(self.swaps)
        span = f"{least} to {most}" if least < most else f"{most}"
        return f"{len(self.orders):,} orders after {span} swaps on {self.experiment}"

    def result(self, run: Run) -> ReorderResult:
        """Say what follows from the outcomes."""
        return ReorderResult(
            run=run,
            names=tuple(block.name for block in self.experiment.subject.chain),
            orders=self.orders,
            swaps=self.swaps,
            enumerated=self.enumerated,
        )


@dataclass(frozen=True)
class ReorderStudy(Study[ReorderResult | LesionStudyResult[Any]]):
    """Run the blocks in another order.

    Args:
        swaps: Numbers of swaps; by default 1 to 20.
        trials: Sequences of swaps per number, at least 2; all, where there are no more.
        adjacent: Instead, swap each two neighbours of one shape, one pair after another.
        stages: Instead, reverse and shuffle the blocks of each shape, and of all of them.
    """

    name = "reorder"
    unit = "orders"
    help = """Swap random blocks of equal shape and measure the error against the disorder.

    Blocks that change the shape stay where they are. The disorder is Kendall's tau of the order
    that comes about (Veit, Wilber and Belongie 2016, figure 5b).

    Example:  ensemble-view reorder resnet56.th --data cifar10 --swaps 1-20 --trials 50
    """

    swaps: Annotated[
        Counts | None, Option("Numbers of random swaps: 1-20, 1,2,5. Default: 1-20.", kind=str)
    ] = None
    trials: Annotated[int, Option("Random draws per number; all, where there are no more.")] = 50
    adjacent: Annotated[bool, Option("Instead, swap each two neighbours of one shape in turn.")] = (
        False
    )
    stages: Annotated[
        bool, Option("Instead, reverse and shuffle the blocks of each shape, and all.")
    ] = False

    def prepare(
        self, model: nn.Module | Chain | Checkpoint, data: Any, **options: Unpack[Options]
    ) -> PreparedReorder | PreparedLesions:
        """Choose the plans, and find out what running them will cost."""
        one_by_one = self.adjacent or self.stages
        if one_by_one and self.swaps is not None:
            raise InterventionError(
                "Both random swaps and adjacent swaps or whole stages were asked for; ask for one "
                "of the two."
            )
        check_trials(self.trials)
        counts = read_counts(range(1, _MOST + 1) if self.swaps is None else self.swaps, "swaps")
        subject = subject_of(model, data, options)
        chain = subject.chain
        pairs = exchanges(chain.outline.slots)
        if self.adjacent and not self.stages:
            pairs = tuple((i, j) for i, j in pairs if j == i + 1)
        if not pairs:
            raise InterventionError(
                f"No two {'neighbours' if self.adjacent else 'blocks'} among the {len(chain)} "
                "blocks of this net have one shape and keep it, so none can be swapped."
            )
        rng = np.random.default_rng(options.get("seed", 0))
        if one_by_one:
            chosen = list(_neighbours(chain, pairs)) if self.adjacent else []
            chosen += _whole_stages(chain, pairs, rng) if self.stages else []
            return PreparedLesions(
                experiment=experiment(subject, [Reorder(order) for order, _ in chosen], options),
                lesions=tuple(lesion for _, lesion in chosen),
                not_deletable=(),
            )
        drawn = {each: draw_swaps(pairs, each, self.trials, rng) for each in counts}
        orders = tuple(swapped(len(chain), one) for found, _ in drawn.values() for one in found)
        return PreparedReorder(
            experiment=experiment(subject, [Reorder(order) for order in orders], options),
            orders=orders,
            swaps=tuple(each for each, (found, _) in drawn.items() for _ in found),
            enumerated=tuple(each for each, (_, complete) in drawn.items() if complete),
        )


def reorder(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    swaps: Counts | None = None,
    trials: int = 50,
    adjacent: bool = False,
    stages: bool = False,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> ReorderResult | LesionStudyResult[Any]:
    """Swap random blocks of equal shape, and measure the error against the disorder.

    The protocol of Veit, Wilber and Belongie (2016), section 4.3: k times, two places are drawn
    whose blocks have one shape, and what stands there is exchanged; blocks that change the shape
    stay. The disorder is Kendall's tau of the order of all blocks, as it came about. Trials and
    examples are crossed, so that intervals are those of a two-way table (:func:`
    ~ensemble_view.statistics.crossed.crossed_mean`).

    Args:
        model: As for :func:`ensemble_view.lesion`.
        data: As for :func:`ensemble_view.lesion`.
        swaps: Numbers of swaps: ``"1-20"``, ``"1,2,5"``, a range or numbers; by default 1 to 20.
        trials: Sequences of swaps per number, at least 2; all, where there are no more.
        adjacent: Instead, swap each two neighbours of one shape, one pair after another.
        stages: Instead, reverse and shuffle the blocks of each shape, and of all of them.
        progress: Called with the block evaluations done, times examples.
        **options: As for :func:`ensemble_view.lesion`: ``limit``, ``seed`` (also of the drawing),
            ``measure``, ``batch_size``, ``level`` and the others.

    Returns:
        The result: ``.frame``, ``.trials_frame``, ``.correlation``, ``.plot()``, ``.save(folder)``;
        with ``adjacent`` or ``stages`` what :func:`ensemble_view.lesion` gives, a row per order
        with the paired interval, ``names`` being those of the moved blocks in their new order.

    Raises:
        EnsembleViewError: If model, data and numbers do not fit each other; the sentence says how.

    Example:
        >>> import ensemble_view
        >>> checkpoint = ensemble_view.load_checkpoint("digits-resnet110")
        >>> result = ensemble_view.reorder(checkpoint, "digits", swaps=1, trials=3, limit=50)
        >>> result.trials_frame["swaps"].tolist(), bool((result.taus < 1).all())
        ([1, 1, 1], True)
    """
    study = ReorderStudy(swaps, trials, adjacent, stages)
    return study.prepare(model, data, **options).run(progress)


def _neighbours(
    chain: Chain, pairs: tuple[tuple[int, int], ...]
) -> Iterator[tuple[tuple[int, ...], Lesion]]:
    for i, j in pairs:
        if j == i + 1:
            named = describe([chain.blocks[j], chain.blocks[i]], f"swap {i} {j}")
            yield swapped(len(chain), [(i, j)]), named


def _whole_stages(
    chain: Chain, pairs: tuple[tuple[int, int], ...], rng: np.random.Generator
) -> Iterator[tuple[tuple[int, ...], Lesion]]:
    """Reverse and shuffle the blocks of each shape, then all of them at once."""
    slots = chain.outline.slots
    movable = sorted(set(itertools.chain(*pairs)), key=lambda i: slots[i].shapes)
    shapes = itertools.groupby(movable, key=lambda i: slots[i].shapes)
    groups = sorted(tuple(sorted(group)) for _, group in shapes)
    reversed_ = {group: group[::-1] for group in groups}
    shuffled = {}
    for group in groups:
        shuffled[group] = group
        while shuffled[group] == group:
            shuffled[group] = tuple(group[i] for i in rng.permutation(len(group)))
    whole = [[group] for group in groups] + ([groups] if len(groups) > 1 else [])
    for moved in whole:
        for word, new in (("reverse", reversed_), ("shuffle", shuffled)):
            order = list(range(len(chain)))
            for group in moved:
                for place, block in zip(group, new[group], strict=True):
                    order[place] = block
            places = sorted(itertools.chain(*moved))
            blocks = [chain.blocks[order[place]] for place in places]
            which = format_blocks(places) if len(moved) == 1 else "all"
            yield tuple(order), describe(blocks, f"{word} {which}")
