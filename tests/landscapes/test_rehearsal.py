"""What a model or a loss may not do, and what is kept right though it is unusual: found before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, final

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.fisher import Fisher
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.curvature.operators.gradient_covariance import GradientCovariance
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.operators.ntk import NTK
from lossgeo.errors import UsageError
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.models.mlp import MLP
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.task import Examples, Targets, Task
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.randomness import Noise, generator
from tests.support.layers import Applied
from tests.support.networks import (
    CLASSES,
    NETWORKS,
    N,
    Slower,
    apart,
    data,
    directions,
    here,
    landscape_around,
    landscape_of,
    untouched,
)

ROUNDING = 1e-12

Function = Callable[[Any, torch.Tensor], torch.Tensor]


def network(function: Function, before: bool = False, **parts: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = Applied(function, **parts)
        if before:
            return nn.Sequential(layer, nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, CLASSES))
        return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), layer, nn.Linear(5, CLASSES))


def parameter(value: torch.Tensor, learns: bool = True, function: Function = lambda m, x: x * m.p) -> nn.Module:
    module = network(function, before=True)
    module[0].p = nn.Parameter(value, requires_grad=learns)
    return module


# --- data that a model changes ---------------------------------------------------------------------------------------


def halved(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x /= 2
    return x


def through_numpy(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x.detach().numpy()[...] *= 0.5
    return x


def past_autograd(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x.data.mul_(2)
    return x


def of_a_part(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x[:, 0].zero_()
    return x


def in_training(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x.mul_(2) if m.training else x


def in_measuring(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return x if m.training else x.mul_(2)


@pytest.mark.parametrize(
    "change",
    [halved, through_numpy, past_autograd, of_a_part, in_training, in_measuring, lambda _, x: functional.relu_(x)],
)
def test_a_model_that_changes_its_inputs_is_refused_and_the_data_are_as_they_were(change: Function) -> None:
    examples = data((6,))
    before = examples.inputs.clone()
    with pytest.raises(UsageError, match=r"changes the inputs it is given.*x = x / 2"):
        landscape_around(network(change, before=True), examples)
    assert torch.equal(examples.inputs, before)


def test_a_model_that_works_on_a_copy_is_not_refused() -> None:
    for function in (lambda _, x: x / 2, lambda _, x: functional.relu_(x.clone()), lambda _, x: x.clone().mul_(2)):
        assert landscape_around(network(function, before=True), data((6,))).size > 0


class Values(Loss):
    """A loss of values that says no more than it has to."""

    accepts: ClassVar[tuple[Targets, ...]] = ("values",)

    def prepare(self, targets: torch.Tensor, task: Task, dtype: torch.dtype) -> torch.Tensor:
        return targets.to(dtype)

    def weight(self, targets: torch.Tensor) -> float:
        return float(len(targets))


@final
class Scaling(Values):
    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        targets *= 2
        return (outputs - targets).square().sum() / len(targets)


@final
class InBatch(Values):
    """The softmax over the batch of how alike an output and every target are: each should be its own target's."""

    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(outputs @ targets.T, torch.arange(len(outputs)))


@final
class OfEach(Values):
    def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs - targets).cosh().sum(1).mean()


def of_values(loss: Loss, chunk: int | None = 10, module: nn.Module | None = None) -> Landscape:
    inputs = data((6,)).inputs
    examples = Examples(inputs, (inputs[:, :2] * 2).sin())
    task = Task((6,), 2, "values")
    module = module or MLP(hidden=(5,), activation="tanh").build(task, generator(0, "initialization"))
    return Landscape(module, loss, task, examples, examples, torch.float64, chunk=chunk)


def test_a_loss_that_changes_its_targets_is_refused() -> None:
    with pytest.raises(UsageError, match="changes the targets"):
        of_values(Scaling())


def test_a_model_that_changes_its_parameters_is_refused() -> None:
    layer = nn.Embedding(4, 6, max_norm=0.1)
    module = network(lambda m, x: m.layer((x[:, 0] > 0).long()), before=True, layer=layer)
    before = layer.weight.detach().clone()
    with pytest.raises(UsageError, match=r"changes its parameter '0\.layer\.weight'"):
        landscape_around(module, data((6,)), dtype=torch.float32)
    assert torch.equal(layer.weight, before)


# --- examples that depend on each other ------------------------------------------------------------------------------

MIXING: dict[str, Function] = {
    "attention over the batch": lambda _, x: torch.softmax(x @ x.T, 1) @ x,
    "the batch's mean": lambda _, x: x - x.mean(0),
    "the neighbor": lambda _, x: x + x.roll(1, 0) / 2,
    "pairs": lambda _, x: (
        x + torch.cat([x[: len(x) // 2 * 2].unflatten(0, (-1, 2)).flip(1).flatten(0, 1), x[-1:]])[: len(x)]
    ),
    "their number": lambda _, x: x / len(x),
    "the first": lambda _, x: x + x[:1],
    "batch norm of the user's": lambda _, x: (x - x.mean(0)) / x.std(0),
    "starts at zero": lambda m, x: x + m.layer(x.mean(0, keepdim=True)),
}


def mixing(kind: str) -> nn.Module:
    if kind != "starts at zero":
        return network(MIXING[kind])
    layer = nn.Linear(5, 5)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return network(MIXING[kind], layer=layer)


def whole_loss(module: nn.Module, examples: Examples) -> torch.Tensor:
    return functional.cross_entropy(module(examples.inputs), examples.targets)


@pytest.mark.parametrize("kind", MIXING)
def test_examples_that_mix_are_evaluated_together(kind: str) -> None:
    landscape = landscape_around(mixing(kind), data((6,)), chunk=10)
    assert landscape.together == (True, False)
    theta = landscape.start()
    theta += 0.1 * directions(landscape.size, 1)[:, 0]
    near = LocalLoss(landscape, Point(0, theta, {}), landscape.train)
    landscape.flat.go_to(theta)
    wanted = whole_loss(landscape.module, landscape.train)
    assert landscape.evaluate(theta, landscape.train).loss == pytest.approx(float(wanted), rel=ROUNDING)
    assert near.value() == pytest.approx(float(wanted), rel=ROUNDING)
    assert float(landscape.gradient(theta, landscape.train)[0]) == pytest.approx(float(wanted), rel=ROUNDING)
    # double backward, of one piece
    landscape.flat.go_to(theta)
    parameters = list(landscape.module.parameters())
    gradient = torch.autograd.grad(whole_loss(landscape.module, landscape.train), parameters, create_graph=True)
    flat = torch.cat([g.reshape(-1) for g in gradient])
    v = directions(landscape.size, 1)[:, 0]
    product = torch.cat([p.reshape(-1) for p in torch.autograd.grad(flat @ v, parameters)])
    assert apart(Hessian().at(near) @ v, product) <= ROUNDING
    assert Hessian().at(near).contributions is None
    assert GaussNewton().at(near).contributions is None
    assert NTK().at(near).size == N * CLASSES
    with pytest.raises(ValueError, match="an output of the model depends on the others"):
        GradientCovariance().at(near)
    with pytest.raises(ValueError, match="all 37 are taken together"):
        Hessian().at(LocalLoss(landscape, Point(0, theta, {}), landscape.train, memory=1000))
    (row,) = Eigenvalues(samples=20).run(landscape, Point(0, theta, {}), {}, 0).rows
    assert "samples: all" in row["failure"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "weighted"])
@pytest.mark.parametrize("name", NETWORKS)
def test_examples_of_the_networks_here_do_not_mix(name: str, loss: str, dtype: torch.dtype) -> None:
    assert landscape_of(name, loss, dtype=dtype).together == (False, False)


def test_a_loss_over_the_batch_is_taken_of_all_together() -> None:
    landscapes = [of_values(InBatch(), chunk) for chunk in (10, N)]
    assert [landscape.together for landscape in landscapes] == [(False, True)] * 2
    assert of_values(OfEach()).together == (False, False)
    losses = [landscape.evaluate(landscape.start(), landscape.train).loss for landscape in landscapes]
    assert losses[0] == losses[1]
    landscape = landscapes[0]
    for operator in (Hessian(), GaussNewton()):
        products = [operator.at(here(each)) @ directions(each.size) for each in landscapes]
        assert torch.equal(*products)
        assert operator.at(here(landscape)).contributions is None
    for operator in (Fisher(), GradientCovariance()):
        with pytest.raises(ValueError, match="the loss of an example depends on the others"):
            operator.at(here(landscape))
    # trials see the loss of their batch, as a single run does
    theta, batch = landscape.start(), landscape.train.rows(slice(0, 9))
    loss, gradient = (t.clone() for t in landscape.gradient(theta, batch))
    losses, gradients = landscape.gradient(theta.expand(2, -1), Examples(*(t.expand(2, *t.shape) for t in batch)))
    assert losses.tolist() == pytest.approx([float(loss)] * 2, rel=ROUNDING)
    assert apart(gradients[1], gradient) <= ROUNDING
    # and a step's curvature is that of its batch
    seen = BatchLoss(landscape, Noise(0), trials=False)
    seen.begin(0, batch)
    landscape.flat.go_to(theta)
    assert seen.curvature(Hessian(), theta).size == landscape.size


# --- parameters that theta cannot hold -------------------------------------------------------------------------------


def shared() -> nn.Module:
    module = parameter(torch.randn(6, 6), function=lambda m, x: x @ m.p @ m.q)
    module[0].q = nn.Parameter(module[0].p.data.T)
    return module


def not_registered() -> nn.Module:
    scale = torch.ones(6, dtype=torch.float64, requires_grad=True)
    return network(lambda _, x: x * scale, before=True)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "complex": (lambda: parameter(torch.ones(6, dtype=torch.complex64)), r"'0\.p' is complex64.*view_as_real"),
    "integers": (lambda: parameter(torch.arange(6), False), r"'0\.p' is int64.*register_buffer"),
    "booleans": (lambda: parameter(torch.ones(6) > 0, False), r"'0\.p' is bool.*register_buffer"),
    "two precisions": (lambda: parameter(torch.ones(6).double()), r"two precisions: '0\.p' is float64 and '1\.weight'"),
    "frozen half": (lambda: parameter(torch.ones(6).half(), False), "two precisions"),
    "no data": (lambda: parameter(torch.ones(6, device="meta")), "meta device"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(CLASSES)), "not initialized"),
    "lazy statistics": (lambda: nn.Sequential(nn.LazyBatchNorm1d(affine=False), nn.Linear(6, 4)), "not initialized"),
    "sparse": (lambda: parameter(torch.eye(6).to_sparse(), function=lambda m, x: x @ m.p), "to_dense"),
    "memory of two": (shared, r"'0\.p' and '0\.q' are two that share memory"),
    "memory of its own": (lambda: parameter(torch.ones(1).expand(6)), r"'0\.p' has elements that share memory"),
    "nothing": (lambda: parameter(torch.empty(0), function=lambda _, x: x).requires_grad_(False), "no parameters"),
    "not registered": (not_registered, r"shape \(6,\).*nn\.Parameter"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_parameter_that_theta_cannot_hold_is_refused(kind: str) -> None:
    make, reason = REFUSED[kind]
    with pytest.raises(UsageError, match=reason):
        landscape_around(make(), data((6,)))


def test_complex_and_integer_buffers_stay_what_they_are() -> None:
    """A filter in frequencies: its imaginary part is all there is."""

    def filtered(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return torch.fft.ifft(torch.fft.fft(x[:, m.order]) * m.filter).real

    for dtype, wide in ((torch.float64, torch.complex128), (torch.float32, torch.complex64)):
        module = network(filtered, before=True)
        module[0].register_buffer("filter", 1j * torch.tensor([0.0, 1, 2, 0, -2, -1]))
        module[0].register_buffer("order", torch.tensor([5, 0, 1, 2, 3, 4]))
        landscape = landscape_around(module, data((6,)), dtype=dtype)
        assert module[0].filter.dtype == wide
        assert module[0].order.dtype == torch.int64
        assert torch.equal(module[0].filter.imag.abs().sum(), torch.tensor(6.0, dtype=dtype))
        theta = landscape.start()
        with untouched(landscape, theta):
            near = LocalLoss(landscape, Point(0, theta, {}), landscape.train, dtype=torch.float64)
            assert (Hessian().at(near) @ torch.ones(landscape.size, dtype=torch.float64)).isfinite().all()


def test_sparse_gradients_are_dense() -> None:
    landscapes = []
    for sparse in (False, True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            layer = nn.Embedding(4, 6, sparse=sparse)
        module = network(lambda m, x: m.layer((x[:, 0] > 0).long()), before=True, layer=layer)
        landscapes.append(landscape_around(module, data((6,))))
    gradients = [landscape.gradient(landscape.start(), landscape.train)[1] for landscape in landscapes]
    assert torch.equal(*gradients)
    v = directions(landscapes[0].size)
    assert torch.equal(*[Hessian().at(here(landscape)) @ v for landscape in landscapes])
    weight = nn.Embedding(4, 6)
    by_function = network(
        lambda m, x: functional.embedding((x[:, 0] > 0).long(), m.layer.weight, sparse=True), before=True, layer=weight
    )
    with pytest.raises(UsageError, match=r"'0\.layer\.weight' is sparse"):
        landscape_around(by_function, data((6,)))


def test_parameters_of_no_size_and_parts_of_one_tensor_are_kept() -> None:
    whole = torch.randn(6, 6)
    module = parameter(whole[:, :3], function=lambda m, x: torch.cat([x @ m.p, x @ m.q], 1) + m.none.sum())
    module[0].q = nn.Parameter(whole[:, 3:])  # no number of one is a number of the other
    module[0].none = nn.Parameter(torch.empty(0))
    landscape = landscape_around(module, data((6,)))
    assert landscape.size == 36 + 35 + 24
    assert torch.equal(landscape.start()[:18], whole[:, :3].double().reshape(-1))


# --- what runs in the backward pass ----------------------------------------------------------------------------------


class Block(nn.Module):
    """Attention, batch norm and dropout, computed again in the backward pass or not."""

    def __init__(self, how: dict[str, Any] | None) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.attention, self.norm = nn.MultiheadAttention(4, 2, batch_first=True), nn.BatchNorm1d(8)
        self.dropout = nn.Dropout(0.3)
        self.how = how
        self.norm.running_mean.fill_(0.3)
        self.norm.running_var.fill_(2.0)

    def inner(self, h: torch.Tensor) -> torch.Tensor:
        rows = h.unflatten(1, (2, 4))
        rows = rows + self.attention(rows, rows, rows, need_weights=False)[0]
        return self.dropout(self.norm(torch.tanh(rows.flatten(1))))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        return self.last(self.inner(h) if self.how is None else checkpoint(self.inner, h, **self.how))


def block(how: dict[str, Any] | None, dtype: torch.dtype = torch.float64) -> Landscape:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Block(how)
    return landscape_around(module, data((6,)), dtype=dtype, chunk=20)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("batch_norm", "masks"), [("eval", None), ("batch", None), ("eval", 7)])
def test_a_checkpoint_changes_no_bit(batch_norm: str, masks: int | None, dtype: torch.dtype) -> None:
    found = []
    for how in (None, {"use_reentrant": False}):
        landscape = block(how, dtype)
        theta, products = landscape.start(), []
        for memory in (None, 1):  # graphs that are kept, and such as are not
            point = Point(0, theta, {}, Slower())
            near = LocalLoss(landscape, point, landscape.train, batch_norm, memory=memory, masks=masks)
            other = LocalLoss(landscape, Point(0, theta + 1, {}), landscape.train)
            for operator in (Hessian().at(near), GaussNewton().at(near), NTK().at(near)):
                vectors = directions(operator.size, 1).to(dtype)
                for _ in range(2):
                    other.gradient()  # somebody else uses the model in between
                    with untouched(landscape, theta):
                        products.append(operator @ vectors)
                if operator.contributions is not None:
                    products.append(operator.contributions(vectors.T).forms)
        found.append(products)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_other_checkpoint_is_refused_in_one_sentence() -> None:
    with pytest.raises(UsageError, match="use_reentrant=False") as refused:
        block({"use_reentrant": True})
    assert len(str(refused.value)) < 250


def test_a_checkpoint_that_draws_other_masks_is_refused() -> None:
    landscape = block({"use_reentrant": False, "preserve_rng_state": False})
    point = Point(0, landscape.start(), {})
    assert LocalLoss(landscape, point, landscape.train).gradient_seconds > 0  # nothing is drawn
    with pytest.raises(ValueError, match="differs from one pass to the next"):
        LocalLoss(landscape, point, landscape.train, masks=7)


def test_trials_of_a_model_that_cannot_be_vectorized_are_refused() -> None:
    def recomputed(_: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(torch.tanh, x, use_reentrant=False)

    for function in (recomputed, lambda _, x: x * float(x.detach().mean())):
        landscape = landscape_around(network(function), data((6,)))
        with pytest.raises(UsageError, match="sweep over `seed`"):
            landscape.vectorized.gradient(landscape.start()[None], Examples(*(t[None] for t in landscape.train)))
