"""What studies of gradients begin with: a chain of single sums, data, a loss per example."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from ensemble_view.core.chain import Chain
from ensemble_view.data.data import examples_in
from ensemble_view.data.text_data import TextData
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.paths.losses import Loss, cross_entropy, next_token
from ensemble_view.study.subject import Subject, examine

__all__ = ["gradient_subject", "loss_name", "pieces", "placed"]

_NAMES: dict[Loss, str] = {
    cross_entropy: "cross-entropy",
    next_token: "the next token's cross-entropy",
}


def gradient_subject(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    loss: Loss | None,
    *,
    limit: int | None = None,
    seed: int = 0,
    tokenizer: Any = None,
    length: int | None = None,
    output: str | int | None = None,
    batch_size: int | None = None,
) -> tuple[Subject, Loss]:
    """Bring model, data and loss together.

    Args:
        model: A module, a chain of granularity ``branch``, or a loaded checkpoint.
        data: As for :func:`ensemble_view.lesion`; with a loss of one's own, targets may be
            anything.
        loss: Of each example; None: cross-entropy, of text that of the next token.
        limit: At most so many examples.
        seed: Of the choice of examples.
        tokenizer: Of text.
        length: Of text: the most tokens of a sequence.
        output: Of several, which the loss is of.
        batch_size: As the user says it.

    Returns:
        The subject, each residual sum a block, and the loss.
    """
    subject = examine(
        model,
        data,
        granularity="branch",
        limit=limit,
        seed=seed,
        any_targets=loss is not None,
        tokenizer=tokenizer,
        length=length,
        output=output,
        batch_size=batch_size,
    )
    if loss is None:
        loss = next_token if isinstance(subject.data, TextData) else cross_entropy
    return subject, loss


def loss_name(loss: Loss) -> str:
    """Name a loss in words.

    Args:
        loss: Any.

    Returns:
        What a result calls it.

    Example:
        >>> loss_name(cross_entropy)
        'cross-entropy'
    """
    return _NAMES.get(loss) or str(getattr(loss, "__name__", "loss"))


def pieces(inputs: Any, labels: Any, size: int) -> Iterator[tuple[Any, Any]]:
    """Cut a batch into smaller ones.

    Args:
        inputs: A tensor, or several in a tuple or dictionary; what has not one entry per example
            stays whole.
        labels: Likewise, one entry per example.
        size: Examples in each; the last may have fewer.

    Yields:
        Inputs and labels.

    Example:
        >>> import torch
        >>> [len(labels) for _, labels in pieces({"x": torch.zeros(5, 2)}, torch.zeros(5), 2)]
        [2, 2, 1]
    """
    count = examples_in(inputs)

    def cut(value: Any, start: int) -> Any:
        if isinstance(value, Mapping):
            return {name: cut(each, start) for name, each in value.items()}
        if isinstance(value, tuple | list):
            return tuple(cut(each, start) for each in value)
        whole = not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count
        return value if whole else value[start : start + size]

    for start in range(0, count, size):
        yield cut(inputs, start), cut(labels, start)


def placed(value: Any, device: Any) -> Any:
    """Move tensors to a device.

    Args:
        value: A tensor, or several in a tuple or dictionary; anything else is left as it is.
        device: Where to.

    Returns:
        The same on that device.
    """
    if isinstance(value, Mapping):
        return {name: placed(each, device) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return tuple(placed(each, device) for each in value)
    return value.to(device) if isinstance(value, Tensor) else value
