"""The commands about paths: how many there are, and what gradient they carry."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import ensemble_view
from ensemble_view.cli.ending import Study, end, finish, show
from ensemble_view.cli.groups import DataOptions, ModelOptions, with_groups
from ensemble_view.cli.opening import command_line, load, open_named
from ensemble_view.cli.options import (
    MODEL_HELP,
    BatchSizeBound,
    Granularity,
    Json,
    Model,
    Overwrite,
    Seed,
)
from ensemble_view.cli.progress import progress_bar, stages
from ensemble_view.cli.saying import say
from ensemble_view.errors import MeasurementError
from ensemble_view.paths.lengths import iterate_paths
from ensemble_view.studies.gradients.blocks import prepare_block_gradients
from ensemble_view.studies.gradients.blocks_result import GradientsByBlock
from ensemble_view.studies.gradients.checkpoints import gradients_by_checkpoint
from ensemble_view.studies.gradients.result import GradientsByLength
from ensemble_view.studies.gradients.study import prepare_gradients
from ensemble_view.studies.paths.study import count_paths
from ensemble_view.study.folders import prepare

__all__ = ["gradients", "paths"]

_MOST_LISTED = 12
_SAMPLES = 1000


@with_groups
def paths(
    model: Model,
    *,
    list_paths: Annotated[
        bool, typer.Option("--list", help="Print every path of a net of at most 12 blocks.")
    ] = False,
    granularity: Granularity = "block",
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for paths.csv, layers.csv, results.json, paths.pdf and .png.",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    opening: ModelOptions,
) -> None:
    """Count the paths through a net by their length, and those that survive deletions.

    Exact numbers, in blocks and in layers (Veit, Wilber and Belongie 2016, figures 6a and 7).

    Example:  ensemble-view paths digits-resnet110 --out paths/
    """
    if out is not None:
        prepare(out, overwrite=overwrite)
    checkpoint = load(model, opening, one_output=True)
    with stages() as begin:
        chain = ensemble_view.unravel(
            checkpoint.model,
            checkpoint.example(),
            granularity=granularity,
            output=checkpoint.output,
            progress=begin,
        )
    if list_paths and len(chain) > _MOST_LISTED:
        raise MeasurementError(
            f"This net has 2^{len(chain)} paths, too many to print; --list is for at most "
            f"{_MOST_LISTED} blocks. In Python, iterate_paths gives them one at a time."
        )
    name = checkpoint.path.stem if checkpoint.path is not None else checkpoint.architecture
    counts = count_paths(chain, name)
    show(counts, as_json=as_json, out=out, overwrite=overwrite)
    if list_paths and not as_json:
        names = [block.name for block in chain]
        say("\nEach path by the blocks whose branch it takes:")
        for path in iterate_paths(len(chain)):
            say(f"{len(path):>4}  {', '.join(names[index] for index in path) or '-'}")


@with_groups
def gradients(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help=f"{MODEL_HELP} Several are checkpoints of one training run, in order.",
            show_default=False,
        ),
    ],
    *,
    data: DataOptions,
    method: Annotated[
        Literal["summed", "energy", "sampled", "all"],
        typer.Option(
            help="summed: over all paths of a length, exactly; sampled: along random paths, as in "
            "the paper; energy: sum of their squared norms, estimated.",
            rich_help_panel="Study",
        ),
    ] = "summed",
    by_block: Annotated[
        bool,
        typer.Option(
            "--by-block",
            help="Instead, of each block: the gradient through its branch and its shortcut, the "
            "branch's size and direction, the head's accuracy after it.",
            rich_help_panel="Study",
        ),
    ] = False,
    untrained: Annotated[
        bool,
        typer.Option(
            "--untrained",
            help="Also measure the net before training: built anew, or its weights drawn anew.",
            rich_help_panel="Study",
        ),
    ] = False,
    at: Annotated[
        str,
        typer.Option(
            help="Where the gradient is taken: the index of a block, at its input, or 'input'.",
            rich_help_panel="Study",
        ),
    ] = "0",
    samples: Annotated[
        int,
        typer.Option(
            min=1, help="Random paths per length and batch, for sampled.", rich_help_panel="Study"
        ),
    ] = _SAMPLES,
    norm: Annotated[
        Literal["example", "batch"] | None,
        typer.Option(
            help="Of each example's gradient, the default, or of that of the batch's mean loss, "
            "for sampled.",
            rich_help_panel="Study",
        ),
    ] = None,
    batchnorm: Annotated[
        Literal["evaluation", "training"],
        typer.Option(
            help="Whose statistics BatchNorm uses; training: those of each batch, which is then "
            "measured as a whole.",
            rich_help_panel="Study",
        ),
    ] = "evaluation",
    groups: Annotated[
        int | None,
        typer.Option(
            help="Independent draws, for energy. Default: as many as 5 % of error needs.",
            rich_help_panel="Study",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for results.json and gradients.csv, .pdf and .png; with --by-block these "
            "are blocks.*, of several models checkpoints.*.",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: Overwrite = False,
    seed: Seed = 0,
    opening: ModelOptions,
    batch_size: BatchSizeBound = 64,
    as_json: Json = False,
) -> None:
    """Weigh the paths of each length by the gradient that they carry.

    Which lengths supply the gradient of the loss (Veit, Wilber and Belongie 2016, figure 6b and c),
    exactly where the paper sampled. Each residual sum is a block, also within a transformer's
    layer.

    Example:  ensemble-view gradients digits-resnet110 --limit 64 --out gradients/
    """
    if out is not None:
        prepare(out, overwrite=overwrite)
    if at != "input" and not (at.isdecimal() and len(at) <= 9):
        raise MeasurementError(
            f"--at is {at!r}; expected the index of a block, such as 0, or 'input'."
        )
    lengths = {
        "--method": method != "summed",
        "--untrained": untrained,
        "--at": at != "0",
        "--samples": samples != _SAMPLES,
        "--norm": norm is not None,
        "--batchnorm": batchnorm != "evaluation",
        "--groups": groups is not None,
    }
    if by_block and any(lengths.values()):
        raise MeasurementError(
            f"{', '.join(name for name, given in lengths.items() if given)} is about the lengths "
            "of paths; leave it out with --by-block, which is one exact backward pass."
        )
    if by_block and len(models) > 1:
        raise MeasurementError(
            f"--by-block is about one net, but {len(models)} were named; give one of them."
        )
    checkpoint = load(models[0], opening)
    opened = open_named(checkpoint, data, seed)
    options: dict[str, Any] = {
        "method": method,
        "at": "input" if at == "input" else int(at),
        "samples": samples,
        "norm": norm,
        "batchnorm": batchnorm,
        "groups": groups,
        "seed": seed,
        "batch_size": batch_size,
        "untrained": untrained,
        "command": command_line(),
    }
    whole = f"{len(opened):,} {opened.unit}"
    if len(models) > 1:
        later = (load(name, opening) for name in models[1:])

        def announce(words: str) -> None:
            say(words, err=as_json)

        with progress_bar("checkpoints", len(models)) as advance:
            result = gradients_by_checkpoint(
                itertools.chain([checkpoint], later), opened, progress=advance,
                announce=announce, **options,
            )  # fmt: skip
        whole += f" of checkpoint {len(result.results)} of {len(models)}"
        end(result, as_json=as_json, out=out, overwrite=overwrite, whole=whole)
        return
    study: Study[GradientsByLength | GradientsByBlock]
    if by_block:
        study = prepare_block_gradients(
            checkpoint, opened, seed=seed, batch_size=batch_size, command=command_line()
        )
    else:
        study = prepare_gradients(checkpoint, opened, **options)
    finish(study, "gradients", as_json=as_json, out=out, overwrite=overwrite, whole=whole)
