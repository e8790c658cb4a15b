"""What a critical point is where second derivatives leave it open: by closed forms, at origins and on flat floors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.landscapes.datasets.linear_teacher import LinearTeacher
from lossgeo.landscapes.datasets.teacher_student import TeacherStudent
from lossgeo.landscapes.losses.mse import MSE
from lossgeo.landscapes.models.deep_linear import DeepLinear
from lossgeo.landscapes.models.mlp import MLP
from lossgeo.landscapes.point import Point
from lossgeo.randomness import generator
from lossgeo.saddles.refiners.levenberg_marquardt import LevenbergMarquardt
from tests.support.critical import Value, found, landscape_of_formula
from tests.support.networks import landscape_on

HIGHER: dict[str, tuple[Value, int, str]] = {
    "x^3": (lambda t: t[..., 0] ** 3, 1, "saddle"),
    "x^4": (lambda t: t[..., 0] ** 4, 1, "minimum"),
    "-x^4": (lambda t: -(t[..., 0] ** 4), 1, "maximum"),
    "x^5, beyond the fourth": (lambda t: t[..., 0] ** 5, 1, "degenerate"),
    "x^6, beyond the fourth": (lambda t: t[..., 0] ** 6, 1, "degenerate"),
    "cos x - 1 + x^2 / 2": (lambda t: t[..., 0].cos() - 1 + t[..., 0] ** 2 / 2, 1, "minimum"),
    "x^2 + y^3": (lambda t: t[..., 0] ** 2 + t[..., 1] ** 3, 2, "saddle"),
    "x^2 + y^4": (lambda t: t[..., 0] ** 2 + t[..., 1] ** 4, 2, "minimum"),
    "x^2 - y^4": (lambda t: t[..., 0] ** 2 - t[..., 1] ** 4, 2, "saddle"),
    "-x^2 + y^4": (lambda t: -(t[..., 0] ** 2) + t[..., 1] ** 4, 2, "saddle"),
    "-x^2 - y^4": (lambda t: -(t[..., 0] ** 2) - t[..., 1] ** 4, 2, "maximum"),
    "1e6 (x^2 + y^4)": (lambda t: 1e6 * (t[..., 0] ** 2 + t[..., 1] ** 4), 2, "minimum"),
    "1e-6 (x^2 - y^4)": (lambda t: 1e-6 * (t[..., 0] ** 2 - t[..., 1] ** 4), 2, "saddle"),
    "a valley": (lambda t: (t[..., 0] - t[..., 1] ** 2) ** 2, 2, "degenerate"),
    "a valley that rises": (
        lambda t: (t[..., 0] - t[..., 1] ** 2) ** 2 + 0.01 * t[..., 1] ** 4,
        2,
        "minimum",
    ),
    "a valley that falls": (
        lambda t: (t[..., 0] - t[..., 1] ** 2) ** 2 - 0.01 * t[..., 1] ** 4,
        2,
        "saddle",
    ),
    "Peano's, a minimum along every line": (
        lambda t: (t[..., 0] - t[..., 1] ** 2) * (t[..., 0] - 3 * t[..., 1] ** 2),
        2,
        "saddle",
    ),
    "x^4 + y^4": (lambda t: (t**4).sum(-1), 2, "minimum"),
    "x^4 - 1.9 x^2 y^2 + y^4": (lambda t: (t**4).sum(-1) - 1.9 * t.prod(-1) ** 2, 2, "minimum"),
    "x^4 - 2.1 x^2 y^2 + y^4": (lambda t: (t**4).sum(-1) - 2.1 * t.prod(-1) ** 2, 2, "saddle"),
    "x^2 y^2": (lambda t: t.prod(-1) ** 2, 2, "degenerate"),
    "three quartics, which directions do not prove": (lambda t: (t**4).sum(-1), 3, "degenerate"),
    "x y z": (lambda t: t.prod(-1), 3, "saddle"),
    "w x y z": (lambda t: t.prod(-1), 4, "saddle"),
    "x^2 + y^2 z": (lambda t: t[..., 0] ** 2 + t[..., 1] ** 2 * t[..., 2], 3, "saddle"),
    "x^2 + y^2 - z^4": (lambda t: t[..., 0] ** 2 + t[..., 1] ** 2 - t[..., 2] ** 4, 3, "saddle"),
    "nothing": (lambda t: 0 * t.sum(-1), 3, "degenerate"),
    "x^2 alone": (lambda t: t[..., 0] ** 2, 4, "degenerate"),
}


@pytest.mark.parametrize("name", HIGHER)
def test_third_and_fourth_derivatives_decide_what_they_can(name: str) -> None:
    value, size, kind = HIGHER[name]
    landscape, origin = landscape_of_formula(value, size), torch.zeros(size, dtype=torch.float64)
    row = found(landscape, origin)
    assert (row["kind"], row["strict"], row["degenerate"]) == (kind, row["index"] > 0, True)
    # beyond `exact` the kernel is not known whole: what is proved of one direction holds, no more
    assert found(landscape, origin, exact=0)["kind"] == ("saddle" if kind == "saddle" else "degenerate")


@pytest.mark.parametrize("scale", [1.0, -1.0, 1e4])
def test_kinds_do_not_depend_on_the_axes_and_hold_a_little_beside_the_point(scale: float) -> None:
    turned = torch.linalg.qr(torch.randn(4, 4, generator=generator(0, "axes"), dtype=torch.float64)).Q

    def value(theta: torch.Tensor) -> torch.Tensor:
        x, y, z, w = (theta @ turned).unbind(-1)
        return scale * (x**2 + 0.1 * y**2 + x * y * z + z**4 + 0.3 * w**2 + w * z**2)  # z^4 (1 - 1 / 1.2) is left

    landscape = landscape_of_formula(value, 4)
    for away in (0.0, 1e-7):
        row = found(landscape, away * turned[:, 2])
        assert (row["zero"], row["kind"]) == (1, "minimum" if scale > 0 else "maximum")


@pytest.mark.parametrize(("depth", "kind"), [(2, "saddle"), (3, "saddle"), (4, "saddle"), (5, "degenerate")])
@pytest.mark.parametrize("exact", [2500, 0])
def test_the_origin_of_a_linear_network_is_a_saddle_as_far_as_four_derivatives_tell(
    depth: int, kind: str, exact: int
) -> None:
    landscape = landscape_on(DeepLinear(depth=depth, width=4), LinearTeacher(standardize=False, components=8), MSE())
    row = found(landscape, torch.zeros(landscape.size, dtype=torch.float64), exact=exact)
    assert (row["kind"], row["strict"]) == (kind, depth == 2)
    if depth > 2:
        assert (row["zero"], row["index"]) == (landscape.size, 0)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "relu"])
@pytest.mark.parametrize("tolerance", [1e-6, 1e-13])
def test_the_flat_floor_of_a_network_is_no_minimum(activation: Any, tolerance: float) -> None:
    """Eight examples leave 25 of 31 directions free at loss 0, wherever on the floor a search ends, and how near."""
    data = TeacherStudent(dimension=3, width=4, examples=8, noise=0.3)
    landscape = landscape_on(MLP(hidden=(6,), activation=activation), data, MSE())

    def value(x: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.from_numpy(x)
        return landscape.evaluate(theta, landscape.train).loss, gradient(theta).numpy()

    def gradient(theta: torch.Tensor) -> torch.Tensor:
        return landscape.mean_gradient(theta, landscape.train)

    def hessian(theta: torch.Tensor) -> LinearOperator:
        return Hessian().at(LocalLoss(landscape, Point(0, theta, {}), landscape.train))

    down = minimize(value, landscape.start().numpy(), jac=True, method="BFGS", options={"gtol": 1e-6})
    theta = LevenbergMarquardt().search(gradient, hessian, torch.from_numpy(down.x), tolerance).theta
    for exact in (2500, 0):
        row = found(landscape, theta, exact=exact)
        assert row["loss"] < 1e-10
        assert (row["kind"], row["strict"], row["degenerate"]) == ("degenerate", False, True)
        assert row["zero_low"] <= 25 <= row["zero_high"]
