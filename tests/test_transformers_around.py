"""Around Hugging Face models: LoRA and other adapters, checkpointing, shared layers, precision."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cases import error
from ensemble_view import (  # fmt: skip
    Chain,
    Compose,
    Delete,
    DropShortcut,
    Engine,
    Repeat,
    Scale,
    Swap,
    edited,
    unravel,
)
from ensemble_view.core.plan import bind
from state import unchanged

transformers = pytest.importorskip("transformers", reason="needs the extra transformers")
peft = pytest.importorskip("peft", reason="needs peft, of the extra test")

BITE = 1e-3
EXACT = 1e-10
SMALL = {"vocab_size": 90, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def tokens(count: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.ones(count, 7, dtype=torch.int64)
    mask[0, 5:] = 0
    return {
        "input_ids": torch.randint(3, 90, (count, 7), generator=generator),
        "attention_mask": mask,
    }


def awake(kind: Any, config: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.double().parameters():
            spread = 0.2 if parameter.ndim < 2 else 0.15
            parameter += spread * torch.randn(
                parameter.shape, generator=generator, dtype=torch.float64
            )
    return model.eval()


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(n_positions=16, n_embd=16, n_layer=3, n_head=2, **SMALL)
    return awake(transformers.GPT2LMHeadModel, config)


def _encoder(**options: int) -> dict[str, int]:
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    return {**SMALL, **sizes, "max_position_embeddings": 16, **options}


def bert() -> nn.Module:
    config = transformers.BertConfig(**_encoder(num_hidden_layers=3))
    return awake(transformers.BertForSequenceClassification, config)


def albert() -> nn.Module:
    config = transformers.AlbertConfig(**_encoder(num_hidden_layers=4, embedding_size=8))
    return awake(transformers.AlbertForSequenceClassification, config)


def compare(
    model: nn.Module,
    chain: Chain,
    expect: Callable[[Iterable[int], tuple[int, ...]], Tensor],
    tolerance: float = EXACT,
) -> None:
    """Hooks and engine against an oracle for an order of the blocks and some deleted."""
    count = len(chain)
    edits: list[Any] = [(Compose(), range(count), ())]
    edits += [(Delete(index), range(count), (index,)) for index in range(count)]
    edits += [(Swap(0, 2), (2, 1, 0, *range(3, count)), ())]
    plans = [bind(intervention, chain.outline) for intervention, _, _ in edits]
    from_engine = dict(Engine(chain, plans).logits(**tokens()))
    with torch.no_grad():
        whole = expect(range(count), ())
        for number, (intervention, order, deleted) in enumerate(edits):
            expected = expect(order, deleted)
            with edited(chain, intervention):
                found = model(**tokens()).logits
            assert error(found.double(), expected.double()) <= tolerance, intervention
            assert error(from_engine[number].double(), expected.double()) <= tolerance, intervention
            # Calls of one and the same module may change places without effect.
            if deleted:
                assert error(expected, whole) >= BITE, f"{intervention} does not bite"


def surgery(model: nn.Module, layers: str, last: tuple[str, ...]) -> Callable[..., Tensor]:
    """Permute the layers of a deep copy, and set the last layers of a block's branches to zero."""

    def expect(order: Iterable[int], deleted: tuple[int, ...]) -> Tensor:
        twin = copy.deepcopy(model)
        found = twin.get_submodule(layers)
        for index in deleted:
            for path in last:
                for parameter in found[index].get_submodule(path).parameters():
                    nn.init.zeros_(parameter)
        parent, _, name = layers.rpartition(".")
        twin.get_submodule(parent)._modules[name] = nn.ModuleList(found[i] for i in order)
        return twin(**tokens()).logits

    return expect


GPT2 = ("transformer.h", ("attn.c_proj", "mlp.c_proj"))
BERT = ("bert.encoder.layer", ("attention.output.dense", "output.dense"))


def lora(model: nn.Module, targets: list[str], **options: Any) -> nn.Module:
    config = peft.LoraConfig(
        r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False, **options
    )
    torch.manual_seed(0)
    return peft.get_peft_model(model, config).double().eval()


ADAPTED: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "LoRA on GPT-2": (lambda: lora(gpt2(), ["c_attn", "c_fc"], fan_in_fan_out=True), GPT2),
    "LoRA on embedding and head": (
        lambda: lora(gpt2(), ["c_attn", "wpe", "lm_head"], fan_in_fan_out=True),
        GPT2,
    ),
    "LoRA on BERT": (lambda: lora(bert(), ["query", "value", "word_embeddings"]), BERT),
    "DoRA on BERT": (lambda: lora(bert(), ["query", "value"], use_dora=True), BERT),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ADAPTED)
def test_adapters_lie_inside_the_branches(name):
    make, (layers, last) = ADAPTED[name]
    model = make()
    with torch.no_grad():
        before = model(**tokens()).logits
        chain = unravel(model, tokens())
        assert torch.equal(model(**tokens()).logits, before)
    assert [block.name for block in chain] == [f"base_model.model.{layers}.{i}" for i in range(3)]
    branches = unravel(model, tokens(), granularity="branch")
    assert len(branches) == 6
    compare(model, chain, surgery(model, f"base_model.model.{layers}", last))


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_does_not_disturb(reentrant):
    model = gpt2()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train()
    with unchanged(model):
        chain = unravel(model, tokens())
    compare(model.eval(), chain, surgery(gpt2(), *GPT2))


def test_a_layer_that_is_called_several_times_is_edited_call_by_call():
    model = albert()
    layer = "albert.encoder.albert_layer_groups.0.albert_layers.0"
    chain = unravel(model, tokens())
    assert [block.name for block in chain] == [
        layer + (f"@{call}" if call else "") for call in range(4)
    ]
    branches = unravel(model, tokens(), granularity="branch")
    assert len(branches) == 8
    inner = model.get_submodule(layer)

    def unrolled(order: Iterable[int], deleted: tuple[int, ...]) -> Tensor:
        given = tokens()
        x = model.albert.embeddings(given["input_ids"])
        x = model.albert.encoder.embedding_hidden_mapping_in(x)
        mask = torch.zeros(2, 1, 1, 7, dtype=torch.float64)
        mask = mask.masked_fill(given["attention_mask"][:, None, None] == 0, -1e30)
        for call in order:
            if call in deleted:
                x = inner.full_layer_layer_norm(inner.attention.LayerNorm(x))
                continue
            attention = inner.attention
            heads = [
                part(x).view(2, 7, 2, 8).transpose(1, 2)
                for part in (attention.query, attention.key, attention.value)
            ]
            weights = (heads[0] @ heads[1].transpose(2, 3) / 8**0.5 + mask).softmax(3)
            seen = (weights @ heads[2]).transpose(1, 2).reshape(2, 7, 16)
            x = attention.LayerNorm(x + attention.dense(seen))
            hidden = nn.functional.gelu(inner.ffn(x), approximate="tanh")
            x = inner.full_layer_layer_norm(x + inner.ffn_output(hidden))
        pooled = torch.tanh(model.albert.pooler(x[:, 0]))
        return model.classifier(pooled)

    compare(model, chain, unrolled)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 1e-2), (torch.bfloat16, 5e-2)], ids=str
)
@pytest.mark.parametrize("make", [gpt2, bert])
def test_language_models_run_in_half_precision(make, dtype, tolerance):
    model = make().to(dtype)
    chain = unravel(model, tokens())
    twin = copy.deepcopy(model).double()
    compare(model, chain, surgery(twin, *(GPT2 if make is gpt2 else BERT)), tolerance)


def test_norms_may_stay_in_single_precision():
    model = bert().bfloat16()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.float()
    chain = unravel(model, tokens())
    compare(model, chain, surgery(copy.deepcopy(model).double(), *BERT), 5e-2)


def test_a_block_is_found_where_masks_are_made_otherwise_than_in_the_export():
    """Without a mask, OPT adds less before its first layer than it does when it is exported."""
    config = transformers.OPTConfig(
        **SMALL, hidden_size=16, num_hidden_layers=2, ffn_dim=32, num_attention_heads=2,
        max_position_embeddings=32, word_embed_proj_dim=16,
    )  # fmt: skip
    model = awake(transformers.OPTForCausalLM, config)
    given = {"input_ids": tokens()["input_ids"]}
    chain = unravel(model, given)
    for intervention in (Repeat(0, 2), Scale(0, 0.5), DropShortcut(0)):
        plan = bind(intervention, chain.outline)
        ((_, expected),) = Engine(chain, [plan]).logits(**given)
        with torch.no_grad(), edited(chain, intervention):
            assert error(model(**given).logits, expected) <= EXACT
    assert model.config.use_cache is True
