"""What doses and perturbations say in words and in tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ensemble_view.results.text import shortened

if TYPE_CHECKING:
    from ensemble_view.results.dose import DoseResult

__all__ = ["COMPARABLE", "summary", "table"]

COMPARABLE = (0.5, 2.0)
"""Noise and deletion are called alike where the interval of their ratio lies within these."""

_MOST_DOSES = 9


def table(result: DoseResult) -> str:
    """Lay out what was measured as tables at most 80 columns wide.

    Args:
        result: doses and perturbations.

    Returns:
        A row per set of blocks with a column per dose, nine at most, and a row per perturbed block.
    """
    frame, random = result.frame, result.random_frame
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
    if not random.empty:
        lines += [
            "",
            "worse by deletion, and by noise of the branch's norm",
            f"{'block':>10} {'deleted':>8} {'noise':>8}   {'noise / deletion':<24}",
        ]
        for row in random.to_dict("records"):
            label = shortened(str(row["blocks"]), 9) + ("*" if row["changes_shape"] else " ")
            ratio = (
                "undefined"
                if math.isnan(row["ratio"])
                else f"{row['ratio']:.3g} [{row['ratio_low']:.3g}, {row['ratio_high']:.3g}]"
            )
            lines.append(f"{label:>11}{row['deleted']:>+8.4f} {row['perturbed']:>+8.4f}   {ratio}")
        if random["changes_shape"].any():
            lines.append("* changes the shape; not in the mean")
    return "\n".join(lines)


def summary(result: DoseResult) -> str:
    """Say how the net answers to doses, and whether deletions do as much as noise.

    Args:
        result: doses and perturbations.

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
    sentences.append("All of this is said of this net on these examples only.")
    return " ".join(sentences)


def _compared(result: DoseResult) -> list[str]:
    random = result.random_frame
    if random.empty:
        return []
    row = random.to_dict("records")[-1]
    which = (
        "the mean over blocks that keep the shape"
        if row["blocks"] == "mean"
        else f"block {row['blocks']}"
    )
    if math.isnan(row["ratio"]):
        return [
            f"For {which}, deletion's effect ({row['deleted']:+.4f}) cannot be told from zero, so "
            f"that noise of the same norm ({row['perturbed']:+.4f}) cannot be weighed against it."
        ]
    low, high = COMPARABLE
    if low <= row["ratio_low"] and row["ratio_high"] <= high:
        said = "so that the size of the branches may explain what deleting them does"
    elif row["ratio_high"] < low:
        said = "so that deleting a branch does more than its size explains"
    elif row["ratio_low"] > high:
        said = "so that deleting a branch does less than its size would"
    else:
        said = "which leaves open whether the size of the branches explains it"
    return [
        f"For {which}, noise of the branch's norm makes it worse by {row['perturbed']:.4f}, "
        f"deletion by {row['deleted']:.4f}: {row['ratio']:.3g} times "
        f"[{row['ratio_low']:.3g}, {row['ratio_high']:.3g}] as much, {said} (alike: within "
        f"[{low:g}, {high:g}])."
    ]
