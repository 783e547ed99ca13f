"""Where labelled examples are stored: arrays, image files, any map-style data set."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ensemble_view.data.labelled_data import Indices, Preprocessing
from ensemble_view.data.pixels import read_pixels
from ensemble_view.errors import DataError, UnreadableError
from ensemble_view.reading.regular import check_regular, one_line

__all__ = ["ArraySource", "DatasetSource", "FileSource"]

_MOST_PIXELS = 2**26
# What decoders of damaged images raise.
_BROKEN = (
    UnreadableError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    AssertionError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


def _check_size(image: Image.Image) -> None:
    """Refuse an image by the size that it states, before its pixels are unpacked."""
    width, height = image.size
    if width * height > _MOST_PIXELS:
        raise UnreadableError(
            f"it has {width:,} by {height:,} pixels, and at most {_MOST_PIXELS:,} are read"
        )


# Whatever a file is called, its content decides what reads it; PostScript, for one, would be run.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


@dataclass(frozen=True)
class ArraySource:
    """Examples in memory: whole-number images N×H×W×C, or floating-point inputs N×....

    Args:
        inputs: The examples; whole-number images channels last, everything else as the model
            takes it.
        labels: One class index each.
    """

    inputs: npt.NDArray[Any]
    labels: Indices

    @property
    def pixels(self) -> bool:
        """Whether these are images of whole-number pixels, which are scaled to 0..1."""
        return bool(self.inputs.dtype == np.uint8)

    def read(self, indices: Indices, preprocessing: Preprocessing) -> Tensor:
        """Return the chosen examples as the model takes them, (B, C, H, W) or (B, ...)."""
        chosen = torch.from_numpy(np.ascontiguousarray(self.inputs[indices]))
        if chosen.dtype == torch.uint8:
            chosen = chosen.permute(0, 3, 1, 2)
        return preprocessing(chosen) if chosen.ndim == 4 else chosen

    def relabelled(self, labels: Indices) -> ArraySource:
        """Return the same examples with other labels."""
        return replace(self, labels=labels)

    def digest(self, indices: Indices) -> Iterator[bytes]:
        """Yield type, shape and values of the chosen examples."""
        inputs = self.inputs.astype(self.inputs.dtype.newbyteorder("<"), copy=False)
        yield f"{inputs.dtype.str} {inputs.shape[1:]}".encode()
        for start in range(0, len(indices), 1024):
            yield np.ascontiguousarray(inputs[indices[start : start + 1024]]).tobytes()


@dataclass(frozen=True)
class FileSource:
    """Image files that are read when they are needed.

    Args:
        root: The folder that the paths are relative to.
        paths: One image file each.
        labels: One class index each.
        channels: 3: red, green and blue; 1: grey, for a net of one channel.
    """

    root: Path
    paths: Sequence[str]
    labels: Indices
    channels: int = 3
    pixels: ClassVar[bool] = True

    def read(self, indices: Indices, preprocessing: Preprocessing) -> Tensor:
        """Return the chosen images, (B, channels, H, W)."""
        images = [preprocessing.shape(self._image(self.paths[index])) for index in indices]
        shapes = sorted({(int(image.shape[1]), int(image.shape[2])) for image in images})
        if len(shapes) > 1:
            found = " and ".join(f"{height}x{width}" for height, width in shapes[:2])
            raise DataError(
                f"The images in {self.root} have several sizes, {found} pixels among them: give "
                "them one with --resize and --crop."
            )
        if any(image.is_floating_point() for image in images):
            # Pixels of 16 bits or real numbers are scaled when they are read.
            images = [
                image if image.is_floating_point() else image.float() / preprocessing.scale
                for image in images
            ]
        return preprocessing.normalise(torch.stack(images))

    def _image(self, path: str) -> Tensor:
        try:
            check_regular(self.root / path)
            with Image.open(self.root / path, formats=_FORMATS) as image:
                _check_size(image)
                return read_pixels(image, str(self.root / path), self.channels)
        except _BROKEN as error:
            raise DataError(
                f"{self.root / path} is no readable image ({one_line(error)}): mend it or "
                "take it out."
            ) from error

    def relabelled(self, labels: Indices) -> FileSource:
        """Return the same examples with other labels."""
        return replace(self, labels=labels)

    def digest(self, indices: Indices) -> Iterator[bytes]:
        """Yield relative path and size in bytes of every chosen file; contents are not read."""
        for index in indices:
            path = self.paths[index]
            try:
                size = check_regular(self.root / path)
            except UnreadableError as error:
                raise DataError(
                    f"{self.root / path} is no readable image ({error}): mend it or take it out."
                ) from error
            yield f"{Path(path).as_posix()} {size}\n".encode()


@dataclass(frozen=True)
class DatasetSource:
    """A map-style data set whose examples are pairs (input, label).

    Args:
        dataset: Anything with a length and integer indexing.
        labels: The labels, read beforehand.
    """

    dataset: Any
    labels: Indices
    pixels: ClassVar[bool] = False

    def read(self, indices: Indices, preprocessing: Preprocessing) -> Tensor:
        """Return the chosen inputs, stacked."""
        examples = [self.dataset[int(index)] for index in indices]
        if any(
            int(label) != self.labels[i] for i, (_, label) in zip(indices, examples, strict=True)
        ):
            raise DataError(
                "The data set gives other labels than on the first reading: examples must not "
                "change between passes."
            )
        inputs = [torch.as_tensor(example[0]) for example in examples]
        shapes = sorted({tuple(value.shape) for value in inputs})
        if len(shapes) > 1:
            raise DataError(
                f"Examples have several shapes, {shapes[0]} and {shapes[1]} among them: let the "
                "data set give them one."
            )
        batch = torch.stack(inputs)
        if batch.is_floating_point() and not bool(torch.isfinite(batch).all()):
            raise DataError(
                f"Examples {int(indices[0])} to {int(indices[-1])} hold values that are not "
                "finite (NaN or infinity): mend or leave out those examples."
            )
        return preprocessing(batch) if batch.ndim == 4 else batch

    def relabelled(self, labels: Indices) -> DatasetSource:
        """Return the same examples with other labels."""
        return replace(self, labels=labels)

    def digest(self, indices: Indices) -> Iterator[bytes]:
        """Yield type, shape and values of every chosen input."""
        for index in indices:
            value = np.ascontiguousarray(torch.as_tensor(self.dataset[int(index)][0]).numpy())
            yield f"{value.dtype.str} {value.shape}".encode() + value.tobytes()
