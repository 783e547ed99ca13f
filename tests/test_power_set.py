"""All subnetworks: hooks and definitions as oracles, matrix products for paths of linear nets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import same_color
from scipy import stats
from torch import Tensor, nn

import ensemble_view
import ensemble_view.study.subset_values as subset_values
from cases import images as make_images
from ensemble_view import Block, Chain, Delete, PowerSetResult, edited, unravel
from ensemble_view.core.plan import bind
from ensemble_view.data.text_sources import windows
from ensemble_view.errors import InterventionError, MeasurementError
from ensemble_view.nets.models.building import build
from ensemble_view.statistics.bounded import bounded_mean
from ensemble_view.studies.subsets.figure import power_set_figure
from ensemble_view.studies.subsets.study import SubsetsStudy, keep_probabilities
from ensemble_view.study.study import prepare
from ensemble_view.study.subset_values import SubsetValues
from language_nets import own_net, sequences, sums_by_hand
from layers import wake
from state import unchanged

COUNT = 7
CLASSES = 5


def small(name: str = "resnet8") -> nn.Module:
    return wake(build(f"{name},width=4", classes=CLASSES))


def examples(count: int = COUNT) -> tuple[Tensor, Tensor]:
    return make_images(count), torch.arange(count) % CLASSES


def kept(mask: int, blocks: Sequence[int]) -> list[int]:
    return [block for i, block in enumerate(blocks) if mask >> i & 1]


def by_hooks(model: nn.Module, blocks: Sequence[int], inputs: Tensor) -> np.ndarray:
    """Logits of all subsets, a forward pass of the edited model each: [2^n, examples, classes]."""
    chain = unravel(model, inputs[:2])
    found = []
    for mask in range(2 ** len(blocks)):
        gone = sorted(set(blocks) - set(kept(mask, blocks)))
        with torch.no_grad(), edited(chain, Delete(*gone)):
            found.append(model(inputs).numpy())
    return np.stack(found)


def centred(logits: np.ndarray) -> np.ndarray:
    return logits - logits.mean(-1, keepdims=True)


def scores(logits: np.ndarray, labels: Tensor) -> dict[str, np.ndarray]:
    """Error and loss of each subset and example."""
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    hit = np.arange(logits.shape[1]), labels.numpy()
    return {
        "error": (logits.argmax(-1) != labels.numpy()).astype(float),
        "loss": -np.log(probabilities[:, hit[0], hit[1]]),
    }


def shapley_by_orders(f: np.ndarray, n: int) -> np.ndarray:
    """What each block adds, averaged over all orders in which they can be put in."""
    total = np.zeros((n, *f.shape[1:]))
    for order in itertools.permutations(range(n)):
        mask = 0
        for block in order:
            total[block] += f[mask | 1 << block] - f[mask]
            mask |= 1 << block
    return total / math.factorial(n)


def energies_by_definition(f: np.ndarray, n: int, keep: float) -> np.ndarray:
    """Expectations of f times every product of normalised bits, squared and summed by order."""
    deviation = math.sqrt(keep * (1 - keep))
    found = np.zeros(n + 1)
    for subset in range(2**n):
        coefficient = 0.0
        for mask in range(2**n):
            size = bin(mask).count("1")
            weight = keep**size * (1 - keep) ** (n - size)
            for i in range(n):
                if subset >> i & 1:
                    weight *= ((mask >> i & 1) - keep) / deviation
            coefficient = coefficient + weight * f[mask]
        found[bin(subset).count("1")] += np.sum(np.square(coefficient))
    return found


@pytest.fixture(scope="module")
def result() -> PowerSetResult:
    return ensemble_view.subsets(small(), examples(), batch_size=4)


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return by_hooks(small(), range(3), examples()[0])


def test_nine_blocks_take_511_evaluations_and_equal_hooks_for_all_512():
    model, inputs = small("resnet20"), make_images(2)
    study = prepare(SubsetsStudy, model, (inputs, torch.tensor([0, 1])))
    engine = study.experiment.engine
    done = engine.block_evaluations
    found = dict(engine.logits(inputs))
    assert engine.block_evaluations - done == study.experiment.engine.cost.block_evaluations == 511
    expected = by_hooks(model, range(9), inputs)
    for mask in range(512):
        assert np.abs(found[1 + mask].numpy() - expected[mask]).max() < 1e-10
    assert torch.equal(found[0], found[512])
    assert "all 512 subnetworks of 9 blocks on 2 examples: 511 block evaluations" in str(study)


def test_every_branch_that_runs_is_counted_from_outside():
    calls = [0] * 5

    def branch(i: int):
        def run(x: Tensor, context: object) -> Tensor:
            calls[i] += 1
            return x.roll(1, 1) * (i + 1)

        return run

    chain = Chain.from_parts(
        lambda x: x, [Block(i, str(i), branch=branch(i)) for i in range(5)], lambda x: x
    )
    study = prepare(
        SubsetsStudy, chain, (torch.randn(4, 3), torch.tensor([0, 1, 2, 0])), batch_size=4
    )
    calls[:] = [0] * 5
    study.run()
    assert calls == [1, 2, 4, 8, 16]


def interval(name: str, values: np.ndarray, ends: tuple[float, float]) -> tuple[float, float]:
    """Of an error a score interval within its range, of a loss the t interval."""
    if name == "error":
        found = bounded_mean(values.clip(*ends), ends=ends)
        return found.low, found.high
    t = stats.t.ppf(0.975, COUNT - 1) * values.std(ddof=1) / math.sqrt(COUNT)
    return values.mean() - t, values.mean() + t


def test_subsets_and_values_are_those_of_the_definitions(result, logits):
    labels = examples()[1]
    n, frame, values = 3, result.frame, result.values_frame
    assert list(frame["kept"][:4]) == ["", "0", "1", "0,1"]
    assert frame["deleted"][1] == "1,2"
    for name, f in scores(logits, labels).items():
        assert frame[name].to_numpy() == pytest.approx(f.mean(1), abs=1e-6)
        rows = values[values["quantity"] == name]
        shapley = shapley_by_orders(f, n)
        assert rows["shapley"].to_numpy() == pytest.approx(shapley.mean(1), abs=1e-6)
        limits = np.array([interval(name, each, (-1.0, 1.0)) for each in shapley])
        assert rows[["shapley_low", "shapley_high"]].to_numpy() == pytest.approx(limits, abs=1e-6)
        pairs = [[m for m in range(8) if not m >> i & 1] for i in range(n)]
        banzhaf = [np.mean([f[m | 1 << i] - f[m] for m in pairs[i]]) for i in range(n)]
        assert rows["banzhaf"].to_numpy() == pytest.approx(banzhaf, abs=1e-6)
        sizes = result.sizes_frame[result.sizes_frame["quantity"] == name]
        for size, row in enumerate(sizes.to_dict("records")):
            of_size = f[[m for m in range(8) if bin(m).count("1") == size]]
            assert row["subsets"] == len(of_size)
            each = of_size.mean(0)
            assert row["mean"] == pytest.approx(each.mean(), abs=1e-6)
            limits = interval(name, each, (0.0, 1.0))
            assert (row["mean_low"], row["mean_high"]) == pytest.approx(limits, abs=1e-6)
            assert row["lowest"] == pytest.approx(of_size.mean(1).min(), abs=1e-6)
            assert row["highest"] == pytest.approx(of_size.mean(1).max(), abs=1e-6)


def test_spectrum_is_that_of_the_definition(result, logits):
    vectors = {"logits": centred(logits)}
    exponentials = np.exp(logits)
    vectors["probabilities"] = exponentials / exponentials.sum(-1, keepdims=True)
    vectors |= {name: f.mean(1) for name, f in scores(logits, examples()[1]).items()}
    assert result.keeps == (0.5, 1 - 1 / 3, 1 - 2 / 3)
    for name, f in vectors.items():
        for keep in result.keeps:
            energies = energies_by_definition(f, 3, keep)
            for order in (1, 2, 3):
                share = energies[order] / energies[1:].sum()
                assert result.share(name, keep, order) == pytest.approx(share, abs=1e-6)
    # The logits themselves, and not only their shares: Parseval.
    whole = result.values.energies[0, 0].sum()
    assert whole == pytest.approx(np.square(centred(logits)).mean(0).sum(), rel=1e-10)


def test_dividends_law_is_that_of_alternating_sums(result, logits):
    f = centred(logits)
    frame = result.dividends_frame
    rows = frame[frame["quantity"] == "logits"]
    for size, row in enumerate(rows.to_dict("records")):
        paths = [m for m in range(8) if bin(m).count("1") == size]
        energy = 0.0
        for path in paths:
            within = [t for t in range(8) if t & path == t]
            m = sum((-1) ** (size - bin(t).count("1")) * f[t] for t in within)
            energy += np.square(m).sum() / COUNT
        assert (row["paths"], row["energy"]) == (len(paths), pytest.approx(energy, rel=1e-9))


def test_the_shapley_values_of_each_example_sum_to_what_all_blocks_change(result):
    run = result.run
    change = run.scores.baseline - run.scores.values[0]
    assert np.abs(result.values.shapley[0].sum(0) - change).max() < 1e-10
    loss = run.outcomes.baseline_loss.astype(float) - run.outcomes.loss[0]
    assert np.abs(result.values.shapley[1].sum(0) - loss).max() < 1e-6


def test_batches_and_pieces_change_nothing(result, monkeypatch):
    monkeypatch.setattr(subset_values, "_PIECE", 1)
    other = ensemble_view.subsets(small(), examples(), batch_size=COUNT)
    for name, array in result.values.arrays.items():
        assert other.values.arrays[name] == pytest.approx(array, abs=1e-5), name


@st.composite
def affine_nets(draw: st.DrawFn) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Affine branches in homogeneous coordinates, a linear head, inputs that end with a one."""
    n, width = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    branches = generator.normal(0, 0.7, (n, width + 1, width + 1))
    branches[:, -1] = 0
    head = generator.normal(size=(3, width + 1))
    inputs = generator.normal(size=(4, width + 1))
    inputs[:, -1] = 1
    return list(branches), head, inputs


def affine_chain(branches: Sequence[np.ndarray], head: np.ndarray) -> Chain:
    def part(matrix: np.ndarray):
        return lambda x, context: x @ torch.from_numpy(matrix).T

    blocks = [Block(i, f"F{i}", branch=part(matrix)) for i, matrix in enumerate(branches)]
    return Chain.from_parts(lambda x: x, blocks, lambda x: x @ torch.from_numpy(head).T)


def path_contribution(
    branches: Sequence[np.ndarray], head: np.ndarray, inputs: np.ndarray, path: int
) -> np.ndarray:
    product = np.eye(head.shape[1])
    for i, matrix in enumerate(branches):
        if path >> i & 1:
            product = matrix @ product
    return inputs @ (head @ product).T


def first_output(outputs: Tensor, targets: Tensor) -> Tensor:
    return outputs[:, 0]


@settings(max_examples=12)
@given(affine_nets())
def test_in_affine_nets_the_dividend_of_a_subset_is_the_contribution_of_its_path(net):
    branches, head, inputs = net
    chain = affine_chain(branches, head)
    n, data = len(branches), (torch.from_numpy(inputs), torch.tensor([0, 1, 2, 0]))
    contributions = [path_contribution(branches, head, inputs, path) for path in range(2**n)]
    scale = max(1.0, max(np.abs(each).max() for each in contributions))

    own = ensemble_view.subsets(chain, data, measure=first_output, batch_size=4)
    expected = [each[:, 0].mean() for each in contributions]
    found = own.frame["first_output dividend"].to_numpy()
    assert np.abs(found - expected).max() < 1e-10 * scale
    means = own.frame["first_output"].to_numpy()
    shapley = own.values_frame["shapley"].sum()
    assert shapley == pytest.approx(means[-1] - means[0], abs=1e-10 * scale)

    classified = ensemble_view.subsets(chain, data, batch_size=4)
    squares = [np.square(centred(each)).sum() for each in contributions]
    assert classified.values.dividend_energies[0] == pytest.approx(
        squares, rel=1e-10, abs=1e-10 * scale**2
    )
    # Parseval: at any keep-probability the energies sum to the mean square.
    for keep, energies in zip(classified.keeps, classified.values.energies[0], strict=True):
        mean_square = 0.0
        for mask in range(2**n):
            f = sum(contributions[path] for path in range(2**n) if path & mask == path)
            size = bin(mask).count("1")
            mean_square += keep**size * (1 - keep) ** (n - size) * np.square(centred(f)).sum()
        assert energies.sum() == pytest.approx(mean_square, rel=1e-10)


@settings(max_examples=8)
@given(affine_nets())
def test_branches_that_only_add_have_all_their_variance_at_order_one(net):
    branches, head, inputs = net
    for matrix in branches:
        # They read nothing but the constant, so that no branch sees another's.
        matrix[:, :-1] = 0
    chain = affine_chain(branches, head)
    data = (torch.from_numpy(inputs), torch.tensor([0, 1, 2, 0]))
    found = ensemble_view.subsets(chain, data, batch_size=4)
    for keep in found.keeps:
        assert found.share("logits", keep, 1) == pytest.approx(1, abs=1e-10)
    loss = ensemble_view.subsets(chain, data, batch_size=4, measure=first_output)
    assert loss.share("first_output", 0.5, 1) == pytest.approx(1, abs=1e-10)


def test_chosen_blocks_vary_and_the_others_stay():
    model, inputs = small("resnet14"), make_images(3)
    found = ensemble_view.subsets(model, (inputs, torch.tensor([0, 1, 2])), only="0,layer3.*")
    assert [block.names[0] for block in found.blocks] == ["layer1.0", "layer3.0", "layer3.1"]
    expected = scores(by_hooks(model, [0, 4, 5], inputs), torch.tensor([0, 1, 2]))
    assert found.frame["loss"].to_numpy() == pytest.approx(expected["loss"].mean(1), abs=1e-6)
    # One pass up to the last choice, then twice and four times what follows.
    assert found.run.cost.block_evaluations == 1 + 3 * 2 + 2 + 4
    assert "keep some of 3 blocks; the other 3 stay, on 3 examples" in found.summary


def test_text_is_measured_per_token():
    lengths, vocabulary = (9, 16, 12), 37
    drawn = sequences(*lengths)
    found = ensemble_view.subsets(
        own_net(vocabulary=vocabulary), windows("drawn", drawn, 16, "drawn"), batch_size=2
    )
    for mask, row in enumerate(found.frame.to_dict("records")):
        twin = own_net(vocabulary=vocabulary)
        for index in range(2):
            if not mask >> index & 1:
                twin.blocks[index] = nn.Identity()
        sums = [sums_by_hand(twin, twin, tokens) for tokens in drawn]
        loss, tokens = (sum(each[name] for each in sums) for name in ("loss", "tokens"))
        assert row["loss per token"] == pytest.approx(loss / tokens, rel=1e-10)
    means = found.frame["loss per token"].to_numpy()
    shapley = found.values_frame["shapley"].sum()
    assert shapley == pytest.approx(means[-1] - means[0], abs=1e-10)
    assert found.spectral == ()
    assert "the loss per token is" in found.summary


def test_the_model_is_left_as_it_was():
    model = small()
    with unchanged(model):
        ensemble_view.subsets(model, examples())


def test_what_was_done_before_an_interruption_is_kept_whole(result):
    told = []

    def stop(steps: int) -> None:
        told.append(steps)
        if len(told) > 12:
            raise KeyboardInterrupt

    found = ensemble_view.subsets(small(), examples(), batch_size=4, progress=stop)
    first = ensemble_view.subsets(small(), tuple(each[:4] for each in examples()), batch_size=4)
    assert found.stopped_after == 4
    assert "interrupted" in found.summary
    for name, array in first.values.arrays.items():
        assert found.values.arrays[name] == pytest.approx(array, abs=1e-12), name


def test_one_strong_block_among_dead_ones_is_additive_and_not_called_an_ensemble():
    strong = torch.tensor([3.0, -1.0, 0.5, 0.0], dtype=torch.float64)

    def branch(i: int):
        return lambda x, context: (strong if i == 2 else 0 * strong).expand(len(x), 4)

    blocks = [Block(i, f"F{i}", branch=branch(i)) for i in range(10)]
    chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
    given = torch.rand(8, 4, dtype=torch.float64), torch.arange(8) % 4
    found = ensemble_view.subsets(chain, given)
    assert found.share("logits", 0.5, 1) == pytest.approx(1)
    frame = found.effective_frame
    assert frame["effective"].to_numpy()[frame["quantity"] == "logits"] == pytest.approx(1)
    said = found.summary
    assert "logits is that of 1 [1, 1] of 10 blocks (participation ratio of their" in said
    assert "Additivity is neither necessary nor sufficient for an ensemble" in said
    assert "would be an ensemble" not in said


def test_it_comes_back_from_its_files_and_fits_a_terminal(result, tmp_path):
    result.save(tmp_path)
    names = {"subsets", "values", "sizes", "spectrum", "dividends", "effective"}
    assert {path.stem for path in tmp_path.glob("*.csv")} == names
    again = PowerSetResult.load(tmp_path)
    assert again.to_json() == result.to_json()
    for name, array in result.values.arrays.items():
        assert np.array_equal(array, again.values.arrays[name])
    assert max(map(len, repr(result).splitlines())) <= 80
    assert "2*  layer3.0" in result.table.replace("2* ", "2*  ")
    said = result.summary
    shapley = result.values_frame["shapley"][:3]
    assert f"that difference of {100 * shapley.sum():+.1f} points" in said
    assert f"to {result.share('logits', result.gentle, 1):.0%} and" in said
    assert "Additivity is neither necessary nor sufficient" in said


def test_the_figure_shows_every_subnetwork_the_spectrum_and_the_values(result):
    sizes, spectrum, values = power_set_figure(result).axes
    points = [line for line in sizes.lines if line.get_marker() == "."]
    drawn = np.concatenate([line.get_ydata() for line in points])
    assert np.sort(drawn) == pytest.approx(np.sort(result.frame["error"]))
    for size, line in enumerate(points):
        assert np.abs(line.get_xdata() - size).max() < 0.5
    (mean,) = [line for line in sizes.lines if line.get_marker() == "o"]
    assert mean.get_ydata() == pytest.approx(result.sizes_frame["mean"][:4].to_numpy())
    lines = {line.get_label(): line for line in spectrum.lines}
    assert set(lines) == {
        f"{name}, {keep} kept" for name in ("error", "loss", "logits") for keep in ("0.50", "0.67")
    }
    share = [result.share("logits", 0.5, order) for order in (1, 2, 3)]
    assert lines["logits, 0.50 kept"].get_ydata() == pytest.approx(share)
    heights = [bar.get_height() for bar in values.patches]
    assert heights == pytest.approx(result.values_frame["shapley"][:3].to_list())
    colours = [bar.get_facecolor() for bar in values.patches]
    assert same_color(colours[1], colours[2])
    assert not same_color(colours[0], colours[1])


@pytest.mark.parametrize(
    ("only", "message"),
    [
        ("0,9", "There is no block 9: this chain has 3 blocks, 0 to 2."),
        ("layer7.*", "No block is called 'layer7.*'; the blocks of this chain are called layer1.0"),
        ("2-1", "The range 2-1 runs backwards; write 1-2."),
    ],
)
def test_blocks_that_are_not_there_are_refused(only, message):
    with pytest.raises(InterventionError, match=message.replace("*", r"\*")):
        ensemble_view.subsets(small(), examples(), only=only)


def test_too_many_blocks_are_refused_with_what_to_do():
    blocks = [Block(i, str(i), branch=lambda x, context: x) for i in range(17)]
    chain = Chain.from_parts(lambda x: x, blocks, lambda x: x)
    data = torch.randn(2, 3), torch.tensor([0, 1])
    with pytest.raises(
        InterventionError,
        match=r"^17 blocks have 2\^17 = 131,072 subnetworks; at most 16 blocks are "
        r'taken. Choose them with only, such as "0-15"; the others stay.',
    ):
        prepare(SubsetsStudy, chain, data)
    assert len(prepare(SubsetsStudy, chain, data, only="0-3", batch_size=2).blocks) == 4


def test_a_unit_without_shortcut_that_changes_the_shape_is_refused():
    plain = wake(build("plain8,width=4", classes=CLASSES))
    chain = unravel(plain, make_images(2), plain=True)
    fixed = next(block for block in chain if not block.deletable)
    with pytest.raises(
        InterventionError, match=f"Block {fixed.index} .* has no shortcut and changes the shape, so"
    ):
        ensemble_view.subsets(chain, examples(), only=[fixed.index])
    found = prepare(SubsetsStudy, chain, examples())
    assert fixed.index not in [block.index for block in found.blocks]


def test_values_that_do_not_fit_each_other_are_refused(result):
    arrays = result.values.arrays
    with pytest.raises(MeasurementError, match=r"The subsets' banzhaf have shape \(2, 2, 7\); exp"):
        SubsetValues(**{**arrays, "banzhaf": arrays["banzhaf"][:, :2]})


def test_keep_probabilities_leave_out_what_would_delete_all():
    assert keep_probabilities(9) == (1 - 1 / 9, 1 - 2 / 9, 1 - 5 / 9)
    assert keep_probabilities(1) == ()


def test_an_output_that_is_no_matrix_is_refused_in_words():
    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch = nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.branch(x)

    with pytest.raises(MeasurementError, match="needs logits of the shape"):
        ensemble_view.subsets(wake(Segmenter()), examples())


def test_the_engine_and_the_study_agree_on_the_numbers_of_plans():
    chain = unravel(small(), make_images(2))
    study = prepare(SubsetsStudy, chain, examples())
    plans = [
        bind(Delete(*sorted({0, 1, 2} - set(kept(m, range(3))))), chain.outline) for m in range(8)
    ]
    assert study.experiment.engine.plans[1:] == tuple(plans)
