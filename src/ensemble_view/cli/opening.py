"""What commands begin with: the model and the data that their options name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from ensemble_view.cli.groups import DataOptions, ModelOptions, words
from ensemble_view.cli.progress import stages
from ensemble_view.data.data import Data
from ensemble_view.data.opening import open_data
from ensemble_view.data.text_sources import is_text
from ensemble_view.errors import DataError
from ensemble_view.nets.checkpoints import Checkpoint, load_checkpoint
from ensemble_view.reading.regular import exists
from ensemble_view.study.recorded import command_text
from ensemble_view.study.subject import text_for

__all__ = ["command_line", "device_named", "load", "open_named"]

_ALL = "all"


def command_line() -> str:
    """Give the command as it was typed, for the record.

    Returns:
        Quoted for a shell, with relative paths and without secrets.
    """
    return command_text(words())


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


def load(model: str, options: ModelOptions, *, one_output: bool = False) -> Checkpoint:
    """Load the model that a command names.

    Args:
        model: Of MODEL.
        options: How, and where to.
        one_output: Whether the command follows one output and has no use for all.

    Returns:
        The checkpoint, on its device.

    Raises:
        DataError: If all outputs are asked for where one is followed.
    """
    if one_output and options.output == _ALL:
        raise DataError(
            "--output all is for a measure of one's own, in Python; this command follows one "
            "output: name it by its key or position."
        )
    # What is fetched shows a progress bar of its own.
    shown: AbstractContextManager[Callable[[str], None]] = (
        stages() if exists(model) else nullcontext(lambda stage: None)
    )
    with shown as begin:
        begin("load the model")
        checkpoint = load_checkpoint(
            model,
            architecture=options.arch,
            trust_pickle=options.trust_pickle,
            device=device_named(options.device),
        )
    return replace(checkpoint, output=options.output)


def _numbers(text: str | None, option: str) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise DataError(
            f"{option} is {text!r}; write one number per channel, such as 0.485,0.456,0.406."
        ) from None


def _names(file: Path) -> list[str]:
    """Read the class names of --classes, one a line."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--classes {file} cannot be read ({error}): give a text file with a class name a line."
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"--classes {file} holds no names: write one a line.")
    return names


def open_named(checkpoint: Checkpoint, options: DataOptions, seed: int) -> Data:
    """Open the data that a command names, by default the checkpoint's own.

    Images whose normalisation no option says stay raw; each net brings its own.

    Args:
        checkpoint: The model.
        options: Which data, and how.
        seed: Of --seed, which chooses the examples where there is a limit.

    Returns:
        The data.

    Raises:
        DataError: If neither names a data set.
    """
    name = options.data or checkpoint.data
    if name is None:
        raise DataError(
            "The checkpoint does not name its data set; say --data digits, cifar10, an .npz file, "
            "a folder with one subfolder per class, or a text file."
        )
    if options.tokenizer is not None or options.length is not None or is_text(name):
        text = text_for(
            checkpoint.model,
            name,
            tokenizer=options.tokenizer,
            length=options.length,
            split=options.split,
        )
        return text if options.limit is None else text.subset(options.limit, seed)
    return open_data(
        name,
        split=options.split,
        root=options.root,
        download=options.download,
        mean=_numbers(options.mean, "--mean"),
        std=_numbers(options.std, "--std"),
        normalise=options.normalise,
        resize=options.resize,
        crop=options.crop,
        limit=options.limit,
        seed=seed,
        class_order=options.class_order,
        classes=None if options.classes is None else _names(options.classes),
    )
