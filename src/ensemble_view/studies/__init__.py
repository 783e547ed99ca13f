"""The studies, one room each: the study itself, its result, its figure and its words.

A study is registered here, by its verb, with the kinds of result that it gives; it is imported when
it is needed.
"""

from __future__ import annotations

from ensemble_view.study.registry import register, register_results

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
        "lesion": f"{_ROOMS}.lesion.result:LesionResult",
        "language lesion": f"{_ROOMS}.lesion.language:LanguageResult",
        "measured lesion": f"{_ROOMS}.lesion.own:MeasuredResult",
        "many deletions": f"{_ROOMS}.random.result:ManyResult",
        "reorderings": f"{_ROOMS}.reorder.result:ReorderResult",
        "pairs": f"{_ROOMS}.pairs.result:PairsResult",
        "power set": f"{_ROOMS}.subsets.result:PowerSetResult",
        "surrogates": f"{_ROOMS}.additivity.result:SurrogatesResult",
        "control": f"{_ROOMS}.control.result:ControlResult",
        "reaction": f"{_ROOMS}.reaction.result:ReactionResult",
        "dose and response": f"{_ROOMS}.dose.result:DoseResult",
        "paths": f"{_ROOMS}.paths.result:PathCounts",
        "gradients by path length": f"{_ROOMS}.gradients.result:GradientsByLength",
        "gradients by block": f"{_ROOMS}.gradients.blocks_result:GradientsByBlock",
        "gradients by checkpoint": f"{_ROOMS}.gradients.checkpoints_result:GradientsByCheckpoint",
    }
)
