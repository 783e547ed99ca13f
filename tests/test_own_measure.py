"""A user's own measure: segmentation-like outputs, hooks as the oracle, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ensemble_view import Delete, edited, lesion, unravel
from ensemble_view.data.target_data import TargetData
from ensemble_view.errors import DataError, MeasurementError
from ensemble_view.measures.own import OwnMeasure
from ensemble_view.studies.lesion.own import MeasuredResult
from layers import conv, two_layers, wake
from state import unchanged

COUNT, CLASSES, SIDE = 9, 4, 6


class Segmenter(nn.Module):
    """Two residual blocks, and a class for every pixel, as torchvision's nets give it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = conv(3, 8), nn.Conv2d(8, CLASSES, 1)
        self.blocks = nn.ModuleList(two_layers(8) for _ in range(2))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return {"out": self.head(x)}


def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return wake(Segmenter())


def scenes() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(COUNT, 3, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return images, torch.randint(CLASSES, (COUNT, SIDE, SIDE), generator=generator)


def pixel_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.argmax(1) == targets).double().mean((1, 2))


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    # Written over on purpose: the measure has a copy.
    return (
        outputs.softmax(1)
        .sub_(nn.functional.one_hot(targets, CLASSES).movedim(3, 1))
        .pow_(2)
        .mean((1, 2, 3))
    )


def overwriting(outputs: Tensor, targets: Tensor) -> Tensor:
    return squared_error(outputs.mul_(2), targets)


def by_hooks(measure: Any) -> np.ndarray:
    """Of the full net and each deletion, image by image."""
    model, (images, masks) = segmenter(), scenes()
    chain = unravel(model, images[:2])
    rows = []
    for intervention in (Delete(), Delete(0), Delete(1)):
        with torch.no_grad(), edited(chain, intervention):
            rows.append(
                [
                    float(measure(model(i[None])["out"], m[None]))
                    for i, m in zip(images, masks, strict=True)
                ]
            )
    return np.array(rows)


FORMS = {
    "pair": lambda: scenes(),
    "data set": lambda: TensorDataset(*scenes()),
    "loader": lambda: DataLoader(TensorDataset(*scenes()), batch_size=4),
    "shuffling loader": lambda: DataLoader(TensorDataset(*scenes()), batch_size=4, shuffle=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_value_is_that_of_the_hooks(form):
    model = segmenter()
    # A loader of one's own draws a seed from torch's random state whenever it is read.
    with unchanged(model, strictly="loader" not in form):
        result = lesion(model, FORMS[form](), measure=pixel_accuracy)
    expected = by_hooks(pixel_accuracy)
    np.testing.assert_allclose(result.outcomes.baseline, expected[0], rtol=1e-12)
    np.testing.assert_allclose(result.outcomes.values, expected[1:], rtol=1e-12)
    assert np.abs(expected[1:] - expected[0]).max(1).min() > 1e-3
    assert isinstance(result, MeasuredResult)
    assert result.measure == "pixel_accuracy"


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_the_change_is_the_paired_t_interval_and_positive_for_worse(higher_is_better):
    result = lesion(
        segmenter(), scenes(), measure=squared_error, higher_is_better=higher_is_better, level=0.9
    )
    full, *lesioned = by_hooks(squared_error)
    for row, values in zip(result.frame.to_dict("records"), lesioned, strict=True):
        worsening = full - values if higher_is_better else values - full
        expected = stats.ttest_1samp(worsening, 0)
        interval = expected.confidence_interval(0.9)
        assert row["value"] == pytest.approx(values.mean())
        assert row["worsening"] == pytest.approx(worsening.mean())
        assert (row["worsening_low"], row["worsening_high"]) == pytest.approx(tuple(interval))
        assert row["p_value"] == pytest.approx(expected.pvalue)
        assert row["n"] == COUNT


def test_a_measure_may_write_over_its_outputs():
    result = lesion(segmenter(), scenes(), measure=overwriting)
    np.testing.assert_allclose(result.outcomes.values, by_hooks(overwriting)[1:], rtol=1e-10)


def test_targets_may_be_anything_that_a_loader_gives():
    images, masks = scenes()

    class Boxes(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return COUNT

        def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Any]]:
            return images[index], {"mask": masks[index], "name": f"image {index}"}

    def measure(outputs: Tensor, targets: dict[str, Any]) -> Tensor:
        assert len(targets["name"]) == len(outputs)
        return pixel_accuracy(outputs, targets["mask"])

    found = lesion(segmenter(), Boxes(), measure=OwnMeasure(measure, "accuracy"))
    np.testing.assert_allclose(found.outcomes.values, by_hooks(pixel_accuracy)[1:], rtol=1e-12)
    assert found.measure == "accuracy"
    names = TargetData(Boxes())
    assert names.fingerprint() == TargetData(Boxes()).fingerprint()
    assert names.fingerprint() != TargetData(TensorDataset(images, masks)).fingerprint()


def test_labelled_data_can_be_measured_too(tmp_path):
    import ensemble_view

    def margin(outputs: Tensor, labels: Tensor) -> Tensor:
        right = outputs.gather(1, labels[:, None])[:, 0]
        return right - outputs.scatter(1, labels[:, None], -torch.inf).amax(1)

    checkpoint = ensemble_view.load_checkpoint("digits-resnet110")
    usual = lesion(checkpoint, "digits", limit=60, blocks="0")
    own = lesion(checkpoint, "digits", limit=60, blocks="0", measure=margin)
    assert ((own.outcomes.values > 0) == usual.outcomes.correct).all()


def test_a_limit_chooses_examples():
    chosen = np.sort(np.random.default_rng(2).permutation(COUNT)[:4])
    expected = by_hooks(pixel_accuracy)[1:, chosen]
    for form in ("pair", "loader"):
        result = lesion(segmenter(), FORMS[form](), measure=pixel_accuracy, limit=4, seed=2)
        np.testing.assert_allclose(result.outcomes.values, expected, rtol=1e-12)
        assert result.provenance.data["n"] == 4


def broken_after_deletion(outputs: Tensor, targets: Tensor) -> Tensor:
    values = pixel_accuracy(outputs, targets)
    return values if abs(float(outputs.mean()) - FULL_MEAN) < 1e-9 else values * float("nan")


with torch.no_grad():
    FULL_MEAN = float(segmenter()(scenes()[0])["out"].mean())


UNMEASURABLE: list[tuple[Any, str]] = [
    (
        lambda o, t: o.mean(),
        r"^The measure <lambda> returns a tensor of the shape \(\) for a batch of 9 examples; "
        r"expected a tensor of the shape \(9,\), one number per example\.$",
    ),
    (lambda o, t: o.mean((2, 3)), r"returns a tensor of the shape \(9, 4\) for a batch of 9 exam"),
    (lambda o, t: [0.0, 1.0], r"^The measure <lambda> returns \[0\.0, 1\.0\] for a batch of 9"),
    (
        lambda o, t: o.mean((1, 2, 3)) * float("nan"),
        r"^The measure <lambda> of the full net is not finite, first in example 0 of a batch; retu",
    ),
    (
        lambda o, t: o.no_such_thing,
        r"^The measure <lambda> fails on outputs of the shape \(9, 4, 6, 6\) \(AttributeError: .*"
        r"no_such_thing.*\); it is called with a net's outputs and the targets of the same batch",
    ),
    (
        "accuracy",
        r"^The measure is a str; expected a function of a net's outputs and the targets t",
    ),
]


@pytest.mark.parametrize(("measure", "message"), UNMEASURABLE)
def test_measures_that_cannot_be_used_are_refused_in_words(measure, message):
    with pytest.raises(MeasurementError, match=message):
        lesion(segmenter(), scenes(), measure=measure)


def test_a_deletion_after_which_nothing_can_be_measured_is_named():
    message = r"^The measure broken_after_deletion is not finite after the plan delete 0, though it"
    with pytest.raises(MeasurementError, match=message):
        lesion(segmenter(), scenes(), measure=broken_after_deletion, batch_size=COUNT)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            (torch.zeros(3, 2), torch.zeros(2)),
            r"^The pair holds 3 inputs and Tensor of length 2: e",
        ),
        (
            (torch.zeros(3, 2), None),
            r"^The pair holds 3 inputs and NoneType: expected a tensor wit",
        ),
        (
            3,
            r"^Data is of type int: expected a DataLoader, a data set of \(input, target\), or",
        ),
        (
            TensorDataset(torch.zeros(3, 2)),
            r"^A batch is a list of length 1: expected a pair \(inpu",
        ),
    ],
)
def test_data_that_cannot_be_measured_are_refused_in_words(data, message):
    with pytest.raises(DataError, match=message):
        list(TargetData(data).batches())


def test_limits_below_one_and_of_streams_are_refused_in_words():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(zip(*scenes(), strict=True))

    with pytest.raises(DataError, match=r"^The limit is 0 examples: expected at least 1\.$"):
        TargetData(scenes()).subset(0)
    stream = TargetData(DataLoader(Stream(), batch_size=4))
    assert len(stream) == COUNT
    result = lesion(segmenter(), stream, measure=pixel_accuracy, blocks="0")
    np.testing.assert_allclose(result.outcomes.values, by_hooks(pixel_accuracy)[1:2], rtol=1e-12)
    with pytest.raises(
        DataError, match=r"^A stream of examples has no subset: take the first exam"
    ):
        stream.subset(2)
