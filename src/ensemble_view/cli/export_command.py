"""The command that saves what is left of a net."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble_view.cli.groups import BlockOptions, DataOptions, ModelOptions, with_groups
from ensemble_view.cli.opening import load, open_named
from ensemble_view.cli.options import Model, Overwrite, Seed
from ensemble_view.cli.progress import stages
from ensemble_view.cli.saying import say
from ensemble_view.nets.weights_file import check_destination
from ensemble_view.studies.export.exporting import export as run_export
from ensemble_view.studies.export.exporting import needs_data
from ensemble_view.study.subject import setting_of
from ensemble_view.study.words import wrapped

__all__ = ["export"]


@with_groups
def export(
    model: Model,
    *,
    do: Annotated[
        str,
        typer.Option(
            help='What to do with the net: "delete 3,7-9; swap 1 2". In the words of lesion --do.',
            show_default=False,
            rich_help_panel="Study",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="The file to write: .safetensors, .pt, .pth or .th.",
            show_default=False,
            rich_help_panel="Output",
        ),
    ],
    overwrite: Overwrite = False,
    kind: BlockOptions,
    data: DataOptions,
    seed: Seed = 0,
    opening: ModelOptions,
) -> None:
    """Save what is left of a net after deleting or rewiring blocks, as a smaller net.

    The file holds the weights that are left, the architecture and what was done, so that lesion
    and the other commands open it without further options. Data are used for "replace 5 mean", and
    of text for its length.

    Example:  ensemble-view export digits-resnet110 --do "delete 3,7-9" -o smaller.safetensors
    """
    check_destination(out, overwrite=overwrite)
    checkpoint = load(model, opening, one_output=True)
    opened = None
    if data.data is not None or needs_data(do):
        opened = open_named(checkpoint, data, seed)
    with stages() as begin:
        saved = run_export(
            checkpoint,
            do,
            out,
            data=opened,
            plain=kind.plain,
            granularity=kind.granularity,
            overwrite=overwrite,
            progress=begin,
        )
    for line in setting_of(checkpoint):
        say(wrapped(line))
    say(str(saved))
