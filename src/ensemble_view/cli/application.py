"""The command line: parse, call a study, print. No science here.

Exit codes: 0 done; 1 stopped by Ctrl-C, SIGTERM or SIGHUP (what was done so far is kept and said);
2 bad input, or a result that cannot be written where it was to be, with one sentence on standard
error. A reader that leaves early, as ``head`` does, is no error: what was measured is saved.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
import typer
from typer.core import TyperGroup
from typer.main import get_command_from_info
from typer.models import CommandInfo

import ensemble_view
from ensemble_view.bench.bench import bench as run_bench
from ensemble_view.bench.overhead import overhead as run_overhead
from ensemble_view.cli.export_command import export
from ensemble_view.cli.former import as_they_are
from ensemble_view.cli.groups import (
    BlockOptions,
    FewDataOptions,
    FileOptions,
    ModelOptions,
    remember,
    with_groups,
)
from ensemble_view.cli.opening import load, open_named
from ensemble_view.cli.options import Json, Model, Seed
from ensemble_view.cli.path_commands import gradients, paths
from ensemble_view.cli.progress import stages
from ensemble_view.cli.saying import flush, say, warnings_said
from ensemble_view.cli.stopping import stopped_by_signals
from ensemble_view.cli.study_commands import command_of
from ensemble_view.cli.train_command import train
from ensemble_view.errors import DataError, EnsembleViewError
from ensemble_view.studies.inspect.cache import cached_inspection
from ensemble_view.studies.inspect.inspection import Inspection
from ensemble_view.studies.inspect.inspection import inspect as run_inspect
from ensemble_view.study.registry import names, study_named
from ensemble_view.study.subject import examine, setting_of
from ensemble_view.study.words import wrapped

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """The commands: those of the studies that are registered, each made when it is asked for.

    An interruption that nothing else caught says that nothing was measured.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return [*names(), *(name for name in super().list_commands(ctx) if name not in names())]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in names():
            return super().get_command(ctx, cmd_name)
        return get_command_from_info(
            CommandInfo(name=cmd_name, callback=command_of(study_named(cmd_name))),
            pretty_exceptions_short=True,
            rich_markup_mode="markdown",
        )

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("Stopped before anything was measured.", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    name="ensemble-view",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _global(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Does this trained residual net behave like an ensemble of shallow nets?

    Start with the bundled ResNet-110:  ensemble-view lesion digits-resnet110
    """


@app.command()
@with_groups
def inspect(
    model: Model,
    *,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of every addition why it is or is not a block.")
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh", "--no-cache", help="Look anew at an architecture that was looked at before."
        ),
    ] = False,
    data: FewDataOptions,
    kind: BlockOptions,
    seed: Seed = 0,
    opening: ModelOptions,
    as_json: Json = False,
) -> None:
    """Show the blocks of a net: module, shapes, shortcut, parameters, FLOPs, size of the branch.

    Without data, an example of what the net takes is made up (an image of the size that the
    checkpoint names, or 32 tokens), and the size of the branches is left out; what was found is
    then kept in ~/.cache/ensemble_view by a hash of the architecture, and printed at once the next
    time.

    Example:  ensemble-view inspect digits-resnet110 --explain
    """
    checkpoint = load(model, opening, one_output=True)
    if data.data is not None or checkpoint.data is not None:
        opened = open_named(checkpoint, data, seed)
        with stages() as begin:
            subject = examine(
                checkpoint,
                opened,
                plain=kind.plain,
                granularity=kind.granularity,
                batch_size=len(opened),
                progress=begin,
            )
            begin("measure the branches")
            found = run_inspect(subject)
    else:
        # One image is enough, since the second batch of the proof has values of its own; of tokens
        # it has those of the example.
        tokens = any(each.vocabulary is not None for each in checkpoint.inputs)
        example = checkpoint.example(2 if tokens else 1)

        def look() -> Inspection:
            with stages() as begin:
                chain = ensemble_view.unravel(
                    checkpoint.model,
                    example,
                    plain=kind.plain,
                    granularity=kind.granularity,
                    output=checkpoint.output,
                    progress=begin,
                )
                begin("count the operations of each block")
                return run_inspect(chain, example, made_up=True)

        # What is kept is of the output that is followed when none is named.
        found = (
            look()
            if checkpoint.output is not None
            else cached_inspection(
                checkpoint.model,
                example,
                look,
                plain=kind.plain,
                granularity=kind.granularity,
                fresh=fresh,
            )
        )
        found = replace(found, setting=setting_of(checkpoint))
    if as_json:
        say(found.to_json())
        return
    say(repr(found))
    if explain:
        say("\n" + found.explain())


app.command()(train)


@app.command()
@with_groups
def bench(
    model: Model,
    *,
    rounds: Annotated[
        int, typer.Option(min=1, max=1_000, help="How often each thing is timed.")
    ] = 7,
    hooks: Annotated[
        bool, typer.Option("--hooks", help="Also time a forward pass per plan.")
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Instead, time the engine's block evaluations against the model's own blocks, on "
            "batches of this size.",
        ),
    ] = None,
    opening: FileOptions,
) -> None:
    """Time all single deletions in units of one unmodified forward pass (CPU, one thread).

    The forward pass and the engine each run at their own best batch size; the convolutions of the
    same block evaluations are timed alone, as the bound.

    Example:  ensemble-view bench resnet56.th
    """
    checkpoint = load(model, ModelOptions(opening.arch, opening.trust_pickle, device="cpu"))
    for line in setting_of(checkpoint):
        say(wrapped(line))
    chain = ensemble_view.unravel(checkpoint.model, checkpoint.example())
    if batch_size is not None:
        found = run_overhead(chain, checkpoint.example(batch_size), rounds=rounds)
        say(repr(found))
        return
    images = checkpoint.example(128)
    if not isinstance(images, torch.Tensor):
        raise DataError(
            f"Without --batch-size, bench times nets that take one tensor; "
            f"{checkpoint.architecture} takes "
            f"{', '.join(str(each.name) for each in checkpoint.inputs)}."
        )
    say(repr(run_bench(chain, images, rounds=rounds, hooks=hooks)))


app.command()(paths)
app.command()(gradients)
app.command()(export)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: By default the program's own.

    Raises:
        SystemExit: Always, with the exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Accepted anywhere, since it is added after the fact, when something went wrong.
    debug = "--debug" in words
    if words == ["--version"]:
        say(f"ensemble-view {ensemble_view.__version__}")
        raise SystemExit(0)
    remember(words)
    try:
        with stopped_by_signals(), warnings_said():
            app(as_they_are([word for word in words if word != "--debug"]))
    except EnsembleViewError as error:
        if debug:
            raise
        say(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    finally:
        flush()
