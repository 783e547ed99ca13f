"""What stands around a model: each wrapper and habit works, or is refused by name."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.parametrizations as parametrizations
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import nets
from cases import error, images
from comparison import EDITS, EXACT, MOVES, Holding, compare, plain
from ensemble_view import Compose, Delete, Engine, Swap, edited, unravel
from ensemble_view.core.fusion import fuse
from ensemble_view.core.plan import bind
from ensemble_view.errors import DiscoveryError, InterventionError
from layers import two_layers, wake
from state import unchanged

aten = torch.ops.aten


class Functional(Holding):
    def forward(self, x: Tensor) -> Tensor:
        return torch.func.functional_call(self.net, dict(self.net.named_parameters()), (x,))


class Checkpointed(nets.Layers):
    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return self.head(x.mean((2, 3)))


class CheckpointedReentrantly(Checkpointed):
    reentrant = True


class CheckpointedTogether(nets.Layers):
    def forward(self, x: Tensor) -> Tensor:
        x = checkpoint_sequential(list(self.blocks), 2, self.stem(x), use_reentrant=False)
        return self.head(x.mean((2, 3)))


def compiled_parts(net: nets.Layers) -> nn.Module:
    net.blocks = nn.ModuleList(torch.compile(block, backend="eager") for block in net.blocks)
    return Holding(net)


def compiled_in_place(net: nets.Layers) -> nn.Module:
    net.blocks[1].compile(backend="eager")
    net.compile(backend="eager")
    return net


def compiled_forward(net: nets.Layers) -> nn.Module:
    net.forward = torch.compile(net.forward, backend="eager")
    return net


def unflattened(net: nets.Layers) -> nn.Module:
    return torch.export.unflatten(exported(net))


def exported(net: nn.Module, **options: Any) -> torch.export.ExportedProgram:
    shapes = options or {"dynamic_shapes": ({0: torch.export.Dim.AUTO},)}
    return torch.export.export(net, (images(),), **shapes)


NAMES = tuple(f"blocks.{index}" for index in range(3))
INSIDE = tuple(f"net.{name}" for name in NAMES)

WRAPPERS: list[tuple[str, Callable[[Any], nn.Module], tuple[str, ...]]] = [
    ("torch.compile", lambda net: torch.compile(net, backend="eager"), NAMES),
    ("compiled in place", compiled_in_place, NAMES),
    ("compiled forward", compiled_forward, NAMES),
    ("compiled submodules", compiled_parts, INSIDE),
    ("data parallel", nn.DataParallel, NAMES),
    ("averaged", torch.optim.swa_utils.AveragedModel, tuple(f"module.{name}" for name in NAMES)),
    ("functional call", Functional, INSIDE),
    ("no_grad", lambda net: Holding(net, torch.no_grad), INSIDE),
    ("enable_grad", lambda net: Holding(net, torch.enable_grad), INSIDE),
    ("inference_mode", lambda net: Holding(net, torch.inference_mode), INSIDE),
    ("unflattened export", unflattened, NAMES),
]


@pytest.mark.parametrize(("wrap", "names"), [w[1:] for w in WRAPPERS], ids=[w[0] for w in WRAPPERS])
def test_what_wraps_a_model_does_not_matter(wrap, names):
    model = wrap(plain())
    chain = unravel(model, images())
    assert tuple(block.name for block in chain) == names
    compare(model, chain, plain(), EDITS + MOVES)


@pytest.mark.filterwarnings("ignore:None of the inputs have")
@pytest.mark.parametrize(
    "net",
    [Checkpointed, CheckpointedReentrantly, CheckpointedTogether],
    ids=lambda net: net.__name__,
)
def test_gradient_checkpointing_does_not_matter(net):
    model = wake(net()).train()
    chain = unravel(model, images())
    assert tuple(block.name for block in chain) == NAMES
    compare(model.eval(), chain, plain(), EDITS + MOVES)


@pytest.mark.filterwarnings("ignore:None of the inputs have")
@pytest.mark.parametrize("net", [Checkpointed, CheckpointedReentrantly, CheckpointedTogether])
def test_no_gradient_is_taken_of_an_edit_that_checkpointing_would_not_see(net):
    model = wake(net())
    chain = unravel(model, images())
    message = (
        r"^The model computes its activations a second time in the backward pass \(gradient "
        r"checkpointing\), where no edit is seen; turn that off, or call the model under "
        r"torch\.no_grad\(\)\.$"
    )
    refused = pytest.raises(InterventionError, match=message)
    with refused, edited(chain, Delete(1)):
        model(images()).sum().backward()


FLAT = {
    "fx": torch.fx.symbolic_trace,
    "exported": lambda net: exported(net).module(),
}


@pytest.mark.parametrize("form", FLAT)
def test_a_model_that_is_one_flat_graph_has_each_sum_for_a_block(form):
    model, twin = FLAT[form](plain()), wake(nets.TwoSums())
    twin.count = 6
    chain = unravel(model, images())
    assert len(chain) == 6
    edits = [
        (Compose(), range(6), ()),
        (Delete(1), range(6), (1,)),
        (Delete(0, 5), range(6), (0, 5)),
    ]
    compare(model, chain, twin, [*edits, (Swap(0, 3), (3, 1, 2, 0, 4, 5), ())])


REPARAMETRISED = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


@pytest.mark.parametrize("kind", REPARAMETRISED)
def test_parametrised_weights_are_computed_once_by_the_engine(kind):
    model, twin = plain(), plain()
    for block in model.blocks:
        REPARAMETRISED[kind](block.first[0])
        REPARAMETRISED[kind](block.second[3])
    model.double().eval()
    with torch.no_grad():
        model(images())
        for path, module in twin.named_modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(model.get_submodule(path).weight)
    with unchanged(model):
        chain = unravel(model, images())
    compare(model, chain, twin, EDITS + MOVES)
    for block in fuse(unravel(model, images(), granularity="branch")).blocks:
        nodes = [node for node in block.kept.graph.nodes if node.op == "call_function"]
        operations = {node.target.overloadpacket for node in nodes}
        assert operations == {aten.conv2d, aten.relu_, aten.add_}


@pytest.fixture
def one_process(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group(
        "gloo", rank=0, world_size=1, init_method=f"file://{tmp_path / 'group'}"
    )
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP is switching")
@pytest.mark.usefixtures("one_process")
def test_distributed_models_are_unwrapped_or_refused():
    parallel = nn.parallel.DistributedDataParallel(plain())
    compare(parallel, unravel(parallel, images()), plain(), EDITS + MOVES)
    inside = (
        r"^The module net of Holding is wrapped for data parallelism inside the model, where it "
        r"cannot be traced; put the wrapper's \.module in its place\.$"
    )
    with pytest.raises(DiscoveryError, match=inside):
        unravel(Holding(parallel), images())
    sharded = "is sharded over processes; gather the full weights and load them into a plain model"
    with pytest.raises(DiscoveryError, match=f"^FullyShardedDataParallel {sharded}"):
        unravel(FullyShardedDataParallel(plain(), device_id=torch.device("cpu")), images())
    mesh = distributed.device_mesh.init_device_mesh("cpu", (1,))
    with pytest.raises(DiscoveryError, match=f"^FSDPLayers {sharded}"):
        unravel(fully_shard(plain(), mesh=mesh), images())
    model = plain()
    model.head.weight = nn.Parameter(distribute_tensor(model.head.weight.detach(), mesh))
    with pytest.raises(DiscoveryError, match=rf"^The weight head\.weight of Layers {sharded}"):
        unravel(model, images())


# --- weights shared between layers ---------------------------------------------------------------


def test_a_module_that_stands_in_two_places_makes_a_block_of_each_call():
    model = wake(nets.RootLoop())
    model.blocks[2] = model.blocks[0]
    unrolled = copy.deepcopy(model)
    unrolled.blocks[2] = copy.deepcopy(unrolled.blocks[0])
    chain = unravel(model, images())
    assert [block.name for block in chain] == ["blocks.0", "blocks.1", "blocks.0@1", "blocks.3"]
    edits = [(Compose(), range(4), ()), *((Delete(i), range(4), (i,)) for i in range(4))]
    compare(model, chain, unrolled, [*edits, (Swap(1, 2), (0, 2, 1, 3), ())])


# --- refusals ------------------------------------------------------------------------------------

SCRIPTED = (
    "is compiled by TorchScript, which hides the Python code that is traced; build the "
    r"torch\.nn\.Module that it was made from and load its state_dict\.$"
)
QUANTISED = (
    r"is quantised, and its layers cannot be traced; dequantise the model first, or load its "
    r"weights in float\.$"
)


def scripted_parts(net: nets.Layers) -> nn.Module:
    net.blocks = nn.ModuleList(torch.jit.script(block) for block in net.blocks)
    return net


def with_lazy_head(net: nets.Layers) -> nn.Module:
    net.head = nn.LazyLinear(5)
    return net


def with_byte_weights(net: nets.Layers) -> nn.Module:
    net.head.weight = nn.Parameter(torch.zeros(5, 4, dtype=torch.uint8), requires_grad=False)
    return net


class ByValue(nets.RootLoop):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


@dataclasses.dataclass
class State:
    hidden: Tensor
    count: int = 0


class ReturnsState(nets.RootLoop):
    def forward(self, x: Tensor) -> Any:
        return State(super().forward(x))


UNREGISTERED = (
    r"a State, a dataclass whose tensors torch does not see; register it once, "
    r"torch\.export\.register_dataclass\(State\), or use a tuple or dictionary\.$"
)

REFUSALS: list[tuple[str, Callable[[], nn.Module], Callable[[], Any], str]] = [
    ("scripted", lambda: torch.jit.script(plain()), images, f"^Layers {SCRIPTED}"),
    ("traced", lambda: torch.jit.trace(plain(), images()), images, f"^Layers {SCRIPTED}"),
    (
        "scripted parts",
        lambda: scripted_parts(plain()),
        images,
        rf"^The module blocks\.0 of Layers {SCRIPTED}",
    ),
    (
        "quantised dynamically",
        lambda: torch.ao.quantization.quantize_dynamic(plain().float(), {nn.Linear}),
        lambda: images().float(),
        f"^The module head of Layers {QUANTISED}",
    ),
    (
        "quantised weights",
        lambda: with_byte_weights(plain()),
        images,
        rf"^The weight head\.weight of Layers {QUANTISED}",
    ),
    (
        "not loaded",
        lambda: plain().to("meta"),
        images,
        r"^The weight stem\.0\.weight of Layers is on the meta device and holds no values \(not "
        r"loaded, or offloaded\); load the whole model into memory first\.$",
    ),
    (
        "lazy",
        lambda: with_lazy_head(plain()),
        images,
        r"^The weight head\.weight of Layers has no shape yet; run the model once on an example",
    ),
    (
        "exported for one size of batch",
        lambda: exported(plain(), dynamic_shapes=None).module(),
        images,
        r"^GraphModule itself fails on a batch of another size \(float64 \(3, 3, 8, 8\)\): .*\. "
        "Make it take any batch; an exported model is exported again with dynamic_shapes",
    ),
    (
        "branches on values",
        lambda: wake(ByValue()),
        images,
        r"^ByValue chooses its way by the values of a tensor \(an if, while or int\(\) on one\), "
        r"so that no one graph computes it: .*\. Use torch\.where or torch\.cond there",
    ),
    (
        "returns a dataclass",
        lambda: wake(ReturnsState()),
        images,
        f"^ReturnsState returns {UNREGISTERED}",
    ),
    ("takes a dataclass", plain, lambda: (State(images()),), f"^The example holds {UNREGISTERED}"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "example", "message"), [r[1:] for r in REFUSALS], ids=[r[0] for r in REFUSALS]
)
def test_what_cannot_be_traced_is_refused_by_name(make, example, message):
    with pytest.raises(DiscoveryError, match=message):
        unravel(make(), example())


def test_a_refusal_prints_nothing_beside_its_sentence(capfd):
    with pytest.raises(DiscoveryError):
        unravel(wake(ByValue()), images())
    assert "def forward" not in "".join(capfd.readouterr())


# --- code as users write it ----------------------------------------------------------------------


@dataclasses.dataclass
class Registered:
    hidden: Tensor
    mask: Tensor | None = None


torch.export.register_dataclass(Registered)


class Dataclasses(nets.RootLoop):
    """Takes, hands on and returns dataclasses; only those outside are registered."""

    def forward(self, given: Registered) -> Any:
        state = State(self.stem(given.hidden))
        for block in self.blocks:
            state = State(F.relu(state.hidden + block(state.hidden)), state.count + 1)
        return Registered(self.head(state.hidden.mean((2, 3))))


def test_dataclasses_come_in_go_round_and_come_out():
    model, twin = wake(Dataclasses()), wake(nets.RootLoop())
    chain = unravel(model, (Registered(images()),))
    assert len(chain) == 4
    engine = Engine(chain, [bind(Delete(1), chain.outline)])
    with torch.no_grad():
        expected = twin.by_hand(images(), range(4), (1,))
        with edited(chain, Delete(1)):
            assert error(model(Registered(images())).hidden, expected) <= EXACT
        assert error(dict(engine.logits(Registered(images())))[0], expected) <= EXACT


class Stateful(nn.Module):
    """A block that passes a dictionary on and is called with an option."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = two_layers(4)

    def forward(self, state: dict[str, Any], *, double: bool = False, **rest: Any) -> Any:
        change = self.branch(state["hidden"]) * (2 if double else 1)
        return {**state, "hidden": state["hidden"] + change}, rest


class Dictionaries(nets.Net):
    doubled: tuple[int, ...] = ()

    def block(self, index: int) -> nn.Module:
        return Stateful()

    def forward(self, x: Tensor) -> Tensor:
        state: dict[str, Any] = {"hidden": self.stem(x), "mask": None}
        for index, block in enumerate(self.blocks):
            state, _ = block(state, double=index in self.doubled, unused=3)
        return self.head(state["hidden"].mean((2, 3)))

    def step(self, index: int, x: Tensor, *, keep: bool) -> Tensor:
        factor = 2 if index in self.doubled else 1
        return x + factor * self.blocks[index].branch(x) if keep else x


def test_dictionaries_and_options_between_blocks():
    model = wake(Dictionaries())
    compare(model, unravel(model, images()), copy.deepcopy(model), EDITS + MOVES)


def test_a_block_takes_its_own_options_along_or_the_hooks_refuse():
    model = wake(Dictionaries())
    model.doubled = (1,)
    chain = unravel(model, images())
    compare(model, chain, model, EDITS)
    plan = bind(Swap(0, 1), chain.outline)
    with torch.no_grad():
        expected = model.by_hand(images(), (1, 0, 2), ())
        assert error(dict(Engine(chain, [plan]).logits(images()))[0], expected) <= EXACT
    message = (
        r"^Blocks that change places are called with different arguments \(Stateful\), which would "
        r"not move along with them; run the plan through the engine instead\.$"
    )
    refused = pytest.raises(InterventionError, match=message)
    with unchanged(model), torch.no_grad(), refused, edited(chain, Swap(0, 1)):
        model(images())


class Remembering(nets.Layers):
    """Calls its blocks from a list of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.order = list(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.order:
            x = block(x)
        return self.head(x.mean((2, 3)))


def test_blocks_that_are_called_from_elsewhere_are_not_moved_in_silence():
    model = wake(Remembering())
    chain = unravel(model, images())
    compare(model, chain, plain(), EDITS)
    message = (
        r"^The model does not call its blocks \(blocks\.0, …\) from where they are registered, so "
        r"exchanging them there does not move them; run the plan through the engine instead\.$"
    )
    refused = pytest.raises(InterventionError, match=message)
    with unchanged(model), torch.no_grad(), refused, edited(chain, Swap(0, 2)):
        model(images())
