"""What the reaction of later blocks says in words and in a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ensemble_view.study.words import shortened

if TYPE_CHECKING:
    from ensemble_view.studies.reaction.result import ReactionResult

__all__ = ["ADDING", "answer", "in_words", "summary", "table"]

ADDING = 0.1
"""Later blocks add up where the reaction's interval is no further from 1 than this."""

_WHICH = {
    "frozen": "With the nonlinearities of the junctions held at the full net's",
    "all_frozen": "With those in the branches held as well",
}
_HELD = {"frozen": "the junctions are held", "all_frozen": "all nonlinearities are held"}
_NULLS = {"untrained": "the untrained net", "donor": "the donor"}
_WHOSE = {"untrained": "the untrained net's", "donor": "that to another example's change"}


def table(result: ReactionResult) -> str:
    """Lay out the reactions as a table at most 80 columns wide.

    Args:
        result: reactions.

    Returns:
        A row per block, a blank line, a row per stage; a star marks blocks that change the shape.
    """
    lines = [
        f"{'block':>6}  {'module':<12} {'reaction':>8}  {' interval':<16} {'untrained':>9}  "
        f"{'donor':>6}  {'norms':>6} {'held':>6}"
    ]
    for row, block in zip(result.frame.to_dict("records"), result.blocks, strict=True):
        mark = "*" if block.changes_shape else " "
        label = f"{row['block']}{mark}"
        lines.append(f"{label:>7} {shortened(str(row['name']), 12):<12} {_numbers(row)}")
    lines.append("")
    for row in result.stages_frame.to_dict("records"):
        name = "all stages" if row["stage"] == "all" else f"stage {row['stage']}"
        lines.append(f"{name:>20} {_numbers(row)}")
    if any(block.changes_shape for block in result.blocks):
        lines.append("* changes the shape (downsampling)")
    lines.append("norms: ratio of norms; held: reaction with the junctions' nonlinearities held")
    return "\n".join(lines)


def _numbers(row: Mapping[Any, Any]) -> str:
    low, high = (_number(row[f"reaction_{end}"], 6) for end in ("low", "high"))
    return (
        f"{_number(row['reaction'], 8)}  [{low}, {high}] "
        f"{_number(row['reaction_untrained'], 9)}  {_number(row['reaction_donor'], 6)}  "
        f"{_number(row['norm_ratio'], 6)} {_number(row['reaction_frozen'], 6)}"
    ).rstrip()


def _number(value: float, width: int) -> str:
    if math.isnan(value):
        return f"{'-':>{width}}"
    text = f"{value:.3f}"
    return f"{text if len(text) <= width else format(value, '.1g'):>{width}}"


def answer(row: Mapping[Any, Any]) -> str:
    """Say in a word what later blocks do, from simultaneous intervals.

    They *add up* where the reaction's interval lies within [.9, 1.1]. They *repair* only where it
    lies below 1, below the untrained net's reaction and below the reaction to a donor's change, and
    *amplify* only where it lies above all three. Where it lies below or above 1 but one of the
    nulls is not cleared, or was not measured, no more than *below 1* or *above 1* is said. Anything
    else is *open*.

    Args:
        row: of a result's ``stages_frame``.

    Returns:
        ``"add up"``, ``"repair"``, ``"amplify"``, ``"below 1"``, ``"above 1"`` or ``"open"``.

    Example:
        >>> row = {"minus_one_low": -0.7, "minus_one_high": -0.6, "minus_untrained_low": -0.4,
        ...        "minus_untrained_high": -0.3, "minus_donor_low": -0.1, "minus_donor_high": 0.1}
        >>> answer(row)
        'below 1'
        >>> answer(row | {"minus_donor_high": -0.05})
        'repair'
    """
    low, high = row["minus_one_low"], row["minus_one_high"]
    if low >= -ADDING and high <= ADDING:
        return "add up"
    if high < 0:
        return "repair" if all(row[f"minus_{null}_high"] < 0 for null in _NULLS) else "below 1"
    if low > 0:
        return "amplify" if all(row[f"minus_{null}_low"] > 0 for null in _NULLS) else "above 1"
    return "open"


def in_words(row: Mapping[Any, Any]) -> str:
    """Say what was seen, and which null it does not clear.

    Args:
        row: of a result's ``stages_frame``.

    Returns:
        A clause.

    Example:
        >>> nan = math.nan
        >>> in_words({"minus_one_low": -0.7, "minus_one_high": -0.6, "minus_untrained_low": nan,
        ...           "minus_untrained_high": nan, "minus_donor_low": -0.1,
        ...           "minus_donor_high": 0.2})
        "below 1, but repair is not shown: the untrained net was not measured, and it cannot be \
told from that to another example's change"
    """
    said = answer(row)
    if said == "add up":
        return "later blocks only add to what passes them"
    if said == "open":
        return "what later blocks do is left open"
    if said == "repair":
        whole = (
            ", along its direction only: its norm does not shrink"
            if row["norm_ratio_low"] >= 1 - ADDING
            else ""
        )
        return (
            "below 1, below the untrained net's and below that to another example's change: "
            f"later blocks repair part of what is missing{whole}"
        )
    if said == "amplify":
        return (
            "above 1, above the untrained net's and above that to another example's change: "
            "later blocks amplify what is missing"
        )
    below = said == "below 1"
    reasons = [
        each for null in _NULLS if (each := _not_cleared(row, null, "higher" if below else "lower"))
    ]
    claim = "repair" if below else "amplification"
    return f"{said}, but {claim} is not shown: {', and '.join(reasons)}"


def _not_cleared(row: Mapping[Any, Any], null: str, beyond: str) -> str:
    """Where the reaction lies, unless that is on the side of the null that the claim needs."""
    low, high = row[f"minus_{null}_low"], row[f"minus_{null}_high"]
    if math.isnan(low) or math.isnan(high):
        return f"{_NULLS[null]} was not measured"
    if (high < 0) if beyond == "higher" else (low > 0):
        return ""
    if (low > 0) if beyond == "higher" else (high < 0):
        return f"it is {beyond} than {_WHOSE[null]}"
    return f"it cannot be told from {_WHOSE[null]}"


def summary(result: ReactionResult) -> str:
    """Say what later blocks do to a change, and which nulls that clears.

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
            f"The reaction to the {len(followed)} that others follow in their stage runs from "
            f"{rows['reaction'].min():.2f} to {rows['reaction'].max():.2f}."
        )
        stages = result.stages_frame.to_dict("records")
        sentences += [_of_stage(row) for row in stages if row["blocks"]]
        sentences += _of_frozen(result)
        sentences.append(
            f"Differences from 1, the untrained net and the donor are paired, with simultaneous "
            f"{100 * result.level:g} % intervals (Bonferroni's correction over "
            f"{stages[-1]['comparisons']} comparisons)."
        )
        sentences += [
            f"{name[0].upper()}{name[1:]}: {result.nulls[null]}."
            for null, name in _NULLS.items()
            if null in result.nulls
        ]
    sentences += [
        f"{name[0].upper()}{name[1:]} was not measured: {result.undefined[null].rstrip('.')}."
        for null, name in _NULLS.items()
        if null in result.undefined
    ]
    sentences += [
        f"The reaction is undefined where {held}: {result.undefined[way]}."
        for way, held in _HELD.items()
        if way in result.undefined
    ]
    sentences.append("These statements are about this net on these examples only.")
    return " ".join(sentences)


def _of_stage(row: Mapping[Any, Any]) -> str:
    name = "All stages" if row["stage"] == "all" else f"Stage {row['stage']}"
    differences = [
        f"{row[f'minus_{null}']:+.3f} [{row[f'minus_{null}_low']:+.3f}, "
        f"{row[f'minus_{null}_high']:+.3f}] from {where}"
        for null, where in _NULLS.items()
        if not math.isnan(row[f"minus_{null}"])
    ]
    return (
        f"{name}: {row['reaction']:.2f} [{row['reaction_low']:.2f}, {row['reaction_high']:.2f}], "
        f"{''.join(f'{each}, ' for each in differences)}ratio of norms {row['norm_ratio']:.2f} "
        f"[{row['norm_ratio_low']:.2f}, {row['norm_ratio_high']:.2f}]: {in_words(row)}."
    )


def _of_frozen(result: ReactionResult) -> list[str]:
    last = result.stages_frame.to_dict("records")[-1]
    return [
        f"{words}, the reaction is {last[f'reaction_{way}']:.2f} "
        f"[{last[f'reaction_{way}_low']:.2f}, {last[f'reaction_{way}_high']:.2f}]."
        for way, words in _WHICH.items()
        if not math.isnan(last[f"reaction_{way}"])
    ]
