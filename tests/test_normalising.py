"""What images are normalised by, who said so, and what is said where nobody did."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import ensemble_view
import ensemble_view as ev
from ensemble_view.cli.application import main
from ensemble_view.data.normalisation import PRESETS, choose_normalisation
from ensemble_view.data.opening import as_data
from ensemble_view.errors import DataError, MeasurementWarning
from ensemble_view.nets.checkpoints import save_checkpoint
from ensemble_view.nets.models.building import build
from ensemble_view.statistics.paired import accuracy_interval
from ensemble_view.studies.lesion.result import LesionResult
from ensemble_view.study.near_chance import near_chance
from ensemble_view.study.outcomes import Outcomes
from ensemble_view.study.subject import examine

SHARED = Path(__file__).resolve().parents[2] / "shared"
NET = SHARED / "checkpoints" / "resnet56-4bfd9763.th"
IMAGES = SHARED / "data" / "cifar10_test_lossless.npz"
MEAN, STD = (0.304559,), (0.376019,)

published = pytest.mark.skipif(
    not (NET.exists() and IMAGES.exists()),
    reason="the published ResNet-56 and the lossless CIFAR-10 images are not at ../shared",
)


@pytest.fixture(scope="module")
def digits_net(tmp_path_factory):
    """Three blocks that name nearly all digits rightly, and very few without normalisation."""
    torch.manual_seed(0)
    x, y = ev.open_data("digits", split="train", mean=MEAN, std=STD).take(range(1000))
    net = build("resnet8,width=8", in_channels=1)
    optimizer = torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(8):
        for each in torch.randperm(1000).view(-1, 50):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x[each]), y[each]).backward()
            optimizer.step()
    file = tmp_path_factory.mktemp("net") / "net.pt"
    save_checkpoint(
        file, net, architecture="cifar:resnet8,width=8", normalisation=(MEAN, STD), data="digits",
        input_shape=(1, 8, 8),
    )  # fmt: skip
    return ev.load_checkpoint(file)


def right(checkpoint, data):
    """Accuracy by hand: pixels to the net's own normalisation, argmax, comparison."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in checkpoint.normalisation)
    with torch.inference_mode():
        hits = [
            (checkpoint.model((x - mean) / std).argmax(1) == y).double() for x, y in data.batches()
        ]
    return float(torch.cat(hits).mean())


class TestWhatIsSaid:
    def test_a_preset_is_its_numbers_under_its_name(self):
        data = ev.open_data("digits", normalise="digits", limit=10)
        assert data.normalisation == {
            "mean": [0.304559], "std": [0.376019], "from": "preset digits",
        }  # fmt: skip
        assert data.to_json()["normalisation"] == data.normalisation

    def test_digits_are_what_their_training_split_says(self):
        images = np.concatenate([x for x, _ in ev.open_data("digits", split="train").batches()])
        assert_allclose(PRESETS["digits"].mean, images.mean(), atol=1e-6)
        assert_allclose(PRESETS["digits"].std, images.std(), atol=1e-5)

    @pytest.mark.parametrize("name", PRESETS)
    def test_presets_have_as_many_means_as_deviations_and_a_source(self, name):
        preset = PRESETS[name]
        assert len(preset.mean) == len(preset.std)
        assert preset.source

    def test_none_is_said_too(self):
        data = ev.open_data("digits", normalise="none", limit=10)
        assert data.normalisation["from"] == "none, as asked"

    def test_nothing_said_is_none_known(self):
        assert ev.open_data("digits", limit=10).normalisation["from"] == "none known"

    def test_numbers_are_given(self):
        data = ev.open_data("digits", mean=[0.3], std=[0.4], limit=10)
        assert data.normalisation == {"mean": [0.3], "std": [0.4], "from": "given"}

    def test_tensors_are_taken_as_they_are(self):
        data = as_data((torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 1, 0])))
        assert data.normalisation["from"] == "the data's own"

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            (("imagnet", None, None), "no normalisation 'imagnet': expected imagenet, .*did you"),
            (("imagenet", (0.5,), (0.5,)), "is said twice"),
            (("none", (0.5,), (0.5,)), "is said twice"),
            ((None, (0.5,), None), "go together"),
            ((None, None, (0.5,)), "go together"),
        ],
    )
    def test_contradictions_are_refused(self, given, sentence):
        with pytest.raises(DataError, match=sentence):
            choose_normalisation(*given)


def test_the_bundled_net_reads_the_same_however_its_data_come():
    checkpoint, data = ev.load_checkpoint("digits-resnet110"), ev.open_data("digits", limit=200)
    result = ev.lesion(checkpoint, data, blocks="3", batch_size=200)
    assert result.baseline.accuracy == right(checkpoint, data)
    assert result.baseline.accuracy > 0.97
    with torch.inference_mode():
        raw, labels = next(data.batches(200))
        assert (checkpoint.model(raw).argmax(1) == labels).double().mean() < 0.2


class TestTheCheckpointsOwn:
    """Raw data opened by this package are normalised as the checkpoint says, however they come."""

    @pytest.mark.parametrize("limit", [None, 200])
    def test_opened_data_read_as_the_name_does(self, digits_net, limit):
        data = ev.open_data("digits")
        result = ev.lesion(digits_net, data, blocks="1", batch_size=50, limit=limit)
        assert result.baseline.accuracy == right(digits_net, data.subset(limit or len(data)))
        assert result.baseline.accuracy > 0.9
        assert result.provenance.data["normalisation"] == {
            "mean": [0.304559], "std": [0.376019], "from": "checkpoint",
        }  # fmt: skip
        assert not result.provenance.warnings

    def test_so_do_pixels_in_an_array(self, digits_net):
        stored = ev.open_data("digits", limit=100)
        pixels = (stored.source.inputs[stored.indices] / 16 * 255).round().astype(np.uint8)
        result = ev.lesion(digits_net, (pixels, stored.labels), blocks="1", batch_size=50)
        assert result.baseline.accuracy > 0.9
        assert result.provenance.data["normalisation"]["from"] == "checkpoint"

    def test_every_study_sees_the_same_inputs(self, digits_net):
        data = ev.open_data("digits", limit=40)
        expected = (data.take(range(40))[0] - MEAN[0]) / STD[0]
        subject = examine(digits_net, data)
        assert_allclose(next(subject.data.batches(40))[0], expected, rtol=1e-5, atol=1e-6)
        for study in (ev.reaction, ev.gradients_by_block, ev.gradients_by_length):
            named, opened = (study(digits_net, each, limit=8) for each in ("digits", data))
            assert opened.provenance.data["normalisation"]["from"] == "checkpoint"
            assert (
                named.provenance.data["normalisation"] == (opened.provenance.data["normalisation"])
            )

    def test_a_dose_and_a_control_do_too(self, digits_net):
        data = ev.open_data("digits", limit=60)
        dose = ev.dose(digits_net, data, blocks="1", batch_size=60, draws=1, doses=(0.5,))
        assert dose.run.outcomes.baseline_correct.mean() > 0.9
        again = ensemble_view.control(
            digits_net, data, "batchnorm", only="1", calibration_examples=64,
            calibration=ev.open_data("digits", split="train"),
        )  # fmt: skip
        assert again.controlled.outcomes.baseline_correct.mean() > 0.9
        assert again.controlled.provenance.model["calibration"]["normalisation"]["from"] == (
            "checkpoint"
        )

    def test_a_mean_branch_that_is_exported_is_of_normalised_data(self, digits_net, tmp_path):
        for name, data in (
            ("raw", ev.open_data("digits", limit=50)),
            ("said", ev.open_data("digits", limit=50, mean=MEAN, std=STD)),
        ):
            ev.export(digits_net, "replace 1 mean", tmp_path / f"{name}.pt", data=data)
        raw, said = (ev.load_checkpoint(tmp_path / f"{name}.pt") for name in ("raw", "said"))
        assert raw.weights_hash == said.weights_hash

    def test_data_that_were_given_a_normalisation_keep_it(self, digits_net):
        data = ev.open_data("digits", mean=(0.5,), std=(0.5,), limit=50)
        with pytest.warns(MeasurementWarning, match="another mean and standard deviation"):
            result = ev.lesion(digits_net, data, blocks="1", batch_size=50)
        assert result.provenance.data["normalisation"]["from"] == "given"
        assert "another mean" in result.provenance.warnings[0]

    @pytest.mark.parametrize("digits", [6, 3])
    def test_the_same_numbers_are_no_contradiction(self, digits_net, digits):
        mean, std = ([round(v, digits) for v in values] for values in (MEAN, STD))
        with warnings.catch_warnings():
            warnings.simplefilter("error", MeasurementWarning)
            ev.lesion(
                digits_net,
                ev.open_data("digits", mean=mean, std=std, limit=50),
                blocks="1",
                batch_size=50,
            )

    def test_tensors_of_the_users_own_are_never_altered(self, digits_net):
        inputs, labels = ev.open_data("digits", mean=MEAN, std=STD, limit=50).take(range(50))
        subject = examine(digits_net, (inputs, labels))
        assert torch.equal(next(subject.data.batches(50))[0], inputs)
        pairs = torch.utils.data.TensorDataset(inputs, labels)
        loader = torch.utils.data.DataLoader(pairs, batch_size=50)
        assert torch.equal(next(examine(digits_net, loader).data.batches())[0], inputs)

    def test_none_as_asked_against_a_checkpoint_that_says_one(self, digits_net):
        with pytest.warns(MeasurementWarning, match=r"\(0; 1: none, as asked\) than the net"):
            examine(digits_net, ev.open_data("digits", normalise="none", limit=10))


class TestNoneKnown:
    def test_raw_pixels_under_a_bare_module_are_a_warning(self, digits_net):
        with pytest.warns(MeasurementWarning, match="No normalisation is known for digits") as seen:
            result = ev.lesion(digits_net.model, ev.open_data("digits"), blocks="1", batch_size=50)
        assert Path(seen[0].filename) == Path(__file__)
        assert result.baseline.accuracy < 0.8
        (first,) = result.provenance.warnings
        assert first.startswith("No normalisation is known")
        assert "Normalisation: none known; pixels scaled to 0..1." in repr(result)
        assert result.to_json()["warnings"] == [first]

    def test_floats_from_a_file_are_a_warning(self, digits_net, tmp_path):
        inputs, labels = ev.open_data("digits", mean=MEAN, std=STD, limit=50).take(range(50))
        np.savez(tmp_path / "floats.npz", images=inputs.numpy(), labels=labels.numpy())
        data = ev.open_data(tmp_path / "floats.npz")
        with pytest.warns(MeasurementWarning, match=r"known for floats.*: its numbers are taken a"):
            result = ev.lesion(digits_net.model, data, blocks="1", batch_size=50)
        assert len(result.provenance.warnings) == 1
        asked = ev.open_data(tmp_path / "floats.npz", normalise="none")
        with warnings.catch_warnings():
            warnings.simplefilter("error", MeasurementWarning)
            ev.lesion(digits_net.model, asked, blocks="1", batch_size=50)
        with warnings.catch_warnings():
            warnings.simplefilter("error", MeasurementWarning)
            ev.lesion(digits_net.model, (inputs, labels), blocks="1", batch_size=50)

    def test_none_as_asked_silences_it(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error", MeasurementWarning)
            net = build("resnet20", in_channels=1).eval()
            examine(net, ev.open_data("digits", normalise="none", limit=10))

    def test_the_record_comes_back_with_its_warnings(self, digits_net, tmp_path):
        result = ev.lesion(
            digits_net.model, ev.open_data("digits", limit=60), blocks="1", batch_size=50
        )
        result.save(tmp_path)
        again = LesionResult.load(tmp_path)
        assert again.provenance == result.provenance
        assert again.provenance.warnings


class TestNearChance:
    @staticmethod
    def outcomes(right, labels, loss=1.0):
        none = np.zeros((0, len(labels)))
        return Outcomes(
            none > 0, none, none > 0, none, np.asarray(right, bool),
            np.full(len(labels), loss), np.asarray(labels),
        )  # fmt: skip

    @pytest.mark.parametrize("correct", range(0, 101, 5))
    def test_it_warns_exactly_where_the_interval_touches_chance(self, correct):
        labels = np.arange(100) % 10
        found = near_chance(self.outcomes(np.arange(100) < correct, labels))
        assert (found is not None) == (accuracy_interval(correct, 100).low <= 0.1)

    def test_it_names_the_usual_causes(self):
        found = near_chance(self.outcomes(np.arange(100) < 10, np.arange(100) % 10))
        for cause in ("normalisation", "order of the classes", "architecture", "crop", "trained"):
            assert cause in found
        assert "sure of wrong classes" not in found

    def test_a_large_loss_points_at_the_classes(self):
        found = near_chance(self.outcomes(np.zeros(100), np.arange(100) % 10, loss=9.0))
        assert "below chance" in found
        assert "9 nats, far above the 2.3 of a uniform guess" in found

    def test_few_examples_cannot_tell(self):
        assert near_chance(self.outcomes([False, True], [0, 1])) is None
        assert near_chance(self.outcomes(np.zeros(50), np.zeros(50, int))) is None

    def test_shifted_classes_are_told(self, digits_net):
        inputs, labels = ev.open_data("digits", mean=MEAN, std=STD).take(range(300))
        with pytest.warns(MeasurementWarning, match="classes in another order"):
            ev.lesion(digits_net, (inputs, (labels + 1) % 10), blocks="1", batch_size=50)


class TestTheCommandLine:
    def run(self, capsys, *words):
        with pytest.raises(SystemExit) as left:
            main(list(words))
        seen = capsys.readouterr()
        return left.value.code, seen.out, seen.err

    def test_the_first_lines_say_it(self, capsys, digits_net):
        code, out, err = self.run(
            capsys, "lesion", str(digits_net.path), "--blocks", "1", "--limit", "40"
        )
        assert code == 0
        assert "Warning" not in err
        assert out.splitlines()[0] == (
            "Normalisation: mean 0.3046; standard deviation 0.376 (checkpoint)."
        )
        assert out.count("Normalisation:") == 1

    @pytest.fixture
    def bare(self, tmp_path, digits_net):
        file = tmp_path / "bare.pth"
        torch.save(digits_net.model.state_dict(), file)
        return str(file)

    def test_none_known_is_said_once(self, capsys, bare):
        words = ["lesion", bare, "--data", "digits", "--blocks", "1", "--limit", "100"]
        code, out, err = self.run(capsys, *words)
        assert code == 0
        assert "Normalisation: none known; pixels scaled to 0..1." in out
        said = "Warning: No normalisation is known for digits"
        assert " ".join(out.split()).count(said) == 1
        assert "Warning" not in err
        code, out, err = self.run(capsys, *words, "--json")
        assert " ".join(err.split()).count(said) == 1
        record = json.loads(out)
        assert record["data"]["normalisation"]["from"] == "none known"
        assert record["warnings"][0].startswith("No normalisation is known for digits")
        assert "Normalisation: none known" in err

    def test_a_preset_heals_it(self, capsys, bare):
        words = ["lesion", bare, "--data", "digits", "--blocks", "1", "--limit", "100", "--json"]
        _, out, _ = self.run(capsys, *words, "--normalise", "digits")
        record = json.loads(out)
        assert record["baseline"]["accuracy"] > 0.9
        assert record["warnings"] == []
        assert record["data"]["normalisation"]["from"] == "preset digits"
        _, out, _ = self.run(capsys, *words, "--normalise", "none")
        assert json.loads(out)["data"]["normalisation"]["from"] == "none, as asked"

    def test_two_words_for_one_thing_are_refused(self, capsys, bare):
        words = ["lesion", bare, "--data", "digits", "--normalise", "digits"]
        code, _, err = self.run(capsys, *words, "--mean", "0.5", "--std", "0.5")
        assert code == 2
        assert "is said twice" in err

    def test_inspect_says_it_too(self, capsys, digits_net):
        _, out, _ = self.run(capsys, "inspect", str(digits_net.path), "--limit", "10")
        assert out.startswith("Normalisation: mean 0.3046")


def test_each_of_several_checkpoints_has_its_own(digits_net):
    other = replace(digits_net, normalisation=((0.4,), (0.5,)))
    found = ev.gradients_by_checkpoint(
        [digits_net, other], ev.open_data("digits", limit=6), method="summed"
    )
    means = [each.provenance.data["normalisation"]["mean"] for each in found.results]
    assert means == [[0.304559], [0.4]]


def test_a_file_of_weights_borrows_the_librarys_and_says_so(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    file = tmp_path / "net.pth"
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), file)
    found = ev.load_checkpoint(file)
    assert found.normalisation_source == "library's weights"
    ev.export(found, "delete 1", tmp_path / "less.pt")
    assert ev.load_checkpoint(tmp_path / "less.pt").normalisation_source == "library's weights"
    save_checkpoint(
        tmp_path / "said.pt", found.model, architecture=found.architecture,
        normalisation=found.normalisation,
    )  # fmt: skip
    assert ev.load_checkpoint(tmp_path / "said.pt").normalisation_source == "checkpoint"


@published
def test_the_published_resnet56_without_and_with_its_normalisation():
    checkpoint = ev.load_checkpoint(NET)
    assert checkpoint.normalisation is None
    with pytest.warns(MeasurementWarning, match="No normalisation is known"):
        raw = ev.lesion(checkpoint, ev.open_data(IMAGES, limit=200), blocks="1", batch_size=50)
    given = ev.lesion(
        checkpoint, ev.open_data(IMAGES, limit=200, normalise="imagenet"), blocks="1", batch_size=50
    )
    assert math.isclose(raw.baseline.accuracy, 0.565, abs_tol=0.06)
    assert given.baseline.accuracy > 0.93
