"""Recipes by name."""

from __future__ import annotations

import re
from dataclasses import replace

from ensemble_view.nets.models.architecture import Architecture
from ensemble_view.training.recipe import Recipe, TrainingError

__all__ = ["PRESETS", "preset"]

PRESETS: dict[str, Recipe] = {
    # 164 epochs of CIFAR's 50,000 images are the paper's 64,000 steps, and its steps down, after
    # 32,000 and 48,000, lie at a half and three quarters.
    "he": Recipe(epochs=164, warmup_epochs=0.0, schedule="steps", flip=True),
    "fast": Recipe(
        epochs=30,
        batch_size=128,
        learning_rate=0.2,
        weight_decay=5e-4,
        warmup_epochs=6.0,
        schedule="linear",
        nesterov=True,
        label_smoothing=0.1,
        flip=True,
    ),
    "cosine": Recipe(),
}
"""He et al. 2015's recipe for CIFAR, a fast one, and that of the bundled nets."""

_DEEP = 110


def preset(name: str, architecture: str | Architecture) -> Recipe:
    """Return a recipe by name.

    "he": He et al. 2015 (arXiv 1512.03385), section 4.2: a tenth of the learning rate after half
    and after three quarters of 64,000 steps, shift by 4 pixels, mirror images; nets of 110 layers
    and more warm up at a tenth of the rate for an epoch (in the paper until the training error
    falls below 80 %, about 400 steps). "fast": one cycle up and down (Smith and Topin 2017, arXiv
    1708.07120), without its cycle of momentum, with label smoothing (Szegedy et al. 2015, arXiv
    1512.00567). "cosine": down along a cosine after five epochs of warm-up.

    Args:
        name: "he", "fast" or "cosine".
        architecture: What is to be trained.

    Returns:
        The recipe, to be changed by `dataclasses.replace`.

    Raises:
        TrainingError: If there is no recipe of that name.

    Example:
        >>> preset("he", "resnet20").warmup_epochs, preset("he", "resnet110").warmup_epochs
        (0.0, 1.0)
    """
    if name not in PRESETS:
        raise TrainingError(f"There is no recipe {name!r}: expected {', '.join(PRESETS)}.")
    if isinstance(architecture, str):
        architecture = Architecture.parse(architecture)
    depth = re.search(r"\d+", architecture.name)
    if name == "he" and depth is not None and int(depth[0]) >= _DEEP:
        return replace(PRESETS[name], warmup_epochs=1.0, warmup="low")
    return PRESETS[name]
