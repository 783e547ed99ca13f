"""Residuals that are not written ``+``: found, cut and edited as the formula says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.ao.nn.quantized import FloatFunctional

from cases import error, images
from ensemble_view import Compose, Delete, Engine, Keep, Swap, edited, unravel
from ensemble_view.core.plan import bind
from ensemble_view.errors import DiscoveryError
from layers import Body, conv, two_layers, wake
from nets import RootLoop
from state import unchanged

BITE = 1e-3
EXACT = 1e-10

Form = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """How a model writes a residual of x, branch and gate; its formula; what a deletion leaves."""

    name: str
    written: Form
    formula: Form
    left: Callable[[Tensor], Tensor] = lambda x: x
    identity: bool = True


def _minus(x: Tensor, f: Tensor, t: Tensor) -> Tensor:
    return x + f * -1.0


def _half(x: Tensor, f: Tensor, t: Tensor) -> Tensor:
    return x + f / 2


def _highway(x: Tensor, f: Tensor, t: Tensor) -> Tensor:
    return t * f + x - x * t


def _in_place(x: Tensor, f: Tensor, t: Tensor) -> Tensor:
    x = x.clone()
    x -= f
    return x


adding = FloatFunctional()

CASES = [
    Case("x - f", lambda x, f, t: x - f, _minus),
    Case("sub(alpha)", lambda x, f, t: torch.sub(x, f, alpha=0.5), lambda x, f, t: x - f / 2),
    Case("sub_", lambda x, f, t: x.clone().sub_(f), _minus),
    Case("-=", _in_place, _minus),
    Case("rsub", lambda x, f, t: torch.rsub(f, x), _minus),
    Case("x - -f", lambda x, f, t: x - -f, lambda x, f, t: x + f),
    Case("f - x", lambda x, f, t: f - x, lambda x, f, t: f + x * -1, lambda x: -1 * x, False),
    Case("x - f - g", lambda x, f, t: x - f - t, lambda x, f, t: x + -1 * (f + t)),
    Case("x - f + g", lambda x, f, t: x - f + t, lambda x, f, t: x + (t + -1 * f)),
    Case("add(alpha)", lambda x, f, t: torch.add(x, f, alpha=0.5), _half),
    Case("add_(alpha)", lambda x, f, t: x.clone().add_(f, alpha=0.5), _half),
    Case(
        "add(f, x, alpha)",
        lambda x, f, t: torch.add(f, x, alpha=0.5),
        lambda x, f, t: f + x / 2,
        lambda x: x / 2,
        False,
    ),
    Case(
        "addcmul",
        lambda x, f, t: torch.addcmul(x, f, t, value=0.7),
        lambda x, f, t: x + 0.7 * f * t,
    ),
    Case(
        "addcdiv",
        lambda x, f, t: torch.addcdiv(x, f, 1 + t, value=-2),
        lambda x, f, t: x + -2 * f / (1 + t),
    ),
    Case("lerp", lambda x, f, t: torch.lerp(x, f, 0.3), lambda x, f, t: 0.7 * x + 0.3 * f),
    Case("lerp_", lambda x, f, t: x.clone().lerp_(f, 0.7), lambda x, f, t: 0.3 * x + 0.7 * f),
    Case("lerp back", lambda x, f, t: torch.lerp(f, x, 0.3), lambda x, f, t: 0.3 * x + 0.7 * f),
    Case("lerp gate", lambda x, f, t: torch.lerp(x, f, t), _highway),
    Case("lerp gate back", lambda x, f, t: torch.lerp(f, x, 1 - t), _highway),
    Case("highway", lambda x, f, t: t * f + (1 - t) * x, _highway),
    Case("highway, turned", lambda x, f, t: x * (1 - t) + f * t, _highway),
    Case(
        "highway, carry gate",
        lambda x, f, t: (1 - t) * f + t * x,
        lambda x, f, t: f + t * (x - f),
    ),
    Case("highway, three terms", lambda x, f, t: f * t + x - x * t, _highway),
    Case("highway, factored", lambda x, f, t: x + t * (f - x), _highway),
    Case(
        "two constants",
        lambda x, f, t: 0.5 * f + 0.5 * x,
        lambda x, f, t: f / 2 + x / 2,
        lambda x: x / 2,
        False,
    ),
    Case("FloatFunctional", lambda x, f, t: adding.add(x, f), lambda x, f, t: x + f),
    Case("add_relu", lambda x, f, t: adding.add_relu(x, f), lambda x, f, t: (x + f).clamp(min=0),
         lambda x: x.clamp(min=0)),
]  # fmt: skip


class Block(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.branch, self.gate = two_layers(4), conv(4, 4, bias=True)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return x, self.branch(x), torch.sigmoid(self.gate(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.case.written(*self.parts(x))


class Blocks(nn.Module):
    """Four modules that are one block each."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 4), nn.Linear(4, 5)
        self.blocks = nn.ModuleList(Block(case) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))

    def by_hand(self, x: Tensor, order: Sequence[int], deleted: Iterable[int]) -> Tensor:
        x = self.stem(x)
        for index in order:
            case = self.blocks[index].case
            x = case.left(x) if index in deleted else case.formula(*self.blocks[index].parts(x))
        return self.head(x.mean((2, 3)))


class Loop(Blocks):
    """The same sums made by the model's own forward, where no module is a block."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block.case.written(*block.parts(x))
        return self.head(x.mean((2, 3)))


EDITS = [
    *(((0, 1, 2, 3), {index}) for index in range(4)),
    ((0, 1, 2, 3), {0, 3}),
    ((0, 1, 2, 3), {0, 1, 2}),
    ((2, 1, 0, 3), set()),
    ((2, 1, 0, 3), {0}),
]


LOOPED = [case for case in CASES if case.name in ("-=", "add(alpha)", "lerp gate", "highway")]
NETS = [(Blocks, case) for case in CASES] + [(Loop, case) for case in LOOPED]


@pytest.mark.parametrize(("net", "case"), NETS, ids=[f"{n.__name__}, {c.name}" for n, c in NETS])
def test_every_form_of_a_residual_is_found_and_edited(net, case):
    model, batch = wake(net(case)), images()
    chain = unravel(model, batch)
    assert len(chain) == 4
    if case.identity:
        assert {block.shortcut_kind for block in chain} == {"identity"}
    interventions = [
        Compose(),
        *(Delete(index) for index in range(4)),
        Delete(0, 3),
        Keep(3),
        Swap(0, 2),
        Swap(0, 2) | Delete(0),
    ]
    engine = Engine(chain, [bind(one, chain.outline) for one in interventions])
    from_engine = dict(engine.logits(batch))
    with torch.no_grad():
        whole = model.by_hand(batch, range(4), ())
        assert error(model(batch), whole) <= EXACT
        assert error(from_engine[0], whole) <= EXACT
        for number, (order, deleted) in enumerate(EDITS, start=1):
            expected = model.by_hand(batch, order, deleted)
            with edited(chain, interventions[number]):
                assert error(model(batch), expected) <= EXACT, (order, deleted)
            assert error(from_engine[number], expected) <= EXACT, (order, deleted)
            assert error(expected, whole) >= BITE, f"{interventions[number]} does not bite"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["x - f", "addcmul", "lerp", "highway"])
def test_a_rewritten_form_is_proved_in_every_precision(name, dtype):
    case = next(case for case in CASES if case.name == name)
    assert len(unravel(wake(Blocks(case)).to(dtype), images().to(dtype))) == 4


class Rows(nn.Module):
    """Residuals in matrix products: of full shape they are blocks, a bias is none."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.maps = nn.ParameterList(
            torch.randn(6, 6, generator=generator, dtype=torch.float64) / 3 for _ in range(3)
        )
        self.bias = nn.Parameter(torch.randn(6, generator=generator, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = self.maps
        x = torch.addmm(x, torch.tanh(x), first, beta=0.5, alpha=2)
        x = torch.addmm(self.bias, torch.tanh(x), second)
        rows = x[:, None]
        rows = torch.baddbmm(rows, torch.tanh(rows), third.expand(x.shape[0], 6, 6))
        return rows.sum(1)

    def by_hand(self, x: Tensor, deleted: set[int]) -> Tensor:
        first, second, third = self.maps
        x = 0.5 * x + (0 if 0 in deleted else 2 * torch.tanh(x) @ first)
        x = torch.tanh(x) @ second + self.bias
        return x + (0 if 1 in deleted else torch.tanh(x) @ third)


def test_matrix_products_with_a_matrix_added_are_residuals():
    model = Rows()
    batch = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    chain = unravel(model, batch)
    assert len(chain) == 2
    plans = [bind(one, chain.outline) for one in (Compose(), Delete(0), Delete(1))]
    found = dict(Engine(chain, plans).logits(batch))
    with torch.no_grad():
        for index in range(2):
            expected = model.by_hand(batch, {index})
            assert error(found[1 + index], expected) <= EXACT
            with edited(chain, Delete(index)):
                assert error(model(batch), expected) <= EXACT
            assert error(expected, model(batch)) >= BITE


class Centred(Body):
    def body(self, x):
        x = x - x.mean((2, 3), keepdim=True)
        x = x - x.mean(1, keepdim=True).expand_as(x)
        return F.relu(self.first(x))


class Difference(Body):
    def body(self, x):
        return F.relu(self.first(x)) - F.relu(self.second(x))


class Mixture(Body):
    def body(self, x):
        return torch.lerp(F.relu(self.first(x)), F.relu(self.second(x)), 0.3)


class TwoGates(Body):
    """The gates have nothing to do with each other, so nothing says how the input passes."""

    def body(self, x):
        return torch.sigmoid(self.first(x)) * self.second(x) + (1 - torch.sigmoid(x)) * x


class Minuend(Body):
    """What is subtracted from does not depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.prototype = nn.Parameter(torch.ones(4, 8, 8))

    def body(self, x):
        return self.prototype.expand(x.shape[0], 4, 8, 8) - F.relu(self.first(x))


MERGE = "a merge: every summand passes a nonlinearity"
NOTHING = [
    (Centred, "it adds nothing"),
    (Difference, MERGE),
    (Mixture, MERGE),
    (TwoGates, MERGE),
    (Minuend, "adds something that does not depend on the trunk"),
]


@pytest.mark.parametrize(("net", "reason"), NOTHING, ids=[net.__name__ for net, _ in NOTHING])
def test_what_subtracts_or_mixes_without_a_shortcut_is_no_block(net, reason):
    model = wake(net())
    with (
        unchanged(model),
        pytest.raises(DiscoveryError, match=f"has no residual block: .*{reason}"),
    ):
        unravel(model, images())


class Inside(RootLoop):
    """Inside a branch nothing is rewritten: its operations stay as they were."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.blocks:
            h = branch(x)
            h = F.relu(torch.lerp(h, F.relu(h), 0.5))
            x = x + F.relu(h - torch.tanh(h))
        return self.head(x.mean((2, 3)))


def test_only_what_the_trunk_is_summed_of_is_rewritten():
    chain = unravel(wake(Inside()), images())
    assert len(chain) == 4
    for block in chain:
        assert isinstance(block.branch, fx.GraphModule)
        operations = {node.target for node in block.branch.graph.nodes}
        assert {torch.ops.aten.lerp.Scalar, torch.ops.aten.sub.Tensor} <= operations
        assert torch.ops.aten.neg.default not in operations
