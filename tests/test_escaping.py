"""What others have named acts on no terminal, spreadsheet, page or figure; no secret is kept."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn

import ensemble_view as ev
from ensemble_view.cli.saying import say
from ensemble_view.errors import EnsembleViewError, printable, printable_name
from ensemble_view.figures.style import save_figure
from ensemble_view.nets.models.building import build
from ensemble_view.studies.inspect.inspection import inspect
from ensemble_view.studies.lesion.result import LesionResult
from ensemble_view.study.files import write_table
from ensemble_view.study.lesions import Lesion, NotDeletable
from ensemble_view.study.recorded import by_command, command_text, made, shorter
from ensemble_view.study.words import html_table
from simulated_results import simulated_result

ODD = "a\x1b[31mred\x07\x9b2J\u202egnp\u2066\u200b\x7f\r\ud800"
HIDDEN = "\x1b\x07\x9b\u202e\u2066\u200b\x7f\r\ud800"


def is_harmless(text: str) -> bool:
    return not set(text) & set(HIDDEN)


@given(st.text())
def test_printable_text_has_lines_and_tabs_but_no_other_control_and_is_not_escaped_twice(text):
    found = printable(text)
    assert all(each.isprintable() or each in "\n\t" or ord(each) > 159 for each in found)
    assert is_harmless(found)
    assert printable(found) == found
    name = printable_name(text)
    assert "\n" not in name
    assert "\t" not in name
    assert printable_name(name) == name
    assert len(name) >= len(text)


def test_words_of_all_writing_systems_stay_as_they_are():
    for text in ("Δ ‖F‖ × 10³", "größe", "блок", "層1", "بلوك", "🧪"):
        assert printable_name(text) == text


def test_errors_say_names_escaped():
    assert str(EnsembleViewError(f"There is no {ODD}.")) == (
        r"There is no a\x1b[31mred\x07\u009b2J\u202egnp\u2066\u200b\u007f\r\ud800."
    )


def test_the_command_line_says_nothing_raw(capsys):
    assert say(f"{ODD}\nnext")
    assert say(ODD, err=True)
    said = capsys.readouterr()
    assert is_harmless(said.out + said.err)
    assert said.out.endswith("\nnext\n")
    # What is JSON stays JSON.
    say(json.dumps({"name": ODD}, ensure_ascii=False))
    assert json.loads(capsys.readouterr().out) == {"name": ODD}


def named(name: str) -> LesionResult:
    """A result whose net, data and modules are called so."""
    made = simulated_result(blocks=3, downsampling=(), examples=20)
    lesions = tuple(dataclasses.replace(each, names=(name,)) for each in made.lesions)
    provenance = dataclasses.replace(made.provenance, model={"name": name}, data={"name": name})
    return dataclasses.replace(made, lesions=lesions, provenance=provenance)


def test_a_result_shows_names_escaped_and_on_one_line():
    result = named(f"{ODD}\nSaved to elsewhere")
    for text in (repr(result), result.summary, str(result.frame), result._repr_html_()):
        assert is_harmless(text)
        assert not any(line.startswith("Saved") for line in text.splitlines())
    assert Lesion("a\n", ("b\x1b",), (0,), False, "identity").names == (r"b\x1b",)
    assert NotDeletable(0, "\x1b", "is").name == r"\x1b"


def test_inspection_shows_names_escaped():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("a\x1b[31m[bold]b\nc", nn.Linear(4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.relu(next(self.children())(x))

    example = torch.randn(2, 4)
    found = inspect(ev.unravel(Net(), example), example)
    text = repr(found) + found.explain()
    assert "\x1b" not in text


def test_html_has_no_tags_of_others():
    page = html_table(pd.DataFrame({"<b>": ["<script>alert(1)</script>"]}), "<img src=x>")
    assert "<script>" not in page
    assert "<img" not in page


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=cmd|'/c calc'!A1", "'=cmd|'/c calc'!A1"),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\tx", r"'\tx"),
        ("\r=1", r"'\r=1"),
        ("a\x1bb", r"a\x1bb"),
        ("-0.5", "-0.5"),
        ("3,7-9", "3,7-9"),
        ("layer1.0", "layer1.0"),
    ],
)
def test_text_in_a_table_is_no_formula(tmp_path, cell, written):
    frame = pd.DataFrame({"names": [cell], "drop": [-0.5], "count": [-3], "=x": [True]})
    write_table(tmp_path / "a.csv", frame)
    (row,) = pd.read_csv(tmp_path / "a.csv", dtype=str).to_dict("records")
    assert row == {"names": written, "drop": "-0.5", "count": "-3", "'=x": "True"}


@pytest.mark.parametrize("name", ["a$b", "$x^$", r"$\frac$", "a_$1 and $2", "%$#"])
def test_a_dollar_in_a_name_is_drawn_as_a_dollar(tmp_path, name):
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 100], [1, 1000], label=name)
    axes.set_xticks([1, 100], [name, name])
    axes.set_yscale("log")
    axes.set_ylabel(name)
    figure.suptitle(name)
    figure.legend()
    save_figure(figure, tmp_path / "a.png")
    assert not axes.yaxis.label.get_parse_math()
    # Powers of ten on an axis are set as such.
    assert axes.get_yticklabels()[0].get_parse_math()


def test_a_result_with_dollars_is_saved_with_its_figure(tmp_path):
    result = named("$x^$")
    lesions = tuple(dataclasses.replace(each, label="$x^$") for each in result.lesions)
    dataclasses.replace(result, lesions=lesions).save(tmp_path)
    assert (tmp_path / "lesion.png").stat().st_size > 1000


# What made a result.


def test_a_command_is_quoted_relative_and_without_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    words = [
        "ensemble-view", "lesion", f"{tmp_path}/work/my net.pt", "--data",
        f"{tmp_path}/other/d.npz", "--arch", "/opt/net.py:make",
        f"--out={tmp_path}/work/out", "--do", "delete 3; swap 7 8",
        "--tokenizer", "org/name", "--token", "very-secret", "--api-key=abc", "HF_TOKEN=abc",
        "https://me:pw@host/x?token=abc&a=1", "hf_abcdefghijklmnop",
    ]  # fmt: skip
    text = command_text(words)
    assert text == (
        "ensemble-view lesion 'my net.pt' --data ~/other/d.npz --arch /opt/net.py:make --out=out "
        "--do 'delete 3; swap 7 8' --tokenizer org/name --token '***' --api-key='***' "
        "HF_TOKEN='***' 'https://***@host/x?token=***&a=1' 'hf_***'"
    )
    assert shlex.split(text)[2] == "my net.pt"
    assert shorter(str(tmp_path / "work")) == "."
    assert shorter(str(tmp_path)) == "~"


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1)))
def test_a_shell_reads_the_command_as_it_was_typed(words):
    plain = [word for word in words if "/" not in word and "=" not in word and "-" not in word]
    plain = [word for word in plain if "~" not in word]
    assert shlex.split(command_text(plain)) == plain


@pytest.fixture
def lesion() -> LesionResult:
    torch.manual_seed(0)
    net = build("resnet8,width=4", in_channels=1).eval()
    data = torch.randn(12, 1, 8, 8), torch.arange(12) % 10
    return ev.lesion(net, data, blocks="0,1", batch_size=4, seed=3)


def test_in_python_the_record_says_the_call_and_not_what_runs_python(lesion, tmp_path):
    command = lesion.provenance.command
    assert command.startswith("ensemble_view.lesion(ResNet, tuple, ")
    for part in ("blocks='0,1'", "batch_size=4", "seed=3"):
        assert part in command
    assert Path(sys.argv[0]).name not in command
    lesion.save(tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["options"] | {"blocks": "0,1", "batch_size": 4, "seed": 3} == record["options"]
    # All that the same run needs.
    assert record["model"]["weights_hash"]
    assert record["data"]["fingerprint"]
    assert {"python", "torch", "ensemble-view"} <= set(record["versions"])
    assert (record["seed"], record["batch_size"], record["device"]) == (3, 4, "cpu")
    assert record["threads"] >= 1
    assert LesionResult.load(tmp_path) == lesion


def test_a_record_of_before_there_were_options_is_read(lesion, tmp_path):
    lesion.save(tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    del record["options"], record["digests"]
    (tmp_path / "results.json").write_text(json.dumps(record))
    with pytest.warns(UserWarning, match="without digests"):
        found = LesionResult.load(tmp_path)
    assert found.provenance.options == {}
    assert found.outcomes == lesion.outcomes


def test_options_of_a_command_are_kept_with_their_defaults_and_without_secrets():
    options = {"limit": None, "seed": 0, "out": Path("out"), "token": "x", "mean": [0.5], "f": open}
    with by_command(["ensemble-view", "lesion"], options):
        found = made()
    assert found.command == "ensemble-view lesion"
    assert found.options == {"limit": None, "seed": 0, "out": "out", "token": "***", "mean": [0.5]}
    assert not made().command.startswith("ensemble-view")
