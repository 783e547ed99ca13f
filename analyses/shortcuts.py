"""Are projections on the shortcut worth what they cost, and do they double a bottleneck net?

He et al. 2015 (arXiv 1512.03385), section 4.1. Table 3 compares zero padding where the shape
changes (option A), a 1x1 projection there (B), and projections in every block (C): each a little
better than the one before on ImageNet. On bottlenecks: were the identity replaced with a
projection, time complexity and model size would be doubled. Here nets are trained alike but for the
seed; parameters and multiply-adds are counted, and CPU time is taken in turns. Multiply-adds are
half of what `torch.utils.flop_counter` counts: those of convolutions and linear layers. A
ResNet-50 for ImageNet, and one block of it, are counted without weights.

    python analyses/shortcuts.py [--scale digits]

writes ``analyses/shortcuts/``: ``seeds.csv`` (errors of every net), ``nets.csv``,
``differences.csv``, ``costs.csv``, ``times.csv`` (every round), ``doubling.csv``, the figure and
``summary.md``. A minute on one CPU core once the nets are trained.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from compared_nets import (
    Compared,
    Groups,
    by_net,
    comparison_table,
    difference_of,
    differences,
    dots,
    errors_of,
    opening,
    probability,
)
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from net_costs import Cost, cost, median_interval, times_of
from reporting import in_points, markdown_table, times_as_much, write
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, resnet50
from trained_nets import Scale, chosen_scale, folder_of, scale_options

from ensemble_view.figures.style import FULL_WIDTH, paper_style

DEPTHS = {"digits": (32, 29), "cifar10": (110, 110), "cifar10-fast": (20, 20)}
"""Of nets with two-layer branches, 6n + 2, and of those with bottlenecks, 9n + 2."""
OPTIONS, BOTTLENECKS = "Options", "Bottlenecks"
BATCH = 64
ROUNDS = 31
DOUBLED = (1.8, 2.2)
"""What counts as twice as much."""


@dataclass(frozen=True)
class Ratio:
    """How many times as much as before something costs with a projection in every bottleneck.

    Args:
        of: What.
        parameters: Ratio of parameters.
        multiply_adds: Ratio of multiply-adds.
        time: Median of the rounds' ratios of CPU time; nan if not measured.
        time_low: Lower end of its interval.
        time_high: Upper end.
    """

    of: str
    parameters: float
    multiply_adds: float
    time: float = np.nan
    time_low: float = np.nan
    time_high: float = np.nan


def nets(depth: int, bottleneck_depth: int) -> dict[str, tuple[Compared, ...]]:
    """Return the nets that are compared.

    Args:
        depth: Of the nets with two-layer branches.
        bottleneck_depth: Of the nets with bottlenecks.

    Returns:
        By question, with the errors of the paper's 34-layer nets on ImageNet.
    """
    net, bottleneck = f"resnet{depth}", f"resnet{bottleneck_depth},layers=3"
    return {
        OPTIONS: (
            Compared("A", net, 25.03),
            Compared("B", f"{net},shortcut=B", 24.52),
            Compared("C", f"{net},shortcut=C", 24.19),
            Compared("plain", f"plain{depth}", 28.54),
        ),
        BOTTLENECKS: (
            Compared("identity", f"{bottleneck},shortcut=B"),
            Compared("projection", f"{bottleneck},shortcut=C"),
        ),
    }


def run(
    folder: Path, scale: Scale, *, groups: Groups, batch: int = BATCH, rounds: int = ROUNDS
) -> pd.DataFrame:
    """Compare the nets of all seeds and write tables, figure and summary.

    Args:
        folder: Where to write.
        scale: Data, recipe and seeds.
        groups: As `nets` gave them.
        batch: Images of a forward pass that is timed.
        rounds: How often each is timed.

    Returns:
        A row per group, net and seed.
    """
    errors = errors_of(scale, groups)
    means, found = by_net(errors), differences(errors)
    models = {
        one.net: scale.net(one.net, scale.seeds[0]).model
        for group in groups.values()
        for one in group
    }
    images = next(iter(scale.test.batches(batch)))[0]
    times = times_of(models, images, rounds)
    counted = {name: cost(model, images[:1]) for name, model in models.items()}
    costs = costs_table(groups, counted, times)
    ratios = doubling(groups[BOTTLENECKS], counted, times)
    write(
        folder,
        {
            "seeds": errors,
            "nets": means,
            "differences": found,
            "costs": costs,
            "times": times,
            "doubling": pd.DataFrame(ratios),
        },
        {"shortcuts": draw(errors, ratios)},
        summary(scale, groups, means, found, costs, ratios, images),
    )
    return errors


def costs_table(groups: Groups, counted: Mapping[str, Cost], times: pd.DataFrame) -> pd.DataFrame:
    """Put together what the nets cost.

    Args:
        groups: The nets.
        counted: Parameters and multiply-adds by architecture.
        times: As `times_of` gave them.

    Returns:
        A row per group and net: parameters, multiply-adds, median of the CPU seconds, and the
        median ratio of those to the group's first with its interval.
    """
    rows = []
    for title, group in groups.items():
        for one in group:
            found = counted[one.net]
            rows.append(
                (
                    title,
                    one.name,
                    found.parameters,
                    found.multiply_adds,
                    times[one.net].median(),
                    *median_interval(times[one.net] / times[group[0].net]),
                )
            )
    return pd.DataFrame(
        rows,
        columns=[
            "group", "name", "parameters", "multiply_adds", "seconds", "time_ratio", "low", "high"
        ],
    )  # fmt: skip


def doubling(
    bottlenecks: Sequence[Compared], counted: Mapping[str, Cost], times: pd.DataFrame
) -> list[Ratio]:
    """Hold nets with projections in all bottlenecks against those with identities.

    Args:
        bottlenecks: The trained net with identities, and that with projections.
        counted: Parameters and multiply-adds by architecture.
        times: As `times_of` gave them.

    Returns:
        The ratios of one block, of the trained nets and of a ResNet-50.
    """
    identity, projection = (one.net for one in bottlenecks)
    image = torch.zeros(1, 3, 224, 224, device="meta")
    within = torch.zeros(1, 256, 56, 56, device="meta")
    large = [imagenet_net(projections=projections) for projections in (False, True)]
    blocks = [net.get_submodule("layer1.1") for net in large]
    return [
        ratio("one block of 256 channels", cost(blocks[0], within), cost(blocks[1], within)),
        ratio(
            f"{identity.partition(',')[0]} with bottlenecks",
            counted[identity],
            counted[projection],
            median_interval(times[projection] / times[identity]),
        ),
        ratio("ResNet-50 for ImageNet", cost(large[0], image), cost(large[1], image)),
    ]


def ratio(
    of: str,
    before: Cost,
    after: Cost,
    time: tuple[float, float, float] = (np.nan, np.nan, np.nan),
) -> Ratio:
    """Divide what was counted.

    Args:
        of: What it is.
        before: With identities.
        after: With projections.
        time: Ratio of CPU times, with its interval.

    Returns:
        The ratios.
    """
    parameters = after.parameters / before.parameters
    return Ratio(of, parameters, after.multiply_adds / before.multiply_adds, *time)


def imagenet_net(*, projections: bool) -> nn.Module:
    """Build torchvision's ResNet-50 without storage for weights.

    Args:
        projections: Whether every identity is replaced with a 1x1 convolution and BatchNorm, as
            where the shape changes.

    Returns:
        The net, in evaluation mode.
    """
    with torch.device("meta"):
        net: nn.Module = resnet50()
        for block in net.modules():
            if projections and isinstance(block, Bottleneck) and block.downsample is None:
                channels = block.conv3.out_channels
                projection = nn.Conv2d(channels, channels, 1, bias=False)
                block.downsample = nn.Sequential(projection, nn.BatchNorm2d(channels))
    return net.eval()


def doubled(value: float, low: float, high: float) -> str:
    """Say whether a cost doubles.

    Args:
        value: How many times as much it is.
        low: Lower end of its interval; nan where the value is exact.
        high: Upper end.

    Returns:
        "yes", "no, less", "no, more" or "cannot be told".
    """
    low, high = (value, value) if np.isnan(low) else (low, high)
    if DOUBLED[0] <= low and high <= DOUBLED[1]:
        return "yes"
    if high < DOUBLED[0]:
        return "no, less"
    return "no, more" if low > DOUBLED[1] else "cannot be told"


def draw(errors: pd.DataFrame, ratios: Sequence[Ratio]) -> Figure:
    """Draw test errors, and how many times as much projections in bottlenecks cost.

    Args:
        errors: A row per group, net and seed.
        ratios: Of one block and of nets.

    Returns:
        Three panels.
    """
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 2.2), layout="constrained")
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1.1, 1))
        for axis, title in ((left, OPTIONS), (middle, BOTTLENECKS)):
            dots(axis, errors[errors["group"] == title])
            axis.set_title(title, fontsize=8)
        _ratios(right, ratios)
    return figure


def _ratios(axis: Axes, ratios: Sequence[Ratio]) -> None:
    places = np.arange(len(ratios))
    for index, (values, words) in enumerate(
        (
            ([one.parameters for one in ratios], "parameters"),
            ([one.multiply_adds for one in ratios], "multiply-adds"),
            ([one.time for one in ratios], "CPU time"),
        )
    ):
        at = places + (index - 1) * 0.2
        axis.plot(values, at, "osD"[index], ms=4, color=f"C{index}", label=words)
    for place, one in enumerate(ratios):
        axis.plot([one.time_low, one.time_high], [place + 0.2] * 2, color="C2", lw=1)
    for times in (1, 2):
        axis.axvline(times, color="0.45", lw=0.8, ls=":")
    axis.set_yticks(places, [textwrap.fill(one.of, 14) for one in ratios])
    axis.set_ylim(len(ratios) - 0.5, -0.5)
    axis.set_xlabel("projections / identities")
    axis.set_title("Costs of bottlenecks", fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=6, loc="upper left")


def summary(
    scale: Scale,
    groups: Groups,
    means: pd.DataFrame,
    found: pd.DataFrame,
    costs: pd.DataFrame,
    ratios: Sequence[Ratio],
    images: Tensor,
) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        groups: The nets that were compared.
        means: A row per group and net.
        found: The differences.
        costs: A row per group and net.
        ratios: Of one block and of nets.
        images: The batch that was timed.

    Returns:
        The lines of summary.md.
    """
    pixels = "×".join(map(str, images.shape[2:]))
    lines = [
        "# Shortcuts: options A, B, C, and projections in bottlenecks",
        "",
        opening("shortcuts", scale),
        "",
        "*paper*: top-1 error of 34-layer nets on ImageNet. *same sign?*: whether the difference "
        "to the first row has the paper's sign.",
    ]
    for title, group in groups.items():
        lines += ["", f"## {title}", "", *comparison_table(group, title, means, found)]
        lines += ["", *training_words(group, title, found)]
        lines += ["", *costs_lines(costs[costs["group"] == title])]
    return [
        *lines,
        "",
        f"Multiply-adds (millions) are of one image of {pixels} pixels, in convolutions and linear "
        f"layers. CPU time: milliseconds of a forward pass of {len(images)} images on one thread, "
        "median of the rounds, in turns; its ratio to the first row's, median and 95 % interval "
        "from ranks.",
        "",
        "## Do projections double bottlenecks?",
        "",
        "Every identity replaced with a projection, in ratios to the net with identities; doubled "
        f"means {DOUBLED[0]} to {DOUBLED[1]} times. The first row is what the paper speaks of; in "
        "a net the blocks that change the shape have projections either way.",
        "",
        *markdown_table(
            ("of", "parameters", "doubled?", "multiply-adds", "doubled?", "CPU time", "doubled?"),
            [_doubling_cells(one) for one in ratios],
        ),
        "",
        "![Test errors (a dot per seed, mean and 95 % interval) and costs](shortcuts.png)",
    ]


def training_words(group: Sequence[Compared], title: str, found: pd.DataFrame) -> list[str]:
    """Say how training errors differ from the first's.

    Args:
        group: The nets.
        title: The group's title.
        found: The differences.

    Returns:
        One sentence.
    """
    said = []
    for one in group[1:]:
        row = difference_of(found, title, one.name, "training_error")
        points = in_points((row["difference"], row["low"], row["high"]))
        said.append(f"{one.name} {points}, p (Holm) {probability(row['holm'])}")
    return [f"Training error less that of {group[0].name}: {'; '.join(said)}."]


def costs_lines(costs: pd.DataFrame) -> list[str]:
    """Return the Markdown table of costs.

    Args:
        costs: Rows of one group.

    Returns:
        Its lines.
    """
    return markdown_table(
        ("net", "parameters", "multiply-adds", "CPU time", "ratio"),
        [
            (
                row["name"],
                f"{row['parameters']:,}",
                f"{row['multiply_adds'] / 1e6:.3f}",
                f"{1000 * row['seconds']:.1f}",
                "—" if place == 0 else times_as_much(row["time_ratio"], row["low"], row["high"]),
            )
            for place, (_, row) in enumerate(costs.iterrows())
        ],
    )


def _doubling_cells(one: Ratio) -> list[str]:
    cells = [one.of]
    for exact in (one.parameters, one.multiply_adds):
        cells += [f"{exact:.2f}", doubled(exact, np.nan, np.nan)]
    if np.isnan(one.time):
        return [*cells, "—", "—"]
    interval = one.time, one.time_low, one.time_high
    return [*cells, times_as_much(*interval), doubled(*interval)]


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, groups=nets(*DEPTHS[chosen.name]))
    print((target / "summary.md").read_text())
