"""The runner of the analyses: which there are, and what each is called with."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import run

ANALYSES = Path(run.__file__).parent


@pytest.mark.parametrize("name", [*run.BUNDLED, *run.TRAINED])
def test_every_analysis_that_is_run_is_there_and_listed(name):
    assert callable(importlib.import_module(name).run)
    readme = (ANALYSES / "README.md").read_text()
    (row,) = (line for line in readme.splitlines() if f"| `python analyses/{name}.py" in line)
    if "| not measured" in row:
        # Then no table from another definition may be there either.
        assert not (ANALYSES / name / "summary.md").exists()
        return
    summary = (ANALYSES / name / "summary.md").read_text()
    assert f"python analyses/{name}.py" in summary
    # Every figure that the summary shows is there.
    for figure in re.findall(r"!\[.*?\]\((.*?)\)", summary):
        assert (ANALYSES / name / figure).is_file()


def test_every_analysis_that_trains_is_run():
    trains = {
        path.stem
        for path in ANALYSES.glob("*.py")
        if "scale_options(__doc__)" in path.read_text() and path.stem not in ("run", "trained_nets")
    }
    assert trains == set(run.TRAINED)


def test_options_of_the_scale_are_passed_on_and_those_of_the_runner_are_not():
    found = run.commands(["--seeds", "0", "1", "--only", "degradation", "single_lesions"])
    assert [(Path(command[0]).stem, command[1:]) for command in found] == [
        ("single_lesions", []),
        ("degradation", ["--seeds", "0", "1"]),
    ]
    everything = run.commands([])
    assert [Path(command[0]).stem for command in everything] == [*run.BUNDLED, *run.TRAINED]


def test_bundled_nets_belong_to_the_digits():
    found = run.commands(["--scale", "cifar10"])
    assert [Path(command[0]).stem for command in found] == list(run.TRAINED)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--only", "nothing"], "invalid choice: 'nothing'"),
        (["--scale", "imagenet"], "invalid choice: 'imagenet'"),
        (["--sed", "0"], "unrecognized arguments: --sed 0"),
    ],
)
def test_what_there_is_not_is_refused(words, said):
    refused = subprocess.run(
        [sys.executable, "-m", "analyses.run", *words],
        cwd=ANALYSES.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 2
    assert said in refused.stderr
