"""Critical points known to a few digits, to all digits."""

from __future__ import annotations

from collections.abc import Callable

import torch

STEPS = 50


def polished(value: Callable[[torch.Tensor], torch.Tensor], near: list[float]) -> torch.Tensor:
    """The critical point (P,) that Newton's method finds from a point near it; float64.

    Raises:
        ArithmeticError: it does not settle, so that the point was not near.
    """
    theta = torch.tensor(near, dtype=torch.float64)
    for _ in range(STEPS):
        gradient: torch.Tensor = torch.func.grad(value)(theta)
        step: torch.Tensor = torch.linalg.solve(torch.func.hessian(value)(theta), gradient)
        theta = theta - step
        if float(step.abs().max()) <= 4 * torch.finfo(torch.float64).eps * max(1.0, float(theta.abs().max())):
            return theta
    raise ArithmeticError(f"Newton's method does not settle from {near}")
