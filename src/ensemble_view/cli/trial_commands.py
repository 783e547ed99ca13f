"""The commands of random trials: many deletions at once (of ``lesion``), and reorderings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ensemble_view.cli.ending import Study, finish
from ensemble_view.cli.groups import BlockOptions, DataOptions, ModelOptions, with_groups
from ensemble_view.cli.opening import command_line, load, open_named
from ensemble_view.cli.options import BatchSize, Json, Model, Overwrite, Seed
from ensemble_view.errors import InterventionError
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.studies.random.result import ManyResult
from ensemble_view.studies.random.study import prepare_many
from ensemble_view.studies.reorder.study import prepare_reorder
from ensemble_view.study.experiment import Options
from ensemble_view.study.folders import prepare

__all__ = ["Count", "ShapeKeeping", "Stratified", "Trials", "random_lesions", "reorder"]

_TRIALS = 50

Count = Annotated[
    str | None,
    typer.Option(
        help="Delete so many random blocks at once instead: 1-20, 1,2,5.",
        rich_help_panel="Study",
    ),
]
Trials = Annotated[
    int | None,
    typer.Option(
        help="Random draws per number. Default: 50; all, where there are no more.",
        rich_help_panel="Study",
    ),
]
ShapeKeeping = Annotated[
    bool,
    typer.Option(
        "--shape-keeping",
        help="With --count: draw only blocks that keep the shape.",
        rich_help_panel="Study",
    ),
]
Stratified = Annotated[
    bool,
    typer.Option(
        "--stratified",
        help="With --count: share the deletions out evenly over the stages.",
        rich_help_panel="Study",
    ),
]


def random_lesions(
    checkpoint: Checkpoint,
    data: Any,
    options: Options,
    *,
    count: str | None,
    trials: int | None,
    shape_keeping: bool,
    stratified: bool,
    others: Mapping[str, object],
) -> Study[ManyResult] | None:
    """Prepare random deletions, if the options of ``lesion`` ask for them.

    Args:
        checkpoint: The net.
        data: What it is measured on.
        options: Of every study.
        count: Of --count.
        trials: Of --trials.
        shape_keeping: Of --shape-keeping.
        stratified: Of --stratified.
        others: Options by name that choose another study.

    Returns:
        The study; None without --count.

    Raises:
        InterventionError: If the options do not go together.
    """
    if count is None:
        given = {
            "--trials": trials is not None,
            "--shape-keeping": shape_keeping,
            "--stratified": stratified,
        }
        for name, said in given.items():
            if said:
                raise InterventionError(
                    f"{name} is for random deletions; say how many blocks, such as --count 1-20."
                )
        return None
    for name, value in others.items():
        if value:
            raise InterventionError(
                f"--count deletes random blocks, {name} chosen ones; give one of the two."
            )
    return prepare_many(
        checkpoint,
        data,
        count=count,
        trials=_TRIALS if trials is None else trials,
        shape_keeping=shape_keeping,
        stratified=stratified,
        **options,
    )


@with_groups
def reorder(
    model: Model,
    *,
    data: DataOptions,
    swaps: Annotated[
        str | None,
        typer.Option(
            help="Numbers of random swaps: 1-20, 1,2,5. Default: 1-20.", rich_help_panel="Study"
        ),
    ] = None,
    trials: Trials = None,
    adjacent: Annotated[
        bool,
        typer.Option(
            "--adjacent",
            help="Instead, swap each two neighbours of one shape in turn.",
            rich_help_panel="Study",
        ),
    ] = False,
    stages: Annotated[
        bool,
        typer.Option(
            "--stages",
            help="Instead, reverse and shuffle the blocks of each shape, and all.",
            rich_help_panel="Study",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for reorder.csv, trials.csv, results.json, outcomes.npz, reorder.pdf and "
            ".png.",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: Overwrite = False,
    kind: BlockOptions,
    seed: Seed = 0,
    opening: ModelOptions,
    batch_size: BatchSize = None,
    as_json: Json = False,
) -> None:
    """Swap random blocks of equal shape and measure the error against the disorder.

    Blocks that change the shape stay where they are. The disorder is Kendall's tau of the order
    that comes about (Veit, Wilber and Belongie 2016, figure 5b).

    Example:  ensemble-view reorder resnet56.th --data cifar10 --swaps 1-20 --trials 50
    """
    if out is not None:
        prepare(out, overwrite=overwrite)
    checkpoint = load(model, opening)
    opened = open_named(checkpoint, data, seed)
    study: Study[Any] = prepare_reorder(
        checkpoint,
        opened,
        swaps=swaps,
        trials=_TRIALS if trials is None else trials,
        adjacent=adjacent,
        stages=stages,
        plain=kind.plain,
        granularity=kind.granularity,
        seed=seed,
        batch_size=batch_size,
        command=command_line(),
    )
    finish(
        study,
        "orders",
        as_json=as_json,
        out=out,
        overwrite=overwrite,
        whole=f"{len(opened):,} {opened.unit}",
    )
