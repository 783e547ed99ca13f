"""Text that a terminal shows as it is: control characters are written out as escapes."""

from __future__ import annotations

import re

__all__ = ["printable", "printable_name"]

# C0 and C1 controls, half surrogates, and what reverses or hides the text around it.
_ODD = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff"
_IN_TEXT = re.compile(f"[{_ODD}]")
_IN_NAME = re.compile(f"[{_ODD}\t\n]")


def printable(text: str) -> str:
    r"""Escape what would act on a terminal instead of being shown; lines and tabs stay.

    Args:
        text: of any origin.

    Returns:
        The text, each control character, bidirectional or invisible mark, and half of a surrogate
        pair written as its escape.

    Example:
        >>> print(printable("layer\x1b[31m1\n"))
        layer\x1b[31m1
        <BLANKLINE>
    """
    return _IN_TEXT.sub(_escape, text)


def printable_name(name: str) -> str:
    r"""Escape a name for one line of text: as :func:`printable`, and line breaks and tabs too.

    Args:
        name: of a module, file, class, or anything else that others named.

    Returns:
        The name on one line.

    Example:
        >>> print(printable_name("layer1\nSaved to out."))
        layer1\nSaved to out.
    """
    return _IN_NAME.sub(_escape, name)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    short = {9: r"\t", 10: r"\n", 13: r"\r"}.get(code)
    return short or (f"\\x{code:02x}" if code < 127 else f"\\u{code:04x}")
