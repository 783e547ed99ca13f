"""Are the committed numbers of analyses what their commands give today, to the last digit?

    python analyses/reproduced.py single_lesions reordering ...

runs each named analysis in a copy of this folder, with the nets that were trained for it, and
compares every table cell by cell with the committed one. Columns of times are left out; whatever
else differs is printed, and the exit code is 1. Times, dates and hardware of summaries are not
compared: a table is what is measured.
"""

from __future__ import annotations

import csv
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
_MOST_SHOWN = 5


def differences(committed: Path, found: Path) -> Iterator[str]:
    """Compare two tables.

    Args:
        committed: A CSV file.
        found: The same, made anew.

    Yields:
        What differs, in words.
    """
    if not found.exists():
        yield f"{committed.name} was not written"
        return
    old, new = (list(csv.DictReader(path.open(encoding="utf-8"))) for path in (committed, found))
    if len(old) != len(new):
        yield f"{committed.name} has {len(new)} rows instead of {len(old)}"
        return
    for number, (before, after) in enumerate(zip(old, new, strict=True)):
        for column, value in before.items():
            if any(word in column for word in TIMES):
                continue
            if after.get(column) != value:
                yield (
                    f"{committed.name}, row {number}, {column}: {after.get(column)} instead of "
                    f"{value}"
                )


def rerun(name: str, copy: Path) -> list[str]:
    """Run an analysis in a copy of the folder, and compare its tables.

    Args:
        name: Of the analysis, without its suffix.
        copy: The copy of this folder.

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
    return [each for table in sorted(before) for each in differences(HERE / table, copy / table)]


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
            found = rerun(name, copy)
            wrong += len(found)
            print(f"{name}: {'reproduced' if not found else f'{len(found)} differences'}")
            for each in found[:_MOST_SHOWN]:
                print(f"  {each}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
