"""Open data by name or path, or take what a user already has.

Labelled examples are opened here; text by ``open_text``; a user's own measure takes ``TargetData``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch.utils.data import DataLoader

from ensemble_view.data.class_folders import ClassOrder, read_class_folders
from ensemble_view.data.labelled_data import IndexedData, LabelledData, Preprocessing, check_labels
from ensemble_view.data.loader_data import LoaderData, labels_of
from ensemble_view.data.normalisation import AS_GIVEN, choose_normalisation
from ensemble_view.data.sources import ArraySource, DatasetSource, FileSource
from ensemble_view.errors import DataError, UnreadableError
from ensemble_view.nets.bundled import bundled
from ensemble_view.reading.arrays import npz_names, read_npz
from ensemble_view.reading.regular import exists, is_folder

__all__ = ["DATA_NAMES", "as_data", "default_root", "open_data"]

_TORCHVISION = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
}
DATA_NAMES = ("digits", *_TORCHVISION)
"""The data sets that have a name of their own."""

_CHANNELS = (1, 3, 4)
_ARRAYS = ("images", "labels", "classes", "split", "scale")


def default_root() -> Path:
    """Return the folder where downloaded data sets lie unless another is named.

    Returns:
        `ensemble_view` in the folder that XDG_CACHE_HOME names, else in the user's `.cache`.

    Example:
        >>> default_root().name
        'ensemble_view'
    """
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "ensemble_view"


def open_data(
    spec: str | Path,
    *,
    split: str = "test",
    root: str | Path | None = None,
    download: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalise: str | None = None,
    resize: int | None = None,
    crop: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    class_order: ClassOrder | None = None,
    classes: Sequence[str] | None = None,
) -> IndexedData:
    """Open labelled data by name or path.

    Args:
        spec: "digits" (bundled), "cifar10", "cifar100", "mnist" or "fashion-mnist" (through
            torchvision), the path of an `.npz` file, or a folder with one subfolder per class. An
            `.npz` holds `images` (N×H×W×C uint8, or N×C×H×W floating point) and `labels`, and may
            hold `classes` (names), `split` (a word per example) and `scale` (the pixel value that
            counts as 1; 255 if left out).
        split: Which part, where the data has parts: in a folder, the subfolder of that name if it
            has subfolders itself; otherwise all examples are taken.
        root: Folder of torchvision's data sets; `default_root()` unless given.
        download: Whether torchvision may fetch a data set that is not there.
        mean: Per channel, in units of the scaled pixels. By default a study takes what the
            checkpoint says; where that says nothing, pixels stay scaled to 0..1, and the study
            warns.
        std: Per channel, in units of the scaled pixels.
        normalise: Instead, the name of a preset: "imagenet", "cifar10", "cifar100", "mnist",
            "fashion-mnist", "digits", "inception" or "clip"; "none" for a net that takes pixels
            scaled to 0..1.
        resize: Length of the shorter side, pixels.
        crop: Side of the square in the centre, pixels.
        limit: At most so many examples, the classes as even as they can be.
        seed: Seed of that choice.
        class_order: How the names of class folders are sorted to make class indices: ``text``, as
            torchvision's ImageFolder does, or ``numeric``, whole numbers by their value. Text
            unless said; a study warns where the two differ.
        classes: The names of the net's classes in the order of its outputs; the data's own names
            are matched to them, and a class that the data do not have is then no mistake.

    Returns:
        The data.

    Raises:
        DataError: If it cannot be found or read, or is not what it should be.

    Example:
        >>> open_data("digits", limit=100)
        IndexedData('digits', 100 examples)
    """
    chosen = choose_normalisation(normalise, mean, std)
    if isinstance(spec, str) and spec in _TORCHVISION:
        data = _open_torchvision(spec, split, Path(root or default_root()), download)
    else:
        path = bundled("digits.npz") if spec == "digits" else Path(spec)
        if not exists(path):
            raise DataError(
                f"There is no data {str(spec)!r}: expected one of {', '.join(DATA_NAMES)}, an .npz "
                "file, or a folder with one subfolder per class."
            )
        data = _open_folder(path, split, class_order) if is_folder(path) else _open_npz(path, split)
    settings = Preprocessing(
        scale=data.preprocessing.scale,
        resize=resize,
        crop=crop,
        mean=chosen.mean,
        std=chosen.std,
    )
    name = spec if isinstance(spec, str) and spec in DATA_NAMES else data.name
    data = replace(data, name=name, preprocessing=settings, normalised_by=chosen.by)
    if classes is not None:
        data = data.with_classes(classes, "the names given")
    return data if limit is None else data.subset(limit, seed)


def as_data(
    data: Any,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    normalise: str | None = None,
    name: str = "data",
) -> LabelledData:
    """Take data in the form that a user has it.

    Args:
        data: A LabelledData (returned as it is, or with this normalisation), a DataLoader (its own
            batches are kept; if it shuffles, the examples are read in order instead), a map-style
            data set of (input, label), or a pair (inputs, labels) of tensors or arrays. Inputs of
            type uint8 are images N×H×W×C, N×C×H×W or N×H×W, and are divided by 255; all others go
            to the model as they are, in its floating-point type.
        mean: Per channel. Where none is given, a study normalises images of type uint8 as the
            checkpoint says, and leaves all other inputs as they are.
        std: Per channel.
        normalise: Instead, the name of a preset, or "none", as for :func:`open_data`.
        name: What to call the data in tables.

    Returns:
        The data.

    Raises:
        DataError: If it has another form, or its values cannot be used.

    Example:
        >>> as_data((torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 1, 0])))
        IndexedData('data', 4 examples)
    """
    chosen = choose_normalisation(normalise, mean, std)
    settings = Preprocessing(mean=chosen.mean, std=chosen.std)
    if isinstance(data, LabelledData):
        if chosen.by is None:
            return data
        if not isinstance(data, IndexedData):
            raise DataError("A DataLoader's batches cannot be normalised: let its data set do it.")
        changed = replace(data.preprocessing, mean=chosen.mean, std=chosen.std)
        return replace(data, preprocessing=changed, normalised_by=chosen.by)
    if isinstance(data, DataLoader):
        if chosen.mean is not None:
            raise DataError("A DataLoader's batches cannot be normalised: let its data set do it.")
        return LoaderData.of(data, name)
    source: ArraySource | DatasetSource
    if isinstance(data, tuple | list) and len(data) == 2:
        source = _pair(data[0], data[1], "the pair")
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not _is_plain(data):
        source = DatasetSource(data, labels_of(data))
    else:
        raise DataError(
            f"Data is of type {type(data).__name__}: expected a DataLoader, a data set of (input, "
            "label), or a pair (inputs, labels) of tensors."
        )
    by = chosen.by or (None if source.pixels else AS_GIVEN)
    return IndexedData(name, source, np.arange(len(source.labels)), settings, normalised_by=by)


def _is_plain(data: object) -> bool:
    """Say whether a value has a length and indexing but is no data set of examples."""
    return isinstance(data, str | bytes | tuple | list | Mapping | np.ndarray | torch.Tensor)


def _pair(inputs: Any, labels: Any, where: str) -> ArraySource:
    """Return a source of inputs and labels in memory, after checking both."""
    values = _as_array(inputs, where)
    targets = check_labels(_as_array(labels, where), where)
    if len(values) != len(targets):
        raise DataError(
            f"{where} has {len(values)} inputs and {len(targets)} labels: expected as many of each."
        )
    if np.issubdtype(values.dtype, np.floating):
        if not np.isfinite(values).all():
            first = int(
                np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1))[0]
            )
            raise DataError(
                f"Inputs of {where} hold values that are not finite (NaN or infinity), first in "
                f"example {first}: mend or leave out those examples."
            )
    elif values.dtype == np.uint8:
        values = _channels_last(values, where)
    return ArraySource(values, targets)


def _as_array(values: Any, where: str) -> npt.NDArray[Any]:
    """Return a tensor or array as an array of numbers with at least one axis."""
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values
    if not isinstance(array, np.ndarray | list | tuple):
        raise DataError(
            f"{where} holds a {type(values).__name__}: expected tensors or arrays of inputs and "
            "labels."
        )
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise DataError(f"{where} is no array ({error}): expected inputs of one shape.") from error
    if array.ndim == 0 or array.dtype.kind not in "biuf":
        raise DataError(
            f"{where} holds an array of type {array.dtype} and shape {array.shape}: expected "
            "numbers, one row per example."
        )
    return array


def _channels_last(images: npt.NDArray[np.uint8], where: str) -> npt.NDArray[np.uint8]:
    """Return uint8 images as N×H×W×C, whichever way round the channels are."""
    if images.ndim == 3:
        return images[..., None]
    if images.ndim == 4 and images.shape[3] in _CHANNELS:
        return images
    if images.ndim == 4 and images.shape[1] in _CHANNELS:
        return np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    raise DataError(
        f"Images of {where} have shape {images.shape} and type uint8: expected N×H×W, or "
        "N×H×W×C with 1, 3 or 4 channels."
    )


def _open_npz(path: Path, split: str) -> IndexedData:
    """Open an .npz file with `images` and `labels`."""
    arrays = _read_npz(path)
    images = arrays["images"]
    if images.ndim == 3 and images.dtype.kind == "f":
        images = images[:, None]
    if images.ndim not in (3, 4) or not (images.dtype == np.uint8 or images.dtype.kind == "f"):
        raise DataError(
            f"The images in {path} have shape {images.shape} and type {images.dtype}: expected "
            "N×H×W×C uint8, or N×C×H×W floating point; grey images may be N×H×W."
        )
    if images.dtype.kind == "f" and images.shape[1] not in _CHANNELS:
        count = images.shape[1]
        if images.shape[3] in _CHANNELS and count == images.shape[2]:
            raise DataError(
                f"The floating-point images in {path} have shape {images.shape}, channels last: "
                "expected N×C×H×W, so move the channels to the second axis."
            )
    classes = arrays.get("classes")
    source = _pair(images, arrays["labels"], str(path))
    if classes is not None:
        check_labels(source.labels, str(path), len(np.atleast_1d(classes)))
    try:
        names = None if classes is None else tuple(str(name) for name in np.atleast_1d(classes))
    except (SystemError, ValueError) as error:
        # Four bytes a character, which may be no number of a character.
        raise DataError(
            f"The classes in {path} are no text: expected one name per class; save them again."
        ) from error
    scale = _scale(arrays.get("scale"), path)
    chosen, part = np.arange(len(source.labels)), None
    if "split" in arrays:
        chosen, part = _members(arrays["split"], split, path, len(source.labels)), split
    return IndexedData(path.name, source, chosen, Preprocessing(scale=scale), names, part)


def _scale(stored: npt.NDArray[Any] | None, path: Path) -> float:
    """Return the pixel value that counts as 1."""
    if stored is None:
        return 255.0
    if stored.size != 1 or stored.dtype.kind not in "iuf" or not float(stored.item()) > 0:
        raise DataError(f"The scale in {path} is {stored!r}: expected one number above zero.")
    return float(stored.item())


def _members(parts: npt.NDArray[Any], split: str, path: Path, count: int) -> npt.NDArray[np.int64]:
    """Return the positions that belong to a split."""
    if parts.shape != (count,):
        raise DataError(
            f"The split in {path} has shape {parts.shape}: expected a word for each of the "
            f"{count} examples."
        )
    chosen = np.flatnonzero(parts.astype(str) == split)
    if len(chosen) == 0:
        known = ", ".join(np.unique(parts.astype(str)))
        raise DataError(f"{path} has no split {split!r}: it has {known}.")
    return chosen


def _read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an .npz file that are known here; never unpickles."""
    try:
        arrays = read_npz(path, _ARRAYS)
        missing = [name for name in ("images", "labels") if name not in arrays]
        held = npz_names(path) if missing else []
    except UnreadableError as error:
        raise DataError(
            f"{path} cannot be read as data ({error}): expected an .npz file of plain arrays "
            "`images` and `labels`, as numpy.savez writes it."
        ) from error
    if missing:
        raise DataError(
            f"{path} holds {', '.join(held) or 'no arrays'} but no {' and no '.join(missing)}: "
            "expected images (N×H×W×C uint8, or N×C×H×W floating point) and labels."
        )
    return arrays


def _open_folder(path: Path, split: str, order: ClassOrder | None) -> IndexedData:
    """Open a folder of images with one subfolder per class."""
    found = read_class_folders(path, split, order)
    source = FileSource(found.root, found.files, np.array(found.labels, dtype=np.int64))
    # The stroke keeps a folder from passing for a data set with a name of its own.
    inner = found.root.resolve()
    name = f"{inner.name}/" if found.part is None else f"{inner.parent.name}/{found.part}"
    return IndexedData(
        name,
        source,
        np.arange(len(found.labels)),
        Preprocessing(),
        found.names,
        found.part,
        class_order=order or "text, unasked",
        remarks=found.remarks,
    )


def _open_torchvision(name: str, split: str, root: Path, download: bool) -> IndexedData:
    """Open one of torchvision's data sets."""
    if split not in {"train", "test"}:
        raise DataError(f"{name} has no split {split!r}: it has train and test.")
    kind = getattr(torchvision.datasets, _TORCHVISION[name])
    try:
        stored = kind(str(root), train=split == "train", download=download)
    except (RuntimeError, OSError) as error:
        if download:
            raise DataError(
                f"{name} could not be downloaded to {root} ({error}): check the connection and "
                "the folder, or fetch it elsewhere and name its folder with --root."
            ) from error
        raise DataError(
            f"{name} was not found in {root}: name its folder with --root, or allow fetching it "
            "with --download."
        ) from error
    images = np.asarray(stored.data)
    images = images[..., None] if images.ndim == 3 else images
    labels = check_labels(stored.targets, name, len(stored.classes))
    source = ArraySource(images, labels)
    names = tuple(str(label) for label in stored.classes)
    return IndexedData(name, source, np.arange(len(labels)), Preprocessing(), names, split)
