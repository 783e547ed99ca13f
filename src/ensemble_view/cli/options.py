"""The options that several commands share, with what ``--help`` says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from ensemble_view.data.seeds import LARGEST_SEED

__all__ = [
    "Arch",
    "BatchSize",
    "BatchSizeBound",
    "ClassOrder",
    "Classes",
    "Crop",
    "Data",
    "Device",
    "Download",
    "Granularity",
    "Json",
    "Length",
    "Limit",
    "Mean",
    "Model",
    "Normalise",
    "Output",
    "Overwrite",
    "Plain",
    "Resize",
    "Root",
    "Seed",
    "Split",
    "Std",
    "Tokenizer",
    "TrustPickle",
]

ClassOrderName: TypeAlias = Literal["text", "numeric"]
GranularityName: TypeAlias = Literal["block", "branch"]

MODEL_HELP = (
    "A checkpoint (.pt, .pth, .th, .safetensors or .pt2), a folder that save_pretrained wrote, "
    "torchvision:NAME, timm:NAME or hf-hub:ORG/NAME with their own weights, or the name of a "
    "bundled net such as digits-resnet110."
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
Data = Annotated[
    str | None,
    typer.Option(
        help="digits, cifar10, cifar100, mnist, fashion-mnist, an .npz file with images and "
        "labels, or a folder with one subfolder per class; for a language model a text file, a "
        ".jsonl file, or a folder of save_to_disk. Default: what the checkpoint names.",
        rich_help_panel="Data",
    ),
]
Split = Annotated[str, typer.Option(help="Part of the data.", rich_help_panel="Data")]
Root = Annotated[
    Path | None, typer.Option(help="Folder of torchvision's data sets.", rich_help_panel="Data")
]
Download = Annotated[
    bool, typer.Option("--download", help="Let torchvision fetch them.", rich_help_panel="Data")
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Per channel, of pixels scaled to 0..1: 0.485,0.456,0.406. Default: what the "
        "checkpoint says.",
        rich_help_panel="Data",
    ),
]
Std = Annotated[str | None, typer.Option(help="Likewise.", rich_help_panel="Data")]
Normalise = Annotated[
    str | None,
    typer.Option(
        help="Instead of --mean and --std: imagenet, cifar10, cifar100, mnist, fashion-mnist, "
        "digits, inception or clip; none for a net that takes pixels scaled to 0..1. Default: what "
        "the checkpoint says.",
        rich_help_panel="Data",
    ),
]
Resize = Annotated[
    int | None, typer.Option(min=1, help="Shorter side, pixels.", rich_help_panel="Data")
]
Crop = Annotated[
    int | None, typer.Option(min=1, help="Square in the centre, pixels.", rich_help_panel="Data")
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        help="Of text: a folder or name for transformers. Default: bytes, for a vocabulary of 256.",
        rich_help_panel="Data",
    ),
]
Length = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Of text: tokens per sequence. Default: 512, or as many as the model takes.",
        rich_help_panel="Data",
    ),
]
ClassOrder = Annotated[
    ClassOrderName | None,
    typer.Option(
        help="Of class folders that are numbers: text (0, 1, 10, 2), as torchvision sorts them, or "
        "numeric (0, 1, 2, 10).",
        rich_help_panel="Data",
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(
        help="A text file with the names of the net's classes in the order of its outputs, one a "
        "line; class folders are matched to them by name.",
        rich_help_panel="Data",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="At most N examples, class-balanced.", rich_help_panel="Data"),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="Where the file does not say: torchvision:resnet50, timm:resnet50, cifar:resnet56, "
        "or net.py:factory (runs that file).",
        rich_help_panel="Model",
    ),
]
TrustPickle = Annotated[
    bool,
    typer.Option(
        "--trust-pickle",
        help="Unpickle whole modules, .pt2 programs and pickled weights of a folder or the hub. "
        "This runs code from the file.",
        rich_help_panel="Model",
    ),
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or cuda:N.", rich_help_panel="Execution")
]
Seed = Annotated[
    int,
    typer.Option(min=0, max=LARGEST_SEED, help="Random seed.", rich_help_panel="Execution"),
]
BatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Default: the fastest, measured first.", rich_help_panel="Execution"),
]
BatchSizeBound = Annotated[
    int, typer.Option(min=1, help="It bounds the memory.", rich_help_panel="Execution")
]
Output = Annotated[
    str | None,
    typer.Option(
        help="Of a net with several outputs: which is measured, by key or position. Default: "
        "logits, else the first.",
        rich_help_panel="Model",
    ),
]
Plain = Annotated[
    bool,
    typer.Option(
        "--plain",
        help="For a net without shortcuts: its conv-norm-activation units are the blocks.",
        rich_help_panel="Model",
    ),
]
Granularity = Annotated[
    GranularityName,
    typer.Option(
        help="block: a transformer layer is one block; branch: its attention and its "
        "feed-forward part are one each.",
        rich_help_panel="Model",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print results.json and nothing else.", rich_help_panel="Output"),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what is there already; without it that is refused before the work.",
        rich_help_panel="Output",
    ),
]
