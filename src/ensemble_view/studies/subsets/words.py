"""What the power set of a net's blocks says in words and in a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pandas as pd

from ensemble_view.study.words import shortened

if TYPE_CHECKING:
    from ensemble_view.studies.subsets.result import PowerSetResult

__all__ = ["summary", "table"]

_MOST_NAMED = 3


def table(result: PowerSetResult) -> str:
    """Lay out the mean by size and each block's Shapley value, of the first quantity.

    Args:
        result: of all subnetworks.

    Returns:
        At most 80 columns; a star marks blocks that change the shape.
    """
    quantity = result.quantities[0]
    sizes = _rows(result.sizes_frame, quantity)
    values = _rows(result.values_frame, quantity)
    head = f"mean {quantity}"
    lines = [
        f"{'kept':>6}{'subnets':>9}  {head:<26.26}{'lowest':>10}{'highest':>10}",
        *(
            f"{row['size']:>6}{row['subsets']:>9,}  {row['mean']:<8.4f}"
            f"{_limits(row['mean_low'], row['mean_high'], '.4f'):<18}"
            f"{row['lowest']:>10.4f}{row['highest']:>10.4f}"
            for row in sizes
        ),
        "",
        f"{'block':>6}  {'module':<18}  {'Shapley value':<29}{'Banzhaf value':>14}",
        *(
            f"{row['block']:>6}{'*' if row['changes_shape'] else ' '} "
            f"{shortened(str(row['name']), 18):<18}  {row['shapley']:<+9.4f}"
            f"{_limits(row['shapley_low'], row['shapley_high'], '+.4f'):<20}"
            f"{row['banzhaf']:>+14.4f}"
            for row in values
        ),
    ]
    if any(row["changes_shape"] for row in values):
        lines.append("* changes the shape (downsampling): its shortcut alone is left")
    return "\n".join(lines)


def _limits(low: float, high: float, form: str) -> str:
    return f"[{low:{form}}, {high:{form}}]"


def _rows(frame: pd.DataFrame, quantity: str) -> list[dict[str, Any]]:
    rows = frame[frame["quantity"] == quantity].to_dict("records")
    return [{str(name): value for name, value in row.items()} for row in rows]


def summary(result: PowerSetResult) -> str:
    """Say what the subnetworks do, which blocks matter, and how additive it is.

    Args:
        result: of all subnetworks.

    Returns:
        A paragraph about this net on these examples.
    """
    run, n, quantity = result.run, len(result.blocks), result.quantities[0]
    means = result.values.means[0]
    others = result.block_count - n
    stay = f"; {'the other' if others == 1 else f'the other {others}'} stay" if others else ""
    stay = stay.replace("the other stay", "the other one stays")
    sentences = [
        f"{run.net}, all {2**n:,} subnetworks that keep some of {n} blocks{stay}, on "
        f"{run.examples:,} examples of {run.data}{run.cut_short}: the {quantity} is "
        f"{_number(means[-1], quantity)} with all of them and {_number(means[0], quantity)} with "
        f"none{_chance(result)}."
    ]
    sizes = result.sizes_frame
    by_size = sizes[sizes["quantity"] == quantity].set_index("size")["mean"]
    without = [
        f"{_number(by_size[n - k], quantity)} without {k}"
        for k in (1, 2, n // 2)
        if k < n and (k != n // 2 or n // 2 > 2)
    ]
    if without:
        sentences.append(f"On average over the choice of blocks it is {_listed(without)}.")
    sentences += [_shapley(result), *_spectrum(result)]
    sentences.append("The result holds for this net on these examples.")
    return " ".join(sentences)


def _chance(result: PowerSetResult) -> str:
    chance = result.run.scores.chance
    return "" if chance is None else f" (the best constant guess: {chance:.1%})"


def _shapley(result: PowerSetResult) -> str:
    quantity = result.quantities[0]
    frame = result.values_frame[result.values_frame["quantity"] == quantity]
    largest = frame.reindex(frame["shapley"].abs().sort_values(ascending=False).index)
    named = [
        f"block {row['block']} ({row['name']}) {_signed(row['shapley'], quantity)}"
        for row in largest.head(_MOST_NAMED).to_dict("records")
    ]
    total = float(frame["shapley"].sum())
    return (
        f"The Shapley values share that difference of {_signed(total, quantity)} among the "
        f"blocks; largest: {_listed(named)}."
    )


def _spectrum(result: PowerSetResult) -> list[str]:
    """How the variance over subnetworks splits by order, and how to read that."""
    n, gentle = len(result.blocks), result.gentle
    # Where nothing varies there are no shares.
    quantities = [
        name
        for name in (*result.spectral[:1], *result.quantities)
        if not math.isnan(result.share(name, gentle, 1))
    ]
    if not quantities or n < 2:
        return []

    def shares(keep: float) -> str:
        return _listed(
            [
                f"{result.share(name, keep, 1):.0%} and {result.share(name, keep, 2):.0%} for the "
                f"{'class-centred logits' if name == 'logits' else name}"
                for name in quantities
            ]
        )

    sentences = []
    if gentle > 0.5:
        sentences.append(
            f"With {n * (1 - gentle):.3g} of {n} blocks deleted on average, the variance over "
            f"subnetworks is additive (order 1) and pairwise (order 2) to {shares(gentle)}; with "
            f"half of them deleted to {shares(0.5)}."
        )
    else:
        sentences.append(
            "With half of the blocks deleted on average, the variance over subnetworks is additive "
            f"(order 1) and pairwise (order 2) to {shares(0.5)}."
        )
    sentences.append(
        f"{_effective(result)}As ever fewer are deleted, order 1 takes over in any net. Additivity "
        "is neither necessary nor sufficient for an ensemble: a majority vote of independent "
        "members is not additive, and a net of one strong block among dead ones is. That the net's "
        f"output is a sum over 2^{n} paths holds for any net."
    )
    return sentences


def _effective(result: PowerSetResult) -> str:
    """How many blocks the additive part is that of."""
    frame = result.effective_frame
    name = (*result.spectral[:1], *result.quantities)[0]
    rows = frame[(frame["quantity"] == name) & (frame["keep"] == result.gentle)]
    row = rows.iloc[0]
    if math.isnan(row["effective"]):
        return ""
    limits = (
        ""
        if math.isnan(row["effective_low"])
        else f" [{row['effective_low']:.3g}, {row['effective_high']:.3g}]"
    )
    return (
        f"The additive part of the {'class-centred logits' if name == 'logits' else name} is that "
        f"of {row['effective']:.3g}{limits} of {len(result.blocks)} blocks (participation ratio of "
        "their energies at order 1). "
    )


def _number(value: float, quantity: str) -> str:
    return f"{value:.1%}" if quantity == "error" else f"{value:.4g}"


def _signed(value: float, quantity: str) -> str:
    return f"{100 * value:+.1f} points" if quantity == "error" else f"{value:+.4g}"


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
