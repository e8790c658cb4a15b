"""Dense second derivatives by a route that shares nothing with lossgeo's.

The loss is written out again and goes through torch.func's forward-over-reverse, over all examples at once.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.func import functional_call, hessian


class WrittenOutBatchNorm(nn.Module):
    """BatchNorm by the batch's own statistics, as arithmetic.

    torch 2.13's own layer cannot be the oracle here: its forward-over-reverse derivative in training mode is wrong (the
    Hessian comes out unsymmetric, off by 3% where central differences agree with reverse-over-reverse to 4e-10).
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        over = (0, *range(2, x.ndim))
        shape = (1, -1, *[1] * (x.ndim - 2))
        centered = x - x.mean(over, keepdim=True)
        scale = (centered**2).mean(over, keepdim=True) + self.eps
        return centered / scale.sqrt() * self.weight.view(shape) + self.bias.view(shape)


def written_out(module: nn.Module) -> nn.Module:
    """The module with every BatchNorm in it replaced, parameters in the same order."""
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, WrittenOutBatchNorm(child))
        else:
            written_out(child)
    return module


def dense_hessian(module: nn.Module, loss: str, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The Hessian (P, P) of the mean loss in the module's present mode; targets are classes, or values for mse."""
    named = {name: p.detach().clone() for name, p in module.named_parameters()}
    buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
    shapes = {name: p.shape for name, p in named.items()}
    sizes = [p.numel() for p in named.values()]

    def value(theta: torch.Tensor) -> torch.Tensor:
        pieces = zip(shapes.items(), theta.split(sizes), strict=True)
        parameters = {name: piece.reshape(shape) for (name, shape), piece in pieces}
        outputs = functional_call(module, (parameters, buffers), (inputs,))
        if loss == "cross_entropy":
            log_p = outputs - outputs.exp().sum(1, keepdim=True).log()
            return -log_p[torch.arange(len(targets)), targets].mean()
        wanted = targets
        if not targets.is_floating_point():
            wanted = (targets[:, None] == torch.arange(outputs.shape[1])).to(outputs.dtype)
        return ((outputs - wanted) ** 2).sum() / (2 * len(targets))

    theta = torch.cat([p.reshape(-1) for p in named.values()])
    return hessian(value)(theta).detach()
