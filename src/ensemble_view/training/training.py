"""Train the reference nets: deterministic by seed, resumable, with a record of what was done."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from ensemble_view.data.labelled_data import IndexedData
from ensemble_view.data.opening import DATA_NAMES
from ensemble_view.nets.adapters.adapted import Normalisation
from ensemble_view.nets.checkpoints import Checkpoint, save_checkpoint
from ensemble_view.nets.models.architecture import Architecture
from ensemble_view.nets.models.blocks import SkippableBlock
from ensemble_view.nets.models.building import build
from ensemble_view.nets.weights_file import check_destination
from ensemble_view.shared_state import RANDOM
from ensemble_view.training.recipe import (
    Recipe,
    TrainingError,
    augment,
    epoch_generator,
    learning_rate_at,
)
from ensemble_view.training.regimes import Regime, regime_of, without_dropped
from ensemble_view.training.state import (
    TrainingState,
    kept_path,
    read_state,
    resume_path,
    write_state,
)

__all__ = ["Progress", "channel_statistics", "train"]

_EVALUATION_BATCH = 256


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Args:
        epoch: Epochs done.
        epochs: Epochs in all.
        step: Steps done, over all epochs.
        steps: Steps in all.
        loss: Mean cross-entropy of the epoch so far, nats.
        test_accuracy: Share of the test examples named rightly after the last full epoch.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    test_accuracy: float | None


def channel_statistics(data: IndexedData) -> Normalisation:
    """Return mean and standard deviation of each channel over all pixels of all examples.

    Args:
        data: Images (C, H, W), not normalised.

    Returns:
        Mean and standard deviation, in units of the scaled pixels, rounded to six decimals; a
        channel without variation counts as having deviation 1.

    Example:
        >>> from ensemble_view.data.opening import open_data
        >>> mean, std = channel_statistics(open_data("digits", split="train"))
        >>> 0.3 < mean[0] < 0.31, 0.3 < std[0] < 0.4
        (True, True)
    """
    total, squares, count = torch.zeros(1), torch.zeros(1), 0
    for inputs, _ in data.batches(_EVALUATION_BATCH):
        values = inputs.double()
        total = total + values.sum(dim=(0, 2, 3))
        squares = squares + values.square().sum(dim=(0, 2, 3))
        count += inputs.shape[0] * inputs.shape[2] * inputs.shape[3]
    mean = total / count
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    rounded = [tuple(round(float(value), 6) for value in part) for part in (mean, deviation)]
    return rounded[0], rounded[1]


def train(
    architecture: str | Architecture,
    data_train: IndexedData,
    data_test: IndexedData | None = None,
    *,
    recipe: Recipe | None = None,
    device: str | torch.device = "cpu",
    checkpoint_path: str | Path | None = None,
    resume: bool = False,
    half: bool = False,
    keep: Collection[int] = (),
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """Train a reference net.

    The architecture's options `survival` and `kept` say which blocks a batch goes through, see
    :mod:`ensemble_view.training.regimes`.

    The same seed, data, number of threads and device give the same weights, also when the run was
    interrupted and resumed. If the training data carries no normalisation, its own mean and
    standard deviation per channel are measured and used for both sets. On Ctrl-C the last full
    epoch is kept, in memory and, with a path, in the file; the record then says "interrupted".

    Args:
        architecture: For example "resnet110", "resnet110,survival=50" (stochastic depth),
            "resnet110,kept=23" (so many blocks per batch), "plain20" or "vgg15,width=16".
        data_train: Images to learn from.
        data_test: Images to measure accuracy on after each epoch. The very data that is learned
            from counts as none, so that no accuracy on it passes for test accuracy.
        recipe: How to train; `Recipe()` if left out.
        device: Where to train.
        checkpoint_path: Where to put the trained net; beside it, until the run is finished, lies
            the state from which it can be resumed.
        resume: Whether to go on from that state.
        half: Whether to store convolutions and linear layers in half precision; the returned net
            and the last accuracy are those of the stored weights.
        keep: Epochs after which the net is kept in a file of its own beside the trained one, such
            as net-epoch005.safetensors; 0 is the untrained net.
        overwrite: Whether files of another training, finished or not, may be replaced.
        progress: Called after each step.

    Returns:
        The net with its training record.

    Raises:
        TrainingError: If the loss is no longer finite, the state does not belong to this run, or
            epochs shall be kept that there are not, or without a path.
        KeyboardInterrupt: If Ctrl-C came before the first epoch was done.
    """
    recipe = recipe or Recipe()
    if isinstance(architecture, str):
        architecture = Architecture.parse(architecture)
    _check_kept(keep, recipe, checkpoint_path)
    if data_test is not None and data_test.fingerprint() == data_train.fingerprint():
        data_test = None
    shape, classes = _shape_and_classes(data_train, data_test)
    data_train, data_test, normalisation = _normalised(data_train, data_test)
    settings = _settings(architecture, recipe, data_train, data_test)
    state_path = None
    if checkpoint_path is not None:
        state_path = resume_path(checkpoint_path)
        check_destination(
            Path(checkpoint_path),
            # What is there is then the very run's own.
            overwrite=overwrite or resume,
            beside=[state_path, *(kept_path(checkpoint_path, epoch) for epoch in sorted(keep))],
        )
    with _deterministic(recipe.seed):
        model = build(
            architecture, in_channels=shape[0], classes=classes, pixels=shape[1] * shape[2]
        )
        run = _start(model, recipe, device)

        def finished(run: TrainingState, interrupted: bool) -> Checkpoint:
            made = _finish(run, architecture, normalisation, data_train, data_test, half)
            record = {**settings, "interrupted": interrupted, **(made.training or {})}
            return replace(made, training=record)

        def kept(run: TrainingState) -> None:
            if checkpoint_path is not None and len(run.history) in keep:
                made = finished(copy.deepcopy(run), interrupted=False)
                _save(made, kept_path(checkpoint_path, len(run.history)), architecture, half)

        if resume:
            run.restore(read_state(state_path, settings, device))
        else:
            kept(run)
        regime = regime_of(architecture)
        interrupted = _loop(
            run, recipe, regime, data_train, data_test, state_path, settings, kept, progress
        )
    checkpoint = finished(run, interrupted)
    checkpoint = replace(
        checkpoint, path=None if checkpoint_path is None else Path(checkpoint_path)
    )
    if checkpoint.path is not None and state_path is not None:
        _save(checkpoint, checkpoint.path, architecture, half)
        if not interrupted:
            state_path.unlink(missing_ok=True)
    return checkpoint


def _save(checkpoint: Checkpoint, path: Path, architecture: Architecture, half: bool) -> None:
    """Write the trained net with everything that is known about it."""
    save_checkpoint(
        path,
        checkpoint.model,
        architecture=architecture,
        normalisation=checkpoint.normalisation,
        data=checkpoint.data,
        class_names=checkpoint.class_names,
        input_shape=checkpoint.input_shape,
        training=checkpoint.training,
        half=half,
    )


def _finish(
    run: TrainingState,
    architecture: Architecture,
    normalisation: Normalisation,
    train_data: IndexedData,
    test_data: IndexedData | None,
    half: bool,
) -> Checkpoint:
    """Return the trained net on the CPU, with the record of the run."""
    device = next(run.model.parameters()).device.type
    model = run.model.cpu().to(memory_format=torch.contiguous_format).eval()
    if half:
        _round_to_half(model)
    if run.history and not half:
        accuracy = run.history[-1]["test_accuracy"]
    else:
        accuracy = None if test_data is None else _accuracy(model, test_data)
    record = {
        "epochs_done": len(run.history),
        "test_accuracy": accuracy,
        "history": run.history,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "half": half,
        "threads": torch.get_num_threads(),
        "device": device,
        "versions": _versions(),
        "seconds": round(run.seconds, 1),
    }
    return Checkpoint(
        model=model,
        architecture=str(architecture),
        normalisation=normalisation,
        # A path or a nickname would mean something else, or nothing, where the net is used.
        data=train_data.name if train_data.name in DATA_NAMES else None,
        class_names=train_data.class_names,
        input_shape=tuple(train_data.take([0])[0].shape[1:]),
        training=record,
        path=None,
    )


def _check_kept(keep: Collection[int], recipe: Recipe, path: str | Path | None) -> None:
    """Refuse epochs that cannot be kept."""
    if keep and path is None:
        raise TrainingError(
            "There is no checkpoint path beside which nets could be kept: give one."
        )
    if wrong := sorted(epoch for epoch in keep if not 0 <= epoch <= recipe.epochs):
        raise TrainingError(
            f"Epoch {wrong[0]} cannot be kept: there are {recipe.epochs}; 0 is the untrained net."
        )


def _normalised(
    train_data: IndexedData, test_data: IndexedData | None
) -> tuple[IndexedData, IndexedData | None, Normalisation]:
    """Return both sets under one normalisation, measured if the training data has none."""
    settings = train_data.preprocessing
    if settings.mean is not None and settings.std is not None:
        return train_data, test_data, (settings.mean, settings.std)
    found = channel_statistics(train_data)
    tested = None if test_data is None else test_data.with_normalisation(*found)
    return train_data.with_normalisation(*found), tested, found


def _shape_and_classes(
    train_data: IndexedData, test_data: IndexedData | None
) -> tuple[tuple[int, ...], int]:
    """Return the shape of an image and the number of classes."""
    inputs, _ = train_data.take([0])
    if inputs.ndim != 4:
        raise TrainingError(
            f"Inputs have shape {tuple(inputs.shape[1:])}: expected images (channels, height, "
            "width)."
        )
    if len(train_data) < 2:
        raise TrainingError("There is one training example: expected at least 2.")
    shape = tuple(inputs.shape[1:])
    if test_data is not None and (other := tuple(test_data.take([0])[0].shape[1:])) != shape:
        raise TrainingError(
            f"The test images have shape {other}, the training images {shape}: expected the same."
        )
    sets = [train_data] if test_data is None else [train_data, test_data]
    most = max(int(data.labels.max()) for data in sets) + 1
    return shape, max(most, len(train_data.class_names or ()))


def _settings(
    architecture: Architecture,
    recipe: Recipe,
    train_data: IndexedData,
    test_data: IndexedData | None,
) -> dict[str, Any]:
    """Return what has to be the same for a run to be the same."""
    return {
        "architecture": str(architecture),
        "recipe": asdict(recipe),
        "regime": regime_of(architecture).to_json(),
        "data": train_data.name,
        "train_examples": len(train_data),
        "train_fingerprint": train_data.fingerprint(),
        "test_examples": None if test_data is None else len(test_data),
        "test_fingerprint": None if test_data is None else test_data.fingerprint(),
    }


def _versions() -> dict[str, str]:
    """Return the versions that the result may depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
    }


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    """Seed torch's global generators, and put them back afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with (
        RANDOM,
        torch.random.fork_rng(devices=devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        torch.manual_seed(seed)
        yield


def _start(model: nn.Module, recipe: Recipe, device: str | torch.device) -> TrainingState:
    """Return a run before its first step."""
    try:
        model = model.to(device)
        if recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise TrainingError(
            f"The device {str(device)!r} cannot be used ({reason}): choose cpu, or another."
        ) from error
    optimiser = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov,
    )
    return TrainingState(model, optimiser)


def _loop(
    run: TrainingState,
    recipe: Recipe,
    regime: Regime,
    train_data: IndexedData,
    test_data: IndexedData | None,
    state_path: Path | None,
    settings: dict[str, Any],
    kept: Callable[[TrainingState], None],
    progress: Callable[[Progress], None] | None,
) -> bool:
    """Train until the last epoch; return whether Ctrl-C ended it before."""
    snapshot = run.snapshot()
    try:
        while len(run.history) < recipe.epochs:
            begun = time.perf_counter()
            loss, accuracy = _epoch(run, recipe, regime, train_data, progress)
            tested = None if test_data is None else _accuracy(run.model, test_data)
            run.seconds += time.perf_counter() - begun
            entry = {"loss": loss, "accuracy": accuracy, "test_accuracy": tested}
            run.history.append({"epoch": len(run.history), **entry})
            kept(run)
            snapshot = run.snapshot()
            if state_path is not None:
                write_state(state_path, snapshot, settings)
    except KeyboardInterrupt:
        if not snapshot["history"]:
            raise
        run.restore(snapshot)
        return len(run.history) < recipe.epochs
    return False


def _epoch(
    run: TrainingState,
    recipe: Recipe,
    regime: Regime,
    data: IndexedData,
    progress: Callable[[Progress], None] | None,
) -> tuple[float, float]:
    """Train for one epoch; return mean loss and accuracy over it."""
    epoch = len(run.history)
    generator = epoch_generator(recipe.seed, epoch)
    of_blocks = epoch_generator(recipe.seed, epoch, 1)
    # What the net itself draws, such as dropout, comes from the global generators.
    torch.manual_seed(epoch_generator(recipe.seed, epoch, 2).initial_seed())
    blocks = [module for module in run.model.modules() if isinstance(module, SkippableBlock)]
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    order = torch.randperm(len(data), generator=generator)
    # A last batch of one example has no variance to normalise by.
    batches = [part for part in torch.split(order, recipe.batch_size) if len(part) > 1]
    device = next(run.model.parameters()).device
    tested = run.history[-1]["test_accuracy"] if run.history else None
    run.model.train()
    losses, right, seen = 0.0, 0, 0
    for number, positions in enumerate(batches):
        inputs, labels = data.take(positions.numpy())
        shift = min(inputs.shape[-2:]) // 8 if recipe.shift is None else recipe.shift
        inputs = augment(inputs, shift, recipe.flip, generator)
        inputs = inputs.to(device, memory_format=layout)
        step = epoch * len(batches) + number
        for group in run.optimiser.param_groups:
            group["lr"] = learning_rate_at(recipe, step, len(batches))
        with without_dropped(blocks, regime.draw(blocks, of_blocks)):
            loss, hits = _step(run, recipe, inputs, labels.to(device))
        if not np.isfinite(loss):
            raise TrainingError(
                f"The loss became {loss} in epoch {epoch + 1}, step {number + 1}: lower the "
                "learning rate or lengthen the warm-up."
            )
        losses, right, seen = losses + loss * len(labels), right + hits, seen + len(labels)
        if progress is not None:
            total = recipe.epochs * len(batches)
            progress(Progress(epoch, recipe.epochs, step + 1, total, losses / seen, tested))
    return losses / seen, right / seen


def _step(run: TrainingState, recipe: Recipe, inputs: Tensor, labels: Tensor) -> tuple[float, int]:
    """Take one step; return the mean loss and the number of examples named rightly."""
    run.optimiser.zero_grad()
    reduced = recipe.precision == "bfloat16"
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=reduced):
        logits = run.model(inputs)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
    torch.autograd.backward(loss)
    for parameter in run.model.parameters():
        # Momentum and weight decay go on where the branch was left out, as in ordinary training.
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    run.optimiser.step()
    return float(loss.detach()), int((logits.argmax(1) == labels).sum())


@torch.no_grad()
def _accuracy(model: nn.Module, data: IndexedData) -> float:
    """Return the share of examples whose largest logit is their label's."""
    device = next(model.parameters()).device
    model.eval()
    right = 0
    for inputs, labels in data.batches(_EVALUATION_BATCH):
        logits = model(inputs.to(device))
        right += int((logits.argmax(1).cpu() == labels).sum())
    return right / len(data)


@torch.no_grad()
def _round_to_half(model: nn.Module) -> None:
    """Round what `save_checkpoint` stores in half precision."""
    for value in model.state_dict().values():
        if value.ndim >= 2 and value.is_floating_point():
            half = value.half()
            if bool(torch.isfinite(half).all()):
                value.copy_(half)
