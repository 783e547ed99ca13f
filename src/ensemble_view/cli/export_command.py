"""The command that saves what is left of a net."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ensemble_view.cli.opening import load, open_named
from ensemble_view.cli.options import (
    Arch,
    Crop,
    Data,
    Device,
    Download,
    Granularity,
    Length,
    Limit,
    Mean,
    Model,
    Plain,
    Resize,
    Root,
    Seed,
    Split,
    Std,
    Tokenizer,
    TrustPickle,
)
from ensemble_view.cli.progress import stages
from ensemble_view.studies.exporting import export as run_export
from ensemble_view.studies.exporting import needs_data
from ensemble_view.weights_file import check_destination

__all__ = ["export"]


def export(
    model: Model,
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
    plain: Plain = False,
    granularity: Granularity = "block",
    data: Data = None,
    limit: Limit = None,
    seed: Seed = 0,
    device: Device = "auto",
    split: Split = "test",
    root: Root = None,
    download: Download = False,
    mean: Mean = None,
    std: Std = None,
    resize: Resize = None,
    crop: Crop = None,
    tokenizer: Tokenizer = None,
    length: Length = None,
    arch: Arch = None,
    trust_pickle: TrustPickle = False,
) -> None:
    """Save what is left of a net after deleting or rewiring blocks, as a smaller net.

    The file holds the weights that are left, the architecture and what was done, so that lesion
    and the other commands open it without further options. Data are used for "replace 5 mean", and
    of text for its length.

    Example:  ensemble-view export digits-resnet110 --do "delete 3,7-9" -o smaller.safetensors
    """
    check_destination(out)
    checkpoint = load(model, arch, trust_pickle, device)
    opened = None
    if data is not None or needs_data(do):
        opened = open_named(
            checkpoint, data, split, root, download, mean, std, resize, crop, limit, seed,
            tokenizer, length,
        )  # fmt: skip
    with stages() as begin:
        saved = run_export(
            checkpoint,
            do,
            out,
            data=opened,
            plain=plain,
            granularity=granularity,
            progress=begin,
        )
    typer.echo(str(saved))
