"""Plans, the prefix trie that shares what they have in common, and its cost. No torch here.

A plan is an intervention bound to a chain: the tuple of steps really executed. Plans that begin
alike share the beginning: sorted into a trie, each distinct prefix is executed once. All single
deletions and the baseline of n blocks then cost n(n-1)/2 + n block evaluations instead of n², and
all 2^n subsets cost 2^n - 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from ensemble_view.errors import InterventionError
from ensemble_view.interventions import Arrangement, Intervention, format_blocks

__all__ = ["Action", "Cost", "Node", "Outline", "Plan", "Slot", "Step", "Trie", "bind"]


@dataclass(frozen=True)
class Slot:
    """What a plan must know of one block: its name, shapes, and whether it can be deleted."""

    name: str
    shape_in: tuple[int, ...]
    shape_out: tuple[int, ...]
    deletable: bool


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
    LINK = "link"


@dataclass(frozen=True, order=True)
class Step:
    """One thing that the engine executes.

    Args:
        index: Which block, or which link.
        action: Run the block, run what is left of it without its branch, or run the link.

    Example:
        >>> print(Step(3, Action.DELETE))
        delete 3
    """

    index: int
    action: Action = Action.KEEP

    @property
    def block_evaluations(self) -> int:
        """1 if a branch is computed, else 0: an omitted block costs nothing."""
        return int(self.action is Action.KEEP)

    def __str__(self) -> str:
        return f"{self.action.value} {self.index}"


@dataclass(frozen=True, order=True)
class Plan:
    """The steps that an intervention means on one chain.

    Args:
        steps: In the order of execution.

    Example:
        >>> from ensemble_view.interventions import Compose
        >>> outline = Outline(tuple(Slot(name, (4,), (4,), True) for name in "abc"))
        >>> print(bind(Compose(), outline))
        keep 0-2
    """

    steps: tuple[Step, ...]

    @property
    def deleted(self) -> tuple[int, ...]:
        """Indices of the deleted blocks, ascending."""
        return tuple(sorted(s.index for s in self.steps if s.action is Action.DELETE))

    @property
    def order(self) -> tuple[int, ...]:
        """Index of the block at each position."""
        return tuple(s.index for s in self.steps if s.action is not Action.LINK)

    @property
    def block_evaluations(self) -> int:
        """What the plan costs alone, without sharing."""
        return sum(step.block_evaluations for step in self.steps)

    def __str__(self) -> str:
        moved = [i for p, i in enumerate(self.order) if p != i]
        words = []
        if self.deleted:
            words.append(f"delete {format_blocks(self.deleted)}")
        if moved:
            words.append(f"order {','.join(map(str, self.order))}")
        return "; ".join(words) or f"keep {format_blocks(self.order)}"


def bind(intervention: Intervention, outline: Outline) -> Plan:
    """Bind an intervention to a chain and check that it fits before anything runs.

    Args:
        intervention: What to change.
        outline: The chain's outline.

    Returns:
        The plan.

    Raises:
        InterventionError: If a block does not exist, cannot be deleted, or is moved to a place
            where tensors have another shape.

    Example:
        >>> from ensemble_view.interventions import Swap
        >>> outline = Outline((Slot("a", (4,), (4,), True), Slot("b", (4,), (8,), True)))
        >>> bind(Swap(0, 1), outline)
        Traceback (most recent call last):
        ensemble_view.errors.InterventionError: Block 1 (b) takes 4 to 8; it cannot run ...
    """
    slots = outline.slots
    arranged = intervention.apply(Arrangement.of([slot.name for slot in slots]))
    steps: list[Step] = []
    for position, index in enumerate(arranged.order):
        slot, here = slots[index], slots[position]
        if (slot.shape_in, slot.shape_out) != (here.shape_in, here.shape_out):
            raise InterventionError(
                f"Block {index} ({slot.name}) takes {_shapes(slot)}; it cannot run in the place of "
                f"block {position} ({here.name}), which takes {_shapes(here)}."
            )
        if position in outline.links:
            steps.append(Step(position, Action.LINK))
        if index in arranged.deleted and not slot.deletable:
            raise InterventionError(
                f"Block {index} ({slot.name}) has no shortcut and takes {_shapes(slot)}; it cannot "
                "be deleted, only units that keep their shape can."
            )
        steps.append(Step(index, Action.DELETE if index in arranged.deleted else Action.KEEP))
    return Plan(tuple(steps))


def _shapes(slot: Slot) -> str:
    return " to ".join("×".join(map(str, shape)) for shape in (slot.shape_in, slot.shape_out))


@dataclass
class Node:
    """A distinct prefix of plans: the step that ends it, what may follow, and which plans end here.

    Args:
        step: None at the root, which stands for the stem's output.
        children: The prefixes that are one step longer, in the order in which they are walked.
        plans: Positions, in the list that the trie was built from, of the plans that end here.
    """

    step: Step | None = None
    children: list[Node] = field(default_factory=list)
    plans: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Cost:
    """What it costs to run plans once over a batch, known before the run.

    Args:
        plans: How many.
        block_evaluations: Branches computed with shared prefixes.
        naive_block_evaluations: Branches computed by a full forward pass per plan.
        activations: The most activations that are kept at once.
    """

    plans: int
    block_evaluations: int
    naive_block_evaluations: int
    activations: int


class Trie:
    """Plans sorted by common prefixes.

    The first plan is walked first, so that what is measured against it can be measured as the walk
    goes on; elsewhere the smaller subtree comes first, which keeps few activations alive.

    Args:
        plans: The plans; equal ones share a leaf.

    Example:
        >>> from ensemble_view.interventions import Compose, Delete
        >>> outline = Outline(tuple(Slot(str(i), (4,), (4,), True) for i in range(54)))
        >>> singles = [bind(Delete(i), outline) for i in range(54)]
        >>> Trie([bind(Compose(), outline), *singles]).cost.block_evaluations
        1485
    """

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans = tuple(plans)
        self.root = Node()
        for number, plan in enumerate(self.plans):
            node = self.root
            for step in plan.steps:
                # The newest child is the likeliest: studies list their plans in order.
                for child in reversed(node.children):
                    if child.step == step:
                        break
                else:
                    child = Node(step)
                    node.children.append(child)
                node = child
            node.plans.append(number)
        self._sort()

    def _sort(self) -> None:
        size: dict[int, int] = {}
        first: dict[int, int] = {}
        for node in reversed(list(self)):
            size[id(node)] = 1 + sum(size[id(child)] for child in node.children)
            first[id(node)] = min(
                [*node.plans, *(first[id(child)] for child in node.children)], default=0
            )
            node.children.sort(key=lambda child: (first[id(child)] != 0, size[id(child)]))

    def __iter__(self) -> Iterator[Node]:
        """Walk depth-first, parents before children.

        Yields:
            Every node, the root first.
        """
        stack = [self.root]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(reversed(node.children))

    @property
    def cost(self) -> Cost:
        """What a walk costs."""
        activations = 0
        waiting = [(self.root, 1)]
        while waiting:
            node, kept = waiting.pop()
            activations = max(activations, kept)
            # The node's own activation stays until its last child is entered.
            waiting.extend((child, kept + 1) for child in node.children[:-1])
            waiting.extend((child, kept) for child in node.children[-1:])
        return Cost(
            plans=len(self.plans),
            block_evaluations=sum(n.step.block_evaluations for n in self if n.step is not None),
            naive_block_evaluations=sum(plan.block_evaluations for plan in self.plans),
            activations=activations,
        )
