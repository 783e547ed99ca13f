"""What the texts of all results share: paragraphs, short names, tables in HTML."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["about", "html_table", "shortened", "shortened_count", "wrapped"]


def html_table(frame: pd.DataFrame, caption: str, notes: Sequence[str] = ()) -> str:
    """Lay out the lesions as an HTML table with the summary below it.

    Args:
        frame: one row per lesion, with the columns of ``LesionResult.frame``.
        caption: plain text to stand below the table.
        notes: sentences to stand above it.

    Returns:
        An HTML fragment in which all text is escaped.

    Example:
        >>> import pandas as pd
        >>> "&lt;b&gt;" in html_table(pd.DataFrame({"names": ["<b>"]}), "none")
        True
    """
    body = frame.to_html(index=False, float_format=lambda value: f"{value:.4g}", escape=True)
    above = "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)
    return f"{above}{body}\n<p>{html.escape(caption)}</p>"


def about(count: int, unit: str) -> str:
    """Say what the statements of a summary concern.

    Args:
        count: How many examples were measured.
        unit: What they are, in the plural.

    Returns:
        A sentence.

    Example:
        >>> about(797, "examples")
        'These statements concern this net on these 797 examples.'
    """
    these = f"this {unit.removesuffix('s')}" if count == 1 else f"these {count:,} {unit}"
    return f"These statements concern this net on {these}."


def wrapped(text: str) -> str:
    """Break a paragraph into lines of at most 80 columns.

    Args:
        text: one paragraph.

    Returns:
        The same words, broken at spaces.

    Example:
        >>> wrapped("a b")
        'a b'
    """
    return textwrap.fill(text, width=80, break_long_words=False, break_on_hyphens=False)


def shortened_count(number: int, width: int) -> str:
    """Write an exact number, or its first digits where it is too long.

    Args:
        number: However large.
        width: Most characters.

    Returns:
        The number.

    Example:
        >>> shortened_count(2**20, 9), shortened_count(2**54, 9)
        ('1048576', '1.80e16')
    """
    digits = str(number)
    return digits if len(digits) <= width else f"{digits[0]}.{digits[1:3]}e{len(digits) - 1}"


def shortened(text: str, width: int) -> str:
    """Cut the middle out: the beginning names the module, the end the block.

    Args:
        text: Any.
        width: Most characters.

    Returns:
        The text, where need be with three points for its middle.

    Example:
        >>> shortened("encoder.layers.11", 12)
        'enco...rs.11'
    """
    if len(text) <= width:
        return text
    head = (width - 3) // 2
    return f"{text[:head]}...{text[len(text) - (width - 3 - head) :]}"
