"""Delete all pairs of blocks: which ones stand in for each other, and which need each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Unpack

from torch import nn

from ensemble_view.core.chain import Block, Chain
from ensemble_view.core.engine import Progress
from ensemble_view.core.interventions.branches import Delete
from ensemble_view.core.interventions.text import BlockName
from ensemble_view.errors import InterventionError
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.studies.pairs.result import PairsResult
from ensemble_view.study.experiment import Options, experiment, subject_of
from ensemble_view.study.lesions import chosen_blocks, describe
from ensemble_view.study.run import Run
from ensemble_view.study.study import Option, PreparedExperiment, Study

__all__ = ["PairsStudy", "PreparedPairs", "pairs"]


@dataclass(frozen=True, eq=False)
class PreparedPairs(PreparedExperiment[PairsResult]):
    """All pairs and singles of some blocks, whose cost is known and which have not run yet.

    Args:
        experiment: The full net, each block deleted, then each pair: (0, 1), (0, 2), ... (1, 2).
        blocks: Those that are deleted.
    """

    blocks: tuple[Block, ...]

    def __str__(self) -> str:
        n = len(self.blocks)
        return f"all {n * (n - 1) // 2:,} pairs of {n} blocks, and each alone, on {self.experiment}"

    def result(self, run: Run) -> PairsResult:
        """Say what follows from the outcomes."""
        chain = self.experiment.subject.chain
        stages = list(itertools.accumulate(block.changes_shape for block in chain))
        return PairsResult(
            blocks=tuple(describe([block]) for block in self.blocks),
            stages=tuple(int(stages[block.index]) for block in self.blocks),
            run=run,
            block_count=len(chain),
        )


@dataclass(frozen=True)
class PairsStudy(Study[PairsResult]):
    """Delete all pairs of blocks: which ones stand in for each other.

    Args:
        only: Blocks to delete; by default all that can be.
    """

    name = "pairs"
    unit = "pairs"
    help = """Delete all pairs of blocks: which ones back each other up, and which need each other.

    The interaction of a pair is by how much both deletions together worsen the net more than the
    sum of each alone.

    Example:  ensemble-view pairs digits-resnet110 --only 0-9
    """

    only: Annotated[
        str | Sequence[BlockName] | None,
        Option("These blocks alone: 3,7-9 or 'layer3.*'; the others stay.", kind=str),
    ] = None

    def prepare(
        self, model: nn.Module | Chain | Checkpoint, data: Any, **options: Unpack[Options]
    ) -> PreparedPairs:
        """Choose the plans, and find out what running them will cost."""
        subject = subject_of(model, data, options)
        blocks = chosen_blocks(subject.chain, self.only)
        if len(blocks) < 2:
            raise InterventionError(
                f"A pair needs two blocks; only block {blocks[0].index} ({blocks[0].name}) is "
                "there to be deleted."
            )
        index = [block.index for block in blocks]
        changes = [Delete(i) for i in index]
        changes += [Delete(i, j) for i, j in itertools.combinations(index, 2)]
        return PreparedPairs(experiment(subject, changes, options), blocks)


def pairs(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    only: str | Sequence[BlockName] | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> PairsResult:
    """Delete every block and every pair of blocks, and measure their interactions.

    With D the drop (by how much worse the net becomes), a pair's interaction is ``D_ij - D_i -
    D_j``: above zero the two back each other up, below zero the second deletion costs less once the
    first is done. Its interval is over per-example contrasts of four outcomes
    (:func:`~ensemble_view.statistics.interactions.pair_interactions`), corrected by Holm over all
    pairs.

    Args:
        model: A module, a chain, or a loaded checkpoint. It is left as it was.
        data: As for :func:`ensemble_view.lesion`.
        only: Blocks to pair; by default all that can be deleted. Indices from 0, module paths, or
            text as on the command line (``"0,3-9"``).
        progress: Told of the block evaluations done, times examples.
        **options: As :func:`ensemble_view.lesion` takes them.

    Returns:
        The result.

    Raises:
        InterventionError: If there are fewer than two blocks, or one cannot be deleted.

    Example:
        >>> import torch
        >>> from ensemble_view.nets.models.building import build
        >>> images, labels = torch.randn(8, 3, 8, 8), torch.arange(8)
        >>> len(pairs(build("resnet8,width=4").eval(), (images, labels)).frame)
        3
    """
    return PairsStudy(only).prepare(model, data, **options).run(progress)
