"""The command line: parse, call a study, print. No science here.

Exit codes: 0 done; 1 stopped by Ctrl-C, SIGTERM or SIGHUP (what was done so far is kept and said);
2 bad input, or a result that cannot be written where it was to be, with one sentence on standard
error. A reader that leaves early, as ``head`` does, is no error: what was measured is saved.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from typer.core import TyperGroup

import ensemble_view
from ensemble_view.bench.bench import bench as run_bench
from ensemble_view.bench.overhead import overhead as run_overhead
from ensemble_view.cli.control_commands import (
    CalibrationData,
    Control,
    RecalibrateBatchNorm,
    control_study,
)
from ensemble_view.cli.ending import Study, finish
from ensemble_view.cli.export_command import export
from ensemble_view.cli.groups import (
    BlockOptions,
    DataOptions,
    FewDataOptions,
    FileOptions,
    ModelOptions,
    remember,
    with_groups,
)
from ensemble_view.cli.opening import command_line, load, open_named
from ensemble_view.cli.options import BatchSize, Json, Model, Overwrite, Seed
from ensemble_view.cli.path_commands import gradients, paths
from ensemble_view.cli.progress import stages
from ensemble_view.cli.reaction_commands import dose, reaction
from ensemble_view.cli.saying import flush, say, warnings_said
from ensemble_view.cli.stopping import stopped_by_signals
from ensemble_view.cli.subset_commands import AllSubsets, Only, Pairs, Surrogates, subset_study
from ensemble_view.cli.train_command import train
from ensemble_view.cli.trial_commands import (
    Count,
    ShapeKeeping,
    Stratified,
    Trials,
    random_lesions,
    reorder,
)
from ensemble_view.errors import DataError, EnsembleViewError
from ensemble_view.studies.inspect.cache import cached_inspection
from ensemble_view.studies.inspect.inspection import Inspection
from ensemble_view.studies.inspect.inspection import inspect as run_inspect
from ensemble_view.studies.lesion.study import prepare_lesions
from ensemble_view.study.experiment import Options
from ensemble_view.study.folders import prepare
from ensemble_view.study.subject import examine, setting_of
from ensemble_view.study.words import wrapped

__all__ = ["app", "main"]


class _Commands(TyperGroup):
    """Commands of which an interruption that nothing else caught says that nothing was measured."""

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
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Does this trained residual net behave like an ensemble of shallow nets?

    Start with the bundled ResNet-110:  ensemble-view lesion digits-resnet110
    """


@app.command()
@with_groups
def lesion(
    model: Model,
    *,
    data: DataOptions,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the tables (lesions.csv), results.json, outcomes.npz, and the figure "
            "(lesion.pdf and .png).",
            rich_help_panel="Output",
        ),
    ] = None,
    overwrite: Overwrite = False,
    blocks: Annotated[
        str | None,
        typer.Option(
            help="Delete this set together: indices from 0 and module paths, 3,7-9 or 'layer3.*'. "
            "Default: each block in turn.",
            rich_help_panel="Study",
        ),
    ] = None,
    count: Count = None,
    trials: Trials = None,
    shape_keeping: ShapeKeeping = False,
    stratified: Stratified = False,
    do: Annotated[
        str | None,
        typer.Option(
            help='Do this instead: "delete 3; swap 7 8; scale 4 0.5; replace 5 mean".',
            rich_help_panel="Study",
        ),
    ] = None,
    all_subsets: AllSubsets = False,
    pairs: Pairs = False,
    surrogates: Surrogates = False,
    only: Only = None,
    control: Control = None,
    recalibrate_bn: RecalibrateBatchNorm = None,
    calibration: CalibrationData = None,
    kind: BlockOptions,
    seed: Seed = 0,
    opening: ModelOptions,
    batch_size: BatchSize = None,
    as_json: Json = False,
) -> None:
    """Delete each block in turn and measure how much accuracy that costs.

    The branch of a block is set to zero at inference; its shortcut stays (Veit, Wilber and
    Belongie 2016, figure 3). Intervals are paired: the same examples before and after. On text:
    next-token accuracy, loss and perplexity. With --count, random blocks at once (figure 5a).

    Example:  ensemble-view lesion resnet56.th --data cifar10 --out lesions/

    Example:  ensemble-view lesion resnet56.th --data cifar10 --count 1-20 --trials 50
    """
    if out is not None:
        prepare(out, overwrite=overwrite)
    checkpoint = load(model, opening)
    opened = open_named(checkpoint, data, seed)
    options: Options = {
        "plain": kind.plain,
        "granularity": kind.granularity,
        "seed": seed,
        "batch_size": batch_size,
        "command": command_line(),
    }
    switches = {
        "--blocks": blocks is not None,
        "--do": do is not None,
        "--all": all_subsets,
        "--pairs": pairs,
        "--surrogates": surrogates,
    }
    controlled = control_study(
        checkpoint, opened, {**switches, "--count": count is not None},
        control, recalibrate_bn, calibration, only,
        lambda name: open_named(
            checkpoint, replace(data, data=name or data.data, split="train", limit=None), seed
        ),
        options,
    )  # fmt: skip
    drawn = controlled or random_lesions(
        checkpoint, opened, options,
        count=count, trials=trials, shape_keeping=shape_keeping, stratified=stratified,
        others={**switches, "--only": only is not None},
    )  # fmt: skip
    study: Study[Any]
    study, unit = (
        (drawn, "lesions")
        if drawn is not None
        else subset_study(checkpoint, opened, switches, only, **options)
        or (prepare_lesions(checkpoint, opened, blocks=blocks, do=do, **options), "lesions")
    )
    finish(
        study,
        unit,
        as_json=as_json,
        out=out,
        overwrite=overwrite,
        whole=f"{len(opened):,} {opened.unit}",
    )


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
    checkpoint = load(model, opening)
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
app.command()(reorder)
app.command()(reaction)
app.command()(dose)


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
            app([word for word in words if word != "--debug"])
    except EnsembleViewError as error:
        if debug:
            raise
        say(f"Error: {error}", err=True)
        raise SystemExit(2) from None
    finally:
        flush()
