"""Hold discovery against the whole table of expected blocks: ``python tests/families/compare.py``.

Prints one line per model and how many agree. Takes about half an hour on one core; names of models
or families as arguments choose among them.
"""

from __future__ import annotations

import collections
import csv
import sys
import time
import warnings
from pathlib import Path

import drawn_models
import torch

from ensemble_view.discovery import count_blocks
from ensemble_view.errors import DiscoveryError


def compare(row: dict[str, str]) -> tuple[bool, str]:
    """Whether discovery agrees with a row of the table, and what it found."""
    family, name = row["family"], row["model"]
    model = drawn_models.build(family, name).eval()
    example = drawn_models.example(family, name, 2, torch.Generator().manual_seed(0))
    arguments = (tuple(example.get("args", ())), dict(example.get("kwargs", {})))
    try:
        branches, blocks, kinds = count_blocks(model, arguments)
    except DiscoveryError as error:
        return row["verdict"] == "refused", f"refused: {error}"
    expected = int(row["branch_blocks"] or 0), int(row["block_blocks"] or 0)
    verdict = "blocks" if branches else "none"
    agrees = verdict == row["verdict"] and (verdict == "none" or expected == (branches, blocks))
    return agrees, f"{branches} branches, {blocks} blocks, {dict(collections.Counter(kinds))}"


def main() -> None:
    """Compare and print."""
    warnings.simplefilter("ignore")
    with (Path(__file__).parent / "expected.csv").open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    wanted = set(sys.argv[1:])
    rows = [row for row in rows if not wanted or {row["family"], row["model"]} & wanted]
    agreed: collections.Counter[str] = collections.Counter()
    for row in rows:
        started = time.perf_counter()
        agrees, found = compare(row)
        agreed[row["family"]] += agrees
        told = f"{row['verdict']} {row['branch_blocks']}/{row['block_blocks']}"
        seconds = f"{time.perf_counter() - started:.1f} s"
        mark = "agrees " if agrees else "DIFFERS"
        print(mark, row["family"], row["model"], told, "|", found, "|", seconds, flush=True)
    for family, count in agreed.items():
        print(f"{family}: {count} of {sum(row['family'] == family for row in rows)} agree")


if __name__ == "__main__":
    main()
