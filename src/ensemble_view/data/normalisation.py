"""Which mean and standard deviation images are normalised by, and who said so."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from ensemble_view.errors import DataError

__all__ = [
    "ASKED_NONE",
    "AS_GIVEN",
    "GIVEN",
    "PRESETS",
    "Chosen",
    "Preset",
    "choose_normalisation",
    "in_words",
]

GIVEN = "given"
"""A mean and a standard deviation that the user wrote."""

ASKED_NONE = "none, as asked"
"""The user said that pixels scaled to 0..1 are what the net takes."""

AS_GIVEN = "the data's own"
"""Inputs that are tensors of the user's, which nothing is done to."""


@dataclass(frozen=True)
class Preset:
    """A normalisation that has a name.

    Args:
        mean: Per channel, of pixels scaled to 0..1.
        std: Per channel, likewise.
        source: Where the values are stated, or what they were computed from.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str


PRESETS = {
    "imagenet": Preset(
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        "the documentation of torchvision's pre-trained weights",
    ),
    "cifar10": Preset(
        (0.4914, 0.4822, 0.4465),
        (0.2470, 0.2435, 0.2616),
        "all pixels of the 50,000 training images; some code has 0.2023, 0.1994, 0.2010, the mean "
        "of each image's own deviation",
    ),
    "cifar100": Preset(
        (0.5071, 0.4865, 0.4409),
        (0.2673, 0.2564, 0.2762),
        "all pixels of the 50,000 training images",
    ),
    "mnist": Preset(
        (0.1307,), (0.3081,), "all pixels of the 60,000 training images, as in pytorch/examples"
    ),
    "fashion-mnist": Preset((0.2860,), (0.3530,), "all pixels of the 60,000 training images"),
    "digits": Preset(
        (0.304559,), (0.376019,), "all pixels of the training split that travels with this package"
    ),
    "inception": Preset(
        (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "timm's IMAGENET_INCEPTION_MEAN and _STD: -1..1"
    ),
    "clip": Preset(
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
        "the code of Radford et al. 2021 (arXiv 2103.00020), openai/CLIP",
    ),
}
"""By the name that ``--normalise`` takes."""


@dataclass(frozen=True)
class Chosen:
    """What a user said about the normalisation.

    Args:
        mean: Per channel; None: nothing is subtracted.
        std: Per channel; None: nothing is divided by.
        by: Who said so: "given", "preset NAME" or "none, as asked"; None where nobody did.
    """

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    by: str | None


def choose_normalisation(
    normalise: str | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Chosen:
    """Read what a user said about the normalisation.

    Args:
        normalise: The name of a preset, or "none".
        mean: Per channel.
        std: Per channel.

    Returns:
        The normalisation, with who said so.

    Raises:
        DataError: If there is no such preset, or both a preset and numbers were given, or one
            number without the other.

    Example:
        >>> choose_normalisation("mnist", None, None)
        Chosen(mean=(0.1307,), std=(0.3081,), by='preset mnist')
    """
    if normalise is not None:
        if mean is not None or std is not None:
            raise DataError(
                f"The normalisation is said twice, as {normalise!r} and as a mean or standard "
                "deviation of its own: give one of the two."
            )
        if normalise == "none":
            return Chosen(None, None, ASKED_NONE)
        if normalise not in PRESETS:
            near = difflib.get_close_matches(normalise, [*PRESETS, "none"], n=1)
            meant = f"; did you mean {near[0]}?" if near else "."
            raise DataError(
                f"There is no normalisation {normalise!r}: expected {', '.join(PRESETS)} or none, "
                f"or numbers per channel as mean and standard deviation{meant}"
            )
        preset = PRESETS[normalise]
        return Chosen(preset.mean, preset.std, f"preset {normalise}")
    if (mean is None) != (std is None):
        raise DataError("Mean and standard deviation go together: give both or neither.")
    if mean is None or std is None:
        return Chosen(None, None, None)
    return Chosen(tuple(mean), tuple(std), GIVEN)


def in_words(
    mean: Sequence[float] | None, std: Sequence[float] | None, by: str | None
) -> dict[str, object]:
    """Give what a record says of a normalisation.

    Args:
        mean: Per channel.
        std: Per channel.
        by: Who said so; None where nobody did.

    Returns:
        ``mean``, ``std`` and ``from``.

    Example:
        >>> in_words(None, None, None)
        {'mean': None, 'std': None, 'from': 'none known'}
    """
    return {
        "mean": None if mean is None else list(mean),
        "std": None if std is None else list(std),
        "from": by or "none known",
    }
