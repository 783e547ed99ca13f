"""Gradients by length and by block of text, of several inputs, and of targets of any kind."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ensemble_view import GradientsByBlock, GradientsByLength, gradients_by_block
from ensemble_view import gradients_by_length as by_length
from ensemble_view.cli.application import main
from ensemble_view.data.text_sources import windows
from ensemble_view.errors import MeasurementError
from ensemble_view.paths.losses import next_token
from ensemble_view.statistics.bounded import bounded_mean
from language_nets import own_net, probabilities, sequences, small_gpt2

LENGTHS = (12, 30, 7, 19, 12)
DATA = windows("words", sequences(*LENGTHS), length=32, tokenizer="none")


def whole_gradient(model: Any, run: Callable[[], Tensor]) -> Tensor:
    """Autograd's, at the first layer's input, from the model's own forward pass."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        seen.append(arguments[0])

    handle = model.transformer.h[0].register_forward_pre_hook(keep)
    with torch.enable_grad():
        loss = run()
        (found,) = torch.autograd.grad(loss, seen)
    handle.remove()
    return found[0]


def token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:-1], tokens[1:])


def every_path(model: Any, tokens: Tensor) -> list[tuple[int, Tensor]]:
    """Length and gradient of each path for one sequence, alone: layer by layer, without a mask."""
    with torch.no_grad():
        places = torch.arange(len(tokens))
        start = model.transformer.wte(tokens)[None] + model.transformer.wpe(places)
    layers = model.transformer.h
    found = []
    for path in itertools.product((0, 1), repeat=2 * len(layers)):
        x = leaf = start.clone().requires_grad_()
        choices = iter(path)
        for layer in layers:
            for branch in (
                lambda x, layer=layer: layer.attn(layer.ln_1(x))[0],
                lambda x, layer=layer: layer.mlp(layer.ln_2(x)),
            ):
                value = branch(x)
                x = x.detach() + value if next(choices) else x + value.detach()
        logits = model.lm_head(model.transformer.ln_f(x))[0]
        (gradient,) = torch.autograd.grad(token_loss(logits, tokens), leaf)
        found.append((sum(path), gradient[0]))
    return found


@pytest.fixture(scope="module")
def gpt2() -> Any:
    pytest.importorskip("transformers", reason="GPT-2 is from transformers")
    return small_gpt2(layers=2)


def test_each_length_is_the_mean_over_sequences_of_the_sum_over_its_paths(gpt2):
    norms, shares, single = [], [], []
    for sequence in DATA.sequences:
        tokens = torch.from_numpy(sequence)
        paths = every_path(gpt2, tokens)
        whole = whole_gradient(gpt2, lambda t=tokens: token_loss(gpt2(t[None]).logits[0], t))
        sums = [sum(g for length, g in paths if length == k) for k in range(5)]
        assert torch.allclose(sum(sums), whole, rtol=1e-9, atol=1e-12)
        norms.append([each.norm().item() for each in sums])
        shares.append([(each * whole).sum().item() / whole.square().sum().item() for each in sums])
        single.append(
            [np.mean([g.norm().item() for k, g in paths if k == length]) for length in range(5)]
        )
    # Padded to 16 and 32 tokens, for each of which the model is taken apart.
    result = by_length(gpt2, DATA, method=["summed", "sampled"], samples=10, batch_size=2)
    assert result.blocks == 4
    frame = result.frame
    assert frame["summed_norm"].tolist() == pytest.approx(np.mean(norms, 0), rel=1e-9)
    assert frame["projected"].tolist() == pytest.approx(np.mean(shares, 0), rel=1e-8, abs=1e-12)
    assert frame["sampled_mean"].tolist() == pytest.approx(np.mean(single, 0), rel=1e-9)
    assert frame["summed_norm_se"].tolist() == pytest.approx(
        np.std(norms, 0, ddof=1) / math.sqrt(len(LENGTHS)), rel=1e-8
    )
    assert "5 sequences of words, gradient of the next token's cross-entropy" in result.summary


def test_left_out_tokens_count_neither_in_the_loss_nor_in_its_mean():
    logits = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[1, -100, 3, 5], [2, -100, -100, -100]])
    first = -logits[0].log_softmax(1)
    expected = (first[1, 3] + first[2, 5]) / 2
    assert next_token(logits, labels).tolist() == pytest.approx([expected.item(), 0.0])


def test_energy_of_text_lies_within_its_error(gpt2):
    energies = [
        [sum(g.square().sum().item() for k, g in paths if k == length) for length in range(5)]
        for paths in (every_path(gpt2, torch.from_numpy(s)) for s in DATA.sequences)
    ]
    found = by_length(gpt2, DATA, method="energy", groups=16, batch_size=32).frame
    error = np.abs(found["energy"] - np.mean(energies, 0))
    assert (error <= 5 * found["energy_se"] + 1e-9 * found["energy"]).all()


def test_blocks_of_text_and_the_head_after_each(gpt2):
    result = gradients_by_block(gpt2, DATA)
    assert result.unit == "sequences"
    assert len(result.rows) == 4
    for kept in range(4):
        twin = copy.deepcopy(gpt2)
        for index, layer in enumerate(twin.transformer.h):
            for number, projection in enumerate((layer.attn.c_proj, layer.mlp.c_proj)):
                if 2 * index + number > kept:
                    nn.init.zeros_(projection.weight)
                    nn.init.zeros_(projection.bias)
        right = [
            sum(
                row.index(max(row)) == target
                for row, target in zip(probabilities(twin, s)[:-1], s[1:], strict=True)
            )
            for s in DATA.sequences
        ]
        by_hand = bounded_mean(right, [len(s) - 1 for s in DATA.sequences])
        row = result.rows[kept]
        found = [row.head_accuracy, row.head_accuracy_low, row.head_accuracy_high]
        assert found == pytest.approx([by_hand.value, by_hand.low, by_hand.high], rel=1e-9)


def test_a_net_that_looks_both_ways_is_measured_by_the_loss_it_is_given():
    transformers = pytest.importorskip("transformers", reason="BERT is from transformers")
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=8, num_attention_heads=2, intermediate_size=16,
        num_hidden_layers=2, max_position_embeddings=16, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.BertForSequenceClassification(config).double().eval()
        for parameter in model.parameters():
            parameter.data += 0.15 * torch.randn_like(parameter)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 40, (5, 6), generator=generator)
    mask = torch.ones_like(tokens)
    mask[1, 4:] = 0
    mask[3, 3:] = 0
    rows = [
        ({"input_ids": tokens[i], "attention_mask": mask[i]}, torch.tensor(i % 3)) for i in range(5)
    ]

    def classified(output: Tensor, labels: Tensor, inputs: Any) -> Tensor:
        assert set(inputs) == {"input_ids", "attention_mask"}
        return F.cross_entropy(output, labels, reduction="none")

    seen: list[Tensor] = []
    handle = model.bert.encoder.layer[0].register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[0])
    )
    with torch.enable_grad():
        logits = model(input_ids=tokens, attention_mask=mask).logits
        loss = F.cross_entropy(logits, torch.arange(5) % 3, reduction="sum")
        (whole,) = torch.autograd.grad(loss, seen)
    handle.remove()
    # Batches of the loader are larger than asked for, and are cut.
    loader = DataLoader(rows, batch_size=5)
    result = by_length(model, loader, loss=classified, batch_size=2)
    assert result.blocks == 4
    assert math.fsum(row.projected or 0 for row in result.rows) == pytest.approx(1, abs=1e-12)
    blocks = gradients_by_block(model, loader, loss=classified, batch_size=2)
    assert blocks.rows[0].head_accuracy is not None
    # Of post-LN the first sum's ways part at the layer's input: both together are the gradient.
    first = blocks.rows[0]
    assert whole.flatten(1).norm(dim=1).mean().item() <= (
        first.branch_gradient + first.shortcut_gradient
    )


def test_a_model_without_a_head_for_tokens_is_refused_in_words():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix = nn.Embedding(256, 4), nn.Linear(4, 4)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embed(tokens)
            return (x + self.mix(x).tanh()).mean(1)

    sentence = r"the loss of the next token needs logits \(sequences, positions, vocabulary\)"
    with torch.random.fork_rng(), pytest.raises(MeasurementError, match=sentence):
        by_length(Pooled(), DATA)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("text")
    (where / "play.txt").write_text("to be or not to be " * 20)
    (where / "nets.py").write_text(
        "from language_nets import own_net\n\n\ndef make():\n    return own_net()\n"
    )
    torch.save(own_net().state_dict(), where / "net.pt")
    return where


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_the_command_takes_text(play, tmp_path, capsys):
    words = ["gradients", play / "net.pt", "--arch", f"{play / 'nets.py'}:make"]
    words += ["--data", play / "play.txt", "--length", 32, "--limit", 6]
    assert run(*words, "--out", tmp_path / "lengths") == 0
    assert "on 6 sequences: 3 branch VJPs per example" in capsys.readouterr().out
    assert GradientsByLength.load(tmp_path / "lengths").settings.unit == "sequences"
    assert run(*words, "--by-block", "--json") == 0
    assert json.loads(capsys.readouterr().out)["unit"] == "sequences"
    assert run(*words, "--by-block", "--out", tmp_path / "blocks") == 0
    assert GradientsByBlock.load(tmp_path / "blocks").rows[1].head_accuracy is not None
