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

from ensemble_view.errors import EnsembleViewError, MeasurementWarning, printable

__all__ = ["OutputError", "flush", "say", "warnings_said"]

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
    """Say warnings about measurements in one sentence on standard error, each only once."""
    told: set[str] = set()
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Any, category: type[Warning], *args: Any, **kwargs: Any) -> None:
            if not issubclass(category, MeasurementWarning):
                shown(message, category, *args, **kwargs)
            elif str(message) not in told:
                told.add(str(message))
                say(f"Warning: {message}", err=True)

        warnings.simplefilter("always", MeasurementWarning)
        warnings.showwarning = show
        yield


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
