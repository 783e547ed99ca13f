"""Figures of results, ready for print; they draw what a result says and compute nothing of it."""

from __future__ import annotations

from ensemble_view.figures.controls import controls_figure
from ensemble_view.figures.lesions import comparison_figure, lesion_figure, measured_figure
from ensemble_view.figures.pairs import pairs_figure
from ensemble_view.figures.paths import (
    blocks_figure,
    checkpoints_figure,
    gradients_figure,
    paths_figure,
)
from ensemble_view.figures.power_set import power_set_figure
from ensemble_view.figures.style import COLUMN_WIDTH, FULL_WIDTH, paper_style, save_figure
from ensemble_view.figures.surrogates import surrogates_figure
from ensemble_view.figures.trials import many_figure, reorder_figure

__all__ = [
    "COLUMN_WIDTH",
    "FULL_WIDTH",
    "blocks_figure",
    "checkpoints_figure",
    "comparison_figure",
    "controls_figure",
    "gradients_figure",
    "lesion_figure",
    "many_figure",
    "measured_figure",
    "pairs_figure",
    "paper_style",
    "paths_figure",
    "power_set_figure",
    "reorder_figure",
    "save_figure",
    "surrogates_figure",
]
