"""Do later blocks react to a deletion, and do small branches explain what deletions do?

Veit, Wilber and Belongie (2016, arXiv 1605.06431) call the paths of a residual net independent of
each other. Of the nets of `lesion_curves.py`, with shortcuts and without:

*Reaction*: what the deletion of a block changes at the end of its stage, along what it changed at
the block's own end: 1 where later blocks only add to what passes them. Below 1 they repair what is
missing only if they do so more than before training, and more than with another image's change of
the same size; above 1 they amplify it only likewise.

*Size*: in place of the deletion noise of the branch's norm (each image's own, or in one direction),
another image's branch, the mean branch, or the branch with its sign changed. If all of these cost
about as much as the deletion, within a factor of two, the size of the branches explains what
deletions do (Chang et al. 2017, arXiv 1710.10348), and not that paths back each other up; if all
cost less, or all cost more, it does not. Beside it, the branches multiplied by other numbers than
0.

    python analyses/lesion_reactions.py [--scale digits]

writes ``analyses/lesion_reactions/``: ``stages.csv`` (reaction by net and stage),
``nulls.csv`` (deletion beside each null, by net and block), ``doses.csv``, the figure and
``summary.md``. About five minutes on one CPU core once the nets are trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lesioned_nets import BATCH, NETS, attempt, is_plain, opened
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from reporting import in_points, made_by, markdown_table, write
from trained_nets import Scale, chosen_scale, command_of, folder_of, scale_options

import ensemble_view
from ensemble_view import DoseResult, ReactionResult
from ensemble_view.figures.style import FULL_WIDTH, paper_style
from ensemble_view.studies.dose.result import NULLS
from ensemble_view.studies.dose.words import COMPARABLE, explained
from ensemble_view.studies.reaction.words import answer

IMAGES = 200
DRAWS = 3
"""Of each random null for each block."""


@dataclass(frozen=True)
class Reactions:
    """What was measured of a net, or the sentence with which a study was refused.

    Args:
        reaction: Of the later blocks of a stage, by stage.
        doses: Errors by what branches are multiplied by, and with nulls instead of deletions.
    """

    reaction: ReactionResult | str
    doses: DoseResult | str


def run(
    folder: Path,
    scale: Scale,
    *,
    nets: Sequence[str],
    images: int = IMAGES,
    draws: int = DRAWS,
) -> dict[str, Reactions]:
    """Measure all nets and write tables, figure and summary.

    Args:
        folder: Where to write.
        scale: Test images, and how nets are trained that are not bundled.
        nets: Bundled nets and architectures.
        images: At most so many test images, class-balanced.
        draws: Of each random null for each block.

    Returns:
        The results, by net.
    """
    found = {name: reactions_of(scale, name, images=images, draws=draws) for name in nets}
    reactions = {name: each.reaction for name, each in found.items()}
    doses = {name: each.doses for name, each in found.items()}
    write(
        folder,
        {
            "stages": _joined(
                {n: r.stages_frame for n, r in reactions.items() if isinstance(r, ReactionResult)}
            ),
            "nulls": _joined(
                {n: r.nulls_frame for n, r in doses.items() if isinstance(r, DoseResult)}
            ),
            "doses": _joined({n: r.frame for n, r in doses.items() if isinstance(r, DoseResult)}),
        },
        {"reactions": draw(found)},
        summary(scale, images, found),
    )
    return found


def reactions_of(scale: Scale, name: str, *, images: int, draws: int) -> Reactions:
    """Measure the reaction and the doses of a net.

    Args:
        scale: Test images, and how nets are trained that are not bundled.
        name: Of the net.
        images: At most so many test images.
        draws: Of each random null for each block.

    Returns:
        The results.
    """
    net, plain = opened(scale, name), is_plain(name)
    return Reactions(
        attempt(
            lambda: ensemble_view.reaction(
                net, scale.test, plain=plain, limit=images, batch_size=BATCH
            )
        ),
        attempt(
            lambda: ensemble_view.dose(
                net,
                scale.test,
                draws=draws,
                plain=plain,
                limit=images,
                batch_size=BATCH,
            )
        ),
    )


def _joined(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    named = [table.assign(net=name) for name, table in tables.items()]
    return pd.concat(named, ignore_index=True) if named else pd.DataFrame()


def mean_of_single(doses: DoseResult) -> pd.Series[float]:
    """Return the mean error over the blocks, one of them scaled at a time.

    Args:
        doses: Of a net.

    Returns:
        The error by what a branch is multiplied by.
    """
    single = [label for label in doses.labels if label != "all"]
    chosen = doses.frame[doses.frame["blocks"].isin(single)]
    return chosen.groupby("dose")["value"].mean()


def mean_or_only(doses: DoseResult) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """Return deletion beside the nulls: the mean over the blocks that keep the shape.

    Args:
        doses: Of a net.

    Returns:
        A row per null, and the range over them; those of the block, if there is one such block.
    """
    table = doses.nulls_frame
    # The mean, which says that no shape is changed, comes last.
    block = table[~table["changes_shape"]].iloc[-1]["blocks"]
    ranges = doses.ranges_frame
    return table[table["blocks"] == block], ranges[ranges["blocks"] == block].iloc[0]


def draw(found: Mapping[str, Reactions]) -> Figure:
    """Draw the reaction by stage, and the error by what branches are multiplied by.

    Args:
        found: What was measured, by net.

    Returns:
        Three panels: reactions; one branch scaled at a time; all of them.
    """
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 2.6), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        for index, (name, each) in enumerate(found.items()):
            colour = f"C{index}"
            if isinstance(each.reaction, ReactionResult):
                _stages(left, each.reaction, colour, (index - (len(found) - 1) / 2) * 0.12)
            if isinstance(each.doses, DoseResult):
                single, frame = mean_of_single(each.doses), each.doses.frame
                middle.plot(single, color=colour, marker="o", ms=2.5, lw=1, label=name)
                together = frame[frame["blocks"] == each.doses.labels[-1]]
                right.plot(together["dose"], together["value"], color=colour, marker="o", ms=2.5,
                           lw=1)  # fmt: skip
        left.axhline(1, color="0.6", lw=0.6, dashes=(4, 2))
        left.set_xlabel("stage")
        left.set_ylabel("reaction")
        left.xaxis.get_major_locator().set_params(integer=True)
        middle.set_xlabel("one branch multiplied by")
        right.set_xlabel("all branches multiplied by")
        middle.set_ylabel("test error")
        for axis in (middle, right):
            axis.set_ylim(0, 1)
            axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        for axis in figure.axes:
            axis.spines[["top", "right"]].set_visible(False)
        handles, labels = middle.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    return figure


def _stages(axis: Axes, result: ReactionResult, colour: str, aside: float) -> None:
    """Points with intervals, a little aside of each other."""
    rows = result.stages_frame
    rows = rows[(rows["stage"] != "all") & (rows["blocks"] > 0)]
    place = rows["stage"].to_numpy(float) + aside
    axis.vlines(place, rows["reaction_low"], rows["reaction_high"], color=colour, lw=1)
    axis.plot(place, rows["reaction"], "o", color=colour, ms=3)


def summary(scale: Scale, images: int, found: Mapping[str, Reactions]) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        images: How many test images were used at most.
        found: What was measured, by net.

    Returns:
        The lines of summary.md.
    """
    return [
        "# Reactions to deletions, and the size of branches",
        "",
        f"{made_by(command_of(__file__, scale), scale.device)} {scale.words} Nets called "
        "`digits-...` are the bundled ones; of "
        f"others seed 0. {min(images, len(scale.test))} test images. Brackets: 95 % intervals over "
        "the images.",
        "",
        "## Reaction",
        "",
        "⟨h - h', D⟩ / ‖D‖² at the end of a stage, D the change that leaves the deleted block, "
        "mean over the blocks that others follow; *untrained*: of the net with random weights; "
        "*donor*: of the net to another image's change of the same norm. Later blocks *add up* "
        "where the reaction lies within 0.9 and 1.1; they *repair* only where it lies below 1, "
        "below the untrained net's and below the donor's, and *amplify* only where it lies above "
        "all three, with simultaneous intervals of the paired differences (Bonferroni over the "
        "comparisons of a net). Nothing is said of nets without shortcuts, whose units have no sum "
        "to put a donor's branch in.",
        "",
        *markdown_table(
            ("net", "stage", "blocks", "reaction", "untrained", "donor", "reaction − untrained",
             "reaction − donor", "ratio of norms", "later blocks"),
            [row for name, each in found.items() for row in _reaction_rows(name, each.reaction)],
        ),
        "",
        "## Size",
        "",
        "What one deletion costs in points of error, mean over the blocks that keep the shape, and "
        "how many times as much each null costs instead of it: *noise* of the branch's norm, each "
        "image's own; *constant*: in one direction; *donor*: another image's branch; *mean*: the "
        "mean branch; *flipped*: the branch with its sign changed, twice as large a change. The "
        "size explains it only if all intervals lie within "
        f"{COMPARABLE[0]:g} and {COMPARABLE[1]:g}, and does not only if all lie outside on one "
        "side.",
        "",
        *markdown_table(
            ("net", "deletion", *NULLS, "does the size explain it?"),
            [_size_row(name, each.doses) for name, each in found.items()],
        ),
        "",
        "![Reaction by stage, error by dose](reactions.png)",
    ]  # fmt: skip


def _reaction_rows(name: str, result: ReactionResult | str) -> list[tuple[object, ...]]:
    if isinstance(result, str):
        return [(name, f"refused: {result}", *[""] * 8)]
    rows = []
    for row in result.stages_frame.to_dict("records"):
        cells = [
            f"{row[column]:.3f} [{row[f'{column}_low']:.3f}, {row[f'{column}_high']:.3f}]"
            if not np.isnan(row[column])
            else ""
            for column in ("reaction", "reaction_untrained", "reaction_donor", "minus_untrained",
                           "minus_donor", "norm_ratio")
        ]  # fmt: skip
        said = "" if is_plain(name) or not row["blocks"] else answer(row)
        rows.append((name, row["stage"], row["blocks"], *cells, said))
    return rows


def _size_row(name: str, result: DoseResult | str) -> tuple[object, ...]:
    if isinstance(result, str):
        return (name, f"refused: {result}", *[""] * (len(NULLS) + 1))
    rows, span = mean_or_only(result)
    deletion = in_points([rows.iloc[0][f"deleted{end}"] for end in ("", "_low", "_high")])
    if np.isnan(span["low"]):
        costs = "the deletions' cost cannot be told from zero"
        return (name, deletion, *[""] * len(NULLS), costs)
    by_null = {row["null"]: row for row in rows.to_dict("records")}
    ratios = [
        f"{row['ratio']:.3f} [{row['ratio_low']:.3f}, {row['ratio_high']:.3f}]"
        if (row := by_null.get(null))
        else ""
        for null in NULLS
    ]
    return (name, deletion, *ratios, explained(span.to_dict()))


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, nets=NETS[chosen.name])
    print((target / "summary.md").read_text())
