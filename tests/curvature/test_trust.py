"""Second derivatives that are refused, such as are not, and what asking costs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import ClassVar, final

import pytest
import torch
from torch import nn
from torch.nn import functional

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.finite_difference import FiniteDifference
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.curvature.operators.gradient_covariance import GradientCovariance
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.operators.ntk import NTK
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.task import Examples, Targets, Task
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from tests.support.layers import Applied, Doubled, Kept, Once, between
from tests.support.networks import CLASSES, N, data, here, landscape_around, landscape_of


def deep(layer: Callable[[], nn.Module], width: int = 24, layers: int = 6) -> nn.Module:
    inner = [part for _ in range(layers) for part in (nn.Linear(width, width), layer())]
    return nn.Sequential(nn.Linear(6, width), *inner, nn.Linear(width, CLASSES))


KINKS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": nn.ReLU,
    "max pooling": lambda: Applied(lambda _, x: functional.max_pool1d(x[:, None], 2)[:, 0].repeat(1, 2)),
    "absolute value": lambda: Applied(lambda _, x: x.abs()),
    "median": lambda: Applied(lambda _, x: x - x.median(1, keepdim=True).values),
    "steep": lambda: Applied(lambda _, x: functional.softplus(x, beta=1e4)),
    "computes in float32": lambda: Applied(lambda _, x: torch.tanh(x.float()).to(x)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", KINKS)
def test_kinks_and_rounding_are_no_reason_to_refuse(kind: str, dtype: torch.dtype) -> None:
    for seed in range(5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = deep(KINKS[kind])
        near = here(landscape_around(module, data((6,), seed=seed), dtype=dtype))
        for operator in (Hessian(), GaussNewton(), GradientCovariance(), NTK()):
            assert operator.at(near).size > 0


@pytest.mark.parametrize("gain", [1.0, 10.0, 100.0, 1000.0])
def test_softmax_that_is_one_to_the_last_digit_is_no_reason_to_refuse(gain: float) -> None:
    for seed in range(5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES))
        examples = data((6,), seed=seed)
        with torch.no_grad():
            module[2].weight.mul_(gain)
            right = Examples(examples.inputs, module.double()(examples.inputs).argmax(1))
        near = here(landscape_around(module, right, dtype=torch.float64))
        for operator in (Hessian(), GaussNewton()):
            assert operator.at(near).size > 0


@pytest.mark.parametrize("gain", [100.0, 1000.0, 10_000.0])
@pytest.mark.parametrize("layer", [nn.Tanh(), nn.Sigmoid(), nn.Softmax(1)], ids=str)
def test_a_slope_that_is_a_few_units_of_rounding_is_no_reason_to_refuse(layer: nn.Module, gain: float) -> None:
    for seed in range(20):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = nn.Sequential(nn.Linear(6, 8), layer, nn.Linear(8, CLASSES))
        with torch.no_grad():
            module[0].weight.mul_(gain)
            module[0].bias.mul_(gain)
        assert Hessian().at(here(landscape_around(module, data((6,), seed=seed), dtype=torch.float64))).size > 0


def test_a_kink_at_the_very_point_is_no_reason_to_refuse() -> None:
    """Zero biases and examples of zeros: every ReLU stands at its kink."""
    module = deep(nn.ReLU)
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    inputs, targets = data((6,))
    inputs[::2] = 0
    near = here(landscape_around(module, Examples(inputs, targets)))
    for operator in (Hessian(), GaussNewton()):
        assert operator.at(near).size > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("wrong", [Once, Doubled, Kept])
def test_a_wrong_layer_is_named_in_a_failed_row_in_every_precision(wrong: type, dtype: torch.dtype) -> None:
    inner = nn.Sequential(nn.Linear(4, 4), Applied(lambda _, x: wrong.apply(x)))
    landscape = landscape_around(between(inner), data((6,)), dtype=dtype)
    point = Point(0, landscape.start(), {})
    for _ in range(2):  # and again, whoever asks next
        (row,) = Eigenvalues().run(landscape, point, {}, 0).rows
        assert "layer '1.1' (Applied)" in row["failure"]
        assert "finite_difference" in row["failure"]
        assert row.get("eigenvalue") is None


@pytest.mark.parametrize(("gain", "seed"), [(30.0, 0), (30.0, 2), (30.0, 4), (100.0, 2)])
def test_a_wrong_layer_is_named_where_all_examples_of_the_check_are_saturated(gain: float, seed: int) -> None:
    """Others are not: the Hessian's own error is 5 to 2,000 times its size."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = between(nn.Sequential(nn.Linear(4, 4), Applied(lambda _, x: Kept.apply(x))))
    for parameter in module.parameters():
        if parameter.ndim > 1:
            parameter.data.mul_(gain)
    near = here(landscape_around(module, data((6,), seed=seed), dtype=torch.float64))
    with pytest.raises(ValueError, match=r"layer '1\.1' \(Applied\)"):
        Hessian().at(near)


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm])
def test_weight_norm_has_the_curvature_of_the_formula(norm: Callable[[nn.Module], nn.Module]) -> None:
    """Of torch's fused kernel the largest eigenvalue is some percent off."""

    class Written(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.bias, self.g, self.v = (nn.Parameter(p.detach().clone()) for p in layer.parameters())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return functional.linear(x, self.g * self.v / self.v.norm(dim=1, keepdim=True), self.bias)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer, last = norm(nn.Linear(6, 5)), nn.Linear(5, CLASSES)
    plain = nn.Sequential(Written(layer), nn.Tanh(), copy.deepcopy(last))
    found, wanted = (
        Hessian().at(here(landscape_around(module, data((6,))))).dense()
        for module in (nn.Sequential(layer, nn.Tanh(), last), plain)
    )
    assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max()


@final
class Broken(Loss):
    """The mean of the squares, by a function that is differentiable once."""

    accepts: ClassVar[tuple[Targets, ...]] = ("values",)

    def prepare(self, targets: torch.Tensor, task: Task, dtype: torch.dtype) -> torch.Tensor:
        return targets.to(dtype)

    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return Once.apply(outputs - targets).square().mean()

    def weight(self, targets: torch.Tensor) -> float:
        return float(len(targets))


def test_a_wrong_loss_is_named() -> None:
    inputs = data((6,)).inputs
    examples = Examples(inputs, inputs[:, :2].clone())
    landscape = Landscape(
        nn.Linear(6, 2), Broken(), Task((6,), 2, "values"), examples, examples, torch.float64, chunk=10
    )
    with pytest.raises(ValueError, match="loss 'test_trust'"):
        Hessian().at(here(landscape))


def test_asking_costs_three_passes_of_a_few_examples_and_nothing_at_later_points() -> None:
    landscape = landscape_of("mlp")
    passes: list[int] = []
    landscape.module.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    near = here(landscape)
    passes.clear()
    Hessian().at(near)
    assert sum(passes) == N + 3 * 8  # its own graph; a product and a difference of eight examples
    assert sum(passes) <= N + 3 * N  # three gradients
    for step in range(3):
        later = LocalLoss(landscape, Point(step, landscape.start() + step, {}), landscape.train)
        passes.clear()
        Hessian().at(later)
        assert sum(passes) == N
    passes.clear()
    GaussNewton().at(near)
    # J twice, once with two differences of it, and the outputs that the loss is bent at
    assert sum(passes) == N + (1 + 3 + 1) * 8
    passes.clear()
    GaussNewton().at(near)
    assert sum(passes) == N


def test_a_point_that_is_no_number_decides_nothing() -> None:
    landscape = landscape_around(between(Applied(lambda _, x: Once.apply(x))), data((6,)))
    nowhere = LocalLoss(landscape, Point(0, landscape.start() * float("nan"), {}), landscape.train)
    assert (Hessian().at(nowhere) @ torch.ones(landscape.size, dtype=torch.float64)).isnan().any()
    with pytest.raises(ValueError, match="layer '1'"):
        Hessian().at(here(landscape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_finite_difference_states_an_error_that_holds_the_truth(dtype: torch.dtype) -> None:
    for seed in range(10):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = deep(nn.Tanh, width=4, layers=2)
        landscape = landscape_around(module, data((6,), seed=seed), dtype=dtype)
        values, vectors = torch.linalg.eigh(Hessian().at(here(landscape, dtype=torch.float64)).dense())
        operator = FiniteDifference().at(here(landscape))
        norm = values.abs().max()
        assert 0 < operator.error < 0.1
        for which in (-1, -2, 0):
            v = vectors[:, which]
            found = (operator @ v.to(dtype)).double()
            assert torch.linalg.vector_norm(found - values[which] * v) <= operator.error * norm
            assert abs(v @ found - values[which]) <= operator.error * norm


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_finite_difference_refuses_a_gradient_of_no_loss(dtype: torch.dtype) -> None:
    module = between(Applied(lambda _, x: x * torch.sigmoid(3 * x).detach()))
    with pytest.raises(ValueError, match="of no loss"):
        FiniteDifference().at(here(landscape_around(module, data((6,)), dtype=dtype)))


def test_a_product_that_is_not_symmetric_stops_every_probe() -> None:
    """A rare branch: no example that was asked about goes through it."""
    inputs, targets = data((6,), 200)
    inputs[:, 0] = 0
    inputs[1, 0] = 9

    def rarely(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, :1] > 8, Once.apply(x), x)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first = Applied(lambda m, x: torch.cat([x[:, :1], m.layer(x)[:, 1:]], 1), layer=nn.Linear(6, 6))
        module = nn.Sequential(first, Applied(rarely), nn.Linear(6, CLASSES))
    landscape = landscape_around(module, Examples(inputs, targets))
    probes = [Eigenvalues(), *(Trace(method=m) for m in ("hutchinson", "hutch_plus_plus", "xtrace", "deflated"))]
    for probe in (*probes, Trace(vectors=landscape.size)):
        (row,) = probe.run(landscape, Point(0, landscape.start(), {}), {}, 0).rows
        assert "not symmetric" in (row.get("failure") or ""), probe
