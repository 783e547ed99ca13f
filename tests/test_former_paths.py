"""Modules that have moved can be imported by their former names, in a process of their own."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import ensemble_view
from ensemble_view.former_paths import FORMER

NAMES = {
    "models": "build",
    "datasets": "open_data",
    "results": "LesionResult",
    "bundled": "bundled",
    "interventions": "Delete",
    "checkpoints": "load_checkpoint",
    "hooks": "edited",
    "engine": "Engine",
    "plan": "Trie",
}


SCRIPT = """
import importlib, warnings
for module, name in {names}.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        former = importlib.import_module(f"ensemble_view.{{module}}")
    said = [str(each.message) for each in caught if each.category is DeprecationWarning]
    assert any(each.startswith(f"ensemble_view.{{module}} is now ") for each in said), said
    found = getattr(former, name)
    print(module, found.__module__, found.__qualname__)
"""


def test_a_former_name_is_what_it_is_called_now():
    script = SCRIPT.format(names=NAMES)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == list(NAMES)
    for _, where, called in lines:
        assert getattr(importlib.import_module(where), called).__name__ == called


def test_everything_that_has_moved_is_there_now():
    for modules in FORMER.values():
        for each in modules:
            importlib.import_module(f"{ensemble_view.__name__}.{each}".rstrip("."))


def test_modules_below_a_package_that_moved_are_found_as_well():
    with pytest.warns(DeprecationWarning, match=r"is now ensemble_view\.nets\.models\.resnet;"):
        found = importlib.import_module("ensemble_view.models.resnet")
    assert found.ResNet is importlib.import_module("ensemble_view.nets.models.resnet").ResNet


def test_what_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError, match="nothing_of_the_kind"):
        importlib.import_module("ensemble_view.nothing_of_the_kind")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("ensemble_view.models.nothing_of_the_kind")
