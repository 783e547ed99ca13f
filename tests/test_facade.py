"""The package's own names: imported when they are first used, and known to type checkers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ensemble_view

SOURCE = Path(ensemble_view.__file__).read_text(encoding="utf-8")


def imported_for_type_checkers() -> dict[str, str]:
    """From each name to the module that the facade says it is from."""
    (block,) = (
        node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.If)
        and node.orelse == []
        and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    return {
        alias.name: str(node.module).removeprefix("ensemble_view.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_names_are_the_same_at_run_time_and_for_type_checkers():
    assert imported_for_type_checkers() == ensemble_view._MODULE_OF
    assert sorted(ensemble_view._MODULE_OF) == sorted(ensemble_view.__all__)


@pytest.mark.parametrize("name", ensemble_view.__all__)
def test_every_name_is_there(name):
    assert getattr(ensemble_view, name) is not None
    assert name in dir(ensemble_view)


def test_modules_are_there_without_an_import_of_their_own():
    assert ensemble_view.core.plan.bind is not None


def test_a_name_that_is_not_there_is_said():
    with pytest.raises(AttributeError, match="module 'ensemble_view' has no attribute 'lession'"):
        ensemble_view.lession


def test_importing_the_package_imports_no_heavy_library():
    heavy = "{'torch', 'numpy', 'pandas', 'scipy', 'seaborn', 'matplotlib', 'torchvision'}"
    code = f"import ensemble_view, sys; print(sorted({heavy} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
