"""What the README shows runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import torch

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")


def code(mark: str) -> str:
    """The block of code under a comment in the README."""
    found = re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert found is not None, f"the README marks no code as {mark!r}"
    return found[1]


def test_the_adapter_is_at_most_ten_lines_and_deletes_a_block():
    lines = code("adapter").splitlines()
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
