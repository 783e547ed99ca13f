"""The commands of the studies, made from what each study says of its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from ensemble_view.cli.ending import finish
from ensemble_view.cli.groups import BlockOptions, DataOptions, ModelOptions, with_groups
from ensemble_view.cli.opening import command_line, load, open_named
from ensemble_view.cli.options import BatchSize, Json, Model, Overwrite, Seed
from ensemble_view.data.data import Data
from ensemble_view.study.folders import prepare
from ensemble_view.study.study import Argument, Option, Study

__all__ = ["command_of"]


def command_of(study: type[Study[Any]]) -> Callable[..., None]:
    """Make the command of a study: its own options among those that all studies share.

    Args:
        study: Whose fields say what ``--help`` tells of them.

    Returns:
        A command for typer.
    """

    def command(
        *,
        model: str,
        data: DataOptions,
        out: Path | None,
        overwrite: bool,
        kind: BlockOptions,
        seed: int,
        opening: ModelOptions,
        batch_size: int | None,
        as_json: bool,
        **own: Any,
    ) -> None:
        if out is not None:
            prepare(out, overwrite=overwrite)
        checkpoint = load(model, opening)
        opened = open_named(checkpoint, data, seed)

        def training(name: str | None) -> Data:
            named = replace(data, data=name or data.data, split="train", limit=None)
            return open_named(checkpoint, named, seed)

        prepared = study(**own).opened(training).prepare(
            checkpoint,
            opened,
            plain=kind.plain,
            granularity=kind.granularity,
            seed=seed,
            batch_size=batch_size,
            command=command_line(),
        )  # fmt: skip
        finish(
            prepared,
            study.unit,
            as_json=as_json,
            out=out,
            overwrite=overwrite,
            whole=f"{len(opened):,} {opened.unit}",
        )

    arguments, options = _own(study)
    shared = {
        "data": DataOptions,
        "out": _out(study.name),
        "overwrite": Overwrite,
        "kind": BlockOptions,
        "seed": Seed,
        "opening": ModelOptions,
        "batch_size": BatchSize,
        "as_json": Json,
    }
    defaults = {"out": None, "overwrite": False, "seed": 0, "batch_size": None, "as_json": False}
    parameters = [
        *arguments,
        _parameter("model", Model),
        *options,
        *(_parameter(name, kind, defaults.get(name, MISSING)) for name, kind in shared.items()),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__name__, command.__doc__ = study.name, study.help
    return with_groups(command)


def _parameter(name: str, annotation: Any, default: Any = MISSING) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=annotation,
        default=inspect.Parameter.empty if default is MISSING else default,
    )


def _own(study: type[Study[Any]]) -> tuple[list[inspect.Parameter], list[inspect.Parameter]]:
    """What stands before the model, and the options, of the fields that say what they are."""
    hints = get_type_hints(study, include_extras=True)
    arguments, options = [], []
    for field in fields(study):  # type: ignore[arg-type]
        hint = hints[field.name]
        for said in get_args(hint)[1:] if get_origin(hint) is Annotated else ():
            kind = get_args(hint)[0]
            if isinstance(said, Argument):
                shown = typer.Argument(help=said.help, metavar=said.metavar, show_default=False)
                arguments.append(_parameter(field.name, Annotated[kind, shown]))
            elif isinstance(said, Option):
                default = _written(field)
                kind = said.kind or kind
                if default is None and said.kind is not None:
                    kind = kind | None
                options.append(
                    _parameter(field.name, Annotated[kind, _shown(said, field, default)], default)
                )
    return arguments, options


def _written(field: Field[Any]) -> Any:
    """The default, as the command line would write it."""
    if isinstance(field.default, tuple):
        return ",".join(f"{each:g}" for each in field.default)
    return field.default


def _shown(said: Option, field: Field[Any], default: Any) -> Any:
    flag = said.flag or f"--{field.name.replace('_', '-')}"
    return typer.Option(
        *([flag] if isinstance(default, bool) or said.flag else []),
        help=said.help,
        min=said.least,
        metavar=said.metavar,
        rich_help_panel="Study",
    )


def _out(name: str) -> Any:
    return Annotated[
        Path | None,
        typer.Option(
            help=f"Folder for the tables ({name}.csv and others), results.json, the outcomes of "
            f"every example, and the figure ({name}.pdf and .png).",
            rich_help_panel="Output",
        ),
    ]
