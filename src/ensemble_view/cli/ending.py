"""What commands end with: cost, progress, the result printed and saved, and what was cut short."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import typer

from ensemble_view.cli.progress import progress_bar
from ensemble_view.results.study import StudyResult

__all__ = ["Study", "end", "finish", "show"]

ResultT = TypeVar("ResultT", bound=StudyResult)
ResultT_co = TypeVar("ResultT_co", bound=StudyResult, covariant=True)


class Study(Protocol[ResultT_co]):
    """What has a cost, which it says as text, and can be run."""

    @property
    def work(self) -> int:
        """The total of what ``progress`` is told."""

    def run(self, progress: Callable[[int], None] | None = None) -> ResultT_co:
        """Measure."""


def finish(
    study: Study[ResultT],
    unit: str,
    *,
    as_json: bool,
    out: Path | None,
    whole: str,
) -> ResultT:
    """Say what a study costs, run it, print the result and save it.

    Args:
        study: Ready to run.
        unit: What the progress bar counts.
        as_json: Whether to print the record and nothing else.
        out: Folder to save to.
        whole: How many were asked for: ``"300 images"``.

    Returns:
        The result.

    Raises:
        typer.Exit: With code 1, if the user stopped the study; what was done is printed and saved.
    """
    typer.echo(str(study), err=as_json)
    with progress_bar(unit, study.work) as advance:
        result = study.run(advance)
    end(result, as_json=as_json, out=out, whole=whole)
    return result


def end(result: StudyResult, *, as_json: bool, out: Path | None, whole: str) -> None:
    """Print the result of a run and save it, and say so if the user stopped it.

    Args:
        result: Any.
        as_json: Whether to print the record and nothing else.
        out: Folder to save to.
        whole: How many examples were asked for.

    Raises:
        typer.Exit: With code 1, if the user stopped the study.
    """
    show(result, as_json=as_json, out=out, before="\n")
    if result.stopped_after is not None:
        typer.echo(
            f"Stopped after {result.stopped_after:,} of {whole}; the result is of these.", err=True
        )
        raise typer.Exit(1)


def show(result: StudyResult, *, as_json: bool, out: Path | None, before: str = "") -> None:
    """Print a result and save it.

    Args:
        result: Any.
        as_json: Whether to print the record and nothing else.
        out: Folder to save to.
        before: Printed before the table.
    """
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2, allow_nan=False))
    else:
        typer.echo(f"{before}{result!r}")
    if out is not None:
        result.save(out)
        typer.echo(f"Saved to {out}.", err=True)
