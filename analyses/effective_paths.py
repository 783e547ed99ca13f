"""Do short paths suffice for training? Claim C7.

Veit et al. 2016 (arXiv 1605.06431), section 5: a net that in every training batch keeps only a
random 23 of its 54 blocks, so that it has no path longer than those that carry gradient in the full
net, ends with 5.96 % test error, the net that is trained in full with 6.10 %. Here such nets are
held against the same net trained in full and against a shallower one of about as many blocks that
was trained alone. The claim is supported if keeping some blocks costs at most half a point: the
upper one-sided 95 % bound of Welch's test over the seeds is at most 0.5 points; refuted if the
lower one is above; inconclusive between. At test time the net that was trained with some of its
blocks is run with all and with a random few of them. Because its branches counted otherwise while
BatchNorm's statistics were gathered, the nets are compared once more with statistics estimated
anew, branches counting what they count in evaluation.

    python analyses/effective_paths.py [--scale digits]

writes ``analyses/effective_paths/``: ``errors.csv`` (by net and seed), ``comparisons.csv``,
``kept_at_test.csv`` (by seed and number of blocks kept at test time), the figure and
``summary.md``. Five minutes on one CPU core once the nets are trained.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from differences import Difference, direction
from keep_sets import blocks_of, drawn, probabilities, weighed
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from reporting import in_points, made_by, markdown_table, t_interval, write
from scipy import stats
from torch import nn
from trained_nets import Scale, chosen_scale, command_of, error, folder_of, scale_options

from ensemble_view import LabelledData
from ensemble_view.figures.style import FULL_WIDTH, paper_style
from ensemble_view.nets.models.architecture import Architecture
from ensemble_view.statistics.paired import holm
from ensemble_view.training.regimes import EffectivePaths, regime_of

CLAIM = "C7"
MARGIN = 0.005
"""By how much the error may be larger and still count as not inferior; half a point."""
DRAWS = 20
"""Keep-sets per net and number of blocks kept."""
STEPS = 9
"""Numbers of blocks kept at test time, in even steps up to all."""
ESTIMATION_BATCH = 250
AS_IN_TRAINING = "some, as in training"
WEIGHED = "some, weighed"
FULL = "full"
TEST, ESTIMATED_ANEW = "error", "estimated_anew"


@dataclass(frozen=True)
class Nets:
    """The architectures that are compared.

    Args:
        some: Trained with a random few of its blocks in each batch.
        full: The same net, trained with all.
        alone: A shallower net with about as many blocks as `some` had in each batch.
    """

    some: str
    full: str
    alone: str

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """What is compared with what, the claim's own comparison first."""
        return (self.some, self.full), (self.some, self.alone), (self.alone, self.full)

    @property
    def kept(self) -> int:
        """How many blocks were there in each training batch of `some`."""
        regime = regime_of(Architecture.parse(self.some))
        assert isinstance(regime, EffectivePaths)
        return regime.kept


NETS = {
    "digits": Nets("resnet56,kept=12", "resnet56", "resnet26"),
    # Three stages have 3n blocks: of these 24 are the nearest to 23, and 3 to 4.
    "cifar10": Nets("resnet110,kept=23", "resnet110", "resnet50"),
    "cifar10-fast": Nets("resnet20,kept=4", "resnet20", "resnet8"),
}


@dataclass(frozen=True)
class Welch:
    """How much larger the error of one net is than another's, by Welch's test over the seeds.

    Args:
        value: Difference of the means.
        low: Lower end of the two-sided 95 % interval; nan of one seed.
        high: Upper end.
        lower: Lower one-sided 95 % bound.
        upper: Upper one-sided 95 % bound.
        p_inferior: Of the hypothesis that the difference is `MARGIN` or more, against less.
        p_value: Of the hypothesis that there is none, two-sided.
    """

    value: float
    low: float
    high: float
    lower: float
    upper: float
    p_inferior: float
    p_value: float


def run(folder: Path, scale: Scale, nets: Nets) -> pd.DataFrame:
    """Compare the nets, run them with few blocks, and write tables, figure and summary.

    Args:
        folder: Where to write.
        scale: Data, recipe and seeds.
        nets: Their architectures.

    Returns:
        A row per net trained with some blocks or with all, way to weigh, number of blocks kept and
        seed.
    """
    errors = pd.DataFrame(
        [
            {"net": net, "seed": seed, **errors_of(scale, net, seed)}
            for net in (nets.full, nets.some, nets.alone)
            for seed in scale.seeds
        ]
    )
    compared = pd.concat(
        [comparisons(errors, nets.pairs, measure) for measure in (TEST, ESTIMATED_ANEW)],
        ignore_index=True,
    )
    kept = pd.concat([kept_at_test(scale, nets, seed) for seed in scale.seeds], ignore_index=True)
    write(
        folder,
        {"errors": errors, "comparisons": compared, "kept_at_test": kept},
        {"effective_paths": draw(errors, kept, nets)},
        summary(scale, nets, errors, compared, kept),
    )
    return kept


def errors_of(scale: Scale, net: str, seed: int) -> dict[str, float]:
    """Return the errors of a net.

    Args:
        scale: Data and recipe.
        net: Its architecture.
        seed: Of its training.

    Returns:
        Its test error; that with BatchNorm's statistics estimated anew; and the error in the last
        epoch of training, with branches left out if they were.
    """
    made = scale.net(net, seed)
    anew = estimated_anew(made.model.to(scale.device), scale.train)
    answers = probabilities(anew, scale.test)[0]
    return {
        TEST: error(made),
        ESTIMATED_ANEW: float((answers.argmax(axis=1) != scale.test.labels).mean()),
        "last_epoch": 1 - float((made.training or {})["history"][-1]["accuracy"]),
    }


def estimated_anew(model: nn.Module, data: LabelledData) -> nn.Module:
    """Return a copy of a net whose BatchNorm statistics are those of evaluation.

    Args:
        model: The net, in evaluation: its branches count what they count there.
        data: The images to estimate from, unshifted.

    Returns:
        The copy, with means over the batches of their means and variances.
    """
    copied = copy.deepcopy(model)
    device = next(copied.parameters()).device
    norms = [module for module in copied.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for inputs, _ in data.batches(ESTIMATION_BATCH):
            copied(inputs.to(device))
    return copied.eval()


def welch(first: Sequence[float], second: Sequence[float]) -> Welch:
    """Compare errors of two nets, one per seed.

    Args:
        first: Of the net whose error may be larger.
        second: Of the one it is held against.

    Returns:
        Difference, bounds and p-values.
    """
    one, other = (np.asarray(errors, dtype=np.float64) for errors in (first, second))
    value = float(one.mean() - other.mean())
    if min(len(one), len(other)) < 2:
        return Welch(value, *[np.nan] * 6)
    both = stats.ttest_ind(one, other, equal_var=False)
    above = stats.ttest_ind(one, other, equal_var=False, alternative="greater")
    below = stats.ttest_ind(one - MARGIN, other, equal_var=False, alternative="less")
    interval = both.confidence_interval(0.95)
    return Welch(
        value=value,
        low=float(interval.low),
        high=float(interval.high),
        lower=float(above.confidence_interval(0.95).low),
        upper=float(below.confidence_interval(0.95).high) + MARGIN,
        p_inferior=float(below.pvalue),
        p_value=float(both.pvalue),
    )


def comparisons(
    errors: pd.DataFrame, pairs: Sequence[tuple[str, str]], measure: str
) -> pd.DataFrame:
    """Compare pairs of nets.

    Args:
        errors: A row per net and seed.
        pairs: First and second net.
        measure: Which error.

    Returns:
        A row per pair, with the p-value of any difference also by Holm over the pairs, and in
        words whether the first is not inferior, and whether it is better or worse.
    """
    by_net = errors.groupby("net")[measure].apply(list)
    found = [welch(by_net[one], by_net[other]) for one, other in pairs]
    table = pd.DataFrame([asdict(difference) for difference in found])
    table.insert(0, "measure", measure)
    table.insert(1, "first", [one for one, _ in pairs])
    table.insert(2, "second", [other for _, other in pairs])
    table["p_holm"] = holm(table["p_value"].to_numpy())
    table["not_inferior"] = [not_inferior(each.lower, each.upper) for each in found]
    table["direction"] = [
        direction(each.value, p) for each, p in zip(found, table["p_holm"], strict=True)
    ]
    return table


def not_inferior(lower: float, upper: float) -> str:
    """Say whether an error is larger by at most the margin.

    Args:
        lower: One-sided 95 % bound of the difference.
        upper: Likewise.

    Returns:
        "yes", "no" or "cannot be told".
    """
    if upper <= MARGIN:
        return "yes"
    return "no" if lower > MARGIN else "cannot be told"


def kept_at_test(scale: Scale, nets: Nets, seed: int) -> pd.DataFrame:
    """Measure nets of one seed with a random few of their blocks.

    Args:
        scale: Data and recipe.
        nets: Their architectures.
        seed: Of their training, and of the keep-sets.

    Returns:
        A row per net and way to weigh its branches, and number of blocks kept, with the mean error
        over the keep-sets.
    """
    some, full = (scale.net(net, seed).model.to(scale.device) for net in (nets.some, nets.full))
    blocks = len(blocks_of(some))
    numbers = sorted({round(blocks * step / STEPS) for step in range(STEPS + 1)} | {nets.kept})
    generator = torch.Generator().manual_seed(seed)
    keep_sets = [
        keep_set
        for number in numbers
        for keep_set in drawn(EffectivePaths(number), some, DRAWS, generator)
    ]
    ways = {AS_IN_TRAINING: weighed(some, [1.0] * blocks), WEIGHED: some, FULL: full}
    rows = []
    for way, model in ways.items():
        answers = probabilities(model, scale.test, keep_sets)[1:]
        wrong = (answers.argmax(axis=2) != scale.test.labels).mean(axis=1)
        by_number = wrong.reshape(len(numbers), DRAWS).mean(axis=1)
        rows += [(way, number, seed, e) for number, e in zip(numbers, by_number, strict=True)]
    return pd.DataFrame(rows, columns=["net", "kept", "seed", "error"])


def draw(errors: pd.DataFrame, kept: pd.DataFrame, nets: Nets) -> Figure:
    """Draw the errors of the nets, and the error by the number of blocks kept at test time.

    Args:
        errors: A row per net and seed.
        kept: A row per net, number of blocks kept and seed.
        nets: The architectures.

    Returns:
        Two panels.
    """
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 2.5), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(2, 3))
        _draw_errors(left, errors)
        _draw_kept(right, kept, nets)
        for axis in (left, right):
            axis.yaxis.set_major_formatter(PercentFormatter(1))
            axis.set_ylabel("test error")
            axis.set_ylim(bottom=0)
            axis.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_errors(axis: Axes, errors: pd.DataFrame) -> None:
    names = list(errors["net"].unique())
    for place, name in enumerate(names):
        runs = errors[errors["net"] == name]
        mean, low, high = t_interval(runs["error"])
        axis.plot([place] * len(runs), runs["error"], "o", color="C0", ms=3, alpha=0.4, mew=0)
        axis.errorbar(place + 0.2, mean, [[mean - low], [high - mean]], fmt="o", color="C0", ms=3)
    axis.set_xticks(range(len(names)), [name.replace(",", "\n") for name in names])
    axis.set_xlim(-0.5, len(names) - 0.3)


def _draw_kept(axis: Axes, kept: pd.DataFrame, nets: Nets) -> None:
    labels = {
        AS_IN_TRAINING: f"{nets.some}, branches as in training",
        WEIGHED: f"{nets.some}, branches weighed",
        FULL: nets.full,
    }
    for index, (way, label) in enumerate(labels.items()):
        rows = kept[kept["net"] == way]
        at = rows["kept"].unique()
        found = np.array([t_interval(rows[rows["kept"] == number]["error"]) for number in at])
        axis.plot(at, found[:, 0], color=f"C{index}", marker="o", ms=2.5, lw=1, label=label)
        axis.fill_between(
            at, found[:, 1].clip(0), found[:, 2].clip(max=1), color=f"C{index}", alpha=0.15, lw=0
        )
    axis.axvline(nets.kept, color="0.45", lw=0.6, ls=":")
    axis.set_xlabel("blocks kept at test time")
    axis.legend(frameon=False, fontsize=6, loc="lower center", bbox_to_anchor=(0.5, 1))


def summary(
    scale: Scale, nets: Nets, errors: pd.DataFrame, compared: pd.DataFrame, kept: pd.DataFrame
) -> list[str]:
    """Say what was found.

    Args:
        scale: Data, recipe and seeds.
        nets: The architectures.
        errors: A row per net and seed.
        compared: A row per pair of nets.
        kept: A row per net, number of blocks kept and seed.

    Returns:
        The lines of summary.md.
    """
    blocks = kept["kept"].max()
    in_words = {"yes": "supported", "no": "refuted", "cannot be told": "inconclusive"}
    by_measure = compared.drop_duplicates("measure").set_index("measure")["not_inferior"]
    points = 100 * MARGIN
    return [
        "# Training with some of the blocks in each batch",
        "",
        f"{made_by(command_of(__file__, scale), scale.device)} {scale.words} Errors in "
        "per cent, differences in points; brackets: 95 % intervals over the seeds, t or Welch's.",
        "",
        *markdown_table(
            ("net", "test error", "with statistics estimated anew", "in the last epoch"),
            [
                (
                    net,
                    *(
                        in_points(t_interval(runs[measure]))
                        for measure in (TEST, ESTIMATED_ANEW, "last_epoch")
                    ),
                )
                for net, runs in errors.groupby("net", sort=False)
            ],
        ),
        "",
        "Statistics: of BatchNorm, estimated anew from the training images with branches counting "
        "what they count in evaluation. In the last epoch: on shifted training images, with "
        "branches left out if they were; where it is large, training has not come to its end.",
        "",
        f"Not inferior: the upper one-sided bound is at most {points:g} points (Welch). The last "
        "column follows from the two-sided p-value, by Holm over the pairs.",
        "",
        *markdown_table(
            ("first", "second", "difference", "one-sided bounds", "p of inferiority",
             "first not inferior?", "the first is"),
            [
                (
                    row["first"],
                    row["second"],
                    in_points((row["value"], row["low"], row["high"])),
                    f"{100 * row['lower']:.2f}, {100 * row['upper']:.2f}",
                    f"{row['p_inferior']:.3g}",
                    row["not_inferior"],
                    row["direction"],
                )
                for _, row in compared[compared["measure"] == TEST].iterrows()
            ],
        ),
        "",
        f"{CLAIM} (training with {nets.kept} of {blocks} blocks per batch is not inferior by "
        f"{points:g} points to training with all) is {in_words[by_measure[TEST]]}; "
        f"with statistics estimated anew it is {in_words[by_measure[ESTIMATED_ANEW]]}.",
        "",
        f"Error at test time, mean over {DRAWS} random keep-sets of each net, with the branches of "
        f"{nets.some} counting 1, as in training, or {nets.kept}/{blocks}, as in evaluation:",
        "",
        *kept_table(kept),
        "",
        few_against_all(kept, nets),
        "",
        "![Errors of the nets, and by the number of blocks kept](effective_paths.png)",
    ]  # fmt: skip


def kept_table(kept: pd.DataFrame) -> list[str]:
    """Return the errors by number of blocks kept.

    Args:
        kept: A row per net, number of blocks kept and seed.

    Returns:
        The lines of a table in Markdown.
    """
    ways = (AS_IN_TRAINING, WEIGHED, FULL)
    return markdown_table(
        ("blocks kept", *ways),
        [
            (
                number,
                *[in_points(t_interval(rows[rows["net"] == way]["error"])) for way in ways],
            )
            for number, rows in kept.groupby("kept")
        ],
    )


def few_against_all(kept: pd.DataFrame, nets: Nets) -> str:
    """Say whether as many blocks as in training are worse than all of them.

    Args:
        kept: A row per net, number of blocks kept and seed.
        nets: The architectures.

    Returns:
        A sentence.
    """
    by_seed = kept.set_index(["net", "kept", "seed"])["error"].sort_index()
    few, every = by_seed[AS_IN_TRAINING, nets.kept], by_seed[WEIGHED, kept["kept"].max()]
    found = Difference.over_seeds(few - every)
    said = {
        "worse": "worse than",
        "better": "better than",
        "cannot be told": "not to be told from",
    }[direction(found.value, found.p_value)]
    return (
        f"A random {nets.kept} blocks, as they were trained, are {said} all blocks, weighed: "
        f"{in_points((found.value, found.low, found.high))} points of error, paired by seed."
    )


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, NETS[chosen.name])
    print((target / "summary.md").read_text())
