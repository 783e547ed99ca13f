"""What lesion runs with --control and --recalibrate-bn: deletions beside a control."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

import typer

from ensemble_view.cli.ending import Study
from ensemble_view.data.data import Data
from ensemble_view.errors import InterventionError
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.studies.control.result import ControlResult
from ensemble_view.studies.control.study import check_split, prepare_lesion_control
from ensemble_view.study.experiment import Options

__all__ = ["CalibrationData", "Control", "RecalibrateBatchNorm", "control_study"]

Control = Annotated[
    Literal["dropshortcut", "untrained"] | None,
    typer.Option(
        help="Beside each deletion: the same block without its shortcut, or the same deletion in "
        "the untrained net.",
        rich_help_panel="Study",
    ),
]
RecalibrateBatchNorm = Annotated[
    int | None,
    typer.Option(
        "--recalibrate-bn",
        metavar="N",
        help="Beside each deletion: the same with BatchNorm's statistics, of all layers at once, "
        "estimated anew on N training examples.",
        rich_help_panel="Study",
    ),
]
CalibrationData = Annotated[
    str | None,
    typer.Option(
        "--calibration",
        metavar="DATA",
        help="With --recalibrate-bn: these data. Default: the training split.",
        rich_help_panel="Study",
    ),
]


def control_study(
    checkpoint: Checkpoint,
    data: Data,
    switches: Mapping[str, bool],
    control: Literal["dropshortcut", "untrained"] | None,
    recalibrate_bn: int | None,
    calibration: str | None,
    only: str | None,
    opening: Callable[[str | None], Data],
    options: Options,
) -> Study[ControlResult] | None:
    """Prepare the control that a command asks for.

    Args:
        checkpoint: The model.
        data: What it is measured on.
        switches: Every other switch that chooses a study, and whether it was given.
        control: Of --control.
        recalibrate_bn: Of --recalibrate-bn.
        calibration: Of --calibration.
        only: Of --only.
        opening: Opens the training split of data by name; None: of those that are measured.
        options: Of every study.

    Returns:
        The study; None where no control was asked for.

    Raises:
        InterventionError: If several studies are asked for, or --calibration without its own.
    """
    if calibration is not None and recalibrate_bn is None:
        raise InterventionError(
            "--calibration is for BatchNorm estimated anew; say on how many examples, such as "
            "--recalibrate-bn 1000."
        )
    asked = {"--control": control is not None, "--recalibrate-bn": recalibrate_bn is not None}
    given = [name for name, is_given in {**switches, **asked}.items() if is_given]
    if not any(asked.values()):
        return None
    if len(given) > 1:
        raise InterventionError(
            f"{' and '.join(given)} were given, which are different studies; give one of them."
        )
    if recalibrate_bn is None:
        assert control is not None
        return prepare_lesion_control(checkpoint, data, control, only=only, **options)
    training: Any = opening(calibration)
    if calibration is None:
        check_split(training)
    return prepare_lesion_control(
        checkpoint,
        data,
        "recalibrated",
        only=only,
        calibration=training,
        calibration_examples=recalibrate_bn,
        **options,
    )
