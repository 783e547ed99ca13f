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
from make_expected import COUNTED, expand

from ensemble_view.discovery.unravelling import locate_blocks
from ensemble_view.errors import DiscoveryError


def compare(row: dict[str, str]) -> tuple[bool, str]:
    """Whether discovery agrees with a row of the table, and what it found."""
    family, name = row["family"], row["model"]
    model = drawn_models.build(family, name).eval()
    example = drawn_models.example(family, name, 2, torch.Generator().manual_seed(0))
    arguments = (tuple(example.get("args", ())), dict(example.get("kwargs", {})))
    try:
        found = locate_blocks(model, arguments)
    except DiscoveryError as error:
        return row["verdict"] == "refused", f"refused: {error}"
    kinds = collections.Counter(sum_.shortcut_kind for sum_ in found)
    blocks = len({sum_.block for sum_ in found})
    told = f"{len(found)} branches, {blocks} blocks, {dict(kinds)}"
    if not found:
        return row["verdict"] == "none", told
    owners = collections.Counter(sum_.owner for sum_ in found)
    expected = collections.Counter(expand(row["owners"]))
    agrees = (
        row["verdict"] == "blocks"
        and (len(found), blocks) == (int(row["branch_blocks"]), int(row["block_blocks"]))
        and all(kinds[kind] == int(row[kind]) for kind in COUNTED)
        and owners == expected
    )
    if owners != expected:
        told += f", more {list(owners - expected)[:4]}, missing {list(expected - owners)[:4]}"
    return agrees, told


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
