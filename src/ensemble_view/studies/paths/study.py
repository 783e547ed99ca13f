"""Count the paths through a net (Veit et al. 2016, section 3, figures 6(a) and 7)."""

from __future__ import annotations

from ensemble_view.core.chain import Chain
from ensemble_view.errors import MeasurementError
from ensemble_view.paths.layers import chain_layers
from ensemble_view.paths.lengths import path_lengths
from ensemble_view.studies.paths.result import PathCounts

__all__ = ["count_paths"]


def count_paths(chain: Chain, name: str | None = None) -> PathCounts:
    """Count the paths through a chain by their length, in branches and in layers.

    Args:
        chain: Of residual blocks.
        name: What to call it; by default its model's class.

    Returns:
        The exact numbers: ``.frame``, ``.layers_frame``, ``.plot()``, ``.save(folder)``.

    Raises:
        MeasurementError: If it is no chain, or a block has no shortcut.

    Example:
        >>> import torch, torchvision
        >>> from ensemble_view import unravel
        >>> images = torch.randn(2, 3, 64, 64)
        >>> counts = count_paths(unravel(torchvision.models.resnet18().eval(), images))
        >>> counts.blocks.counts
        (1, 8, 28, 56, 70, 56, 28, 8, 1)
        >>> counts.layers.shortest, counts.layers.longest
        (3, 16)
    """
    if not isinstance(chain, Chain):
        raise MeasurementError(
            f"Paths lead through the blocks of a chain, found a {type(chain).__name__}: expected "
            "what ensemble_view.unravel(model, example) gives."
        )
    for block in chain.blocks:
        if not block.is_residual:
            raise MeasurementError(
                f"Block {block.index} ({block.name}) has no shortcut, so that there is one way "
                "through it and no choice of paths; only residual blocks have paths to count."
            )
    layers = chain_layers(chain)
    found = type(chain.model).__name__ if chain.model is not None else "parts"
    return PathCounts(
        name=name or found,
        blocks=path_lengths(len(chain)),
        layers=None if layers is None else path_lengths(layers),
    )
