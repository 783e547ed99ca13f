"""Small nets that predict the next token, and what they answer found without the package."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

VOCABULARY = 37
LONGEST = 64


def small_gpt2(layers: int = 3, vocabulary: int = VOCABULARY) -> Any:
    """A GPT-2 in double precision whose every branch matters."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_embd=16, n_layer=layers, n_head=2, n_positions=LONGEST,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, dtype=torch.float64))
    return model


def without(model: Any, blocks: Sequence[int]) -> Any:
    """A copy whose blocks' output projections are zero."""
    twin = copy.deepcopy(model)
    for index in blocks:
        layer = twin.transformer.h[index]
        for projection in (layer.attn.c_proj, layer.mlp.c_proj):
            nn.init.zeros_(projection.weight)
            nn.init.zeros_(projection.bias)
    return twin


def sequences(*lengths: int, vocabulary: int = VOCABULARY) -> list[npt.NDArray[np.int64]]:
    generator = np.random.default_rng(5)
    return [generator.integers(0, vocabulary, length) for length in lengths]


def probabilities(model: nn.Module, tokens: npt.NDArray[np.int64]) -> list[list[float]]:
    """Of every next token at every position of one sequence, alone and without a mask."""
    with torch.no_grad():
        logits = model(torch.from_numpy(tokens)[None])
    logits = logits if isinstance(logits, Tensor) else logits.logits
    rows = []
    for row in logits[0].tolist():
        exponentials = [math.exp(value - max(row)) for value in row]
        rows.append([value / sum(exponentials) for value in exponentials])
    return rows


def sums_by_hand(
    lesioned: nn.Module,
    full: nn.Module,
    tokens: npt.NDArray[np.int64],
    counted: Sequence[bool] | None = None,
) -> dict[str, float]:
    """Sums over one sequence's tokens, position by position, from the definitions."""
    sums = {"correct": 0.0, "loss": 0.0, "agreement": 0.0, "divergence": 0.0, "tokens": 0.0}
    mine, whole = probabilities(lesioned, tokens), probabilities(full, tokens)
    for position in range(len(tokens) - 1):
        target = int(tokens[position + 1])
        if counted is not None and not counted[position + 1]:
            continue
        q, p = mine[position], whole[position]
        sums["tokens"] += 1
        sums["correct"] += q.index(max(q)) == target
        sums["loss"] -= math.log(q[target])
        sums["agreement"] += q.index(max(q)) == p.index(max(p))
        sums["divergence"] += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return sums


class Mixing(nn.Module):
    """A residual branch in which a position hears of those before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        heard = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]
        return x + self.outer(torch.tanh(self.inner(heard)))


class OwnNet(nn.Module):
    """A causal net of one's own: tokens are its only argument, logits its only output."""

    def __init__(self, vocabulary: int = 256, width: int = 8, blocks: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Mixing(width) for _ in range(blocks))
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class DeeperWhenLong(OwnNet):
    """Leaves its last block out where sequences are short."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks if tokens.shape[1] > 16 else self.blocks[:-1]:
            x = block(x)
        return self.head(x)


def own_net(kind: type[OwnNet] = OwnNet, **options: int) -> OwnNet:
    torch.manual_seed(1)
    return kind(**options).double().eval()
