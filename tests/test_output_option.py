"""Of several outputs every command measures the one that is named; a measure can get all."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ensemble_view as ev
from ensemble_view import unravel
from ensemble_view.cli.application import main
from ensemble_view.errors import DiscoveryError, MeasurementError
from ensemble_view.measures.own import OwnMeasure
from layers import wake

CLASSES, EXAMPLES, SIDE, WIDTH = 4, 24, 4, 6


class TwoHeads(nn.Module):
    """Four residual blocks, then one head for the class and another one, wired otherwise."""

    def __init__(self, early: bool = False) -> None:
        super().__init__()
        self.early = early
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(WIDTH, WIDTH, 3, padding=1) for _ in range(4))
        self.norm = nn.BatchNorm1d(WIDTH)
        self.first, self.second = nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.stem(x)
        for index, block in enumerate(self.blocks):
            if index == 2:
                middle = x
            x = x + torch.relu(block(x))
        pooled = self.norm(x.mean((2, 3)))
        other = torch.relu(middle.mean((2, 3)) if self.early else pooled)
        return {"first": self.first(pooled), "second": self.second(other)}


def two_heads(early: bool = False, kind: type[TwoHeads] = TwoHeads) -> nn.Module:
    torch.manual_seed(0)
    return wake(kind(early)).float().eval()


class SecondOnly(TwoHeads):
    """The same net with the second output alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)["second"]


def scenes() -> tuple[Tensor, Tensor]:
    """Images, labelled by the first head but for some."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(EXAMPLES, 3, SIDE, SIDE, generator=generator)
    with torch.no_grad():
        labels = two_heads()(images)["first"].argmax(1)
    labels[::5] = (labels[::5] + 1) % CLASSES
    return images, labels


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A program of the net and data, as a user has them."""
    folder = tmp_path_factory.mktemp("heads")
    images, labels = scenes()
    batch = torch.export.Dim("batch")
    program = torch.export.export(two_heads(), (images[:2],), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "net.pt2")
    torch.save(two_heads().state_dict(), folder / "net.pt")
    kinds = {"both": "TwoHeads", "second": "SecondOnly"}
    lines = [f"def {name}():\n    return {kind}()\n" for name, kind in kinds.items()]
    imports = f"from test_output_option import {', '.join(kinds.values())}\n"
    (folder / "net.py").write_text("\n\n".join([imports, *lines]))
    np.savez(folder / "data.npz", images=images.numpy(), labels=labels.numpy())
    return folder


COMMANDS = {
    "lesion": "lesion",
    "set": "lesion --blocks 0,2",
    "count": "lesion --count 1-2 --trials 3",
    "pairs": "lesion --pairs",
    "all": "lesion --all",
    "surrogates": "lesion --surrogates",
    "dropshortcut": "lesion --control dropshortcut",
    "dose": "dose",
    "reorder": "reorder --swaps 1-2 --trials 3",
    "reaction": "reaction",
    "gradients": "gradients",
}


def numbers(record):
    """All that was measured: every fraction in a record but for times."""
    if isinstance(record, dict):
        kept = (value for name, value in sorted(record.items()) if name not in TIMES)
        return [number for value in kept for number in numbers(value)]
    if isinstance(record, list):
        return [number for value in record for number in numbers(value)]
    return [record] if isinstance(record, float) else []


TIMES = ("seconds", "expected_seconds", "options")


def ended(words, capsys):
    """How the program ends, what it prints, and what it says of errors."""
    with pytest.raises(SystemExit) as ending:
        main(words)
    said = capsys.readouterr()
    return ending.value.code, said.out, said.err


def asked(files, words, capsys, factory=None):
    """The same of a command on the net, as a program or as weights, and its data."""
    command, *options = shlex.split(words)
    net = [str(files / "net.pt2"), "--trust-pickle"]
    if factory is not None:
        net = [str(files / "net.pt"), "--arch", f"{files / 'net.py'}:{factory}"]
    where = [*net, "--data", str(files / "data.npz")]
    return ended([command, *where, "--normalise", "none", *options], capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_measures_the_output_that_is_named(command, files, capsys):
    found = {}
    for name in ("first", "second"):
        code, out, err = asked(files, f"{COMMANDS[command]} --output {name} --json", capsys)
        assert code == 0, err
        found[name] = json.loads(out)
        assert found[name]["model"]["output"] == name
    first, second = map(numbers, found.values())
    # A reaction is measured behind the last block, and so before either head.
    assert len(first) > 5
    assert (first == second) is (command == "reaction")
    code, out, err = asked(files, f"{COMMANDS[command]} --output third --json", capsys)
    assert code != 0
    assert "no floating-point output called 'third'; found: first, second" in err


@pytest.mark.parametrize("command", COMMANDS)
def test_all_outputs_are_refused_where_a_number_is_of_one(command, files, capsys):
    code, _, err = asked(files, f"{COMMANDS[command]} --output all", capsys)
    assert code != 0
    assert "All outputs were asked for, which only a measure of one's own can read" in err
    assert "choose one of first, second" in err


def test_inspect_takes_the_output_that_is_named(files, capsys):
    words = ["inspect", str(files / "net.pt2"), "--trust-pickle", "--output"]
    for name in ("first", "second"):
        code, out, _ = ended([*words, name], capsys)
        assert code == 0
        assert "4 blocks" in out
    code, _, err = ended([*words, "third"], capsys)
    assert code != 0
    assert "no floating-point output called 'third'" in err


@pytest.mark.parametrize("words", ["reaction", "lesion --control untrained"])
def test_the_untrained_net_is_measured_at_the_same_output(words, files, capsys):
    """A net that returns that output only has no other."""
    records = []
    for factory, named in (("both", " --output second"), ("second", "")):
        code, out, err = asked(files, f"{words}{named} --seed 3 --json", capsys, factory)
        assert code == 0, err
        records.append(json.loads(out))
    found, expected = map(numbers, records)
    assert len(found) == len(expected) > 10
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_a_program_that_cannot_be_copied_has_no_untrained_net_and_says_so(files, capsys):
    code, _, err = asked(files, "lesion --control untrained --output second", capsys)
    assert code != 0
    assert "The net cannot be copied" in err
    code, out, _ = asked(files, "reaction --output second --json", capsys)
    assert code == 0
    assert "The net cannot be copied" in json.loads(out)["undefined"]["untrained"]


def test_paths_are_those_to_the_output_that_is_named(files, capsys):
    words = ["paths", str(files / "net.pt2"), "--trust-pickle", "--json", "--output"]
    for name in ("first", "second"):
        code, out, err = ended([*words, name], capsys)
        assert code == 0, err
        assert json.loads(out)
    code, _, err = ended([*words, "third"], capsys)
    assert code != 0
    assert "no floating-point output called 'third'" in err


def test_the_baseline_is_that_of_the_head_that_is_named(files, capsys):
    images, labels = scenes()
    with torch.no_grad():
        said = two_heads()(images)
    for name, logits in said.items():
        code, out, err = asked(files, f"lesion --output {name} --json", capsys)
        assert code == 0, err
        right = float((logits.argmax(1) == labels).float().mean())
        assert json.loads(out)["baseline"]["accuracy"] == pytest.approx(right)


def disagreement(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    return (outputs["first"] - outputs["second"]).abs().sum(1) + targets


def by_hand(gone: tuple[int, ...]) -> np.ndarray:
    """Both heads of the net without some blocks, by one plain pass in double precision."""
    net = two_heads().double()
    images, labels = scenes()
    with torch.no_grad():
        x = net.stem(images.double())
        for index, block in enumerate(net.blocks):
            x = x if index in gone else x + torch.relu(block(x))
        pooled = net.norm(x.mean((2, 3)))
        first, second = net.first(pooled), net.second(torch.relu(pooled))
    return ((first - second).abs().sum(1) + labels).numpy()


@pytest.mark.parametrize("given", [disagreement, OwnMeasure(disagreement, "disagreement")])
def test_a_measure_of_ones_own_can_get_all_outputs(given):
    result = ev.lesion(two_heads(), scenes(), measure=given, output="all")
    np.testing.assert_allclose(result.outcomes.baseline, by_hand(()), rtol=1e-4)
    expected = [by_hand((block,)) for block in range(4)]
    np.testing.assert_allclose(result.outcomes.values, expected, rtol=1e-4)
    assert result.to_json()["model"]["output"] == "all"
    (note,) = [note for note in result.notes if "gets all outputs" in note]
    assert "first, second. The blocks are those on the way to first." in note
    assert result.measure == "disagreement"


def test_many_deletions_and_orders_measure_all_outputs_too():
    result = ev.random(two_heads(), scenes(), count=2, trials=9, measure=disagreement, output="all")
    expected = [by_hand(gone) for gone in result.deleted]
    np.testing.assert_allclose(result.run.outcomes.values, expected, rtol=1e-4)
    chain = unravel(two_heads(), scenes()[0][:2], output="all")
    orders = ev.reorder(chain, scenes(), swaps=1, trials=3, measure=disagreement, output="all")
    assert np.isfinite(orders.run.outcomes.values).all()


def test_without_being_asked_a_measure_gets_the_output_that_is_followed():
    seen: list[Tensor] = []

    def measure(output: Tensor, targets: Tensor) -> Tensor:
        seen.append(output)
        return output.sum(1)

    ev.lesion(two_heads(), scenes(), measure=measure, output="second", blocks="0")
    assert seen
    assert all(isinstance(output, Tensor) for output in seen)


def test_a_net_of_one_output_gives_it_in_its_own_form():
    class Single(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = two_heads()

        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (self.net(x)["first"],)

    def measure(outputs: tuple[Tensor], targets: Tensor) -> Tensor:
        (logits,) = outputs
        return logits.sum(1)

    alone = ev.lesion(Single(), scenes(), measure=measure, output="all").outcomes
    plain = ev.lesion(Single(), scenes(), measure=lambda o, t: o.sum(1)).outcomes
    np.testing.assert_allclose(alone.values, plain.values, rtol=1e-5)


def test_a_head_on_the_middle_of_the_trunk_cannot_be_had_with_the_last():
    data, net = scenes(), two_heads(early=True)
    assert ev.lesion(net, data, output="first").baseline.n == EXAMPLES
    with pytest.raises(DiscoveryError, match=r"^Not all outputs can be had at once: one needs"):
        ev.lesion(net, data, measure=disagreement, output="all")


def test_a_chain_of_one_output_has_not_all():
    chain = unravel(two_heads(), scenes()[0][:2])
    with pytest.raises(DiscoveryError, match=r"^The chain gives one output; unravel the model wi"):
        ev.lesion(chain, scenes(), measure=disagreement, output="all")
    with pytest.raises(MeasurementError, match=r"asks for all outputs of a chain that gives one"):
        ev.lesion(chain, scenes(), measure=OwnMeasure(disagreement, all_outputs=True))


@pytest.mark.parametrize("words", ["inspect", "paths", "export --do 'delete 1' -o smaller.pt"])
def test_commands_that_follow_one_output_refuse_all_of_them(files, capsys, words):
    verb, *rest = shlex.split(words)
    with pytest.raises(SystemExit) as stopped:
        main([verb, str(files / "net.pt2"), "--trust-pickle", "--output", "all", *rest])
    assert stopped.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith("Error: --output all is for a measure of one's own, in Python;")
