"""A model's output with blocks in a given order and some of them deleted, found independently.

Neither discovery nor graphs are used: either the net spells its blocks out, or a deep copy is
operated on (modules exchanged in their containers, the last layer of a branch set to zero).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

from torch import Tensor, nn

Oracle = Callable[[nn.Module, Tensor, Sequence[int], frozenset[int]], Tensor]


def by_hand(model: nn.Module, x: Tensor, order: Sequence[int], deleted: frozenset[int]) -> Tensor:
    """Run the steps that the net spells out."""
    return model.by_hand(x, order, deleted)


def by_surgery(blocks: Sequence[Sequence[str]], last: str | None) -> Oracle:
    """Operate on a deep copy of the model.

    Args:
        blocks: Paths of the modules that make up each block.
        last: The layer of a block that is set to zero to delete its branch; None where the
            modules give way to ``nn.Identity``.

    Returns:
        The oracle.
    """
    twins: dict[int, tuple[nn.Module, nn.Module]] = {}

    def run(model: nn.Module, x: Tensor, order: Sequence[int], deleted: frozenset[int]) -> Tensor:
        if id(model) not in twins:
            twins.clear()
            twins[id(model)] = model, copy.deepcopy(model)
        twin = twins[id(model)][1]
        original = {path: twin.get_submodule(path) for paths in blocks for path in paths}
        zeroed = {
            index: _zero(original[blocks[index][0]], last) for index in deleted if last is not None
        }
        for place, index in zip(blocks, order, strict=True):
            for path, source in zip(place, blocks[index], strict=True):
                removed = index in deleted and last is None
                _put(twin, path, nn.Identity() if removed else original[source])
        output = twin(x)
        for path, module in original.items():
            _put(twin, path, module)
        for index, module in zeroed.items():
            _put(original[blocks[index][0]], str(last), module)
        return output

    return run


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module


def _zero(block: nn.Module, last: str | None) -> nn.Module:
    """Put a layer of zeros into the last layer's place and return what was there."""
    layer = block.get_submodule(str(last))
    zeros = copy.deepcopy(layer)
    for parameter in zeros.parameters():
        nn.init.zeros_(parameter)
    _put(block, str(last), zeros)
    return layer
