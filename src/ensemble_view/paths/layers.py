"""How many layers a block's shortcut and branch have, read from their graphs."""

from __future__ import annotations

from torch import fx

from ensemble_view.core.chain import Block, Chain
from ensemble_view.core.parts import Part, identity

__all__ = ["chain_layers"]

_WEIGHTED = {
    "addmm",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "linear",
}


def chain_layers(chain: Chain) -> list[tuple[int, int]] | None:
    """Count the layers of each block's shortcut and branch.

    A layer is a convolution or a linear map with weights, as He et al. count them; of layers beside
    each other, such as queries and keys, the longest way counts. A projection is a layer of its
    shortcut, a bottleneck's branch has three.

    Args:
        chain: As :func:`ensemble_view.unravel` finds it.

    Returns:
        For each block the layers of its shortcut and of its branch; None where a part has no graph,
        as in a chain put together by hand.

    Example:
        >>> import torch, torchvision
        >>> from ensemble_view import unravel
        >>> images = torch.randn(2, 3, 64, 64)
        >>> chain_layers(unravel(torchvision.models.resnet18().eval(), images))[1:4]
        [(0, 2), (1, 2), (0, 2)]
    """
    found = []
    for block in chain.blocks:
        layers = _block_layers(block)
        if layers is None:
            return None
        found.append(layers)
    return found


def _block_layers(block: Block) -> tuple[int, int] | None:
    if not block.units:
        shared, shortcut, branch, after = (_depth(part) for part in block.parts)
        if shared is None or shortcut is None or branch is None or after is None:
            return None
        return shared + shortcut + after, shared + branch + after
    units = [_block_layers(unit) for unit in block.units]
    known = [unit for unit in units if unit is not None]
    if len(known) < len(units):
        return None
    # The branch of a block of several sums is all that is not the shortcut of every one of them.
    return sum(unit[0] for unit in known), sum(max(unit) for unit in known)


def _depth(part: Part) -> int | None:
    if part is identity:
        return 0
    if not isinstance(part, fx.GraphModule):
        return None
    depths: dict[fx.Node, int] = {}
    for node in part.graph.nodes:
        packet = getattr(node.target, "overloadpacket", None)
        weighted = getattr(packet, "__name__", "") in _WEIGHTED
        before = max((depths[each] for each in node.all_input_nodes), default=0)
        depths[node] = before + weighted
    return max(depths.values(), default=0)
