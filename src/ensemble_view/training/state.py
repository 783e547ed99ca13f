"""What a training run keeps after each epoch, so that it can be interrupted and resumed."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ensemble_view.errors import CheckpointError
from ensemble_view.nets.weights_file import replace_file
from ensemble_view.reading.archives import check_zip
from ensemble_view.reading.json_text import parse_json
from ensemble_view.reading.regular import check_regular, one_line
from ensemble_view.training.recipe import TrainingError

__all__ = ["TrainingState", "kept_path", "read_state", "resume_path", "write_state"]


_ENTRIES = {"epoch", "loss", "accuracy", "test_accuracy"}


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
        """Go back to a snapshot.

        Args:
            snapshot: What :meth:`snapshot` gave, perhaps by way of a file.

        Raises:
            CheckpointError: If it is not of this net, or damaged.
        """
        try:
            self._restore(snapshot)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"The training state is damaged ({one_line(error)}): start anew without --resume."
            ) from error

    def _settings(self) -> list[dict[str, Any]]:
        """What the optimiser was made with; the learning rate changes with every step."""
        changing = ("params", "lr")
        return [
            {name: value for name, value in group.items() if name not in changing}
            for group in self.optimiser.param_groups
        ]

    def _restore(self, snapshot: dict[str, Any]) -> None:
        _check_history(snapshot["history"])
        self.model.load_state_dict(snapshot["model"])
        settings = self._settings()
        self.optimiser.load_state_dict(snapshot["optimiser"])
        if self._settings() != settings:
            raise ValueError("the settings of its optimiser are others")
        for parameter, held in self.optimiser.state.items():
            momentum = held.get("momentum_buffer")
            if not isinstance(momentum, Tensor | None) or (
                momentum is not None and momentum.shape != parameter.shape
            ):
                raise ValueError("a momentum is none of its weight's")
        self.history = list(snapshot["history"])
        self.seconds = float(snapshot["seconds"])


def _check_history(history: Any) -> None:
    """Refuse what is no history of epochs, which otherwise is only missed after the next one."""
    if not isinstance(history, list):
        raise TypeError("its history is no list")
    for epoch, entry in enumerate(history):
        if set(entry) != _ENTRIES or entry["epoch"] != epoch:
            raise ValueError(f"its history has no entry of epoch {epoch}")
        if not all(_is_number(value) for value in entry.values()):
            raise TypeError(f"its history of epoch {epoch} holds what is no number")


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


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
        check_regular(path)
        check_zip(path)
        stored = torch.load(path, map_location=device, weights_only=True)
        found, snapshot = dict(parse_json(stored["settings"])), dict(stored["snapshot"])
    except Exception as error:
        raise CheckpointError(
            f"{path} is no complete training state: start anew without --resume."
        ) from error
    for key, value in settings.items():
        old, new = found.get(key), json.loads(json.dumps(value))
        if old != new:
            if isinstance(new, dict) and isinstance(old, dict):
                names = (*new, *old)
                key = next(n for n in names if (n in old, old.get(n)) != (n in new, new.get(n)))
                old, new = old.get(key, "not said"), new.get(key, "not said")
            raise TrainingError(
                f"The unfinished training at {path} has {key} {old}, this one {new}: resume it "
                "with the same settings, or start anew without --resume."
            )
    result: dict[str, Any] = snapshot
    return result
