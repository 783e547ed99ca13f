"""Labelled examples as deterministic batches, wherever they come from."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torchvision.transforms.v2.functional as transforms
from torch import Tensor

from ensemble_view.data.data import Data
from ensemble_view.data.normalisation import AS_GIVEN, GIVEN, in_words
from ensemble_view.data.seeds import check_seed
from ensemble_view.errors import DataError

__all__ = ["IndexedData", "LabelledData", "Preprocessing", "Source", "check_labels", "match_names"]

Indices = npt.NDArray[np.int64]
Batch = tuple[Tensor, Tensor]
_LARGEST_SIDE = 8_192
_MOST_CLASSES = 10_000_000

# Interpolation may leave 0..1 by a little.
_BEYOND = 0.5


def check_labels(labels: npt.ArrayLike, where: str, classes: int | None = None) -> Indices:
    """Return labels as int64 after checking that they can be class indices.

    Args:
        labels: One label per example.
        where: What the labels belong to, for the message.
        classes: Number of classes, if known.

    Returns:
        The labels, shape (N,).

    Raises:
        DataError: If they are not whole numbers in one row, or outside 0..classes-1.

    Example:
        >>> check_labels([0, 2, 1], "the example", classes=3)
        array([0, 2, 1])
    """
    values = np.asarray(labels)
    if values.ndim != 1:
        raise DataError(f"Labels of {where} have shape {values.shape}: expected one per example.")
    if len(values) == 0:
        raise DataError(f"{where} holds no examples: there is nothing to measure.")
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(
            f"Labels of {where} are of type {values.dtype}: expected whole numbers, the index of "
            "each example's class."
        )
    low, high = int(values.min()), int(values.max())
    if high > _MOST_CLASSES:
        raise DataError(
            f"Labels of {where} run up to {high:,}: expected class indices below {_MOST_CLASSES:,}."
        )
    if low < 0 or (classes is not None and high >= classes):
        last = "one less than the number of classes" if classes is None else str(classes - 1)
        raise DataError(
            f"Labels of {where} run from {low} to {high}: expected class indices from 0 to {last}."
        )
    return values.astype(np.int64)


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image between its storage and the model.

    In this order: division of uint8 pixels by `scale`, `resize` of the shorter side with
    antialiased bilinear interpolation, centre `crop`, and (x - mean) / std per channel.

    Args:
        scale: The pixel value that becomes 1.
        resize: Length of the shorter side, pixels.
        crop: Side of the square in the centre, pixels.
        mean: Per channel, in units of the scaled pixels.
        std: Per channel, in units of the scaled pixels.

    Raises:
        DataError: If mean and std do not belong together or cannot be divided by.

    Example:
        >>> Preprocessing(mean=(0.5,), std=(0.5,))(torch.full((1, 1, 2, 2), 255, dtype=torch.uint8))
        tensor([[[[1., 1.],
                  [1., 1.]]]])
    """

    scale: float = 255.0
    resize: int | None = None
    crop: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise DataError("Mean and standard deviation go together: give both or neither.")
        if self.mean is not None and self.std is not None:
            usable = len(self.mean) == len(self.std) and np.isfinite(self.mean + self.std).all()
            if not usable or min(self.std) <= 0:
                raise DataError(
                    f"Found mean {self.mean} and standard deviation {self.std}: expected one "
                    "finite number per channel in each, the deviations above zero."
                )
        for name, value in (("resize", self.resize), ("crop", self.crop)):
            if value is not None and not 1 <= value <= _LARGEST_SIDE:
                raise DataError(f"The {name} is {value:,} pixels: expected 1 to {_LARGEST_SIDE:,}.")

    def shape(self, image: Tensor) -> Tensor:
        """Return images (..., C, H, W) resized and cropped as asked, of the same type."""
        if self.resize is not None:
            image = transforms.resize(image, [self.resize], antialias=True)
        if self.crop is not None:
            height, width = image.shape[-2:]
            if min(height, width) < self.crop:
                raise DataError(
                    f"An image of {height}x{width} pixels is smaller than the crop of "
                    f"{self.crop}: choose a smaller crop, or resize to at least {self.crop}."
                )
            image = transforms.center_crop(image, [self.crop, self.crop])
        return image

    def normalise(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W) scaled and normalised, as floating-point numbers."""
        if images.dtype == torch.uint8:
            images = images.to(torch.float32) / self.scale
        if self.mean is None or self.std is None:
            return images
        if max(map(abs, self.mean)) <= 1 and images.numel():
            low, high = (float(end) for end in images.aminmax())
            if low < -_BEYOND or high > 1 + _BEYOND:
                raise DataError(
                    f"Inputs run from {low:.4g} to {high:.4g}, but the mean "
                    f"({', '.join(f'{value:.4g}' for value in self.mean)}) is of pixels scaled to "
                    "0..1: divide the inputs by their largest possible value, or leave the "
                    "normalisation out if they are normalised already."
                )
        channels = images.shape[1]
        if len(self.mean) not in {1, channels}:
            raise DataError(
                f"Found mean and standard deviation of {len(self.mean)} channels for images of "
                f"{channels}: expected one number per channel."
            )
        mean = torch.tensor(self.mean, dtype=images.dtype).view(1, -1, 1, 1)
        std = torch.tensor(self.std, dtype=images.dtype).view(1, -1, 1, 1)
        return (images - mean) / std

    def __call__(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W) as the model takes them."""
        return self.normalise(self.shape(images))


class Source(Protocol):
    """Stored examples that can be read by index."""

    @property
    def labels(self) -> Indices:
        """The class index of every stored example."""
        ...

    @property
    def pixels(self) -> bool:
        """Whether these are images of whole-number pixels, which are scaled to 0..1."""
        ...

    def read(self, indices: Indices, preprocessing: Preprocessing) -> Tensor:
        """Return the chosen examples as the model takes them."""
        ...

    def relabelled(self, labels: Indices) -> Source:
        """Return the same examples with other labels, one per stored example."""
        ...

    def digest(self, indices: Indices) -> Iterator[bytes]:
        """Yield bytes that change whenever a chosen example does."""
        ...


class LabelledData(Data):
    """Examples with one class index each; `open_data` and `as_data` make them."""

    class_names: tuple[str, ...] | None
    preprocessing: Preprocessing | None
    split: str | None
    class_order: str | None = None

    @property
    def normalisation(self) -> dict[str, object]:
        """What the inputs were normalised by, and who said so, as plain values for JSON."""
        return in_words(None, None, AS_GIVEN)

    @property
    @abstractmethod
    def labels(self) -> Indices | None:
        """The class index of every example, shape (N,), or None while it is not known."""

    @abstractmethod
    def batches(self, batch_size: int = 64) -> Iterator[Batch]:
        """Yield (inputs, labels): floating-point (B, ...) and int64 (B,), always in one order."""

    @abstractmethod
    def subset(self, limit: int, seed: int = 0) -> LabelledData:
        """Return at most `limit` examples, the classes as even as they can be."""

    def to_json(self) -> dict[str, object]:
        """Return name, size, fingerprint and preprocessing as plain values for JSON."""
        return {
            "name": self.name,
            "split": self.split,
            "n": len(self),
            "class_names": None if self.class_names is None else list(self.class_names),
            "fingerprint": self.fingerprint(),
            "preprocessing": None if self.preprocessing is None else asdict(self.preprocessing),
            "normalisation": self.normalisation,
            "class_order": self.class_order,
        }

    def check_classes(self, classes: int) -> None:
        """Refuse labels that a model of so many classes cannot answer.

        Args:
            classes: Number of the model's outputs.
        """
        if self.labels is not None:
            check_labels(self.labels, self.name, classes)


@dataclass(frozen=True, repr=False)
class IndexedData(LabelledData):
    """Labelled examples that can be read by index, in any order.

    Args:
        name: What to call the data in tables.
        source: Where the examples are stored.
        indices: Which of them belong, in order.
        preprocessing: What happens to each on the way to the model.
        class_names: One name per class, if known.
        split: The part of the data set, "train" or "test"; None if it has no parts.
        normalised_by: Who said what the normalisation is; None where nobody did, so that a
            checkpoint's own is used.
        class_order: How class names became indices, where the data themselves do not say.
        dtype: Floating-point type of the inputs; by default as they are stored.
        remarks: What was left out or assumed when the data were opened, one sentence each.

    Example:
        >>> from ensemble_view.data.opening import open_data
        >>> digits = open_data("digits")
        >>> inputs, labels = next(digits.batches(32))
        >>> inputs.shape, labels.dtype
        (torch.Size([32, 1, 8, 8]), torch.int64)
    """

    name: str
    source: Source
    indices: Indices
    preprocessing: Preprocessing
    class_names: tuple[str, ...] | None = None
    split: str | None = None
    normalised_by: str | None = None
    class_order: str | None = None
    dtype: torch.dtype | None = None
    remarks: tuple[str, ...] = ()

    @property
    def normalisation(self) -> dict[str, object]:
        """What the inputs were normalised by, and who said so, as plain values for JSON."""
        return in_words(self.preprocessing.mean, self.preprocessing.std, self.normalised_by)

    @property
    def labels(self) -> Indices:
        """The class index of every example, shape (N,)."""
        return self.source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, positions: npt.ArrayLike) -> Batch:
        """Return the examples at these positions of this data set.

        Args:
            positions: Whole numbers from 0 to N - 1.

        Returns:
            Inputs, floating-point (B, ...), and labels, int64 (B,).
        """
        chosen = self.indices[np.asarray(positions, dtype=np.int64)]
        inputs = self.source.read(chosen, self.preprocessing)
        if self.dtype is not None and inputs.is_floating_point():
            inputs = inputs.to(self.dtype)
        return inputs, torch.from_numpy(self.source.labels[chosen])

    def batches(self, batch_size: int = 64) -> Iterator[Batch]:
        """Yield the examples in order.

        Args:
            batch_size: Examples per batch; the last one may be smaller.

        Yields:
            Inputs, floating-point (B, ...), and labels, int64 (B,).

        Raises:
            DataError: If the batch size is not positive.
        """
        if batch_size < 1:
            raise DataError(f"The batch size is {batch_size}: expected at least 1.")
        for start in range(0, len(self), batch_size):
            yield self.take(np.arange(start, min(start + batch_size, len(self))))

    def fingerprint(self) -> str:
        """Return a SHA-256 over labels, inputs and their preprocessing.

        Returns:
            64 hexadecimal digits, the same wherever the same examples are stored the same way.
        """
        digest = hashlib.sha256(repr(self.preprocessing).encode())
        digest.update(self.labels.astype("<i8").tobytes())
        for part in self.source.digest(self.indices):
            digest.update(part)
        return digest.hexdigest()

    def subset(self, limit: int, seed: int = 0) -> IndexedData:
        """Return at most `limit` examples, the classes as even as they can be.

        Each class is shuffled once, then the classes take turns; so a smaller subset of the same
        seed lies within a larger one. The order of the data is kept.

        Args:
            limit: Number of examples.
            seed: Seed of the choice.

        Returns:
            The chosen examples.

        Raises:
            DataError: If limit is not positive.
        """
        if limit < 1:
            raise DataError(f"The limit is {limit} examples: expected at least 1.")
        if limit >= len(self):
            return self
        chosen = _balanced_choice(self.labels, limit, np.random.default_rng(check_seed(seed)))
        return replace(self, indices=self.indices[chosen])

    def with_normalisation(
        self, mean: Sequence[float], std: Sequence[float], by: str = GIVEN
    ) -> IndexedData:
        """Return the same examples under another normalisation.

        Args:
            mean: Per channel, in units of the scaled pixels.
            std: Per channel, in units of the scaled pixels.
            by: Who said so, for the record.

        Returns:
            The data with (x - mean) / std as its last step.
        """
        settings = replace(self.preprocessing, mean=tuple(mean), std=tuple(std))
        return replace(self, preprocessing=settings, normalised_by=by)

    def with_classes(self, names: Sequence[str], whose: str) -> IndexedData:
        """Give each example the index that a net has for the name of its class.

        Names are compared without case, spaces and punctuation; of a net's name with commas, such
        as "tench, Tinca tinca", each part counts.

        Args:
            names: The net's classes, in the order of its outputs.
            whose: What says so, for the record.

        Returns:
            The data with those labels and class names.

        Raises:
            DataError: If the data have no class names, or one of them is not among the net's.
        """
        if self.class_names is None:
            raise DataError(
                f"{self.name} has no class names that could be matched to those of the net: leave "
                "them out, or give labels in the order of the net's classes."
            )
        found = match_names(self.class_names, names)
        unknown = [name for name, index in zip(self.class_names, found, strict=True) if index < 0]
        if unknown:
            raise DataError(
                f"{len(unknown)} of the {len(found)} class names of {self.name} are not, or not "
                f"once, among the {len(names)} of {whose}: {', '.join(unknown[:4])}; the net's are "
                f"{', '.join(names[:4])}, …. Name the classes as the net does."
            )
        source = self.source.relabelled(found[self.source.labels])
        changed = replace(
            self, source=source, class_names=tuple(names), class_order=f"by name: {whose}"
        )
        if np.array_equal(found, np.arange(len(names))):
            return changed
        remark = (
            f"The classes of {self.name} are matched by name to those of {whose}, whose order is "
            f"another or which are more ({len(found)} of {len(names)}): {self.class_names[0]} is "
            f"class {found[0]}."
        )
        return replace(changed, remarks=(*self.remarks, remark))


def match_names(names: Sequence[str], known: Sequence[str]) -> Indices:
    """Find names among others, without regard to case, spaces and punctuation.

    Args:
        names: To find.
        known: Where; of a name with commas, each part counts as well.

    Returns:
        The position of each name, (names,); -1 where there is none, or more than one.

    Example:
        >>> match_names(["Dog", "house_cat", "cow"], ["cat, House cat", "dog"])
        array([ 1,  0, -1])
    """
    whole: dict[str, set[int]] = {}
    parts: dict[str, set[int]] = {}
    for index, name in enumerate(known):
        whole.setdefault(_plain(name), set()).add(index)
        for part in name.split(","):
            parts.setdefault(_plain(part), set()).add(index)
    found = []
    for name in names:
        places = whole.get(_plain(name)) or parts.get(_plain(name)) or set()
        found.append(next(iter(places)) if len(places) == 1 else -1)
    taken = [index for index in found if index >= 0]
    twice = {index for index in taken if taken.count(index) > 1}
    return np.array([-1 if index in twice else index for index in found], dtype=np.int64)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum()) or name


def _balanced_choice(labels: Indices, limit: int, generator: np.random.Generator) -> Indices:
    """Return ascending positions of a class-balanced choice."""
    shuffled = generator.permutation(len(labels))
    turn = np.empty(len(labels), dtype=np.int64)
    classes = np.unique(labels)
    for label in classes:
        members = shuffled[labels[shuffled] == label]
        turn[members] = np.arange(len(members))
    seat = np.zeros(int(classes.max()) + 1, dtype=np.int64)
    seat[classes] = generator.permutation(len(classes))
    order = np.lexsort((seat[labels], turn))
    return np.sort(order[:limit])
