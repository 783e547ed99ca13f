"""Folders of images with one subfolder per class: what counts as a class, and in which order."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from torchvision.datasets.folder import IMG_EXTENSIONS

from ensemble_view.errors import DataError

__all__ = ["ClassFolders", "ClassOrder", "in_numeric_order", "read_class_folders"]

ClassOrder: TypeAlias = Literal["text", "numeric"]
"""``text``: as torchvision's ImageFolder sorts names; ``numeric``: whole numbers by their value."""

_SPLITS = frozenset(
    [
        "train",
        "training",
        "trainset",
        "val",
        "valid",
        "validation",
        "valset",
        "test",
        "testing",
        "testset",
        "dev",
        "eval",
    ]
)
_HIDDEN = ("__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information")
_MOST_NAMED = 4


@dataclass(frozen=True)
class ClassFolders:
    """The images of a folder by class.

    Args:
        root: The folder that has one subfolder per class.
        part: The split that was chosen, if the folder has any.
        names: Of the classes, in their order.
        files: Paths relative to the root.
        labels: The position of each file's class among the names.
        remarks: What was left out or chosen, one sentence each.
    """

    root: Path
    part: str | None
    names: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    remarks: tuple[str, ...]


def in_numeric_order(names: Sequence[str]) -> list[str] | None:
    """Sort names that are whole numbers by their value.

    Args:
        names: Of classes.

    Returns:
        The names in that order; None where one is no whole number.

    Example:
        >>> in_numeric_order(["0", "1", "10", "2"]), in_numeric_order(["cat", "2"])
        (['0', '1', '2', '10'], None)
    """
    if not all(name.isascii() and name.isdigit() for name in names):
        return None
    return sorted(names, key=lambda name: (int(name[:300]), name))


def read_class_folders(path: Path, split: str, order: ClassOrder | None = None) -> ClassFolders:
    """List the images of a folder with one subfolder per class.

    Hidden folders and files (names that begin with a dot, and ``__MACOSX``) are left out. Links to
    folders are followed, each real folder once.

    Args:
        path: The folder.
        split: The part of that name is taken if it is there and has subfolders itself.
        order: Of the classes; by default as text.

    Returns:
        Classes and files.

    Raises:
        DataError: If it has no classes, a class has no image, or its subfolders are splits.
    """
    remarks: list[str] = []
    part = None
    inner = path / split
    if split not in ("", ".", "..") and inner.is_dir() and _folders(inner)[0]:
        remarks.append(f"{path} has splits; {split} was taken.")
        path, part = inner, split
    shown, hidden = _folders(path)
    _refuse_splits(path, shown, split)
    if not shown:
        raise DataError(
            f"{path} holds no labelled images (it has no subfolder): expected one subfolder per "
            "class, each with at least one image."
        )
    names = sorted(shown)
    if order == "numeric":
        numbers = in_numeric_order(names)
        if numbers is None:
            raise DataError(
                f"The class folders of {path} are not all whole numbers "
                f"({_listed([n for n in names if not n.isdigit()])}): leave out the numeric order."
            )
        names = numbers
    files: list[str] = []
    labels: list[int] = []
    empty: list[str] = []
    seen = {os.path.realpath(path)}
    left_out = list(hidden)
    for label, name in enumerate(names):
        found = sorted(_images(path / name, seen, left_out))
        if not found:
            empty.append(name)
        files += [file.relative_to(path).as_posix() for file in found]
        labels += [label] * len(found)
    if empty:
        raise DataError(
            f"{path} holds no labelled images in the class "
            f"{'folder' if len(empty) == 1 else 'folders'} {_listed(empty)}: expected one "
            "subfolder per class, each with at least one image of its own; remove what is no "
            "class."
        )
    if left_out:
        noun = "entry was" if len(left_out) == 1 else "entries were"
        remarks.append(f"{len(left_out)} hidden {noun} left out of {path}: {_listed(left_out)}.")
    return ClassFolders(path, part, tuple(names), tuple(files), tuple(labels), tuple(remarks))


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in _HIDDEN


def _folders(path: Path) -> tuple[list[str], list[str]]:
    """Names of the subfolders, those that count and those that are hidden."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir()]
    except OSError as error:
        raise DataError(
            f"{path} cannot be listed ({error.strerror or error}): check its permissions."
        ) from error
    hidden = sorted(name for name in names if _is_hidden(name))
    return [name for name in names if not _is_hidden(name)], hidden


def _images(folder: Path, seen: set[str], left_out: list[str]) -> Iterator[Path]:
    """Image files below a folder; links are followed, each real folder once."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(here) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(
                f"{here} cannot be listed ({error.strerror or error}): check its permissions."
            ) from error
        for entry in entries:
            is_image = entry.name.lower().endswith(IMG_EXTENSIONS)
            if _is_hidden(entry.name):
                if entry.is_dir() or is_image:
                    left_out.append(f"{here.name}/{entry.name}")
            elif entry.is_dir():
                waiting.append(here / entry.name)
            elif is_image:
                yield here / entry.name


def _refuse_splits(path: Path, names: Sequence[str], split: str) -> None:
    """Refuse to take the splits of a data set for its classes."""
    splits = sorted(name for name in names if name.lower() in _SPLITS)
    nested = [name for name in splits if _folders(path / name)[0]]
    if len(splits) == len(names) > 0 or len(nested) > 1:
        raise DataError(
            f"{path} holds {_listed(splits)}, which are splits and not classes, and no split "
            f"{split!r} with one subfolder per class: choose one with --split "
            f"{(nested or splits)[-1]} (split= in Python), or give the folder of one split."
        )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
