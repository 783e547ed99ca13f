"""Run every subnetwork of some blocks: what each is worth, and how additive they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from torch import nn

from ensemble_view.core.chain import Block, Chain
from ensemble_view.core.engine import Progress
from ensemble_view.core.interventions.base import Compose, Intervention
from ensemble_view.core.interventions.branches import Delete
from ensemble_view.core.interventions.text import BlockName, format_blocks
from ensemble_view.errors import InterventionError
from ensemble_view.measures.logits import ClassificationWithLogits
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.studies.subsets.result import PowerSetResult
from ensemble_view.study.experiment import (
    Experiment,
    Options,
    experiment,
    measure_with_logits,
    subject_of,
)
from ensemble_view.study.lesions import chosen_blocks, describe
from ensemble_view.study.outcomes import LanguageOutcomes
from ensemble_view.study.subset_values import SubsetReduction, quantities_of

__all__ = ["MOST_BLOCKS", "PowerSetStudy", "keep_probabilities", "power_set", "prepare_power_set"]

MOST_BLOCKS = 16
"""2^16 subnetworks are the most that are run."""

_DELETED = (1, 2, 5, 10)
# Copies of the outputs of all subsets that exist at a time.
_COPIES = 4


@dataclass(frozen=True, eq=False)
class PowerSetStudy:
    """All subnetworks of some blocks, whose cost is known and which have not run yet.

    Args:
        experiment: The full net, then each subset by bit mask.
        blocks: Those that are kept or deleted.
    """

    experiment: Experiment
    blocks: tuple[Block, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers."""
        return self.experiment.subject.notes

    @property
    def work(self) -> int:
        """Block evaluations times examples: the total of what ``progress`` is told."""
        return self.experiment.work

    def __str__(self) -> str:
        count = len(self.experiment.subject.chain)
        which = str(count) if len(self.blocks) == count else f"{len(self.blocks)} of {count}"
        number = 2 ** len(self.blocks)
        return f"all {number:,} subnetworks of {which} blocks on {self.experiment}"

    def run(self, progress: Progress | None = None) -> PowerSetResult:
        """Measure all subnetworks.

        Args:
            progress: Told of the block evaluations done, times examples.

        Returns:
            The result; of the examples done so far, if the user interrupted.
        """
        quantities = quantities_of(self.experiment.measure)
        keeps = (0.5, *keep_probabilities(len(self.blocks)))
        reduction = SubsetReduction(quantities, tuple(dict.fromkeys(keeps)))
        measured = self.experiment.measured(progress, reduction)
        names = ("shapley", "banzhaf", "by_size", "singles")
        kept = {name: measured.outcomes.pop(name) for name in names}
        run = self.experiment.run_of(measured)
        found = run.outcomes
        units = found.tokens.sum() if isinstance(found, LanguageOutcomes) else run.examples
        return PowerSetResult(
            blocks=tuple(describe([block]) for block in self.blocks),
            quantities=tuple(quantities.scalars),
            spectral=tuple(quantities.vectors),
            keeps=tuple(reduction.keeps),
            values=reduction.values(kept, measured.batches, float(units)),
            run=run,
            block_count=len(self.experiment.subject.chain),
        )


def power_set(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    only: str | Sequence[BlockName] | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> PowerSetResult:
    """Measure all 2^n subnetworks that keep some of n blocks and delete the others.

    f(S) is what the net does with only the branches in S kept. Of f: its mean by size, Shapley and
    Banzhaf values of the blocks, Möbius dividends (what each path adds), and the Walsh-Hadamard
    spectrum: which share of the variance over subnetworks is additive, pairwise, higher, where each
    block is kept with probability ½ or 1 - d/n (:mod:`ensemble_view.statistics.spectrum`). Of a
    classifier, f is the error, the loss, and each example's class-centred logits and probabilities;
    of text, the loss per token; or a measure of one's own. Each distinct prefix is run once, so
    that all subnetworks take 2^n - 1 block evaluations.

    Args:
        model: A module, a chain, or a loaded checkpoint. It is left as it was.
        data: As for :func:`ensemble_view.lesion`.
        only: Blocks to keep or delete, at most 16; the others stay. By default all that can be
            deleted. Indices from 0, module paths, or text as on the command line (``"0,3-9"``).
            Blocks that stay are cheapest in front of them: behind them they run once per subset.
        progress: Told of the block evaluations done, times examples.
        **options: As :func:`ensemble_view.lesion` takes them.

    Returns:
        The result.

    Raises:
        InterventionError: If there are more than 16 blocks, or one cannot be deleted.

    Example:
        >>> import torch
        >>> from ensemble_view.nets.models.building import build
        >>> images, labels = torch.randn(8, 3, 8, 8), torch.arange(8)
        >>> found = power_set(build("resnet8,width=4").eval(), (images, labels))
        >>> len(found.frame), found.run.cost.block_evaluations
        (8, 7)
    """
    return prepare_power_set(model, data, only=only, **options).run(progress)


def prepare_power_set(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    only: str | Sequence[BlockName] | None = None,
    **options: Unpack[Options],
) -> PowerSetStudy:
    """Do all of :func:`power_set` but the measurement, so that its cost is known beforehand.

    Args:
        model: As for :func:`power_set`.
        data: As for :func:`power_set`.
        only: As for :func:`power_set`.
        **options: As for :func:`power_set`.

    Returns:
        The study, ready to run.

    Raises:
        InterventionError: If there are more than 16 blocks, or one cannot be deleted.
    """
    subject = subject_of(model, data, options)
    blocks = chosen_blocks(subject.chain, only)
    n = len(blocks)
    if n > MOST_BLOCKS:
        raise InterventionError(
            f"The power set of {n} blocks has 2^{n} = {2**n:,} subnetworks; at most {MOST_BLOCKS} "
            f'blocks are taken. Choose them with only, such as "{format_blocks(range(MOST_BLOCKS))}'
            '"; the others stay. For any number of blocks, the additive share of the variance is '
            "measured by surrogates."
        )
    subsets: list[Intervention] = []
    for mask in range(2**n):
        deleted = [block.index for i, block in enumerate(blocks) if not mask >> i & 1]
        subsets.append(Delete(*deleted) if deleted else Compose())
    measure = measure_with_logits(subject, options)
    vectors = isinstance(measure, ClassificationWithLogits)
    held = _COPIES * len(subsets) if vectors else 1
    return PowerSetStudy(experiment(subject, subsets, options, measure=measure, held=held), blocks)


def keep_probabilities(blocks: int) -> tuple[float, ...]:
    """Give the probabilities at which 1, 2, 5 and 10 of the blocks are deleted on average.

    Args:
        blocks: How many there are.

    Returns:
        ``1 - d / blocks`` for those d that are fewer.

    Example:
        >>> keep_probabilities(4)
        (0.75, 0.5)
    """
    return tuple(1 - deleted / blocks for deleted in _DELETED if deleted < blocks)
