"""Surrogates of random subsets: additive and multiplied nets with known answers, definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ensemble_view.studies.surrogates as study_module
from cases import images as make_images
from ensemble_view import Block, Chain, Delete, SurrogatesResult, edited, surrogates, unravel
from ensemble_view.errors import InterventionError, MeasurementError
from ensemble_view.figures import surrogates_figure
from ensemble_view.models import build
from ensemble_view.statistics.surrogates import fit_surrogate, held_out_r2
from ensemble_view.studies.surrogates import prepare_surrogates
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
        return surrogates(model, examples(), subsets=15, fresh=12, seed=3)


def chain_of(branch, blocks: int = 20) -> Chain:
    made = [Block(i, f"F{i}", branch=branch(i)) for i in range(blocks)]
    return Chain.from_parts(lambda x: x, made, lambda x: x)


def inputs_of(count: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    given = torch.rand(count, 4, generator=generator, dtype=torch.float64) + 0.5
    return given, torch.arange(count) % 4


def test_additive_branches_are_predicted_by_a_sum_over_blocks():
    """They read nothing, so that no branch sees another's; above 16 blocks, too."""
    generator = np.random.default_rng(0)
    added = torch.from_numpy(generator.normal(size=(20, 4)))

    def branch(i: int):
        return lambda x, context: added[i].expand(len(x), 4)

    found = surrogates(chain_of(branch), inputs_of(), subsets=300, fresh=20)
    frame = found.frame
    assert list(frame["deleted"].unique().round(9)) == [1, 2, 5, 10]
    logits = frame[(frame["quantity"] == "logits") & (frame["order"] == 1)]
    assert logits["r2"].to_numpy() == pytest.approx(np.ones(4), abs=1e-9)
    assert "100% [100%, 100%] with 5 deleted" in found.summary


def test_a_chain_of_factors_needs_more_than_a_sum():
    """Every branch multiplies what came before, so that the logits are products over blocks."""
    factors = torch.linspace(-0.9, 0.9, 4, dtype=torch.float64)
    chain = chain_of(lambda i: lambda x, context: x * factors, blocks=6)
    frame = surrogates(chain, inputs_of(), subsets=150, fresh=50).frame
    logits = frame[frame["quantity"] == "logits"]
    table = logits.pivot(index="deleted", columns="order", values="r2")
    # With five of six blocks deleted the subsets are too few for all pairs.
    table = table.iloc[:2]
    assert (table[1] < 0.99).all()
    assert (table[2] > table[1]).all()
    assert (table[2] < 1 - 1e-6).all()


def test_fits_are_those_of_the_hooks_logits_on_the_subsets_that_were_drawn(result):
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
        rows = slice(27 * number, 27 * number + 15), slice(27 * number + 15, 27 * (number + 1))
        for name, f in (("logits", centred), ("error", error)):
            for order in (1, 2):
                surrogate = fit_surrogate(result.kept[rows[0]], f[rows[0]], order)
                expected = held_out_r2(surrogate, result.kept[rows[1]], f[rows[1]])
                (fit,) = [
                    each
                    for each in result.fits
                    if (each.quantity, each.order) == (name, order)
                    and each.deleted == pytest.approx(number + 1)
                ]
                assert fit.r2 == pytest.approx(expected.value, abs=1e-6, nan_ok=True)
                assert fit.low == pytest.approx(expected.low, abs=1e-5, nan_ok=True)


def test_subsets_are_drawn_with_their_probability_by_the_seed():
    chain = chain_of(lambda i: lambda x, context: x)
    study = prepare_surrogates(chain, inputs_of(), subsets=300, fresh=100, seed=1, batch_size=8)
    assert study.keeps == (0.95, 0.9, 0.75, 0.5)
    for keep, kept in zip(study.keeps, study.kept, strict=True):
        error = np.sqrt(keep * (1 - keep) / kept.size)
        assert abs(kept.mean() - keep) < 4 * error
    again = prepare_surrogates(chain, inputs_of(), subsets=300, fresh=100, seed=1, batch_size=8)
    other = prepare_surrogates(chain, inputs_of(), subsets=300, fresh=100, seed=2, batch_size=8)
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
    assert "sufficient for ensemble behaviour, not necessary" in result.summary


def test_the_figure_shows_every_fit(result):
    figure = surrogates_figure(result)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    for quantity in ("error", "loss", "logits", "probabilities"):
        for order in (1, 2):
            r2 = [f.r2 for f in result.fits if (f.quantity, f.order) == (quantity, order)]
            drawn = lines[f"{quantity}, order {order}"]
            assert drawn.get_ydata() == pytest.approx(r2, nan_ok=True)
            hollow = drawn.get_markerfacecolor() == "white"
            assert hollow == (order == 2)


def test_too_few_subsets_or_blocks_and_too_many_numbers_are_refused(monkeypatch):
    with pytest.raises(MeasurementError, match="5 subsets to fit to and 100 fresh ones were asked"):
        surrogates(small(), examples(), subsets=5)
    with pytest.raises(InterventionError, match=r"Only block 1 \(layer2.0\) is there to be delet"):
        surrogates(small(), examples(), only="1")
    monkeypatch.setattr(study_module, "_MOST_NUMBERS", 9000)
    with pytest.raises(MeasurementError, match="600 subsets on 6 examples are 18,000 numbers, mor"):
        surrogates(small(), examples())
