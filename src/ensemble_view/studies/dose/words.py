"""What doses and nulls say in words and in tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ensemble_view.study.words import shortened

if TYPE_CHECKING:
    from ensemble_view.studies.dose.result import DoseResult

__all__ = ["COMPARABLE", "explained", "summary", "table"]

COMPARABLE = (0.5, 2.0)
"""A null and deletion are called alike where the interval of their ratio lies within these."""

_WHAT = {
    "noise": "noise of the branch's norm, each example's own",
    "constant": "noise of the branch's norm in one direction",
    "donor": "another example's branch",
    "mean": "the mean branch",
    "flipped": "the branch with its sign changed, twice as large a change as the deletion",
}

_MOST_DOSES = 9


def table(result: DoseResult) -> str:
    """Lay out what was measured as tables at most 80 columns wide.

    Args:
        result: doses and nulls.

    Returns:
        A row per set of blocks with a column per dose, nine at most; then a row per block and null.
    """
    frame, nulls = result.frame, result.nulls_frame
    doses = sorted(frame["dose"].unique())
    shown = doses[:_MOST_DOSES]
    lines = [
        f"{result.run.scores.name}, by what the branches are multiplied by",
        f"{'block':>10}" + "".join(f" {dose:>6g}" for dose in shown),
    ]
    for label in result.labels:
        rows = frame[frame["blocks"] == label].set_index("dose")["value"]
        cells = "".join(f" {rows[d]:>6.3f}" if d in rows else f" {'-':>6}" for d in shown)
        lines.append(f"{shortened(label, 10):>10}{cells}")
    if len(doses) > len(shown):
        lines.append(f"{'...':>10} {len(doses) - len(shown)} more doses, in .frame")
    if not nulls.empty:
        lines += [
            "",
            "worse by deletion, and by each null instead",
            f"{'block':>10} {'null':<9}{'deleted':>8} {'instead':>8}   {'instead / deleted':<24}",
        ]
        for row in nulls.to_dict("records"):
            label = shortened(str(row["blocks"]), 9) + ("*" if row["changes_shape"] else " ")
            ratio = (
                "undefined"
                if math.isnan(row["ratio"])
                else f"{row['ratio']:.3g} [{row['ratio_low']:.3g}, {row['ratio_high']:.3g}]"
            )
            lines.append(
                f"{label:>11}{row['null']:<9}{row['deleted']:>+8.4f} {row['instead']:>+8.4f}   "
                f"{ratio}"
            )
        if nulls["changes_shape"].any():
            lines.append("* changes the shape; not in the mean")
    return "\n".join(lines)


def summary(result: DoseResult) -> str:
    """Say how the net answers to doses, and whether deletions do as much as the nulls.

    Args:
        result: doses and nulls.

    Returns:
        A paragraph about this net on these examples.
    """
    run, frame = result.run, result.frame
    sentences = [
        f"{run.net}, {run.examples:,} examples of {run.data}{run.cut_short}: "
        f"{run.scores.name} {run.scores.baseline.mean():.4g} of the full net."
    ]
    together = result.labels[-1]
    rows = frame[frame["blocks"] == together]
    parts = [
        f"{row['value']:.4g} at {row['dose']:g}"
        for row in rows.to_dict("records")
        if row["dose"] != 1
    ]
    if parts:
        which = "all branches" if together == "all" else f"the branches of {together}"
        sentences.append(f"With {which} multiplied it is {', '.join(parts)}.")
    sentences += _compared(result)
    sentences += [f"{null} was not measured: {why}." for null, why in result.undefined.items()]
    sentences.append("These statements are about this net on these examples only.")
    return " ".join(sentences)


def explained(row: Mapping[Any, Any]) -> str:
    """Say whether the size of the branches explains what deletions do, by all nulls together.

    That it does needs every null's interval within [.5, 2], that it does not every null's outside
    on one side. Each is a claim about all nulls, so that its intervals need no correction.

    Args:
        row: of a result's ``ranges_frame``.

    Returns:
        ``"yes"``, ``"no, deletion does more"``, ``"no, deletion does less"``, ``"depends on the
        null"`` where one null says one thing and one another, or ``"open"``.

    Example:
        >>> explained({"low": 0.1, "most_low": 0.6, "least_high": 0.2, "high": 0.9})
        'depends on the null'
    """
    least, most = COMPARABLE
    if math.isnan(row["low"]):
        return "open"
    if row["high"] < least:
        return "no, deletion does more"
    if row["low"] > most:
        return "no, deletion does less"
    if row["low"] >= least and row["high"] <= most:
        return "yes"
    # One null clearly on one side, another clearly not there.
    if row["least_high"] < least <= row["most_low"] or row["least_high"] <= most < row["most_low"]:
        return "depends on the null"
    return "open"


_SAID = {
    "yes": "so that the size of the branches may explain what deleting them does",
    "no, deletion does more": "so that deleting a branch does more than its size explains, by "
    "every null",
    "no, deletion does less": "so that deleting a branch does less than its size would, by every "
    "null",
    "depends on the null": "so that whether the size of the branches explains it depends on the "
    "null",
    "open": "which leaves open whether the size of the branches explains it",
}


def _compared(result: DoseResult) -> list[str]:
    if result.nulls_frame.empty:
        return []
    span = result.ranges_frame.to_dict("records")[-1]
    nulls = result.nulls_frame
    rows = nulls[nulls["blocks"] == span["blocks"]].to_dict("records")
    which = (
        "the mean over blocks that keep the shape"
        if span["blocks"] == "mean"
        else f"block {span['blocks']}"
    )
    deleted = rows[0]["deleted"]
    if math.isnan(span["low"]):
        return [
            f"For {which}, deletion's effect ({deleted:+.4f}) cannot be told from zero, so that no "
            "null can be weighed against it."
        ]
    each = "; ".join(
        f"{_WHAT[row['null']]} {row['ratio']:.3g} times [{row['ratio_low']:.3g}, "
        f"{row['ratio_high']:.3g}]"
        for row in rows
    )
    low, high = COMPARABLE
    return [
        f"For {which}, deletion makes it worse by {deleted:.4f}, and instead of it {each} as much: "
        f"from {span['lowest']:.3g} to {span['highest']:.3g} times, {_SAID[explained(span)]} "
        f"(alike: within [{low:g}, {high:g}])."
    ]
