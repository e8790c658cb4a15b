"""Losses: the mean of a cost of outputs and targets, over examples, and over positions where targets are sequences.

A loss knows its own derivatives by the outputs. Gauss-Newton and Fisher are the network's Jacobian around them, and in
closed form they cost an elementwise product where autograd would need a graph of the loss. A loss that only says
`prepare`, `mean` and `weight` gets right, if slow, ones from here.

Outputs are (B, C), or (B, T, C) for sequences. Targets are in the form that `prepare` gave them.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch.autograd.functional import vhp

from lossgeo.components.component import Component
from lossgeo.errors import UsageError
from lossgeo.landscapes.task import Targets, Task


class Loss(Component):
    """A cost per example, averaged over the examples."""

    accepts: ClassVar[tuple[Targets, ...]]  # the kinds of target it is defined for
    convex: ClassVar[bool] = False  # in the outputs, which makes Gauss-Newton semidefinite

    @abstractmethod
    def prepare(self, targets: torch.Tensor, task: Task, dtype: torch.dtype) -> torch.Tensor:
        """The dataset's targets in the form that all else takes; called once per split, not per step.

        A class below 0 is a target that does not count.

        Raises:
            UsageError: the loss cannot take these targets, with the way out.
        """

    @abstractmethod
    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean cost over a batch, a scalar; 0 where no target counts."""

    @abstractmethod
    def weight(self, targets: torch.Tensor) -> float:
        """What `mean` divides by for these targets; chunks combine in proportion to it, so ragged chunks are exact."""

    # --- example by example ------------------------------------------------------------------------------------------

    def each(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Every example's cost (B,), summed over positions and not divided: each.sum() / weight = mean."""
        rows = [slice(i, i + 1) for i in range(len(targets))]
        return torch.stack([self.mean(outputs[row], targets[row]) * self.weight(targets[row]) for row in rows])

    def weights(self, targets: torch.Tensor) -> torch.Tensor:
        """Every example's weight (B,) in float64: weights.sum() = weight."""
        each = [self.weight(targets[i : i + 1]) for i in range(len(targets))]
        return torch.tensor(each, dtype=torch.float64, device=targets.device)

    # --- derivatives by the outputs, without a graph -----------------------------------------------------------------

    def gradient(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean cost and its derivative by the outputs, like outputs."""
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            loss = self.mean(leaf, targets)
        (derivative,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), derivative

    def gradients(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The derivative of each.sum() by the outputs, like outputs: row i is that of example i's own cost."""
        return self.gradient(outputs, targets)[1] * self.weight(targets)

    def each_and_gradients(self, outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`each` and `slopes` at once, for a loss that can share work between them; no graph."""
        return self.each(outputs.detach(), targets), self.gradients(outputs, targets)

    def hvp(self, outputs: torch.Tensor, targets: torch.Tensor, tangents: torch.Tensor) -> torch.Tensor:
        """The second derivative of the mean cost by the outputs, times tangents; all like outputs."""
        product = vhp(lambda f: self.mean(f, targets), outputs.detach(), tangents)  # type: ignore[no-untyped-call]
        bent: torch.Tensor = product[1]
        return bent

    def sampled_gradients(
        self, outputs: torch.Tensor, targets: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Random slopes g, like outputs: E g = 0 and E g g' = weight * bend as a matrix over all outputs.

        g is the slope at a target drawn from the model's own prediction, times the square root of the true target's
        weight w: a mean over weighted targets weighs curvature by w, and g enters twice. Targets are drawn position by
        position, independently given the inputs, so in an outer product summed over an example's positions (or over
        examples) the cross terms vanish on average: J'g (J'g)' / weight is an unbiased estimate of the Fisher matrix
        (1/weight) sum w J'FJ, as an outer product over examples at once or as the sum of one for each.

        Raises:
            UsageError: the loss is not the negative log-likelihood of a distribution that it can draw from.
        """
        raise UsageError(
            f"loss {self.component_name()!r} does not say how to draw targets; use `operator: gauss_newton`"
        )


def refuse_strange_classes(targets: torch.Tensor, task: Task, way_out: str) -> None:
    """Check classes: torch would leave out -100 in silence, and stop at any other in the middle of an evaluation.

    Raises:
        UsageError: a target is no class.
    """
    strange = (targets < 0) | (targets >= task.outputs)
    if strange.any():
        raise UsageError(f"a target is {int(targets[strange][0])}, the classes are 0 to {task.outputs - 1}; {way_out}")
