"""Small residual networks, with and without their skip connections and normalization.

All blocks have one width and full resolution. Without projections and strides the skip connection is the identity
everywhere, so `skip: false` removes it and changes nothing else: same parameters, same initial weights, which is what a
comparison of landscapes needs.
"""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import nn

from lossgeo.errors import UsageError
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.models._activation import Activation, activation_module
from lossgeo.landscapes.task import Task

_CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d}
_BATCH_NORM = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
_MEAN = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d}


class _Residual(nn.Sequential):
    """x + branch(x)"""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs + super().forward(inputs)  # type: ignore[no-any-return, no-untyped-call]


@final
class ResNet(Model):
    """Residual blocks of two layers each; convolutions on images and signals, linear layers on flat inputs.

    h_0 = s(n(A_0 x)),  h_k = s(h_{k-1} + n(B_k s(n(A_k h_{k-1})))),  f(x) = W mean(h) + b

    s is the activation, n the normalization, mean the average over positions. `skip: false` drops the `h_{k-1} +`.
    Under a normalization the layers before it have no bias (batch normalization would cancel it exactly).

    Source: He et al. 2016; Li et al. 2018 for what `skip` does to the landscape.
    Errors: inputs that are neither flat, nor signals (channels, length), nor images (channels, height, width).
    """

    width: int = Field(default=16, ge=1, le=65536, description="channels (or units) of every block")
    blocks: int = Field(default=2, ge=0, le=1000, description="residual blocks")
    skip: bool = Field(default=True, description="whether blocks have their skip connection")
    normalization: Literal["none", "batch", "layer"] = Field(
        default="batch",
        description="after every layer of the blocks; layer: over all channels and positions of an example",
    )
    activation: Activation = Field(default="relu", description="nonlinearity s")

    def module(self, task: Task) -> nn.Module:
        positions = len(task.inputs) - 1  # axes besides the channels
        if positions not in (0, 1, 2):
            raise UsageError(
                "model 'resnet' takes flat inputs (features,), signals (channels, length) or images (channels, height, "
                f"width), not inputs of shape {task.inputs}; use `model: mlp`, which flattens its inputs"
            )
        layers = [*self._layer(task.inputs[0], positions), activation_module(self.activation)]
        for _ in range(self.blocks):
            branch = [
                *self._layer(self.width, positions),
                activation_module(self.activation),
                *self._layer(self.width, positions),
            ]
            layers.append(_Residual(*branch) if self.skip else nn.Sequential(*branch))
            layers.append(activation_module(self.activation))
        mean = [_MEAN[positions](1), nn.Flatten()] if positions else []
        return nn.Sequential(*layers, *mean, nn.Linear(self.width, task.outputs))

    def _layer(self, inputs: int, positions: int) -> list[nn.Module]:
        bias = self.normalization == "none"
        layer = (
            _CONVOLUTION[positions](inputs, self.width, 3, padding=1, bias=bias)
            if positions
            else nn.Linear(inputs, self.width, bias=bias)
        )
        match self.normalization:
            case "none":
                return [layer]
            case "batch":
                return [layer, _BATCH_NORM[positions](self.width)]
            case "layer":
                return [layer, nn.GroupNorm(1, self.width)]  # one group is layer normalization, on every shape
