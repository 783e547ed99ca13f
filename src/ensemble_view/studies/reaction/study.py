"""Delete each block and see how the later blocks of its stage answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeAlias, Unpack

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ensemble_view.core.chain import Chain
from ensemble_view.data.text_data import TextData
from ensemble_view.discovery.granularity import Granularity
from ensemble_view.errors import EnsembleViewError, MeasurementError
from ensemble_view.measures.language import IGNORED
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.studies.reaction.freezing import FROZEN, Forms, forms_of
from ensemble_view.studies.reaction.result import (
    NULLS,
    VARIANTS,
    ReactionBlock,
    ReactionResult,
    Reactions,
)
from ensemble_view.studies.reaction.stage import Stage, reactions, stages_of
from ensemble_view.study.experiment import Options, subject_of
from ensemble_view.study.pace import duration
from ensemble_view.study.provenance import Cost
from ensemble_view.study.study import Option, Study
from ensemble_view.study.subject import Subject, examine
from ensemble_view.study.untrained import untrained_net

__all__ = ["PreparedReaction", "ReactionStudy", "reaction"]

_BATCH = 64
_TIMED = 16
_NO_DONOR = (
    "no example has a donor: batches are of one example, units have no shortcut and so no sum, "
    "sums do not count examples in their first dimension, or none attains the norm"
)

Progress: TypeAlias = Callable[[int], None]
"""Called with the number of block evaluations times examples done since the last call."""


@dataclass(frozen=True, eq=False)
class PreparedReaction:
    """A study of reactions whose cost is known and which has not run yet.

    Args:
        subject: Chains and data.
        stages: Of the chain.
        forms: Which ways of freezing mean something.
        untrained: The chains of the untrained net, one per portion of the data; empty: none.
        undefined: Nulls that are not measured, with the reason.
        nulls: How the others are made.
        batch_size: Examples of the first portion at a time.
        seconds_per_example: From a short measurement on this machine.
        seed: Of the choice of examples.
        level: Of the intervals.
        command: What made the result.
    """

    subject: Subject
    stages: tuple[Stage, ...]
    forms: Forms
    untrained: tuple[Chain, ...]
    undefined: Mapping[str, str]
    nulls: Mapping[str, str]
    batch_size: int
    seconds_per_example: float
    seed: int
    level: float
    command: str | None

    @property
    def cost(self) -> Cost:
        """Block evaluations per batch; instead of a whole forward pass for each deletion."""
        chain = self.subject.chain
        # Each way of freezing, and the donor; then the untrained net.
        passes, ways = 1 + bool(self.untrained), len(self.forms.measured) + 1
        ways += bool(self.untrained)
        continued = sum(
            stage.last - position
            for stage in self.stages
            for position in stage.blocks
            if chain.blocks[position].deletable
        )
        deleted = sum(block.deletable for block in chain)
        return Cost(
            block_evaluations=passes * len(chain) + ways * continued,
            naive_block_evaluations=passes * len(chain) + ways * deleted * (len(chain) - 1),
            batches=0,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers."""
        return self.subject.notes

    @property
    def work(self) -> int:
        """Block evaluations times examples: the total of what ``progress`` is told."""
        return self.cost.block_evaluations * len(self.subject.data)

    @property
    def expected_seconds(self) -> float:
        """How long the run will take."""
        return self.seconds_per_example * len(self.subject.data)

    def __str__(self) -> str:
        cost, data, count = self.cost, self.subject.data, len(self.stages)
        return (
            f"Reactions within {count} stage{'s' * (count != 1)} of {len(self.subject.chain)} "
            f"blocks on {len(data):,} {data.unit}, beside another example's change and "
            f"{'the untrained net' if self.untrained else 'no untrained net'}: "
            f"{cost.block_evaluations:,} block evaluations per batch, each deletion to the end of "
            f"its stage, batches of {self.batch_size}, about {duration(self.expected_seconds)}"
        )

    def run(self, progress: Progress | None = None) -> ReactionResult:
        """Measure.

        Args:
            progress: Told of the block evaluations done, times examples.

        Returns:
            The result; of the examples done so far, if the user interrupted.

        Raises:
            KeyboardInterrupt: If the user interrupts before the first batch is complete.
        """
        started = time.perf_counter()
        found: list[npt.NDArray[np.float64]] = []
        places: list[npt.NDArray[np.int64]] = []
        interrupted = False
        try:
            for number, (chain, portion) in enumerate(self.subject.portions):
                chains = [chain, *self.untrained[number : number + 1]]
                positions, start = portion.positions, 0
                if positions is None:
                    positions = np.arange(len(portion.data))
                size = max(1, int(self.batch_size * portion.size))
                for inputs, targets in portion.data.batches(size):
                    found.append(self._of_batch(chains, inputs, targets, len(found), progress))
                    count = found[-1].shape[-1]
                    places.append(positions[start : start + count])
                    start += count
        except KeyboardInterrupt:
            if not places:
                raise
            interrupted = True
        positions = np.concatenate(places)
        order = np.argsort(positions)
        values = np.concatenate(found[: len(places)], axis=-1)[..., order]
        chain = self.subject.chain
        rows = [block.index for block in chain if block.deletable]
        arrays = {
            name + ending: values[way, number, rows]
            for way, ending in enumerate((*VARIANTS, *(f"_{null}" for null in NULLS)))
            for number, name in enumerate(("reaction", "norm_ratio"))
        }
        undefined = {
            ending[1:]: self.forms.undefined[each]
            for each, ending in zip(FROZEN, VARIANTS, strict=True)
            if each in self.forms.undefined
        } | dict(self.undefined)
        nulls = dict(self.nulls)
        if "donor" not in undefined and np.isnan(arrays["reaction_donor"]).all():
            undefined["donor"] = _NO_DONOR
        if "donor" in undefined:
            nulls.pop("donor", None)
        return ReactionResult(
            blocks=tuple(
                ReactionBlock(
                    index=position,
                    name=chain.blocks[position].name,
                    stage=number,
                    later=stage.last - position,
                    changes_shape=chain.blocks[position].changes_shape,
                )
                for number, stage in enumerate(self.stages)
                for position in stage.blocks
                if chain.blocks[position].deletable
            ),
            outcomes=Reactions(**arrays, positions=positions[order]),
            undefined=undefined,
            nulls=nulls,
            cost=Cost(self.cost.block_evaluations, self.cost.naive_block_evaluations, len(places)),
            seconds=time.perf_counter() - started,
            provenance=self.subject.provenance(
                seed=self.seed,
                command=self.command,
                batch_size=self.batch_size,
                threads=torch.get_num_threads(),
            ),
            level=self.level,
            interrupted=interrupted,
        )

    def _of_batch(
        self,
        chains: Sequence[Chain],
        inputs: Any,
        targets: Any,
        number: int,
        progress: Progress | None,
    ) -> npt.NDArray[np.float64]:
        """(ways of freezing and nulls, 2, blocks, examples), nan for what means nothing."""
        device = self.subject.model["device"]
        # Padding is no part of a text.
        counted = targets != IGNORED if isinstance(self.subject.data, TextData) else None
        inputs, counted = _placed(inputs, device), _placed(counted, device)
        chain, *untrained = chains
        measured = self.forms.measured
        values = reactions(
            chain,
            self.stages,
            inputs,
            frozen=measured,
            donors=(self.seed, number),
            counted=counted,
            progress=progress,
        ).numpy(force=True)
        nothing = np.full_like(values[0], np.nan)
        ways = [self.forms.stands_for(each) for each in FROZEN]
        rows = [nothing if w is None else values[measured.index(w)] for w in ways]
        fresh = nothing
        for other in untrained:
            (fresh,) = reactions(
                other, self.stages, inputs, counted=counted, progress=progress
            ).numpy(force=True)
        return np.stack([*rows, fresh, values[-1]])


@dataclass(frozen=True)
class ReactionStudy(Study[ReactionResult]):
    """Delete each block and see how the later blocks of its stage answer.

    Args:
        untrained: Whether to measure the net before training; or that net itself.
    """

    name = "reaction"
    unit = "reactions"
    help = """Delete each block and see how the later blocks of its stage answer.

    Reaction 1: later blocks only add to what passes them; 0 with a ratio of norms of 1: each turns
    it elsewhere. Below 1 is repair only if it is also below the untrained net's reaction and below
    that to another example's change of the same norm; both are measured beside it.

    Example:  ensemble-view reaction resnet56.th --data cifar10 --out reaction/
    """

    untrained: Annotated[
        bool | nn.Module,
        Option(
            "Also measure the net before training: built anew, or its weights drawn anew.",
            flag="--untrained/--no-untrained",
            kind=bool,
        ),
    ] = True

    def prepare(
        self, model: nn.Module | Chain | Checkpoint, data: Any, **options: Unpack[Options]
    ) -> PreparedReaction:
        """Choose the plans, and find out what running them will cost."""
        if options.get("measure") is not None:
            raise MeasurementError(
                "A reaction is measured on the trunk, not by a measure of one's own; leave "
                "measure out."
            )
        given, seed = options.get("batch_size"), options.get("seed", 0)
        batch_size = _BATCH if given is None else given
        if batch_size < 1:
            raise MeasurementError(f"batch_size is {batch_size}; expected at least 1.")
        options = {**options, "batch_size": batch_size}
        subject = subject_of(model, data, options, any_targets=True)
        chain, (inputs, _) = subject.chain, subject.sample
        if not any(block.deletable for block in chain):
            raise MeasurementError(
                f"None of the {len(chain)} units of this net keeps its shape, so none can be "
                "deleted."
            )
        stages, forms = stages_of(chain, inputs), forms_of(chain, inputs)
        chains, undefined, nulls = _untrained_chains(
            model,
            subject,
            stages,
            self.untrained,
            seed,
            batch_size,
            options.get("plain", False),
            options.get("granularity", "block"),
        )
        nulls["donor"] = (
            "another example's change of the same norm, drawn along a random cycle through each "
            f"batch, seed {seed}"
        )
        study = PreparedReaction(
            subject=subject,
            stages=stages,
            forms=forms,
            untrained=chains,
            undefined=undefined,
            nulls=nulls,
            batch_size=batch_size,
            seconds_per_example=0.0,
            seed=seed,
            level=options.get("level", 0.95),
            command=options.get("command"),
        )
        every = [chain, *chains[:1]]
        # Once before the clock starts, since the first time also loads and allocates.
        study._of_batch(every, *subject.sample, 0, None)
        batch = next(iter(subject.portions[0][1].data.batches(min(batch_size, _TIMED))))
        started = time.perf_counter()
        examples = study._of_batch(every, *batch, 0, None).shape[-1]
        return replace(study, seconds_per_example=(time.perf_counter() - started) / examples)


def reaction(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    untrained: bool | nn.Module = True,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> ReactionResult:
    """Delete each block and measure how the later blocks of its stage answer.

    With S and B what the shortcut and the branch of block i give in the full net, the change that
    leaves the block when it is deleted is ``D_i = after(S + B) - after(S)`` (of a unit G without
    shortcut ``G(x) - x``). With h the trunk at the end of its stage (a run of blocks without a link
    or a shape-changing block in between) and h' the same after the deletion: the reaction
    ``ρ_i = ⟨h - h', D_i⟩ / ‖D_i‖²`` and the ratio of norms ``‖h - h'‖ / ‖D_i‖``, of each example,
    then their means with t intervals over the examples. Independent blocks, which only add to what
    passes them, give 1 and 1, whatever follows their sums; blocks that each turn it elsewhere 0 and
    1; iterative refinement (Greff, Srivastava and Schmidhuber 2016, arXiv 1612.07771; Jastrzębski
    et al. 2017, arXiv 1710.04773), in which later blocks repair, less than 1.

    A value below 1 alone shows no repair: a net that damps any change has one as well, and so has
    one whose weights are random. Two nulls stand beside it, each paired with it example by example.
    The *untrained net* is measured on the same examples. The *donor* is another example's change:
    with B° the branch of the donor, ``after(S + B - s B°)`` leaves the block, where s is such that
    the change has the norm of D_i, and the reaction to that is measured along it. Donors are drawn
    along a random cycle through each batch, anew for each block, by the seed, the number of the
    batch and that of the block, so that they depend on the batch size; examples of different shapes
    are in different batches. An example that is alone in its batch has no donor, and a unit
    without shortcut has no sum to put one in. The summary says *repair* only where the mean
    reaction lies below 1, the untrained net's and the donor's, with simultaneous intervals. They
    are over the examples; how much other random weights or other donors would give is not in them.

    Both are also given with the nonlinearities of the *junctions* held at the full net's (what lies
    on the way round the branches: the ReLU after the sum of a post-activation net), so that their
    switching is told from what branches compensate, and with those in the branches held as well,
    which leaves affine blocks. What is held is the gain φ(z)/z of an elementwise nonlinearity, the
    mask of a ReLU, and mean and deviation of a layer normalisation; where something else is not
    affine, such as attention, the columns are empty and the summary says why.

    Args:
        model: A module, a chain, or a loaded checkpoint. It is left as it was.
        data: As for :func:`ensemble_view.lesion`; targets are not looked at. Padding of text does
            not count.
        untrained: Whether to measure the net before training: built anew where a checkpoint names
            its architecture, else a copy whose weights are drawn anew by ``reset_parameters`` and
            ``_init_weights`` of its modules; by the seed, BatchNorm's running statistics those of
            the first batch. Where neither can be done, the result says why. Or that net itself,
            which is taken as it is.
        progress: Called with the block evaluations done, times examples.
        **options: As :func:`ensemble_view.lesion` takes them, but for ``measure``. ``batch_size``,
            64 by default, bounds the memory, since a stage's activations are kept. With ``plain``
            the branch of a unit G is G(x) - x.

    Returns:
        The result: ``.frame``, ``.stages_frame``, ``.plot()``, ``.save(folder)``.

    Raises:
        EnsembleViewError: If model, data or options do not fit each other; the sentence says how.

    Example:
        >>> import ensemble_view
        >>> net = ensemble_view.load_checkpoint("digits-resnet110")
        >>> result = ensemble_view.reaction(net, "digits", limit=4)
        >>> result.stages_frame[["stage", "first", "last", "blocks", "n"]]
          stage  first  last  blocks  n
        0     0      0    16      17  4
        1     1     18    34      17  4
        2     2     36    52      17  4
        3   all      0    52      51  4
    """
    return ReactionStudy(untrained).prepare(model, data, **options).run(progress)


def _untrained_chains(
    model: nn.Module | Chain | Checkpoint,
    subject: Subject,
    stages: tuple[Stage, ...],
    untrained: bool | nn.Module,
    seed: int,
    batch_size: int,
    plain: bool,
    granularity: Granularity,
) -> tuple[tuple[Chain, ...], dict[str, str], dict[str, str]]:
    """The untrained net's chain for each portion; or why there is none; or how it was made."""
    if untrained is False:
        return (), {"untrained": "it was left out"}, {}
    try:
        if isinstance(untrained, nn.Module):
            fresh, how = untrained, "given by the user"
        else:
            inputs, _ = next(iter(subject.portions[0][1].data.batches(batch_size)))
            inputs = _placed(inputs, subject.model["device"])
            fresh, how = untrained_net(model, subject.chain, inputs, seed)
        other = examine(
            fresh,
            subject.data,
            plain=plain,
            granularity=granularity,
            any_targets=True,
            output=subject.chain.output or None,
        )
        names = [block.name for block in subject.chain]
        same = [block.name for block in other.chain] == names
        if not same or stages_of(other.chain, other.sample[0]) != stages:
            raise MeasurementError(
                f"The untrained net comes apart into {len(other.chain)} blocks, other ones than "
                f"the {len(names)} of the net; give one of the same architecture."
            )
    except EnsembleViewError as error:
        if isinstance(untrained, nn.Module):
            raise
        return (), {"untrained": str(error)}, {}
    return tuple(chain for chain, _ in other.portions), {}, {"untrained": how}


def _placed(value: Any, device: str) -> Any:
    def place(leaf: Any) -> Any:
        return leaf.to(device) if isinstance(leaf, Tensor) else leaf

    return pytree.tree_map(place, value)
