"""What do all paths of a published ResNet-56 cost, beside the paper's sampling of them?

One batch of CIFAR-10's test images (that went through JPEG), the gradient at the first block's
input: the exact gradient summed over all 2^27 paths by length, and the paper's protocol with 100
random paths per length, in units of one ordinary backward pass to the input.

    python analyses/path_gradients.py [CHECKPOINT [IMAGES]]

writes ``analyses/path_gradients/summary.md``, the table per length and its figure. About ten
minutes on one CPU core.
"""

from __future__ import annotations

import datetime
import statistics
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from published import IMAGES, RESNET56, images_of
from reporting import cpu_seconds, processor

import ensemble_view
from ensemble_view import GradientsByLength
from ensemble_view.studies.gradients.result import GradientCost
from ensemble_view.studies.gradients.study import Method, prepare_gradients

SEED = 0
BATCH = 64
ROUNDS = 5
SAMPLES = 100
LIMIT = 20.0


@dataclass(frozen=True)
class Timed:
    """CPU seconds of one method, and in units of the backward passes beside it.

    Args:
        seconds: Median over the rounds.
        ratios: One per round.
        result: What was measured.
    """

    seconds: float
    ratios: tuple[float, ...]
    result: GradientsByLength


def run(
    folder: Path,
    checkpoint: Path = RESNET56,
    images: Path | str = IMAGES,
    *,
    batch: int = BATCH,
    rounds: int = ROUNDS,
    samples: int = SAMPLES,
) -> dict[str, Timed]:
    """Time both methods, measure, and write the summary.

    Args:
        folder: Where to write.
        checkpoint: The net.
        images: The data, by name or path.
        batch: Examples.
        rounds: How often the exact method is timed; the sampled one is timed once.
        samples: Paths per length.

    Returns:
        The times by method.
    """
    torch.set_num_threads(1)
    net = ensemble_view.load_checkpoint(checkpoint)
    data = images_of(net, images, batch, SEED)
    x, labels = next(data.batches(batch))
    x.requires_grad_()
    loss = F.cross_entropy(net.model.eval()(x), labels, reduction="sum")

    def backward() -> object:
        return torch.autograd.grad(loss, x, retain_graph=True)

    backward()
    found: dict[str, Timed] = {}
    plan: tuple[tuple[Method, int], ...] = (("summed", rounds), ("sampled", 1))
    for method, times in plan:
        study = prepare_gradients(
            net, data, method=method, samples=samples, seed=SEED, batch_size=batch
        )
        passes, seconds = [], []
        for _ in range(times):
            # Before and after, so that a drift of the machine's speed meets both.
            before = statistics.median(cpu_seconds(backward) for _ in range(3))
            started = time.process_time()
            result = study.run()
            seconds.append(time.process_time() - started)
            passes.append((before + statistics.median(cpu_seconds(backward) for _ in range(3))) / 2)
        ratios = tuple(one / other for one, other in zip(seconds, passes, strict=True))
        found[method] = Timed(statistics.median(seconds), ratios, result)
        print(f"{method}: {found[method].seconds:.2f} s, {statistics.median(ratios):.1f} passes")
    both = together(found["summed"].result, found["sampled"].result)
    # Where the file lies on one machine is no part of the record.
    model = {**both.provenance.model, "path": checkpoint.name}
    both = replace(both, provenance=replace(both.provenance, model=model))
    both.save(folder, overwrite=True)
    (folder / "summary.md").write_text(_summary(found, both, batch))
    return found


def together(summed: GradientsByLength, sampled: GradientsByLength) -> GradientsByLength:
    """Put two results of the same net and examples into one.

    Args:
        summed: By the exact method.
        sampled: By random paths.

    Returns:
        A result with the columns and the cost of both.
    """
    rows = tuple(
        replace(row, sampled_mean=other.sampled_mean, sampled_median=other.sampled_median)
        for row, other in zip(summed.rows, sampled.rows, strict=True)
    )
    cost = GradientCost(
        summed.cost.branch_vjps + sampled.cost.branch_vjps,
        {**summed.cost.by_method, **sampled.cost.by_method},
        summed.cost.examples,
    )
    return replace(
        summed,
        rows=rows,
        cost=cost,
        settings=replace(summed.settings, methods=("summed", "sampled")),
        seconds=summed.seconds + sampled.seconds,
    )


def _summary(found: dict[str, Timed], both: GradientsByLength, batch: int) -> str:
    lines = [
        "# All paths of a ResNet-56, exactly, and 100 per length",
        "",
        f"Made by `python analyses/path_gradients.py` on {datetime.date.today()}, one CPU thread "
        f"of {processor()}, images that went through JPEG, seed "
        f"{SEED}; ensemble_view {ensemble_view.__version__}, torch {torch.__version__}. One batch "
        f"of {batch}, {2**both.blocks:,} paths through {both.blocks} blocks, gradient of "
        "each example's cross-entropy at the first block's input.",
        "",
        "CPU seconds with the forward pass, medians; *passes*: in units of one ordinary backward "
        "pass to the input, without its forward pass, timed before and after in each round. A "
        f"batched call over K cotangents counts K branch VJPs. Aim: at most {LIMIT:.0f} passes for "
        "the exact gradient.",
        "",
        "| method | branch VJPs | CPU s | passes | smallest–largest | mean length | 95 % of it "
        "| of all paths |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = {
        "projected": ("all paths, share of the gradient, mean of ratios", "summed"),
        "pooled": ("all paths, share of the gradient, ratio of sums", "summed"),
        "summed": ("all paths, norm of their sum", "summed"),
        "sampled": ("sampled, paths × mean norm", "sampled"),
    }
    for weighting, (label, method) in rows.items():
        timed, span = found[method], both.effective[weighting]
        lines.append(
            f"| {label} | {timed.result.cost.branch_vjps:,} | {timed.seconds:.2f} "
            f"| **{statistics.median(timed.ratios):.1f}** "
            f"| {min(timed.ratios):.1f}–{max(timed.ratios):.1f} | {span.mean:.1f} "
            f"| {span.low}–{span.high} | {100 * span.share_of_paths:.3g} % |"
        )
    return "\n".join([*lines, "", both.summary, "", "![By length](gradients.png)"]) + "\n"


if __name__ == "__main__":
    run(Path(__file__).with_suffix(""), *map(Path, sys.argv[1:3]))
