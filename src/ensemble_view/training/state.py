"""What a training run keeps after each epoch, so that it can be interrupted and resumed."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ensemble_view.errors import CheckpointError
from ensemble_view.nets.weights_file import replace_file
from ensemble_view.training.recipe import TrainingError

__all__ = ["TrainingState", "kept_path", "read_state", "resume_path", "write_state"]


@dataclass
class TrainingState:
    """What changes while a net is trained, and what a resumed run starts from.

    Args:
        model: The net.
        optimiser: Its optimiser, with the momentum so far.
        history: Loss and accuracies of every full epoch.
        seconds: Time spent on them.
    """

    model: nn.Module
    optimiser: torch.optim.SGD
    history: list[dict[str, float | int | None]] = field(default_factory=list)
    seconds: float = 0.0

    def snapshot(self) -> dict[str, Any]:
        """Return a copy of everything, as plain values and tensors."""
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            "optimiser": copy.deepcopy(self.optimiser.state_dict()),
            "history": [dict(entry) for entry in self.history],
            "seconds": self.seconds,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot."""
        self.model.load_state_dict(snapshot["model"])
        self.optimiser.load_state_dict(snapshot["optimiser"])
        self.history = list(snapshot["history"])
        self.seconds = float(snapshot["seconds"])


def resume_path(checkpoint_path: str | Path) -> Path:
    """Return where the state of an unfinished training is kept.

    Args:
        checkpoint_path: Where the trained net goes.

    Returns:
        The same path with `.resume` after it.

    Example:
        >>> resume_path("net.safetensors").name
        'net.safetensors.resume'
    """
    path = Path(checkpoint_path)
    return path.with_name(path.name + ".resume")


def kept_path(checkpoint_path: str | Path, epoch: int) -> Path:
    """Return where the net as it was after an epoch is kept.

    Args:
        checkpoint_path: Where the trained net goes.
        epoch: Epochs done; 0 for the untrained net.

    Returns:
        The same path with the epoch before its suffix.

    Example:
        >>> kept_path("net.safetensors", 5).name
        'net-epoch005.safetensors'
    """
    path = Path(checkpoint_path)
    return path.with_name(f"{path.stem}-epoch{epoch:03d}{path.suffix}")


def write_state(path: Path, snapshot: dict[str, Any], settings: dict[str, Any]) -> None:
    """Keep the state after a full epoch.

    Args:
        path: Where to.
        snapshot: What `TrainingState.snapshot` gave.
        settings: What has to be the same when the run is resumed, plain values.
    """
    buffer = io.BytesIO()
    torch.save({"snapshot": snapshot, "settings": json.dumps(settings)}, buffer)
    replace_file(path, buffer.getvalue())


def read_state(
    path: Path | None, settings: dict[str, Any], device: str | torch.device
) -> dict[str, Any]:
    """Return the snapshot to go on from.

    Args:
        path: What `write_state` wrote.
        settings: The settings of the run that is to go on.
        device: Where its tensors shall lie.

    Returns:
        A snapshot for `TrainingState.restore`.

    Raises:
        TrainingError: If there is none, or it belongs to a run with other settings.
        CheckpointError: If the file is damaged.
    """
    if path is None or not path.is_file():
        raise TrainingError(
            f"There is no unfinished training to resume at {path}: start it anew without --resume."
        )
    try:
        stored = torch.load(path, map_location=device, weights_only=True)
        found, snapshot = json.loads(stored["settings"]), stored["snapshot"]
    except Exception as error:
        raise CheckpointError(
            f"{path} is no complete training state: start anew without --resume."
        ) from error
    for key, value in settings.items():
        old, new = found.get(key), json.loads(json.dumps(value))
        if old != new:
            if isinstance(new, dict) and isinstance(old, dict):
                key = next(name for name in new if old.get(name) != new[name])
                old, new = old.get(key), new[key]
            raise TrainingError(
                f"The unfinished training at {path} has {key} {old}, this one {new}: resume it "
                "with the same settings, or start anew without --resume."
            )
    result: dict[str, Any] = snapshot
    return result
