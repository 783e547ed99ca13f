"""Which single blocks matter? Figure 3 of Veit, Wilber and Belongie (2016) on the bundled nets.

Deletes each block of the residual nets, and each shape-keeping unit of the plain net and of VGG,
which are the control. Where the residual nets stay whole and the controls collapse, the test data
do not explain it; but the nets differ in depth, width and training as well as in their shortcuts,
and there is one net of each kind.

    python analyses/single_lesions.py

writes into ``analyses/single_lesions/``: the lesions of each net as a table, one figure with all
nets, and ``summary.md``. About two minutes on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from reporting import markdown_table

import ensemble_view
from ensemble_view.figures.style import save_figure
from ensemble_view.studies.lesion.figure import comparison_figure
from ensemble_view.studies.lesion.sizes import (
    NEGLIGIBLE,
    NEGLIGIBLE_ERROR_RATIO,
    RUINOUS,
    SIZES,
    SMALL,
)

RESIDUAL = ("digits-resnet110", "digits-resnet110v2")
PLAIN = ("digits-plain32", "digits-vgg15")
LEGEND = (
    "Drops are in accuracy points; *its error ratio* is the error after the deletion with the "
    "largest drop over the error before. Each deletion is in one class, by 95 % confidence limits "
    "of the normalised drop (the share of the accuracy above chance that is lost) that hold for "
    f"all deletions of a net at once: *negligible*, at most {100 * NEGLIGIBLE:.0f} % and at most "
    f"{NEGLIGIBLE_ERROR_RATIO:g} times the error; *small*, at most {100 * SMALL:.0f} %; *large*, "
    f"more than {100 * SMALL:.0f} %; *ruinous*, at least {100 * RUINOUS:.0f} %; *undecided*, none "
    "of these is shown."
)
"""What the words of `summary_table` mean."""


def run(
    folder: Path, nets: Sequence[str] = (*RESIDUAL, *PLAIN), *, limit: int | None = None
) -> dict[str, ensemble_view.LesionResult]:
    """Lesion bundled nets and write tables and figures.

    Args:
        folder: Where to write.
        nets: Their names.
        limit: At most so many test images.

    Returns:
        The result of each net.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        name: cast(
            "ensemble_view.LesionResult",
            ensemble_view.lesion(
                ensemble_view.load_checkpoint(name),
                "digits",
                plain=name in PLAIN,
                limit=limit,
                batch_size=64,
                command="python analyses/single_lesions.py",
            ),
        )
        for name in nets
    }
    for name, result in results.items():
        result.frame.to_csv(folder / f"{name}.csv", index=False)
    figure = comparison_figure(results)
    for suffix in ("pdf", "png"):
        save_figure(figure, folder / f"comparison.{suffix}")
    (folder / "summary.md").write_text(_summary(results))
    return results


def _summary(results: dict[str, ensemble_view.LesionResult]) -> str:
    some = next(iter(results.values()))
    where = some.provenance
    lines = [
        "# Single lesions of the bundled nets",
        "",
        f"Data: digits, test split, {some.baseline.n} images; chance {some.baseline.chance:.1%}. "
        f"Made by `{where.command}` on {where.date[:10]}, {where.device}, batches of "
        f"{where.batch_size}, seed {where.seed}, torch {where.versions['torch']}.",
        "",
        LEGEND,
        "",
        *summary_table(results),
    ]
    return "\n".join(lines) + "\n"


def summary_table(results: Mapping[str, ensemble_view.LesionResult]) -> list[str]:
    """Return the lines of a table with a row per net.

    Args:
        results: Single lesions by net.

    Returns:
        Its lines.
    """
    rows = []
    for name, result in results.items():
        frame = result.frame
        worst = frame.iloc[int(frame["drop"].argmax())]
        rows.append(
            (
                name,
                f"{result.baseline.accuracy:.1%}",
                f"{len(frame)} of {result.block_count}",
                f"{frame['drop'].median():.1%}",
                f"{worst['drop']:.1%} (block {worst['blocks']})",
                f"{worst['error_ratio']:.3g} [{worst['error_ratio_simultaneous_low']:.3g}, "
                f"{worst['error_ratio_simultaneous_high']:.3g}]",
                *(int((frame["size"] == size).sum()) for size in SIZES),
            )
        )
    return markdown_table(
        ("net", "accuracy", "deleted in turn", "median drop", "largest drop", "its error ratio",
         *SIZES),
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    target = Path(__file__).with_suffix("")
    run(target)
    print((target / "summary.md").read_text())
