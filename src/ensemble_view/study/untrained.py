"""The net before training, where it cannot be built anew: its weights drawn by its own modules."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ensemble_view.core.chain import Chain, arguments_of
from ensemble_view.errors import MeasurementError
from ensemble_view.nets.checkpoints import Checkpoint
from ensemble_view.shared_state import RANDOM

__all__ = ["calibrate_batchnorm", "untrained_copy", "untrained_net"]


def untrained_net(
    model: nn.Module | Chain | Checkpoint, chain: Chain, inputs: Any, seed: int
) -> tuple[nn.Module, str]:
    """Give the net before training: built anew where that can be done, else drawn by its modules.

    Args:
        model: What the study was given.
        chain: What was found in it.
        inputs: Of one batch on the model's device, for the statistics of BatchNorm.
        seed: Of the weights.

    Returns:
        The net in evaluation mode, and how it was come by.

    Raises:
        MeasurementError: If the chain was put together by hand, or how a parameter is initialised
            cannot be told.
    """
    if chain.model is None:
        raise MeasurementError(
            "A chain put together by hand has no model that could be initialised anew; give the "
            "model, or measure the untrained chain by itself."
        )
    how = "built anew"
    fresh = model.untrained(seed) if isinstance(model, Checkpoint) else None
    if fresh is None:
        fresh, how = untrained_copy(chain.model, seed), "weights drawn anew by its modules"
    calibrate_batchnorm(fresh, inputs)
    return fresh, f"{how}, seed {seed}; BatchNorm, if any, with the first batch's statistics"


def untrained_copy(model: nn.Module, seed: int) -> nn.Module:
    """Copy a net and draw its weights anew, as its modules initialise them.

    Every module's ``reset_parameters`` is called, the outer ones last, since they speak for what
    they hold; then ``_init_weights``, a function of a module by which many nets draw the weights of
    all they hold. A weight that none of them sets would still be a trained one, and is refused.

    Args:
        model: Any module. It is left as it was.
        seed: Of the draws, which come from torch's generators, whose states are put back.

    Returns:
        The copy, in evaluation mode.

    Raises:
        MeasurementError: If a parameter has no initialisation that can be called; it is named. If
            the net cannot be copied.

    Example:
        >>> layer = nn.Linear(4, 4)
        >>> one, same, other = (untrained_copy(layer, seed) for seed in (0, 0, 1))
        >>> torch.equal(one.weight, same.weight), torch.equal(one.weight, other.weight)
        (True, False)
    """
    try:
        fresh = copy.deepcopy(model).eval()
    except RuntimeError as error:
        raise MeasurementError(
            f"The net cannot be copied ({str(error).splitlines()[0]}), as a program of "
            "torch.export cannot, so that its weights cannot be drawn anew. Give the untrained "
            "net itself: untrained=model."
        ) from error
    devices = {each.device for each in fresh.parameters() if each.device.type == "cuda"}
    with RANDOM, torch.random.fork_rng(devices=sorted(devices, key=str)), torch.no_grad():
        torch.manual_seed(seed)
        for parameter in fresh.parameters():
            if parameter.is_floating_point():
                parameter.fill_(torch.nan)
        for module in reversed(list(fresh.modules())):
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
        for module in fresh.modules():
            initialise: Any = getattr(module, "_init_weights", None)
            if callable(initialise):
                module.apply(initialise)
                break
    for name, parameter in fresh.named_parameters():
        if bool(parameter.isnan().any()):
            raise MeasurementError(
                f"How {name} is initialised cannot be told: neither reset_parameters nor "
                "_init_weights of any module sets it. Give the untrained net itself: "
                "untrained=model."
            )
    return fresh


def calibrate_batchnorm(model: nn.Module, inputs: Any) -> None:
    """Set the running statistics of every BatchNorm to those of one batch.

    An untrained net's own are zero and one, whatever the data: in evaluation mode it would not
    normalise at all, and activations would grow from block to block. With those of a batch it is
    the net with which training begins.

    Args:
        model: A net in evaluation mode, which is changed.
        inputs: Its input for one batch.

    Example:
        >>> norm = nn.BatchNorm1d(1).eval()
        >>> calibrate_batchnorm(norm, torch.tensor([[1.0], [3.0]]))
        >>> norm.running_mean
        tensor([2.])
    """
    norms = [
        (module, module.momentum)
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return
    args, named = arguments_of(inputs)
    try:
        for module, _ in norms:
            module.training, module.momentum = True, 1.0
        with torch.no_grad():
            model(*args, **named)
    finally:
        for module, momentum in norms:
            module.training, module.momentum = False, momentum
