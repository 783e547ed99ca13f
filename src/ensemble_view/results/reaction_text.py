"""What the reaction of later blocks says in words and in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ensemble_view.results.text import shortened

if TYPE_CHECKING:
    from ensemble_view.results.reaction import ReactionResult

__all__ = ["answer", "summary", "table"]

_WHICH = {
    "frozen": "With the nonlinearities of the junctions held at the full net's",
    "all_frozen": "With those in the branches held, too",
}


def table(result: ReactionResult) -> str:
    """Lay out the reactions as a table at most 80 columns wide.

    Args:
        result: reactions.

    Returns:
        A row per block, a blank line, a row per stage; a star marks blocks that change the shape.
    """
    lines = [
        f"{'block':>6}  {'module':<15} {'reaction':>8}  {' interval':<16}  {'‖Δh‖/‖F‖':>9}  "
        f"{'frozen':>6}  {'all':>6}"
    ]
    for row, block in zip(result.frame.to_dict("records"), result.blocks, strict=True):
        mark = "*" if block.changes_shape else " "
        label = f"{row['block']}{mark}"
        lines.append(f"{label:>7} {shortened(str(row['name']), 15):<15} {_numbers(row)}")
    lines.append("")
    for row in result.stages_frame.to_dict("records"):
        name = "all stages" if row["stage"] == "all" else f"stage {row['stage']}"
        lines.append(f"{name:>23} {_numbers(row)}")
    if any(block.changes_shape for block in result.blocks):
        lines.append("* changes the shape (downsampling)")
    return "\n".join(lines)


def _numbers(row: Mapping[Any, Any]) -> str:
    low, high = (_number(row[f"reaction_{end}"], 6) for end in ("low", "high"))
    return (
        f"{_number(row['reaction'], 8)}  [{low}, {high}]  {_number(row['norm_ratio'], 9)}  "
        f"{_number(row['reaction_frozen'], 6)}  {_number(row['reaction_all_frozen'], 6)}"
    ).rstrip()


def _number(value: float, width: int) -> str:
    if math.isnan(value):
        return f"{'-':>{width}}"
    text = f"{value:.3f}"
    return f"{text if len(text) <= width else format(value, '.1g'):>{width}}"


def answer(row: Mapping[Any, Any]) -> str:
    """Say in a word what later blocks do, from intervals.

    They *add up* where the reaction's interval lies within [.9, 1.1]. Where it lies below .8, they
    *repair* what is missing if that of the ratio of norms does so, too; they *carry on* with it in
    other directions if it lies above .9 with a reaction below .2; else they do *both*. Anything
    else is *open*.

    Args:
        row: of a result's ``frame`` or ``stages_frame``.

    Returns:
        ``"add up"``, ``"repair"``, ``"carry on"``, ``"both"`` or ``"open"``.

    Example:
        >>> answer({"reaction_low": 0.3, "reaction_high": 0.4,
        ...         "norm_ratio_low": 0.5, "norm_ratio_high": 0.6})
        'repair'
    """
    if row["reaction_low"] >= 0.9 and row["reaction_high"] <= 1.1:
        return "add up"
    if row["reaction_high"] > 0.8 or math.isnan(row["reaction_high"]):
        return "open"
    if row["norm_ratio_high"] <= 0.8:
        return "repair"
    if row["reaction_high"] <= 0.2 and row["norm_ratio_low"] >= 0.9:
        return "carry on"
    return "both"


_ANSWERS = {
    "add up": "later blocks only add to what passes them",
    "repair": "later blocks repair part of what is missing",
    "carry on": "later blocks carry on with what is missing in other directions",
    "both": "later blocks repair part of what is missing and change other directions instead",
    "open": "what later blocks do is left open",
}


def summary(result: ReactionResult) -> str:
    """Say whether later blocks add up, carry on, or repair.

    Args:
        result: reactions.

    Returns:
        A paragraph about this net on these examples.
    """
    net = result.provenance.model.get("name", "the net")
    data = result.provenance.data.get("name", "the data")
    cut = (
        " (the study was interrupted: these are the examples done so far)"
        if result.interrupted
        else ""
    )
    count = len(result.blocks)
    sentences = [
        f"{net}, {count} block{'s' * (count != 1)} deleted one by one, {result.examples:,} "
        f"examples of {data}{cut}."
    ]
    followed = [block for block in result.blocks if block.later]
    if not followed:
        sentences.append("No block has another after it in its stage, so nothing could react.")
    else:
        rows = result.frame[result.frame["later"] > 0]
        sentences.append(
            f"Of {len(followed)} that others follow in their stage, the reaction runs from "
            f"{rows['reaction'].min():.2f} to {rows['reaction'].max():.2f}."
        )
        for row in result.stages_frame.to_dict("records"):
            if row["blocks"]:
                sentences.append(_of_stage(row))
        sentences += _of_frozen(result)
        sentences.append(
            "1 and 1 where blocks only add up, 0 and 1 where each turns what it gets elsewhere, "
            "less where they repair."
        )
    sentences += [f"Undefined where {reason}." for reason in dict.fromkeys(
        f"{'nonlinearities are held' if way == 'all_frozen' else 'junctions are held'}: {why}"
        for way, why in result.undefined.items()
    )]  # fmt: skip
    sentences.append("All of this is said of this net on these examples only.")
    return " ".join(sentences)


def _of_stage(row: Mapping[Any, Any]) -> str:
    name = "All stages" if row["stage"] == "all" else f"Stage {row['stage']}"
    return (
        f"{name}: {row['reaction']:.2f} [{row['reaction_low']:.2f}, {row['reaction_high']:.2f}], "
        f"ratio of norms {row['norm_ratio']:.2f} [{row['norm_ratio_low']:.2f}, "
        f"{row['norm_ratio_high']:.2f}]: {_ANSWERS[answer(row)]}."
    )


def _of_frozen(result: ReactionResult) -> list[str]:
    last = result.stages_frame.to_dict("records")[-1]
    return [
        f"{words}, the reaction is {last[f'reaction_{way}']:.2f} "
        f"[{last[f'reaction_{way}_low']:.2f}, {last[f'reaction_{way}_high']:.2f}]."
        for way, words in _WHICH.items()
        if not math.isnan(last[f"reaction_{way}"])
    ]
