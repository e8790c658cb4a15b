"""The gradient of a chain of linear layers and nonlinearities, by hand.

Autograd spends more time on its graph than a small network does on arithmetic: an MLP 64-64-64-10 at batch 32 takes
115 microseconds a gradient on one thread, and 61 here. The numbers are autograd's up to rounding. All else, and every
second derivative, goes through autograd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import nn

from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.models import Rows

# nonlinearities whose derivative is a function of their output a: from (dL/da, a) to dL/dz, in one kernel
BACKWARD: dict[type[nn.Module], Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    nn.Tanh: torch.ops.aten.tanh_backward.default,
    nn.Sigmoid: torch.ops.aten.sigmoid_backward.default,
    nn.ReLU: lambda slope, a: torch.ops.aten.threshold_backward.default(slope, a, 0),
    nn.Identity: lambda slope, a: slope,
}
FORWARD: dict[type[nn.Module], Callable[[torch.Tensor], torch.Tensor]] = {
    nn.Tanh: torch.tanh_,
    nn.Sigmoid: torch.sigmoid_,
    nn.ReLU: torch.relu_,
    nn.Identity: lambda z: z,
}


class Chain:
    """h_0 = x,  z_l = h_{l-1} W_l' + b_l,  h_l = s_l(z_l);  backward:  dW_l = d_l' h_{l-1},  db_l = sum d_l,
    d_{l-1} = (d_l W_l) s'_{l-1}, from d_L = dL/dz_L.
    """

    def __init__(self, layers: list[tuple[nn.Linear, type[nn.Module]]], loss: Loss, gradient: torch.Tensor) -> None:
        self.layers = [(layer.weight, layer.bias, FORWARD[s], BACKWARD[s]) for layer, s in layers]
        self.loss = loss
        sizes = [p.numel() for layer, _ in layers for p in layer.parameters()]
        pieces = iter(torch.split(gradient, sizes))
        # where each layer's part of the flat gradient goes
        self.parts = [
            (next(pieces).view(layer.weight.shape), None if layer.bias is None else next(pieces)) for layer, _ in layers
        ]

    @classmethod
    def of(cls, module: nn.Module, loss: Loss, gradient: torch.Tensor) -> Self | None:
        """The chain that a module is, writing into the flat `gradient` (P,); None where it is anything else."""
        layers = chain_layers(module)
        return None if layers is None else cls(layers, loss, gradient)

    @torch.no_grad()
    def differentiate(self, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss on a batch, a scalar; its gradient goes into the flat vector that the chain was made with."""
        h = inputs if inputs.ndim == 2 else inputs.flatten(1)
        seen = [h]
        for weight, bias, forward, _ in self.layers:
            h = forward(nn.functional.linear(h, weight, bias))
            seen.append(h)
        loss, slope = self.loss.gradient(h, targets)
        for number in range(len(self.layers) - 1, -1, -1):
            weight, _, _, backward = self.layers[number]
            slope = backward(slope, seen[number + 1])
            weight_part, bias_part = self.parts[number]
            torch.mm(slope.t(), seen[number], out=weight_part)
            if bias_part is not None:
                torch.sum(slope, 0, out=bias_part)
            if number:
                slope = slope.mm(weight)
        return loss


def chain_layers(module: nn.Module) -> list[tuple[nn.Linear, type[nn.Module]]] | None:
    """Linear layers, each with the nonlinearity behind it, where a module is a chain of these that all learn."""
    if type(module) is not Rows or any(not p.requires_grad for p in module.parameters()):
        return None
    layers: list[tuple[nn.Linear, type[nn.Module]]] = []
    for layer in module:
        if type(layer) is nn.Linear:
            layers.append((layer, nn.Identity))
        elif layers and layers[-1][1] is nn.Identity and type(layer) in BACKWARD:
            layers[-1] = (layers[-1][0], type(layer))
        else:
            return None
    distinct = len({id(p) for p in module.parameters()}) == sum(len(list(x.parameters())) for x, _ in layers)
    return layers if layers and distinct else None
