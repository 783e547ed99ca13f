"""What a person at a terminal sees while a command works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

__all__ = ["stages"]


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
