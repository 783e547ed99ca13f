"""Other people's architectures: blocks as the table expects them, engine, hooks and oracle equal.

The table (``families/expected.csv``) was made from the libraries' sources, without discovery.
``families/compare.py`` holds discovery against all of it; here are the small and the fast.
"""

from __future__ import annotations

import copy
import csv
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("timm", reason="needs the extra timm")
transformers = pytest.importorskip("transformers", reason="needs the extra transformers")

FAMILIES = Path(__file__).parent / "families"
sys.path.insert(0, str(FAMILIES))

import drawn_models  # noqa: E402
import support_table  # noqa: E402
import survey  # noqa: E402

from ensemble_view import Delete, Engine, MiddleRepeat, Repeat, Swap, edited  # noqa: E402
from ensemble_view.core.plan import bind  # noqa: E402
from ensemble_view.discovery.unravelling import unravel_arguments  # noqa: E402
from ensemble_view.errors import DiscoveryError  # noqa: E402

with (FAMILIES / "expected.csv").open(encoding="utf-8") as table:
    EXPECTED = {(row["family"], row["model"]): row for row in csv.DictReader(table)}

TRANSFORMERS = [name for family, name in EXPECTED if family == "transformers"]
FAST = [
    ("torchvision", name)
    for name in (
        "resnet18",
        "mobilenet_v2",
        "regnet_x_400mf",
        "convnext_tiny",
        "shufflenet_v2_x0_5",
    )
] + [("timm", name) for family, name in EXPECTED if family == "timm" and name.startswith("test_")]
# These cast to float32 inside, whatever the model's type.
CASTING = ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "t5-encoder")


def _biting(family: str, name: str) -> tuple[nn.Module, tuple[tuple, dict]]:
    """A model whose every branch matters, in float64, and arguments for it."""
    generator = torch.Generator().manual_seed(0)
    model = drawn_models.build(family, name).double().eval()
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += (0.2 if parameter.ndim < 2 else 0.05) * noise
    example = drawn_models.example(family, name, 2, generator)
    args, kwargs = tuple(example.get("args", ())), dict(example.get("kwargs", {}))

    def double(value):
        is_real = isinstance(value, torch.Tensor) and value.is_floating_point()
        return value.double() if is_real else value

    return model, (tuple(map(double, args)), {key: double(v) for key, v in kwargs.items()})


def _output(model: nn.Module, arguments) -> torch.Tensor:
    with torch.no_grad():
        found = model(*arguments[0], **arguments[1])
    if isinstance(found, torch.Tensor):
        return found
    return found["logits"] if "logits" in found else found[0]


@pytest.mark.parametrize(("family", "name"), FAST)
def test_blocks_are_those_of_the_sources(family, name):
    row = EXPECTED[family, name]
    model, arguments = _biting(family, name)
    if row["verdict"] != "blocks":
        with pytest.raises(DiscoveryError, match="has no residual block"):
            unravel_arguments(model, arguments)
        return
    chain = unravel_arguments(model, arguments, granularity="branch")
    assert len(chain) == int(row["branch_blocks"])
    for kind in ("identity", "projection", "zero-pad", "pooling"):
        assert sum(block.shortcut_kind == kind for block in chain) == int(row[kind] or 0)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_by_engine_hooks_and_permuted_layers(name):
    row = EXPECTED["transformers", name]
    model, arguments = _biting("transformers", name)
    if row["verdict"] == "refused":
        with pytest.raises(DiscoveryError, match="two streams"):
            unravel_arguments(model, arguments)
        return
    chain = unravel_arguments(model, arguments)
    assert len(chain) == int(row["block_blocks"])
    branches = unravel_arguments(model, arguments, granularity="branch")
    assert len(branches) == int(row["branch_blocks"])
    full = _output(model, arguments)
    tolerance = (1e-5 if name in CASTING else 1e-10) * float(full.abs().max())
    # A layer that runs twice would find its own keys and values in the cache.
    at_layers = [Delete(0), Swap(0, 1), Repeat(0, 2), MiddleRepeat(0, 1)]
    for of, interventions in ((chain, at_layers), (branches, [Delete(1)])):
        plans = [bind(intervention, of.outline) for intervention in interventions]
        engine = dict(Engine(of, plans).logits(*arguments[0], **arguments[1]))
        for number, intervention in enumerate(interventions):
            with edited(of, intervention):
                hooks = _output(model, arguments)
            assert float((engine[number] - hooks).abs().max()) <= tolerance
            assert float((hooks - full).abs().max() / full.abs().max()) >= 1e-3
    if name == "t5-encoder":
        # Its first layer makes the position bias of all: as context it stays with the chain, but
        # it would move with the module.
        return
    # The oracle knows nothing of graphs: it exchanges the layers of a deep copy.
    parent, _, _ = chain.blocks[0].name.rpartition(".")
    permuted = copy.deepcopy(model)
    layers = permuted.get_submodule(parent)
    assert isinstance(layers, nn.ModuleList | nn.Sequential)
    layers[0], layers[1] = layers[1], layers[0]
    with edited(chain, Swap(0, 1)):
        hooks = _output(model, arguments)
    assert float((_output(permuted, arguments) - hooks).abs().max()) <= tolerance


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("timm", "test_coatnet"),
        ("timm", "test_nfnet"),
        ("timm", "test_resnet"),
        ("timm", "mobileone_s1"),
        ("transformers", "bert"),
        ("transformers", "llama"),
        ("transformers", "t5"),
    ],
)
def test_the_survey_finds_nothing_wrong(family, name):
    assert support_table.problems(survey.measure(EXPECTED[family, name])) == []


def test_the_survey_sees_what_is_wrong():
    record = survey.measure(EXPECTED["transformers", "gpt2"])
    assert support_table.problems(record) == []
    for change, what in (
        ({"agrees": False}, "differs from the table"),
        ({"hooks_error": 1e-8}, "hooks_error 1.0e-08"),
        ({"exchange_error": 1e-3}, "exchange_error 1.0e-03"),
        ({"rewired_error": 1e-9}, "rewired_error 1.0e-09"),
        ({"deletions": 1}, "1 of 2 blocks deleted"),
        ({"least_effect": 1e-4}, "an edit moves the output by 1.0e-04 only"),
        ({"flops": record["flops_naive"] + 1}, "operations, expected"),
        ({"error": "it fell"}, "it fell"),
    ):
        assert what in "; ".join(support_table.problems(record | change))


def test_the_committed_survey_is_of_every_model_and_finds_nothing_wrong():
    records = {(record["family"], record["model"]): record for record in support_table.records()}
    assert records.keys() == EXPECTED.keys()
    wrong = {name: found for name, r in records.items() if (found := support_table.problems(r))}
    assert wrong == {}
    assert support_table.summary(list(records.values())).count("\n| ") > 150


def test_a_configuration_that_caches_is_left_as_it_was():
    model, arguments = _biting("transformers", "gpt2")
    assert model.config.use_cache
    unravel_arguments(model, arguments)
    assert model.config.use_cache


def test_torch_transformer_layers_are_blocks_and_keep_their_fast_path():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dtype=torch.float64)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    inputs = torch.randn(2, 5, 16, dtype=torch.float64)
    chain = unravel_arguments(model, ((inputs,), {}))
    assert [block.name for block in chain] == ["layers.0", "layers.1", "layers.2"]
    shorter = copy.deepcopy(model)
    layers = shorter.layers[1]
    for module in (layers.self_attn.out_proj, layers.linear2):
        module.weight.data.zero_()
        module.bias.data.zero_()
    with torch.no_grad(), edited(chain, Delete(1)):
        found = model(inputs)
    with torch.no_grad():
        assert torch.allclose(found, shorter(inputs), atol=1e-10, rtol=0)
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_work_of_finding_blocks_does_not_grow_with_every_size_that_is_read(monkeypatch):
    """Views by the size of the tokens, and their masks, are no starts of the trunk."""
    import ensemble_view.discovery.unravelling as discovery

    counts = []
    for layers in (2, 4):
        config = transformers.GPT2Config(n_layer=layers, n_embd=8, n_head=2, vocab_size=20)
        model = transformers.GPT2LMHeadModel(config).eval()
        for parameter in model.parameters():
            parameter.data += 0.2
        calls: list[object] = []
        with monkeypatch.context() as patch:
            found = discovery.flow_from
            patch.setattr(
                discovery, "flow_from", lambda *nodes: calls.append(nodes) or found(*nodes)
            )
            tokens = torch.randint(0, 20, (2, 6), generator=torch.Generator().manual_seed(0))
            assert len(unravel_arguments(model, ((tokens,), {}))) == layers
        counts.append(len(calls))
    assert counts[0] == counts[1] <= 3
