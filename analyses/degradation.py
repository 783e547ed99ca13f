"""Do plain nets get worse with depth, and do residual ones learn sooner?

He et al. 2015 (arXiv 1512.03385), section 4.2: training and test error of plain nets, and of
residual nets of both versions, by depth (degradation), and by the number of steps (early
convergence). All nets are trained alike, several times, on the bundled digits; intervals are t
intervals over the seeds. Nets of equal seed see the same images in the same order, shifted alike.

    python analyses/degradation.py

writes ``analyses/degradation/``: ``epochs.csv`` (every epoch of every run), ``settings.json``,
``errors.csv`` (by depth), ``convergence.csv`` (early error), the figure and ``summary.md``. A run
that is in ``epochs.csv`` is not trained again, so that it can be stopped and go on.
"""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from scipy import stats

import ensemble_view
from ensemble_view.figures import FULL_WIDTH, paper_style, save_figure
from ensemble_view.training import train
from ensemble_view.training.recipe import Recipe

KINDS = {"plain": "plain{}", "version 1": "resnet{}", "version 2": "resnet{}v2"}
DEPTHS = (8, 20, 32, 56)
PLANNED = 5
SEEDS = (0, 1, 2)
"""Of those planned, as many as there was time for."""
# He et al.'s schedule, which stays at one rate for the first half, so that early steps can be
# compared; too few epochs for the best accuracy, equally many for all.
RECIPE = Recipe(epochs=20, batch_size=64, warmup_epochs=0.0, schedule="steps")
EARLY = 5
"""Epochs whose mean test error says how soon a net learns."""

RUN = ["kind", "depth", "seed"]


def run(
    folder: Path,
    *,
    depths: Sequence[int] = DEPTHS,
    seeds: Sequence[int] = SEEDS,
    recipe: Recipe = RECIPE,
    limit: int | None = None,
) -> pd.DataFrame:
    """Train what is missing, and write tables, figure and summary.

    Args:
        folder: Where to write.
        depths: Depths of the nets.
        seeds: One run of each net per seed.
        recipe: How all are trained, but for the seed.
        limit: At most so many training images.

    Returns:
        A row per run and epoch.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "epochs.csv"
    _check_settings(folder / "settings.json", recipe, limit, anew=not file.exists())
    table = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=RUN)
    for seed in seeds:
        for depth in depths:
            for kind, pattern in KINDS.items():
                done = (table["kind"] == kind) & (table["depth"] == depth) & (table["seed"] == seed)
                if not done.any():
                    rows = _train(kind, depth, pattern.format(depth), seed, recipe, limit)
                    table = rows if table.empty else pd.concat([table, rows], ignore_index=True)
                    table.to_csv(file, index=False)
                    last = rows.iloc[-1]
                    print(f"{kind} {depth}, seed {seed}: test error {last['test_error']:.2%}")
    chosen = table[table["depth"].isin(depths) & table["seed"].isin(seeds)]
    errors, convergence = by_depth(chosen), early(chosen)
    errors.to_csv(folder / "errors.csv", index=False)
    convergence.to_csv(folder / "convergence.csv", index=False)
    figure = draw(chosen, errors)
    for suffix in ("pdf", "png"):
        save_figure(figure, folder / f"degradation.{suffix}")
    (folder / "summary.md").write_text(_summary(errors, convergence, recipe, len(set(seeds))))
    return chosen


def _check_settings(file: Path, recipe: Recipe, limit: int | None, *, anew: bool) -> None:
    """Refuse to go on with runs that were trained otherwise."""
    settings = {"recipe": asdict(recipe), "limit": limit}
    if anew:
        file.write_text(json.dumps(settings, indent=2) + "\n")
    elif json.loads(file.read_text()) != settings:
        raise ensemble_view.EnsembleViewError(
            f"The runs in {file.parent} were trained otherwise, as {file.name} says: expected the "
            "recipe of this run; choose another folder, or delete them."
        )


def _train(
    kind: str, depth: int, architecture: str, seed: int, recipe: Recipe, limit: int | None
) -> pd.DataFrame:
    data = ensemble_view.open_data("digits", split="train", limit=limit)
    test = ensemble_view.open_data("digits")
    made = train(architecture, data, test, recipe=replace(recipe, seed=seed))
    record = made.training or {}
    assert made.normalisation is not None
    mean, std = made.normalisation
    known = data.with_normalisation(mean, std)
    with torch.no_grad():
        wrong = [
            int((made.model(inputs).argmax(1) != labels).sum())
            for inputs, labels in known.batches(256)
        ]
    per_epoch = len(torch.split(torch.arange(len(data)), recipe.batch_size))
    rows = [
        {
            "kind": kind,
            "depth": depth,
            "seed": seed,
            "step": (entry["epoch"] + 1) * per_epoch,
            "loss": entry["loss"],
            "error_in_training": 1 - entry["accuracy"],
            "test_error": 1 - entry["test_accuracy"],
            "training_error": np.nan,
        }
        for entry in record["history"]
    ]
    rows[-1]["training_error"] = sum(wrong) / len(data)
    return pd.DataFrame(rows)


def interval(values: pd.Series[float]) -> tuple[float, float, float]:
    """Return mean and t interval over the seeds.

    Args:
        values: One per seed.

    Returns:
        Mean, lower and upper end at 95 %; of one value, no interval.
    """
    mean, n = float(values.mean()), len(values)
    if n < 2:
        return mean, np.nan, np.nan
    half = float(stats.t.ppf(0.975, n - 1) * values.std(ddof=1) / n**0.5)
    return mean, mean - half, mean + half


def by_depth(table: pd.DataFrame) -> pd.DataFrame:
    """Return the errors of the trained nets.

    Args:
        table: A row per run and epoch.

    Returns:
        A row per kind and depth, with training and test error and their intervals.
    """
    last = table.groupby(RUN, as_index=False, sort=False).last()
    rows = []
    for (kind, depth), runs in last.groupby(["kind", "depth"], sort=False):
        row: dict[str, object] = {"kind": kind, "depth": depth, "seeds": len(runs)}
        for name in ("training_error", "test_error"):
            row[name], row[f"{name}_low"], row[f"{name}_high"] = interval(runs[name])
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["kind", "depth"], ignore_index=True)


def early(table: pd.DataFrame) -> pd.DataFrame:
    """Compare how soon the kinds learn.

    Args:
        table: A row per run and epoch.

    Returns:
        A row per depth and pair of kinds: the difference of the mean test errors of the first
        epochs, paired by seed, with its interval.
    """
    first = table.groupby(RUN, sort=False).head(EARLY)
    errors = first.groupby(RUN)["test_error"].mean().unstack("kind")
    rows = []
    for depth, runs in errors.groupby("depth"):
        for one, other in (
            ("plain", "version 1"),
            ("plain", "version 2"),
            ("version 1", "version 2"),
        ):
            difference, low, high = interval(runs[one] - runs[other])
            rows.append(
                {
                    "depth": depth,
                    "first": one,
                    "second": other,
                    "first_error": runs[one].mean(),
                    "second_error": runs[other].mean(),
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "seeds": len(runs),
                }
            )
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, errors: pd.DataFrame) -> Figure:
    """Draw error by depth, and error by step for a shallow and the deepest net.

    Args:
        table: A row per run and epoch.
        errors: A row per kind and depth.

    Returns:
        Three panels.
    """
    depths = sorted(errors["depth"].unique())
    with paper_style():
        figure = Figure(figsize=(FULL_WIDTH, 2.5), layout="constrained")
        axes = figure.subplots(1, 3, sharey=True)
        _by_depth(axes[0], errors)
        for axis, depth in zip(
            axes[1:], (depths[min(1, len(depths) - 1)], depths[-1]), strict=True
        ):
            _by_step(axis, table[table["depth"] == depth])
            axis.set_title(f"depth {depth}", fontsize=8)
        axes[0].set_ylabel("error")
        axes[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes[0].set_ylim(0, 1)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
    return figure


def _by_depth(axis: Axes, errors: pd.DataFrame) -> None:
    for index, kind in enumerate(KINDS):
        rows = errors[errors["kind"] == kind]
        for name, style in (("test_error", "-"), ("training_error", ":")):
            label = kind if name == "test_error" else f"{kind}, training"
            axis.plot(rows["depth"], rows[name], style, color=f"C{index}", marker="o", ms=2.5, lw=1,
                      label=label)  # fmt: skip
            low, high = rows[f"{name}_low"].clip(lower=0), rows[f"{name}_high"].clip(upper=1)
            axis.fill_between(rows["depth"], low, high, color=f"C{index}", alpha=0.15, lw=0)
    axis.set_xlabel("depth, layers")
    axis.set_xticks(sorted(errors["depth"].unique()))
    axis.legend(frameon=False, fontsize=6)


def _by_step(axis: Axes, table: pd.DataFrame) -> None:
    for index, kind in enumerate(KINDS):
        rows = table[table["kind"] == kind].sort_values("step")
        at = rows["step"].unique()
        found = np.array([interval(rows[rows["step"] == step]["test_error"]) for step in at])
        axis.plot(at, found[:, 0], color=f"C{index}", lw=1)
        low, high = found[:, 1].clip(0, 1), found[:, 2].clip(0, 1)
        axis.fill_between(at, low, high, color=f"C{index}", alpha=0.15, lw=0)
    axis.set_xlabel("steps")


def _percent(row: pd.Series[float], name: str, low: str, high: str) -> str:
    return f"{100 * row[name]:.1f} [{100 * row[low]:.1f}, {100 * row[high]:.1f}]"


def _summary(errors: pd.DataFrame, convergence: pd.DataFrame, recipe: Recipe, seeds: int) -> str:
    lines = [
        "# Degradation and early convergence on the digits",
        "",
        f"Made by `python analyses/degradation.py` on {datetime.date.today()}, one CPU thread of "
        f"{platform.processor() or platform.machine()}; ensemble_view {ensemble_view.__version__}, "
        f"torch {torch.__version__}. {seeds} seeds of {PLANNED} planned, the others left out for "
        f"want of time; {recipe.epochs} epochs in batches of "
        f"{recipe.batch_size}, learning rate {recipe.learning_rate} without warm-up, a tenth after "
        "half and again after three quarters, images shifted by one pixel at random; one recipe "
        "for all, chosen for none. Brackets: 95 % t intervals over the seeds, in points.",
        "",
        "Error of the trained nets in per cent, on the training images (as they are) and on the "
        "test images:",
        "",
        "| net | depth | training | test |",
        "|---|---|---|---|",
    ]
    for _, row in errors.iterrows():
        lines.append(
            f"| {row['kind']} | {row['depth']} "
            f"| {_percent(row, 'training_error', 'training_error_low', 'training_error_high')} "
            f"| {_percent(row, 'test_error', 'test_error_low', 'test_error_high')} |"
        )
    lines += [
        "",
        f"Test error, mean of the first {EARLY} epochs, and its difference paired by seed:",
        "",
        "| depth | first | second | error of first | of second | difference |",
        "|---|---|---|---|---|---|",
    ]
    for _, row in convergence.iterrows():
        lines.append(
            f"| {row['depth']} | {row['first']} | {row['second']} "
            f"| {100 * row['first_error']:.1f} | {100 * row['second_error']:.1f} "
            f"| {_percent(row, 'difference', 'low', 'high')} |"
        )
    return "\n".join([*lines, "", "![Error by depth and by step](degradation.png)"]) + "\n"


if __name__ == "__main__":
    target = Path(__file__).with_suffix("")
    run(target)
    print((target / "summary.md").read_text())
