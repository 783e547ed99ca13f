"""Delete random sets of blocks: which share of what they do adds up over blocks and over pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Unpack

import numpy as np
import numpy.typing as npt
from torch import nn

from ensemble_view.core.chain import Block, Chain
from ensemble_view.core.engine import Progress
from ensemble_view.core.interventions.base import Compose, Intervention
from ensemble_view.core.interventions.branches import Delete
from ensemble_view.core.interventions.text import BlockName
from ensemble_view.errors import InterventionError, MeasurementError
from ensemble_view.measures.logits import ClassificationWithLogits
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.statistics.order_shares import order_shares, subsets_needed
from ensemble_view.statistics.surrogates import fit_surrogate, held_out_r2
from ensemble_view.studies.additivity.result import OrderShareRow, SurrogatesResult
from ensemble_view.studies.subsets.study import keep_probabilities
from ensemble_view.study.experiment import Options, experiment, measure_with_logits, subject_of
from ensemble_view.study.lesions import chosen_blocks, describe
from ensemble_view.study.study import Option, PricedExperiment, Study
from ensemble_view.study.subset_values import quantities_of

__all__ = ["AdditivityStudy", "PreparedAdditivity", "additivity"]

Kept = npt.NDArray[np.bool_]

_FEWEST = 10
_USUAL = 200
_PRECISION = 0.3
# Logits of all subsets and examples; about eight bytes each, a few times over.
_MOST_NUMBERS = 2**28


@dataclass(frozen=True, eq=False)
class PreparedAdditivity(PricedExperiment):
    """Random subsets of some blocks, whose cost is known and which have not run yet.

    Args:
        experiment: The full net, then each subset.
        blocks: Those that are kept or deleted.
        keeps: Keep-probabilities.
        kept: Which blocks each subset keeps: (keep-probabilities, subsets, blocks).
        fresh: How many of each probability's subsets, the last ones, are not fitted to.
    """

    blocks: tuple[Block, ...]
    keeps: tuple[float, ...]
    kept: Kept
    fresh: int

    def __str__(self) -> str:
        each = self.kept.shape[1]
        return (
            f"{each} random subsets of {len(self.blocks)} blocks, the last {self.fresh} of them "
            f"not fitted to, at {len(self.keeps)} keep-probabilities, on {self.experiment}"
        )

    def run(self, progress: Progress | None = None) -> SurrogatesResult:
        """Measure all subsets, estimate the shares, and try a surrogate on the fresh subsets.

        Args:
            progress: Told of the block evaluations done, times examples.

        Returns:
            The result; of the examples done so far, if the user interrupted.
        """
        measured = self.experiment.measured(progress)
        own = {name: a for name, a in measured.outcomes.items() if not name.startswith("logit ")}
        run = self.experiment.run_of(replace(measured, outcomes=own))
        tokens = run.outcomes.weights
        quantities = quantities_of(self.experiment.measure)
        each, rows_of = self.kept.shape[1], []
        for number, keep in enumerate(self.keeps):
            rows = slice(1 + number * each, 1 + (number + 1) * each)
            outcomes = {name: array[rows] for name, array in measured.outcomes.items()}
            values: dict[str, npt.NDArray[Any]] = {}
            for name, scalar in quantities.scalars.items():
                f = scalar(outcomes)
                values[name] = f.mean(1) if tokens is None else f.sum(1) / tokens.sum()
            for name, vector in quantities.vectors.items():
                values[name] = vector(outcomes)
            for name, f in values.items():
                rows_of.append(self._row(name, keep, self.kept[number], f))
        return SurrogatesResult(
            blocks=tuple(describe([block]) for block in self.blocks),
            shares=tuple(rows_of),
            kept=self.kept.reshape(-1, len(self.blocks)),
            run=run,
            block_count=len(self.experiment.subject.chain),
        )

    def _row(self, name: str, keep: float, kept: Kept, f: npt.NDArray[Any]) -> OrderShareRow:
        level, cut = self.experiment.level, len(kept) - self.fresh
        shares = order_shares(kept, f, keep, level)
        predicted = held_out_r2(fit_surrogate(kept[:cut], f[:cut]), kept[cut:], f[cut:], level)
        return OrderShareRow(
            quantity=name,
            keep=keep,
            deleted=len(self.blocks) * (1 - keep),
            first=shares.first.value,
            first_low=shares.first.low,
            first_high=shares.first.high,
            up_to_second=shares.up_to_second.value,
            up_to_second_low=shares.up_to_second.low,
            up_to_second_high=shares.up_to_second.high,
            effective=shares.effective.value,
            effective_low=shares.effective.low,
            effective_high=shares.effective.high,
            subsets=shares.subsets,
            sampled=shares.sampled,
            r2=predicted.value,
            r2_low=predicted.low,
            r2_high=predicted.high,
            fitted=cut,
            fresh=self.fresh,
        )


@dataclass(frozen=True)
class AdditivityStudy(Study[SurrogatesResult]):
    """Delete random sets: which share of what they do adds up, for any number of blocks.

    Args:
        only: Blocks to keep or delete; by default all that can be deleted.
        subsets: Random subsets that are fitted to, at each probability.
        fresh: Random subsets that are predicted, at each probability.
        precision: Half-width of the interval of the share up to order 2 in an unfavourable case.
    """

    name = "additivity"
    unit = "subsets"
    help = """Delete random sets: which share of what they do adds up over blocks and over pairs.

    For any number of blocks, without bias. Each block is kept with probability 1 - d/n, for d = 1,
    2, 5 and 10 blocks deleted on average. Additivity is neither necessary nor sufficient for an
    ensemble; how many blocks carry the additive part stands beside it.

    Example:  ensemble-view additivity digits-resnet110 --limit 200
    """

    only: Annotated[
        str | Sequence[BlockName] | None,
        Option("These blocks alone: 3,7-9 or 'layer3.*'; the others stay.", kind=str),
    ] = None
    subsets: Annotated[
        int | None,
        Option("Random subsets to fit to, at each probability. Default: as the precision asks."),
    ] = None
    fresh: Annotated[int, Option("Random subsets that are predicted.")] = 100
    precision: Annotated[
        float, Option("Half-width of the interval of the share up to order 2, at most.")
    ] = _PRECISION

    def prepare(
        self, model: nn.Module | Chain | Checkpoint, data: Any, **options: Unpack[Options]
    ) -> PreparedAdditivity:
        """Choose the plans, and find out what running them will cost."""
        subject = subject_of(model, data, options)
        blocks = chosen_blocks(subject.chain, self.only)
        keeps = keep_probabilities(len(blocks))
        if not keeps:
            raise InterventionError(
                f"Only block {blocks[0].index} ({blocks[0].name}) is there to be deleted; a share "
                "of orders needs at least two."
            )
        subsets = self.subsets
        needed = subsets_needed(len(blocks), self.precision, options.get("level", 0.95))
        if subsets is None:
            subsets = max(_USUAL, needed - self.fresh)
        if min(subsets, self.fresh) < _FEWEST or subsets + self.fresh < needed:
            raise MeasurementError(
                f"{subsets} subsets to fit to and {self.fresh} fresh ones were asked for; expected "
                f"at least {_FEWEST} of each and {needed} together, since the share of the "
                f"variance up to order 2 of {len(blocks)} blocks is to be known to "
                f"±{self.precision:g} (precision) where little is additive."
            )
        measure = measure_with_logits(subject, options)
        classes = measure.classes if isinstance(measure, ClassificationWithLogits) else 1
        numbers = len(keeps) * (subsets + self.fresh) * len(subject.data) * classes
        if numbers > _MOST_NUMBERS:
            raise MeasurementError(
                f"The logits of {len(keeps) * (subsets + self.fresh):,} subsets on "
                f"{len(subject.data):,} examples are {numbers:,} numbers, more than the "
                f"{_MOST_NUMBERS:,} that are held; take fewer examples: --limit "
                f"{max(1, _MOST_NUMBERS * len(subject.data) // numbers)}."
            )
        generator = np.random.default_rng(options.get("seed", 0))
        draws = generator.random((len(keeps), subsets + self.fresh, len(blocks)))
        kept = draws < np.array(keeps)[:, None, None]
        changes: list[Intervention] = []
        for row in kept.reshape(-1, len(blocks)):
            deleted = [block.index for block, stays in zip(blocks, row, strict=True) if not stays]
            changes.append(Delete(*deleted) if deleted else Compose())
        made = experiment(subject, changes, options, measure=measure, held=len(changes))
        return PreparedAdditivity(made, blocks, keeps, kept, self.fresh)


def additivity(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    only: str | Sequence[BlockName] | None = None,
    subsets: int | None = None,
    fresh: int = 100,
    precision: float = _PRECISION,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> SurrogatesResult:
    """Measure how much of what random sets of blocks do is additive, for any number of blocks.

    Every block is kept with probability 1 - d/n, for d = 1, 2, 5 and 10 blocks deleted on average.
    From random subsets the share of the variance of f at order 1 (a sum over blocks) and up to
    order 2 (and over pairs) is estimated without bias
    (:mod:`ensemble_view.statistics.order_shares`), and how many blocks carry the additive part.
    Beside them stands the share of the variance on fresh subsets that a fitted sum over blocks
    predicts (:mod:`ensemble_view.statistics.surrogates`), which falls short of the share at order 1
    by what the fit cannot know. Of a classifier, f is the error, the loss, and each example's
    class-centred logits and probabilities; of text, the loss per token; or a measure of one's own.

    Args:
        model: A module, a chain, or a loaded checkpoint. It is left as it was.
        data: As for :func:`ensemble_view.lesion`.
        only: Blocks to keep or delete; the others stay. By default all that can be deleted.
        subsets: Random subsets that are fitted to, at each probability. By default 200, or as many
            more as the precision asks for.
        fresh: Random subsets that are predicted, at each probability. The shares are estimated
            from all subsets.
        precision: Half-width of the confidence interval of the share up to order 2 that is asked
            for in an unfavourable case
            (:func:`~ensemble_view.statistics.order_shares.subsets_needed`).
        progress: Told of the block evaluations done, times examples.
        **options: As :func:`ensemble_view.lesion` takes them; ``seed`` is also that of the subsets.

    Returns:
        The result.

    Raises:
        InterventionError: If there is but one block, or one cannot be deleted.
        MeasurementError: If the subsets are too few for the precision, or logits too many to be
            held.

    Example:
        >>> import torch
        >>> from ensemble_view.nets.models.building import build
        >>> images, labels = torch.randn(8, 3, 8, 8), torch.arange(8)
        >>> found = additivity(build("resnet8,width=4").eval(), (images, labels), subsets=20,
        ...                    fresh=10)
        >>> len(found.frame)
        8
    """
    study = AdditivityStudy(only, subsets, fresh, precision)
    return study.prepare(model, data, **options).run(progress)
