"""Lists of blocks as they are written on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

from ensemble_view.errors import InterventionError

__all__ = ["BlockName", "format_blocks", "parse_block", "parse_blocks"]

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


def parse_blocks(text: str) -> tuple[BlockName, ...]:
    """Read a list of blocks as it is written on the command line.

    Args:
        text: Indices, ranges with both ends included, and module paths, separated by commas.

    Returns:
        Indices and paths in the order written.

    Raises:
        InterventionError: If an item is empty or a range runs backwards.

    Example:
        >>> parse_blocks("3,7-9,layer3.*")
        (3, 7, 8, 9, 'layer3.*')
    """
    names: list[BlockName] = []
    for item in (part.strip() for part in text.split(",")):
        numbers = re.fullmatch(r"(\d+)(?:-(\d+))?", item)
        if numbers:
            first = int(numbers[1])
            last = int(numbers[2]) if numbers[2] else first
            if last < first:
                raise InterventionError(f"The range {item} runs backwards; write {last}-{first}.")
            names.extend(range(first, last + 1))
        elif item and not re.match(r"[-\d]", item):
            names.append(item)
        else:
            raise InterventionError(
                f"{text!r} is no list of blocks: {item!r} is neither an index, a range such as 7-9 "
                "nor a module path such as layer3.*."
            )
    return tuple(names)


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
