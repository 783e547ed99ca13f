"""Read damaged inputs with every reader; as a script, for as long and with whichever seed.

python tests/fuzz/fuzzing.py --seed 1 --inputs 10000
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from readers import readers

from ensemble_view.errors import EnsembleViewError

SECONDS = 10


class TooSlowError(Exception):
    """An input took longer than it may."""


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TooSlowError(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(inputs: int, seed: int, keep: Path | None = None) -> tuple[Counter[str], list[str]]:
    """Read so many damaged inputs.

    Returns:
        How many were refused and how many were read, and what else came about.
    """
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        every = readers(folder)
        turns = [reader for reader in every for _ in range(reader.share)]
        for number in range(inputs):
            reader = turns[number % len(turns)]
            rng = random.Random(f"{seed} {number}")
            place = folder / "input"
            place.mkdir()
            made = reader.make(place, rng)
            try:
                with limited(SECONDS):
                    reader.read(made)
                counts["read"] += 1
            except EnsembleViewError as error:
                counts["refused"] += 1
                if not str(error).strip():
                    faults.append(f"{reader.name}, seed {seed}, input {number}: no reason is given")
            except Exception as error:
                counts["faults"] += 1
                last = traceback.extract_tb(error.__traceback__)[-1]
                own = [f for f in traceback.extract_tb(error.__traceback__)
                       if "ensemble_view" in f.filename][-1:]  # fmt: skip
                where = own[0] if own else last
                text = made if isinstance(made, str) else ""
                faults.append(
                    f"{reader.name}, seed {seed}, input {number}: {type(error).__name__}: "
                    f"{str(error)[:150]} at {where.filename}:{where.lineno} {text[:100]!r}"
                )
                if keep is not None and isinstance(made, Path):
                    shutil.copytree(place, keep / f"{seed}-{number}", dirs_exist_ok=True)
            counts[reader.name] += 1
            shutil.rmtree(place)
    return counts, faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--keep", type=Path, help="Folder for the inputs that were no good.")
    given = parser.parse_args()
    found, wrong = fuzz(given.inputs, given.seed, given.keep)
    print(dict(found), *wrong, sep="\n")
    sys.exit(bool(wrong))
