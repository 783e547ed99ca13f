"""Which blocks a plan deletes, as a result says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ensemble_view.core.chain import Block, Chain
from ensemble_view.core.interventions.arrangement import Arrangement
from ensemble_view.core.interventions.text import BlockName, format_blocks, parse_blocks
from ensemble_view.errors import InterventionError, printable_name
from ensemble_view.study.checked import check_blocks

__all__ = ["Lesion", "NotDeletable", "chosen_blocks", "describe", "lesions_of", "lesions_restored"]


@dataclass(frozen=True)
class Lesion:
    """What one lesion deletes.

    Attributes:
        label: the block indices in the words of the command line, ``"3"`` or ``"3,7-9"``.
        names: the module path of each deleted block.
        blocks: the index of each deleted block, counted from 0.
        changes_shape: whether any deleted block changes the shape (downsampling).
        shortcut_kind: ``"identity"``, ``"projection"``, ``"zero-pad"``, ``"none"``, or ``"mixed"``
            where the deleted blocks differ.
    """

    label: str
    names: tuple[str, ...]
    blocks: tuple[int, ...]
    changes_shape: bool
    shortcut_kind: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "label", printable_name(self.label))
        object.__setattr__(self, "names", tuple(map(printable_name, self.names)))


@dataclass(frozen=True)
class NotDeletable:
    """A block of the chain that cannot be deleted, and why.

    Attributes:
        index: its index, counted from 0 together with the deletable blocks.
        name: its module path.
        reason: a phrase such as ``"changes the shape and has no shortcut"``.
    """

    index: int
    name: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable_name(self.name))


def describe(blocks: Sequence[Block], label: str | None = None) -> Lesion:
    """Describe what a lesion deletes.

    Args:
        blocks: The deleted blocks.
        label: What was done, in words; by default the blocks' indices.

    Returns:
        The description.
    """
    kinds = {block.shortcut_kind for block in blocks}
    return Lesion(
        label=label or format_blocks([block.index for block in blocks]),
        names=tuple(block.name for block in blocks),
        blocks=tuple(block.index for block in blocks),
        changes_shape=any(block.changes_shape for block in blocks),
        shortcut_kind=kinds.pop() if len(kinds) == 1 else "mixed",
    )


def lesions_of(blocks: tuple[Lesion, ...]) -> list[dict[str, Any]]:
    """Write blocks for a record.

    Args:
        blocks: what was deleted or kept.

    Returns:
        One dictionary each.
    """
    return [asdict(block) for block in blocks]


def lesions_restored(
    rows: list[dict[str, Any]], block_count: int | None = None
) -> tuple[Lesion, ...]:
    """Read back what :func:`lesions_of` wrote.

    Args:
        rows: of the record, one block each.
        block_count: how many blocks the net has, where the record says it.

    Returns:
        The blocks.

    Raises:
        ValueError: If they cannot be blocks of one net.
    """
    # A control may begin with the full net, which deletes none.
    expected = [0 if row["label"] == "none" else 1 for row in rows]
    if wrong := [
        row
        for row, count in zip(rows, expected, strict=True)
        if len(row["names"]) != 1 or len(row["blocks"]) != count
    ]:
        raise ValueError(f"{len(wrong)} of the blocks have not one name and one index")
    if block_count is not None:
        check_blocks([block for row in rows for block in row["blocks"]], block_count)
    return tuple(
        Lesion(**{**row, "names": tuple(row["names"]), "blocks": tuple(row["blocks"])})
        for row in rows
    )


def chosen_blocks(chain: Chain, only: str | Sequence[BlockName] | None) -> tuple[Block, ...]:
    """Find the blocks that a study keeps or deletes.

    Args:
        chain: Whose blocks.
        only: Indices or module paths, or text; None means all that can be deleted.

    Returns:
        The blocks in order, at least one.

    Raises:
        InterventionError: If there is none, or one cannot be deleted.
    """
    if only is None:
        found = tuple(block for block in chain if block.deletable)
    else:
        names = parse_blocks(only, len(chain)) if isinstance(only, str) else tuple(only)
        outline = chain.outline
        indices = Arrangement.of([slot.name for slot in outline.slots]).find_all(names)
        found = tuple(chain.blocks[index] for index in indices)
    fixed = [block for block in found if not block.deletable]
    if fixed:
        raise InterventionError(
            f"Block {fixed[0].index} ({fixed[0].name}) has no shortcut and changes the shape, so "
            "it cannot be deleted; choose others."
        )
    if not found:
        raise InterventionError(
            f"None of the {len(chain)} units of this net keeps its shape, so none can be deleted."
        )
    return found
