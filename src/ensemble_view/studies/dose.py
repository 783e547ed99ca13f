"""Scale branches step by step, and set noise of a branch's norm beside its deletion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from torch import nn

from ensemble_view.chain import Chain
from ensemble_view.checkpoints import Checkpoint
from ensemble_view.engine import Progress
from ensemble_view.errors import InterventionError, MeasurementError
from ensemble_view.interventions import (
    Arrangement,
    BlockName,
    Compose,
    Delete,
    Intervention,
    Replace,
    Scale,
    format_blocks,
    parse_blocks,
)
from ensemble_view.results.dose import Dose, DoseResult
from ensemble_view.seeds import LARGEST_SEED
from ensemble_view.studies.experiment import Experiment, Options, experiment, subject_of

__all__ = ["DOSES", "DoseStudy", "dose_response", "prepare_dose_response"]

_MOST_DRAWS = 1_000
_MOST_DOSES = 1_000

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True, eq=False)
class DoseStudy:
    """A study of doses whose cost is known and which has not run yet.

    Args:
        experiment: The plans on the subject.
        doses: What each does.
    """

    experiment: Experiment
    doses: tuple[Dose, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers."""
        return self.experiment.subject.notes

    @property
    def work(self) -> int:
        """Block evaluations times examples: the total of what ``progress`` is told."""
        return self.experiment.work

    def __str__(self) -> str:
        noisy = sum(each.dose is None for each in self.doses)
        return f"{len(self.doses) - noisy} doses and {noisy} perturbations on {self.experiment}"

    def run(self, progress: Progress | None = None) -> DoseResult:
        """Measure.

        Args:
            progress: Told of the block evaluations done, times examples.

        Returns:
            The result; of the examples done so far, if the user interrupted.
        """
        return DoseResult(self.doses, self.experiment.run(progress))


def dose_response(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    blocks: str | Sequence[BlockName] | None = None,
    doses: Sequence[float] = DOSES,
    draws: int = 3,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> DoseResult:
    """Measure what a net loses as branches are scaled, and as noise of their norm is added.

    Each block's branch is multiplied by each dose, alone and together with the others; of a unit G
    without shortcut ``x + α (G(x) - x)`` is computed. Beside each deletion (dose 0) stands a
    *norm-matched random perturbation*: the branch stays, and noise of its norm in a direction that
    is uniform over all its entries is added, each example's its own. If the ratio of what the two
    make worse is near 1, small branches explain that deletions do little (Chang et al. 2017, arXiv
    1710.10348); if noise does much less, the branch does something of its own.

    Args:
        model: As for :func:`ensemble_view.lesion`.
        data: As for :func:`ensemble_view.lesion`.
        blocks: Which, as for :func:`ensemble_view.lesion`; by default all that can be deleted.
        doses: What branches are multiplied by; 1 is the full net.
        draws: Random perturbations of each block; 0 leaves them out.
        progress: Called with the block evaluations done, times examples.
        **options: As :func:`ensemble_view.lesion` takes them: measure, limit, seed, level, ...

    Returns:
        The result: ``.frame``, ``.random_frame``, ``.plot()``, ``.save(folder)``.

    Raises:
        EnsembleViewError: If model, data or options do not fit each other; the sentence says how.

    Example:
        >>> import ensemble_view
        >>> net = ensemble_view.load_checkpoint("digits-resnet110")
        >>> result = ensemble_view.dose_response(
        ...     net, "digits", blocks="3,7", doses=[0, 0.5], draws=2, limit=20)
        >>> result.frame[["blocks", "dose", "n"]].tail(4)
          blocks  dose   n
        5      7   1.0  20
        6    3,7   0.0  20
        7    3,7   0.5  20
        8    3,7   1.0  20
        >>> result.random_frame[["blocks", "draws"]].values.tolist()
        [['3', 2], ['7', 2], ['mean', 2]]
    """
    study = prepare_dose_response(model, data, blocks=blocks, doses=doses, draws=draws, **options)
    return study.run(progress)


def prepare_dose_response(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    blocks: str | Sequence[BlockName] | None = None,
    doses: Sequence[float] = DOSES,
    draws: int = 3,
    **options: Unpack[Options],
) -> DoseStudy:
    """Do all of :func:`dose_response` but the measurement, so that its cost is known beforehand.

    Args:
        model: As for :func:`dose_response`.
        data: As for :func:`dose_response`.
        blocks: As for :func:`dose_response`.
        doses: As for :func:`dose_response`.
        draws: As for :func:`dose_response`.
        **options: As for :func:`dose_response`.

    Returns:
        The study, ready to run.

    Raises:
        MeasurementError: If there is no dose beside 1, more than 1,000, or one that is not finite;
            or the number of draws is not from 0 to 1,000.
        InterventionError: If no block is left, or one of those named cannot be deleted.
    """
    wanted = sorted({float(dose) for dose in doses} - {1.0})
    if not wanted:
        raise MeasurementError(
            "There is no dose beside 1, which is the full net; give some such as 0, 0.5 and 1.5."
        )
    if draws < 0:
        raise MeasurementError(f"draws is {draws}; expected at least 0.")
    if draws > _MOST_DRAWS:
        raise MeasurementError(f"draws is {draws:,}; expected at most {_MOST_DRAWS:,}.")
    if len(wanted) > _MOST_DOSES or not all(map(math.isfinite, wanted)):
        raise MeasurementError(
            f"There are {len(wanted):,} doses; expected at most {_MOST_DOSES:,} finite numbers, "
            "such as 0, 0.5 and 1.5."
        )
    subject = subject_of(model, data, options)
    chain = subject.chain
    if blocks is None:
        chosen = tuple(block.index for block in chain if block.deletable)
    else:
        names = parse_blocks(blocks, len(chain)) if isinstance(blocks, str) else tuple(blocks)
        chosen = Arrangement.of([block.name for block in chain]).find_all(names)
    if not chosen:
        raise InterventionError(
            "There is no block to scale: none was named, or none of this net's can be deleted."
        )
    seed = options.get("seed", 0)
    plans: list[tuple[Dose, Intervention]] = []
    groups: list[tuple[str, tuple[int, ...]]] = [(str(index), (index,)) for index in chosen]
    if len(chosen) > 1:
        groups.append(("all" if blocks is None else format_blocks(chosen), chosen))
    for label, members in groups:
        changes = any(chain.blocks[index].changes_shape for index in members)
        for dose in wanted:
            scaled = Compose(tuple(Scale(index, dose) for index in members))
            done = Delete(*members) if dose == 0 else scaled
            plans.append((Dose(label, members, dose, changes_shape=changes), done))
        if len(members) == 1 and 0.0 in wanted:
            plans += [
                (
                    Dose(label, members, None, draw, changes),
                    Replace(members[0], "perturbed", (seed * draws + draw) % LARGEST_SEED),
                )
                for draw in range(draws)
            ]
    ready = experiment(subject, [done for _, done in plans], options)
    return DoseStudy(ready, tuple(dose for dose, _ in plans))
