"""Operators: symmetric linear maps at a point, such as the Hessian, each known by its matvec."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from lossgeo.components.component import Component
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.spectral.linear_operator import LinearOperator


class Operator(Component):
    """A map that a landscape has at every point."""

    of_parameters: ClassVar[bool] = True  # whether its vectors have a number for every parameter
    of_outputs: ClassVar[bool] = False  # whether it needs the outputs of a model, which an analytic surface has not

    def unit(self) -> str:
        """Of its values, in words."""
        return "loss / parameter^2"

    @abstractmethod
    def at(self, here: LocalLoss) -> LinearOperator:
        """The map over the examples and the block of `here`; valid while theta keeps its values."""
