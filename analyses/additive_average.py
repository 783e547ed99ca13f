"""Are averages over left-out branches those of an ensemble? A test that a true ensemble passes.

That the average of nets with branches left out is no better than the full net does not tell a
residual net from an ensemble: the members of a true ensemble, left out at random, do no better than
all of them together. What an ensemble of branches must do is add up. Its logits are
``f(S) = f - sum of c_i over the branches i that are left out``, with ``c_i = f - f(all but i)``
from single deletions, for every keep-set S. Averaged over keep-sets, the additive prediction is
held against what the net says:

    misfit = sum of |mean over S of (f(S) - prediction(S))|^2 / sum of |f - mean over S of f(S)|^2

over images and classes, logits centred over the classes. It is 0 for nets wired as branches,
independent ones and copies alike, near 1 or above where the prediction is worth nothing. One
deletion is predicted exactly by definition, so that two or more are left out. A small misfit does
not make a net an ensemble: one strong branch beside dead ones adds up, too.

    python analyses/additive_average.py [--scale digits]

writes ``analyses/additive_average/``: ``misfits.csv`` (by net, seed and number left out) and
``summary.md``. Minutes on one CPU core once the nets are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from averaged_nets import SETS
from calibration_error import Floats
from keep_sets import KeepSet, blocks_of, drawn, probabilities
from reporting import in_points, made_by, markdown_table, t_interval, write
from trained_nets import Scale, chosen_scale, command_of, folder_of, scale_options

from ensemble_view.training.regimes import EffectivePaths

NETS = {
    "digits": ("resnet56", "resnet56v2"),
    "cifar10": ("resnet20", "resnet110"),
    "cifar10-fast": ("resnet20",),
}
LEFT_OUT = (2, 5, 10)
MOST = 0.10
"""Largest misfit that counts as adding up."""


def additive(full: Floats, without: Floats, keep_sets: Sequence[KeepSet]) -> Floats:
    """Predict logits as if the branches added up.

    Args:
        full: Logits of the full net, (images, classes).
        without: Of the net without each branch in turn, (blocks, images, classes).
        keep_sets: Which branches are kept.

    Returns:
        The predictions, (keep-sets, images, classes).
    """
    left_out = np.ones((len(keep_sets), len(without)))
    for row, kept in zip(left_out, keep_sets, strict=True):
        row[list(kept)] = 0
    lost: Floats = np.einsum("sb,bic->sic", left_out, full - without)
    return full - lost


def misfit(full: Floats, answers: Floats, predicted: Floats) -> float:
    """Say how far the averaged answers are from the averaged predictions.

    Args:
        full: Logits of the full net, (images, classes).
        answers: Of each keep-set, (keep-sets, images, classes).
        predicted: For each keep-set, of the same shape.

    Returns:
        0 where they agree; 1 where they differ by as much as the average differs from the full net;
        nan where leaving branches out changes nothing.

    Example:
        >>> full, without = np.array([[4.0, 0.0]]), np.array([[[3.0, 0.0]], [[1.0, 0.0]]])
        >>> keep_sets = [(), (0,)]
        >>> misfit(full, np.array([[[0.0, 0.0]], [[1.0, 0.0]]]), additive(full, without, keep_sets))
        0.0
    """
    average, expected = centred(answers).mean(axis=0), centred(predicted).mean(axis=0)
    whole = float(((centred(full) - average) ** 2).sum())
    return float(((average - expected) ** 2).sum()) / whole if whole > 0 else float("nan")


def centred(logits: Floats) -> Floats:
    """Take the mean over the classes off, which no probability depends on."""
    found: Floats = logits - logits.mean(axis=-1, keepdims=True)
    return found


def measured(scale: Scale, net: str, seed: int) -> list[dict[str, object]]:
    """Leave branches of one net out.

    Args:
        scale: Data and recipe.
        net: Its architecture.
        seed: Of its training, and of the keep-sets.

    Returns:
        A row per number left out.
    """
    model = scale.net(net, seed).model.to(scale.device)
    blocks, generator = len(blocks_of(model)), torch.Generator().manual_seed(seed)
    counts = [count for count in LEFT_OUT if count < blocks]
    singles = [tuple(i for i in range(blocks) if i != left) for left in range(blocks)]
    drawings = [drawn(EffectivePaths(blocks - count), model, SETS, generator) for count in counts]
    keep_sets = [*singles, *(kept for drawing in drawings for kept in drawing)]
    # The logarithm of a probability is the logit but for a shift that is the same for all classes.
    answers = probabilities(model, scale.test, keep_sets)
    logits = np.log(np.maximum(answers, np.finfo(np.float64).tiny))
    full, without, rest = logits[0], logits[1 : 1 + blocks], logits[1 + blocks :]
    rows = []
    for count, drawing, said in zip(counts, drawings, np.split(rest, len(counts)), strict=True):
        predicted = additive(full, without, drawing)
        errors = [
            float((centred(each).mean(axis=0).argmax(axis=1) != scale.test.labels).mean())
            for each in (said, predicted)
        ]
        rows.append(
            {"net": net, "seed": seed, "blocks": blocks, "left_out": count,
             "misfit": misfit(full, said, predicted), "error": errors[0], "predicted": errors[1]}
        )  # fmt: skip
    return rows


def run(folder: Path, scale: Scale, nets: Sequence[str]) -> pd.DataFrame:
    """Leave branches of all nets out and write table and summary.

    Args:
        folder: Where to write.
        scale: Data, recipe and seeds.
        nets: The architectures.

    Returns:
        A row per net, seed and number left out.
    """
    table = pd.DataFrame(
        [row for net in nets for seed in scale.seeds for row in measured(scale, net, seed)]
    )
    write(folder, {"misfits": table}, {}, _summary(scale, table))
    return table


def _summary(scale: Scale, table: pd.DataFrame) -> list[str]:
    rows = []
    for (net, count), own in table.groupby(["net", "left_out"], sort=False):
        value, low, high = t_interval(own["misfit"])
        # Never below zero, which a t interval does not know.
        low = max(0.0, low)
        says = "yes" if high <= MOST else "no" if low > MOST else "open"
        interval = f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if len(own) > 1 else "")
        errors = [in_points(t_interval(own[name])) for name in ("error", "predicted")]
        rows.append((net, f"{count} of {own['blocks'].iloc[0]}", interval, *errors, says))
    return [
        "# Averages over left-out branches against the additive prediction",
        "",
        f"{made_by(command_of(__file__, scale), scale.device)} {scale.words} {SETS} random "
        "keep-sets per net and number, drawn with the net's seed. Brackets: 95 % t intervals over "
        "the seeds, not corrected for being several.",
        "",
        "*misfit*: squared distance of the averaged logits from those predicted by adding up "
        "single deletions, over their squared distance from the full net's; 0 for a true ensemble "
        "of branches. *error*: of the averaged logits, and of the averaged predictions, in per "
        f"cent. The branches *add up* if the misfit's interval lies below {MOST:g}, do not if "
        "above, else it is open. Adding up is what an ensemble must do; it does not make a net an "
        "ensemble.",
        "",
        *markdown_table(("net", "left out", "misfit", "error", "error predicted", "add up?"), rows),
    ]


if __name__ == "__main__":
    chosen = chosen_scale(scale_options(__doc__).parse_args())
    target = folder_of(__file__, chosen)
    run(target, chosen, NETS[chosen.name])
    print((target / "summary.md").read_text())
