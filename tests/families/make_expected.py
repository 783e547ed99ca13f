"""Write the table of expected residual blocks, from rules read in the libraries' sources.

Run it as ``python tests/families/make_expected.py`` (it needs the extras timm and transformers). It
builds every model without memory for its weights, walks its modules with the rules of
``residual_rules.py``, and counts. It neither runs a model nor imports this project's package.
"""

from __future__ import annotations

import csv
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torchvision
from drawn_models import (
    TIMM,
    TRANSFORMERS,
    input_shape,
    skeleton,
    smallest,
    torchvision_names,
)
from residual_rules import RULES, Rule
from torch import nn

__all__ = ["Sum", "compress", "expand", "main", "owner_group", "sums"]

TABLE = Path(__file__).with_name("expected.csv")
COUNTED = ("identity", "projection", "zero-pad", "pooling", "scaling")
COLUMNS = (
    "family",
    "module_file",
    "model",
    "input",
    "branch_blocks",
    "block_blocks",
    *COUNTED,
    "owners",
    "block_owners",
    "verdict",
    "confidence",
    "note",
)

REFUSED = {
    ("timm", "hrnet"): "parallel resolutions, fused again and again: several streams",
    ("timm", "tnt"): "a pixel stream and a patch stream side by side",
    ("timm", "crossvit"): "two patch sizes side by side, exchanging class tokens",
    ("timm", "coat"): "parallel blocks carry three scales side by side",
    ("timm", "efficientvim"): "every stage's hidden state goes to a head of its own",
    ("transformers", "t5"): "encoder-decoder: every decoder layer reads the encoder's output",
    ("transformers", "whisper"): "encoder-decoder: every decoder layer reads the encoder's output",
}
UNSURE = {
    (
        "torchvision",
        "maxvit",
    ): "as blocks, window and grid attention count apart: one class",
    ("timm", "cait"): "the head drops those tokens, so the last mlp does decide the output alone",
    ("timm", "edgenext"): "as blocks, a stage's two units are one: neither has a sibling by class",
    ("timm", "efficientvim"): "the blocks before the first exit do lie on the trunk",
    ("timm", "volo"): "the auxiliary head's sum of linear and max is taken as a head, not a block",
}


@dataclass(frozen=True)
class Sum:
    """One residual addition: the module in whose ``forward`` it stands, and its shortcut."""

    owner: str
    kind: str


def _rule_of(module: nn.Module) -> tuple[str, Rule] | None:
    for cls in type(module).__mro__:
        name = f"{cls.__module__}.{cls.__qualname__}"
        if name in RULES:
            return name, RULES[name]
        if "forward" in vars(cls):
            return None  # an inherited rule would speak of another forward
    return None


def _join(path: str, child: str) -> str:
    return f"{path}.{child}" if path else child


def sums(module: nn.Module, path: str = "", met: Counter[str] | None = None) -> Iterator[Sum]:
    """Yield the residual additions on a module's trunk; count in ``met`` the rules used."""
    found = _rule_of(module)
    if found is None:
        for name, child in module.named_children():
            yield from sums(child, _join(path, name), met)
        return
    name, rule = found
    if met is not None:
        met[name] += 1
    for step in rule.steps(module):
        kind, _, child = step.partition("@")
        if kind:
            yield Sum(_join(path, child) if child else path, kind)
        else:
            yield from sums(module.get_submodule(child), _join(path, child), met)


def owner_group(model: nn.Module, owner: str) -> str:
    """The innermost list element with a sibling of its class around an owner, else the owner."""
    parts = owner.split(".")
    for end in range(len(parts), 0, -1):
        path, parent = ".".join(parts[:end]), model.get_submodule(".".join(parts[: end - 1]))
        if not isinstance(parent, nn.Sequential | nn.ModuleList):
            continue
        element = model.get_submodule(path)
        if sum(type(child) is type(element) for child in parent.children()) > 1:
            return path
    return owner


def compress(paths: Iterable[str]) -> str:
    """Write module paths short: ``layers.{0..3}.mlp`` for a run of one number, ``*2`` for twice."""
    lines: list[tuple[str, int]] = []
    counted = Counter(paths)
    while counted:
        first, times = next(iter(counted.items()))
        best = [first]
        for number in re.finditer(r"\d+", first):
            head, tail = first[: number.start()], first[number.end() :]
            run = [first]
            for value in itertools.count(int(number.group()) + 1):
                following = f"{head}{value}{tail}"
                if counted.get(following) != times:
                    break
                run.append(following)
            if len(run) > len(best):
                best = run
                text = f"{head}{{{number.group()}..{int(number.group()) + len(run) - 1}}}{tail}"
        lines.append((text if len(best) > 1 else first, times))
        for path in best:
            del counted[path]
    return ";".join(line if times == 1 else f"{line}*{times}" for line, times in lines)


def expand(text: str) -> list[str]:
    """Undo ``compress``: every path, sorted, as often as it was counted."""
    paths: list[str] = []
    for line in filter(None, text.split(";")):
        name, _, times = line.partition("*")
        run = re.search(r"\{(\d+)\.\.(\d+)\}", name)
        values = range(int(run[1]), int(run[2]) + 1) if run else [0]
        made = [name[: run.start()] + str(v) + name[run.end() :] if run else name for v in values]
        paths += made * int(times or 1)
    return sorted(paths)


def _row(family: str, file: str, name: str, taken: str) -> dict[str, object]:
    model = skeleton(family, name)
    met: Counter[str] = Counter()
    found = list(sums(model, met=met))
    refusal = REFUSED.get((family, file if family == "timm" else name))
    if refusal:
        found = []
    groups = [group for group, _ in itertools.groupby(owner_group(model, s.owner) for s in found)]
    kinds = Counter(s.kind for s in found)
    note = refusal or "; ".join(
        f"{rule.rpartition('.')[2]} x{times}: {RULES[rule].why}" for rule, times in met.items()
    )
    note = note or "no forward adds a shortcut"
    doubt = UNSURE.get((family, file))
    if doubt:
        note += f" ({doubt})"
    unsure = doubt is not None or any(RULES[rule].unsure for rule in met)
    return {
        "family": family,
        "module_file": file,
        "model": name,
        "input": taken,
        "branch_blocks": len(found),
        "block_blocks": len(groups),
        **{kind: kinds[kind] for kind in COUNTED},
        "owners": compress(s.owner for s in found),
        "block_owners": compress(groups),
        "verdict": "refused" if refusal else "blocks" if found else "none",
        "confidence": "low" if unsure else "high",
        "note": note,
    }


def _image(family: str, name: str) -> str:
    return "x".join(map(str, input_shape(family, name)))


def rows() -> Iterator[dict[str, object]]:
    """Yield the table's rows: all of torchvision, transformers by configuration, timm by file."""
    for name in torchvision_names():
        file = torchvision.models.get_model_builder(name).__module__.rpartition(".")[2]
        yield _row("torchvision", file, name, _image("torchvision", name))
    for name, small in TRANSFORMERS.items():
        file = re.split(r"-", name)[0]
        yield _row("transformers", file, name, small.takes)
    for file, names in TIMM.items():
        for name in names:
            yield _row("timm", file, name, _image("timm", name))


def main(arguments: list[str]) -> None:
    """Write the table, or with ``--draw`` say where timm's smallest models are others now."""
    if arguments == ["--draw"]:
        for file, names in TIMM.items():
            if (drawn := smallest(file)) != names:
                print(f"{file}: the table has {names}, the library says {drawn}")
        return
    with TABLE.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows())


if __name__ == "__main__":
    main(sys.argv[1:])
