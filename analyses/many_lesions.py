"""How fast does a published ResNet-56 lose its accuracy as more blocks go? Figure 5(a).

1 to 20 random blocks of 27 are deleted, 50 times each (all 27 single blocks), as Veit, Wilber and
Belongie (2016) did with a ResNet-110. The images of CIFAR-10's test set went through JPEG.

    python analyses/many_lesions.py [CHECKPOINT [IMAGES]]

writes into ``analyses/many_lesions/``: a table per number of deletions and per trial, the figure,
and ``summary.md``. Some minutes on one CPU core; LIMIT says of how many images.
"""

from __future__ import annotations

import sys
from pathlib import Path

from published import IMAGES, RESNET56, images_of

import ensemble_view
from ensemble_view.figures.style import save_figure

LIMIT = 100
COMMAND = "python analyses/many_lesions.py"


def run(
    folder: Path,
    checkpoint: Path = RESNET56,
    images: Path | str = IMAGES,
    *,
    count: str = "1-20",
    trials: int = 50,
    limit: int = LIMIT,
) -> ensemble_view.ManyResult:
    """Delete random blocks and write tables, figure and a summary.

    Args:
        folder: Where to write.
        checkpoint: Of the net.
        images: Test images, by name or as an ``.npz`` file.
        count: Numbers of blocks to delete.
        trials: Subsets per number.
        limit: At most so many images, class-balanced.

    Returns:
        The result.
    """
    net = ensemble_view.load_checkpoint(checkpoint)
    result = ensemble_view.random(
        net,
        images_of(net, images, limit),
        count=count,
        trials=trials,
        command=COMMAND,
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in result.tables.items():
        frame.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    for suffix in ("pdf", "png"):
        save_figure(result.plot(), folder / f"many.{suffix}")
    (folder / "summary.md").write_text(_summary(result))
    return result


def _summary(result: ensemble_view.ManyResult) -> str:
    where = result.run.provenance
    lines = [
        "# Random deletions from a ResNet-56",
        "",
        f"Made by `{where.command}` on {where.date[:10]}, {where.device}, threads: "
        f"{where.threads}, batches of {where.batch_size}, seed {where.seed}, torch "
        f"{where.versions['torch']}. CIFAR-10 test images that went through JPEG, class-balanced.",
        *("", "```", result.table, "```", "", result.summary, ""),
        "![Error by number of deletions](many.png)",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run(Path(__file__).with_suffix(""), *map(Path, sys.argv[1:3]))
