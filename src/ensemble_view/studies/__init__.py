"""The studies, one room each: the study itself, its result, its figure and its words.

A study is registered here in one line, by its verb, and imported when it is needed.
"""

from __future__ import annotations

from ensemble_view.study.registry import register

register("ensemble_view.studies.lesion.study:LesionStudy", "lesion")
register("ensemble_view.studies.random.study:RandomStudy", "random")
register("ensemble_view.studies.reorder.study:ReorderStudy", "reorder")
register("ensemble_view.studies.pairs.study:PairsStudy", "pairs")
register("ensemble_view.studies.subsets.study:SubsetsStudy", "subsets")
register("ensemble_view.studies.additivity.study:AdditivityStudy", "additivity")
register("ensemble_view.studies.control.study:ControlStudy", "control")
register("ensemble_view.studies.reaction.study:ReactionStudy", "reaction")
register("ensemble_view.studies.dose.study:DoseStudy", "dose")
