"""Make the support table of what ``survey.py`` measured.

python tests/families/support_table.py
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "analyses" / "family_support"
LEAST_EFFECT = 1e-3
HEADS = [
    "model", "blocks (sums)", "deleted", "links", "shortcuts", "chain", "hooks", "copy", "rewired",
    "apart", "effect", "work", "studies",
]  # fmt: skip


def rows() -> Iterator[dict[str, str]]:
    """The table of expected blocks."""
    with (HERE / "expected.csv").open(encoding="utf-8") as table:
        yield from csv.DictReader(table)


def records() -> list[dict[str, Any]]:
    """What has been measured so far."""
    path = FOLDER / "measured.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def problems(record: dict[str, Any]) -> list[str]:
    """What of a model's record is not as it should be."""
    found = [] if record.get("agrees") else ["differs from the table"]
    if "error" in record:
        return [*found, record["error"]]
    if "blocks" not in record:
        return found
    most = 1e-10 if record["dtype"] == "float64" else 1e-4
    if record["casts"]:
        most = max(most, 1e-5)
    for key in (
        "chain_error", "hooks_error", "taken_out_error", "exchange_error", "rewired_error",
        "apart_error",
    ):  # fmt: skip
        value = record[key]
        if value is not None and value == value and not value <= most:
            found.append(f"{key} {value:.1e}")
    for key in ("least_effect", "rewired_effect"):
        if record[key] < LEAST_EFFECT:
            found.append(f"an edit moves the output by {record[key]:.1e} only ({key})")
    if record["deletions"] < record["blocks"]:
        found.append(f"{record['deletions']} of {record['blocks']} blocks deleted")
    # What a deleted block needs not is not computed, so it may be less.
    if not record["flops"] <= record["flops_expected"] <= record["flops_naive"]:
        found.append(f"{record['flops']} operations, expected {record['flops_expected']}")
    return found


def summary(found: list[dict[str, Any]]) -> str:
    """The support table: a row for each model with blocks, a line for the others."""
    families = Counter(record["family"] for record in found)
    agreed = Counter(record["family"] for record in found if record.get("agrees"))
    counts = ", ".join(f"{agreed[name]} of {families[name]} of {name}" for name in families)
    versions = ", ".join(
        f"{name} {metadata.version(name)}"
        for name in ("ensemble-view", "torch", "torchvision", "timm", "transformers")
    )
    head = f"""# Nets that are taken apart

Made by `python tests/families/survey.py` and `python tests/families/support_table.py` on
{datetime.now(UTC).date()}: one CPU core, random weights (seed 0), {versions}.

Blocks are held against `tests/families/expected.csv`, a table that was read from the libraries'
sources before discovery ran. {counts} agree: in number and owners of the
blocks and kinds of shortcut, in having none, or in the refusal of several streams.

*Deleted* says how many blocks were deleted, one at a time. Differences are the largest of any
logit, in units of the largest logit: *chain* against the model; *hooks*: engine against hooks, over
the deletions and an exchange of two neighbours; *copy*: engine against a deep copy whose layers are
exchanged or taken out, where they stand in a container; *rewired*: engine against hooks over every
other intervention, alone and composed at random, with their number, that of those that hooks refuse
by name, and that of unstable nets, which are left out: there an input that is moved by 50 units in
the last place moves the logits by more than a tenth of what engine and hooks differ by; *apart*:
shortcut plus branch, and their gradients, against the block. *Effect*: the least that a deletion or
the exchange moved the logits. *Work*: floating-point operations of the engine over those of a
forward pass per plan. Studies: D deletion, S exchange (`-` where no two neighbours have equal
shapes), G shortcut and branch apart, for gradients. float64, or (32) float32; (c) casts to float32
inside.

{_row(HEADS)}
{_row(["---"] * len(HEADS))}
"""
    rows = [_table_row(record) for record in found if "blocks" in record]
    others: dict[str, list[str]] = {}
    for record in found:
        if "blocks" not in record:
            refused = record.get("found", "").startswith("refused")
            reason = record["found"].removeprefix("refused: ") if refused else "no residual block"
            reason = record.get("error", reason.split(". ")[0])
            others.setdefault(reason, []).append(f"{record['family']} {record['model']}")
    words = [f"- {reason}: {', '.join(names)}" for reason, names in others.items()]
    wrong = [
        f"- {record['family']} {record['model']}: {'; '.join(problems(record))}"
        for record in found
        if problems(record)
    ]
    tail = [
        "",
        "Without a chain:",
        "",
        *words,
        "",
        "Not as it should be:",
        "",
        *(wrong or ["none"]),
    ]
    return head + "\n".join([*rows, *tail]) + "\n"


def _table_row(record: dict[str, Any]) -> str:
    def difference(*names: str) -> str:
        values = [v for v in map(record.get, names) if v is not None and v == v]
        return f"{max(values):.0e}" if values else "-"

    kinds = Counter(record["kinds"])
    mark = " (32)" * (record["dtype"] == "float32") + " (c)" * record["casts"]
    cells = [
        f"{record['family']} {record['model']}{mark}",
        f"{record['blocks']} ({record['found'].split(' ')[0]})",
        record["deletions"],
        record["links"],
        ", ".join(f"{count} {kind}" for kind, count in kinds.most_common()),
        difference("chain_error"),
        difference("hooks_error"),
        difference("taken_out_error", "exchange_error"),
        f"{difference('rewired_error')} ({len(record['rewired'])}"
        + f", {len(record['rewired_refused'])} refused" * bool(record["rewired_refused"])
        + f", {len(record['rewired_unstable'])} unstable" * bool(record["rewired_unstable"])
        + ")",
        difference("apart_error"),
        f"{record['least_effect']:.0e}",
        f"{record['flops'] / record['flops_naive']:.2f}",
        "D" + ("S" if record["exchanged"] else "-") + "G",
    ]
    return _row(cells)


def _row(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Write the table."""
    order = {(row["family"], row["model"]): place for place, row in enumerate(rows())}
    found = sorted(records(), key=lambda record: order[record["family"], record["model"]])
    (FOLDER / "summary.md").write_text(summary(found), encoding="utf-8")


if __name__ == "__main__":
    main()
