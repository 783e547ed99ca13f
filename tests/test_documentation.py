"""What README and manual show runs as it stands there, and what they point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import typer

from ensemble_view.cli.application import app
from ensemble_view.study.registry import names

ROOT = Path(__file__).resolve().parents[1]
MANUAL = ROOT / "src" / "ensemble_view" / "manual"
PAGES = [ROOT / "README.md", ROOT / "analyses" / "README.md", *sorted(MANUAL.glob("*.md"))]


def code(page: Path, mark: str) -> str:
    """The block of code under a comment on a page."""
    text = page.read_text(encoding="utf-8")
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"{page.name} marks no code as {mark!r}"
    return found[1]


def test_the_readme_is_short():
    assert len(PAGES[0].read_text(encoding="utf-8").splitlines()) <= 140


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_points_to_a_file(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if not re.match(r"https?:|#", link):
            assert (page.parent / link.partition("#")[0]).exists(), link


def written_commands() -> list[tuple[str, str]]:
    """Every command line that a page shows, with the page's name."""
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            for command in re.findall(r"ensemble-view ([a-z]+ [^`|#]*|[a-z]+)", line):
                found.append((page.name, command.strip()))
    return found


@pytest.mark.parametrize(("page", "command"), written_commands())
def test_every_command_that_is_shown_is_there_with_its_options(page, command):
    if page == "changes.md":
        return  # It shows what there was before.
    group = typer.main.get_command(app)
    context = typer.Context(group)
    verb, *words = re.sub(r'"[^"]*"', "X", command).split()
    assert verb in group.list_commands(context), f"{page} shows {verb}"
    known = {
        option
        for parameter in group.get_command(context, verb).params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    options = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert options <= known | {"--help"}, f"{page} shows {command}"


def test_every_study_is_in_the_table_of_the_readme():
    text = PAGES[0].read_text(encoding="utf-8")
    for verb in names():
        assert f"ensemble-view {verb} " in text, verb


def test_the_adapter_is_at_most_ten_lines_and_deletes_a_block():
    lines = code(MANUAL / "python.md", "adapter").splitlines()
    assert len([line for line in lines if line.strip()]) <= 10
    names: dict[str, object] = {}
    torch.manual_seed(0)
    exec(compile("\n".join(lines), "README.md", "exec"), names)
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
