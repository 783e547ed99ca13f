"""How do nets decay as blocks are deleted or swapped? Figures 5(a) and 5(b) of Veit et al. 2016.

Veit, Wilber and Belongie (2016, arXiv 1605.06431), sections 4.2 and 4.3: the error of a residual
net grows smoothly with the number of deleted blocks and with their disorder, Kendall's tau. Here
the same is done to nets with shortcuts (both versions of a residual net, a highway net) and without
(a plain net, VGG), whose units that keep the shape are deleted and swapped instead.

What is lost is a share of what lies between the full net and chance; whether it grows smoothly is
said by the rules in `smoothness.py`.

    python analyses/lesion_curves.py [--scale digits]

writes ``analyses/lesion_curves/``: ``deletions.csv``, ``swaps.csv``, ``smoothness.csv``, the single
lesions of nets that `single_lesions.py` has not (its figure 3), the figures and ``summary.md``.
About a quarter of an hour on one CPU core once the nets are trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from lesioned_nets import BATCH, BUNDLED, NETS, attempt, is_plain, opened
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from reporting import in_points, made_by, markdown_table, write
from single_lesions import LEGEND, summary_table
from smoothness import Decay, Disorder, deletable
from trained_nets import Scale, chosen_scale, command_of, folder_of, scale_options

import ensemble_view
from ensemble_view import LesionResult, ManyResult, ReorderResult
from ensemble_view.figures.style import FULL_WIDTH, paper_style
from ensemble_view.studies.lesion.figure import comparison_figure

DELETIONS = 100
SWAPS = 25
"""Random trials per number of deletions, and per number of swaps."""
IMAGES = 200
SHOWN = (1, 5, 10, 20)
"""Numbers of deletions in the summary."""


@dataclass(frozen=True)
class Lesioned:
    """What was measured of a net, or the sentence with which a study was refused.

    Args:
        deletions: Random deletions, for each number of blocks.
        swaps: Random swaps.
    """

    deletions: ManyResult | str
    swaps: ReorderResult | str


def run(
    folder: Path,
    scale: Scale,
    *,
    nets: Sequence[str],
    deletions: int = DELETIONS,
    swaps: int = SWAPS,
    images: int = IMAGES,
) -> pd.DataFrame:
    """Delete and swap blocks of all nets and write tables, figures and summary.

    Args:
        folder: Where to write.
        scale: Test images, and how nets are trained that are not bundled.
        nets: Bundled nets and architectures.
        deletions: Random subsets per number of deletions.
        swaps: Random sequences per number of swaps.
        images: At most so many test images for these, class-balanced.

    Returns:
        A row per net and study: how smoothly it decays.
    """
    found = {
        name: lesioned(scale, name, deletions=deletions, swaps=swaps, images=images)
        for name in nets
    }
    single = {name: single_lesions(scale, name) for name in nets if name not in BUNDLED}
    table = smoothness(found)
    figures = {"curves": draw(found)}
    if single:
        figures["single"] = comparison_figure(single)
    write(
        folder,
        {
            "deletions": _joined({name: each.deletions for name, each in found.items()}),
            "swaps": _joined({name: each.swaps for name, each in found.items()}),
            "smoothness": table,
            **{f"single-{name}": result.frame for name, result in single.items()},
        },
        figures,
        summary(scale, images, found, single),
    )
    return table


def lesioned(scale: Scale, name: str, *, deletions: int, swaps: int, images: int) -> Lesioned:
    """Delete and swap blocks of a net at random.

    Args:
        scale: Test images, and how nets are trained that are not bundled.
        name: Of the net.
        deletions: Random subsets per number of deletions.
        swaps: Random sequences per number of swaps.
        images: At most so many test images.

    Returns:
        The results.
    """
    net, plain = opened(scale, name), is_plain(name)
    return Lesioned(
        attempt(
            lambda: ensemble_view.random(
                net,
                scale.test,
                trials=deletions,
                plain=plain,
                limit=images,
                batch_size=BATCH,
            )
        ),
        attempt(
            lambda: cast(
                "ReorderResult",
                ensemble_view.reorder(
                    net,
                    scale.test,
                    trials=swaps,
                    plain=plain,
                    limit=images,
                    batch_size=BATCH,
                ),
            )
        ),
    )


def single_lesions(scale: Scale, name: str) -> LesionResult:
    """Delete each block of a net in turn, on all test images."""
    return cast(
        "LesionResult",
        ensemble_view.lesion(
            opened(scale, name), scale.test, plain=is_plain(name), batch_size=BATCH
        ),
    )


def smoothness(found: Mapping[str, Lesioned]) -> pd.DataFrame:
    """Say of each net how smoothly it decays.

    Args:
        found: What was measured, by net.

    Returns:
        A row per net and study that was not refused: the largest rise with its bounds, the
        verdict, and the number of deletions from which half is gone, or the rank correlation with
        the disorder.
    """
    rows: list[dict[str, object]] = []
    for name, each in found.items():
        if isinstance(each.deletions, ManyResult):
            rows.append({"net": name, "study": "deletions"} | Decay.of(each.deletions).record())
        if isinstance(each.swaps, ReorderResult):
            rows.append({"net": name, "study": "swaps"} | Disorder.of(each.swaps).record())
    return pd.DataFrame(rows)


def _joined(results: Mapping[str, ManyResult | ReorderResult | str]) -> pd.DataFrame:
    tables = [
        result.frame.assign(net=name)
        for name, result in results.items()
        if not isinstance(result, str)
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def draw(found: Mapping[str, Lesioned]) -> Figure:
    """Draw the error by share of blocks deleted, and by Kendall's tau.

    Args:
        found: What was measured, by net.

    Returns:
        Two panels, a line per net with the intervals of the crossed means.
    """
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 2.8), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for index, (name, each) in enumerate(found.items()):
            if isinstance(each.deletions, ManyResult):
                shares = each.deletions.frame["deleted"].to_numpy(float) / deletable(each.deletions)
                _line(left, shares, 0.0, each.deletions, f"C{index}", name)
            if isinstance(each.swaps, ReorderResult):
                taus = each.swaps.frame["tau"].to_numpy(float)
                _line(right, taus, 1.0, each.swaps, f"C{index}", name)
        left.set_xlabel("share of blocks deleted")
        left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        left.set_ylabel("test error")
        left.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        left.set_ylim(0, 1)
        right.set_xlabel("Kendall's tau of the order of blocks")
        right.invert_xaxis()
        for axis in (left, right):
            axis.spines[["top", "right"]].set_visible(False)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)
    return figure


def _line(
    axis: Axes,
    doses: npt.NDArray[np.float64],
    none: float,
    result: ManyResult | ReorderResult,
    colour: str,
    label: str,
) -> None:
    frame = result.frame
    mean = frame["mean"].to_numpy(float)
    axis.plot([none, *doses], [result.full, *mean], color=colour, marker="o", ms=2, lw=1,
              label=label)  # fmt: skip
    axis.fill_between(doses, frame["low"], frame["high"], color=colour, alpha=0.2, lw=0)


def summary(
    scale: Scale,
    images: int,
    found: Mapping[str, Lesioned],
    single: Mapping[str, LesionResult],
) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        images: How many test images deletions and swaps were measured on, at most.
        found: What was measured, by net.
        single: Single lesions, by net.

    Returns:
        The lines of summary.md.
    """
    lines = [
        "# Random deletions and swaps",
        "",
        f"{made_by(command_of(__file__, scale), scale.device)} {scale.words} Nets called "
        "`digits-...` are the bundled ones; of "
        f"others seed 0. Deletions and swaps on {min(images, len(scale.test))} test images, at "
        "most 20 of the blocks or swaps at a time.",
        "",
        "## Deletions",
        "",
        "Error after so many random deletions; *largest rise*: of the normalised drop by one "
        "further deletion, in points; *half gone*: number of deletions from which half of what "
        "lies between the full net and chance is gone. Brackets: simultaneous 95 % bounds.",
        "",
        *markdown_table(
            ("net", "full net", *(f"{count} deleted" for count in SHOWN), "largest rise",
             "half gone", "of blocks", "smooth?"),
            [_deletions_row(name, each.deletions) for name, each in found.items()],
        ),
        "",
        "## Swaps",
        "",
        "Error in the first and last bin of Kendall's tau (its mean); *largest rise*: of the "
        "normalised drop from one bin to the next, in points; *correlation*: Spearman's, of the "
        "error with the disorder.",
        "",
        *markdown_table(
            ("net", "first bin", "last bin", "largest rise", "correlation", "smooth?"),
            [_swaps_row(name, each.swaps) for name, each in found.items()],
        ),
        "",
        "![Error by share of blocks deleted and by Kendall's tau](curves.png)",
    ]  # fmt: skip
    if single:
        lines += [
            "",
            "## Single lesions",
            "",
            f"Of nets that `single_lesions.py` has not, on {len(scale.test)} test images. {LEGEND}",
            "",
            *summary_table(single),
            "",
            "![Error after each deletion](single.png)",
        ]
    return lines


def _deletions_row(name: str, result: ManyResult | str) -> tuple[object, ...]:
    if isinstance(result, str):
        return (name, f"refused: {result}", *[""] * 8)
    errors = dict(zip(result.frame["deleted"], result.frame["mean"], strict=True))
    decay, most = Decay.of(result), int(result.frame["deleted"].max())
    half = [f"> {most}" if count is None else str(count) for count in decay.half]
    return (
        name,
        f"{100 * result.full:.1f}",
        *(f"{100 * errors[count]:.1f}" if count in errors else "" for count in SHOWN),
        in_points(decay.rise),
        f"{half[0]} [{half[1]}, {half[2]}]",
        decay.blocks,
        decay.verdict,
    )


def _swaps_row(name: str, result: ReorderResult | str) -> tuple[object, ...]:
    if isinstance(result, str):
        return (name, f"refused: {result}", *[""] * 4)
    bins = [
        f"{100 * row['mean']:.1f} ({row['tau']:.3f})"
        for row in (result.frame.iloc[0], result.frame.iloc[-1])
    ]
    found = Disorder.of(result)
    value, low, high = found.correlation
    order = f"{value:.3f} [{low:.3f}, {high:.3f}]"
    return (name, *bins, in_points(found.rise), order, found.verdict)


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, nets=NETS[chosen.name])
    print((target / "summary.md").read_text())
