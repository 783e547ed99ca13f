"""Are the committed numbers of analyses what their commands give today?

    python analyses/reproduced.py single_lesions reordering ...

runs each named analysis in a copy of this folder, with the nets that were trained for it, and
compares every table cell by cell with the committed one. Numbers are alike if they differ by at
most a millionth, as they do between processors; how many differ at all, and by how much, is said.
Columns of times are left out; whatever else differs is printed, and the exit code is 1. Times,
dates and hardware of summaries are not compared: a table is what is measured.
"""

from __future__ import annotations

import csv
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
TIMES = ("seconds", "time", "passes", "speed")
"""What the names of columns say that are never measured twice alike."""
TOLERANCE = 1e-6
"""Of numbers that are called alike: relative to the larger, or to 1."""
_MOST_SHOWN = 5


def apart(before: str, after: str | None) -> float:
    """Say how far two cells are apart, relative to the larger or to 1; infinitely, if in words."""
    try:
        old, new = float(before), float(after or "")
    except ValueError:
        return math.inf
    if math.isnan(old) and math.isnan(new):
        return 0.0
    return abs(old - new) / max(abs(old), abs(new), 1.0)


def differences(committed: Path, found: Path, small: list[float]) -> Iterator[str]:
    """Compare two tables.

    Args:
        committed: A CSV file.
        found: The same, made anew.
        small: Receives the differences of numbers that are alike, but not to the last digit.

    Yields:
        What differs, in words.
    """
    if not found.exists():
        yield f"{committed.name} was not written"
        return
    old, new = (
        list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        for path in (committed, found)
    )
    if len(old) != len(new):
        yield f"{committed.name} has {len(new)} rows instead of {len(old)}"
        return
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        for column, value in before.items():
            if any(word in column for word in TIMES):
                continue
            distance = 0.0 if after.get(column) == value else apart(value, after.get(column))
            if 0 < distance <= TOLERANCE:
                small.append(distance)
            elif distance > TOLERANCE:
                yield (
                    f"{committed.name}, row {number}, {column}: {after.get(column)} instead of "
                    f"{value}"
                )


def rerun(name: str, copy: Path, small: list[float]) -> list[str]:
    """Run an analysis in a copy of the folder, and compare its tables.

    Args:
        name: Of the analysis, without its suffix.
        copy: The copy of this folder.
        small: As for :func:`differences`.

    Returns:
        What differs; what went wrong, if it failed.
    """
    before = {path.relative_to(HERE) for path in (HERE / name).rglob("*.csv")}
    if not before:
        return [f"{name} has no committed table"]
    for table in before:
        (copy / table).unlink()
    done = subprocess.run(
        [sys.executable, f"{name}.py"], cwd=copy, capture_output=True, text=True, check=False
    )
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["without a word"]
        return [f"{name} failed: {last[0]}"]
    return [
        each for table in sorted(before) for each in differences(HERE / table, copy / table, small)
    ]


def main(names: list[str]) -> int:
    """Rerun analyses and say what differs.

    Args:
        names: Of the analyses.

    Returns:
        The exit code.
    """
    with tempfile.TemporaryDirectory() as folder:
        # At the same depth as this folder, so that ../shared is found from there as well.
        copy = Path(folder) / "project" / "analyses"
        shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns(".nets", "__pycache__"))
        for link, target in ((copy / ".nets", HERE / ".nets"),
                             (Path(folder) / "shared", HERE.parents[1] / "shared")):  # fmt: skip
            if target.exists():
                os.symlink(target.resolve(), link)
        wrong = 0
        for name in names:
            small: list[float] = []
            found = rerun(name, copy, small)
            wrong += len(found)
            nearly = f", {len(small)} numbers to {max(small):.1g} only" if small else ""
            print(f"{name}: {f'{len(found)} differences' if found else 'reproduced'}{nearly}")
            for each in found[:_MOST_SHOWN]:
                print(f"  {each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
