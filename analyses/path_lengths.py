"""Which path lengths carry the gradient of the digits' nets, and does training lengthen them?

Veit, Wilber and Belongie 2016 (arXiv 1605.06431), sections 3 and 5, figures 6 and 7: most paths of
a ResNet-110 are of middling length, those that carry gradient are short. Here of both versions,
trained and untrained: the numbers of paths, the weightings of each length on a few images, and on
more images the share of the gradient, which is exact and decides claim C5: as the mean over images
of each image's share, and as the ratio of sums, in which an image counts by its squared gradient.
Then the same share at checkpoints of training, over seeds: do residual nets begin with short paths
and grow deeper, as Littwin and Wolf 2016 (arXiv 1611.02525) say?

    python analyses/path_lengths.py [--scale digits]

writes ``analyses/path_lengths/``: tables and figures of each net (``NET-weightings``,
``NET-paths``), ``shares.csv``, ``checkpoints.csv``, ``changes.csv``, the figure of the checkpoints
and ``summary.md``. About 20 minutes on one CPU core once the nets are trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from lesioned_nets import opened
from matplotlib.figure import Figure
from reporting import made_by, markdown_table, t_interval, write
from trained_nets import Scale, chosen_scale, command_of, folder_of, scale_options

import ensemble_view
from ensemble_view import GradientsByLength
from ensemble_view.figures.style import FULL_WIDTH, paper_style

NETS = {
    "digits": ("digits-resnet110", "digits-resnet110v2"),
    "cifar10": ("resnet110", "resnet110v2"),
    "cifar10-fast": ("resnet20",),
}
"""A bundled net by its name; others are trained, and the first seed's is taken."""
IN_TRAINING = {
    "digits": ("resnet56", "resnet56v2"),
    "cifar10": ("resnet110", "resnet110v2"),
    "cifar10-fast": (),
}
EPOCHS = {"digits": (0, 1, 2, 5, 10, 20, 30), "cifar10": (0, 1, 5, 20, 80, 120, 164)}
WEIGHTED, SHARED_OUT = 16, 256
"""Images for all weightings, and for the share of the gradient alone."""
HOW: Mapping[str, Any] = {"samples": 20, "vectors": 4, "groups": 16}
NAMES = {
    "projected": "share of the gradient, mean of ratios",
    "pooled": "ratio of sums",
    "summed": "norm of the sum",
    "energy": "energy",
    "sampled": "paths × mean norm",
}
WEIGHED_BY = {"mean": "mean of ratios", "pooled": "ratio of sums"}
"""Columns of the share of the gradient: how images are weighed."""
SHORT, NOT_SHORT, NEGATIVE = 1 / 3, 0.45, 0.05
"""Claim C5: mean length over the number of blocks, and the share of negative mass."""


def run(
    folder: Path,
    scale: Scale,
    *,
    nets: Sequence[str],
    in_training: Sequence[str],
    epochs: Sequence[int],
    weighted: int = WEIGHTED,
    shared_out: int = SHARED_OUT,
) -> dict[str, GradientsByLength]:
    """Weigh the paths and write tables, figures and summary.

    Args:
        folder: Where to write.
        scale: Data, recipe and seeds.
        nets: Bundled nets, or architectures.
        in_training: Architectures whose checkpoints are compared.
        epochs: Epochs done at each checkpoint, in order.
        weighted: Images for all weightings.
        shared_out: Images for the share of the gradient alone.

    Returns:
        Of each net all weightings.
    """
    found: dict[str, GradientsByLength] = {}
    tables: dict[str, pd.DataFrame] = {}
    figures: dict[str, Figure] = {}
    shares: list[pd.DataFrame] = []
    for name in nets:
        net = opened(scale, name, scale.seeds[0])
        four = ensemble_view.gradients_by_length(
            net, scale.test, method="all", limit=weighted, untrained=True, **HOW
        )
        shares.append(before_and_after(name, net, scale, shared_out))
        images, _ = next(scale.test.batches(2))
        counts = ensemble_view.count_paths(ensemble_view.unravel(net.model.eval(), images), name)
        tables |= {f"{name}-{table}": frame for table, frame in four.tables.items()}
        figures |= {f"{name}-weightings": four.plot(), f"{name}-paths": counts.plot()}
        found[name] = four
        print(f"{name}: {four.seconds:.0f} s", flush=True)
    by_epoch = checkpoints(scale, in_training, epochs, shared_out)
    differences = changes(by_epoch)
    tables["shares"] = pd.concat(shares, ignore_index=True)
    if len(by_epoch):
        tables |= {"checkpoints": by_epoch, "changes": differences}
        figures["checkpoints"] = draw(by_epoch)
    lines = summary(scale, found, tables["shares"], differences, weighted, shared_out)
    write(folder, tables, figures, lines)
    return found


def before_and_after(
    name: str, net: ensemble_view.Checkpoint, scale: Scale, images: int
) -> pd.DataFrame:
    """Share the gradient out over the lengths, before and after training.

    Args:
        name: What the net is called.
        net: The trained one.
        scale: Whose test images are taken.
        images: How many.

    Returns:
        A row for the trained and for the untrained net: blocks, the mean length with its interval
        over images, the shortest interval with 95 % of the mass, and the negative mass.
    """
    trained = ensemble_view.gradients_by_length(net, scale.test, limit=images, untrained=True)
    assert trained.untrained is not None
    both = {True: trained, False: trained.untrained}
    return pd.DataFrame(
        [
            {"net": name, "trained": which} | projected_lengths(result)
            for which, result in both.items()
        ]
    )


def projected_lengths(result: GradientsByLength) -> dict[str, float]:
    """Return what the projected weights of a result come to.

    Args:
        result: With the projected weights.

    Returns:
        Blocks, mean length and its interval, by the mean over images and by the ratio of sums
        (`pooled`), effective lengths of the former, negative mass.
    """
    lengths = result.effective["projected"]
    mean_low, mean_high = result.projected_mean or (float("nan"),) * 2
    pooled_low, pooled_high = result.pooled_mean or (float("nan"),) * 2
    assert result.negative_mass is not None
    return {
        "blocks": result.blocks,
        "mean": lengths.mean,
        "mean_low": mean_low,
        "mean_high": mean_high,
        "pooled": result.effective["pooled"].mean,
        "pooled_low": pooled_low,
        "pooled_high": pooled_high,
        "low": lengths.low,
        "high": lengths.high,
        "share_of_paths": lengths.share_of_paths,
        "negative_mass": result.negative_mass,
        "images": result.examples,
    }


def checkpoints(
    scale: Scale, architectures: Iterable[str], epochs: Sequence[int], images: int
) -> pd.DataFrame:
    """Share the gradient out at checkpoints of training.

    Args:
        scale: Data, recipe and seeds.
        architectures: Of the nets.
        epochs: Epochs done at each checkpoint.
        images: How many test images.

    Returns:
        A row per net, seed and epoch, with what `projected_lengths` says.
    """
    rows = []
    for architecture in architectures:
        for seed in scale.seeds:
            for epoch, path in scale.nets_of_training(architecture, seed, epochs).items():
                result = ensemble_view.gradients_by_length(
                    ensemble_view.load_checkpoint(path), scale.test, limit=images
                )
                rows.append(
                    {"net": architecture, "seed": seed, "epoch": epoch} | projected_lengths(result)
                )
    return pd.DataFrame(rows)


def changes(by_epoch: pd.DataFrame) -> pd.DataFrame:
    """Compare the last checkpoint with the first.

    Args:
        by_epoch: A row per net, seed and epoch.

    Returns:
        A row per net and weighting (the mean over images, the ratio of sums): the mean length at
        the first and at the last checkpoint, and their difference, paired by seed, with its t
        interval.
    """
    rows = []
    for net, table in by_epoch.groupby("net", sort=False) if len(by_epoch) else ():
        for column in ("mean", "pooled"):
            means = table.pivot_table(index="seed", columns="epoch", values=column)
            first, last = means.iloc[:, 0], means.iloc[:, -1]
            difference, low, high = t_interval(last - first)
            rows.append(
                {
                    "net": net,
                    "by": WEIGHED_BY[column],
                    "blocks": table["blocks"].iloc[0],
                    "first": first.mean(),
                    "last": last.mean(),
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "seeds": len(means),
                }
            )
    return pd.DataFrame(rows)


def draw(by_epoch: pd.DataFrame) -> Figure:
    """Draw the mean length by epoch, a line per seed.

    Args:
        by_epoch: A row per net, seed and epoch.

    Returns:
        A panel per net.
    """
    nets = list(by_epoch["net"].unique())
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 2.4), layout="constrained")
        panels = figure.subplots(1, len(nets), sharey=True, squeeze=False)[0]
        for index, (axis, net) in enumerate(zip(panels, nets, strict=True)):
            table = by_epoch[by_epoch["net"] == net]
            places = {epoch: place for place, epoch in enumerate(sorted(table["epoch"].unique()))}
            for _, run_of_seed in table.groupby("seed"):
                axis.plot(
                    run_of_seed["epoch"].map(places), run_of_seed["mean"], color=f"C{index}",
                    lw=0.8, marker="o", ms=2.5, alpha=0.7,
                )  # fmt: skip
            axis.axhline(SHORT * table["blocks"].iloc[0], color="0.6", lw=0.6, ls=":")
            axis.set_xticks(range(len(places)), list(places))
            axis.set_xlabel("epochs of training")
            axis.set_title(net, fontsize=8)
            axis.set_ylim(bottom=0)
            axis.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("mean path length (blocks)")
    return figure


def verdict(row: Mapping[str, Any] | pd.Series[Any], column: str = "mean") -> str:
    """Say whether the gradient comes by short paths (claim C5).

    Args:
        row: What `projected_lengths` says of a net.
        column: "mean" or "pooled".

    Returns:
        "supported" if the mean length is at most a third of the blocks and the negative mass below
        5 %, "refuted" if it is at least 0.45 of them, else "inconclusive".
    """
    if row[f"{column}_low"] / row["blocks"] >= NOT_SHORT:
        return "refuted"
    short = row[f"{column}_high"] / row["blocks"] <= SHORT and row["negative_mass"] < NEGATIVE
    return "supported" if short else "inconclusive"


def direction(low: float, high: float) -> str:
    """Say whether training lengthens the paths that carry the gradient.

    Args:
        low: Lower end of the interval of the change of the mean length.
        high: Upper end.

    Returns:
        "longer", "shorter" or "cannot be told".
    """
    if low > 0:
        return "longer"
    return "shorter" if high < 0 else "cannot be told"


def summary(
    scale: Scale,
    found: Mapping[str, GradientsByLength],
    shares: pd.DataFrame,
    differences: pd.DataFrame,
    weighted: int,
    shared_out: int,
) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        found: Of each net all weightings.
        shares: A row per net, trained or not.
        differences: A row per net whose checkpoints were compared.
        weighted: Images for all weightings.
        shared_out: Images for the share of the gradient alone.

    Returns:
        The lines of summary.md.
    """
    lines = [
        "# Path lengths",
        "",
        f"{made_by(command_of(__file__, scale), scale.device)} {scale.words}",
        "",
        f"Share of the gradient by length (projected), exact for each of {shared_out} test images; "
        "mean length with its 95 % interval over the images, by the mean over images of each "
        "image's share and by the ratio of sums, in which an image counts by its squared gradient. "
        "C5, the gradient comes by short "
        "paths: supported if the interval of the mean lies below a third of the blocks and the "
        "negative mass below 5 %, refuted if above 0.45 of them.",
        "",
        *markdown_table(
            (
                *("net", "trained", "blocks", "mean of ratios", "95 %", "of all paths"),
                *("negative", "C5", "ratio of sums", "C5"),
            ),
            [
                (
                    row["net"],
                    "yes" if row["trained"] else "no",
                    row["blocks"],
                    f"{row['mean']:.1f} [{row['mean_low']:.1f}, {row['mean_high']:.1f}]",
                    f"{row['low']}–{row['high']}",
                    f"{row['share_of_paths']:.3%}",
                    f"{row['negative_mass']:.1%}",
                    verdict(row) if row["trained"] else "",
                    f"{row['pooled']:.1f} [{row['pooled_low']:.1f}, {row['pooled_high']:.1f}]",
                    verdict(row, "pooled") if row["trained"] else "",
                )
                for _, row in shares.iterrows()
            ],
        ),
        "",
        f"All weightings on {weighted} images (energy of {HOW['groups']} groups of "
        f"{HOW['vectors']} vectors; {HOW['samples']} paths per length): mean length, and the "
        "smallest interval with 95 % of the weight.",
        "",
        *markdown_table(
            ("net", "trained", *NAMES.values(), "energy reliable at"),
            [
                row
                for name, result in found.items()
                for row in _weightings(name, result, trained="yes")
                + (_weightings(name, result.untrained, trained="no") if result.untrained else [])
            ],
        ),
    ]
    if len(differences):
        lines += [
            "",
            f"Mean length by share of the gradient on {shared_out} images, before the first and "
            "after the last epoch, means over the seeds; difference paired by seed:",
            "",
            *markdown_table(
                ("net", "by", "blocks", "untrained", "trained", "difference", "in training"),
                [
                    (
                        row["net"],
                        row["by"],
                        row["blocks"],
                        f"{row['first']:.1f}",
                        f"{row['last']:.1f}",
                        f"{row['difference']:.1f} [{row['low']:.1f}, {row['high']:.1f}]",
                        direction(row["low"], row["high"]),
                    )
                    for _, row in differences.iterrows()
                ],
            ),
            "",
            "![Mean length by epoch](checkpoints.png)",
        ]
    for name, result in found.items():
        lines += [
            *("", f"## {name}", "", result.summary, ""),
            f"![Weightings]({name}-weightings.png)",
            f"![Numbers of paths]({name}-paths.png)",
        ]
    return lines


def _weightings(name: str, result: GradientsByLength, trained: str) -> list[tuple[str, ...]]:
    """The row of one net: each weighting's mean and effective lengths."""
    spans = (result.effective[weighting] for weighting in NAMES)
    reliable = sum(bool(row.energy_reliable) for row in result.rows)
    return [
        (
            name,
            trained,
            *(f"{span.mean:.1f} ({span.low}–{span.high})" for span in spans),
            f"{reliable} of {len(result.rows)} lengths",
        )
    ]


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(
        target,
        chosen,
        nets=NETS[chosen.name],
        in_training=IN_TRAINING[chosen.name],
        epochs=EPOCHS.get(chosen.name, ()),
    )
    print((target / "summary.md").read_text())
