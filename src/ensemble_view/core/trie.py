"""Plans in a trie: each distinct prefix runs once, at a cost that is known before. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ensemble_view.core.plan import Plan, Step

__all__ = ["Cost", "Node", "Trie"]


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
        >>> from ensemble_view.core.plan import Outline, Slot, bind
        >>> from ensemble_view.core.interventions.base import Compose
        >>> from ensemble_view.core.interventions.branches import Delete
        >>> outline = Outline(tuple(Slot(str(i), (4,), (4,), True) for i in range(54)))
        >>> singles = [bind(Delete(i), outline) for i in range(54)]
        >>> Trie([bind(Compose(), outline), *singles]).cost.block_evaluations
        1485
    """

    def __init__(self, plans: Sequence[Plan]) -> None:
        self.plans = tuple(plans)
        self.root = Node()
        following: dict[tuple[int, Step], Node] = {}
        for number, plan in enumerate(self.plans):
            node = self.root
            for step in plan.steps:
                child = following.get((id(node), step))
                if child is None:
                    child = following[id(node), step] = Node(step)
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
