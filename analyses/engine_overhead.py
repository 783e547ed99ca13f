"""Is the engine as fast, block by block, as the unmodified model's own eager blocks?

torchvision's resnet50 and vit_b_16 (224 pixels) and transformers' GPT-2 of twelve layers (128
tokens), batch 32, with random weights. The plans are the full net and the deletion of its first,
its middle and its last block; sharing of prefixes is no part of the ratio, since each side makes
the same block evaluations.

    python analyses/engine_overhead.py

writes ``analyses/engine_overhead/summary.md``. Several minutes on one CPU core; needs the extra
transformers.
"""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Callable
from pathlib import Path

import torch
import torchvision
import transformers
from reporting import processor
from torch import Tensor, nn

import ensemble_view
from ensemble_view import Compose, Delete
from ensemble_view.bench.overhead import Overhead, overhead

SEED = 0
BATCH = 32
ROUNDS = 3
LIMIT = 1.10

Made = tuple[nn.Module, Tensor]


def image_model(name: str, batch: int) -> Made:
    """Build a model of torchvision and a batch of images."""
    return torchvision.models.get_model(name), torch.randn(batch, 3, 224, 224)


def language_model(batch: int, layers: int = 12, tokens: int = 128) -> Made:
    """Build a GPT-2 of the default configuration and a batch of tokens."""
    config = transformers.GPT2Config(n_layer=layers)
    return transformers.GPT2LMHeadModel(config), torch.randint(config.vocab_size, (batch, tokens))


MODELS: dict[str, Callable[[int], Made]] = {
    "torchvision resnet50, 224 pixels": lambda batch: image_model("resnet50", batch),
    "torchvision vit_b_16, 224 pixels": lambda batch: image_model("vit_b_16", batch),
    "transformers GPT-2, 12 layers, 128 tokens": language_model,
}


def measure(make: Callable[[int], Made], *, batch: int = BATCH, rounds: int = ROUNDS) -> Overhead:
    """Time one model.

    Args:
        make: Builds the model and its input for a batch size.
        batch: Examples.
        rounds: How often each side is timed.

    Returns:
        The figures.
    """
    torch.manual_seed(SEED)
    model, example = make(batch)
    # Random initial weights would leave branches at zero; every weight is moved.
    for parameter in model.parameters():
        spread = 0.1 if parameter.ndim < 2 else 0.01
        parameter.data += spread * torch.randn_like(parameter)
    chain = ensemble_view.unravel(model, example[:2])
    last = len(chain) - 1
    interventions = [Compose(), *map(Delete, (0, last // 2, last))]
    return overhead(chain, example, interventions, rounds=rounds)


def run(
    folder: Path,
    models: dict[str, Callable[[int], Made]] = MODELS,
    *,
    batch: int = BATCH,
    rounds: int = ROUNDS,
) -> dict[str, Overhead]:
    """Time all models and write the summary.

    Args:
        folder: Where to write.
        models: What to time.
        batch: Examples.
        rounds: How often each side is timed.

    Returns:
        The figures of each model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, make in models.items():
        found[name] = measure(make, batch=batch, rounds=rounds)
        print(f"{name}\n{found[name]}\n", flush=True)
        # After each model, so that a run that is stopped keeps what it measured.
        (folder / "summary.md").write_text(_summary(found))
    return found


def _summary(found: dict[str, Overhead]) -> str:
    some = next(iter(found.values()))
    lines = [
        "# The engine against the models' own eager blocks",
        "",
        f"Made by `python analyses/engine_overhead.py` on {datetime.date.today()}, "
        f"{processor()}, {os.cpu_count()} cores of which one thread is used, seed {SEED}, random "
        f"weights, batches of {some.batch_size}; ensemble_view {ensemble_view.__version__}, torch "
        f"{torch.__version__}, torchvision {torchvision.__version__}, transformers "
        f"{transformers.__version__}, Python {platform.python_version()}.",
        "",
        "CPU seconds per batch, medians over rounds in turns. *eager*: the modules that are the "
        "blocks in the unmodified model, called with the arguments that the model calls them with, "
        "in evaluation and inference mode, in the faster of two memory layouts, as often as the "
        "engine evaluates each; torch's fused attention is left on. *engine, blocks*: the engine's "
        "evaluations of these blocks. Not in the ratio: the stem, links, the shortcuts of deleted "
        "blocks and the heads; *engine, all* has them in, with nothing that corresponds to them on "
        "the eager side. The plans: the full net, and its first, middle and last block deleted. "
        f"Aim: a ratio of at most {LIMIT:.2f}.",
        "",
        "| model | block evaluations | eager (layout) | engine, blocks | ratio | smallest–largest "
        "| engine, all | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in found.items():
        lines.append(
            f"| {name} | {figures.block_evaluations} | {figures.eager:.2f} ({figures.layout}) "
            f"| {figures.blocks:.2f} | **{figures.ratio:.2f}** "
            f"| {min(figures.ratios):.2f}–{max(figures.ratios):.2f} "
            f"| {figures.walk:.2f} | {figures.walk_ratio:.2f} |"
        )
    left_out = {name: figures.left_out for name, figures in found.items() if figures.left_out}
    for name, blocks in left_out.items():
        lines.append(f"\nLeft out of {name}: {', '.join(blocks)}, which no one module is.")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    target = Path(__file__).with_suffix("")
    run(target)
