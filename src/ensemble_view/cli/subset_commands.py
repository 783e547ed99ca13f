"""What lesion runs with --all, --pairs and --surrogates: studies of many subsets of blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ensemble_view.cli.ending import Study
from ensemble_view.data.data import Data
from ensemble_view.errors import InterventionError
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.studies.additivity.study import prepare_surrogates
from ensemble_view.studies.pairs.study import prepare_pairs
from ensemble_view.studies.subsets.study import prepare_power_set
from ensemble_view.study.result import StudyResult

__all__ = ["AllSubsets", "Only", "Pairs", "Surrogates", "subset_study"]

AllSubsets = Annotated[
    bool,
    typer.Option(
        "--all",
        help="Run all 2^n subnetworks of at most 16 blocks: Shapley values, and how additive the "
        "blocks are.",
        rich_help_panel="Study",
    ),
]
Pairs = Annotated[
    bool,
    typer.Option(
        "--pairs",
        help="Delete all pairs of blocks: which ones back each other up.",
        rich_help_panel="Study",
    ),
]
Surrogates = Annotated[
    bool,
    typer.Option(
        "--surrogates",
        help="Delete random sets: how much of what they do is additive, for any number of blocks.",
        rich_help_panel="Study",
    ),
]
Only = Annotated[
    str | None,
    typer.Option(
        help="With --all, --pairs, --surrogates or a control: these blocks alone; the others stay.",
        rich_help_panel="Study",
    ),
]

_PREPARE: dict[str, tuple[Any, str]] = {
    "--all": (prepare_power_set, "subnetworks"),
    "--pairs": (prepare_pairs, "pairs"),
    "--surrogates": (prepare_surrogates, "subsets"),
}


def subset_study(
    checkpoint: Checkpoint,
    opened: Data,
    switches: Mapping[str, bool],
    only: str | None,
    **options: Any,
) -> tuple[Study[StudyResult], str] | None:
    """Prepare the study of subsets that a command asks for.

    Args:
        checkpoint: The model.
        opened: The data.
        switches: Every switch of the command that chooses a study, and whether it was given.
        only: Of --only.
        **options: Of the study.

    Returns:
        The study and what its progress counts; None where none of these was asked for.

    Raises:
        InterventionError: If one is given with another switch, or --only without any.
    """
    given = [name for name, is_given in switches.items() if is_given]
    asked = [name for name in given if name in _PREPARE]
    if asked and len(given) > 1:
        raise InterventionError(
            f"{' and '.join(given)} were given, which are different studies; give one of them."
        )
    if not asked:
        if only is not None:
            raise InterventionError(
                f"--only chooses the blocks of {', '.join(_PREPARE)}; none of them was given. "
                "To delete a set of blocks, use --blocks."
            )
        return None
    prepare, unit = _PREPARE[asked[0]]
    return prepare(checkpoint, opened, only=only, **options), unit
