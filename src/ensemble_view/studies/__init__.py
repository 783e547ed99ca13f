"""Named recipes: from a model and data to a typed result. The command line calls these."""

from __future__ import annotations

from ensemble_view.studies.lesions import LesionStudy, lesion, prepare_lesions
from ensemble_view.studies.many import ManyStudy, many, prepare_many
from ensemble_view.studies.path_gradients import (
    GradientStudy,
    gradients_by_length,
    prepare_gradients,
)
from ensemble_view.studies.reorder import ReorderStudy, prepare_reorder, reorder

__all__ = [
    "GradientStudy",
    "LesionStudy",
    "ManyStudy",
    "ReorderStudy",
    "gradients_by_length",
    "lesion",
    "many",
    "prepare_gradients",
    "prepare_lesions",
    "prepare_many",
    "prepare_reorder",
    "reorder",
]
