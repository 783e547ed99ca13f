"""Edit the unmodified model behind a chain for the length of a ``with``.

This is the public way to a single forward pass with an intervention, and the slow reference that
the engine is tested against: one full forward pass per plan. What is done to a branch or a shortcut
acts at the addition itself in the model's running code; a reordering exchanges whole modules where
each block is one module. Where neither is possible (a block that no module holds, or of several
sums that are not just deleted, a unit of a plain net; blocks that run again, beside each other, or
in several places), the value that the block makes is replaced, where the model makes it, by that of
the chain's own parts.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ensemble_view.core.alteration import alter, mean_of
from ensemble_view.core.chain import Chain
from ensemble_view.core.interventions.base import Compose, Intervention
from ensemble_view.core.parts import DRAWS, Context, InTurn, Part, expand
from ensemble_view.core.plan import Action, Plan, Step, bind
from ensemble_view.core.sites import ModuleCall, Site, SiteMode, modes_on, unwrapped
from ensemble_view.discovery.evaluation import uncached, uncompiled, unfused_attention
from ensemble_view.discovery.provenance import Provenance
from ensemble_view.discovery.unravelling import unravel_arguments
from ensemble_view.errors import InterventionError
from ensemble_view.shared_state import EXPORT, Shared

__all__ = ["edited", "edited_by_plan"]

_Key: TypeAlias = tuple[ModuleCall, str, int]

_OPERANDS: dict[str, Any] = {"input": 0, "self": 0, "other": 1}


@contextmanager
def edited(
    target: Chain | nn.Module,
    *interventions: Intervention,
    means: Mapping[int, Tensor] | None = None,
) -> Iterator[None]:
    """Run the model behind a chain with an intervention, as long as the ``with`` lasts.

    Args:
        target: A chain that :func:`ensemble_view.unravel` found, or the model itself, which is then
            unravelled on its first call.
        *interventions: Applied one after another.
        means: Of the branches that are replaced by their mean: ``branch_means(chain, batches)``.

    Yields:
        Nothing; call the model itself inside.

    Raises:
        InterventionError: If the interventions do not fit, or no model stands behind the chain.

    Example:
        >>> import torch, torchvision
        >>> from ensemble_view import Delete, edited, unravel
        >>> model = torchvision.models.resnet18().eval()
        >>> images = torch.randn(2, 3, 64, 64)
        >>> before = model(images)
        >>> with edited(unravel(model, images), Delete(1)):
        ...     torch.equal(model(images), before)
        False
        >>> torch.equal(model(images), before)
        True
    """
    composed = Compose(interventions)
    with ExitStack() as stack:
        if isinstance(target, Chain):
            stack.enter_context(edited_by_plan(target, bind(composed, target.outline), means))
        elif not isinstance(target, nn.Module):
            raise InterventionError(
                "edited takes a chain or the model itself, then interventions; the first argument "
                f"is a {type(target).__name__}."
            )
        else:
            model = unwrapped(target)
            if any(isinstance(hook, _FirstCall) for hook in model._forward_pre_hooks.values()):
                raise InterventionError(
                    f"{type(model).__name__} is being edited already; give all interventions to "
                    "one edited(...), or unravel the model first and give the chain."
                )
            stack.enter_context(uncompiled())
            first_call = _FirstCall(composed, stack, means)
            handle = model.register_forward_pre_hook(first_call, prepend=True, with_kwargs=True)
            stack.callback(handle.remove)
        yield


class _FirstCall:
    """Unravels a bare model when it is called for the first time, and begins the edit."""

    def __init__(
        self,
        intervention: Intervention,
        stack: ExitStack,
        means: Mapping[int, Tensor] | None,
    ) -> None:
        self._intervention = intervention
        self._means = means
        self._stack = stack
        self._started = False
        self._thread = threading.get_ident()

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Unravelling calls the model, too.
        if self._started:
            return
        if threading.get_ident() != self._thread:
            raise InterventionError(_other_thread(model))
        self._started = True
        chain = unravel_arguments(model, (args, kwargs))
        plan = bind(self._intervention, chain.outline)
        self._stack.enter_context(edited_by_plan(chain, plan, self._means)).join(args, kwargs)


@contextmanager
def edited_by_plan(
    chain: Chain, plan: Plan, means: Mapping[int, Tensor] | None = None
) -> Iterator[SiteMode]:
    """Do the same for a plan that is already bound.

    Args:
        chain: A chain with a model behind it.
        plan: Bound to this chain.
        means: As for :func:`edited`.

    Yields:
        The mode that follows the model's calls.

    Raises:
        InterventionError: If no model stands behind the chain, its code hides a block's place, or
            a mean is needed that is not given.
    """
    model, provenance = chain.model, chain.provenance
    if model is None or not isinstance(provenance, Provenance):
        raise InterventionError(
            "No model stands behind this chain (it was built from parts), so there is nothing to "
            "edit; run its plans through the engine instead."
        )
    means = means or {}
    outer = [mode for mode in modes_on(model) if isinstance(mode, _Edit)]
    if outer and (plan.moved or any(mode.moves for mode in outer)):
        raise InterventionError(
            "The model is being edited already, and one of the two edits moves blocks, so it is "
            "not clear which block is meant; give all interventions to one edited(...), in order."
        )
    with ExitStack() as stack:
        stack.enter_context(unfused_attention())
        if _acts_natively(provenance, plan):
            arguments = _Arguments()
            at_additions = _AtAdditions(chain, provenance, plan, means)
            mode = _Edit(model, at_additions.visit, arguments.begin)
            moved = {plan.order[position] for position in plan.moved}
            paths = (provenance.blocks[index].module for index in plan.order if index in moved)
            mode.calls = tuple(dict.fromkeys(path for path in paths if path))
            stack.enter_context(_modules_moved(model, provenance, plan, arguments))
        else:
            # The places where values are replaced are those of the export, which kept nothing.
            stack.enter_context(uncached(model))
            replacement = _Replacement(chain, provenance, plan, means)
            mode = _Edit(model, replacement.visit, replacement.begin)
        mode.moves = bool(plan.moved)
        # Compiled code calls no torch functions that a mode could meet.
        stack.enter_context(_QUIET.entered())
        stack.enter_context(uncompiled())
        yield stack.enter_context(mode)


def _acts_natively(provenance: Provenance, plan: Plan) -> bool:
    """Whether additions and whole modules are all that must be changed."""
    blocks = provenance.blocks
    if len(plan.order) != len(blocks) or any(step.members for step in plan.steps):
        return False
    if any(len(steps) != 1 for steps in plan.places.values()):
        return False
    # A module that is called twice may remember the first call: a cache of keys and values does.
    return (
        len(set(plan.order)) == len(plan.order)
        and all(blocks[index].additions for index in plan.deleted)
        and all(len(blocks[step.index].additions) == 1 for step in plan.altered)
        and all(blocks[p].module and blocks[plan.order[p]].module for p in plan.moved)
    )


class _Edit(SiteMode):
    """The mode of one edit.

    ``calls`` are the modules that were exchanged, by the paths where they belong, in the order in
    which they must now be called.
    """

    moves = False
    calls: tuple[str, ...] = ()

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        super()._enter_module(module, args)
        path = self._path(module)
        if path is None:
            return
        # Modules are called in a backward pass where a region is computed a second time, which on
        # some devices another thread does.
        elsewhere = self.is_elsewhere
        in_backward = (elsewhere or not self._stack) and torch._C._current_graph_task_id() != -1
        if elsewhere and not in_backward:
            own = (not mode.is_elsewhere for mode in modes_on(self.model))
            if not path and not any(own):
                raise InterventionError(_other_thread(self.model))
            return
        if in_backward or (self._stack and _is_checkpointing()):
            raise InterventionError(
                "The model computes its activations a second time in the backward pass (gradient "
                "checkpointing), where no edit is seen; turn that off, or call the model under "
                "torch.no_grad()."
            )

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        super()._leave_module(module, args, output)
        if self._stack or output is None or self.is_elsewhere:
            return
        called = tuple(path for path in self._calls if path in self.calls)
        if called != self.calls:
            raise InterventionError(
                f"The model does not call its blocks ({min(self.calls)}, …) from where they are "
                "registered, so exchanging them there does not move them; run the plan through the "
                "engine instead."
            )


def _other_thread(model: nn.Module) -> str:
    return (
        f"{type(model).__name__} is called in another thread than that of with edited(...), where "
        "no edit is seen; open edited in the thread that calls the model, or give each thread a "
        "model of its own."
    )


@contextmanager
def _without_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Using `torch.compile.* when there are global hooks")
        yield


# An export has filters of its own, which would bring back those that were there when it began.
_QUIET = Shared(_without_warning, EXPORT)


def _is_checkpointing() -> bool:
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint"


def _key(site: Site) -> _Key:
    return site.owner, site.function, site.ordinal


def _stand_in(
    value: Tensor, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """Give a value the place of a call's result, also where the call writes into its argument."""
    if _writes_into_first(function) or kwargs.get("inplace") is True:
        target: Tensor = args[0] if args else kwargs["input"]
        return target.copy_(value)
    return value


class _AtAdditions:
    """Change what an addition adds up, where the model adds it up."""

    def __init__(
        self, chain: Chain, provenance: Provenance, plan: Plan, means: Mapping[int, Tensor]
    ) -> None:
        self._changes: dict[_Key, tuple[int, Step, Tensor | None]] = {}
        for step in plan.blocks:
            if step.action is Action.KEEP:
                continue
            name, mean = chain.blocks[step.index].name, None
            if step.treatment.branch == "mean":
                mean = mean_of(step.index, name, means)
            for site, operand in provenance.blocks[step.index].additions:
                self._changes[_key(site)] = operand, step, mean

    def visit(
        self,
        site: Site,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Make the very same call with other operands, so that an edit further out sees it too."""
        if _key(site) not in self._changes:
            return function(*args, **kwargs)
        shortcut, step, mean = self._changes[_key(site)]
        operands = dict(enumerate(args)) | {
            _OPERANDS.get(name, name): value for name, value in kwargs.items()
        }
        branch, way = operands[1 - shortcut], operands[shortcut]
        # What is computed here is not the model's own doing: an edit further out must not count it.
        with torch._C.DisableTorchFunction():
            changed = [(branch, _in_place_of(branch, step, mean))]
            if not step.treatment.shortcut:
                changed.append((way, torch.zeros_like(way)))
            if _writes_into_first(function):
                # The sum's place in memory is the first operand itself.
                for value, other in changed:
                    if value is operands[0]:
                        value.copy_(other)
                changed = [pair for pair in changed if pair[0] is not operands[0]]

        def other_than(value: Any) -> Any:
            return next((other for before, other in changed if before is value), value)

        args = tuple(map(other_than, args))
        kwargs = {name: other_than(value) for name, value in kwargs.items()}
        return function(*args, **kwargs)


def _in_place_of(branch: Tensor, step: Step, mean: Tensor | None) -> Tensor:
    if step.action is Action.DELETE:
        return torch.zeros_like(branch)
    if mean is not None:
        branch = expand(branch, mean.to(branch))
    elif step.treatment.branch in DRAWS:
        branch = DRAWS[step.treatment.branch](branch, (step.treatment.seed, step.index))
    return branch if step.treatment.factor == 1 else step.treatment.factor * branch


def _writes_into_first(function: Callable[..., Any]) -> bool:
    name = getattr(function, "__name__", "")
    return name.startswith("__i") or (name.endswith("_") and not name.endswith("__"))


@contextmanager
def _modules_moved(
    model: nn.Module, provenance: Provenance, plan: Plan, arguments: _Arguments
) -> Iterator[None]:
    """Put each block's module into the places where the plan runs it, and back."""
    moved = {plan.order[position] for position in plan.moved}
    # A compiled module calls what it was made from, whatever stands in its place.
    modules = {
        index: (path, model.get_submodule(path))
        for index in {*moved, *plan.moved}
        if (path := (provenance.blocks[index].module or "").removesuffix("._orig_mod"))
    }

    def put(path: str, module: nn.Module) -> None:
        parent, _, name = path.rpartition(".")
        model.get_submodule(parent)._modules[name] = module

    handles = [
        modules[index][1].register_forward_pre_hook(arguments.check, prepend=True, with_kwargs=True)
        for index in moved
    ]
    try:
        for position in plan.moved:
            put(modules[position][0], modules[plan.order[position]][1])
        yield
    finally:
        for position in plan.moved:
            put(*modules[position])
        for handle in handles:
            handle.remove()


class _Arguments:
    """Sees to it that modules which change places are called alike there.

    What a block is called with beside its input belongs to it and moves along with it; an exchanged
    module gets what its new place gives.
    """

    def __init__(self) -> None:
        self._known: list[Any] | None = None

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forget the last call of the whole model."""
        self._known = None

    def check(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compare a call's arguments, but for the block's input, with those of the last call."""
        leaves = pytree.tree_leaves((args, kwargs))
        first = next((leaf for leaf in leaves if isinstance(leaf, Tensor)), None)
        given = [leaf for leaf in leaves if leaf is not first]
        # What this compares is not the model's own doing.
        with torch._C.DisableTorchFunction():
            if self._known is not None and not _are_equal(given, self._known):
                raise InterventionError(
                    "Blocks that change places are called with different arguments "
                    f"({type(module).__name__}), which would not move along with them; run the "
                    "plan through the engine instead."
                )
        self._known = given


def _are_equal(given: list[Any], known: list[Any]) -> bool:
    if len(given) != len(known):
        return False
    for one, other in zip(given, known, strict=True):
        if isinstance(one, Tensor) and isinstance(other, Tensor):
            if one is not other and not torch.equal(one, other):
                return False
        elif one is not other and one != other:
            return False
    return True


class _Replacement:
    """Replace what blocks make, where the model makes it, by what the chain's parts make."""

    def __init__(
        self, chain: Chain, provenance: Provenance, plan: Plan, means: Mapping[int, Tensor]
    ) -> None:
        self._chain = chain
        self._parts: dict[int, Part] = {}
        self._inputs: dict[int, int] = {}
        self._entries: dict[_Key, list[int]] = {}
        self._exits: dict[_Key, int] = {}
        self._captured: dict[int, Tensor] = {}
        self._context: Context = ()
        for position, place in enumerate(provenance.blocks):
            steps = plan.places.get(position, ())
            if steps == (Step(position),):
                continue
            self._parts[position] = InTurn(tuple(_part(chain, step, means) for step in steps))
            if place.entry is None or place.exit is None:
                raise InterventionError(
                    f"Block {position} ({chain.blocks[position].name}) begins or ends inside a "
                    "compound operation of the model's code, where no hook reaches; run the plan "
                    "through the engine instead."
                )
            if isinstance(place.entry, int):
                self._inputs[position] = place.entry
            else:
                self._entries.setdefault(_key(place.entry), []).append(position)
            self._exits[_key(place.exit)] = position

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compute the context, and keep the model's inputs that are blocks' inputs."""
        leaves = pytree.tree_leaves((args, kwargs))
        start, self._context = self._chain.stem(*args, **kwargs)
        self._captured = {p: leaves[number].clone() for p, number in self._inputs.items()}
        # The code before the first block may run otherwise than it was exported (masks of
        # attention are made or left out), so that its places are numbered otherwise.
        if 0 in self._parts and 0 not in self._chain.links:
            self._captured.setdefault(0, start)

    def visit(
        self,
        site: Site,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Run a function; replace what it makes if a block ends here, keep it if one begins."""
        output = function(*args, **kwargs)
        key = _key(site)
        # What is done here is not the model's own doing: an edit further out must not count it.
        with torch._C.DisableTorchFunction():
            if key in self._exits:
                position = self._exits[key]
                if position not in self._captured:
                    raise InterventionError(
                        f"The model's code took another way to block {position} "
                        f"({self._chain.blocks[position].name}) than with the example that it was "
                        "taken apart with; run the plan through the engine instead."
                    )
                value = self._parts[position](self._captured.pop(position), self._context)
                output = _stand_in(value, function, args, kwargs)
            for position in self._entries.get(key, ()):
                # A copy: the model's code may write into the value later.
                self._captured[position] = torch.clone(output)
        return output


def _part(chain: Chain, step: Step, means: Mapping[int, Tensor]) -> Part:
    """What a step runs, by the chain's own parts."""
    if step.action is Action.KEEP:
        return chain.blocks[step.index]
    if step.action is Action.DELETE:
        return chain.blocks[step.index].deleted
    return alter(chain, step, means)
