"""Is a branch of a single layer of any use, and is it worse than one of two layers?

He et al. 2015 (arXiv 1512.03385), section 3.2: a branch F of a single layer makes y = W x + x,
which is like a linear layer, "for which we have not observed advantages". Nets with a shortcut
round every convolution are held against plain nets of the same convolutions, and against nets
with a shortcut round every two; all trained alike but for the seed. Here BatchNorm follows the
convolution, and ReLU the addition.

    python analyses/one_layer_branches.py [--scale digits]

writes ``analyses/one_layer_branches/``: ``seeds.csv`` (errors of every net), ``nets.csv``,
``differences.csv``, the figure and ``summary.md``. Seconds on one CPU core once the nets are
trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from compared_nets import (
    Compared,
    Groups,
    by_net,
    difference_of,
    differences,
    draw,
    errors_in_points,
    errors_of,
    opening,
    probability,
    ratio_words,
)
from differences import direction
from reporting import in_points, markdown_table, write
from trained_nets import Scale, chosen_scale, folder_of, scale_options

DEPTHS = {"digits": (20, 32), "cifar10": (110,), "cifar10-fast": (20,)}
PLAIN, ONE, TWO = "plain", "one layer", "two layers"


def nets(depths: Sequence[int]) -> dict[str, tuple[Compared, ...]]:
    """Return the nets that are compared.

    Args:
        depths: Their depths, each 6n + 2.

    Returns:
        By depth in words: with one-layer branches, without shortcuts, with two-layer branches.
    """
    return {
        f"{depth} layers deep": (
            Compared(ONE, f"resnet{depth},layers=1"),
            Compared(PLAIN, f"plain{depth}"),
            Compared(TWO, f"resnet{depth}"),
        )
        for depth in depths
    }


def run(folder: Path, scale: Scale, *, groups: Groups) -> pd.DataFrame:
    """Compare the nets of all seeds and write tables, figure and summary.

    Args:
        folder: Where to write.
        scale: Data, recipe and seeds.
        groups: As `nets` gave them.

    Returns:
        A row per depth, net and seed.
    """
    errors = errors_of(scale, groups)
    means, found = by_net(errors), differences(errors)
    write(
        folder,
        {"seeds": errors, "nets": means, "differences": found},
        {"one_layer_branches": draw(errors)},
        summary(scale, means, found),
    )
    return errors


def verdict(plain: pd.Series[float], two: pd.Series[float]) -> str:
    """Say what the differences say of branches of one layer.

    Args:
        plain: The plain net's error less that of the net with one-layer branches, with interval.
        two: The same of the net with two-layer branches.

    Returns:
        Two clauses.
    """
    against_plain = {
        "worse": "an advantage over the plain net, against the paper",
        "better": "worse than the plain net, so no advantage",
        "cannot be told": "whether there is an advantage over the plain net cannot be told "
        f"({in_points((plain['difference'], plain['low'], plain['high']))} points)",
    }[direction(plain["difference"], plain["holm"])]
    against_two = {
        "worse": "better than two layers",
        "better": "worse than two layers",
        "cannot be told": "whether worse than two layers cannot be told",
    }[direction(two["difference"], two["holm"])]
    return f"{against_plain}; {against_two}"


def summary(scale: Scale, means: pd.DataFrame, found: pd.DataFrame) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        means: A row per depth and net.
        found: The differences.

    Returns:
        The lines of summary.md.
    """
    lines = [
        "# Branches of one layer",
        "",
        opening("one_layer_branches", scale),
        "",
        "Differences are the net's error less that of the net with one-layer branches, so that a "
        "positive one speaks for one-layer branches.",
        "",
    ]
    rows = []
    for _, row in means.iterrows():
        cells = [row["group"], row["name"]]
        cells += [errors_in_points(row, name) for name in ("training_error", "test_error")]
        if row["name"] == ONE:
            cells += ["—"] * 5
        else:
            for measure in ("training_error", "test_error"):
                less = difference_of(found, row["group"], row["name"], measure)
                cells += [
                    in_points((less["difference"], less["low"], less["high"])),
                    probability(less["holm"]),
                ]
            cells.append(ratio_words(less))
        rows.append(cells)
    head = (
        "depth", "branches", "training error", "test error", "training error less one-layer's",
        "p (Holm)", "test error less one-layer's", "p (Holm)", "ratio",
    )  # fmt: skip
    lines += [*markdown_table(head, rows), ""]
    for group in means["group"].unique():
        plain, two = (difference_of(found, group, name) for name in (PLAIN, TWO))
        lines.append(f"- {group}, branches of one layer, by test error: {verdict(plain, two)}.")
    marks = "a dot per seed, mean and 95 % interval"
    return [*lines, "", f"![Test errors: {marks}](one_layer_branches.png)"]


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, groups=nets(DEPTHS[chosen.name]))
    print((target / "summary.md").read_text())
