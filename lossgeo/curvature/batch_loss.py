"""The loss as one step of an optimizer sees it: over its batch, with its dropout masks, however often it is asked.

What a step asks first is what training is: that gradient moves the running statistics of batch norms. Whatever else it
asks, a second gradient, a value along a line, a product with the Hessian, sees the same function and moves nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.task import Examples
from lossgeo.randomness import Noise

if TYPE_CHECKING:
    from lossgeo.curvature.operators import Operator

ROUNDINGS = 1000  # of a loss, by which two ways to compute it may differ


class BatchLoss:
    """L over the batch of a step, for theta (P,), or (R, P) of R independent trials with a batch each.

    `trials` says which of the two; `shapes` are those of the parameters, in theta's order: `theta.split([s.numel() for
    s in shapes])` are the parameters, flat.
    """

    def __init__(self, landscape: Landscape, noise: Noise, trials: bool) -> None:
        self.trials = trials
        self.size = landscape.size
        self.shapes = landscape.flat.shapes
        self._landscape = landscape
        self._noise = noise
        self._rng = landscape.side_effects.rng
        self._moves = bool(landscape.side_effects.buffers)
        self._batch = landscape.train
        self._moved = False
        self._compared = False

    def begin(self, step: int, batch: Examples) -> None:
        """From now on the loss is that of a step: of its batch, its masks and its noise."""
        self._noise.begin(step)
        self._batch = batch
        self._moved = False

    def gradient(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss (scalar) and gradient (P,) at theta, or (R,) and (R, P); costs one gradient of the batch.

        The gradient is a buffer that the next call may overwrite: clone it to keep it.
        """
        if self._moves and self._moved:
            with self._landscape.flat.buffers_kept():
                return self._landscape.gradient(theta, self._batch, self._masks())
        self._moved = True
        return self._landscape.gradient(theta, self._batch, self._masks())

    def value(self, theta: torch.Tensor) -> torch.Tensor:
        """The loss at theta alone; costs a forward pass of the batch, and a gradient of each trial."""
        if not self._moves:
            return self._landscape.value(theta, self._batch, self._masks())
        with self._landscape.flat.buffers_kept():
            return self._landscape.value(theta, self._batch, self._masks())

    def curvature(self, operator: Operator, theta: torch.Tensor) -> LinearOperator:
        """An operator (Hessian(), GaussNewton(), ...) of this very loss at theta (P,), over all parameters.

        Batch norms normalize as they do in the step. The map is valid while theta keeps its values: clone a theta that
        is written into before the last product. Costs what the operator says, over the batch, and once two gradients.

        Raises:
            ValueError: theta is of trials; an optimizer that asks for curvature sets `takes_trials = False`. Or layers
                draw other numbers where second derivatives are taken, as a fused kernel may; looked at once.
        """
        if theta.ndim != 1:
            raise ValueError(
                "curvature is that of one theta (P,), not of trials: an optimizer that asks for it says "
                "`takes_trials: ClassVar[bool] = False`"
            )
        here = LocalLoss(self._landscape, Point(0, theta, {}), self._batch, masks=self._masks())
        if self._rng and not self._compared:
            self._compare(float(self.value(theta)), here.value())
        return operator.at(here)

    def _compare(self, stepped: float, measured: float) -> None:
        if abs(measured - stepped) > ROUNDINGS * torch.finfo(self._landscape.dtype).eps * abs(stepped):
            raise ValueError(
                f"the loss of the step is {stepped:.6g}, and {measured:.6g} where its curvature is taken: a layer "
                "draws other random numbers there; train it without dropout"
            )
        self._compared = True

    def normal(self, size: int) -> torch.Tensor:
        """Standard Gaussian numbers, float64, new ones at every call of a step: (size,), or (R, size) of trials."""
        return self._noise.normal(size)

    def _masks(self) -> int:
        return self._noise.masks() if self._rng else 0
