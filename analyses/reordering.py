"""How fast does a published ResNet-56 lose its accuracy as its blocks are shuffled? Figure 5(b).

1 to 20 random swaps of blocks of one shape, 20 times each, as Veit, Wilber and Belongie (2016) did
with a ResNet-110; then each two neighbours swapped, and whole stages reversed and shuffled. The
images of CIFAR-10's test set went through JPEG.

    python analyses/reordering.py [CHECKPOINT [IMAGES]]

writes into ``analyses/reordering/``: a table per bin of Kendall's tau and per trial, the figure,
the same of the single reorderings, and ``summary.md``. Some minutes on one CPU core; LIMIT says of
how many images.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

from published import IMAGES, RESNET56, images_of

import ensemble_view
from ensemble_view.figures.style import save_figure

LIMIT = 100
COMMAND = "python analyses/reordering.py"


def run(
    folder: Path,
    checkpoint: Path = RESNET56,
    images: Path | str = IMAGES,
    *,
    swaps: str = "1-20",
    trials: int = 20,
    limit: int = LIMIT,
) -> tuple[ensemble_view.ReorderResult, ensemble_view.LesionResult]:
    """Reorder blocks and write tables, figures and a summary.

    Args:
        folder: Where to write.
        checkpoint: Of the net.
        images: Test images, by name or as an ``.npz`` file.
        swaps: Numbers of random swaps.
        trials: Sequences of swaps per number.
        limit: At most so many images, class-balanced.

    Returns:
        What random swaps cost, and what each single reordering costs.
    """
    net = ensemble_view.load_checkpoint(checkpoint)
    data = images_of(net, images, limit)
    single = cast(
        "ensemble_view.LesionResult",
        ensemble_view.reorder(net, data, adjacent=True, stages=True, command=COMMAND),
    )
    random = cast(
        "ensemble_view.ReorderResult",
        ensemble_view.reorder(net, data, swaps=swaps, trials=trials, command=COMMAND),
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in (random.tables | {"single": single.frame}).items():
        frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    for suffix in ("pdf", "png"):
        save_figure(random.plot(), folder / f"reorder.{suffix}")
        save_figure(single.plot(), folder / f"single.{suffix}")
    (folder / "summary.md").write_text(_summary(random, single))
    return random, single


def _summary(random: ensemble_view.ReorderResult, single: ensemble_view.LesionResult) -> str:
    where = random.run.provenance
    lines = [
        "# Reordering the blocks of a ResNet-56",
        "",
        f"Made by `{where.command}` on {where.date[:10]}, {where.device}, threads: "
        f"{where.threads}, batches of {where.batch_size}, seed {where.seed}, torch "
        f"{where.versions['torch']}. CIFAR-10 test images that went through JPEG, class-balanced.",
        *("", "## Random swaps", "", "```", random.table, "```", "", random.summary, ""),
        "![Error by Kendall's tau](reorder.png)",
        *("", "## One by one", "", "```", single.table, "```", "", single.summary, ""),
        "![Error after each reordering](single.png)",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(Path(__file__).with_suffix(""), *map(Path, sys.argv[1:3]))
