"""Every optimizer in the folder keeps the interface's promises; those that torch.optim has too agree with it; and on a
quadratic each does what its equations say."""

from __future__ import annotations

import inspect
import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

import lossgeo.optimizers
from lossgeo.components.finding import find, names
from lossgeo.landscapes.task import Examples
from lossgeo.optimizers import Optimizer, State, Step
from lossgeo.optimizers.adam import Adam
from lossgeo.optimizers.adamw import AdamW
from lossgeo.optimizers.rmsprop import RMSprop
from lossgeo.optimizers.sgd import SGD
from lossgeo.randomness import Noise, generator
from tests.support.steps import given_loss

NAMES = names(Optimizer)

# everything that torch.optim's twin can be told, apart from lr; the full grid of these is compared
GRID: dict[str, dict[str, list[Any]]] = {
    "sgd": {
        "momentum": [0.0, 0.9],
        "dampening": [0.0, 0.3],
        "weight_decay": [0.0, 1e-2],
        "nesterov": [False, True],
    },
    "adam": {
        "betas": [(0.9, 0.999), (0.0, 0.9)],
        "eps": [1e-8, 1e-3],
        "weight_decay": [0.0, 1e-2],
        "amsgrad": [False, True],
    },
    "rmsprop": {
        "alpha": [0.99, 0.5],
        "eps": [1e-8, 1e-3],
        "weight_decay": [0.0, 1e-2],
        "momentum": [0.0, 0.9],
        "centered": [False, True],
    },
}
GRID["adamw"] = GRID["adam"]
TWINS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}


def settings(name: str) -> Iterator[dict[str, Any]]:
    """Every combination of options that is allowed."""
    for values in itertools.product(*GRID[name].values()):
        options = dict(zip(GRID[name], values, strict=True))
        if not (options.get("nesterov") and (options["momentum"] == 0 or options["dampening"] != 0)):
            yield options


# conformance: as it is by default, and with every option that adds state
VARIANTS = [(name, {}) for name in NAMES] + [
    ("sgd", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 1e-2}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("adam", {"amsgrad": True, "weight_decay": 1e-2}),
    ("adamw", {"amsgrad": True}),
    ("rmsprop", {"centered": True, "momentum": 0.9, "weight_decay": 1e-2}),
    # kicks of no length, so that a step of rate 0 leads nowhere
    ("perturbed_gd", {"gradient_threshold": 0.3, "radius": 0.0, "waiting": 3}),
]
every_variant = pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)


class Net:
    """The loss of a small network as a landscape: three tensors in one theta, the gradient in one reused buffer."""

    shapes = ((5, 4), (5,), (3, 5))

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        source = generator(0, "net")
        data = torch.randn(200, 8, 4, generator=source, dtype=torch.float64).to(dtype)
        answers = torch.randn(200, 8, 3, generator=source, dtype=torch.float64).to(dtype)
        self.batches = [Examples(x, y) for x, y in zip(data, answers, strict=True)]
        self.sizes = [torch.Size(s).numel() for s in self.shapes]
        self.start = 0.5 * torch.randn(sum(self.sizes), generator=source, dtype=torch.float64).to(dtype)
        self.buffer = torch.empty_like(self.start)

    def parts(self, theta: torch.Tensor) -> list[torch.Tensor]:
        return [p.view(s) for p, s in zip(theta.split(self.sizes), self.shapes, strict=True)]

    @staticmethod
    def loss(parts: list[torch.Tensor], batch: Examples) -> torch.Tensor:
        w, b, out = parts
        return ((torch.tanh(batch.inputs @ w.T + b) @ out.T - batch.targets) ** 2).mean()

    def on(self, number: int, noise: Noise | None = None) -> Any:
        """The loss of one of the batches."""
        batch = self.batches[number % len(self.batches)]
        return given_loss(lambda theta: self.gradient(theta, batch), noise)

    def gradient(self, theta: torch.Tensor, batch: Examples) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = theta.detach().clone().requires_grad_()
        loss = self.loss(self.parts(leaf), batch)
        self.buffer.copy_(torch.autograd.grad(loss, leaf)[0])
        return loss.detach(), self.buffer


class Quadratic:
    """L(theta) = sum lambda theta^2 / 2."""

    def __init__(self, curvatures: torch.Tensor) -> None:
        self.curvatures = curvatures

    def gradient(self, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gradient = self.curvatures * theta
        return theta.dot(gradient) / 2, gradient


def rate(optimizer: Optimizer, step: int) -> float:
    """A learning rate that moves, as under a schedule."""
    return optimizer.lr * (1 + 0.5 * (-1) ** step / (1 + step))


def advance(optimizer: Optimizer, net: Any, theta: torch.Tensor, state: State, steps: range) -> Step:
    """The last of some steps, from tensors that are handed over; what a finished step's gradient held is destroyed."""
    taken = None
    for step in steps:
        if taken is not None:
            taken.gradient.fill_(torch.nan)
        taken = optimizer.step(net.on(step, Noise(step)), theta, state, rate(optimizer, step))
        theta, state = taken.theta, taken.state
    assert taken is not None
    return taken


def copies(state: State) -> State:
    return {key: tensor.clone() for key, tensor in state.items()}


def after(optimizer: Optimizer, steps: int, net: Any) -> tuple[torch.Tensor, State]:
    """Where some steps from the start lead, or the start itself."""
    theta = net.start.clone()
    state = optimizer.init(net.on(0), theta)
    if steps:
        theta, state, *_ = advance(optimizer, net, theta, state, range(steps))
    return theta, state


def assert_same(one: State, other: State) -> None:
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key


# --- every optimizer -------------------------------------------------------------------------------------------------


def test_the_folder_is_the_list() -> None:
    files = {f.stem for f in Path(lossgeo.optimizers.__file__).parent.glob("*.py") if not f.stem.startswith("_")}
    assert set(NAMES) == files
    assert {"sgd", "adam", "adamw", "rmsprop"} <= files
    assert {name for name, _ in VARIANTS} == files


@pytest.mark.parametrize("name", NAMES)
def test_is_final_frozen_and_described(name: str) -> None:
    cls = find(Optimizer, name)
    assert cls.__name__.lower() == name.replace("_", "")
    assert getattr(cls, "__final__", False)
    assert all(field.description for field in cls.model_fields.values())
    with pytest.raises(ValidationError, match="frozen"):
        cls().lr = 1.0
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        cls(lr=-0.1)


def test_the_interface_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        Optimizer(lr=0.1)  # type: ignore[abstract]


@every_variant
@pytest.mark.parametrize("steps", [0, 3])
def test_a_step_is_a_function_of_its_arguments(name: str, options: dict[str, Any], steps: int) -> None:
    optimizer, net = find(Optimizer, name)(**options), Net()
    theta, state = after(optimizer, steps, net)
    results = []
    for seed in (1, 2):  # of the global generators, which must not matter
        torch.manual_seed(seed)
        taken = optimizer.step(net.on(0), theta.clone(), copies(state), optimizer.lr)
        results.append((taken.theta.clone(), copies(taken.state)))
    assert torch.equal(results[0][0], results[1][0])
    assert_same(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], theta)
    assert results[0][0].shape == theta.shape
    assert results[0][0].dtype == theta.dtype


@every_variant
def test_global_generators_are_not_touched(name: str, options: dict[str, Any]) -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
    after(find(Optimizer, name)(**options), 3, Net())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1].tolist(), np.random.get_state()[2]) == before[2:]


@every_variant
@pytest.mark.parametrize("steps", [0, 3])
def test_returns_loss_and_gradient_of_where_it_stood(name: str, options: dict[str, Any], steps: int) -> None:
    optimizer, net = find(Optimizer, name)(**options), Net()
    theta, state = after(optimizer, steps, net)
    loss, gradient = Net().gradient(theta.clone(), net.batches[7])
    taken = optimizer.step(net.on(7), theta, state, optimizer.lr)
    assert torch.equal(taken.loss, loss)
    assert torch.equal(taken.gradient, gradient)  # so the step has not written into it either


@every_variant
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_checkpoint_holds_all_of_the_state(name: str, options: dict[str, Any], steps: int) -> None:
    optimizer, net = find(Optimizer, name)(**options), Net()
    theta, state = after(optimizer, steps, net)
    assert all(type(tensor) is torch.Tensor for tensor in state.values())
    # safetensors refuses tensors that share memory
    saved = safetensors.torch.save({"theta": theta, **{f"state.{key}": t for key, t in state.items()}})
    straight = advance(optimizer, net, theta, state, range(steps, 12))
    loaded = safetensors.torch.load(saved)
    theta = loaded.pop("theta")
    state = {key.removeprefix("state."): tensor for key, tensor in loaded.items()}
    again = find(Optimizer, name)(**options)  # another object: nothing is remembered outside of theta and state
    resumed = advance(again, Net(), theta, state, range(steps, 12))
    assert torch.equal(resumed.theta, straight.theta)
    assert_same(resumed.state, straight.state)


@every_variant
def test_at_rate_zero_theta_stays(name: str, options: dict[str, Any]) -> None:
    optimizer, net = find(Optimizer, name)(**options), Net()
    for steps in (0, 3):
        theta, state = after(optimizer, steps, net)
        before = theta.clone()
        for step in range(3):
            theta, state, *_ = optimizer.step(net.on(step), theta, state, 0.0)
        assert torch.equal(theta, before)


@every_variant
def test_the_gradient_buffer_is_not_kept(name: str, options: dict[str, Any]) -> None:
    """`advance` fills each finished step's gradient with NaN, so a state that kept it would show."""
    theta, state = after(find(Optimizer, name)(**options), 5, Net())
    assert theta.isfinite().all()
    assert all(tensor.isfinite().all() for tensor in state.values())


# --- torch.optim -----------------------------------------------------------------------------------------------------


def with_torch(kind: type[torch.optim.Optimizer], ours: Optimizer, net: Any, steps: int) -> torch.Tensor:
    parameters = [torch.nn.Parameter(p.clone()) for p in net.parts(net.start)]
    theirs = kind(parameters, lr=ours.lr, **{k: getattr(ours, k) for k in type(ours).model_fields if k != "lr"})
    for step in range(steps):
        theirs.zero_grad()
        net.loss(parameters, net.batches[step % len(net.batches)]).backward()
        theirs.param_groups[0]["lr"] = rate(ours, step)
        theirs.step()
    return torch.cat([p.detach().flatten() for p in parameters])


@pytest.mark.parametrize("name", TWINS)
def test_names_and_defaults_are_those_of_torch(name: str) -> None:
    cls = find(Optimizer, name)
    theirs = inspect.signature(TWINS[name]).parameters
    assert {key: field.default for key, field in cls.model_fields.items()} == {
        key: theirs[key].default for key in ["lr", *GRID[name]]
    }
    # what torch has beyond that chooses an implementation or turns descent into ascent
    other = {"params", "maximize", "foreach", "fused", "capturable", "differentiable"}
    other |= {"decoupled_weight_decay"}  # Adam's: makes it AdamW
    assert set(theirs) - set(cls.model_fields) <= other


@pytest.mark.parametrize(("name", "count"), [("sgd", 10), ("adam", 16), ("adamw", 16), ("rmsprop", 32)])
def test_equals_torch_with_every_option(name: str, count: int) -> None:
    """200 steps in float64 agree to 1e-12: the same operations in the same order, but for fused multiply-adds."""
    tried = 0
    for options in settings(name):
        ours, net = find(Optimizer, name)(lr=1e-2, **options), Net()
        theta, _ = after(ours, 200, net)
        torch.testing.assert_close(theta, with_torch(TWINS[name], ours, net, 200), rtol=0, atol=1e-12, msg=str(options))
        assert (theta - net.start).abs().max() > 0.1  # they had somewhere to go
        tried += 1
    assert tried == count


@pytest.mark.parametrize(("name", "options"), [(n, o) for n, o in VARIANTS if n in TWINS], ids=str)
def test_equals_torch_in_float32(name: str, options: dict[str, Any]) -> None:
    """200 steps agree to 16 roundings of the norm of theta; on an AVX-512 machine sgd and rmsprop to 0, adam to 2."""
    ours, net = find(Optimizer, name)(**options | {"lr": 1e-2}), Net(torch.float32)
    theta, _ = after(ours, 200, net)
    difference = theta - with_torch(TWINS[name], ours, net, 200)
    assert difference.norm() <= 16 * torch.finfo(torch.float32).eps * net.start.norm()


def test_nesterov_needs_momentum_and_no_dampening() -> None:
    for options in ({}, {"momentum": 0.9, "dampening": 0.1}):
        with pytest.raises(ValidationError, match="nesterov needs momentum above 0 and dampening 0"):
            SGD(nesterov=True, **options)
        with pytest.raises(ValueError, match="Nesterov"):
            torch.optim.SGD([torch.zeros(1)], nesterov=True, **options)


# --- closed forms ----------------------------------------------------------------------------------------------------


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def descend(optimizer: Optimizer, curvatures: torch.Tensor, theta: torch.Tensor, steps: int) -> torch.Tensor:
    loss = given_loss(Quadratic(curvatures).gradient)
    state = optimizer.init(loss, theta)
    for _ in range(steps):
        theta, state, *_ = optimizer.step(loss, theta, state, optimizer.lr)
    return theta


def test_gradient_descent_contracts_by_one_minus_lr_lambda() -> None:
    curvatures = vector(0.0, 0.1, 1.0, 4.0, -0.5)
    start = vector(1.0, -2.0, 3.0, -4.0, 5.0)
    theta = descend(SGD(lr=0.4), curvatures, start.clone(), 50)
    # three roundings a step, none amplified by more than 1 / 0.6, the smallest |1 - lr lambda|
    torch.testing.assert_close(theta, (1 - 0.4 * curvatures) ** 50 * start, rtol=50 * 5 * 2.3e-16, atol=0)


def test_gradient_descent_at_two_over_lambda_oscillates_forever() -> None:
    start = vector(1.0, 0.3)
    assert torch.equal(descend(SGD(lr=0.5), vector(4.0, 0.0), start.clone(), 1001), start * vector(-1, 1))


@pytest.mark.parametrize("b", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("form", ["plain", "dampened", "nesterov"])
def test_diverges_exactly_beyond_its_threshold(b: float, form: str) -> None:
    curvature = 3.0
    options: dict[str, Any] = {"momentum": b}
    threshold = (2 + 2 * b) / curvature
    if form == "dampened" and b > 0:  # without velocity there is nothing to dampen
        options["dampening"] = 0.5
        threshold /= 1 - 0.5
    if form == "nesterov" and b > 0:
        options["nesterov"] = True
        threshold /= 1 + 2 * b
    for share, grows in ((0.99, False), (1.01, True)):
        optimizer = SGD(lr=share * threshold, **options)
        # the slowest of these, a heavy ball with b = 0.99, shrinks by sqrt(b) a step: 3,000 steps are six decades
        end = descend(optimizer, vector(curvature), vector(1.0), 3000).abs().item()
        assert end > 1e3 if grows else end < 1e-3


def test_velocity_starts_as_the_whole_first_gradient() -> None:
    theta = descend(SGD(lr=0.5, momentum=0.9, dampening=0.5), vector(1.0), vector(1.0), 2)
    u = 0.9 * 1.0 + 0.5 * 0.5  # after a first step of 0.5 * 1.0, not 0.5 * 0.5
    torch.testing.assert_close(theta, vector(0.5 - 0.5 * u), rtol=1e-15, atol=0)


@pytest.mark.parametrize(
    "optimizer", [Adam(lr=0.25, betas=(0.0, 0.0), eps=0.0), RMSprop(lr=0.25, alpha=0.0, eps=0.0)], ids=repr
)
def test_without_memory_is_sign_descent(optimizer: Optimizer) -> None:
    start = vector(1.0, -7.0, 1e-5)
    theta = descend(optimizer, vector(3.0, 2e-6, 5e4), start.clone(), 1)
    torch.testing.assert_close(theta, start - 0.25 * start.sign(), rtol=1e-15, atol=1e-16)


def test_adam_moves_by_lr_at_first_whatever_its_memory() -> None:
    start = vector(1.0, -7.0)
    theta = descend(Adam(lr=0.25, eps=0.0), vector(3.0, 2e-6), start.clone(), 1)
    torch.testing.assert_close(theta, start - 0.25 * start.sign(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("centered", [False, True])
def test_first_step_of_rmsprop(centered: bool) -> None:
    """v = (1 - alpha) g^2 and a = (1 - alpha) g, so d = sign(g) / sqrt(1 - alpha), centered / sqrt(alpha) more."""
    start = vector(1.0, -7.0)
    theta = descend(RMSprop(lr=0.25, alpha=0.8, eps=0.0, centered=centered), vector(3.0, 2e-6), start.clone(), 1)
    d = start.sign() / (0.2 * (0.8 if centered else 1.0)) ** 0.5
    torch.testing.assert_close(theta, start - 0.25 * d, rtol=1e-14, atol=0)


@pytest.mark.parametrize("amsgrad", [False, True])
def test_adamw_without_decay_is_adam(amsgrad: bool) -> None:
    adam, _ = after(Adam(lr=0.1, amsgrad=amsgrad), 50, Net())
    adamw, _ = after(AdamW(lr=0.1, amsgrad=amsgrad, weight_decay=0.0), 50, Net())
    assert torch.equal(adam, adamw)


def test_adamw_decay_is_geometric_where_the_loss_is_flat() -> None:
    theta = descend(AdamW(lr=0.1, weight_decay=0.5), vector(0.0, 0.0), vector(1.0, -3.0), 20)
    torch.testing.assert_close(theta, 0.95**20 * vector(1.0, -3.0), rtol=20 * 2.3e-16, atol=0)


def test_large_eps_turns_adam_into_dampened_momentum() -> None:
    """sqrt(v) <= |g| is lost beside eps = 1e8, up to |g| / eps; the bias correction of m is all that is left."""
    curvatures, start = vector(1.0, 0.3), vector(1.0, -1.0)
    adam = descend(Adam(lr=1e7, eps=1e8), curvatures, start.clone(), 3)
    theta, m = start.clone(), vector(0.0, 0.0)
    for t in (1, 2, 3):
        m = 0.9 * m + 0.1 * curvatures * theta
        theta = theta - 0.1 * m / (1 - 0.9**t)
    torch.testing.assert_close(adam, theta, rtol=1e-7, atol=0)
