"""Gradients by path length, against every path one by one and against autograd of the model."""

from __future__ import annotations

import dataclasses
import itertools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from scipy import stats
from torch import Tensor, nn

from ensemble_view import Block, Chain, unravel
from ensemble_view.errors import MeasurementError
from ensemble_view.nets.models.building import build
from ensemble_view.paths.gradients import draw_energies, path_gradients, squares, summed_gradients
from ensemble_view.paths.losses import Loss, cross_entropy
from ensemble_view.paths.trace import Trace, refuse_random_blocks, trace
from layers import wake
from path_oracles import enumerate_paths, scaled
from state import state_of

CLASSES = 5


@dataclass(frozen=True, eq=False)
class Case:
    """A net, its arguments, the loss of each example, and how many blocks are to be found."""

    model: nn.Module
    arguments: tuple[Tensor, ...]
    labels: Tensor
    blocks: int
    loss: Loss = cross_entropy
    rounding: float = 1e-12

    def chain(self) -> Chain:
        return unravel(self.model, self.arguments, granularity="branch")

    def losses(self, output: Any) -> Tensor:
        return self.loss(output, self.labels, self.arguments[0])


def images(side: int = 8, count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, side, side, generator=generator, dtype=torch.float64)


def labels(count: int = 2) -> Tensor:
    return torch.arange(count) % CLASSES


def ours(name: str) -> Callable[[], Case]:
    def make() -> Case:
        blocks = (int(re.findall(r"\d+", name)[0]) - 2) // 2
        return Case(wake(build(name, classes=CLASSES)), (images(),), labels(), blocks)

    return make


def bottlenecks() -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck, [2, 1, 2, 1], CLASSES, width_per_group=8
        )
    return Case(wake(model), (images(16),), labels(), 6)


def vision_transformer() -> Case:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.VisionTransformer(
            image_size=8, patch_size=4, num_layers=3, num_heads=2, hidden_dim=8, mlp_dim=16,
            num_classes=CLASSES,
        )  # fmt: skip
    return Case(_moved(model), (images(),), labels(), 6)


def _moved(model: nn.Module) -> nn.Module:
    """No weight where initialisation left it, some of which are zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.double().parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += 0.15 * noise
    return model.eval()


SMALL = {"vocab_size": 40, "num_labels": CLASSES, "pad_token_id": 0}


def tokens() -> Tensor:
    return torch.randint(3, 40, (2, 5), generator=torch.Generator().manual_seed(2))


def next_token(logits: Tensor, labels: Tensor, tokens: Tensor) -> Tensor:
    """Mean cross-entropy of the next token, per example."""
    if isinstance(tokens, tuple):
        (tokens,) = tokens
    losses = F.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
    return losses.mean(1)


def gpt2() -> Case:
    transformers = pytest.importorskip("transformers", reason="GPT-2 is from transformers")
    config = transformers.GPT2Config(
        **SMALL, n_positions=8, n_embd=8, n_layer=3, n_head=2, bos_token_id=1, eos_token_id=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _moved(transformers.GPT2LMHeadModel(config))
    return Case(model, (tokens(),), labels(), 6, next_token)


def bert() -> Case:
    transformers = pytest.importorskip("transformers", reason="BERT is from transformers")
    config = transformers.BertConfig(
        **SMALL, hidden_size=8, num_attention_heads=2, intermediate_size=16, num_hidden_layers=3,
        max_position_embeddings=8,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _moved(transformers.BertForSequenceClassification(config))
    return Case(model, (tokens(),), labels(), 6)


CASES = {
    "v1, zero padding": ours("resnet14,width=4"),
    "v1, projection": ours("resnet14,width=4,shortcut=B"),
    "v2, zero padding": ours("resnet14v2,width=4,shortcut=A"),
    "v2, projection": ours("resnet20v2,width=4"),
    "bottlenecks": bottlenecks,
    "vision transformer": vision_transformer,
    "GPT-2": gpt2,
    "BERT": bert,
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request: pytest.FixtureRequest) -> Case:
    return request.param()


@pytest.fixture(scope="module")
def chain(case: Case) -> Chain:
    return case.chain()


@pytest.fixture(scope="module")
def every_path(case: Case, chain: Chain) -> dict[tuple[int, ...], Tensor]:
    return enumerate_paths(chain, case.arguments, case.losses)


def error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


def by_length(paths: dict[tuple[int, ...], Tensor]) -> list[Tensor]:
    grouped = itertools.groupby(sorted(paths, key=len), key=len)
    return [sum(paths[path] for path in group) for _, group in grouped]


def test_every_length_is_the_sum_over_all_its_paths(case, chain, every_path):
    assert len(chain) == case.blocks
    before = state_of(case.model)
    traced = trace(chain, case.arguments, case.labels, loss=case.loss)
    found = summed_gradients(traced)
    assert traced.branch_vjps == case.blocks * (case.blocks + 1) // 2
    expected = by_length(every_path)
    assert len(found) == len(expected) == case.blocks + 1
    largest = max(each.norm() for each in expected)
    for length, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert other.norm() > 1e-9 * largest, f"length {length} carries nothing"
        # A sum over paths that cancel is no more exact than the paths are.
        size = max(p.norm() for path, p in every_path.items() if len(path) == length)
        assert (one - other).norm() <= case.rounding * max(size, other.norm())
    assert state_of(case.model) == before


def test_the_lengths_sum_to_the_gradient_of_the_model_itself(case, chain):
    held: list[Tensor] = []
    original = chain.blocks[0]

    def seen(x: Tensor) -> Tensor:
        held.append(x)
        return x

    x, _ = chain.stem(*case.arguments)
    # The model's own forward pass, in which the first block's input is found by its values.
    mode = _Finder(x.detach(), seen)
    with torch.enable_grad(), mode:
        output = case.model(*case.arguments)
    output = output if isinstance(output, Tensor) else output.logits
    assert held, f"the model has no activation like the input of {original.name}"
    expected = sum(
        each
        for each in torch.autograd.grad(case.losses(output).sum(), held[:1], allow_unused=True)
        if each is not None
    )
    found = sum(summed_gradients(trace(chain, case.arguments, case.labels, loss=case.loss)))
    assert error(found, expected) <= case.rounding


class _Finder(torch.overrides.TorchFunctionMode):
    """Tells of the last tensor in the model's forward pass that has the given values."""

    def __init__(self, values: Tensor, seen: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.values, self.seen, self.found = values, seen, False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        if (
            not self.found
            and isinstance(result, Tensor)
            and result.shape == self.values.shape
            and result.requires_grad
            and torch.equal(result.detach(), self.values)
        ):
            self.found = True
            self.seen(result)
        return result


@pytest.mark.parametrize("factor", [-1.0, 0.5, 2.0])
@pytest.mark.parametrize("name", ["resnet110,width=2", "resnet110v2,width=2"])
def test_of_54_blocks_lengths_weighed_by_powers_are_the_gradient_with_scaled_branches(name, factor):
    case = ours(name)()
    with torch.no_grad():
        # So that neither the shortest nor the longest paths are lost to rounding.
        for module in case.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight *= 0.5
    chain = case.chain()
    assert len(chain) == 54
    traced = trace(chain, case.arguments, case.labels)
    lengths = summed_gradients(traced)
    assert traced.branch_vjps == 54 * 55 // 2
    found = sum(factor**k * each for k, each in enumerate(lengths))
    expected = scaled(chain, case.arguments, case.losses, factor)
    # Where signs alternate, the sum is far smaller than what it is made of.
    size = max(abs(factor) ** k * each.norm() for k, each in enumerate(lengths))
    assert (found - expected).norm() <= 1e-12 * max(expected.norm(), size)


def test_single_paths_are_what_autograd_gives_for_them_and_skipped_blocks_cost_nothing(
    case, chain, every_path
):
    traced = trace(chain, case.arguments, case.labels, loss=case.loss)
    paths = list(every_path)[::3]
    found = path_gradients(traced, paths)
    assert traced.branch_vjps == sum(map(len, paths))
    for path, gradient in zip(paths, found, strict=True):
        assert error(gradient, every_path[path]) <= case.rounding


@pytest.mark.parametrize("chunk", [2, 3, 50])
def test_chunks_and_vectorised_calls_change_nothing(case, chain, chunk):
    expected = summed_gradients(trace(chain, case.arguments, case.labels, loss=case.loss))
    traced = trace(chain, case.arguments, case.labels, loss=case.loss, vectorised=True)
    with warnings.catch_warnings():
        # An operation that torch takes one by one is slower, and says so.
        warnings.filterwarnings("ignore", "There is a performance drop")
        found = summed_gradients(traced, chunk=chunk)
    assert traced.branch_vjps == case.blocks * (case.blocks + 1) // 2
    for one, other in zip(found, expected, strict=True):
        assert error(one, other) <= case.rounding


@pytest.mark.parametrize("at", [None, 1, 2])
def test_gradients_at_the_input_or_at_a_later_block(at):
    case = ours("resnet8,width=4")()
    chain = case.chain()
    expected = by_length(enumerate_paths(chain, case.arguments, case.losses, at))
    found = summed_gradients(trace(chain, case.arguments, case.labels, at=at))
    assert len(found) == len(chain) - (at or 0) + 1
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert error(one, other) <= 1e-12


def toy(links: bool = False) -> tuple[Chain, list[list[Callable[[Tensor], Tensor]]]]:
    """Four blocks whose every part does something, and a link; also as plain functions."""
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=generator, dtype=torch.float64) / 2

    sizes = [3, 3, 4, 4, 2]
    functions, blocks = [], []
    for index, (size, larger) in enumerate(itertools.pairwise(sizes)):
        first, second, project = matrix(size, size), matrix(size, larger), matrix(size, larger)
        parts = [
            torch.tanh,
            (lambda x: x) if size == larger else (lambda x, p=project: x @ p),
            lambda x, first=first, second=second: torch.tanh(x @ first) @ second,
            lambda x: torch.nn.functional.softplus(x) - 0.3 * x,
        ]
        functions.append(parts)
        blocks.append(Block(index, f"toy.{index}", *[lambda x, context, f=f: f(x) for f in parts]))
    chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
    if links:
        chain = dataclasses.replace(chain, links={2: lambda x, context: torch.sin(2 * x)})
    return chain, functions


@pytest.mark.parametrize("links", [False, True], ids=["no link", "link"])
def test_lengths_are_sums_of_explicit_products_of_jacobians(links):
    chain, functions = toy(links)
    x = torch.randn(3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian
    pairs, point = [], x
    for index, (before, shortcut, branch, after) in enumerate(functions):
        outside = torch.eye(len(point), dtype=torch.float64)
        if links and index == 2:
            outside = jacobian(lambda value: torch.sin(2 * value), point)
            point = torch.sin(2 * point)
        shared = before(point)
        total = shortcut(shared) + branch(shared)
        left, right = jacobian(after, total), jacobian(before, point) @ outside
        pairs.append([left @ jacobian(part, shared) @ right for part in (shortcut, branch)])
        point = after(total)
    expected = [torch.zeros(3, dtype=torch.float64) for _ in range(5)]
    for path in itertools.product((0, 1), repeat=4):
        product = torch.eye(3, dtype=torch.float64)
        for pair, taken in zip(pairs, path, strict=True):
            product = pair[taken] @ product
        # The loss is the second number of the output.
        expected[sum(path)] += product[1]
    traced = trace(chain, x[None], None, loss=lambda output, *_: output[:, 1])
    for one, other in zip(summed_gradients(traced), expected, strict=True):
        assert error(one[0], other) <= 1e-13


def energies_of(traced: Trace, groups: int, seed: int, vectors: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([draw_energies(traced, generator, vectors=vectors) for _ in range(groups)])


@pytest.mark.parametrize("vectors", [1, 16])
def test_energy_lies_within_its_error_of_the_enumerated_one(case, chain, every_path, vectors):
    expected = torch.stack(
        [
            sum(squares([g])[:, 0] for path, g in every_path.items() if len(path) == length)
            for length in range(case.blocks + 1)
        ],
        dim=1,
    )
    traced = trace(chain, case.arguments, case.labels, loss=case.loss)
    groups = 24
    drawn = energies_of(traced, groups, seed=3, vectors=vectors).mean(1)
    assert traced.branch_vjps == groups * vectors * case.blocks * (case.blocks + 1) // 2
    error = drawn.std(0) / groups**0.5
    mean = expected.mean(0)
    # Student's t of 23 degrees of freedom: over the 96 lengths of all cases, one false alarm in
    # 1,000 runs. Bias and coverage are tested more sharply below.
    quantile = stats.t.isf(0.001 / 2 / 96, groups - 1)
    assert ((drawn.mean(0) - mean).abs() <= quantile * error + 1e-9 * mean).all()
    assert (drawn.mean(0) != mean)[1:-1].all()


def _independent(chain: Chain, x: Tensor, number: int, seed: int) -> Tensor:
    """Independent draws of the energy of one example, as that of many equal ones."""
    traced = trace(
        chain, x.repeat(number, 1), None, loss=lambda output, *_: output[:, 0], vectorised=True
    )
    return energies_of(traced, 1, seed)[0]


def linear_chain(branches: list[Tensor]) -> Chain:
    blocks = [
        Block(i, f"F{i}", branch=lambda x, context, f=f: x @ f) for i, f in enumerate(branches)
    ]
    return Chain.from_parts(lambda x: x, blocks, lambda x: x)


def test_energy_of_54_linear_blocks_is_the_trace_of_the_second_moment():
    generator = torch.Generator().manual_seed(0)
    size, n = 6, 54
    branches = [
        0.15 * torch.randn(size, size, generator=generator, dtype=torch.float64) for _ in range(n)
    ]
    start = torch.zeros(size, dtype=torch.float64)
    start[0] = 1
    # M'_k = M_k + Bᵀ M_{k-1} B for the sum of g gᵀ over paths; no vector is ever mixed here.
    moments = [torch.outer(start, start)]
    for f in reversed(branches):
        longer = [f @ moment @ f.T for moment in moments]
        moments = [
            (moments[k] if k < len(moments) else 0) + (longer[k - 1] if k else 0)
            for k in range(len(moments) + 1)
        ]
    expected = torch.stack([moment.trace() for moment in moments])
    groups = 64
    drawn = _independent(linear_chain(branches), torch.ones(1, size).double(), groups, seed=0)
    error = drawn.std(0) / groups**0.5
    quantile = stats.t.isf(0.001 / 2 / len(expected), groups - 1)
    within = (drawn.mean(0) - expected).abs() <= quantile * error + 1e-12 * expected
    # The error of the longest lengths, which hold hardly any energy, is said not to be reliable.
    reliable = drawn.median(0).values >= 0.8 * drawn.mean(0)
    heavy = expected > 1e-3 * expected.sum()
    assert within[reliable].all()
    assert reliable[heavy].all()
    assert heavy.sum() > 8
    assert (error < 0.1 * expected)[heavy].all()


def test_the_stated_error_of_the_energy_covers_as_it_says():
    chain, _ = toy()
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    every = enumerate_paths(chain, (x,), lambda output: output[:, 0])
    expected = torch.zeros(5, dtype=torch.float64)
    for path, gradient in every.items():
        expected[len(path)] += gradient.square().sum()
    runs, groups = 2000, 16
    drawn = _independent(chain, x, runs * groups, seed=11).reshape(runs, groups, 5)
    mean, error = drawn.mean(1), drawn.std(1) / groups**0.5
    quantile = 2.131  # of Student's t with 15 degrees of freedom, 97.5 %
    covered = ((mean - expected).abs() <= quantile * error + 1e-12).double().mean(0)
    # The shortest and the longest length have one path, hence no error.
    assert (covered[[0, 4]] == 1).all()
    # Three standard errors of a proportion of 95 % in 2000 runs, and a little for skewness.
    assert ((covered[1:4] - 0.95).abs() <= 0.02).all(), covered


def test_the_energy_has_no_bias():
    generator = torch.Generator().manual_seed(1)
    branches = [0.5 * torch.randn(4, 4, generator=generator, dtype=torch.float64) for _ in range(6)]
    chain, x = linear_chain(branches), torch.ones(1, 4, dtype=torch.float64)
    expected = torch.zeros(7, dtype=torch.float64)
    for path, gradient in enumerate_paths(chain, (x,), lambda output: output[:, 0]).items():
        expected[len(path)] += gradient.square().sum()
    drawn = _independent(chain, x, 20_000, seed=4)
    error = drawn.std(0) / len(drawn) ** 0.5
    assert (error < 0.003 * expected)[1:-1].all()
    # One false alarm in 1,000 runs over five lengths.
    assert ((drawn.mean(0) - expected).abs() <= 3.9 * error)[1:-1].all()


def test_every_example_is_mixed_by_itself():
    chain = linear_chain([0.5 * torch.eye(3, dtype=torch.float64)] * 6)
    drawn = _independent(chain, torch.ones(1, 3, dtype=torch.float64), 4000, seed=2)[:, 3]
    other = drawn.roll(1)
    correlation = torch.corrcoef(torch.stack([drawn, other]))[0, 1]
    assert drawn.std() > 0.05 * drawn.mean()
    assert correlation.abs() < 4 / 4000**0.5


def not_differentiable(x: Tensor) -> Tensor:
    return x.detach().round()


def with_branch(branch: Callable[[Tensor], Tensor], name: str = "odd.one") -> Chain:
    blocks = [
        Block(0, "even", branch=lambda x, context: 2 * x),
        Block(1, name, branch=lambda x, context: branch(x)),
    ]
    return Chain.from_parts(lambda x: x, blocks, lambda x: x)


class NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        raise NotImplementedError("this operation has no derivative")


WEIGHT = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("branch", "reason"),
    [
        (not_differentiable, "its output is cut off from its input"),
        (lambda x: x.detach() * WEIGHT, "its output does not depend on its input"),
        (NoGradient.apply, "this operation has no derivative"),
        (lambda x: x.mul_(2), "in-place operation"),
    ],
    ids=["cut off", "of weights only", "no derivative", "in place"],
)
def test_a_branch_that_is_not_differentiable_is_refused_by_name(branch, reason):
    def measure() -> None:
        x, chain = torch.ones(2, 3), with_branch(branch)
        summed_gradients(trace(chain, x, None, loss=lambda output, *_: output.sum(1)))

    sentence = rf"block 1 \(odd.one\) is not differentiable \(.*{reason}"
    with pytest.raises(MeasurementError, match=sentence):
        measure()
    assert WEIGHT.grad is None


def test_blocks_that_are_random_are_refused_by_name():
    chain = with_branch(lambda x: x * torch.rand(()))
    with pytest.raises(MeasurementError, match=r"Block 1 \(odd.one\) gives another value each"):
        refuse_random_blocks(chain, torch.ones(2, 3))
    refuse_random_blocks(with_branch(torch.tanh), torch.ones(2, 3))


def test_blocks_of_several_sums_and_plain_units_are_refused_by_name():
    case = vision_transformer()
    layers = unravel(case.model, case.arguments)
    with pytest.raises(MeasurementError, match=r"2 residual sums.*granularity='branch'"):
        trace(layers, case.arguments, case.labels)
    plain = wake(build("plain8,width=4", classes=CLASSES))
    units = unravel(plain, images(), plain=True)
    with pytest.raises(MeasurementError, match=r"Block 0 \(.*\) has no shortcut"):
        trace(units, images(), labels())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"at": 7}, "There is no block 7 to take the gradient at"),
        ({"loss": lambda output, *_: output.mean()}, "The loss has shape .* for 2 examples"),
        ({}, "cross-entropy needs logits"),
    ],
)
def test_what_cannot_be_asked_is_said(options, sentence):
    with pytest.raises(MeasurementError, match=sentence):
        trace(with_branch(torch.tanh), torch.ones(2, 3, 1), labels(), **options)


def test_a_model_that_takes_tokens_has_no_gradient_at_its_input():
    case = gpt2()
    with pytest.raises(MeasurementError, match="takes 0 inputs of floating-point numbers"):
        trace(case.chain(), case.arguments, case.labels, loss=case.loss, at=None)


def test_single_precision_and_callers_without_gradients_are_served():
    model = wake(build("resnet8,width=4", classes=CLASSES))
    exact = summed_gradients(trace(unravel(model, images()), images(), labels()))
    chain = unravel(model.float(), images().float())
    with torch.no_grad():
        found = summed_gradients(trace(chain, images().float(), labels()))
    for one, other in zip(found, exact, strict=True):
        assert one.dtype == torch.float32
        assert error(one.double(), other) < 1e-4
