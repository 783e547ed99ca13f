"""Which nonlinearities of a chain can be held at the full net's, so that what is left is affine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor

from ensemble_view.core.chain import Block, Chain, arguments_of
from ensemble_view.core.parts import Context, Part, identity
from ensemble_view.studies.reaction.gains import Held, Holding, Recording

__all__ = ["FROZEN", "Forms", "Frozen", "forms_of"]

Frozen: TypeAlias = Literal["nothing", "junctions", "all"]
"""Which nonlinearities are held: those on the way round the branches, or those in them too."""

FROZEN: tuple[Frozen, ...] = ("nothing", "junctions", "all")

_PHRASES = {
    "before": "what branch and shortcut share in",
    "shortcut": "the shortcut of",
    "branch": "the branch of",
    "after": "what follows the sum of",
}


@dataclass(frozen=True)
class Forms:
    """Which ways of freezing mean something for a chain.

    Attributes:
        equal: those that hold nothing more than the one before, since there is nothing.
        undefined: those under which a part is not affine, with the reason.
    """

    equal: frozenset[Frozen]
    undefined: Mapping[Frozen, str]

    @property
    def measured(self) -> tuple[Frozen, ...]:
        """Those that must be run."""
        return tuple(f for f in FROZEN if f not in self.equal and f not in self.undefined)

    def stands_for(self, frozen: Frozen) -> Frozen | None:
        """The way that must be run to know this one.

        Args:
            frozen: Any way.

        Returns:
            One of those that must be run; None where this one is undefined.
        """
        if frozen in self.undefined:
            return None
        if frozen not in self.equal:
            return frozen
        return self.stands_for(FROZEN[FROZEN.index(frozen) - 1])


@torch.no_grad()
def forms_of(chain: Chain, inputs: Any) -> Forms:
    """Find out which ways of freezing mean something for a chain.

    With its nonlinearities held, a part must be affine. That is tried out on inputs of its own: the
    value halfway between two must be halfway between their values, to three times the root of the
    number format's precision.

    Args:
        chain: Any chain.
        inputs: As the model is called with them; a few examples suffice.

    Returns:
        The ways.

    Example:
        >>> def squared(x, context):
        ...     return x * x
        >>> chain = Chain.from_parts(lambda x: x, [Block(0, "F", branch=squared)], lambda x: x)
        >>> forms_of(chain, torch.ones(2, 3)).undefined
        {'all': 'the branch of block 0 (F) is not affine with its nonlinearities held'}
    """
    args, named = arguments_of(inputs)
    x, context = chain.stem(*args, **named)
    undefined: dict[Frozen, str] = {}
    equal: set[Frozen] = {"junctions", "all"}
    for position, block in enumerate(chain.blocks):
        if position in chain.links:
            x = chain.links[position](x, context)
        for unit in block.units or (block,):
            for name, part, value in _pieces(unit, x, context):
                frozen: Frozen = "all" if name == "branch" else "junctions"
                with Recording() as recording:
                    part(value.clone(), context)
                if recording.held:
                    equal.discard(frozen)
                if not _is_affine(part, value, context, recording.held):
                    undefined.setdefault(
                        frozen,
                        f"{_PHRASES[name]} block {block.index} ({block.name}) is not affine with "
                        "its nonlinearities held",
                    )
            x = unit(x, context)
    if "junctions" in undefined:
        undefined["all"] = undefined["junctions"]
    return Forms(frozenset(equal - set(undefined)), undefined)


def _pieces(unit: Block, x: Tensor, context: Context) -> Iterator[tuple[str, Part, Tensor]]:
    """The parts of a block that do something, each with its input in the full net."""
    if not unit.is_residual:
        yield "branch", unit, x
        return
    shared = unit.before(x, context)
    total = unit.shortcut(shared, context) + unit.branch(shared, context)
    for name, part, value in (
        ("before", unit.before, x),
        ("shortcut", unit.shortcut, shared),
        ("branch", unit.branch, shared),
        ("after", unit.after, total),
    ):
        if part is not identity:
            yield name, part, value


def _is_affine(part: Part, value: Tensor, context: Context, held: Held) -> bool:
    other = value.flip(0) / 2

    def run(x: Tensor) -> Tensor:
        with Holding(held):
            return part(x, context)

    first, second, middle = run(value.clone()), run(other.clone()), run((value + other) / 2)
    off = (middle - (first + second) / 2).norm()
    # Also where both are equal up to rounding.
    size = (first - second).norm() + first.norm() * torch.finfo(first.dtype).eps
    return bool(off <= 3 * torch.finfo(first.dtype).eps ** 0.5 * size)
