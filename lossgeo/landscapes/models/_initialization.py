"""Initial weights by scheme, the same for every family of models.

Only linear and convolution layers are filled. A scheme is a statement about the variance of sums over a layer's inputs;
scale and shift of a normalization layer are no such sums: they stay 1 and 0. Nor is the row that an embedding picks: it
stays as drawn, and is filled only where a linear layer shares the matrix.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from lossgeo.errors import UsageError

Scheme = Literal["default", "he", "xavier", "orthogonal", "zero"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def initialize(module: nn.Module, scheme: Scheme, gain: float, generator: torch.Generator) -> None:
    """Fill the weights of all linear and convolution layers in place, then multiply them by `gain`.

    he          W ~ N(0, 2 / fan_in)                    He et al. 2015, equation 10
    xavier      W ~ N(0, 2 / (fan_in + fan_out))        Glorot and Bengio 2010, equation 12
    orthogonal  W W' = 1 or W' W = 1, uniform (Haar)    Saxe et al. 2014; a kernel counts as the matrix (outputs, rest)
    zero        W = 0
    default     W stays what the layer drew

    Every scheme but `default` sets the biases of these layers to zero. A weight that layers share is filled once.

    Raises:
        UsageError: a layer computes its weight from other parameters, so that there is nothing to fill.
    """
    if scheme == "default" and gain == 1:
        return
    filled: set[int] = set()
    with torch.no_grad():
        for name, layer in module.named_modules():
            if not isinstance(layer, _LAYERS):
                continue
            if not isinstance(layer.weight, nn.Parameter):
                raise UsageError(
                    f"initialization {scheme!r} with gain {gain:g} cannot fill layer {name!r}: a parametrization "
                    "computes its weight; use `initialization: default` and `gain: 1`"
                )
            if scheme != "default" and layer.bias is not None:
                layer.bias.zero_()
            if id(layer.weight) not in filled:
                filled.add(id(layer.weight))
                _fill(layer.weight, scheme, generator)
                layer.weight.mul_(gain)


def _fill(weight: torch.Tensor, scheme: Scheme, generator: torch.Generator) -> None:
    match scheme:
        case "he":
            nn.init.kaiming_normal_(weight, nonlinearity="relu", generator=generator)
        case "xavier":
            nn.init.xavier_normal_(weight, generator=generator)
        case "orthogonal":
            nn.init.orthogonal_(weight, generator=generator)
        case "zero":
            weight.zero_()
        case "default":
            pass
