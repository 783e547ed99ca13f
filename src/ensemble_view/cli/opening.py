"""What commands begin with: the model and the data that their options name."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from ensemble_view.checkpoints import Checkpoint, load_checkpoint
from ensemble_view.cli.progress import stages
from ensemble_view.datasets import Data, is_text, open_data
from ensemble_view.errors import DataError
from ensemble_view.studies.subject import text_for

__all__ = ["command_line", "device_named", "load", "open_named"]


def command_line() -> str:
    """Give the command as it was typed.

    Returns:
        Quoted for a shell.
    """
    return shlex.join(["ensemble-view", *sys.argv[1:]])


def device_named(name: str) -> torch.device:
    """Read --device.

    Args:
        name: auto, or as torch names devices.

    Returns:
        The device.

    Raises:
        DataError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DataError(f"There is no device {name!r}; use auto, cpu, cuda or cuda:N.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"The device {name} is not there: torch finds no CUDA; use --device cpu.")
    return device


def load(model: str, arch: str | None, trust_pickle: bool, device: str) -> Checkpoint:
    """Load the model that a command names.

    Args:
        model: Of MODEL.
        arch: Of --arch.
        trust_pickle: Of --trust-pickle.
        device: Of --device.

    Returns:
        The checkpoint, on its device.
    """
    # What is fetched shows a progress bar of its own.
    shown: AbstractContextManager[Callable[[str], None]] = (
        stages() if Path(model).exists() else nullcontext(lambda stage: None)
    )
    with shown as begin:
        begin("load the model")
        return load_checkpoint(
            model, architecture=arch, trust_pickle=trust_pickle, device=device_named(device)
        )


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise DataError(
            f"{option} is {text!r}; write one number per channel, such as 0.485,0.456,0.406."
        ) from None


def open_named(
    checkpoint: Checkpoint,
    data: str | None,
    split: str,
    root: Path | None,
    download: bool,
    mean: str | None,
    std: str | None,
    resize: int | None,
    crop: int | None,
    limit: int | None,
    seed: int,
    tokenizer: str | None = None,
    length: int | None = None,
) -> Data:
    """Open the data that a command names, by default the checkpoint's own.

    Args:
        checkpoint: The model.
        data: Of --data.
        split: Of --split.
        root: Of --root.
        download: Of --download.
        mean: Of --mean.
        std: Of --std.
        resize: Of --resize.
        crop: Of --crop.
        limit: Of --limit.
        seed: Of --seed.
        tokenizer: Of --tokenizer.
        length: Of --length.

    Returns:
        The data.

    Raises:
        DataError: If neither names a data set.
    """
    name = data or checkpoint.data
    if name is None:
        raise DataError(
            "The checkpoint does not name its data set; say --data digits, cifar10, an .npz file, "
            "a folder with one subfolder per class, or a text file."
        )
    if tokenizer is not None or length is not None or is_text(name):
        text = text_for(checkpoint.model, name, tokenizer=tokenizer, length=length, split=split)
        return text if limit is None else text.subset(limit, seed)
    said = checkpoint.normalisation or (None, None)
    labelled = open_data(
        name,
        split=split,
        root=root,
        download=download,
        mean=_numbers(mean, "--mean") or said[0],
        std=_numbers(std, "--std") or said[1],
        resize=resize,
        crop=crop,
        limit=limit,
        seed=seed,
    )
    if checkpoint.class_names is not None:
        labelled.check_classes(len(checkpoint.class_names))
    return labelled
