"""What a person at a terminal sees while a command works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["progress_bar", "stages"]


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Show the name of the stage at work on standard error where that is a terminal.

    Yields:
        To be called with the name of each stage as it begins.

    Example:
        >>> with stages() as begin:
        ...     begin("export")
    """
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("start", total=None)
        yield lambda stage: bar.update(task, description=stage, refresh=True)


@contextmanager
def progress_bar(unit: str, total: float | None) -> Iterator[Callable[..., None]]:
    """Show a bar on standard error where that is a terminal; otherwise nothing.

    Args:
        unit: What is counted.
        total: How much there is, if known.

    Yields:
        To be called with how much was done since the last call, and the total where it is new.

    Example:
        >>> with progress_bar("lesions", 3) as advance:
        ...     advance(1)
    """
    console = Console(stderr=True)
    with Progress(
        TextColumn(unit),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(unit, total=total)

        def advance(amount: float, out_of: float | None = None) -> None:
            if out_of is not None:
                bar.update(task, total=out_of)
            bar.advance(task, amount)

        yield advance
