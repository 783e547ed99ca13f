"""What README and manual show runs as it stands there, and what they point to is there."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
import typer

import ensemble_view
from ensemble_view.cli.application import app
from ensemble_view.cli.former import as_they_are
from ensemble_view.nets.models.building import build
from ensemble_view.study import registry

ROOT = Path(__file__).resolve().parents[1]
README, ANALYSES = ROOT / "README.md", ROOT / "analyses" / "README.md"
MANUAL = ROOT / "src" / "ensemble_view" / "manual"
PAGES = [README, ANALYSES, *sorted(MANUAL.glob("*.md"))]

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code(page: Path, mark: str) -> str:
    """The block of code under a comment on a page."""
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", text(page), re.DOTALL)
    assert found is not None, f"{page.name} marks no code as {mark!r}"
    return found[1]


def renamed(mark: str) -> list[list[str]]:
    """The rows of a table of what there was before and what there is now."""
    found = re.search(rf"<!-- {mark} -->\n\n((?:\|.*\n)+)", text(MANUAL / "changes.md"))
    assert found is not None, f"changes.md marks no table as {mark!r}"
    return [re.findall("`(.*?)`", row) for row in found[1].splitlines()[2:]]


# Links.


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub makes it of them."""
    headings = re.findall(r"^#+ (.*)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@every_page
def test_every_link_points_to_what_is_there(page):
    links = re.findall(r"\]\(\s*([^)\s]+)\)|src=\"([^\"]+)\"", text(page))
    assert links
    for link in map("".join, links):
        if re.match("https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} points to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} points to {link}"


def test_every_page_of_the_manual_is_in_its_index_and_in_the_readme():
    names = {page.name for page in MANUAL.glob("*.md")}
    listed = re.findall(r"^\| \[(\S+)\]", text(MANUAL / "README.md"), re.MULTILINE)
    assert names - {"README.md"} == set(listed)
    for name in names:
        assert f"(src/ensemble_view/manual/{name})" in text(README), name


# Commands.


@cache
def commands() -> dict[str, tuple[set[str], set[str]]]:
    """From each verb to its options, and to those that take a value."""
    group = typer.main.get_command(app)
    context = typer.Context(group)
    found = {}
    for verb in group.list_commands(context):
        parameters = group.get_command(context, verb).params
        options = {o: p for p in parameters for o in (*p.opts, *p.secondary_opts) if o[0] == "-"}
        valued = {o for o, p in options.items() if not getattr(p, "is_flag", False)}
        found[verb] = {*options, "--help"}, valued
    return found


def written(page: Path) -> list[list[str]]:
    """The command lines that a page shows, in blocks or between words, without the program's name.

    Those that begin with a verb and have options are command lines, too: `random --stratified`.
    """
    shown = text(page)
    if page.name == "changes.md":  # What there was before is held against what there is below.
        shown = "\n".join(" ".join(row[1:]) for row in renamed("commands"))
        shown = re.sub("^(.*)$", r"`\1`", shown, flags=re.MULTILINE)
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", shown, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    between = re.findall("`([^`]+)`", re.sub(r"```.*?```", "", shown, flags=re.DOTALL))
    lines += [" ".join(each.split()) for each in between]
    found = []
    for line in lines:
        _, named, rest = line.rpartition("ensemble-view ")
        if named or (line.split()[0] in commands() and " -" in line):
            found.append(shlex.split(rest, comments=True))
    return found


@every_page
def test_every_command_that_is_shown_is_there_with_its_options(page):
    for words in written(page):
        if words[0] in ("VERB", "--version"):
            continue
        said = f"{page.name} shows {shlex.join(words)}"
        assert words[0] in commands(), said
        options, valued = commands()[words[0]]
        for place, word in enumerate(words):
            if re.match("--?[a-z]", word):
                option, equals, _ = word.partition("=")
                assert option in options, said
                after = words[place + 1 : place + 2]
                followed = equals or (after and not after[0].startswith("-"))
                # An option that is only spoken of stands alone behind its verb.
                alone = words[1:] == [word]
                assert option not in valued or followed or alone, said


def test_command_lines_are_found_on_the_pages():
    assert ["lesion", "digits-resnet110"] in written(README)
    assert ["reorder", "--adjacent"] in written(MANUAL / "deletions.md")
    assert ["pairs", "net.pt"] in written(MANUAL / "changes.md")


def test_every_verb_is_in_the_readme_and_in_the_index_of_the_manual():
    assert {words[0] for words in written(README)} == {*commands(), "VERB"}
    assert set(re.findall(r"`([a-z]+)`", text(MANUAL / "README.md"))) >= set(commands())


def test_every_way_of_the_control_is_in_the_readme():
    controls = {words[1] for words in written(README) if words[0] == "control"}
    assert controls == {"shortcut", "untrained", "batchnorm"}


# What was renamed.


@pytest.mark.parametrize(("before", "now"), renamed("commands"))
def test_a_former_command_is_now_what_the_page_says(before, now):
    program, *words = shlex.split(now)
    assert program == "ensemble-view"
    assert as_they_are(shlex.split(before)[1:]) == words


def test_former_functions_are_now_what_the_page_says():
    now = {f"ev.{before}": f"ev.{after}" for before, after in ensemble_view._FORMER.items()}
    assert dict(renamed("functions")) == now


@every_page
def test_names_of_the_package_that_are_shown_are_there(page):
    shown = text(page)
    if page.name == "changes.md":
        shown = "\n".join(line for line in shown.splitlines() if not line.startswith("|"))
    for name in re.findall(r"\bev\.([a-zA-Z_]\w*)", shown):
        # Of a study of one's own, registered by the page that shows it.
        assert name in ensemble_view.__all__ or (name, page.name) == ("tails", "own-study.md"), name


# The README.


def test_the_readme_is_short():
    assert len(text(README).splitlines()) <= 140


def test_intervals_in_the_readme_are_those_of_the_analyses():
    section = text(README).split("## What came out")[1].split("\n## ")[0]
    points = re.findall(r"^- .*?(?=^- |\Z)", section, re.DOTALL | re.MULTILINE)
    assert points
    for point in points:
        (link,) = re.findall(r"\((analyses/.*?)\)", point)
        table = text(ROOT / link) + text(ANALYSES)
        intervals = re.findall(r"([\d.]+(?: \S+ points| %)?)\s+(\[[\d., ]+\])", point)
        assert intervals
        for value, interval in intervals:
            number = re.escape(value.split()[0])
            assert re.search(rf"(?<![\d.]){number}\D{{0,10}}{re.escape(interval)}", table), interval


def test_the_citation_names_this_version():
    cited = dict(
        line.split(": ", 1)
        for line in text(ROOT / ".github" / "CITATION.cff").splitlines()
        if ": " in line
    )
    assert cited["version"] == ensemble_view.__version__
    assert cited["license"] == "MIT"
    assert 'authors = [{ name = "The ensemble_view authors" }]' in text(ROOT / "pyproject.toml")
    assert cited["  - name"] == "The ensemble_view authors"


# Code.


def test_the_ten_lines_of_python_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = code(README, "python")
    assert len([line for line in lines.splitlines() if line.strip()]) <= 10
    names: dict[str, object] = {}
    exec(compile(lines, "README.md", "exec"), names)
    result = names["result"]
    assert "These statements concern this net on these 20 examples" in " ".join(
        capsys.readouterr().out.split()
    )
    assert ensemble_view.load(tmp_path / "lesions").summary == result.summary
    with torch.no_grad():
        assert not torch.allclose(names["net"].model(names["images"]), names["logits"], atol=1e-3)


def test_the_study_of_the_manual_is_the_one_that_is_tested_and_runs(tmp_path, monkeypatch, capsys):
    page = code(MANUAL / "own-study.md", "own study")
    tested = (ROOT / "tests" / "test_own_study.py").read_text(encoding="utf-8")
    body = tested.split("# The study begins here.")[1].split("# And ends here.")[0].strip()
    assert body in page
    registry.names()
    monkeypatch.setattr(registry, "_studies", dict(registry._studies))
    monkeypatch.setattr(registry, "_kinds", dict(registry._kinds))
    (tmp_path / "tails.py").write_text(page, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("tails", tmp_path / "tails.py")
    own = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tails", own)
    spec.loader.exec_module(own)
    torch.manual_seed(0)
    ensemble_view.save_checkpoint(
        tmp_path / "net.pt", build("resnet8,width=4", in_channels=1).eval(),
        architecture="resnet8,width=4", normalisation=((0.3,), (0.4,)), data="digits",
        input_shape=(1, 8, 8),
    )  # fmt: skip
    # The page says `python tails.py tails ...`: this is what its last line calls.
    (words,) = re.findall(r"python tails\.py (.*)", text(MANUAL / "own-study.md"))
    words = words.replace("digits-resnet110", str(tmp_path / "net.pt"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        own.main(words.split())
    assert not stop.value.code
    assert "3 tails on 20 examples" in capsys.readouterr().out
    assert json.loads((tmp_path / "tails" / "results.json").read_text())["kind"] == "tails"
    said = set(re.findall(r"`(\S+\.(?:csv|json|npz|pdf|png))`", text(MANUAL / "own-study.md")))
    assert {file.name for file in (tmp_path / "tails").iterdir()} == said


def test_the_adapter_is_at_most_ten_lines_and_deletes_a_block():
    lines = code(MANUAL / "python.md", "adapter").splitlines()
    assert len([line for line in lines if line.strip()]) <= 10
    names: dict[str, object] = {}
    torch.manual_seed(0)
    exec(compile("\n".join(lines), "python.md", "exec"), names)
    net, chain = names["net"], names["chain"]
    torch.manual_seed(1)
    x = torch.randn(4, 8)
    with torch.no_grad():
        stem = net["stem"](x)
        first = stem + net["f0"](stem).relu()
        assert torch.allclose(chain(x), net["head"](first + net["f1"](first).relu()), atol=1e-6)
    full, without = names["full"], names["without_f1"]
    assert float((full - without).abs().max()) > 1e-3
    assert full.shape == without.shape == (4, 8)
