"""The smallest scale at which an analysis can run."""

from __future__ import annotations

from dataclasses import replace

import torch
from trained_nets import chosen_scale, scale_options

from ensemble_view.training.recipe import Recipe

__all__ = ["miniature_scale"]


def miniature_scale(folder, *, examples=64, epochs=2, seeds=(0, 1)):
    """Return the scale of the digits with few images, epochs and seeds; nets go to the folder."""
    threads = torch.get_num_threads()
    digits = chosen_scale(scale_options(None).parse_args([]))
    # What is asked of a whole run is not asked of the other tests.
    torch.set_num_threads(threads)
    return replace(
        digits,
        train=digits.train.subset(examples),
        test=digits.test.subset(100),
        recipe=Recipe(epochs=epochs, batch_size=64, warmup_epochs=1.0),
        seeds=seeds,
        folder=folder,
    )
