"""What analyses share: intervals over seeds, times, where a summary was made, the files."""

from __future__ import annotations

import datetime
import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy import stats

import ensemble_view
from ensemble_view.figures.style import save_figure


def t_interval(values: Iterable[float], level: float = 0.95) -> tuple[float, float, float]:
    """Return mean and t interval over the seeds.

    Args:
        values: One per seed.
        level: Of the interval.

    Returns:
        Mean, lower and upper end; of one value, no interval.

    Example:
        >>> [round(number, 3) for number in t_interval([0.1, 0.2, 0.3])]
        [0.2, -0.048, 0.448]
    """
    numbers = np.asarray(list(values), dtype=np.float64)
    mean, n = float(numbers.mean()), len(numbers)
    if n < 2:
        return mean, np.nan, np.nan
    half = float(stats.t.ppf((1 + level) / 2, n - 1) * numbers.std(ddof=1) / n**0.5)
    return mean, mean - half, mean + half


def in_points(interval: Sequence[float]) -> str:
    """Write proportions in per cent.

    Args:
        interval: Value, lower and upper end; no ends where there are none.

    Returns:
        For example "1.3 [0.8, 1.8]".

    Example:
        >>> in_points((0.013, 0.008, 0.018))
        '1.3 [0.8, 1.8]'
    """
    value, low, high = (100 * float(number) for number in interval)
    return f"{value:z.1f}" if np.isnan(low) else f"{value:z.1f} [{low:z.1f}, {high:z.1f}]"


def times_as_much(value: float, low: float, high: float) -> str:
    """Write a ratio with its interval, where it has one.

    Args:
        value: The ratio.
        low: Lower end, or nan.
        high: Upper end, or nan.

    Returns:
        For example "1.56 [1.50, 1.61]".

    Example:
        >>> times_as_much(1.5, 1.4, 1.6), times_as_much(1.0, np.nan, np.nan)
        ('1.50 [1.40, 1.60]', '1.00')
    """
    return f"{value:.2f}" if np.isnan(low) else f"{value:.2f} [{low:.2f}, {high:.2f}]"


def processor() -> str:
    """Return the processor's name, as the operating system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def cpu_seconds(run: Callable[[], object]) -> float:
    """Time something.

    Args:
        run: What is timed.

    Returns:
        CPU seconds of this process.
    """
    started = time.process_time()
    run()
    return time.process_time() - started


def made_by(command: str, device: str = "cpu") -> str:
    """Say where and when a summary was made.

    Args:
        command: What makes it.
        device: Where nets ran.

    Returns:
        One sentence: command, date, hardware, versions.
    """
    hardware = (
        f"one CPU thread of {processor()}"
        if device == "cpu"
        else torch.cuda.get_device_name(device)
    )
    return (
        f"Made by `{command}` on {datetime.date.today()}, {hardware}; ensemble_view "
        f"{ensemble_view.__version__}, torch {torch.__version__}."
    )


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a table in Markdown.

    Args:
        head: Names of the columns.
        rows: As many cells each.

    Returns:
        Its lines.

    Example:
        >>> markdown_table(["net", "error"], [["plain20", 4.6]])
        ['| net | error |', '|---|---|', '| plain20 | 4.6 |']
    """
    lines = [head, ["---"] * len(head), *rows]
    written = ["| " + " | ".join(map(str, line)) + " |" for line in lines]
    written[1] = written[1].replace(" ", "")
    return written


def write(
    folder: Path,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure],
    summary: Iterable[str],
) -> None:
    """Write what an analysis found.

    Args:
        folder: Where to; made if it is not there.
        tables: By file name without suffix, as CSV.
        figures: By file name without suffix, as PDF and PNG.
        summary: The lines of summary.md.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    for name, figure in figures.items():
        for suffix in ("pdf", "png"):
            save_figure(figure, folder / f"{name}.{suffix}")
    (folder / "summary.md").write_text("\n".join(summary) + "\n")
