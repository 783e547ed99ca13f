"""All subnetworks of small residual nets, all pairs of a larger one, and what they cost.

    python analyses/power_set.py [CHECKPOINTS [IMAGES]]

Trains a 20-layer ResNet on the digits (a minute or two), runs all 512 subnetworks of its 9 blocks
on the digits' test split; all 4,096 of the last 12 blocks of a published 32-layer ResNet, the first
three staying, and all pairs of a 56-layer one, on class-balanced CIFAR-10 test images (that went
through JPEG). Times the engine on all subnetworks against a naive loop over the same ones, a pass
each of the model's own modules with omitted blocks skipped, in the same process. Writes
``analyses/power_set/``: tables, figures, ``summary.md``. About half an hour on one CPU core.
"""

from __future__ import annotations

import datetime
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from published import CHECKPOINTS, IMAGES, images_of
from reporting import cpu_seconds, processor
from torch import Tensor

import ensemble_view
from ensemble_view import Chain
from ensemble_view.figures.style import save_figure
from ensemble_view.measures.classification import Classification
from ensemble_view.nets.models.building import build
from ensemble_view.studies.subsets.study import SubsetsStudy
from ensemble_view.study.files import prepare_folder, write_text
from ensemble_view.study.result import StudyResult
from ensemble_view.training.recipe import Recipe
from ensemble_view.training.training import train

SEED = 0
LIMITS = {"resnet32": 200, "resnet56": 500}
BATCH = 64
ROUNDS = 3


@dataclass(frozen=True)
class Timed:
    """CPU seconds on one batch, one thread.

    Args:
        name: Of the net, and which blocks.
        block_evaluations: Of the engine, per batch.
        naive_block_evaluations: Of the loop.
        engine: Median over the rounds, all outcomes measured.
        naive: Likewise.
        ratios: Engine over loop, one per round.
    """

    name: str
    block_evaluations: int
    naive_block_evaluations: int
    engine: float
    naive: float
    ratios: tuple[float, ...]


def naive(chain: Chain, blocks: Sequence[int], images: Tensor, labels: Tensor) -> None:
    """Run every subnetwork from the beginning with the model's own parts, and measure it.

    Args:
        chain: Unfused.
        blocks: Those that are kept or deleted.
        images: A batch.
        labels: Its classes.
    """
    measure = Classification()
    reference = measure.reference(chain(images), labels)
    for mask in range(2 ** len(blocks)):
        deleted = {block for i, block in enumerate(blocks) if not mask >> i & 1}
        x, context = chain.stem(images)
        for block in chain:
            if block.index not in deleted:
                x = block(x, context)
            elif block.shortcut_kind != "identity":
                # An identity's ReLU changes nothing: its input is another ReLU's output.
                x = block.deleted(x, context)
        measure.rows(chain.head(x, context), reference)


def timed(name: str, chain: Chain, only: str | None, batch: tuple[Tensor, Tensor]) -> Timed:
    """Time the engine against the loop, in turn.

    Args:
        name: What is timed.
        chain: The net.
        only: Blocks that are kept or deleted.
        batch: Images and labels.

    Returns:
        The times.
    """
    study = SubsetsStudy(only).prepare(chain, batch, batch_size=len(batch[1]))
    blocks = [block.index for block in study.blocks]
    rounds = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(ROUNDS):
                rounds.append(
                    (cpu_seconds(study.run), cpu_seconds(lambda: naive(chain, blocks, *batch)))
                )
    finally:
        torch.set_num_threads(threads)
    cost = study.experiment.engine.cost
    return Timed(
        name=name,
        block_evaluations=cost.block_evaluations,
        # Without the full net, which the study has twice.
        naive_block_evaluations=cost.naive_block_evaluations - len(chain),
        engine=statistics.median(mine for mine, _ in rounds),
        naive=statistics.median(theirs for _, theirs in rounds),
        ratios=tuple(mine / theirs for mine, theirs in rounds),
    )


def run(folder: Path, checkpoints: Path = CHECKPOINTS, images: Path = IMAGES) -> None:
    """Measure, draw and time everything.

    Args:
        folder: Where the files are written.
        checkpoints: Folder of the published nets.
        images: CIFAR-10's test images.
    """
    prepare_folder(folder)
    said: list[str] = []
    times: list[Timed] = []

    def keep(name: str, result: StudyResult) -> None:
        for table, frame in result.tables.items():
            if len(frame) <= 600:
                text = frame.to_csv(index=False, lineterminator="\n", float_format="%.5g")
                write_text(folder / f"{name}-{table}.csv", text)
        for suffix in ("pdf", "png"):
            save_figure(result.plot(), folder / f"{name}.{suffix}")
        said.append(f"## {name}\n\n![{name}]({name}.png)\n\n```\n{result!r}\n```\n")
        write_text(folder / "summary.md", page(said, times))
        print(f"{name}\n{result!r}\n", flush=True)

    def cifar(name: str) -> tuple[ensemble_view.Checkpoint, ensemble_view.LabelledData]:
        (file,) = checkpoints.glob(f"{name}-*.th")
        net = ensemble_view.load_checkpoint(file, architecture=f"cifar:{name}")
        return net, images_of(net, images, LIMITS[name], SEED)

    command = "python analyses/power_set.py"
    with TemporaryDirectory() as scratch:
        parts = [ensemble_view.open_data("digits", split=each) for each in ("train", "test")]
        small = train(
            "resnet20", *parts, recipe=Recipe(epochs=30, seed=SEED), device=torch.device("cpu"),
            checkpoint_path=Path(scratch) / "resnet20.pt",
        )  # fmt: skip
        loaded = ensemble_view.load_checkpoint(Path(scratch) / "resnet20.pt")
        mean, std = small.normalisation or (None, None)
        digits = ensemble_view.open_data("digits", mean=mean, std=std)
        keep(
            "digits-resnet20",
            ensemble_view.subsets(loaded, digits, seed=SEED, command=command),
        )
    only = "3-14"
    net, data = cifar("resnet32")
    batch = next(iter(data.batches(BATCH)))
    larger = build("resnet20").eval()
    chain = ensemble_view.unravel(larger, batch[0][:2])
    times.append(timed("resnet20, untrained, all 9 blocks, 32×32", chain, None, batch))
    chain = ensemble_view.unravel(net.model, batch[0][:2])
    few = (batch[0][:16], batch[1][:16])
    times.append(timed(f"resnet32, blocks {only}, 32×32", chain, only, few))
    keep("resnet32", ensemble_view.subsets(net, data, only=only, seed=SEED, command=command))
    net, data = cifar("resnet56")
    keep("resnet56-pairs", ensemble_view.pairs(net, data, seed=SEED, command=command))


def page(said: Sequence[str], times: Sequence[Timed]) -> str:
    """Put the summary together.

    Args:
        said: Sections.
        times: Of the engine and the loop.

    Returns:
        Markdown.
    """
    rows = [
        f"| {t.name} | {t.block_evaluations:,} | {t.naive_block_evaluations:,} | "
        f"{t.engine:.1f} s | {t.naive:.1f} s | {statistics.median(t.ratios):.2f} "
        f"({min(t.ratios):.2f} to {max(t.ratios):.2f}) |"
        for t in times
    ]
    return "\n".join(
        [
            "# All subnetworks, and all pairs\n",
            f"Made by `python analyses/power_set.py` on {datetime.date.today()}, one CPU thread "
            f"of {processor()}, torch {torch.__version__}, seed {SEED}. The digits-resnet20 "
            "was trained for it (30 epochs); resnet32 and resnet56 are published CIFAR-10 nets, on "
            f"{LIMITS['resnet32']} and {LIMITS['resnet56']} class-balanced test images that went "
            "through JPEG.\n",
            "## Cost\n",
            "All subnetworks of one batch, measured (and for the engine reduced to Shapley values "
            "and spectra), beside a loop over the same subnetworks that runs the model's own parts "
            f"and skips omitted blocks. CPU time, median of {ROUNDS} rounds in turn.\n",
            "| net | block evaluations | of the loop | engine | loop | ratio |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            *said,
        ]
    )


if __name__ == "__main__":
    arguments = [Path(word) for word in sys.argv[1:]]
    run(Path(__file__).resolve().parent / "power_set", *arguments)
