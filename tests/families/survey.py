"""Put every model of the family table through discovery, hooks, engine and an oracle.

    python tests/families/survey.py [MODEL or FAMILY ...] [--shard 0/2]

measures one model after another and keeps a line of JSON for each in
``analyses/family_support/measured.jsonl``; models that are there already are left out. Some hours
on one core. ``support_table.py`` makes a table of these lines.

Of every model with blocks: the blocks, shortcuts and owners are those of the table; the chain
equals the model; all single deletions and one exchange of two blocks by the engine equal the hooks,
and, where blocks stand in a container, a deep copy whose entries are exchanged or taken out; each
of these edits moves the logits by a thousandth of their size; every other intervention, alone and
composed at random, is the same by engine and hooks; shortcut and branch add up to the block, and so
do their gradients; the model is left as it was; and the floating-point operations of the engine,
counted from outside, are those of the distinct prefixes. The table is checked at the model's own
image size, the edits at the smallest that it takes.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from compare import compare
from drawn_models import build, example
from support_table import FOLDER, problems, records, rows
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from ensemble_view import (
    Chain,
    Compose,
    Delete,
    DropShortcut,
    Engine,
    Keep,
    MiddleRepeat,
    Parallel,
    Reorder,
    Repeat,
    Replace,
    Reverse,
    Scale,
    Swap,
    branch_means,
)
from ensemble_view.core.chain import Block
from ensemble_view.core.interventions.base import Intervention
from ensemble_view.core.plan import Action, bind
from ensemble_view.core.trie import Trie
from ensemble_view.discovery.unravelling import unravel_arguments
from ensemble_view.edits.hooks import edited_by_plan
from ensemble_view.errors import InterventionError

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from state import unchanged  # noqa: E402

# Sides of images that are tried before the model's own.
SIDES = (64, 56, 112, 128)
COMPOSITIONS = 6


def awakened(family: str, name: str, dtype: torch.dtype) -> tuple[nn.Module, Any]:
    """A model whose every branch matters, and arguments for it.

    Gains, biases and layer scales get noise, small weights are drawn anew with the variance that
    keeps the size of values, and BatchNorm's statistics follow the model's own input, so that depth
    alone does not make values vanish or explode.
    """
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model, arguments = _smallest(family, name)
    model = model.eval().to(dtype).requires_grad_(False)
    arguments = pytree.tree_map(
        lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf, arguments
    )
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(dtype)
            if parameter.ndim < 2:
                parameter += 0.2 * noise
            elif float(parameter.std()) < (usual := parameter[0].numel() ** -0.5):
                parameter.copy_(usual * noise)
    _settle_statistics(model, arguments)
    return model, arguments


def _smallest(family: str, name: str) -> tuple[nn.Module, Any]:
    """The model with the smallest images that it takes or can be built for."""
    given = example(family, name, 2, torch.Generator().manual_seed(0))
    args, kwargs = tuple(given.get("args", ())), dict(given.get("kwargs", {}))
    if family == "transformers":
        return build(family, name), (args, kwargs)
    size = {"timm": "img_size", "torchvision": "image_size"}[family]
    for side in SIDES:
        for settings in ({}, {size: side}):
            smaller = _images(side)
            try:
                model = build(family, name, **settings)
                with torch.no_grad():
                    model(smaller)
            except (RuntimeError, AssertionError, ValueError, TypeError, IndexError):
                continue
            return model, ((smaller,), {})
    return build(family, name), ((_images(args[0].shape[-1]),), {})


def _images(side: int) -> Tensor:
    """Two images that differ as a whole: noise alone would be averaged out on the way."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 3, 4, 4, generator=generator)
    fine = torch.randn(2, 3, side, side, generator=generator)
    return nn.functional.interpolate(coarse, size=side) + 0.3 * fine


def _settle_statistics(model: nn.Module, arguments: Any) -> None:
    """Let BatchNorm divide by the size of what it gets, on average over batch and channels.

    Not by each channel's deviation: where one is hardly alive, an edit that wakes it, or a rounding
    error, would be blown up.
    """

    def settle(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        norm.running_mean.zero_()
        norm.running_var.fill_(inputs[0].square().mean())

    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    handles = [norm.register_forward_pre_hook(settle) for norm in norms]
    with torch.no_grad():
        model(*arguments[0], **arguments[1])
    for handle in handles:
        handle.remove()


def _output(model: nn.Module, arguments: Any) -> Tensor:
    with torch.no_grad():
        found = model(*arguments[0], **arguments[1])
    if isinstance(found, Tensor):
        return found
    if isinstance(found, tuple | list):
        return found[0]
    return found["logits"] if "logits" in found else found[0]


def _distance(one: Tensor, other: Tensor, full: Tensor) -> float:
    """The largest difference, in units of the largest logit of the full or of the edited net."""
    return float((one - other).abs().max() / max(other.abs().max(), full.abs().max()))


def _exchangeable(chain: Chain) -> tuple[int, int] | None:
    """Two neighbours of the same shapes, of the same container if there are such."""
    pairs = [
        (a.index, b.index)
        for a, b in itertools.pairwise(chain)
        if (a.shape_in, a.shape_out) == (b.shape_in, b.shape_out) and not a.changes_shape
    ]
    alike = [pair for pair in pairs if _container(chain, *pair) is not None]
    return next(iter([*alike, *pairs]), None)


def _container(chain: Chain, *indices: int) -> nn.Module | None:
    """The Sequential or ModuleList whose entries some blocks are."""
    assert chain.model is not None
    paths = [chain.provenance.blocks[index].module for index in indices]
    if None in paths or len({path.rpartition(".")[0] for path in paths}) > 1:
        return None
    container = chain.model.get_submodule(paths[0].rpartition(".")[0])
    return container if isinstance(container, nn.Sequential | nn.ModuleList) else None


class _Passing(nn.Module):
    """What is left of a layer that is taken out; what it returns beside stays."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        made = self.layer(x, *args, **kwargs)
        return x if isinstance(made, Tensor) else (x, *made[1:])


def _operated(
    chain: Chain, replace: Callable[[dict[str, nn.Module]], dict[str, nn.Module]], paths: list[str]
) -> Any:
    """A model that shares all weights, in which some modules are exchanged or taken out."""
    assert chain.model is not None
    shared = {id(tensor): tensor for tensor in (*chain.model.parameters(), *chain.model.buffers())}
    twin = copy.deepcopy(chain.model, shared)
    held = {path: twin.get_submodule(path) for path in paths}
    for path, module in replace(held).items():
        parent, _, name = path.rpartition(".")
        twin.get_submodule(parent)._modules[name] = module
    return twin


@dataclass(frozen=True)
class Walk:
    """What the full net computes: each block's input, what comes before its link, the end."""

    inputs: tuple[Tensor, ...]
    before_links: tuple[Tensor, ...]
    end: Tensor
    context: Any

    @classmethod
    def through(cls, chain: Chain, arguments: Any) -> Walk:
        """Run a chain and keep all."""
        inputs, before = [], []
        with torch.no_grad():
            x, context = chain.stem(*arguments[0], **arguments[1])
            for block in chain:
                before.append(x)
                if block.index in chain.links:
                    x = chain.links[block.index](x, context)
                inputs.append(x)
                x = block(x, context)
        return cls(tuple(inputs), tuple(before), x, context)


def _keeps_what_it_adds_to(block: Block, walk: Walk) -> bool:
    """Whether to take a layer out is to delete its branch: nothing else is done to the input."""
    units, x = block.units or (block,), walk.inputs[block.index]
    plain = all(unit.shortcut_kind == "identity" for unit in units) and not block.changes_shape
    with torch.no_grad():
        return plain and torch.equal(block.deleted(x, walk.context), x)


def _flops(run: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return int(counter.get_total_flops())


def _expected_flops(chain: Chain, engine: Engine, arguments: Any, walk: Walk) -> int:
    """What a walk costs that computes each distinct prefix once, from the chain's own parts."""
    total = _flops(lambda: chain.stem(*arguments[0], **arguments[1]))
    steps = Counter(node.step for node in Trie(engine.plans) if node.step is not None)
    for step, times in steps.items():
        block, x = chain.blocks[step.index], walk.inputs[step.index]
        part: Callable[..., Any] = block if step.action is Action.KEEP else block.deleted
        if step.action is Action.LINK:
            part, x = chain.links[step.index], walk.before_links[step.index]
        total += times * _flops(lambda part=part, x=x: part(x, walk.context))
    return total + len(engine.plans) * _flops(lambda: chain.head(walk.end, walk.context))


def _apart(block: Block, walk: Walk) -> float:
    """How far shortcut and branch, and their gradients, are from adding up to the block."""
    context = walk.context
    x = walk.inputs[block.index].detach().requires_grad_()
    whole = block(x, context)
    shared = block.before(x, context)
    shortcut, branch = block.shortcut(shared, context), block.branch(shared, context)
    total = block.after(shortcut + branch, context)
    seed = torch.randn(whole.shape, generator=torch.Generator().manual_seed(1)).to(whole)
    (expected,) = torch.autograd.grad(whole, x, seed)
    at = (shortcut + branch).detach().requires_grad_()
    (cotangent,) = torch.autograd.grad(block.after(at, context) + 0 * at.sum(), at, seed)
    parts = [
        torch.autograd.grad(part + 0 * x.sum(), x, cotangent, retain_graph=True)[0]
        for part in (shortcut, branch)
    ]
    assert float(branch.detach().abs().max()) > 0
    error = float((whole - total).detach().abs().max() / whole.detach().abs().max())
    return max(error, float((sum(parts) - expected).abs().max() / expected.abs().max()))


def _casts(chain: Chain) -> bool:
    """Whether the model computes in single precision inside, whatever its own type."""
    parts = [*(part for block in chain for part in block.parts), *chain.links.values(), chain.head]
    values = [
        node.meta.get("val")
        for part in (*parts, chain.stem.part)
        for node in getattr(getattr(part, "graph", None), "nodes", ())
    ]
    weights = next(chain.model.parameters())
    return any(
        isinstance(value, Tensor) and value.is_floating_point() and value.dtype != weights.dtype
        for value in values
    )


def measure(row: dict[str, str]) -> dict[str, Any]:
    """Everything that is measured of one model."""
    family, name = row["family"], row["model"]
    record: dict[str, Any] = {"family": family, "model": name}
    agrees, found = compare(row)
    record |= {"agrees": agrees, "found": found}
    if row["verdict"] != "blocks":
        return record
    weights = sum(p.numel() for p in build(family, name).parameters())
    dtype = torch.float64 if weights < 120e6 else torch.float32
    model, arguments = awakened(family, name, dtype)
    with unchanged(model):
        started = time.perf_counter()
        chain = unravel_arguments(model, arguments)
        record["seconds"] = round(time.perf_counter() - started, 2)
        record |= _edits(chain, arguments)
    kinds = Counter(block.shortcut_kind for block in chain)
    return record | {
        "dtype": str(dtype).removeprefix("torch."),
        "blocks": len(chain),
        "links": len(chain.links),
        "kinds": dict(kinds),
        "input": "x".join(
            str(size) for leaf in pytree.tree_leaves(arguments) for size in leaf.shape[1:]
        ),
    }


def _edits(chain: Chain, arguments: Any) -> dict[str, Any]:
    model = chain.model
    assert model is not None
    full = _output(model, arguments)
    chosen = range(len(chain))
    interventions: list[Any] = [Compose(), *(Delete(index) for index in chosen)]
    pair = _exchangeable(chain)
    if pair is not None:
        interventions.append(Swap(*pair))
    engine = Engine(chain, [bind(one, chain.outline) for one in interventions])
    outputs: dict[int, Tensor] = {}
    operations = _flops(lambda: outputs.update(engine.logits(*arguments[0], **arguments[1])))
    walk = Walk.through(chain, arguments)
    errors, effects, oracles = [], [], []
    for number, plan in enumerate(engine.plans):
        with edited_by_plan(chain, plan):
            hooks = _output(model, arguments)
        errors.append(_distance(outputs[number], hooks, full))
        if number:
            effects.append(_distance(hooks, full, full))
    for number, index in enumerate(chosen, start=1):
        path = chain.provenance.blocks[index].module
        container = _container(chain, index)
        if container is not None and _keeps_what_it_adds_to(chain.blocks[index], walk):
            twin = _operated(
                chain, lambda held: {at: _Passing(layer) for at, layer in held.items()}, [path]
            )
            oracles.append(_distance(_output(twin, arguments), outputs[number], full))
    swapped = None
    if pair is not None and _container(chain, *pair) is not None:
        paths = [chain.provenance.blocks[index].module for index in pair]
        twin = _operated(
            chain, lambda held: dict(zip(held, reversed(held.values()), strict=True)), paths
        )
        swapped = _distance(_output(twin, arguments), outputs[len(outputs) - 1], full)
    apart = [_apart(chain.blocks[i], walk) for i in {0, len(chain) // 2, len(chain) - 1}]
    return {
        "chain_error": _distance(chain(*arguments[0], **arguments[1]).detach(), full, full),
        "deletions": len(chosen),
        "exchanged": pair,
        "hooks_error": max(errors),
        "least_effect": min(effects),
        "taken_out": len(oracles),
        "taken_out_error": max(oracles, default=math.nan),
        "exchange_error": swapped,
        "apart_error": max(apart),
        "casts": _casts(chain),
        "natively": sum(bool(place.additions) for place in chain.provenance.blocks),
        "flops": operations,
        "flops_expected": _expected_flops(chain, engine, arguments, walk),
        "flops_naive": len(engine.plans) * _flops(lambda: _output(model, arguments)),
        **_rewired(chain, arguments, full),
    }


def _every_kind(chain: Chain) -> list[Intervention]:
    """One of each kind of intervention, where the shapes of this chain let it run."""
    pair = _exchangeable(chain)
    first = pair[0] if pair else next(b.index for b in chain if b.deletable)
    kinds: list[Intervention] = [
        *([Keep(*range(0, len(chain), 2))] if len(chain) > 1 else []),
        Scale(first, 0.5),
        DropShortcut(first),
        Replace(first, "mean"),
        Replace(first, "resample", 1),
        Replace(first, "zero"),
    ]
    if pair is not None:
        order = list(range(len(chain)))
        order[pair[0]], order[pair[1]] = pair[1], pair[0]
        kinds += [
            Repeat(first, 2),
            Swap(*pair),
            Reorder(order),
            Reverse(*pair),
            MiddleRepeat(*pair),
            Parallel(*pair),
            Parallel(*pair, "mean"),
        ]
    return kinds


def _drawn(chain: Chain, generator: random.Random) -> Intervention:
    """Some of them, composed."""
    index = range(len(chain))
    near = sorted(min(max(generator.choice(index), 0), len(chain) - 2) + i for i in (0, 1))
    makers: list[Callable[[], Intervention]] = [
        lambda: Delete(*generator.sample(index, min(2, len(chain)))),
        lambda: Scale(generator.choice(index), round(generator.uniform(-1.5, 1.5), 2)),
        lambda: DropShortcut(generator.choice(index)),
        lambda: Replace(generator.choice(index), generator.choice(("mean", "resample", "zero"))),
        lambda: Repeat(generator.choice(index), 2),
        lambda: Swap(*near),
        lambda: Reverse(*near),
        lambda: MiddleRepeat(*near),
        lambda: Parallel(*near, generator.choice(("sum", "mean"))),
    ]
    return Compose(tuple(generator.choice(makers)() for _ in range(generator.randint(2, 4))))


def _fits(chain: Chain, intervention: Intervention) -> bool:
    try:
        bind(intervention, chain.outline)
    except InterventionError:
        return False
    return True


def _rewired(chain: Chain, arguments: Any, full: Tensor) -> dict[str, Any]:
    """Every intervention, alone and composed at random, by engine and by hooks."""
    generator = random.Random(0)
    chosen = [one for one in _every_kind(chain) if _fits(chain, one)]
    alone = len(chosen)
    attempts = (_drawn(chain, generator) for _ in range(50))
    fitting = (one for one in attempts if _fits(chain, one))
    chosen += itertools.islice(fitting, COMPOSITIONS if len(chain) > 1 else 0)
    with torch.no_grad():
        inputs = arguments[1] or arguments[0]
        means = branch_means(chain, [(inputs, None)])
    engine = Engine(chain, [bind(one, chain.outline) for one in chosen], means=means)
    outputs = dict(engine.logits(*arguments[0], **arguments[1]))
    errors, effects, refused, unstable = [], [], [], []
    most = 1e-10 if full.dtype == torch.float64 else 1e-4
    for number, plan in enumerate(engine.plans):
        try:
            with edited_by_plan(chain, plan, means):
                hooks = _output(chain.model, arguments)
                error = _distance(outputs[number], hooks, full)
                if error > most:
                    moved = _distance(_output(chain.model, _jogged(arguments)), hooks, full)
                    if 10 * moved > error:
                        unstable.append(f"{plan}: {error:.1e}, input jogged {moved:.1e}")
                        continue
        except InterventionError as refusal:
            refused.append(f"{plan}: {refusal}")
            continue
        errors.append(error)
        if number < alone:
            effects.append(_distance(hooks, full, full))
    return {
        "rewired": [str(one) for one in chosen],
        "rewired_error": max(errors),
        "rewired_effect": min(effects),
        "rewired_refused": refused,
        "rewired_unstable": unstable,
    }


def _jogged(arguments: Any) -> Any:
    """The same, moved by about what rounding adds up to within a net."""
    generator = torch.Generator().manual_seed(0)

    def jog(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        noise = torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)
        return leaf * (1 + 50 * torch.finfo(leaf.dtype).eps * noise)

    return pytree.tree_map(jog, arguments)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--shard", default="0/1")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    number, count = map(int, options.shard.split("/"))
    known = {(record["family"], record["model"]) for record in records()}
    wanted = [
        row
        for row in rows()
        if (not options.names or {row["family"], row["model"]} & set(options.names))
        and (row["family"], row["model"]) not in known
    ]
    FOLDER.mkdir(exist_ok=True)
    for row in wanted[number::count]:
        started = time.perf_counter()
        try:
            record = measure(row)
        except Exception as error:
            record = {"family": row["family"], "model": row["model"], "error": repr(error)[:300]}
            traceback.print_exc()
        with (FOLDER / "measured.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        wrong = "; ".join(problems(record)) or "as it should be"
        took = time.perf_counter() - started
        print(f"{row['family']} {row['model']}: {wrong} ({took:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
