"""How much faster is what is left of a published ResNet-56 when blocks are taken out?

Blocks are drawn at random, among those that keep the shape (the net is then its own class with
fewer blocks), or with both downsampling blocks among them (their zero-padding shortcuts stay, and
the net is put together from copies of the chain's parts). Beside the time is the share of floating
point operations that is left, counted by torch.

    python analyses/extraction_speed.py [CHECKPOINT]

writes ``analyses/extraction_speed/summary.md``. A few minutes on one CPU core. The program starts
itself again with an allocator that keeps freed memory: to fetch it anew from the system for every
activation took up to 40 % of the time, more or less by chance.
"""

from __future__ import annotations

import datetime
import os
import platform
import random
import statistics
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from published import RESNET56
from reporting import processor
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ensemble_view
from ensemble_view import Chain, Checkpoint, Delete, bind
from ensemble_view.bench.conditions import cpu_seconds, one_thread

COUNTS = (9, 18)
SEED = 0
BATCH = 64
ROUNDS = 15
ALLOCATOR = {name: str(2**32) for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")}


@dataclass(frozen=True)
class Timed:
    """What is left of a net, timed in turns with the whole.

    Args:
        deleted: Which blocks are gone.
        kind: Class of what is left.
        operations: Share of the whole net's floating point operations that is left.
        seconds: CPU seconds per batch, median over the rounds.
        ratios: To the whole net's seconds, one per round.
    """

    deleted: str
    kind: str
    operations: float
    seconds: float
    ratios: tuple[float, ...]


def draw(chain: Chain, count: int, *, downsampling: bool) -> Delete:
    """Draw blocks to delete: of those that keep the shape, or with all others among them."""
    alike = [block.index for block in chain if not block.changes_shape]
    others = [block.index for block in chain if block.changes_shape] if downsampling else []
    drawn = random.Random(SEED).sample(alike, count - len(others))
    return Delete(*sorted([*others, *drawn]))


def operations(net: nn.Module, images: Tensor) -> int:
    """Count the floating point operations of one batch."""
    with FlopCounterMode(display=False) as counter:
        net(images)
    return int(counter.get_total_flops())


def run(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    counts: tuple[int, ...] = COUNTS,
    batch: int = BATCH,
    rounds: int = ROUNDS,
) -> tuple[float, list[Timed]]:
    """Time the whole net and what is left of it, and write the summary.

    Args:
        folder: Where to write.
        checkpoint: The net.
        counts: How many blocks are deleted.
        batch: Images, standard normal numbers.
        rounds: How often each net is timed.

    Returns:
        CPU seconds per batch of the whole net, and the figures of each that is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chain = ensemble_view.unravel(checkpoint.model, checkpoint.example())
    images = checkpoint.example(batch, seed=SEED)
    assert isinstance(images, Tensor)
    lesions = [draw(chain, n, downsampling=with_) for with_ in (False, True) for n in counts]
    nets = [checkpoint.model, *(ensemble_view.extract(chain, lesion) for lesion in lesions)]
    with one_thread():
        counted = [operations(net, images) for net in nets]
        # In turns, so that what else the machine does falls on all of them; the first is a warm-up.
        turns = [
            [cpu_seconds(partial(net, images), 1, 1) for net in nets] for _ in range(rounds + 1)
        ]
    times = list(zip(*turns[1:], strict=True))
    found = [
        Timed(
            deleted=str(bind(lesion, chain.outline)),
            kind=type(net).__name__,
            operations=flops / counted[0],
            seconds=statistics.median(mine),
            ratios=tuple(one / whole for one, whole in zip(mine, times[0], strict=True)),
        )
        for lesion, net, flops, mine in zip(lesions, nets[1:], counted[1:], times[1:], strict=True)
    ]
    seconds = statistics.median(times[0])
    (folder / "summary.md").write_text(_summary(checkpoint, len(chain), batch, seconds, found))
    return seconds, found


def _summary(
    checkpoint: Checkpoint, blocks: int, batch: int, seconds: float, found: list[Timed]
) -> str:
    name = checkpoint.path.name if checkpoint.path is not None else checkpoint.architecture
    lines = [
        "# What is left of a net against the whole",
        "",
        f"Made by `python analyses/extraction_speed.py` on {datetime.date.today()}, "
        f"{processor()}, {os.cpu_count()} cores of which one thread is used; {name} "
        f"({blocks} blocks), batches of {batch} images of standard normal numbers, seed {SEED} of "
        f"images and of the blocks drawn; ensemble_view {ensemble_view.__version__}, torch "
        f"{torch.__version__}, Python {platform.python_version()}.",
        "",
        f"CPU seconds per batch in inference mode, medians over {len(found[0].ratios)} rounds in "
        f"turns; the whole net takes {seconds:.3f}. Freed memory is kept "
        f"({', '.join(f'{name}={value}' for name, value in ALLOCATOR.items())}). *operations*: "
        "share of the whole net's floating point operations that is left. *time*: share of its "
        "time, median and smallest–largest. "
        "*class*: the net's own, with fewer blocks, or Extracted, put together from copies of the "
        "chain's parts, where the shortcut of a downsampling block stays.",
        "",
        "| plan | class | operations | seconds | time | smallest–largest |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.deleted} | {one.kind} | {one.operations:.3f} | {one.seconds:.3f} "
        f"| **{statistics.median(one.ratios):.3f}** "
        f"| {min(one.ratios):.3f}–{max(one.ratios):.3f} |"
        for one in found
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if not ALLOCATOR.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **ALLOCATOR})
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESNET56
    target = Path(__file__).with_suffix("")
    run(target, ensemble_view.load_checkpoint(source))
    print((target / "summary.md").read_text())
