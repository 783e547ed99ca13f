"""The commands about what a block's deletion sets off: reaction, dose and response."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble_view.cli.ending import finish
from ensemble_view.cli.groups import BlockOptions, DataOptions, ModelOptions, with_groups
from ensemble_view.cli.opening import command_line, load, open_named
from ensemble_view.cli.options import BatchSize, BatchSizeBound, Json, Model, Overwrite, Seed
from ensemble_view.errors import MeasurementError
from ensemble_view.studies.dose.study import DOSES, prepare_dose_response
from ensemble_view.studies.reaction.study import prepare_reaction
from ensemble_view.study.folders import prepare

__all__ = ["dose", "reaction"]

_DOSES = ",".join(f"{factor:g}" for factor in DOSES)


@with_groups
def reaction(
    model: Model,
    *,
    data: DataOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for reaction.csv, stages.csv, results.json, outcomes.npz, reaction.pdf "
            "and .png.",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: Overwrite = False,
    untrained: Annotated[
        bool,
        typer.Option(
            "--untrained/--no-untrained",
            help="Also measure the net before training: built anew, or its weights drawn anew.",
            rich_help_panel="Study",
        ),
    ] = True,
    kind: BlockOptions,
    seed: Seed = 0,
    opening: ModelOptions,
    batch_size: BatchSizeBound = 64,
    as_json: Json = False,
) -> None:
    """Delete each block and see how the later blocks of its stage answer.

    Reaction 1: later blocks only add to what passes them; 0 with a ratio of norms of 1: each turns
    it elsewhere. Below 1 is repair only if it is also below the untrained net's reaction and below
    that to another example's change of the same norm; both are measured beside it.

    Example:  ensemble-view reaction resnet56.th --data cifar10 --out reaction/
    """
    if out is not None:
        prepare(out, overwrite=overwrite)
    checkpoint = load(model, opening)
    opened = open_named(checkpoint, data, seed)
    study = prepare_reaction(
        checkpoint,
        opened,
        plain=kind.plain,
        granularity=kind.granularity,
        seed=seed,
        batch_size=batch_size,
        untrained=untrained,
        command=command_line(),
    )
    finish(
        study,
        "reactions",
        as_json=as_json,
        out=out,
        overwrite=overwrite,
        whole=f"{len(opened):,} {opened.unit}",
    )


@with_groups
def dose(
    model: Model,
    *,
    data: DataOptions,
    blocks: Annotated[
        str | None,
        typer.Option(
            help="Which branches: indices from 0 and module paths, 3,7-9 or 'layer3.*'. Default: "
            "all that can be deleted.",
            rich_help_panel="Study",
        ),
    ] = None,
    doses: Annotated[
        str,
        typer.Option(help="What they are multiplied by; 1: full net.", rich_help_panel="Study"),
    ] = _DOSES,
    draws: Annotated[
        int,
        typer.Option(
            min=0, help="Of each random null beside each deletion.", rich_help_panel="Study"
        ),
    ] = 3,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for dose.csv, nulls.csv, ranges.csv, results.json, outcomes.npz, dose.pdf "
            "and .png.",
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
    """Scale branches from 0 to 1.5, alone and all together; set other changes beside deletions.

    Is it because branches are small that deleting one does little (Chang et al. 2017)? Then noise
    of the same norm, another example's branch, the mean branch and the branch with its sign changed
    would do as much. Which null is taken decides much, so that all are shown.

    Example:  ensemble-view dose resnet56.th --data cifar10 --blocks 3,7-9 --out dose/
    """
    if out is not None:
        prepare(out, overwrite=overwrite)
    try:
        factors = [float(each) for each in doses.split(",")]
    except ValueError:
        raise MeasurementError(
            f"--doses is {doses!r}; write numbers separated by commas, such as 0,0.5,1.5."
        ) from None
    checkpoint = load(model, opening)
    opened = open_named(checkpoint, data, seed)
    study = prepare_dose_response(
        checkpoint,
        opened,
        blocks=blocks,
        doses=factors,
        draws=draws,
        plain=kind.plain,
        granularity=kind.granularity,
        seed=seed,
        batch_size=batch_size,
        command=command_line(),
    )
    finish(
        study,
        "doses",
        as_json=as_json,
        out=out,
        overwrite=overwrite,
        whole=f"{len(opened):,} {opened.unit}",
    )
