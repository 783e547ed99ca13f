"""Reactions divide by what leaves a block, and stand beside two nulls: nets with known answers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from ensemble_view import Block, Chain, ReactionResult, reaction, unravel
from ensemble_view.core.parts import resample
from ensemble_view.data.text_data import TextData
from ensemble_view.errors import MeasurementError
from ensemble_view.nets.models.building import build
from ensemble_view.studies.reaction.donors import donated
from ensemble_view.studies.reaction.stage import reactions, stages_of
from ensemble_view.studies.reaction.study import ReactionStudy
from ensemble_view.studies.reaction.words import answer, in_words
from ensemble_view.study.study import prepare
from layers import wake


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def labelled(x: Tensor) -> tuple[Tensor, Tensor]:
    return x, torch.zeros(len(x), dtype=torch.int64)


def norm(x: Tensor, context: object = ()) -> Tensor:
    """Without the usual 1e-5 under the root, so that normalising twice is normalising once."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / centred.square().mean(-1, keepdim=True).sqrt()


def relu(x: Tensor, context: object = ()) -> Tensor:
    return x.relu()


def idle(**parts: object) -> Block:
    """A later block that does nothing to what it gets."""
    return Block(0, "idle", branch=lambda x, context: 0 * x, **parts)


W, V = normal(6, 6, seed=1) / 3, normal(6, 6, seed=2) / 3


def mixing(x: Tensor, context: object = ()) -> Tensor:
    return (x @ W).tanh() - 0.2


JUNCTIONS = {
    "identity": ({}, [{}, {}]),
    "ReLU after the sum": ({"after": relu}, [{"after": relu}] * 2),
    "LayerNorm after the sum": ({"after": norm}, [{"after": norm}] * 2),
    "scaled shortcut": (
        {"shortcut": lambda x, c: 0.5 * x, "shortcut_kind": "scaling", "after": relu},
        [{"after": relu}],
    ),
    "projected shortcut": (
        {"shortcut": lambda x, c: x @ V, "shortcut_kind": "projection", "after": relu},
        [{"after": relu}],
    ),
    "ReLU before both": ({"before": relu, "after": norm}, [{"after": norm}]),
}


def junction(name: str) -> Chain:
    first, later = JUNCTIONS[name]
    blocks = [Block(0, "F", branch=mixing, **first), *(idle(**parts) for parts in later)]
    return Chain.from_parts(lambda x: x, blocks, lambda x: x)


def of_several_sums() -> Chain:
    inner = [Block(0, f"F{i}", branch=mixing, after=after) for i, after in enumerate([relu, norm])]
    idles = [Block.of_units(i + 1, "idle", [idle(after=norm)] * 2) for i in range(2)]
    blocks = [Block.of_units(0, "layer", inner), *idles]
    return Chain.from_parts(lambda x: x, blocks, lambda x: x)


def of_plain_units() -> Chain:
    units = [
        Block(i, f"G{i}", branch=branch, after=relu, shortcut_kind="none")
        for i, branch in enumerate([mixing, lambda x, c: x, lambda x, c: x])
    ]
    return Chain.from_parts(lambda x: x, units, lambda x: x)


@pytest.mark.parametrize(
    "make",
    [*(pytest.param(lambda n=n: junction(n), id=n) for n in JUNCTIONS), of_several_sums,
     of_plain_units],
)  # fmt: skip
def test_later_blocks_that_do_nothing_react_with_one_also_to_a_donor(make):
    chain, x = make(), normal(7, 6).abs()
    ways = ("nothing", "junctions")
    found = reactions(chain, stages_of(chain, x), x, frozen=ways, donors=(0,))
    if make is of_plain_units:
        assert found[2].isnan().all()
        found = found[:2]
    whole = chain.blocks[0](x)
    # Something else than the branch leaves the first block, and the later ones pass it on.
    assert float((whole - chain.blocks[0].deleted(x)).norm()) > 0.1
    assert torch.allclose(chain(x), whole, rtol=0, atol=1e-14)
    values = found[[0, -1], :, 0]
    assert torch.allclose(values, torch.ones_like(values), rtol=0, atol=1e-12)


def test_a_v1_net_whose_later_branches_are_zero_reads_one():
    """Divided by the branch before its ReLU, as the change once was, it read 0.61."""
    torch.manual_seed(0)
    net = build("resnet14,width=4", in_channels=1).double().eval()
    wake(net)
    with torch.no_grad():
        for stage in (net.layer1, net.layer2, net.layer3):
            for later in list(stage)[1:]:
                # The last BatchNorm of the branch gives zero.
                last = [m for m in later.modules() if isinstance(m, nn.BatchNorm2d)][-1]
                last.weight.zero_()
                last.bias.zero_()
    x = normal(6, 1, 8, 8)
    chain = unravel(net, x[:2])
    found = reactions(chain, stages_of(chain, x[:2]), x, donors=(0,))[:, :, [0, 2, 4]]
    assert torch.allclose(found, torch.ones_like(found), rtol=0, atol=1e-10)
    # By hand: the branch of the first block is not what leaves it.
    with torch.no_grad():
        u = F.relu(net.bn1(net.conv1(x)))
        branch = net.layer1[0].branch(u)
        change = F.relu(u + branch) - u
    old = ((change * branch).flatten(1).sum(1) / branch.flatten(1).square().sum(1)).mean()
    assert float(old) < 0.9


# --- The donor


def test_the_donors_change_has_the_norm_and_the_reaction_of_a_plain_loop():
    """Two ReLU blocks; the scale by bisection, example by example, in numpy."""
    a, b = W.numpy(), V.numpy()

    def first(u):
        return np.tanh(u @ a) - 0.2

    def second(u):
        return np.tanh(u @ b)

    chain = Chain.from_parts(
        lambda x: x,
        [
            Block(0, "F", branch=mixing, after=relu),
            Block(1, "G", branch=lambda x, c: (x @ V).tanh(), after=relu),
        ],
        lambda x: x,
    )
    x = normal(9, 6, seed=5).abs()
    found = reactions(chain, stages_of(chain, x), x, donors=(3, 1))[1, :, 0].numpy()
    donors = resample(torch.arange(9), (3, 1, 0)).tolist()
    assert sorted(donors) == list(range(9))
    assert all(donor != place for place, donor in enumerate(donors))
    seen = 0
    for place, u in enumerate(x.numpy()):
        total = u + first(u)
        output, given = np.maximum(total, 0), first(x[donors[place]].numpy())
        wanted = np.linalg.norm(output - np.maximum(u, 0))
        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            size = np.linalg.norm(output - np.maximum(total - middle * given, 0))
            low, high = (middle, high) if size < wanted else (low, middle)
        left = np.maximum(total - low * given, 0)
        change = output - left
        if abs(np.linalg.norm(change) / wanted - 1) > 0.01:
            assert np.isnan(found[:, place]).all()
            continue
        seen += 1
        assert np.linalg.norm(change) == pytest.approx(wanted, rel=1e-8)
        end = np.maximum(output + second(output), 0) - np.maximum(left + second(left), 0)
        assert found[0, place] == pytest.approx(end @ change / (change @ change), rel=1e-6)
        assert found[1, place] == pytest.approx(
            np.linalg.norm(end) / np.linalg.norm(change), rel=1e-6
        )
    assert seen >= 6


@pytest.mark.parametrize("after", [lambda x: x, torch.relu, norm])
def test_the_norm_is_attained_or_the_donor_is_left_out(after):
    total, branch = normal(40, 6, seed=1), normal(40, 6, seed=2)
    output = after(total)
    norms = (output - after(total - branch)).norm(dim=1)
    changed, reached = donated(output, total, branch, after, norms, (0,))
    known = ~reached.isnan()
    assert int(known.sum()) >= 30
    assert torch.allclose((output - changed).norm(dim=1)[known], norms[known], rtol=1e-9)


def test_a_norm_that_no_scale_gives_is_no_donors_change():
    """Behind the ReLU no more than the whole output can go, if the donor gives nothing negative."""
    total, branch = normal(2, 4).abs(), torch.ones(2, 4, dtype=torch.float64)
    wanted = torch.stack([2 * total[0].norm(), total[1].norm() / 2])
    _, reached = donated(total, total, branch, torch.relu, wanted, (0,))
    assert reached.isnan().tolist() == [True, False]
    # Nor has one that gives nothing, or a change of nothing.
    _, reached = donated(total, total, 0 * branch, torch.relu, wanted, (0,))
    assert reached.isnan().all()
    _, reached = donated(total, total, branch, torch.relu, 0 * wanted, (0,))
    assert reached.isnan().all()


def test_an_example_alone_in_its_batch_has_no_donor():
    chain = Chain.from_parts(lambda x: x, [Block(0, "F", branch=mixing)] * 2, lambda x: x)
    result = reaction(chain, labelled(normal(5, 6)), batch_size=2)
    assert np.isnan(result.outcomes.reaction_donor[0]).tolist() == [False] * 4 + [True]
    alone = reaction(chain, labelled(normal(3, 6)), batch_size=1)
    assert "donor" in alone.undefined
    assert "The donor was not measured: no example has a donor: batches are of" in alone.summary
    assert "donor" not in alone.nulls


def test_rows_that_do_not_count_examples_have_no_donor():
    block = Block(0, "F", branch=mixing)
    chain = Chain.from_parts(lambda x: x, [block, block], lambda x: x)
    chain = replace(chain, blocks=tuple(replace(b, by_example=False) for b in chain.blocks))
    result = reaction(chain, labelled(normal(6, 6)))
    assert not np.isnan(result.outcomes.reaction).any()
    assert np.isnan(result.outcomes.reaction_donor).all()
    assert "donor" in result.undefined


def test_padding_of_text_neither_gives_nor_gets_a_donors_change():
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(256, 4)
            self.mixes = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
            self.head = nn.Linear(4, 256)

        def forward(self, input_ids: Tensor) -> Tensor:
            x = self.embed(input_ids)
            for mix in self.mixes:
                x = x + mix(x.cumsum(1)).tanh()
            return self.head(x)

    torch.manual_seed(0)
    model = Tokens().double().eval()
    rng = np.random.default_rng(0)
    tokens = [rng.integers(0, 256, 20), rng.integers(0, 256, 30)]
    data = TextData("made up", tuple(tokens), tuple(tokens), 64, "bytes")
    result = reaction(model, data, batch_size=2, untrained=False)
    # Both are padded to 32; of two sequences each is the other's donor, on what both have.
    with torch.no_grad():
        for one, other in ((0, 1), (1, 0)):
            u, v = (model.embed(torch.from_numpy(tokens[i])) for i in (one, other))
            total = u + model.mixes[0](u.cumsum(0)).tanh()
            own, given = total - u, model.mixes[0](v.cumsum(0)).tanh()
            counted, both = len(u), min(len(u), len(v))
            step = torch.zeros_like(total)
            step[:both] = given[:both]
            change = step * own[:counted].norm() / step.norm()
            ends = []
            for y in (total, total - change):
                for mix in model.mixes[1:]:
                    y = y + mix(y.cumsum(0)).tanh()
                ends.append(y[:counted])
            change = change[:counted]
            expected = float((change * (ends[0] - ends[1])).sum() / change.square().sum())
            assert result.outcomes.reaction_donor[0, one] == pytest.approx(expected, rel=1e-8)


# --- The untrained net


def test_the_untrained_net_is_the_one_built_anew_on_the_same_examples():
    net = wake(build("resnet14,width=4", in_channels=1))
    x = normal(10, 1, 8, 8)
    other = build("resnet14,width=4", in_channels=1).double().eval()
    result = reaction(net, labelled(x), untrained=other, batch_size=4)
    chain = unravel(other, x[:2])
    expected = reactions(chain, stages_of(chain, x[:2]), x)[0].numpy()
    assert result.outcomes.reaction_untrained == pytest.approx(expected[0], rel=1e-8)
    assert result.outcomes.norm_ratio_untrained == pytest.approx(expected[1], rel=1e-8)
    assert result.nulls["untrained"] == "given by the user"
    drawn = reaction(net, labelled(x), batch_size=4)
    assert drawn.nulls["untrained"].startswith("weights drawn anew by its modules, seed 0; Batch")
    assert not np.isnan(drawn.outcomes.reaction_untrained).any()


def test_where_there_is_no_untrained_net_the_reason_is_said():
    chain = Chain.from_parts(lambda x: x, [Block(0, "F", branch=mixing)] * 2, lambda x: x)
    result = reaction(chain, labelled(normal(5, 6)))
    assert result.undefined["untrained"].startswith("A chain put together by hand has no model")
    assert "The untrained net was not measured: A chain put together by hand" in result.summary
    assert np.isnan(result.outcomes.reaction_untrained).all()
    net = wake(build("resnet14,width=4", in_channels=1))
    with pytest.raises(MeasurementError, match=r"^The untrained net comes apart into 3 blocks"):
        prepare(ReactionStudy, net, labelled(normal(4, 1, 8, 8)),
            untrained=wake(build("resnet8,width=4", in_channels=1)),
        )  # fmt: skip


# --- Paired differences, and words


class Refining(nn.Module):
    """Gradient steps on a quadratic that is steep along each example's direction, flat elsewhere.

    The second half of the trunk says which example it is, by which its direction d is known; a
    block goes a third of the way to the target along it: x - d d'x / 3. So later blocks shrink an
    example's own change and let any other pass. Without ``feedback`` they write the same, whatever
    the earlier ones have written.
    """

    def __init__(self, count: int, *, feedback: bool) -> None:
        super().__init__()
        steep = torch.linalg.qr(normal(count, count, seed=3)).Q
        self.steps = nn.ModuleList(RefiningStep(steep, feedback=feedback) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = x + step(x)
        return x


class RefiningStep(nn.Module):
    def __init__(self, steep: Tensor, *, feedback: bool) -> None:
        super().__init__()
        self.steep, self.feedback = nn.Parameter(steep), feedback

    def forward(self, x: Tensor) -> Tensor:
        state, number = x.chunk(2, dim=1)
        direction = number @ self.steep
        off = (state if self.feedback else direction) * direction
        return torch.cat([-off.sum(1, keepdim=True) * direction / 3, 0 * number], 1)


def refinement(count: int = 40) -> ReactionResult:
    net = Refining(count, feedback=True)
    x = torch.cat([net.steps[0].steep.detach(), torch.eye(count, dtype=torch.float64)], 1)
    before = Refining(count, feedback=False)
    return reaction(net.double(), labelled(x), batch_size=count, untrained=before.double())


def test_refinement_of_the_nets_own_change_is_repair_and_clears_both_nulls():
    result = refinement()
    row = result.stages_frame.iloc[-1]
    # Three, two and one later steps leave (2/3)^k of the net's own change, and all of a donor's.
    assert row["reaction"] == pytest.approx(np.mean([(2 / 3) ** k for k in (3, 2, 1)]))
    assert row["reaction_donor"] == pytest.approx(1)
    assert row["reaction_untrained"] == pytest.approx(1)
    assert answer(row) == "repair"
    assert "later blocks repair part of what is missing" in result.summary


def test_a_net_that_damps_whatever_comes_repairs_nothing():
    chain = Chain.from_parts(
        lambda x: x, [Block(0, "F", branch=lambda x, c: -x / 3)] * 4, lambda x: x
    )
    result = reaction(chain, labelled(normal(20, 5)))
    row = result.stages_frame.iloc[-1]
    assert row["reaction"] == pytest.approx(np.mean([(2 / 3) ** k for k in (3, 2, 1)]))
    assert row["minus_donor"] == pytest.approx(0, abs=1e-12)
    assert answer(row) == "below 1"
    assert "later blocks repair" not in result.summary
    assert (
        "below 1, but repair is not shown: the untrained net was not measured, and it cannot be "
        "told from that to another example's change."
    ) in result.summary


def test_branches_that_add_up_are_said_to():
    adding = Chain.from_parts(
        lambda x: x, [Block(0, "F", branch=lambda x, c: torch.ones_like(x))] * 3, lambda x: x
    )
    assert "later blocks only add to what passes them." in (
        reaction(adding, labelled(normal(20, 5))).summary
    )
    alone = reaction(
        Chain.from_parts(lambda x: x, [Block(0, "F", branch=mixing)], lambda x: x),
        labelled(normal(5, 6)),
    )
    assert "No block has another after it in its stage, so nothing could react." in alone.summary
    assert alone.stages_frame["blocks"].tolist() == [0]


def test_differences_are_paired_with_simultaneous_intervals():
    net = wake(build("resnet20,width=4", in_channels=1))
    result = reaction(net, labelled(normal(12, 1, 8, 8)), batch_size=5)
    stages = result.stages_frame
    # Three stages and all of them, each against 1 and two nulls.
    assert stages["comparisons"].tolist() == [12] * 4
    for number, chosen in enumerate(([0, 1], [3, 4], [6, 7], [0, 1, 3, 4, 6, 7])):
        outcomes = result.outcomes
        for null, other in (
            ("one", 1.0),
            ("untrained", outcomes.reaction_untrained[chosen]),
            ("donor", outcomes.reaction_donor[chosen]),
        ):
            values = np.nanmean(outcomes.reaction[chosen] - other, axis=0)
            values = values[~np.isnan(values)]
            low, high = stats.t.interval(
                1 - 0.05 / 12, len(values) - 1, values.mean(), stats.sem(values)
            )
            assert stages[f"minus_{null}"][number] == pytest.approx(values.mean())
            assert stages[f"minus_{null}_low"][number] == pytest.approx(low)
            assert stages[f"minus_{null}_high"][number] == pytest.approx(high)
    assert "Bonferroni's correction over 12 comparisons" in result.summary


ROW = {"norm_ratio_low": 0.5, "norm_ratio_high": 0.6}


def row(one, untrained, donor, **others):
    limits = {}
    for name, (low, high) in (("one", one), ("untrained", untrained), ("donor", donor)):
        limits |= {f"minus_{name}_low": low, f"minus_{name}_high": high}
    return ROW | limits | others


NAN = (math.nan, math.nan)
BELOW, ABOVE, AROUND = (-0.5, -0.3), (0.3, 0.5), (-0.2, 0.2)


@pytest.mark.parametrize(
    ("intervals", "said"),
    [
        (((-0.05, 0.05), NAN, NAN), "add up"),
        (((-0.1, 0.1), BELOW, BELOW), "add up"),
        ((BELOW, BELOW, BELOW), "repair"),
        ((BELOW, AROUND, BELOW), "below 1"),
        ((BELOW, BELOW, AROUND), "below 1"),
        ((BELOW, BELOW, ABOVE), "below 1"),
        ((BELOW, BELOW, NAN), "below 1"),
        ((BELOW, NAN, BELOW), "below 1"),
        ((ABOVE, ABOVE, ABOVE), "amplify"),
        ((ABOVE, ABOVE, AROUND), "above 1"),
        ((ABOVE, NAN, ABOVE), "above 1"),
        ((AROUND, BELOW, BELOW), "open"),
        ((NAN, NAN, NAN), "open"),
    ],
)
def test_the_answer_follows_from_the_intervals(intervals, said):
    assert answer(row(*intervals)) == said
    words = in_words(row(*intervals))
    assert ("later blocks repair" in words) == (said == "repair")
    assert ("later blocks amplify" in words) == (said == "amplify")


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        (
            (BELOW, ABOVE, AROUND),
            "below 1, but repair is not shown: it is higher than the untrained net's, and it "
            "cannot be told from that to another example's change",
        ),
        (
            (ABOVE, BELOW, ABOVE),
            "above 1, but amplification is not shown: it is lower than the untrained net's",
        ),
        (
            (BELOW, BELOW, NAN),
            "below 1, but repair is not shown: the donor was not measured",
        ),
    ],
)
def test_the_words_name_the_null_that_is_not_cleared(intervals, words):
    assert in_words(row(*intervals)) == words


def test_repair_without_a_smaller_norm_is_said_to_be_along_the_change_only():
    words = in_words(row(BELOW, BELOW, BELOW, norm_ratio_low=0.95))
    assert words.endswith("repair part of what is missing, along its direction only: its norm does "
                          "not shrink")  # fmt: skip
