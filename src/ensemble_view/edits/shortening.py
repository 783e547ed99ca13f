"""Take blocks out of a copy of the model itself, where that is exactly what a plan does.

Where each block is an entry of a ``Sequential`` or ``ModuleList``, a plan that only deletes and
moves blocks may come to nothing but a shorter list of entries. That is so where what is left of
each deleted block, shortcut and ``after``, returns its input unchanged: an identity shortcut with
nothing behind it, or with a ReLU behind it that the input has been through already. The model's
own class, built with fewer blocks, then loads the state_dict: entries are numbered anew.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ensemble_view.core.chain import Chain
from ensemble_view.core.parts import Part
from ensemble_view.core.plan import Action, Plan
from ensemble_view.discovery.capture import Arguments
from ensemble_view.discovery.evaluation import evaluating
from ensemble_view.discovery.proof import copied, other_batch, tolerance_of_types
from ensemble_view.discovery.provenance import Provenance

__all__ = ["Entries", "entries_left", "original_names", "shorten"]

Entries: TypeAlias = Mapping[str, Sequence[int]]
"""Of each container that changes, by path: which of its entries stand in it, in order."""

_NUMBER = re.compile(r"(\D*)\d+")


def entries_left(chain: Chain, plan: Plan, steps: Sequence[Part]) -> Entries | None:
    """Find the entries of containers with which the model itself computes what a plan does.

    Args:
        chain: With a model behind it.
        plan: Bound to this chain.
        steps: What each step of the plan runs.

    Returns:
        None where no choice of entries does: a step is anything but keep or delete, a block is no
        entry of a container, or a deleted one does not return its input; or where the model that is
        made like this is found not to equal the plan's chain on two batches.
    """
    model = chain.model
    assert model is not None
    assert isinstance(chain.provenance, Provenance)
    entries = _entries_of(chain, plan, model)
    if entries is None:
        return None
    shortened = shorten(model, entries)
    example, pick = chain.provenance.example, chain.provenance.pick
    with evaluating(model), evaluating(shortened), torch.no_grad():
        for batch in (example, other_batch(example)):
            expected, types = _run(chain, plan, steps, batch)
            if expected is None:
                return None
            try:
                args, kwargs = copied(batch)
                found = pick(shortened(*args, **kwargs))
            except Exception:
                # The model's own code counts on entries that are gone.
                return None
            scale = float(expected.abs().max()) or 1.0
            difference = float((found.double() - expected.double()).abs().max()) / scale
            if not difference <= tolerance_of_types(types):
                return None
    return entries


def _entries_of(chain: Chain, plan: Plan, model: nn.Module) -> dict[str, tuple[int, ...]] | None:
    steps = [step for step in plan.steps if step.action is not Action.LINK]
    whole = sorted(step.index for step in steps) == list(range(len(chain)))
    if not whole or any(step.action not in (Action.KEEP, Action.DELETE) for step in steps):
        return None
    places = [place.module for place in chain.provenance.blocks]
    standing: dict[tuple[str, int], tuple[str, int] | None] = {}
    for position, step in enumerate(steps):
        if step.action is Action.KEEP and step.index == position:
            continue
        here, there = (_entry(model, places[index]) for index in (position, step.index))
        # A block that is exchanged with one of another container would need a list of both.
        if here is None or there is None or here[0] != there[0]:
            return None
        standing[here] = None if step.action is Action.DELETE else there
    found = {}
    for path in {path for path, _ in standing}:
        count = len(model.get_submodule(path)._modules)
        left = [standing.get((path, number), (path, number)) for number in range(count)]
        found[path] = tuple(entry[1] for entry in left if entry is not None)
        if _names(list(model.get_submodule(path)._modules), found[path]) is None:
            return None
    return found


def _entry(model: nn.Module, module: str | None) -> tuple[str, int] | None:
    """The container that a module is an entry of, and its place there."""
    path, _, name = (module or "").rpartition(".")
    container = model.get_submodule(path) if module else None
    if not isinstance(container, nn.Sequential | nn.ModuleList):
        return None
    return path, list(container._modules).index(name)


def _names(names: Sequence[str], kept: Sequence[int]) -> list[str] | None:
    """What the entries are called: numbered anew where they are numbered, else as they were."""
    matches = [_NUMBER.fullmatch(name) for name in names]
    if all(matches) and len({match[1] for match in matches if match is not None}) == 1:
        return list(names[: len(kept)])
    return [names[number] for number in kept] if list(kept) == sorted(kept) else None


def _run(
    chain: Chain, plan: Plan, steps: Sequence[Part], batch: Arguments
) -> tuple[Tensor | None, set[torch.dtype]]:
    """Run a plan; None as soon as a deleted block does not return its input as it is."""
    args, kwargs = copied(batch)
    x, context = chain.stem(*args, **kwargs)
    types = {x.dtype}
    for step, part in zip(plan.steps, steps, strict=True):
        before, x = x, part(x, context)
        types.add(x.dtype)
        if step.action is Action.DELETE and not torch.equal(before, x):
            return None, types
    return chain.head(x, context), types


def shorten(model: nn.Module, entries: Entries) -> nn.Module:
    """Copy a model with other entries in its containers.

    What is numbered by its place is numbered anew: names of the entries, attributes that hold each
    entry's own place, and in a configuration the number of layers and the list of their types. A
    configuration's ``use_cache`` is off, since a cache among the outputs cannot be exported.

    Args:
        model: Left as it is; entries that are taken out are not copied.
        entries: Which entries stand in each container, in order.

    Returns:
        The copy, in evaluation mode.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU())
        >>> shorten(net, {"": [0, 3]})
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
          (1): ReLU()
        )
    """
    removed = [
        module
        for path, kept in entries.items()
        for number, module in enumerate(model.get_submodule(path)._modules.values())
        if number not in kept
    ]
    memo: dict[int, Any] = {id(module): None for module in removed}
    made = copy.deepcopy(model, memo).eval()
    for path, kept in entries.items():
        original, container = model.get_submodule(path), made.get_submodule(path)
        names, modules = list(original._modules), list(container._modules.values())
        left = [modules[number] for number in kept]
        container._modules = dict(zip(_names(names, kept) or (), left, strict=True))
        for inner, attribute in _own_places(list(original._modules.values())):
            for place, module in enumerate(left):
                if module is not None:
                    setattr(module.get_submodule(inner), attribute, place)
        _configure(made, kept, len(names))
    for config in _configurations_of(made):
        if getattr(config, "use_cache", None) is True:
            config.use_cache = False
    return made


def original_names(model: nn.Module, entries: Entries, names: Iterable[str]) -> dict[str, str]:
    """Find out what a model calls the weights of its shortened copy.

    Args:
        model: The whole model.
        entries: Of the copy.
        names: What the copy calls its weights.

    Returns:
        By the copy's name, the model's.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> original_names(net, {"": [1, 2]}, ["1.weight"])
        {'1.weight': '2.weight'}
    """
    prefixes = {}
    for path, kept in entries.items():
        own, start = list(model.get_submodule(path)._modules), path + "." * bool(path)
        for name, number in zip(_names(own, kept) or (), kept, strict=True):
            prefixes[f"{start}{name}."] = f"{start}{own[number]}."

    def original(name: str) -> str:
        for prefix, theirs in prefixes.items():
            if name.startswith(prefix):
                return theirs + name.removeprefix(prefix)
        return name

    return {name: original(name) for name in names}


def _own_places(entries: Sequence[nn.Module | None]) -> list[tuple[str, str]]:
    """The attributes in which every entry keeps its own place, by inner path and name."""

    def holds(module: nn.Module | None, path: str, attribute: str, value: int) -> bool:
        try:
            found = getattr(module.get_submodule(path), attribute, None) if module else None
        except AttributeError:
            return False
        return type(found) is int and found == value

    first = entries[0] if len(entries) > 1 else None
    return [
        (path, attribute)
        for path, inner in (first.named_modules() if first is not None else ())
        for attribute in vars(inner)
        if all(holds(entry, path, attribute, place) for place, entry in enumerate(entries))
    ]


def _configure(model: nn.Module, kept: Sequence[int], count: int) -> None:
    """Let configurations that state so many layers state those that are left."""
    for config in _configurations_of(model):
        if getattr(config, "num_hidden_layers", None) != count:
            continue
        types = getattr(config, "layer_types", None)
        config.num_hidden_layers = len(kept)
        if isinstance(types, list) and len(types) == count:
            config.layer_types = [types[number] for number in kept]


def _configurations_of(model: nn.Module) -> list[Any]:
    """The configurations that a model's modules hold, each once."""
    found = [vars(module).get("config") for module in model.modules()]
    return list({id(one): one for one in found if one is not None}.values())
