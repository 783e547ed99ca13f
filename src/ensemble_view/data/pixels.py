"""The pixels of one image file, whatever their depth: scaled rightly, or refused by name."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ensemble_view.errors import DataError

__all__ = ["read_pixels"]

_SIXTEEN = 65535


def read_pixels(image: Image.Image, name: str, channels: int) -> Tensor:
    """Return the pixels of an image.

    Args:
        image: As Pillow opened it.
        name: Of its file, for the message.
        channels: 3 or 1.

    Returns:
        uint8 pixels, or float32 in 0..1 where a pixel has 16 bits or is a real number,
        (channels, height, width).

    Raises:
        DataError: If the largest possible value of a pixel is not known, or an image in colour is
            to be read with one channel.

    Example:
        >>> grey = Image.fromarray(np.array([[0, 65535]], np.uint16))
        >>> read_pixels(grey, "grey.png", 1)
        tensor([[[0., 1.]]])
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        grey = _scaled(np.asarray(image).astype(np.float64), name)
    elif image.mode == "F":
        grey = np.asarray(image).astype(np.float32)
        if not (np.isfinite(grey).all() and grey.min() >= 0 and grey.max() <= 1):
            raise DataError(
                f"{name} holds real numbers from {float(grey.min()):.4g} to "
                f"{float(grey.max()):.4g}, of which nothing says what counts as white: expected "
                "0..1, or pixels of 8 or 16 bits; convert the images first."
            )
    elif image.mode == "I":
        raise DataError(
            f"{name} has pixels of 32 bits, of which nothing says what counts as white: expected "
            "8 or 16 bits, or real numbers in 0..1; convert the images first."
        )
    else:
        return _eight_bits(image, name, channels)
    return torch.from_numpy(grey)[None].expand(channels, -1, -1).contiguous()


def _scaled(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.float64]], name: str
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if pixels.min() < 0 or pixels.max() > _SIXTEEN:
        raise DataError(
            f"{name} has pixels from {pixels.min():.0f} to {pixels.max():.0f}: expected 8 or 16 "
            "bits; convert the images first."
        )
    return (pixels / _SIXTEEN).astype(np.float32)


def _eight_bits(image: Image.Image, name: str, channels: int) -> Tensor:
    if channels == 1 and image.mode in ("1", "L"):
        return torch.from_numpy(np.array(image.convert("L")))[None]
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    if channels == 3:
        return pixels
    if not torch.equal(pixels, pixels[:1].expand_as(pixels)):
        raise DataError(
            f"{name} is an image in colour, but the net takes one channel: convert the images to "
            "grey as they were for its training."
        )
    return pixels[:1].contiguous()
