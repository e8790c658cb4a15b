"""The gradient at R points at once: one vectorized program in place of R.

Small networks and surfaces take longer to be called than to be computed. Side by side they share the calls: a batched
product for each layer where autograd would make a graph a trial.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.autograd.graph import _engine_run_backward
from torch.func import functional_call, grad_and_value, vmap

from lossgeo.landscapes.backprop import BACKWARD, FORWARD, chain_layers
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.task import Examples

Formula = Callable[[torch.Tensor], torch.Tensor]  # theta (..., P) -> losses (...)
Losses = torch.Tensor  # (R,)
Gradients = torch.Tensor  # (R, P)


class Vectorized(ABC):
    """One landscape seen from R points theta (R, P), each with a batch of its own: inputs and targets (R, B, ...)."""

    @staticmethod
    def of(module: nn.Module, loss: Loss, formula: Formula | None, examples: int, mixing: bool) -> Vectorized:
        """The fastest one for a module, or for a formula of theta; `examples`: how many there are in all.

        `mixing`: the loss is no mean over examples, so that nothing is taken from them one by one.
        """
        if formula is not None:
            return VectorizedFormula(formula, examples)
        layers = None if mixing else chain_layers(module)
        return VectorizedModule(module, loss) if layers is None else VectorizedChain(layers, loss)

    @abstractmethod
    def gradient(self, theta: torch.Tensor, batch: Examples) -> tuple[Losses, Gradients]:
        """Losses (R,) and gradients (R, P); costs R gradients over the batch."""


class VectorizedFormula(Vectorized):
    """A formula of theta: rows do not see each other, so the sum of all values has every gradient in one pass.

    The inputs of an example are its tilt, which adds theta . tilt to the value.
    """

    def __init__(self, formula: Formula, examples: int) -> None:
        self.formula = formula
        self.examples = examples

    def gradient(self, theta: torch.Tensor, batch: Examples) -> tuple[Losses, Gradients]:
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            values = self.formula(leaf)
        # torch.autograd.grad without the checks of its arguments
        (gradient,) = _engine_run_backward(
            (values,), (torch.ones_like(values),), False, False, (leaf,), False, accumulate_grad=False
        )
        values = values.detach()
        if batch.inputs.shape[-2] < self.examples:  # all tilts together are zero
            tilt = batch.inputs.mean(-2)
            gradient = gradient + tilt
            values = values + (tilt * theta).sum(-1)
        return values, gradient


class VectorizedChain(Vectorized):
    """Linear layers and nonlinearities, by hand: the formulas of `chain`, with a batched product for every layer."""

    def __init__(self, layers: Sequence[tuple[nn.Linear, type[nn.Module]]], loss: Loss) -> None:
        self.layers = [
            (layer.weight.shape, layer.bias is not None, FORWARD[kind], BACKWARD[kind]) for layer, kind in layers
        ]
        self.loss = loss

    @torch.no_grad()
    def gradient(self, theta: torch.Tensor, batch: Examples) -> tuple[Losses, Gradients]:
        trials, rows = batch.inputs.shape[:2]
        h = batch.inputs.flatten(2)  # (R, B, features)
        at, weights, seen = 0, [], [h]
        for (outputs, inputs), biased, forward, _ in self.layers:
            weight = theta[:, at : at + outputs * inputs].view(trials, outputs, inputs)
            at += outputs * inputs
            weights.append(weight)
            if biased:
                bias = theta[:, at : at + outputs].unsqueeze(1)
                at += outputs
                h = forward(torch.baddbmm(bias, h, weight.mT))
            else:
                h = forward(torch.bmm(h, weight.mT))
            seen.append(h)
        flat, targets = h.flatten(0, 1), batch.targets.flatten(0, 1)
        totals = self.loss.weights(targets).view(trials, rows).sum(1).to(h)
        each, slopes = self.loss.each_and_gradients(flat, targets)
        losses = each.view(trials, rows).sum(1) / totals
        slope = slopes.view_as(h) / totals[:, None, None]
        parts: list[torch.Tensor] = []
        for number in range(len(self.layers) - 1, -1, -1):
            _, biased, _, backward = self.layers[number]
            slope = backward(slope, seen[number + 1])
            if biased:
                parts.append(slope.sum(1))
            parts.append(torch.bmm(slope.mT, seen[number]).flatten(1))
            if number:
                slope = torch.bmm(slope, weights[number])
        return losses, torch.cat(parts[::-1], 1)


class VectorizedModule(Vectorized):
    """Any other module, by vmap of its gradient."""

    def __init__(self, module: nn.Module, loss: Loss) -> None:
        named = dict(module.named_parameters())
        sizes = [p.numel() for p in named.values()]
        frozen = [torch.full((p.numel(),), not p.requires_grad, device=p.device) for p in named.values()]
        self.frozen = torch.cat(frozen)

        def mean(theta: torch.Tensor, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            pieces = torch.split(theta, sizes)
            own = {n: piece.view(p.shape) for (n, p), piece in zip(named.items(), pieces, strict=True)}
            return loss.mean(functional_call(module, own, (inputs,)), targets)

        self.mean = mean
        self.all = vmap(grad_and_value(mean))

    def gradient(self, theta: torch.Tensor, batch: Examples) -> tuple[Losses, Gradients]:
        gradients, losses = self.all(theta, batch.inputs, batch.targets)
        return losses.detach(), gradients.detach().masked_fill_(self.frozen, 0.0)
