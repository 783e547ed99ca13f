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
            caption="Test error after each deletion; bars are simultaneous confidence "
            "intervals of the paired drop, around the full net's error.",
        ),
        "language lesion": Kind(
            f"{_ROOMS}.lesion.language:LanguageResult",
            f"{_ROOMS}.lesion.figure:language_figure",
            caption="Perplexity after each deletion; bars are simultaneous confidence "
            "intervals of the paired ratio, around the full net's perplexity.",
        ),
        "measured lesion": Kind(
            f"{_ROOMS}.lesion.own:MeasuredResult",
            f"{_ROOMS}.lesion.figure:own_figure",
            caption="The measure after each deletion; bars are simultaneous confidence "
            "intervals of the paired change, around the full net's mean.",
        ),
        "random": Kind(
            f"{_ROOMS}.random.result:ManyResult",
            f"{_ROOMS}.random.figure:many_figure",
            caption="Error by number of deleted blocks; boxes hold the middle half of the "
            "trials, whiskers reach to the extremes, points are means over all sets "
            "with their confidence intervals over trials and examples, and the "
            "dashed line is what the additive law predicts from single deletions.",
        ),
        "reorder": Kind(
            f"{_ROOMS}.reorder.result:ReorderResult",
            f"{_ROOMS}.reorder.figure:reorder_figure",
            caption="Error by Kendall's tau of the blocks' order; small points are trials, "
            "large ones means of bins with their confidence intervals over trials "
            "and examples.",
        ),
        "pairs": Kind(
            f"{_ROOMS}.pairs.result:PairsResult",
            f"{_ROOMS}.pairs.figure:pairs_figure",
            caption="Joint drops of pairs of deleted blocks (below the diagonal, single "
            "deletions on it) and their interactions (above it); dots mark "
            "interactions that differ from zero after Holm's correction, lines the "
            "ends of stages.",
        ),
        "subsets": Kind(
            f"{_ROOMS}.subsets.result:PowerSetResult",
            f"{_ROOMS}.subsets.figure:power_set_figure",
            f"{_ROOMS}.subsets.words",
            caption="Subnetworks by how many blocks they keep, the spectrum of their "
            "variance, and what each block is worth; bars are confidence intervals "
            "over the examples.",
        ),
        "additivity": Kind(
            f"{_ROOMS}.additivity.result:SurrogatesResult",
            f"{_ROOMS}.additivity.figure:surrogates_figure",
            caption="Shares of the variance over random subnetworks by order; bars are "
            "confidence intervals over subsets.",
        ),
        "control": Kind(
            f"{_ROOMS}.control.result:ControlResult",
            f"{_ROOMS}.control.figure:controls_figure",
            caption="Drops by deletion and under the control, side by side; bars are "
            "confidence intervals of each drop by itself.",
        ),
        "reaction": Kind(
            f"{_ROOMS}.reaction.result:ReactionResult",
            f"{_ROOMS}.reaction.figure:reaction_figure",
            f"{_ROOMS}.reaction.words",
            caption="Reaction of later blocks to each deletion, with its nulls; bars are "
            "confidence intervals over the examples.",
        ),
        "dose": Kind(
            f"{_ROOMS}.dose.result:DoseResult",
            f"{_ROOMS}.dose.figure:dose_figure",
            f"{_ROOMS}.dose.words",
            caption="What is measured by what branches are multiplied by, and deletions "
            "beside the nulls; bars are confidence intervals over the examples.",
        ),
        "paths": Kind(
            f"{_ROOMS}.paths.result:PathCounts",
            f"{_ROOMS}.paths.figure:paths_figure",
            caption="Exact numbers of paths by length, and the shares that survive deletions.",
        ),
        "gradients by path length": Kind(
            f"{_ROOMS}.gradients.result:GradientsByLength",
            f"{_ROOMS}.gradients.figure:gradients_figure",
            f"{_ROOMS}.gradients.words",
            caption="Gradient by path length: its size (left) and the share of each "
            "weighting (right); bars above span the smallest interval of lengths "
            "with 95 % of the weight.",
        ),
        "gradients by block": Kind(
            f"{_ROOMS}.gradients.blocks_result:GradientsByBlock",
            f"{_ROOMS}.gradients.blocks_figure:blocks_figure",
            caption="Gradient through branches and shortcuts, size and direction of "
            "branches; bars are confidence intervals over the examples.",
        ),
        "gradients by checkpoint": Kind(
            f"{_ROOMS}.gradients.checkpoints_result:GradientsByCheckpoint",
            f"{_ROOMS}.gradients.checkpoints_figure:checkpoints_figure",
            caption="Mean path length and its smallest 95 % interval at each checkpoint of "
            "a training run.",
        ),
    }
)
