"""What analyses share that compare nets trained alike: errors, paired differences, words, dots.

Nets are compared in groups. The first of a group is what the others are held against: each seed
gives a difference, and over the seeds a t interval and Student's paired t test of zero, adjusted
by Holm within the group. Beside the difference stands the ratio, as the geometric mean over the
seeds: it says more where one net errs many times as often. Names of nets are unique within a group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pandas as pd
from differences import SIGNIFICANT, Difference, direction
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter
from reporting import in_points, made_by, markdown_table, t_interval, times_as_much
from trained_nets import Scale, command_of, error, training_error

from ensemble_view.data.labelled_data import IndexedData
from ensemble_view.figures.style import FULL_WIDTH, paper_style
from ensemble_view.statistics.paired import holm
from ensemble_view.training.recipe import TrainingError

MEASURES = ("test_error", "training_error")
FAILED = 0.2
"""Test error above which a training has failed, as He et al. 2016 (arXiv 1603.05027) call it."""
LINEAR = 0.02
"""Test error up to which figures have a linear scale; some nets err fifty times as often."""


@dataclass(frozen=True)
class Compared:
    """A net among others.

    Args:
        name: What tables and figures call it.
        net: Its architecture.
        published: The paper's test error in per cent; infinite where training failed, None where
            the paper has no number.
    """

    name: str
    net: str
    published: float | None = None

    @property
    def words(self) -> str:
        """The paper's error, for a table."""
        if self.published is None:
            return "—"
        return "fails" if math.isinf(self.published) else f"{self.published:.2f}"


Groups = Mapping[str, Sequence[Compared]]
"""By title; the first of each is what the others are held against."""


def errors_of(scale: Scale, groups: Groups) -> pd.DataFrame:
    """Return the errors of all nets of all seeds, training what is missing.

    Args:
        scale: Data, recipe and seeds.
        groups: The nets.

    Returns:
        A row per group, net and seed: group, name, net, seed and the `MEASURES`.
    """
    rows = []
    for title, group in groups.items():
        for one in group:
            for seed in scale.seeds:
                try:
                    made = scale.net(one.net, seed)
                except TrainingError:
                    errors = guess_error(scale.test), guess_error(scale.train)
                else:
                    errors = error(made), training_error(scale, made)
                rows.append((title, one.name, one.net, seed, *errors))
    return pd.DataFrame(rows, columns=["group", "name", "net", "seed", *MEASURES])


def guess_error(data: IndexedData) -> float:
    """Return the error of the best constant guess, which a training that diverges counts with.

    Args:
        data: Images with labels.

    Returns:
        The share of all classes but the largest.
    """
    return 1 - float(np.bincount(data.labels).max()) / len(data)


def by_net(errors: pd.DataFrame) -> pd.DataFrame:
    """Return mean and t interval of each net's errors.

    Args:
        errors: A row per group, net and seed.

    Returns:
        A row per group and net: each measure with its ends ``_low`` and ``_high``, and how many
        seeds' test errors are above `FAILED`.
    """
    rows = []
    for (group, name, net), runs in errors.groupby(["group", "name", "net"], sort=False):
        row: dict[str, object] = {"group": group, "name": name, "net": net, "seeds": len(runs)}
        for measure in MEASURES:
            row[measure], row[f"{measure}_low"], row[f"{measure}_high"] = t_interval(runs[measure])
        row["failed"] = int((runs["test_error"] > FAILED).sum())
        rows.append(row)
    return pd.DataFrame(rows)


def differences(errors: pd.DataFrame) -> pd.DataFrame:
    """Hold the nets of each group against its first, paired by seed.

    Args:
        errors: A row per group, net and seed.

    Returns:
        A row per measure, group and net but the first: its error less the first's, with t interval
        and p-value, the p-value adjusted by Holm over the group's rows of this measure, and the
        ratio of the errors with its interval.
    """
    tables = []
    for measure in MEASURES:
        for group, runs in errors.groupby("group", sort=False):
            by_seed = runs.pivot(index="seed", columns="name", values=measure)
            first, *others = runs["name"].unique()
            rows = []
            for name in others:
                less = Difference.over_seeds(by_seed[name] - by_seed[first])
                found = *astuple(less), *ratio(by_seed[name], by_seed[first])
                rows.append((measure, group, name, first, *found))
            table = pd.DataFrame(
                rows,
                columns=[
                    "measure", "group", "name", "against", "difference", "low", "high", "p_value",
                    "ratio", "ratio_low", "ratio_high",
                ],
            )  # fmt: skip
            tables.append(table.assign(holm=holm(table["p_value"].to_numpy(dtype=float))))
    return pd.concat(tables, ignore_index=True)


def ratio(errors: pd.Series[float], first: pd.Series[float]) -> tuple[float, float, float]:
    """Return the geometric mean of ratios of errors.

    Args:
        errors: Of a net, one per seed.
        first: Of the net it is held against.

    Returns:
        The mean, and the t interval of the logarithms; nan where a net makes no error.

    Example:
        >>> [round(number, 2) for number in ratio(pd.Series([0.2, 0.4]), pd.Series([0.1, 0.1]))]
        [2.83, 0.03, 231.22]
    """
    if not (errors > 0).all() or not (first > 0).all():
        return math.nan, math.nan, math.nan
    mean, low, high = np.exp(t_interval(np.log(errors / first)))
    return float(mean), float(low), float(high)


def agreement(row: pd.Series[float], published: float | None, first: float | None) -> str:
    """Say whether the paper's difference has the same sign.

    Args:
        row: Of the differences.
        published: The paper's error of the net, if it has one.
        first: The paper's error of the group's first.

    Returns:
        "yes", "no, the other way round", "cannot be told", or a dash without the paper's numbers.
    """
    if published is None or first is None:
        return "—"
    found = direction(row["difference"], row["holm"])
    if found == "cannot be told":
        return found
    expected = "worse" if published > first else "better"
    return "yes" if found == expected else "no, the other way round"


def opening(analysis: str, scale: Scale) -> str:
    """Say how an analysis was made and how to read its numbers.

    Args:
        analysis: Name of its file without suffix.
        scale: Data, recipe and seeds.

    Returns:
        The first paragraph of its summary.
    """
    return (
        f"{made_by(command_of(f'{analysis}.py', scale), scale.device)} {scale.words} Errors in per "
        "cent; brackets: 95 % t intervals over the seeds; differences are paired by seed. The "
        "words follow from p-values "
        "of Student's paired t test, adjusted by Holm among the nets held against the same one, "
        f"below {SIGNIFICANT}; the intervals are not adjusted. *ratio*: how many times as large "
        "the test error is, geometric mean over the seeds; no word follows from it. *failed*: how "
        f"many seeds' test errors are above {FAILED:.0%}; a training whose loss diverges counts as "
        "the best constant guess."
    )


def comparison_table(
    group: Sequence[Compared], title: str, nets: pd.DataFrame, found: pd.DataFrame
) -> list[str]:
    """Return the Markdown table of a group.

    Args:
        group: The nets, the first of which the others are held against.
        title: The group's title in the tables.
        nets: As `by_net` gave them.
        found: As `differences` gave them.

    Returns:
        Its lines: errors, differences of test errors, adjusted p-values, the paper's errors and
        whether the signs agree.
    """
    rows = []
    for one in group:
        row = nets[(nets["group"] == title) & (nets["name"] == one.name)].iloc[0]
        cells = [one.name, *(errors_in_points(row, m) for m in reversed(MEASURES)), row["failed"]]
        if one is group[0]:
            cells += ["—", "—", "—", one.words, "—"]
        else:
            less = difference_of(found, title, one.name)
            cells += [
                in_points((less["difference"], less["low"], less["high"])),
                probability(less["holm"]),
                ratio_words(less),
                one.words,
                agreement(less, one.published, group[0].published),
            ]
        rows.append(cells)
    head = (
        "net", "training error", "test error", "failed", f"test error less that of {group[0].name}",
        "p (Holm)", "ratio", "paper", "same sign?",
    )  # fmt: skip
    return markdown_table(head, rows)


def difference_of(
    found: pd.DataFrame, group: str, name: str, measure: str = "test_error"
) -> pd.Series[float]:
    """Return the difference of one net.

    Args:
        found: As `differences` gave them.
        group: The group's title.
        name: The net's.
        measure: One of `MEASURES`.

    Returns:
        The row.
    """
    rows = found[
        (found["group"] == group) & (found["name"] == name) & (found["measure"] == measure)
    ]
    row: pd.Series[float] = rows.iloc[0]
    return row


def errors_in_points(row: pd.Series[float], measure: str) -> str:
    """Write a net's error and its interval in per cent.

    Args:
        row: Of what `by_net` gave.
        measure: One of `MEASURES`.

    Returns:
        For example "1.3 [0.8, 1.8]".
    """
    return in_points((row[measure], row[f"{measure}_low"], row[f"{measure}_high"]))


def ratio_words(row: pd.Series[float]) -> str:
    """Write the ratio of errors and its interval.

    Args:
        row: Of the differences.

    Returns:
        For example "1.50 [1.40, 1.60]"; a dash where there is none.
    """
    if np.isnan(row["ratio"]):
        return "—"
    return times_as_much(row["ratio"], row["ratio_low"], row["ratio_high"])


def probability(value: float) -> str:
    """Write a p-value.

    Args:
        value: The p-value, or nan.

    Returns:
        Three decimals; a dash where there is none.

    Example:
        >>> probability(0.0123), probability(0.0001), probability(math.nan)
        ('0.012', '< 0.001', '—')
    """
    if math.isnan(value):
        return "—"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def draw(errors: pd.DataFrame) -> Figure:
    """Draw the test errors of the nets of each group.

    Args:
        errors: A row per group, net and seed.

    Returns:
        A panel per group: a dot per seed, the mean and its interval.
    """
    titles = list(errors["group"].unique())
    most = errors.groupby("group")["name"].nunique().max()
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 0.8 + 0.25 * most), layout="constrained")
        axes = figure.subplots(1, len(titles), squeeze=False)[0]
        for axis, title in zip(axes, titles, strict=True):
            dots(axis, errors[errors["group"] == title])
            axis.set_title(title, fontsize=8)
    return figure


def dots(axis: Axes, errors: pd.DataFrame) -> None:
    """Draw the test errors of a group's nets, from top to bottom.

    Args:
        axis: Where to draw.
        errors: A row per net and seed.
    """
    names = list(errors["name"].unique())
    for place, name in enumerate(names):
        values = errors[errors["name"] == name]["test_error"]
        mean, low, high = t_interval(values)
        above, below = place - 0.15, place + 0.15
        axis.plot(values, [above] * len(values), "C0o", ms=3, alpha=0.6, mew=0, clip_on=False)
        axis.plot([max(low, 0), min(high, 1)], [below, below], color="black", lw=1)
        axis.plot(mean, below, "D", ms=3, color="black", clip_on=False)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xscale("symlog", linthresh=LINEAR)
    axis.xaxis.set_major_locator(FixedLocator([0, 0.01, 0.02, 0.05, 0.2, 1]))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.set_xlim(0, min(1.0, 1.2 * axis.dataLim.x1))
    axis.set_xlabel(f"test error, logarithmic from {LINEAR:.0%}")
    axis.spines[["top", "right"]].set_visible(False)
