"""Gradients by path length at each checkpoint of one training run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from ensemble_view.core.chain import Chain
from ensemble_view.errors import MeasurementError
from ensemble_view.nets.checkpoints import Checkpoint, load_checkpoint
from ensemble_view.studies.gradients.checkpoints_result import GradientsByCheckpoint
from ensemble_view.studies.gradients.result import GradientsByLength
from ensemble_view.studies.gradients.study import prepare_gradients

__all__ = ["gradients_by_checkpoint"]

Model: TypeAlias = nn.Module | Chain | Checkpoint | str | Path


def gradients_by_checkpoint(
    models: Iterable[Model],
    data: Any,
    *,
    names: Sequence[str] | None = None,
    announce: Callable[[str], None] | None = None,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> GradientsByCheckpoint:
    """Weigh the paths of each length by the gradient they carry, at each checkpoint of a run.

    Does a net start out with short paths and grow deeper as it is trained, as Littwin and Wolf
    (2016, arXiv 1611.02525) say of residual nets? The same examples at every checkpoint.

    Args:
        models: In the order of training: files for :func:`ensemble_view.load_checkpoint`, which are
            loaded one at a time, or modules, chains and checkpoints.
        data: As for :func:`ensemble_view.gradients_by_length`.
        names: What to call them; by default by their files, else by number.
        announce: Told, before each checkpoint is measured, its name and what it costs.
        progress: Called with 1 after each checkpoint.
        **options: As for :func:`ensemble_view.gradients_by_length`, the same for all.

    Returns:
        The result: ``.frame``, a row per checkpoint and weighting; ``.results``; ``.plot()``;
        ``.save(folder)``.

    Raises:
        MeasurementError: If the nets differ in depth, names are too few or too many, or an option
            has no such value.
        KeyboardInterrupt: If the user interrupts before anything is measured.

    Example:
        >>> import torch
        >>> from ensemble_view.nets.models.building import build
        >>> nets = [build("resnet8,width=4") for _ in range(2)]
        >>> data = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> found = gradients_by_checkpoint(nets, data, names=["start", "end"])
        >>> found.frame[["checkpoint", "weighting"]].values.tolist()[:2]
        [['start', 'projected'], ['start', 'pooled']]
    """
    results: list[GradientsByLength] = []
    places: list[Path | None] = []
    interrupted = False
    try:
        for number, given in enumerate(models):
            model = load_checkpoint(given) if isinstance(given, str | Path) else given
            study = prepare_gradients(model, data, **options)
            place = model.path if isinstance(model, Checkpoint) else None
            if announce is not None:
                name = names[number] if names is not None and number < len(names) else None
                announce(f"{name or (place.stem if place else number)}: {study}")
            results.append(study.run())
            places.append(place)
            if progress is not None:
                progress(1)
            interrupted = results[-1].interrupted
            if interrupted:
                break
    except KeyboardInterrupt:
        if not results:
            raise
        interrupted = True
    if names is not None and not interrupted and len(names) != len(results):
        raise MeasurementError(
            f"There are {len(names)} names for {len(results)} checkpoints; give one for each."
        )
    found = tuple(names[: len(results)]) if names is not None else _names(places)
    return GradientsByCheckpoint(
        found, tuple(_named(*each) for each in zip(found, results, strict=True)), interrupted
    )


def _names(places: Sequence[Path | None]) -> tuple[str, ...]:
    """Names of files; with their folder where one name occurs twice; a number without a file."""
    stems = [str(number) if place is None else place.stem for number, place in enumerate(places)]
    return tuple(
        f"{place.parent.name}/{stem}" if place is not None and stems.count(stem) > 1 else stem
        for stem, place in zip(stems, places, strict=True)
    )


def _named(name: str, result: GradientsByLength) -> GradientsByLength:
    model = {**result.provenance.model, "name": name}
    return replace(result, provenance=replace(result.provenance, model=model))
