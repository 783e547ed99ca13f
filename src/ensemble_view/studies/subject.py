"""What every study starts from: a chain, data, and where both come from."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_view.chain import Chain
from ensemble_view.checkpoints import Checkpoint, weights_hash
from ensemble_view.datasets import LabelledData, as_data, open_data
from ensemble_view.discovery import Granularity, unravel
from ensemble_view.errors import DataError
from ensemble_view.results import Provenance

__all__ = ["Subject", "examine"]

_PACKAGES = ("ensemble-view", "torch", "torchvision", "numpy", "scipy", "pandas")


@dataclass(frozen=True, eq=False)
class Subject:
    """A chain and the data it is studied on.

    Args:
        chain: What is studied.
        data: What it is studied on.
        model: Of the model: name, architecture, hash of its weights.
        sample: The model's arguments for the first few examples.
    """

    chain: Chain
    data: LabelledData
    model: Mapping[str, Any]
    sample: tuple[Tensor, ...]

    def provenance(
        self, *, seed: int, command: str | None, batch_size: int, threads: int
    ) -> Provenance:
        """Record where a result comes from.

        Args:
            seed: Of every random choice.
            command: What made the result; by default the program's own command line.
            batch_size: Examples per batch.
            threads: Of torch on the CPU.

        Returns:
            The record.
        """
        versions = {name: metadata.version(name) for name in _PACKAGES}
        return Provenance(
            model=self.model,
            data=self.data.to_json(),
            versions={"python": platform.python_version(), **versions},
            seed=seed,
            command=command or " ".join(sys.argv),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            device=_describe_device(self.model["device"]),
            threads=threads,
            batch_size=batch_size,
        )


def _describe_device(device: str) -> str:
    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return device


def examine(
    model: nn.Module | Chain | Checkpoint,
    data: Any,
    *,
    plain: bool = False,
    granularity: Granularity = "block",
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Subject:
    """Bring a model and data together and unravel the model.

    Args:
        model: A module, a chain, or a checkpoint.
        data: A name or path for :func:`~ensemble_view.datasets.open_data`, or anything that
            :func:`~ensemble_view.datasets.as_data` takes. By name, the data are normalised as the
            checkpoint says.
        plain: Take a net without shortcuts apart into its conv-norm-activation units.
        granularity: ``block`` or ``branch``, as for :func:`ensemble_view.unravel`.
        limit: At most so many examples, class-balanced.
        seed: Of the choice of examples.
        progress: Told the name of each stage of unravelling as it begins.

    Returns:
        The subject of a study.

    Raises:
        DataError: If there is no example.
    """
    if isinstance(data, str):
        normalisation = model.normalisation if isinstance(model, Checkpoint) else None
        mean, std = normalisation or (None, None)
        labelled: LabelledData = open_data(data, mean=mean, std=std)
    else:
        labelled = as_data(data)
    if limit is not None:
        labelled = labelled.subset(limit, seed)
    first = next(iter(labelled.batches(2)), None)
    if first is None:
        raise DataError(f"The data {labelled.name!r} hold no example; there is nothing to measure.")
    module = model.model if isinstance(model, Checkpoint | Chain) else model
    device = next((p.device for p in module.parameters()), "cpu") if module is not None else "cpu"
    sample = first[0][:2].to(device)
    if isinstance(model, Chain):
        chain = model
    else:
        assert module is not None
        chain = unravel(module, sample, plain=plain, granularity=granularity, progress=progress)
    description: dict[str, Any] = {
        "name": type(module).__name__ if module is not None else "parts",
        "blocks": len(chain),
        "device": str(device),
    }
    if isinstance(model, Checkpoint):
        description |= {
            "name": model.path.stem if model.path is not None else model.architecture,
            "architecture": model.architecture,
            "path": None if model.path is None else str(model.path),
            "weights_hash": model.weights_hash,
        }
    elif module is not None:
        description["weights_hash"] = weights_hash(module)
    return Subject(chain, labelled, description, (sample,))
