"""Named recipes: from a model and data to a typed result. The command line calls these."""

from __future__ import annotations

from ensemble_view.studies.block_gradients import (
    BlockGradientStudy,
    gradients_by_block,
    prepare_block_gradients,
)
from ensemble_view.studies.exporting import Exported, export
from ensemble_view.studies.lesions import LesionStudy, lesion, prepare_lesions
from ensemble_view.studies.many import ManyStudy, many, prepare_many
from ensemble_view.studies.path_checkpoints import gradients_by_checkpoint
from ensemble_view.studies.path_gradients import (
    GradientStudy,
    gradients_by_length,
    prepare_gradients,
)
from ensemble_view.studies.reorder import ReorderStudy, prepare_reorder, reorder

__all__ = [
    "BlockGradientStudy",
    "Exported",
    "GradientStudy",
    "LesionStudy",
    "ManyStudy",
    "ReorderStudy",
    "export",
    "gradients_by_block",
    "gradients_by_checkpoint",
    "gradients_by_length",
    "lesion",
    "many",
    "prepare_block_gradients",
    "prepare_gradients",
    "prepare_lesions",
    "prepare_many",
    "prepare_reorder",
    "reorder",
]
