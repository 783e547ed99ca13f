"""Data held against the net before anything is measured: form, classes, and lonely examples."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ensemble_view.core.chain import Chain, arguments_of
from ensemble_view.data.class_folders import in_numeric_order
from ensemble_view.data.data import Data
from ensemble_view.data.labelled_data import IndexedData, match_names
from ensemble_view.data.sources import ArraySource, FileSource
from ensemble_view.errors import DataError, MeasurementError
from ensemble_view.nets.checkpoints import Checkpoint

__all__ = ["check_batches", "fitted", "held_classes", "output_note"]

_UNASKED = "text, unasked"
_TRIED = 256
# One order of the classes is better beyond chance and by so much that it cannot be the net's fault.
_BETTER = 0.1


def fitted(module: nn.Module | None, data: Data) -> Data:
    """Bring images into the form that a net takes: channels, axes, floating-point type.

    Args:
        module: The net; None where there is none behind a chain.
        data: Folders of images are read with one channel where the first convolution takes one;
            grey images without an axis of channels get one; inputs get the type of the weights.

    Returns:
        The data, changed only where that is needed.
    """
    if module is None or not isinstance(data, IndexedData):
        return data
    kinds = {p.dtype for p in module.parameters() if p.is_floating_point()}
    dtype = kinds.pop() if len(kinds) == 1 else None
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    source = data.source
    if first is not None and first.in_channels == 1:
        if isinstance(source, FileSource):
            data = replace(data, source=replace(source, channels=1))
        elif isinstance(source, ArraySource) and source.inputs.ndim == 3:
            data = replace(data, source=replace(source, inputs=source.inputs[:, None]))
    # What comes from a data set of the user's own stays in the type that it was given in.
    own = not isinstance(source, ArraySource | FileSource)
    return data if own or dtype is None else replace(data, dtype=dtype)


def held_classes(
    model: nn.Module | Chain | Checkpoint, chain: Chain, data: Data, device: Any
) -> Data:
    """Hold the classes of data against the outputs and the class names of a net.

    Class names that both have are matched, and labels become the net's indices. Where the net has
    no names, folders must have as many classes as the net has outputs; of names that are whole
    numbers, both orders are tried on some examples where they differ.

    Args:
        model: As a study takes it.
        chain: What was found in it.
        data: As the net takes them.
        device: Where the net is.

    Returns:
        The data, with what was assumed among their remarks.

    Raises:
        DataError: If the classes cannot be those of the net.
    """
    if not isinstance(data, IndexedData):
        return data
    outputs = _outputs(chain, data, device, 2)
    if outputs.ndim != 2:
        return data
    count = outputs.shape[1]
    names = data.class_names
    folder = (data.class_order or "").partition(",")[0] in ("text", "numeric")
    if (data.class_order or "").startswith("by name"):
        if names is not None and len(names) != count:
            raise DataError(
                f"{len(names)} class names were given, but the net has {count} outputs: name the "
                "class of each output, in order."
            )
        return data
    known, whose = _class_names(model)
    if names is not None and known is not None and len(known) == count:
        found = match_names(names, known)
        in_place = found[found >= 0] == np.flatnonzero(found >= 0)
        if (found >= 0).all():
            return data.with_classes(known, whose)
        if (found >= 0).any() and not (len(names) == count and in_place.all()):
            # It says which names are not the net's.
            data.with_classes(known, whose)
        if folder and len(names) == count:
            data = _remarked(
                data,
                f"{int((found < 0).sum())} of the class names of {data.name} are not among those "
                f"of {whose}; the folders are taken for its classes in the order of their names.",
            )
    if names is not None and folder and len(names) != count:
        raise DataError(
            f"{data.name} has {len(names)} class folders ({', '.join(names[:4])}, …), but the net "
            f"has {count} outputs, so that it cannot be told which folder is which output: give "
            "the names of all classes in the order of the outputs, one a line, with --classes FILE "
            "(classes= of open_data in Python)."
        )
    if data.class_order == _UNASKED and names is not None:
        data = _in_some_order(data, chain, names, device)
    return data


def _class_names(model: object) -> tuple[tuple[str, ...] | None, str]:
    """The names of a net's classes in the order of its outputs, and who says so."""
    if isinstance(model, Checkpoint) and model.class_names is not None:
        return tuple(model.class_names), "the checkpoint"
    module = model.model if isinstance(model, Checkpoint | Chain) else model
    stated = getattr(getattr(module, "config", None), "id2label", None)
    if isinstance(stated, dict) and stated:
        by_index = {int(index): str(name) for index, name in stated.items()}
        made_up = all(re.fullmatch(r"LABEL_\d+", name) for name in by_index.values())
        if not made_up and sorted(by_index) == list(range(len(by_index))):
            return tuple(by_index[index] for index in range(len(by_index))), "the net's id2label"
    return None, ""


def _in_some_order(
    data: IndexedData, chain: Chain, names: tuple[str, ...], device: Any
) -> IndexedData:
    """Say that names were sorted as text, and stop where the numeric order is plainly the net's."""
    numeric = in_numeric_order(names)
    if numeric is None or numeric == list(names):
        return data
    some = data.subset(_TRIED)
    guesses = _outputs(chain, some, device, _TRIED).argmax(1).cpu().numpy()
    as_text = some.labels[: len(guesses)]
    place = np.array([numeric.index(name) for name in names])
    right = [guesses == as_text, guesses == place[as_text]]
    taken, other = (float(each.mean()) for each in right)
    if other > taken + _BETTER and other * len(guesses) >= 3:
        raise DataError(
            f"The class folders of {data.name} are numbers, and the net is right on {other:.0%} of "
            f"{len(guesses)} examples with these in numeric order but on {taken:.0%} in text order "
            f"({', '.join(names[:4])}, …): choose --class-order numeric (class_order= of open_data "
            "in Python), or text if that is meant."
        )
    return _remarked(
        data,
        f"The class folders of {data.name} are numbers, sorted as text ({', '.join(names[:4])}, …) "
        f"as torchvision's ImageFolder does; in numeric order the net is right on {other:.0%} of "
        f"{len(guesses)} examples instead of {taken:.0%}. Choose with --class-order.",
    )


def _remarked(data: IndexedData, remark: str) -> IndexedData:
    return replace(data, remarks=(*data.remarks, remark))


def _outputs(chain: Chain, data: IndexedData, device: Any, most: int) -> Tensor:
    with torch.inference_mode():
        found = [
            chain(*arguments_of(inputs.to(device))[0])
            for inputs, _ in data.subset(most).batches(32)
        ]
    return torch.cat(found) if found[0].ndim else found[0]


def output_note(chain: Chain) -> str:
    """Name the output that is measured, where the net has several.

    Args:
        chain: As it was found.

    Returns:
        A sentence; empty for a net of one output.
    """
    if not chain.other_outputs:
        return ""
    others = ", ".join(chain.other_outputs)
    if chain.whole is not None:
        return (
            f"The measure gets all outputs of the net: {chain.output}, {others}. The blocks are "
            f"those on the way to {chain.output}."
        )
    if chain.output_chosen:
        return f"Of the net's outputs, {chain.output} is measured; the others: {others}."
    return (
        f"The net has several outputs; {chain.output} is measured, the others are not: {others}. "
        "Choose one with --output (output= in Python); a measure of one's own gets all with "
        "output='all'."
    )


def check_batches(
    module: nn.Module | None, chain: Chain, inputs: Any, batch_size: int | None, fixed: bool
) -> str:
    """Refuse nets whose answer to an example depends on its batch, unless the batch size is said.

    Two examples are run by themselves, and again with a third one beside.

    Args:
        module: The net behind the chain, if any.
        chain: What was found in it.
        inputs: Of two examples.
        batch_size: As the user says it.
        fixed: Whether the data come in batches of their own.

    Returns:
        What to say of it; empty for nets that answer each example by itself.

    Raises:
        MeasurementError: If the net depends on the batch and no batch size was said.
    """
    args, kwargs = arguments_of(inputs)
    leaves = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    count = next((len(leaf) for leaf in leaves if leaf.ndim), 0)

    def longer(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or not leaf.ndim or len(leaf) != count:
            return leaf
        third = leaf[:1]
        if leaf.is_floating_point():
            third = (leaf[:1] * -0.7 + 0.3).roll(1, -1)
        return torch.cat([leaf, third])

    more_args, more_kwargs = pytree.tree_map(longer, (args, kwargs))
    with torch.inference_mode():
        alone = chain(*args, **kwargs)
        beside = chain(*more_args, **more_kwargs)
    if alone.ndim == 0 or len(alone) != count or len(beside) != count + 1:
        return ""
    alone, beside = alone.double(), beside[:count].double()
    coarse = leaves and any(leaf.dtype in (torch.float16, torch.bfloat16) for leaf in leaves)
    tolerance = (5e-2 if coarse else 1e-3) * (float(alone.abs().max()) or 1.0)
    difference = float((alone - beside).abs().max())
    if not difference > tolerance:
        return ""
    layers = [
        name
        for name, layer in (module.named_modules() if module is not None else ())
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is None
    ]
    why = (
        f"{len(layers)} BatchNorm layers without running statistics ({', '.join(layers[:3])}"
        f"{', …' if len(layers) > 3 else ''}) normalise by the batch"
        if layers
        else "some layer of it mixes the examples of a batch"
    )
    name = type(module).__name__ if module is not None else "the net"
    if batch_size is None and not fixed:
        raise MeasurementError(
            f"What {name} answers to an example depends on the others in its batch: {why}. All "
            "numbers would depend on the batch size, which is otherwise chosen by speed; say it "
            "with --batch-size (batch_size= in Python)."
        )
    size = "the data's own batches" if fixed else f"batches of at most {batch_size}"
    return (
        f"What {name} answers to an example depends on the others in its batch: {why}. The numbers "
        f"are of {size}."
    )
