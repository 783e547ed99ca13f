"""The studies, one room each: the study itself, its result, its figure and its words.

A study is registered here, by its verb, with the kinds of result that it gives; it is imported when
it is needed.
"""

from __future__ import annotations

from ensemble_view.study.registry import Kind, register, register_results

_ROOMS = "ensemble_view.studies"

register(f"{_ROOMS}.lesion.study:LesionStudy", "lesion")
register(f"{_ROOMS}.random.study:RandomStudy", "random")
register(f"{_ROOMS}.reorder.study:ReorderStudy", "reorder")
register(f"{_ROOMS}.pairs.study:PairsStudy", "pairs")
register(f"{_ROOMS}.subsets.study:SubsetsStudy", "subsets")
register(f"{_ROOMS}.additivity.study:AdditivityStudy", "additivity")
register(f"{_ROOMS}.control.study:ControlStudy", "control")
register(f"{_ROOMS}.reaction.study:ReactionStudy", "reaction")
register(f"{_ROOMS}.dose.study:DoseStudy", "dose")

register_results(
    {
        "lesion": Kind(
            f"{_ROOMS}.lesion.result:LesionResult",
            f"{_ROOMS}.lesion.figure:lesion_figure",
        ),
        "language lesion": Kind(
            f"{_ROOMS}.lesion.language:LanguageResult",
            f"{_ROOMS}.lesion.figure:language_figure",
        ),
        "measured lesion": Kind(
            f"{_ROOMS}.lesion.own:MeasuredResult",
            f"{_ROOMS}.lesion.figure:own_figure",
        ),
        "random": Kind(
            f"{_ROOMS}.random.result:ManyResult",
            f"{_ROOMS}.random.figure:many_figure",
        ),
        "reorder": Kind(
            f"{_ROOMS}.reorder.result:ReorderResult",
            f"{_ROOMS}.reorder.figure:reorder_figure",
        ),
        "pairs": Kind(
            f"{_ROOMS}.pairs.result:PairsResult",
            f"{_ROOMS}.pairs.figure:pairs_figure",
        ),
        "subsets": Kind(
            f"{_ROOMS}.subsets.result:PowerSetResult",
            f"{_ROOMS}.subsets.figure:power_set_figure",
            f"{_ROOMS}.subsets.words",
        ),
        "additivity": Kind(
            f"{_ROOMS}.additivity.result:SurrogatesResult",
            f"{_ROOMS}.additivity.figure:surrogates_figure",
        ),
        "control": Kind(
            f"{_ROOMS}.control.result:ControlResult",
            f"{_ROOMS}.control.figure:controls_figure",
        ),
        "reaction": Kind(
            f"{_ROOMS}.reaction.result:ReactionResult",
            f"{_ROOMS}.reaction.figure:reaction_figure",
            f"{_ROOMS}.reaction.words",
        ),
        "dose": Kind(
            f"{_ROOMS}.dose.result:DoseResult",
            f"{_ROOMS}.dose.figure:dose_figure",
            f"{_ROOMS}.dose.words",
        ),
        "paths": Kind(
            f"{_ROOMS}.paths.result:PathCounts",
            f"{_ROOMS}.paths.figure:paths_figure",
        ),
        "gradients by path length": Kind(
            f"{_ROOMS}.gradients.result:GradientsByLength",
            f"{_ROOMS}.gradients.figure:gradients_figure",
            f"{_ROOMS}.gradients.words",
        ),
        "gradients by block": Kind(
            f"{_ROOMS}.gradients.blocks_result:GradientsByBlock",
            f"{_ROOMS}.gradients.blocks_figure:blocks_figure",
        ),
        "gradients by checkpoint": Kind(
            f"{_ROOMS}.gradients.checkpoints_result:GradientsByCheckpoint",
            f"{_ROOMS}.gradients.checkpoints_figure:checkpoints_figure",
        ),
    }
)
