"""Operators: symmetric linear maps at a point, such as the Hessian, each known by its matvec."""

from __future__ import annotations

from abc import abstractmethod

import torch

from lossgeo.component import Component
from lossgeo.landscape import BatchNormMode, Landscape
from lossgeo.linear import LinearOperator
from lossgeo.task import Examples


class Operator(Component):
    """A map that a landscape has at every point."""

    @abstractmethod
    def at(
        self, landscape: Landscape, theta: torch.Tensor, examples: Examples, batch_norm: BatchNormMode
    ) -> LinearOperator:
        """The map at theta over the examples; valid while theta keeps its values."""
