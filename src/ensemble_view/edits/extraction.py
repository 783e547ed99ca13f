"""Make a net of its own of what a plan leaves, without the weights of what it deletes.

Where taking entries out of the model's containers is all that the plan does (``shortening``), that
is a copy of the model with fewer blocks. Elsewhere it is put together from copies of the chain's
parts (:class:`Extracted`), the same that the engine and the hooks run.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from ensemble_view.core.alteration import alter
from ensemble_view.core.chain import Block, Chain
from ensemble_view.core.interventions.base import Intervention
from ensemble_view.core.parts import Constant, Context, InTurn, Part, Sum, expand, identity
from ensemble_view.core.plan import Action, Plan, Step, bind
from ensemble_view.discovery.capture import Example
from ensemble_view.discovery.provenance import Provenance
from ensemble_view.discovery.unravelling import unravel
from ensemble_view.edits.shortening import Entries, entries_left, shorten
from ensemble_view.errors import DiscoveryError, InterventionError

__all__ = ["Extracted", "extract", "extract_plan", "lengths", "part_of"]


def extract(
    target: Chain | nn.Module,
    intervention: Intervention | Plan,
    example: Example | None = None,
    *,
    means: Mapping[int, Tensor] | None = None,
) -> nn.Module:
    """Make an independent net of what an intervention leaves of a model.

    It computes what :func:`ensemble_view.edited` and :class:`ensemble_view.Engine` compute, for
    batches of any size, shares no tensor with the model, and holds no weight of a branch that does
    not run. Where the plan only deletes or moves blocks that are entries of a ``Sequential`` or
    ``ModuleList``, and deleted ones would return their input as it is, it is the model's own class
    with fewer entries: it can be trained, and the library's class, built with fewer blocks, loads
    its state_dict. Else it is an :class:`Extracted`.

    Args:
        target: A chain that :func:`ensemble_view.unravel` found, or the model itself.
        intervention: What to do, or a plan that is bound to the chain.
        example: What the model is called with, as for :func:`ensemble_view.unravel`; not needed
            for a chain.
        means: Of the branches that are replaced by their mean: ``branch_means(chain, batches)``.

    Returns:
        The net, in evaluation mode, on the model's device.

    Raises:
        DiscoveryError: If no model stands behind the chain, or a model comes without an example.
        InterventionError: If the intervention does not fit, needs a mean that is not given, or
            depends on the other examples of the batch.

    Example:
        >>> import torch, torchvision
        >>> from ensemble_view import Delete
        >>> from torchvision.models.resnet import BasicBlock, ResNet
        >>> model, images = torchvision.models.resnet18().eval(), torch.randn(2, 3, 64, 64)
        >>> small = extract(model, Delete(1), images)
        >>> ResNet(BasicBlock, [1, 2, 2, 2]).load_state_dict(small.state_dict())
        <All keys matched successfully>
    """
    if isinstance(target, Chain):
        chain = target
    elif example is None:
        raise DiscoveryError(
            "To extract from a model, give an example of what it is called with: "
            "extract(model, intervention, example); or give a chain."
        )
    else:
        chain = unravel(target, example)
    plan = intervention if isinstance(intervention, Plan) else bind(intervention, chain.outline)
    net, _ = extract_plan(chain, plan, means)
    return net


def extract_plan(
    chain: Chain, plan: Plan, means: Mapping[int, Tensor] | None = None
) -> tuple[nn.Module, Entries | None]:
    """Do the same for a plan that is already bound, and say which way it was done.

    Args:
        chain: With a model behind it.
        plan: Bound to this chain.
        means: As for :func:`extract`.

    Returns:
        The net; and the entries of the model's containers that are left, or None for an
        :class:`Extracted`.

    Raises:
        DiscoveryError: As for :func:`extract`.
        InterventionError: As for :func:`extract`.
    """
    if chain.model is None or not isinstance(chain.provenance, Provenance):
        raise DiscoveryError(
            "No model stands behind this chain (it was built from parts), whose weights could be "
            "copied; extract from a chain that unravel found."
        )
    for step in plan.altered:
        what = {
            "resample": "another example's",
            "perturbed": "itself with random noise",
            "constant": "itself with noise of its norm",
        }
        if step.treatment.branch in what:
            raise InterventionError(
                f"The branch of block {step.index} ({chain.blocks[step.index].name}) is to be "
                f"replaced by {what[step.treatment.branch]}, which depends on the batch and so "
                'cannot be part of a net; replace it by "mean" or "zero".'
            )
    parts = [part_of(chain, step, means or {}) for step in plan.steps]
    entries = entries_left(chain, plan, parts)
    net = Extracted(chain, plan, parts) if entries is None else shorten(chain.model, entries)
    return net, entries


def part_of(chain: Chain, step: Step, means: Mapping[int, Tensor]) -> Part:
    """Say what a step runs, by the chain's own parts.

    Args:
        chain: That the step's plan is bound to.
        step: Any step.
        means: Of the branches that are replaced by their mean.

    Returns:
        Graph modules, or what is put together from them.
    """
    if step.action is Action.LINK:
        return chain.links[step.index]
    if step.action in (Action.ALTER, Action.PARALLEL):
        return alter(chain, step, means)
    return _part_of_block(chain.blocks[step.index], kept=step.action is Action.KEEP)


def _part_of_block(block: Block, *, kept: bool) -> Part:
    if block.units:
        return InTurn(tuple(_part_of_block(unit, kept=kept) for unit in block.units))
    if kept:
        return block.whole
    return block.way if block.is_residual else identity


class Extracted(nn.Module):
    """What a plan leaves of a chain, in copies of its parts: stem, steps in order, head.

    It takes the model's arguments and gives the one output that the chain followed. It is what the
    model is in evaluation mode, whatever mode it is put into.

    Args:
        chain: With a model behind it.
        plan: Bound to this chain.
        steps: What each step of the plan runs.

    Attributes:
        signature: Of ``forward``: the model's arguments as the chain's example gave them.

    Example:
        >>> import torch, torchvision
        >>> from ensemble_view import Scale
        >>> images = torch.randn(2, 3, 64, 64)
        >>> net = extract(torchvision.models.resnet18(), Scale(1, 0.5), images)
        >>> type(net).__name__, [name for name, _ in net.blocks.named_children()][:3]
        ('Extracted', ['0', '1', '2'])
    """

    def __init__(self, chain: Chain, plan: Plan, steps: Sequence[Part]) -> None:
        super().__init__()
        copies = _Copies()
        stem = cast("Any", chain.stem)
        self.stem = stem.with_part(copies.graph(stem.part))
        # Each is called by the number of its block, which it keeps wherever it is moved. They are
        # entries of one list and of one class, as discovery knows the layers of a net.
        self.blocks = nn.ModuleList()
        for step, part in zip(plan.steps, steps, strict=True):
            made = copies.module(part)
            if not made.is_empty:
                name = f"link{step.index}" if step.action is Action.LINK else str(step.index)
                self.blocks.add_module(_unused(name, self.blocks), made)
        self.head = copies.module(chain.head)
        assert chain.model is not None
        self._names = _names_of(self, chain.model, copies)
        self.signature = _signature_of(chain.model, *chain.provenance.example)
        self._lengths = lengths(*chain.provenance.example)
        self._sign()
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run what is left.

        Args:
            *args: As the model takes them.
            **kwargs: As the model takes them.

        Returns:
            The output that the chain followed.

        Raises:
            DiscoveryError: If texts are of another length than the chain's example.
        """
        found = lengths(args, kwargs)
        if found != self._lengths:
            raise DiscoveryError(
                f"This net was extracted for texts of {self._lengths[0]} tokens, and was given "
                f"{found[0]}; give as many (--length), or extract it again for those."
            )
        x, context = self.stem(*args, **kwargs)
        for block in self.blocks:
            x = block(x, context)
        return cast("Tensor", self.head(x, context))

    def _sign(self) -> None:
        """Give ``forward`` the signature, which whoever exports the net or feeds it text asks."""

        def forward(self: Extracted, *args: Any, **kwargs: Any) -> Tensor:
            return Extracted.forward(self, *args, **kwargs)

        first = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        parameters = [first, *self.signature.parameters.values()]
        cast("Any", forward).__signature__ = inspect.Signature(parameters)
        self.__class__ = type(Extracted.__name__, (Extracted,), {"forward": forward})

    def __reduce__(self) -> tuple[Any, ...]:
        """Let copies and pickles find the class.

        Returns:
            What makes the net again.
        """
        return _restored, (vars(self),)

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that are left, by their names in the model's state_dict."""
        own = self.state_dict()
        return {theirs: own[name] for name, names in self._names.items() for theirs in names}


def _restored(state: dict[str, Any]) -> Extracted:
    net = Extracted.__new__(Extracted)
    vars(net).update(state)
    net._sign()
    return net


def _signature_of(
    model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> inspect.Signature:
    kind = inspect.Parameter
    named = [
        name
        for name, parameter in inspect.signature(model.forward).parameters.items()
        if parameter.kind in (kind.POSITIONAL_ONLY, kind.POSITIONAL_OR_KEYWORD)
    ]
    named += [f"input{number}" for number in range(len(named), len(args))]
    positional = [kind(name, kind.POSITIONAL_OR_KEYWORD) for name in named[: len(args)]]
    return inspect.Signature([*positional, *(kind(name, kind.KEYWORD_ONLY) for name in kwargs)])


def lengths(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[int]:
    """Say how many tokens the texts have that are among a model's arguments.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        One number for each text. A chain, and so what is extracted from it, is for one length.
    """
    leaves = pytree.tree_leaves((args, dict(kwargs)))
    tokens = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dtype == torch.int64]
    return [leaf.shape[1] for leaf in tokens if leaf.ndim == 2]


def _unused(name: str, container: nn.ModuleList) -> str:
    found, number = name, 1
    while found in container._modules:
        number += 1
        found = f"{name}_{number}"
    return found


def _names_of(net: nn.Module, model: nn.Module, copies: _Copies) -> dict[str, tuple[str, ...]]:
    """For the copies of a model's weights, what the model calls each."""
    names: dict[int, tuple[str, ...]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if isinstance(value, Tensor) and (copy := copies.known.get(id(value))) is not None:
            names[id(copy)] = (*names.get(id(copy), ()), name)
    found: dict[str, tuple[str, ...]] = {}
    for own, value in net.state_dict(keep_vars=True).items():
        # A weight that several parts use needs to be written once.
        if id(value) in names:
            found[own] = names.pop(id(value))
    return found


class _Copies:
    """Copies parts as modules; parts that share a weight share the copy of it."""

    def __init__(self) -> None:
        self.known: dict[int, Tensor] = {}
        self._graphs: dict[int, fx.GraphModule] = {}

    def module(self, part: Part) -> _Part:
        return _Part([self._terms(inner) for inner in _flat(part)])

    def _terms(self, part: Part) -> list[tuple[float, nn.Module]]:
        terms = part.terms if isinstance(part, Sum) else ((1.0, part),)
        return [(factor, self._term(term)) for factor, term in terms]

    def _term(self, part: Part) -> nn.Module:
        if isinstance(part, Constant):
            return _Constant(self._tensor(part.value))
        return self.graph(part) if isinstance(part, fx.GraphModule) else self.module(part)

    def graph(self, part: fx.GraphModule) -> fx.GraphModule:
        if id(part) not in self._graphs:
            graph = fx.Graph()
            graph.output(graph.graph_copy(part.graph, {}))
            for node in graph.nodes:
                # What discovery wrote there holds on to the model's shapes and code.
                node.meta = {}
            tensors: dict[str, Any] = {
                str(node.target): self._tensor(getattr(part, str(node.target)))
                for node in graph.find_nodes(op="get_attr")
            }
            self._graphs[id(part)] = fx.GraphModule(tensors, graph)
        return self._graphs[id(part)]

    def _tensor(self, value: Tensor) -> Tensor:
        if id(value) not in self.known:
            copy = value.detach().clone()
            if isinstance(value, nn.Parameter):
                copy = nn.Parameter(copy, requires_grad=value.requires_grad)
            self.known[id(value)] = copy
        return self.known[id(value)]


def _flat(part: Part) -> list[Part]:
    """What runs one after another; nothing for the identity."""
    if isinstance(part, InTurn):
        return [inner for each in part.parts for inner in _flat(each)]
    return [] if part is identity else [part]


class _Part(nn.Module):
    """Sums one after another, each of modules beside each other with a factor."""

    def __init__(self, sums: Sequence[Sequence[tuple[float, nn.Module]]]) -> None:
        super().__init__()
        # The additions are made here, so that a block is called by its own path.
        self._sums: list[list[tuple[float, str]]] = []
        for number, terms in enumerate(sums):
            named = {f"part{number}_{place}": term for place, (_, term) in enumerate(terms)}
            for name, term in named.items():
                self.add_module(name, term)
            pairs = zip(terms, named, strict=True)
            self._sums.append([(factor, name) for (factor, _), name in pairs])

    @property
    def is_empty(self) -> bool:
        return not self._sums

    def forward(self, x: Tensor, context: Context) -> Tensor:
        for terms in self._sums:
            x = self._sum(terms, x, context)
        return x

    def _sum(self, terms: Sequence[tuple[float, str]], x: Tensor, context: Context) -> Tensor:
        # A function of its own, so that no summand is kept in memory any longer than it is needed.
        total: Any = None
        for factor, name in terms:
            value = getattr(self, name)(x, context)
            value = value if factor == 1 else factor * value
            total = value if total is None else total + value
        return cast("Tensor", total)


class _Constant(nn.Module):
    """The same value for every example."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return expand(x, self.value)
