"""The published nets that some analyses measure, and the images that they see.

ResNet-32 and ResNet-56 for CIFAR-10 by Yerlan Idelbayev (akamaster/pytorch_resnet_cifar10), with
CIFAR-10's test images as ``.npz``; in ``checkpoints`` and ``data`` of a folder that is by default
``../shared``, seen from the top of the project.
"""

from __future__ import annotations

from pathlib import Path

import ensemble_view
from ensemble_view import Checkpoint, LabelledData

SHARED = Path(__file__).resolve().parents[2] / "shared"
CHECKPOINTS = SHARED / "checkpoints"
RESNET32 = CHECKPOINTS / "resnet32-d509ac18.th"
RESNET56 = CHECKPOINTS / "resnet56-4bfd9763.th"
IMAGES = SHARED / "data" / "cifar10_test.npz"
"""They went through JPEG."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""That the nets were trained with; their files do not say so."""


def images_of(net: Checkpoint, images: Path | str, limit: int, seed: int = 0) -> LabelledData:
    """Open images as a net was trained to see them.

    Args:
        net: Its file may say how; else it is one of the published ones.
        images: The data, by name or path.
        limit: At most so many, class-balanced.
        seed: Of the choice.

    Returns:
        The images and labels.
    """
    mean, std = net.normalisation or (MEAN, STD)
    return ensemble_view.open_data(images, mean=mean, std=std, limit=limit, seed=seed)
