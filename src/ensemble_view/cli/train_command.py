"""The command that trains the reference nets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ensemble_view.cli.opening import device_named
from ensemble_view.cli.options import Device, Download, Limit, Overwrite, Root, Seed
from ensemble_view.cli.progress import progress_bar
from ensemble_view.cli.saying import say
from ensemble_view.data.opening import open_data
from ensemble_view.training.presets import preset
from ensemble_view.training.recipe import TrainingError
from ensemble_view.training.training import Progress
from ensemble_view.training.training import train as run_train

__all__ = ["train"]

_RECIPE = "Recipe (default: what --recipe says)"
_CIFAR = ("cifar10", "cifar100")


def train(
    architecture: Annotated[
        str,
        typer.Argument(
            metavar="ARCHITECTURE",
            help="Name and options: resnet20, resnet110v2, resnet164v2,layers=3, plain20, "
            "highway32, vgg15,width=16, notes_v1 and the like; see above.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The checkpoint to write.", show_default=False)],
    data: Annotated[str, typer.Option(help="As for lesion.", rich_help_panel="Data")] = "digits",
    recipe: Annotated[
        Literal["he", "fast", "cosine"] | None,
        typer.Option(
            help="he: He et al.'s 64,000 steps; fast: one cycle of 30 epochs with label smoothing; "
            "cosine: 50 epochs. Default: he for CIFAR, else cosine."
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, rich_help_panel=_RECIPE)] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, rich_help_panel=_RECIPE)] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0.0, rich_help_panel=_RECIPE)] = None,
    momentum: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, rich_help_panel=_RECIPE)
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(min=0.0, rich_help_panel=_RECIPE)] = None,
    warmup_epochs: Annotated[float | None, typer.Option(min=0.0, rich_help_panel=_RECIPE)] = None,
    schedule: Annotated[
        Literal["cosine", "linear", "steps"] | None,
        typer.Option(
            help="Of the learning rate; steps: a tenth after 1/2 and 3/4.", rich_help_panel=_RECIPE
        ),
    ] = None,
    label_smoothing: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, rich_help_panel=_RECIPE)
    ] = None,
    shift: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Augment by shifts of so many pixels; an eighth of the side if left out.",
            rich_help_panel=_RECIPE,
        ),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Augment by mirror images.", rich_help_panel=_RECIPE),
    ] = None,
    seed: Seed = 0,
    precision: Annotated[
        Literal["float32", "bfloat16"] | None,
        typer.Option(
            help="Of convolutions and matrix products in training; bfloat16 needs hardware for it.",
            rich_help_panel="Execution",
        ),
    ] = None,
    channels_last: Annotated[
        bool | None,
        typer.Option(
            "--channels-last/--no-channels-last",
            help="The layout of images in memory; on by default.",
            rich_help_panel="Execution",
        ),
    ] = None,
    overwrite: Overwrite = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a stopped run.")] = False,
    keep_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also keep the untrained net and that after every N epochs, as OUT-epoch005 and "
            "so on.",
            rich_help_panel="Output",
        ),
    ] = None,
    keep_at: Annotated[
        str | None,
        typer.Option(
            help="Also keep the net after these epochs: 0,1,5; 0 is the untrained one.",
            rich_help_panel="Output",
        ),
    ] = None,
    half: Annotated[
        bool,
        typer.Option(
            "--half", help="Store the weights in half precision.", rich_help_panel="Output"
        ),
    ] = False,
    device: Device = "auto",
    limit: Limit = None,
    root: Root = None,
    download: Download = False,
) -> None:
    """Train a reference net: deterministic by seed, resumable.

    **Nets**: resnetD and resnetDv2 (D = 6n + 2), plainD, highwayD (D = 3n + 2), vgg10 to vgg18,
    notes_v1, notes_v2. **Options**, joined by commas: width=16; shortcut=A, B or C; layers=1, 2, 3
    (3: bottlenecks, D = 9n + 2); variant=scaled, scaled_shortcut, gated, gated_shortcut or dropout;
    placement=bn_after_addition, relu_before_addition or relu_only; norm=none for vgg and highway;
    gate_bias=-6.

    **Regimes** are options, too: survival=50 is stochastic depth down to 50 % in the last block;
    kept=23 leaves all but 23 blocks, drawn anew, out of each batch. Evaluation then weighs each
    branch by how often it was there.

    Ctrl-C keeps the last full epoch; --resume goes on from there, to the same weights.

    Example:  ensemble-view train resnet110,survival=50 --data cifar10 --out net.pt --keep-every 20
    """
    name = recipe or ("he" if data in _CIFAR else "cosine")
    asked: dict[str, Any] = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "warmup_epochs": warmup_epochs,
        "schedule": schedule,
        "label_smoothing": label_smoothing,
        "shift": shift,
        "flip": flip,
        "precision": precision,
        "channels_last": channels_last,
    }
    changes = {key: value for key, value in asked.items() if value is not None}
    chosen = replace(preset(name, architecture), seed=seed, **changes)
    kept = _epochs(keep_at)
    if keep_every is not None:
        kept |= set(range(0, chosen.epochs + 1, keep_every))
    parts = [
        open_data(data, split=split, root=root, download=download, limit=limit, seed=seed)
        for split in ("train", "test")
    ]
    with progress_bar("steps", None) as advance:
        done = 0

        def told(state: Progress) -> None:
            nonlocal done
            advance(state.step - done, state.steps)
            done = state.step

        trained = run_train(
            architecture,
            *parts,
            recipe=chosen,
            device=device_named(device),
            checkpoint_path=out,
            resume=resume,
            half=half,
            keep=kept,
            overwrite=overwrite,
            progress=told,
        )
    record = trained.training or {}
    say(f"{trained.architecture}: {_in_words(record)}; saved to {out}.")
    if record.get("interrupted"):
        say("Stopped; --resume goes on from the last full epoch.", err=True)
        raise typer.Exit(1)


def _epochs(text: str | None) -> set[int]:
    """Return the epochs of a list such as 0,1,5."""
    words = [] if text is None else text.split(",")
    if not all(word.strip().isdecimal() and len(word) <= 9 for word in words):
        raise TrainingError(f"--keep-at is {text!r}: expected epochs such as 0,1,5.")
    return {int(word) for word in words}


def _in_words(record: Any) -> str:
    accuracy = record.get("test_accuracy")
    return "trained" if accuracy is None else f"test accuracy {accuracy:.2%}"
