"""Lists of blocks as they are written on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from ensemble_view.errors import InterventionError

__all__ = ["BlockName", "format_blocks", "parse_block", "parse_blocks"]

LAST = 9_999
"""The largest index that a list of blocks may name where no chain is at hand."""

_MOST_NAMES = 10_000
_LONGEST_NAME = 500

BlockName: TypeAlias = int | str
"""A block's index from 0, or its module path with wildcards."""


def parse_block(text: str) -> BlockName:
    """Read the name of one block.

    Args:
        text: An index or a module path.

    Returns:
        The name.

    Example:
        >>> parse_block("3"), parse_block("layer3.*")
        (3, 'layer3.*')
    """
    (name,) = parse_blocks(text)
    return name


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def parse_blocks(text: str, count: int | None = None) -> tuple[BlockName, ...]:
    """Read a list of blocks as it is written on the command line.

    Args:
        text: Indices, ranges with both ends included, and module paths, separated by commas.
        count: How many blocks the chain has, if it is at hand; without it, the largest index is
            9,999.

    Returns:
        Indices and paths in the order written, at most 10,000.

    Raises:
        InterventionError: If an item is empty, a range runs backwards, or there is no such block.

    Example:
        >>> parse_blocks("3,7-9,layer3.*")
        (3, 7, 8, 9, 'layer3.*')
    """
    names: list[BlockName] = []
    for item in (part.strip() for part in text.split(",")):
        numbers = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", item)
        if numbers:
            first, last = _index(numbers[1], count), _index(numbers[2] or numbers[1], count)
            if last < first:
                raise InterventionError(f"The range {item} runs backwards; write {last}-{first}.")
            if len(names) + last - first >= _MOST_NAMES:
                raise InterventionError(
                    f"{_shown(text)} names more than {_MOST_NAMES:,} blocks; name each once."
                )
            names.extend(range(first, last + 1))
        elif item and not re.match(r"[-\d]", item) and len(item) <= _LONGEST_NAME:
            names.append(item)
        else:
            raise InterventionError(
                f"{_shown(text)} is no list of blocks: {_shown(item)} is neither an index, a range "
                "such as 7-9 nor a module path such as layer3.*."
            )
    return tuple(names)


def _index(digits: str, count: int | None) -> int:
    """Read an index; before a range is written out, whether there is such a block is clear."""
    last = LAST if count is None else count - 1
    # Counted first: a number of thousands of digits takes its time.
    index = int(digits) if len(digits) <= len(str(LAST)) + 9 else None
    if index is not None and index <= last:
        return index
    if count is None:
        raise InterventionError(
            f"There is no block {digits[:20]}{'...' * (len(digits) > 20)}: lists of blocks go up "
            f"to {LAST:,}."
        )
    raise InterventionError(
        f"There is no block {digits[:20]}{'...' * (len(digits) > 20)}: this chain has {count} "
        f"blocks, 0 to {last}."
    )


def format_blocks(blocks: Sequence[int]) -> str:
    """Write block indices as :func:`parse_blocks` reads them, runs as ranges.

    Args:
        blocks: Indices.

    Returns:
        For example ``"3,7-9"``.

    Example:
        >>> format_blocks([9, 3, 7, 8])
        '3,7-9'
    """
    runs: list[list[int]] = []
    for index in sorted(set(blocks)):
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
