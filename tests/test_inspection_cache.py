"""An architecture that was looked at prints at once; anything that its blocks follow from tells."""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.module import register_module_forward_pre_hook

from cases import images, small
from ensemble_view import inspect, unravel
from ensemble_view.cli.application import main
from ensemble_view.data.opening import default_root
from ensemble_view.nets.models.building import build
from ensemble_view.studies.inspect.cache import architecture_key, cached_inspection

SOURCE = """
import torch
from helping import gain

class Layer(torch.nn.Module):
    def __init__(self, width=4, scale=1.0):
        super().__init__()
        self.linear, self.scale = torch.nn.Linear(width, width), scale

    def forward(self, x):
        return x + gain(self.linear(x)) * self.scale

def net(count=2, **settings):
    return torch.nn.Sequential(*(Layer(**settings) for _ in range(count)))
"""
HELPING = "def gain(x):\n    return x.tanh()\n"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "ensemble_view"
    return tmp_path / "ensemble_view" / "inspections"


def user_net(folder: Path, source: str = SOURCE, helping: str = HELPING, **settings) -> nn.Module:
    """A net from a user's files, imported as in a process of its own."""
    folder.mkdir(exist_ok=True)
    for name, text in (("helping", helping), ("written", source)):
        (folder / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    try:
        return importlib.import_module("written").net(**settings)
    finally:
        sys.dont_write_bytecode = before
        sys.path.remove(str(folder))


def key(model: nn.Module, example=None, *, plain=False, granularity="block") -> str | None:
    example = torch.zeros(2, 4) if example is None else example
    return architecture_key(model, example, plain=plain, granularity=granularity)


def test_weights_and_values_do_not_tell_and_everything_else_does(tmp_path):
    first = key(user_net(tmp_path))
    assert first is not None
    # Other weights, the same code read again, evaluation mode, other values of the example.
    assert key(user_net(tmp_path).eval(), torch.ones(2, 4)) == first
    wider = torch.zeros(2, 5)
    others = [
        key(user_net(tmp_path, count=3)),
        key(user_net(tmp_path, scale=0.5)),
        key(user_net(tmp_path, width=5), wider),
        key(user_net(tmp_path).double()),
        key(user_net(tmp_path), torch.zeros(3, 4)),
        key(user_net(tmp_path), torch.zeros(2, 4, dtype=torch.float64)),
        key(user_net(tmp_path), (torch.zeros(2, 4),)),
        key(user_net(tmp_path), {"x": torch.zeros(2, 4)}),
        key(user_net(tmp_path), plain=True),
        key(user_net(tmp_path), granularity="branch"),
        key(user_net(tmp_path, SOURCE.replace("x + gain", "x - gain"))),
        key(user_net(tmp_path, helping=HELPING.replace("tanh", "relu"))),
    ]
    tied = user_net(tmp_path)
    tied[1].linear.weight = tied[0].linear.weight
    others.append(key(tied))
    hooked = user_net(tmp_path)
    hooked[0].register_forward_hook(lambda module, args, output: output * 2)
    others.append(key(hooked))
    assert len({first, *others}) == len(others) + 1


def test_numbers_that_differ_between_processes_do_not_tell(tmp_path):
    model = user_net(tmp_path)

    def configured(value):
        model.configuration = types.SimpleNamespace(width=3, _original_hash=value)
        return key(model)

    assert configured(2**50) == configured(-(2**60)) != configured(12)


def test_code_that_is_in_no_file_is_not_cached(cache):
    names: dict[str, type] = {"nn": nn, "__name__": "typed_in"}
    exec("class Typed(nn.ReLU):\n    def forward(self, x):\n        return x + 1\n", names)
    assert key(names["Typed"]()) is None
    looked = []
    chain = unravel(small(), images())
    for _ in range(2):
        cached_inspection(
            names["Typed"](), torch.ones(1), lambda: looked.append(1) or inspect(chain)
        )
    assert len(looked) == 2
    assert not cache.exists()


def same(first, second) -> None:
    assert repr(first) == repr(second)
    assert first.explain() == second.explain()
    assert first.to_json() == second.to_json()
    pd.testing.assert_frame_equal(first.frame, second.frame)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: text.replace('"name"', '"nome"'),
        lambda text: json.dumps({**json.loads(text), "frame": 3}),
        lambda text: json.dumps({**json.loads(text), "unknown": 3}),
    ],
)
def test_the_second_time_nothing_is_looked_at_and_damage_is_repaired(cache, damage):
    model, looked = small(), []

    def look():
        looked.append(1)
        return inspect(unravel(model, images()))

    first = cached_inspection(model, images(), look)
    same(cached_inspection(model, images(), look), first)
    assert len(looked) == 1
    (file,) = cache.iterdir()
    kept = file.read_text(encoding="utf-8")
    file.write_text(damage(kept), encoding="utf-8")
    same(cached_inspection(model, images(), look), first)
    assert len(looked) == 2
    assert file.read_text(encoding="utf-8") == kept
    cached_inspection(model, images(), look, fresh=True)
    assert len(looked) == 3
    assert list(cache.iterdir()) == [file]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    model = small()
    found = cached_inspection(model, images(), lambda: inspect(unravel(model, images())))
    assert len(found.frame) == 3


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


def test_inspect_prints_the_same_from_the_cache_and_looks_anew_when_asked(
    cache, tmp_path, capsys, monkeypatch
):
    torch.manual_seed(0)
    for name in ("first", "second"):
        torch.save(build("resnet8").state_dict(), tmp_path / f"{name}.pt")
    words = ("--arch", "cifar:resnet8", "--explain")
    assert run("inspect", tmp_path / "first.pt", *words) == 0
    printed = capsys.readouterr()
    assert printed.err == ""

    def unexpected(*args: object, **kwargs: object) -> None:
        raise AssertionError("looked again")

    with monkeypatch.context() as patch:
        patch.setattr("ensemble_view.unravel", unexpected)
        assert run("inspect", tmp_path / "second.pt", *words) == 0
        assert capsys.readouterr().out == printed.out
        for option in ("--fresh", "--no-cache"):
            with pytest.raises(AssertionError, match="looked again"):
                main(["inspect", str(tmp_path / "second.pt"), *words, option])


def test_a_terminal_shows_the_stages(cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    torch.manual_seed(0)
    torch.save(build("resnet8").state_dict(), tmp_path / "net.pt")
    assert run("inspect", tmp_path / "net.pt", "--arch", "cifar:resnet8") == 0
    shown = capsys.readouterr().err
    told = ("load", "run the model", "export", "find the blocks", "cut the chain", "prove", "count")
    for stage in told:
        assert stage in shown


def test_unravel_tells_its_stages_in_order():
    told: list[str] = []
    unravel(small(), images(), progress=told.append)
    assert [stage.split()[0] for stage in told] == ["run", "export", "find", "cut", "prove"]


def test_a_first_look_runs_the_model_and_the_blocks_no_oftener_than_it_must(
    cache, tmp_path, monkeypatch
):
    torch.save(build("resnet8").state_dict(), tmp_path / "net.pt")
    calls: dict[int, list[tuple[str, int]]] = {}

    def note(module: nn.Module, args: tuple[Any, ...]) -> None:
        if args and isinstance(args[0], torch.Tensor):
            traced = "traced" if isinstance(args[0], FakeTensor) else "run"
            calls.setdefault(id(module), []).append((traced, len(args[0])))
            kept[id(module)] = module

    kept: dict[int, nn.Module] = {}
    hashed = []
    monkeypatch.setattr("ensemble_view.nets.checkpoints.weights_hash", hashed.append)
    handle = register_module_forward_pre_hook(note)
    try:
        assert run("inspect", tmp_path / "net.pt", "--arch", "cifar:resnet8") == 0
    finally:
        handle.remove()
    models = [
        calls[number] for number, module in kept.items() if type(module) is type(build("resnet8"))
    ]
    # Twice on the example, which tells noise; for the export; and on the second batch.
    assert models == [[("run", 1), ("run", 1), ("traced", 3), ("run", 2)]]
    parts = [
        sum(rows for traced, rows in calls[number] if traced == "run")
        for number, module in kept.items()
        if isinstance(module, fx.GraphModule)
    ]
    # Each part of a block: the two batches of the proof and the count of operations; what is left
    # when all branches are cut, once more.
    assert max(parts) == 5
    assert hashed == []
