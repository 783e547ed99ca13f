"""The analysis of degradation, in miniature: it goes on where it stopped, and its intervals."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble_view.errors import EnsembleViewError

FILE = Path(__file__).resolve().parents[1] / "analyses" / "degradation.py"


@pytest.fixture(scope="module")
def analysis():
    specification = importlib.util.spec_from_file_location("degradation", FILE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_miniature_goes_on_where_it_stopped(analysis, tmp_path, monkeypatch):
    recipe = replace(analysis.RECIPE, epochs=2)
    small = {"recipe": recipe, "limit": 64}
    whole = analysis.run(tmp_path / "whole", depths=(8,), seeds=(0, 1), **small)
    analysis.run(tmp_path / "parts", depths=(8,), seeds=(0,), **small)
    runs = []
    train = analysis.train
    monkeypatch.setattr(analysis, "train", lambda *a, **k: (runs.append(a[0]), train(*a, **k))[1])
    parts = analysis.run(tmp_path / "parts", depths=(8,), seeds=(0, 1), **small)
    assert runs == ["plain8", "resnet8", "resnet8v2"]
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "whole" / "epochs.csv"),
        pd.read_csv(tmp_path / "parts" / "epochs.csv"),
    )
    assert len(whole) == len(parts) == 3 * 2 * 2
    assert parts["step"].tolist() == [1, 2] * 6
    for name in ("errors.csv", "convergence.csv", "summary.md", "degradation.pdf"):
        assert (tmp_path / "parts" / name).stat().st_size > 100
    with pytest.raises(EnsembleViewError, match=r"trained otherwise, as settings\.json says"):
        analysis.run(tmp_path / "parts", depths=(8,), seeds=(0,), recipe=recipe, limit=65)


def test_intervals_are_students_over_the_seeds(analysis):
    rows = [
        {"kind": kind, "depth": 8, "seed": seed, "step": step, "loss": 1.0,
         "training_error": np.nan if step < 3 else error / 2, "test_error": error + 1 / step}
        for kind, errors in (
            ("plain", (0.1, 0.2, 0.3)), ("version 1", (0.0, 0.2, 0.1)), ("version 2", (0, 0, 0))
        )
        for seed, error in enumerate(errors)
        for step in (1, 2, 3)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    plain = analysis.by_depth(table).set_index("kind").loc["plain"]
    assert plain["training_error"] == pytest.approx(0.1)
    # t with two degrees of freedom at 97.5 %: 4.3027; standard deviation 0.05.
    half = 4.302653 * 0.05 / 3**0.5
    assert plain["training_error_high"] - plain["training_error"] == pytest.approx(half, rel=1e-5)
    assert plain["test_error"] == pytest.approx(0.2 + 1 / 3)
    pair = analysis.early(table).iloc[0]
    assert (pair["first"], pair["second"]) == ("plain", "version 1")
    assert pair["difference"] == pytest.approx(0.1)
    assert pair["high"] - pair["difference"] == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)
