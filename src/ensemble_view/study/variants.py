"""Whether another net that fits the same weights is right far more often than the inferred one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ensemble_view.data.data import Data
from ensemble_view.data.labelled_data import IndexedData, LabelledData
from ensemble_view.errors import CheckpointError
from ensemble_view.nets.adapters.architectures import build_for_weights
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.nets.models.architecture import Architecture, ArchitectureError
from ensemble_view.nets.models.inference import infer
from ensemble_view.nets.models.untraced import untraced
from ensemble_view.statistics.paired import mcnemar_test

__all__ = ["check_variants"]

_EXAMPLES = 200
_BATCH = 32
_LEVEL = 1e-4
_ROUNDS = 3

Correct = npt.NDArray[np.bool_]
Batches = list[tuple[Tensor, Tensor]]


def check_variants(
    checkpoint: Checkpoint,
    data: Data,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> None:
    """Stop where the architecture was guessed, and a variant with the same weights does far better.

    On at most 200 class-balanced examples the variants are held against the inferred net by
    McNemar's exact test at the level 1e-4, divided by their number. Where the inferred net errs too
    rarely for any variant to pass, that costs one forward pass of these examples; else one more for
    each variant, cut short after 32 examples where it is not ahead. At most three choices are
    combined.

    Args:
        checkpoint: Only one whose architecture was inferred is checked.
        data: Only examples with classes are used.
        seed: Of the choice of examples.
        progress: Told that this begins.

    Raises:
        CheckpointError: If there is such a variant; it names the variant and both accuracies.
    """
    if not checkpoint.inferred or checkpoint.lesion is not None:
        return
    if not isinstance(data, LabelledData):
        return
    if progress is not None:
        progress("hold the inferred architecture against others")
    batches = list(_sample(data, seed))
    found = _correct(checkpoint.model, batches)
    if found is None:
        return
    first = found
    architecture = Architecture.parse(checkpoint.architecture)
    begun = architecture
    for _ in range(_ROUNDS):
        best = _best(checkpoint, architecture, batches, found)
        if best is None:
            break
        architecture, found = best
    if architecture == begun:
        return
    raise CheckpointError(
        f"The architecture was inferred as {begun}, which is right on {first.mean():.1%} of "
        f"{len(first)} examples of {data.name}; {architecture} fits the same weights and is right "
        f"on {found.mean():.1%}. Names and shapes of weights do not tell which is meant: say "
        f"--arch {architecture}, or --arch {begun} to keep the inferred one (architecture= in "
        "Python)."
    )


def _best(
    checkpoint: Checkpoint, architecture: Architecture, batches: Batches, found: Correct
) -> tuple[Architecture, Correct] | None:
    """The variant in one choice that is better by the most, if any is beyond chance."""
    others = [o for each in untraced(architecture) for o in each.others if o != architecture]
    if not others or not _better(int((~found).sum()), 0, len(others)):
        return None
    best: tuple[Architecture, Correct] | None = None
    for other in others:
        net = _under(checkpoint, other)
        right = None if net is None else _correct(net, batches, found)
        if right is None:
            continue
        gained, lost = int((right & ~found).sum()), int((found & ~right).sum())
        ahead = best is None or right.sum() > best[1].sum()
        if ahead and gained > lost and _better(gained, lost, len(others)):
            best = other, right
    return best


def _better(gained: int, lost: int, tests: int) -> bool:
    if gained <= lost:
        return False
    return mcnemar_test(lost, gained).p_value < _LEVEL / tests


def _sample(data: LabelledData, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(data, IndexedData):
        yield from data.subset(_EXAMPLES, seed).batches(_BATCH)
        return
    left = _EXAMPLES
    for inputs, labels in data.batches():
        for start in range(0, len(labels), _BATCH):
            if left > 0:
                end = start + min(_BATCH, left)
                yield inputs[start:end], labels[start:end]
                left -= len(labels[start:end])
        if left <= 0:
            return


def _correct(net: nn.Module, batches: Batches, against: Correct | None = None) -> Correct | None:
    """Which examples a net is right on; None where it gives no logits, or is not ahead at first."""
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    parts: list[Correct] = []
    with torch.inference_mode():
        for inputs, labels in batches:
            output = net(inputs.to(device))
            if not isinstance(output, Tensor) or output.ndim != 2:
                return None
            parts.append((output.argmax(1).cpu() == labels).numpy())
            if against is not None and len(parts) == 1:
                before = against[: len(labels)]
                if int(parts[0].sum()) <= int(before.sum()):
                    return None
    return np.concatenate(parts)


def _under(checkpoint: Checkpoint, architecture: Architecture) -> nn.Module | None:
    """The net of another architecture with the same weights; None where it cannot be built."""
    weights = checkpoint.model.state_dict()
    try:
        net = build_for_weights(architecture, weights, infer(weights)).model
        net.load_state_dict(weights)
    except (ArchitectureError, CheckpointError, RuntimeError):
        return None
    like = next(checkpoint.model.parameters())
    return net.eval().to(like.device, like.dtype)
