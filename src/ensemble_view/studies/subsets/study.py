"""Run every subnetwork of some blocks: what each is worth, and how additive they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

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
from ensemble_view.study.experiment import Options, experiment, measure_with_logits, subject_of
from ensemble_view.study.lesions import chosen_blocks, describe
from ensemble_view.study.study import Option, PricedExperiment, Study
from ensemble_view.study.subset_values import SubsetReduction, quantities_of

__all__ = ["MOST_BLOCKS", "PreparedSubsets", "SubsetsStudy", "keep_probabilities", "subsets"]

MOST_BLOCKS = 16
"""2^16 subnetworks are the most that are run."""

_DELETED = (1, 2, 5, 10)
# Copies of the outputs of all subsets that exist at a time.
_COPIES = 4


@dataclass(frozen=True, eq=False)
class PreparedSubsets(PricedExperiment):
    """All subnetworks of some blocks, whose cost is known and which have not run yet.

    Args:
        experiment: The full net, then each subset by bit mask.
        blocks: Those that are kept or deleted.
    """

    blocks: tuple[Block, ...]

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
        units = run.examples if found.weights is None else found.weights.sum()
        return PowerSetResult(
            blocks=tuple(describe([block]) for block in self.blocks),
            quantities=tuple(quantities.scalars),
            spectral=tuple(quantities.vectors),
            keeps=tuple(reduction.keeps),
            values=reduction.values(kept, measured.batches, float(units)),
            run=run,
            block_count=len(self.experiment.subject.chain),
        )


@dataclass(frozen=True)
class SubsetsStudy(Study[PowerSetResult]):
    """Run every subnetwork of some blocks.

    Args:
        only: Blocks to keep or delete, at most 16; by default all that can be deleted.
    """

    name = "subsets"
    unit = "subnetworks"
    help = """Run all 2^n subnetworks of at most 16 blocks: what each is worth, how they add up.

    Shapley and Banzhaf values of the blocks, and the share of the variance over subnetworks that is
    a sum over blocks, over pairs, and of higher order. Each distinct prefix runs once.

    Example:  ensemble-view subsets digits-resnet110 --only 0-9
    """

    only: Annotated[
        str | Sequence[BlockName] | None,
        Option("These blocks alone: 3,7-9 or 'layer3.*'; the others stay.", kind=str),
    ] = None

    def prepare(
        self, model: nn.Module | Chain | Checkpoint, data: Any, **options: Unpack[Options]
    ) -> PreparedSubsets:
        """Choose the plans, and find out what running them will cost."""
        subject = subject_of(model, data, options)
        blocks = chosen_blocks(subject.chain, self.only)
        n = len(blocks)
        if n > MOST_BLOCKS:
            raise InterventionError(
                f"{n} blocks have 2^{n} = {2**n:,} subnetworks; at most {MOST_BLOCKS} blocks are "
                f'taken. Choose them with only, such as "{format_blocks(range(MOST_BLOCKS))}"; the '
                "others stay. For any number of blocks, additivity measures the additive share of "
                "the variance."
            )
        subsets: list[Intervention] = []
        for mask in range(2**n):
            deleted = [block.index for i, block in enumerate(blocks) if not mask >> i & 1]
            subsets.append(Delete(*deleted) if deleted else Compose())
        measure = measure_with_logits(subject, options)
        vectors = isinstance(measure, ClassificationWithLogits)
        held = _COPIES * len(subsets) if vectors else 1
        return PreparedSubsets(
            experiment(subject, subsets, options, measure=measure, held=held), blocks
        )


def subsets(
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
        >>> found = subsets(build("resnet8,width=4").eval(), (images, labels))
        >>> len(found.frame), found.run.cost.block_evaluations
        (8, 7)
    """
    return SubsetsStudy(only).prepare(model, data, **options).run(progress)


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
