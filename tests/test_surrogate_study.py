"""Surrogates of random subsets: additive and multiplied nets with known answers, definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ensemble_view
import ensemble_view.studies.additivity.study as study_module
from cases import images as make_images
from ensemble_view import Block, Chain, Delete, SurrogatesResult, edited, unravel
from ensemble_view.errors import InterventionError, MeasurementError
from ensemble_view.nets.models.building import build
from ensemble_view.statistics.order_shares import order_shares
from ensemble_view.statistics.spectrum import order_energies, variance_shares
from ensemble_view.statistics.surrogates import fit_surrogate, held_out_r2
from ensemble_view.studies.additivity.figure import surrogates_figure
from ensemble_view.studies.additivity.study import AdditivityStudy
from ensemble_view.study.study import prepare
from layers import wake
from state import unchanged


def small() -> nn.Module:
    return wake(build("resnet8,width=4", classes=5))


def examples(count: int = 6) -> tuple[Tensor, Tensor]:
    return make_images(count), torch.arange(count) % 5


@pytest.fixture(scope="module")
def result() -> SurrogatesResult:
    model = small()
    with unchanged(model):
        return ensemble_view.additivity(model, examples(), subsets=15, fresh=12, seed=3)


def chain_of(branch, blocks: int = 20) -> Chain:
    made = [Block(i, f"F{i}", branch=branch(i)) for i in range(blocks)]
    return Chain.from_parts(lambda x: x, made, lambda x: x)


def inputs_of(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    given = torch.rand(count, 4, generator=generator, dtype=torch.float64) + 0.5
    return given, torch.arange(count) % 4


def test_additive_branches_add_up_and_are_predicted_by_a_sum_over_blocks():
    """They read nothing, so that no branch sees another's; above 16 blocks, too."""
    generator = np.random.default_rng(0)
    added = torch.from_numpy(generator.normal(size=(20, 4)))

    def branch(i: int):
        return lambda x, context: added[i].expand(len(x), 4)

    found = ensemble_view.additivity(chain_of(branch), inputs_of(), subsets=300, fresh=20)
    frame = found.frame
    assert list(frame["deleted"].unique().round(9)) == [1, 2, 5, 10]
    logits = frame[frame["quantity"] == "logits"]
    for share in ("first", "up_to_second", "r2"):
        assert logits[share].to_numpy() == pytest.approx(np.ones(4), abs=1e-6)
    assert "100% [100%, 100%] and 100% [100%, 100%] with 5 deleted on average" in found.summary
    centred = (added - added.mean(1, keepdim=True)).numpy()
    energies = np.sum(centred**2, axis=1)
    effective = energies.sum() ** 2 / np.sum(energies**2)
    assert logits["effective"].to_numpy() == pytest.approx(np.full(4, effective), abs=0.01)


def test_one_strong_block_among_dead_ones_is_additive_but_not_called_an_ensemble():
    strong = torch.tensor([3.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    chain = chain_of(
        lambda i: lambda x, context: (strong if i == 4 else 0 * strong).expand(len(x), 4)
    )
    found = ensemble_view.additivity(chain, inputs_of(), subsets=110, fresh=20)
    logits = found.frame[found.frame["quantity"] == "logits"]
    assert logits["first"].to_numpy() == pytest.approx(np.ones(4))
    assert logits["effective"].to_numpy() == pytest.approx(np.ones(4), abs=1e-6)
    assert "that of 1 [1, 1] of 20 blocks (participation ratio) with 2 deleted" in found.summary
    assert "Additivity is neither necessary nor sufficient for an ensemble" in found.summary


def test_a_chain_of_factors_has_the_shares_of_a_product():
    """Every branch multiplies what came before: x (1 + a)^kept, whose energies are known."""
    factors = torch.linspace(-0.9, 0.9, 4, dtype=torch.float64)
    chain = chain_of(lambda i: lambda x, context: x * factors, blocks=6)
    inputs = inputs_of(60)
    found = ensemble_view.additivity(chain, inputs, subsets=150, fresh=50)
    masks = (np.arange(64)[:, None] >> np.arange(6) & 1).sum(1)
    x, a = inputs[0].numpy(), factors.numpy()
    logits = x * (1 + a) ** masks[:, None, None]
    logits = logits - logits.mean(-1, keepdims=True)
    for row in found.shares:
        if row.quantity == "logits" and row.deleted < 3:
            exact = np.cumsum(variance_shares(order_energies(logits, row.keep)))
            # Twice the half-width holds the truth of nearly every seed.
            assert abs(row.first - exact[0]) <= row.first_high - row.first_low
            width = row.up_to_second_high - row.up_to_second_low
            assert abs(row.up_to_second - exact[1]) <= width
            assert row.first == pytest.approx(exact[0], abs=0.15)
            assert row.r2 < 0.99


def test_shares_are_those_of_the_hooks_logits_on_the_subsets_that_were_drawn(result):
    model, (inputs, labels) = small(), examples()
    chain = unravel(model, inputs[:2])
    logits = []
    for row in result.kept:
        with torch.no_grad(), edited(chain, Delete(*np.flatnonzero(~row).tolist())):
            logits.append(model(inputs).numpy())
    logits = np.stack(logits)
    centred = logits - logits.mean(-1, keepdims=True)
    error = (logits.argmax(-1) != labels.numpy()).mean(1)
    assert len(result.kept) == 2 * 27
    for number in range(2):
        start = 27 * number
        kept = result.kept[start : start + 27]
        for name, f in (("logits", centred), ("error", error)):
            values = f[start : start + 27]
            (row,) = [
                each
                for each in result.shares
                if each.quantity == name and each.deleted == pytest.approx(number + 1)
            ]
            expected = order_shares(kept, values, row.keep)
            assert row.first == pytest.approx(expected.first.value, abs=1e-4, nan_ok=True)
            assert row.up_to_second_low == pytest.approx(
                expected.up_to_second.low, abs=1e-4, nan_ok=True
            )
            r2 = held_out_r2(fit_surrogate(kept[:15], values[:15]), kept[15:], values[15:])
            assert row.r2 == pytest.approx(r2.value, abs=1e-6, nan_ok=True)
            assert row.r2_low == pytest.approx(r2.low, abs=1e-5, nan_ok=True)


def test_subsets_are_drawn_with_their_probability_by_the_seed():
    chain = chain_of(lambda i: lambda x, context: x)
    study = prepare(
        AdditivityStudy, chain, inputs_of(), subsets=300, fresh=100, seed=1, batch_size=8
    )
    assert study.keeps == (0.95, 0.9, 0.75, 0.5)
    for keep, kept in zip(study.keeps, study.kept, strict=True):
        error = np.sqrt(keep * (1 - keep) / kept.size)
        assert abs(kept.mean() - keep) < 4 * error
    again = prepare(
        AdditivityStudy, chain, inputs_of(), subsets=300, fresh=100, seed=1, batch_size=8
    )
    other = prepare(
        AdditivityStudy, chain, inputs_of(), subsets=300, fresh=100, seed=2, batch_size=8
    )
    assert np.array_equal(study.kept, again.kept)
    assert not np.array_equal(study.kept, other.kept)
    plans = study.experiment.engine.plans[1:]
    for row, plan in zip(study.kept.reshape(-1, 20), plans, strict=True):
        assert list(plan.deleted) == np.flatnonzero(~row).tolist()


def test_it_comes_back_from_its_files_and_fits_a_terminal(result, tmp_path):
    result.save(tmp_path)
    again = SurrogatesResult.load(tmp_path)
    assert again.to_json() == result.to_json()
    assert np.array_equal(again.kept, result.kept)
    assert max(map(len, repr(result).splitlines())) <= 80
    assert "neither necessary nor sufficient" in result.summary


def test_the_figure_shows_every_share(result):
    figure = surrogates_figure(result)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for quantity in ("error", "loss", "logits", "probabilities"):
        rows = [row for row in result.shares if row.quantity == quantity]
        for label, name in (("order 1", "first"), ("orders 1 and 2", "up_to_second")):
            drawn = lines[f"{quantity}, {label}"]
            shares = [getattr(row, name) for row in rows]
            assert drawn.get_ydata() == pytest.approx(shares, nan_ok=True)
            assert (drawn.get_markerfacecolor() == "white") == (name == "up_to_second")


def test_too_few_subsets_for_the_precision_are_refused_with_how_many_it_takes():
    with pytest.raises(MeasurementError) as caught:
        ensemble_view.additivity(
            chain_of(lambda i: lambda x, context: x), inputs_of(), subsets=90, precision=0.1
        )
    assert str(caught.value) == (
        "90 subsets to fit to and 100 fresh ones were asked for; expected at least 10 of each and "
        "383 together, since the share of the variance up to order 2 of 20 blocks is to be known "
        "to ±0.1 (precision) where little is additive."
    )
    chain = chain_of(lambda i: lambda x, context: x, blocks=60)
    study = prepare(AdditivityStudy, chain, inputs_of(), batch_size=8)
    assert study.kept.shape == (4, 389, 60)


def test_too_few_subsets_or_blocks_and_too_many_numbers_are_refused(monkeypatch):
    with pytest.raises(MeasurementError, match="5 subsets to fit to and 100 fresh ones were asked"):
        ensemble_view.additivity(small(), examples(), subsets=5)
    with pytest.raises(InterventionError, match=r"Only block 1 \(layer2.0\) is there to be delet"):
        ensemble_view.additivity(small(), examples(), only="1")
    monkeypatch.setattr(study_module, "_MOST_NUMBERS", 9000)
    with pytest.raises(MeasurementError, match="600 subsets on 6 examples are 18,000 numbers, mor"):
        ensemble_view.additivity(small(), examples())
