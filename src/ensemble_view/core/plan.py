"""Plans, the prefix trie that shares what they have in common, and its cost. No torch here.

A plan is an intervention bound to a chain: the tuple of steps really executed. Plans that begin
alike share the beginning: sorted into a trie, each distinct prefix is executed once. All single
deletions and the baseline of n blocks then cost n(n-1)/2 + n block evaluations instead of n², and
all 2^n subsets cost 2^n - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ensemble_view.core.interventions.arrangement import Arrangement, Treatment
from ensemble_view.core.interventions.base import Intervention
from ensemble_view.core.interventions.text import format_blocks
from ensemble_view.errors import InterventionError

__all__ = ["Action", "Outline", "Plan", "Slot", "Step", "bind"]

_UNTREATED = Treatment()
_MOST_STEPS = 10_000


@dataclass(frozen=True)
class Slot:
    """What a plan must know of one block: name, shapes, whether it can be deleted, has a shortcut.

    A plain unit, which has no shortcut, can be deleted where it keeps the shape. A branch can be
    replaced by values of other examples where its first dimension counts examples. Branches can be
    added up beside each other where their sums have the shape of the output.
    """

    name: str
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    deletable: bool
    has_shortcut: bool = True
    by_example: bool = True
    sums_as_output: bool = True

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of input and output."""
        return self.shape_in, self.shape_out

    @property
    def changes_shape(self) -> bool:
        """Whether they differ."""
        return self.shape_in != self.shape_out


@dataclass(frozen=True)
class Outline:
    """What a plan must know of a chain.

    Args:
        slots: One per block, in order.
        links: Positions before which a link runs.
    """

    slots: tuple[Slot, ...]
    links: frozenset[int] = frozenset()


class Action(StrEnum):
    """What a step does."""

    KEEP = "keep"
    DELETE = "delete"
    ALTER = "alter"
    PARALLEL = "parallel"
    LINK = "link"


@dataclass(frozen=True, order=True)
class Step:
    """One thing that the engine executes.

    Args:
        index: Which block, or which link; of parallel blocks the first.
        action: Run the block, run what is left of it without its branch, run it altered, run
            several beside each other, or run the link.
        treatment: How an altered block is altered.
        members: The steps of the parallel blocks.
        mean: Whether parallel branches are averaged.

    Example:
        >>> print(Step(3, Action.DELETE))
        delete 3
        >>> print(Step(3, Action.ALTER, Treatment(factor=0.5)))
        scale 3 0.5
    """

    index: int
    action: Action = Action.KEEP
    treatment: Treatment = _UNTREATED
    members: tuple[Step, ...] = ()
    mean: bool = False

    @classmethod
    def of(cls, index: int, treatment: Treatment) -> Step:
        """The step that runs a block with what is done with it.

        Args:
            index: Of the block.
            treatment: What is done with it.

        Returns:
            The step.
        """
        if treatment == _UNTREATED:
            return cls(index)
        if treatment == Treatment("zero"):
            return cls(index, Action.DELETE)
        return cls(index, Action.ALTER, treatment)

    @property
    def blocks(self) -> tuple[Step, ...]:
        """The steps of single blocks that this one consists of: a link's has none."""
        return self.members or (() if self.action is Action.LINK else (self,))

    @property
    def block_evaluations(self) -> int:
        """How many branches are computed: an omitted block costs nothing, nor does its mean."""
        return sum(
            step.action is Action.KEEP
            or (step.action is Action.ALTER and step.treatment.branch not in ("zero", "mean"))
            for step in self.blocks
        )

    def __str__(self) -> str:
        if self.action is Action.PARALLEL:
            members = "+".join(str(step.index) for step in self.members)
            return f"mean({members})" if self.mean else members
        if self.action is Action.ALTER:
            return self.treatment.written(self.index)
        return f"{self.action.value} {self.index}"


@dataclass(frozen=True, order=True)
class Plan:
    """The steps that an intervention means on one chain.

    Args:
        steps: In the order of execution.
        positions: Of each step the position in the chain; by default one block to each.

    Example:
        >>> from ensemble_view.core.interventions.base import Compose
        >>> outline = Outline(tuple(Slot(name, (4,), (4,), True) for name in "abc"))
        >>> print(bind(Compose(), outline))
        keep 0-2
    """

    steps: tuple[Step, ...]
    positions: tuple[int, ...] = field(default=(), compare=False)

    @property
    def blocks(self) -> tuple[Step, ...]:
        """The steps of single blocks, those beside each other one after another."""
        return tuple(block for step in self.steps for block in step.blocks)

    @property
    def deleted(self) -> tuple[int, ...]:
        """Indices of the deleted blocks, ascending."""
        return tuple(sorted({s.index for s in self.blocks if s.action is Action.DELETE}))

    @property
    def altered(self) -> tuple[Step, ...]:
        """The steps that alter a block, each once, by index."""
        return tuple(sorted({s for s in self.blocks if s.action is Action.ALTER}))

    @property
    def order(self) -> tuple[int, ...]:
        """Index of the block at each position; of all blocks in turn where some run elsewhere."""
        return tuple(step.index for step in self.blocks)

    @property
    def places(self) -> dict[int, tuple[Step, ...]]:
        """What runs at each position, without the links."""
        found: dict[int, tuple[Step, ...]] = {}
        steps = [step for step in self.steps if step.action is not Action.LINK]
        for position, step in zip(self.positions or range(len(steps)), steps, strict=True):
            found[position] = (*found.get(position, ()), step)
        return found

    @property
    def moved(self) -> tuple[int, ...]:
        """Positions at which anything but their own block runs, once."""
        places = self.places
        return tuple(
            position
            for position in range(1 + max(places, default=-1))
            if [step.members or step.index for step in places.get(position, ())] != [position]
        )

    @property
    def block_evaluations(self) -> int:
        """What the plan costs alone, without sharing."""
        return sum(step.block_evaluations for step in self.steps)

    def __str__(self) -> str:
        order = [
            str(step if step.members else step.index)
            for step in self.steps
            if step.action is not Action.LINK
        ]
        words = [f"delete {format_blocks(self.deleted)}"] if self.deleted else []
        words += map(str, self.altered)
        if order != [str(position) for position in range(len(order))]:
            words.append(f"order {','.join(order)}")
        return "; ".join(words) or f"keep {format_blocks(self.order)}"


def bind(intervention: Intervention, outline: Outline) -> Plan:
    """Bind an intervention to a chain and check that it fits before anything runs.

    Args:
        intervention: What to change.
        outline: The chain's outline.

    Returns:
        The plan.

    Raises:
        InterventionError: If a block does not exist, cannot be treated like that, or is moved to a
            place where tensors have another shape, or there are more than 10,000 steps.

    Example:
        >>> from ensemble_view.core.interventions.places import Swap
        >>> outline = Outline((Slot("a", (4,), (4,), True), Slot("b", (4,), (8,), True)))
        >>> bind(Swap(0, 1), outline)
        Traceback (most recent call last):
        ensemble_view.errors.InterventionError: Block 1 (b) takes 4 to 8; it cannot run ...
    """
    slots = outline.slots
    arranged = intervention.apply(Arrangement.of([slot.name for slot in slots], outline.links))
    steps: list[Step] = []
    positions: list[int] = []
    for position, place in enumerate(arranged.places):
        if place.blocks != (position,) or arranged.times[position] > 1:
            _check_shapes(position, arranged, slots)
        if position in outline.links:
            steps.append(Step(position, Action.LINK))
        members: list[Step] = []
        for index in place.blocks:
            if arranged.treatments[index] != _UNTREATED:
                _check_treatment(index, arranged, slots[index], beside=len(place.blocks) > 1)
            # Counted before they are listed: a block can be repeated any number of times.
            if len(steps) + len(members) + arranged.times[index] > _MOST_STEPS:
                raise InterventionError(
                    f"The plan has more than {_MOST_STEPS:,} steps at block {index} "
                    f"({slots[index].name}); repeat it less often."
                )
            members += [Step.of(index, arranged.treatments[index])] * arranged.times[index]
        if len(place.blocks) > 1:
            first = members[0].index
            members = [Step(first, Action.PARALLEL, members=tuple(members), mean=place.mean)]
        steps += members
        positions += [position] * len(members)
    return Plan(tuple(steps), tuple(positions))


def _check_shapes(position: int, arranged: Arrangement, slots: Sequence[Slot]) -> None:
    """See to it that what runs at a position fits together and into its place."""
    blocks, here = arranged.places[position].blocks, slots[position]
    for index in blocks[1:]:
        # They read one input, and the shortcut goes through all of them.
        if slots[index].shapes != slots[blocks[0]].shapes or slots[index].changes_shape:
            raise InterventionError(
                f"{_takes(index, slots)}; it cannot run beside {_which_takes(blocks[0], slots)}"
            )
    for index in blocks:
        if len(blocks) > 1 and not slots[index].sums_as_output:
            raise InterventionError(
                f"Block {index} ({slots[index].name}) adds up values that are laid out otherwise "
                "than its output, so its branch cannot be added to those of others; it cannot run "
                "beside them."
            )
        if arranged.times[index] > 1 and slots[index].changes_shape:
            raise InterventionError(
                f"{_takes(index, slots)}; it cannot run again on what it gives."
            )
    if blocks and slots[blocks[0]].shapes != here.shapes:
        raise InterventionError(
            f"{_takes(blocks[0], slots)}; it cannot run in the place of "
            f"{_which_takes(position, slots)}"
        )
    if not blocks and here.changes_shape:
        raise InterventionError(f"{_takes(position, slots)}; its place cannot be left empty.")


def _check_treatment(index: int, arranged: Arrangement, slot: Slot, *, beside: bool) -> None:
    """See to it that a block can be treated as it is to be."""
    done = arranged.treatments[index]
    title = f"Block {index} ({slot.name})"
    if not done.shortcut and not slot.has_shortcut:
        raise InterventionError(f"{title} has no shortcut that could be dropped.")
    if not done.shortcut and done.branch == "zero":
        raise InterventionError(
            f"Of block {index} ({slot.name}) neither shortcut nor branch would be left."
        )
    if not done.shortcut and beside:
        raise InterventionError(
            f"{title} runs beside others, with one shortcut for all; its own cannot be dropped."
        )
    if done.branch in ("mean", "resample", "perturbed", "constant") and not slot.by_example:
        raise InterventionError(
            f"{title} adds up values whose first dimension does not count examples, so its branch "
            f"cannot be replaced by {done.branch!r}; by 'zero' it can."
        )
    if not slot.deletable:
        verb = {"own": "scaled", "zero": "deleted"}.get(done.branch, "replaced")
        raise InterventionError(
            f"{title} has no shortcut and takes {_shapes(slot)}; it cannot be {verb}, only units "
            "that keep their shape can."
        )


def _takes(index: int, slots: Sequence[Slot]) -> str:
    return f"Block {index} ({slots[index].name}) takes {_shapes(slots[index])}"


def _which_takes(index: int, slots: Sequence[Slot]) -> str:
    return f"block {index} ({slots[index].name}), which takes {_shapes(slots[index])}."


def _shapes(slot: Slot) -> str:
    return " to ".join("×".join(map(str, shape)) for shape in slot.shapes)
