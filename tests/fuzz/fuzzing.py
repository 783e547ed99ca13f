"""Read damaged inputs with every reader; as a script, for as long and with whichever seed.

python tests/fuzz/fuzzing.py --seed 1 --inputs 10000
"""

from __future__ import annotations

import argparse
import contextlib
import random
import resource
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
# Of inputs of some kilobytes. Modules that are imported on the way take part of it.
MEGABYTES = 300
# Beyond that a request is refused, so that it fails here and takes no machine with it.
_REFUSED_BEYOND = 6 * 2**30


class TooLargeError(Exception):
    """An input took more memory than it may."""


class TooSlowError(BaseException):
    """An input took longer than it may; nothing that reads it may take this for damage."""


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


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Refuse memory far beyond what is held now, so that no input can exhaust the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_held("VmSize") + _REFUSED_BEYOND, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def measured_memory(megabytes: int) -> Iterator[None]:
    """Watch how much memory is held at most, which a limit would only make another error of.

    What is asked for but never written to is not held: it costs nothing.

    Args:
        megabytes: That may be held beyond what is held before.

    Raises:
        TooLargeError: If it was more, or if memory that was asked for was refused.
    """
    with Path("/proc/self/clear_refs").open("w") as file:
        file.write("5")  # Sets the peak to what is held now.
    before = _held("VmRSS")
    try:
        yield
    except Exception as error:
        if refused := _refusal(error):
            raise TooLargeError(f"memory was refused: {refused}") from error
        raise
    finally:
        peak = _held("VmHWM")
    if peak - before > megabytes * 2**20:
        raise TooLargeError(f"{(peak - before) / 2**20:,.0f} MiB were held")


def _refusal(error: BaseException | None) -> str | None:
    """What of an error, or of those that it came from, says that there was no memory."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            last = traceback.extract_tb(error.__traceback__)[-1]
            return f"{type(error).__name__} at {last.filename}:{last.lineno}"
        error = error.__cause__ or error.__context__
    return None


def _held(name: str) -> int:
    """Read how many bytes this process holds, as Linux calls it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def fuzz(inputs: int, seed: int, keep: Path | None = None) -> tuple[Counter[str], list[str]]:
    """Read so many damaged inputs.

    Returns:
        How many were refused and how many were read, and what else came about.
    """
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(), bounded_memory():
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
                with limited(SECONDS), measured_memory(MEGABYTES):
                    reader.read(made)
                counts["read"] += 1
            except EnsembleViewError as error:
                counts["refused"] += 1
                if not str(error).strip():
                    faults.append(f"{reader.name}, seed {seed}, input {number}: no reason is given")
            except (Exception, TooSlowError) as error:
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
                if keep is not None:
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
