"""What commands end with: cost, progress, the result saved and printed, and what was cut short."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol, TypeVar

import typer

from ensemble_view.cli.progress import progress_bar
from ensemble_view.cli.saying import OutputError, is_told, say
from ensemble_view.cli.stopping import unstopped
from ensemble_view.study.files import ResultError, ResultWarning
from ensemble_view.study.provenance import WARNING
from ensemble_view.study.result import StudyResult
from ensemble_view.study.words import wrapped

__all__ = ["Study", "end", "finish", "show"]

ResultT = TypeVar("ResultT", bound=StudyResult)
ResultT_co = TypeVar("ResultT_co", bound=StudyResult, covariant=True)


class Study(Protocol[ResultT_co]):
    """What has a cost, which it says as text, and can be run."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader needs before the numbers."""

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
    overwrite: bool = False,
    whole: str,
) -> ResultT:
    """Say what was taken for granted and what a study costs, run it, save and print the result.

    Args:
        study: Ready to run.
        unit: What the progress bar counts.
        as_json: Whether to print the record and nothing else.
        out: Folder to save to.
        overwrite: Whether a result that is there may be replaced.
        whole: How many were asked for: ``"300 images"``.

    Returns:
        The result.

    Raises:
        typer.Exit: With code 1, if the user stopped the study; what was done is saved and printed.
        ResultError: If the result could not be saved where it was to be; it is saved elsewhere.
    """
    for note in study.notes:
        say(wrapped(note), err=as_json)
    _tell(study.notes)
    say(str(study), err=as_json)
    with progress_bar(unit, study.work) as advance:
        result = study.run(advance)
    end(result, as_json=as_json, out=out, overwrite=overwrite, whole=whole, noted=study.notes)
    return result


def end(
    result: StudyResult,
    *,
    as_json: bool,
    out: Path | None,
    overwrite: bool = False,
    whole: str,
    noted: Collection[str] = (),
) -> None:
    """Save the result of a run and print it, and say so if the user stopped it.

    Args:
        result: Any.
        as_json: Whether to print the record and nothing else.
        out: Folder to save to.
        overwrite: Whether a result that is there may be replaced.
        whole: How many examples were asked for.
        noted: The notes that were printed before the run.

    Raises:
        typer.Exit: With code 1, if the user stopped the study.
        ResultError: If the result could not be saved where it was to be; it is saved elsewhere.
    """
    show(result, as_json=as_json, out=out, overwrite=overwrite, before="\n", noted=noted)
    if result.stopped_after is not None:
        say(f"Stopped after {result.stopped_after:,} of {whole}; the result is of these.", err=True)
        raise typer.Exit(1)


def show(
    result: StudyResult,
    *,
    as_json: bool,
    out: Path | None,
    overwrite: bool = False,
    before: str = "",
    noted: Collection[str] = (),
) -> None:
    """Save a result, then print it, so that neither a full disk nor a closed pipe loses it.

    Args:
        result: Any.
        as_json: Whether to print the record and nothing else.
        out: Folder to save to.
        overwrite: Whether a result that is there may be replaced.
        before: Printed before the table.
        noted: The notes that were printed before the run.

    Raises:
        ResultError: If the result could not be saved where it was to be; it is saved elsewhere.
        OutputError: If it could not be printed; it is saved.
    """
    problem: ResultError | None = None
    place = out
    if out is not None:
        try:
            _save(result, out, overwrite)
        except ResultError as error:
            problem, place = error, _saved_elsewhere(result)
    if as_json:
        text = json.dumps(result.to_json(), indent=2, allow_nan=False)
    else:
        new = [wrapped(note) for note in result.notes if note not in noted]
        text = "\n".join([*new, *[""] * bool(new), result.text])
        _tell(result.notes)
    try:
        if not say(text if as_json else f"{before}{text}") and place is None:
            place = _saved_elsewhere(result)
            say(f"Nobody read the result from standard output; it was saved to {place}.", err=True)
            return
    except OutputError as error:
        place = place or _saved_elsewhere(result)
        raise OutputError(f"{error} The result was saved to {place or 'no folder'}.") from error
    if problem is not None:
        elsewhere = f"saved to {place} instead" if place else "printed, but not saved anywhere"
        raise ResultError(f"{problem} The result was {elsewhere}.") from problem
    if out is not None:
        say(f"Saved to {out}.", err=True)


def _tell(notes: Collection[str]) -> None:
    """Note which warnings the notes that are printed have said."""
    for note in notes:
        if note.startswith(WARNING):
            is_told(note.removeprefix(WARNING))


def _save(result: StudyResult, out: Path, overwrite: bool) -> None:
    """Save a result, whatever signals come, and say what of it could not be saved."""
    with unstopped(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ResultWarning)
        result.save(out, overwrite=overwrite)
    for warning in caught:
        if issubclass(warning.category, ResultWarning):
            say(f"Warning: {warning.message}", err=True)
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )


def _saved_elsewhere(result: StudyResult) -> Path | None:
    """Save a result into a temporary folder, which stays; None where that cannot be done either."""
    try:
        place = Path(tempfile.mkdtemp(prefix="ensemble-view-"))
        _save(result, place, False)
    except (ResultError, OSError):
        return None
    return place
