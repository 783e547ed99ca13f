"""Initial weights that the reference nets share."""

from __future__ import annotations

from typing import Literal

from torch import nn

__all__ = ["initialise"]


def initialise(model: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """Draw the weights of all convolutions and linear layers by He et al.'s rule.

    Convolutions: normal with variance 2 / (k² · channels out), He et al. 2015 (arXiv 1502.01852),
    section 2.2, in its backward form, or over the channels in; normalisation layers: gain one,
    shift zero; linear layers: the same rule over their inputs; shifts are zero, but those of gates
    as these say. Draws come from torch's global generator, so a caller who wants a seed sets it
    around the construction.

    Args:
        model: The net to initialise in place.
        mode: Whether convolutions keep the variance of values ("fan_in") or gradients ("fan_out").

    Example:
        >>> import torch
        >>> layer = nn.Conv2d(64, 64, 3, bias=False)
        >>> _ = torch.manual_seed(0)
        >>> initialise(layer)
        >>> round(float(layer.weight.detach().var()) * 9 * 64 / 2, 1)
        1.0
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        else:
            continue
        if module.bias is not None:
            nn.init.constant_(module.bias, getattr(module, "initial_bias", 0.0))
