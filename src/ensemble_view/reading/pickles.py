"""Pickles looked through, operation by operation, before the interpreter's unpickler runs them.

That one keeps what a pickle wants remembered in a table as long as the largest index: five bytes of
a damaged file ask for sixteen gigabytes. It also takes memory for text of a stated length before it
looks whether the text is there.
"""

from __future__ import annotations

import io
import mmap
import pickletools
from typing import IO, Any

from ensemble_view.errors import UnreadableError

__all__ = ["check_pickle"]

_REMEMBER = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


def check_pickle(content: bytes | IO[bytes] | mmap.mmap) -> None:
    r"""Refuse a pickle that would take memory which its size does not warrant.

    Args:
        content: The pickle, or a file or a map of one that stands where the pickle begins, and
            then where it ends.

    Raises:
        UnreadableError: If it is none, or remembers something under an index that it is too short
            to need.

    Example:
        >>> check_pickle(b"Nr\xff\xff\xff\x7f.")
        Traceback (most recent call last):
        ...
        ensemble_view.errors.UnreadableError: its pickle asks for a table of 2,147,483,647 entries
    """
    stream: Any = io.BytesIO(content) if isinstance(content, bytes) else content
    start = stream.tell()
    try:
        for operation, argument, _ in pickletools.genops(stream):
            # Each entry is remembered by an operation of its own.
            if operation.name in _REMEMBER and int(argument or 0) > stream.tell() - start:
                raise UnreadableError(f"its pickle asks for a table of {argument:,} entries")
    except UnreadableError:
        raise
    except Exception as error:
        raise UnreadableError("its pickle is broken off or damaged") from error
