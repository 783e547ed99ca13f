"""Studies say how many of a net's residual sums are in its blocks, and where the others are."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import ensemble_view as ev
from cases import images
from ensemble_view.cli.application import main
from layers import conv, wake


class Inner(nn.Module):
    """A branch with a residual sum of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(4, 4), conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        return (x + self.second(x).tanh()).tanh()


class Nested(nn.Module):
    """Two residual sums on the trunk, and one inside each branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 4), nn.Linear(4, 5)
        self.branches = nn.ModuleList(Inner() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x.mean((2, 3)))


class Bypass(nn.Module):
    """A stretch that is left in two ways, with a residual sum on one, its shortcut projected."""

    def __init__(self) -> None:
        super().__init__()
        self.projection, self.branch, self.other = (conv(2, 2) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        one, other = x.chunk(2, 1)
        one = self.projection(one) + self.branch(one).tanh()
        return torch.cat([one.tanh(), self.other(other).tanh()], 1)


class Bypassed(nn.Module):
    """Blocks, and such a stretch between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 4), nn.Linear(4, 5)
        self.first, self.last, self.bypass = conv(4, 4), conv(4, 4), Bypass()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(x).tanh()
        x = self.bypass(x)
        x = x + self.last(x).tanh()
        return self.head(x.mean((2, 3)))


class Layers(nn.Module):
    """Layers of two residual sums each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 4), nn.Linear(4, 5)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"mix": conv(4, 4), "feed": conv(4, 4)}) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            x = x + layer["mix"](x).tanh()
            x = x + layer["feed"](x).tanh()
        return self.head(x.mean((2, 3)))


WORDS = {
    Nested: "2 blocks hold 2 of 4 residual sums of the model; no block stands for the other 2 "
    "(inside branches).",
    Bypassed: "2 blocks hold 2 of 3 residual sums of the model; no block stands for the other 1 "
    "(in stem, links or head).",
    Layers: "6 blocks hold all 6 residual sums of the model.",
}


@pytest.mark.parametrize("net", WORDS)
def test_the_chain_counts_all_residual_sums(net):
    chain = ev.unravel(wake(net()), images(), granularity="branch")
    assert chain.residual_sums == WORDS[net]


class Polynomial(nn.Module):
    """A residual sum whose branch has an activation that is written as a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.branch = conv(3, 4), nn.Linear(4, 5), conv(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.branch(x)
        x = x + (y + 0.1 * y**3).tanh()
        return self.head(x.mean((2, 3)))


def test_an_activation_that_is_written_as_a_sum_is_no_residual():
    chain = ev.unravel(wake(Polynomial()), images())
    assert chain.residual_sums == "1 block holds the only residual sum of the model."


def test_sums_inside_a_branch_name_their_block():
    chain = ev.unravel(wake(Nested()), images())
    within = [addition.within for addition in chain.additions if addition.residual]
    assert within == [0, None, 1, None]


def test_additions_are_numbered_by_block_where_blocks_have_several_sums():
    vit = wake(small_transformer())
    chain = ev.unravel(vit, torch.randn(2, 6, 8, dtype=torch.float64))
    assert [addition.block for addition in chain.additions if addition.residual] == [0, 0, 1, 1]
    assert chain.residual_sums == "2 blocks hold all 4 residual sums of the model."
    one = ev.unravel(vit, torch.randn(2, 6, 8, dtype=torch.float64), granularity="branch")
    assert [addition.block for addition in one.additions if addition.residual] == [0, 1, 2, 3]


def small_transformer() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return nn.Sequential(nn.Linear(8, 8), body, nn.Flatten(), nn.Linear(48, 3)).eval()


def test_a_chain_by_hand_counts_nothing():
    block = ev.Block(0, "F", branch=lambda x, context: x)
    assert ev.Chain.from_parts(lambda x: x, [block], lambda x: x).residual_sums == ""


def test_a_study_says_it_first_and_keeps_it(tmp_path):
    torch.manual_seed(0)
    result = ev.lesion(
        wake(Nested()), (torch.randn(12, 3, 8, 8, dtype=torch.float64), torch.arange(12) % 5)
    )
    assert WORDS[Nested] in result.notes
    assert " ".join(repr(result).split()).startswith(" ".join(result.notes))
    assert WORDS[Nested] in result._repr_html_()
    assert result.to_json()["notes"] == list(result.notes)
    result.save(tmp_path / "saved")
    assert ev.LesionResult.load(tmp_path / "saved").notes == result.notes


def test_a_command_says_it_in_its_first_lines(capsys):
    with pytest.raises(SystemExit):
        main(["reaction", "digits-resnet110", "--limit", "4"])
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first.startswith("Normalisation: mean ")
    assert second == "54 blocks hold all 54 residual sums of the model."


def test_inspect_says_it_in_text_and_json():
    table = ev.inspect(ev.unravel(wake(Nested()), images()))
    assert WORDS[Nested] in " ".join(repr(table).split())
    assert json.loads(table.to_json())["residual_sums"] == WORDS[Nested]
