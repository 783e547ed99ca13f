"""Named recipes: from a model and data to a typed result. The command line calls these."""

from __future__ import annotations

from ensemble_view.studies.exporting import Exported, export
from ensemble_view.studies.lesions import LesionStudy, lesion, prepare_lesions
from ensemble_view.studies.path_gradients import (
    GradientStudy,
    gradients_by_length,
    prepare_gradients,
)

__all__ = [
    "Exported",
    "GradientStudy",
    "LesionStudy",
    "export",
    "gradients_by_length",
    "lesion",
    "prepare_gradients",
    "prepare_lesions",
]
