"""The one place where text leaves for the terminal: escaped, and never the end of a measurement."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import typer

from ensemble_view.errors import EnsembleViewError, MeasurementWarning, printable, printable_name

__all__ = ["OutputError", "flush", "is_told", "say", "warnings_said"]

_GONE = (errno.EPIPE, errno.EIO, errno.ESHUTDOWN, errno.ENXIO)


class OutputError(EnsembleViewError):
    """Standard output cannot be written to, though somebody reads it."""


def say(text: str, *, err: bool = False) -> bool:
    """Print text, control characters escaped.

    Args:
        text: Of any origin.
        err: Whether to standard error instead of standard output.

    Returns:
        Whether it was written; not, where the reader of a pipe or the terminal is gone.

    Raises:
        OutputError: If it cannot be written for another reason, such as a full disk.
    """
    try:
        typer.echo(printable(text), err=err)
    except OSError as error:
        _silence(err)
        if error.errno in _GONE or err:
            return False
        raise OutputError(
            f"Standard output cannot be written ({error.strerror or error}); send it elsewhere."
        ) from error
    return (sys.stderr if err else sys.stdout) not in _silenced


@contextlib.contextmanager
def warnings_said() -> Iterator[None]:
    """Say each warning about measurements once, in one sentence.

    The notes of a result hold most of them. So a warning waits for the notes
    (:func:`is_told`), and is said on standard error at the end where none told it: with
    ``--json``, or by a command that has no result.
    """
    _waiting.clear()
    _told.clear()
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            if issubclass(category, MeasurementWarning):
                _waiting.append(printable_name(str(message)))
            else:
                shown(message, category, *args, **kwargs)

        warnings.simplefilter("always", MeasurementWarning)
        warnings.showwarning = show
        try:
            yield
        finally:
            for message in dict.fromkeys(_waiting):
                if message not in _told:
                    say(f"Warning: {message}", err=True)


def is_told(warning: str) -> None:
    """Note that a warning was said, so that it is not said again.

    Args:
        warning: The sentence.
    """
    _told.add(printable_name(warning))


_waiting: list[str] = []
_told: set[str] = set()
_silenced: list[object] = []


def _silence(err: bool) -> None:
    """Let what is still to come go nowhere, also what the interpreter flushes at its end."""
    name = "stderr" if err else "stdout"
    stream = getattr(sys, name)
    nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(nowhere.fileno(), stream.fileno())
    setattr(sys, name, nowhere)
    _silenced.append(nowhere)


def flush() -> None:
    """Write what is left in the buffers, where somebody reads it."""
    for err in (False, True):
        try:
            (sys.stderr if err else sys.stdout).flush()
        except (OSError, ValueError):
            _silence(err)
