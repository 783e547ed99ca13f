"""Do deeper residual nets respond less, and residual nets less than plain ones? Over seeds.

He et al. 2015 (arXiv 1512.03385), section 4.2 and figure 7: the standard deviation of what each 3x3
convolution gives, after BatchNorm, before nonlinearity or addition, in nets of 20, 56 and 110
layers, with shortcuts and without. `layer_responses.py` measures it on single nets; here nets are
trained alike but for the seed, so that something can be said of the kinds: t intervals over seeds,
differences paired by seed.

    python analyses/responses_by_depth.py [--scale digits]

writes ``analyses/responses_by_depth/``: ``responses.csv`` (by net, seed and layer), ``nets.csv``
(mean over the layers), ``differences.csv``, the figure and ``summary.md``. A minute on one CPU core
once the nets are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from layer_responses import moments, responses
from matplotlib.figure import Figure
from reporting import made_by, markdown_table, t_interval, write
from trained_nets import Scale, chosen_scale, command_of, folder_of, scale_options

from ensemble_view.figures.style import FULL_WIDTH, paper_style

NETS = {
    "digits": ("resnet20", "resnet56", "resnet110", "plain20", "plain56"),
    "cifar10": ("resnet20", "resnet56", "resnet110", "plain20", "plain56"),
    "cifar10-fast": ("resnet20", "plain20"),
}
PAIRS = (
    ("resnet20", "resnet56"),
    ("resnet56", "resnet110"),
    ("plain20", "resnet20"),
    ("plain56", "resnet56"),
)
"""Of each the first responds more, by the paper."""


def run(folder: Path, scale: Scale, *, nets: Sequence[str]) -> pd.DataFrame:
    """Measure all nets of all seeds and write tables, figure and summary.

    Args:
        folder: Where to write.
        scale: Data, recipe and seeds.
        nets: Their architectures.

    Returns:
        A row per net, seed and layer.
    """
    table = pd.concat(
        [
            responses(moments(scale.net(net, seed).model, scale.test))
            .query("layer >= 0")
            .assign(net=net, seed=seed)
            for net in nets
            for seed in scale.seeds
        ],
        ignore_index=True,
    )
    means = table.groupby(["net", "seed"])["typical"].mean().unstack("seed")
    by_net = pd.DataFrame(
        [(net, *t_interval(means.loc[net].to_numpy())) for net in nets],
        columns=["net", "typical", "low", "high"],
    )
    differences = pd.DataFrame(
        [
            (one, other, *t_interval((means.loc[one] - means.loc[other]).to_numpy()))
            for one, other in PAIRS
            if {one, other} <= set(nets)
        ],
        columns=["first", "second", "difference", "low", "high"],
    )
    write(
        folder,
        {
            "responses": table[["net", "seed", "layer", "name", "typical", "pooled"]],
            "nets": by_net,
            "differences": differences,
        },
        {"responses": draw(table, nets)},
        summary(scale, by_net, differences),
    )
    return table


def draw(table: pd.DataFrame, nets: Sequence[str]) -> Figure:
    """Draw the response by layer, the mean over the seeds, and its range.

    Args:
        table: A row per net, seed and layer.
        nets: In this order.

    Returns:
        Two panels: residual nets, plain ones.
    """
    kinds = {
        "residual nets": [net for net in nets if not net.startswith("plain")],
        "plain nets": [net for net in nets if net.startswith("plain")],
    }
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 2.5), layout="constrained")
        for axis, (kind, shown) in zip(
            figure.subplots(1, 2, sharey=True), kinds.items(), strict=True
        ):
            for index, net in enumerate(shown):
                by_layer = table[table["net"] == net].groupby("layer")["typical"]
                axis.plot(by_layer.mean(), color=f"C{index}", lw=1, label=net)
                axis.fill_between(
                    by_layer.mean().index, by_layer.min(), by_layer.max(), color=f"C{index}",
                    alpha=0.2, lw=0,
                )  # fmt: skip
            axis.set_title(kind, fontsize=8)
            axis.set_xlabel("3×3 layer")
            axis.set_yscale("log")
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(frameon=False)
        figure.axes[0].set_ylabel("typical deviation of response")
        figure.axes[0].yaxis.set_major_formatter("{x:g}")
    return figure


def verdict(row: pd.Series[float]) -> str:
    """Say what a difference says of the paper's statement that the first responds more.

    Args:
        row: Of the differences.

    Returns:
        "yes", "no, the other way round" or "cannot be told".
    """
    if row["low"] > 0:
        return "yes"
    return "no, the other way round" if row["high"] < 0 else "cannot be told"


def summary(scale: Scale, by_net: pd.DataFrame, differences: pd.DataFrame) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        by_net: A row per net.
        differences: A row per pair.

    Returns:
        The lines of summary.md.
    """
    return [
        "# Responses of layers by depth",
        "",
        f"{made_by(command_of(__file__, scale), scale.device)} {scale.words}",
        "",
        "Standard deviation of what each 3×3 convolution gives, after BatchNorm, before "
        "nonlinearity or addition: of one image's values, geometric mean over the test images, "
        "mean over the layers. Brackets: 95 % t intervals over the seeds.",
        "",
        *markdown_table(
            ("net", "response"),
            [(row["net"], _limits(row, "typical")) for _, row in by_net.iterrows()],
        ),
        "",
        "By the paper the first of each pair responds more; differences are paired by seed:",
        "",
        *markdown_table(
            ("first", "second", "difference", "first more?"),
            [
                (row["first"], row["second"], _limits(row, "difference"), verdict(row))
                for _, row in differences.iterrows()
            ],
        ),
        "",
        "Lines are means over the seeds, bands reach from the least to the largest.",
        "",
        "![Response by layer](responses.png)",
    ]


def _limits(row: pd.Series[float], name: str) -> str:
    if np.isnan(row["low"]):
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} [{row['low']:.3f}, {row['high']:.3f}]"


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, nets=NETS[chosen.name])
    print((target / "summary.md").read_text())
