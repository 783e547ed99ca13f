"""Named recipes: from a model and data to a typed result. The command line calls these."""

from __future__ import annotations

from ensemble_view.studies.lesions import LesionStudy, lesion, prepare_lesions

__all__ = ["LesionStudy", "lesion", "prepare_lesions"]
