"""Which parameters, which examples, at which price, and that the same is found twice and nothing else is moved."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from lossgeo.components.finding import find, names
from lossgeo.curvature.blocks import layers, matching
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.fisher import Fisher
from lossgeo.errors import UsageError
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.point import Point
from tests.support.dense import Dense
from tests.support.networks import (
    CLASSES,
    MODES,
    N,
    Slower,
    apart,
    data,
    directions,
    here,
    landscape_around,
    landscape_of,
    noisy,
    untouched,
)

ROUNDING = 1e-12  # float64 sums in another order


# --- parameters ------------------------------------------------------------------------------------------------------


def own_names(landscape: Landscape) -> list[str]:
    return [name for name, _ in landscape.module.named_parameters()]


def test_a_glob_picks_parameters_in_their_order() -> None:
    landscape = landscape_of("mlp")
    every = own_names(landscape)
    assert matching(landscape, "*") == tuple(every)
    assert matching(landscape, "*.bias") == tuple(name for name in every if name.endswith(".bias"))
    assert matching(landscape, every[2]) == (every[2],)
    first = every[0].partition(".")[0]
    assert matching(landscape, f"{first}.*") == tuple(name for name in every if name.startswith(f"{first}."))
    assert matching(landscape, f"[{first}].weigh?") == (f"{first}.weight",)


@pytest.mark.parametrize("pattern", ["layers.0.*", "*.BIAS", "0", "weight"])
def test_a_glob_that_picks_nothing_is_refused_with_what_there_is(pattern: str) -> None:
    landscape = landscape_of("mlp")
    with pytest.raises(UsageError) as refused:
        matching(landscape, pattern)
    assert repr(pattern) in str(refused.value)
    assert ", ".join(own_names(landscape)) in str(refused.value)
    with pytest.raises(UsageError, match="matches none"):
        layers(landscape, pattern)


def test_many_parameters_are_not_all_named() -> None:
    landscape = landscape_of("transformer")
    every = own_names(landscape)
    assert len(every) > 12
    with pytest.raises(UsageError, match=f"{every[11]} and {len(every) - 12} more$"):
        matching(landscape, "nothing")


@pytest.mark.parametrize("network", ["mlp", "cnn", "resnet", "transformer"])
def test_layers_share_the_parameters_out(network: str) -> None:
    landscape = landscape_of(network)
    found = layers(landscape, "*")
    assert [name for group in found.values() for name in group] == own_names(landscape)
    for label, group in found.items():
        assert matching(landscape, label) == group
        assert len({name.rpartition(".")[0] for name in group}) == 1
    biases = layers(landscape, "*.bias")
    assert all(name.endswith(".bias") for group in biases.values() for name in group)
    assert all(matching(landscape, label) == group for label, group in biases.items())


def test_parameters_that_no_layer_owns_are_a_layer_each() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.shift = nn.Parameter(torch.zeros(CLASSES))
            self.inner = nn.Linear(6, CLASSES)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.inner(inputs) * self.scale + self.shift

    landscape = landscape_around(Scaled(), data((6,)))
    assert layers(landscape, "*") == {
        "scale": ("scale",),
        "shift": ("shift",),
        "inner.*": ("inner.weight", "inner.bias"),
    }


def test_a_block_is_a_part_of_theta_and_moves_alone() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3).requires_grad_(False), nn.Linear(3, CLASSES))
    landscape = landscape_around(module, data((6,)))
    dense = Dense(landscape)
    block = ["2.weight", "0.bias", "1.bias"]  # in an order of one's own, a frozen one among them
    near = here(landscape, names=block)
    where = dense.positions(block)
    assert near.size == len(where) == 3 * CLASSES + 5 + 3
    assert torch.equal(near.block(near.theta), near.theta[where])
    v = directions(near.size, 1)[:, 0]
    moved = near.moved(v)
    wanted = near.theta.clone()
    wanted[where[:-3]] += v[:-3]
    assert torch.equal(moved, wanted)
    again = near.flat(tuple(near.split(v)))
    assert torch.equal(again[:-3], v[:-3])
    assert (again[-3:] == 0).all()
    assert apart(near.gradient(), dense.gradient[where]) <= ROUNDING
    assert apart(near.gradient(moved), Dense(landscape, theta=moved).gradient[where]) <= ROUNDING


@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "weighted"])
@pytest.mark.parametrize(("network", "batch_norm"), MODES)
def test_the_gradient_is_that_of_the_mean_loss(network: str, batch_norm: str, loss: str) -> None:
    landscape = landscape_of(network, loss, chunk=10)
    near = here(landscape, batch_norm)
    assert apart(near.gradient(), Dense(landscape, batch_norm).gradient) <= ROUNDING
    # attention has another kernel there
    assert apart(near.gradient(), landscape.mean_gradient(near.theta, landscape.train, batch_norm)) <= ROUNDING


# --- the same twice --------------------------------------------------------------------------------------------------


class Layer(nn.Module):
    """A layer that does what a function says."""

    def __init__(self, function: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.register_buffer("calls", torch.zeros(()))
        self.count = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.function(self, inputs)


class Inner(nn.Module):
    def __init__(self, function: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(5, 5)
        self.odd = Layer(function)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.odd(torch.tanh(self.first(inputs)))


def model(function: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 5), nn.Dropout(0.5), nn.ModuleDict({"block": Inner(function)})["block"], nn.Linear(5, CLASSES)
    )


def moving(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    layer.calls += 1
    return x


RANDOM = {
    "torch's dropout, always on": lambda _, x: nn.functional.dropout(x, 0.5, training=True),
    "noise of torch's": lambda _, x: x + 0.1 * torch.randn_like(x),
    "noise of numpy's": lambda _, x, own=np.random.default_rng(0): x * own.uniform(0.5, 1),
    "a state of its own": lambda _, x, calls=itertools.count(1): x * next(calls),
}


@pytest.mark.parametrize("kind", RANDOM)
def test_a_layer_with_randomness_of_its_own_is_named(kind: str) -> None:
    landscape = landscape_around(model(RANDOM[kind]), data((6,)))
    theta = landscape.start()
    refusal = (
        r"differs from one pass to the next.*layer '2\.odd' \(Layer\) gives two outputs for one input.*model\.eval\(\)"
    )
    for _ in range(2):  # and again, whoever asks next
        with untouched(landscape, theta), pytest.raises(ValueError, match=refusal):
            LocalLoss(landscape, Point(0, theta, {}), landscape.train)


def test_randomness_of_the_model_itself_is_said_to_be() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, CLASSES)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.linear(nn.functional.dropout(inputs, 0.5))  # `training` left at its default, which is True

    with pytest.raises(ValueError, match=r"the model itself.*\(Model\)"):
        here(landscape_around(Model(), data((6,))))


def test_a_buffer_that_moves_is_named_and_put_back() -> None:
    class Stubborn(nn.BatchNorm1d):
        """A batch norm that uses and moves its statistics whatever it is told."""

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return nn.functional.batch_norm(
                inputs, self.running_mean, self.running_var, self.weight, self.bias, training=True
            )

    for module, name in (
        (nn.Sequential(nn.Linear(6, 5), Stubborn(5), nn.Linear(5, CLASSES)), "1.running_mean"),
        (model(moving), "2.odd.calls"),
    ):
        landscape = landscape_around(module, data((6,)))
        theta = landscape.start()
        refusal = f"changes its buffer '{name}'.*batch_norm: batch"
        with untouched(landscape, theta), pytest.raises(ValueError, match=refusal):
            LocalLoss(landscape, Point(0, theta, {}), landscape.train)


def test_layers_that_follow_eval_pass() -> None:
    follows = {
        "dropout": lambda m, x: nn.functional.dropout(x, 0.5, m.training),
        "noise": lambda m, x: x + torch.randn_like(x) * m.training,
        "no noise at all": lambda m, x: x,
    }
    for function in follows.values():
        near = here(landscape_around(model(function), data((6,))))
        assert near.gradient_seconds > 0
    assert here(noisy(torch.float64)).gradient_seconds > 0


def test_a_gradient_that_is_no_number_is_no_reason_to_doubt_the_model() -> None:
    landscape = landscape_of("mlp")
    theta = landscape.start() * float("nan")
    near = LocalLoss(landscape, Point(0, theta, {}), landscape.train)
    assert near.gradient().isnan().any()


def test_the_price_of_a_gradient_is_found_once() -> None:
    landscape = landscape_of("resnet", chunk=N)
    passes = []
    landscape.module.register_forward_hook(lambda *_: passes.append(1))
    first = here(landscape)
    assert first.gradient_seconds > 0
    assert len(passes) == 2  # one to compare with the other
    for k in range(3):
        point = Point(k, landscape.start() + k, {})
        again = LocalLoss(landscape, point, landscape.train)
        assert again.gradient_seconds == first.gradient_seconds
    assert len(passes) == 2
    point = Point(0, landscape.start(), {})
    LocalLoss(landscape, point, landscape.train.rows(slice(0, 5)))  # another number of examples,
    LocalLoss(landscape, point, landscape.train, "batch")  # another mode,
    LocalLoss(landscape, point, landscape.train, names=own_names(landscape)[:2])  # other parameters
    assert len(passes) == 8


def test_the_price_of_a_gradient_is_that_of_a_warm_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by one with each pass of the model, and by a hundred with the first."""
    landscape, clock = landscape_of("resnet", chunk=N, n=10 * N + 1), [0.0]
    landscape.module.register_forward_hook(lambda *_: clock.append(clock[-1] + (1 if clock[1:] else 100)))
    monkeypatch.setattr("lossgeo.landscapes.repeatability.time.perf_counter", lambda: clock[-1])
    assert here(landscape).gradient_seconds == 11
    assert clock[-1] == 100 + 10 + 11


# --- watching does not disturb ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
@pytest.mark.parametrize("name", names(Operator))
def test_an_operator_leaves_everything_as_it_was(name: str, batch_norm: str) -> None:
    landscape = noisy()
    theta = landscape.start()
    operator = find(Operator, name)()
    with untouched(landscape, theta):
        for memory in (None, 1):  # graphs that are kept, and such as are not
            near = LocalLoss(landscape, Point(0, theta, {}, Slower()), landscape.train, batch_norm, memory=memory)
            map_ = operator.at(near)
            map_ @ torch.ones(map_.size)
            if map_.contributions is not None:
                map_.contributions(torch.ones(2, map_.size))


def test_sampling_leaves_everything_as_it_was() -> None:
    landscape = noisy()
    theta = landscape.start()
    with untouched(landscape, theta):
        map_ = Fisher(draws=3).at(LocalLoss(landscape, Point(0, theta, {}), landscape.train))
        map_ @ torch.ones(map_.size)
        map_.sampling(torch.ones(2, map_.size))


def test_a_measurement_that_fails_leaves_everything_as_it_was() -> None:
    def broken(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        if layer.count:
            raise RuntimeError("broken")
        return x

    landscape = landscape_around(model(broken), data((6,)))
    theta = landscape.start()
    landscape.module[2].odd.count = 1
    landscape.module[1].eval()
    before = {name: m.training for name, m in landscape.module.named_modules()}
    state = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="broken"):
        LocalLoss(landscape, Point(0, theta, {}), landscape.train, "batch")
    assert {name: m.training for name, m in landscape.module.named_modules()} == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_labels_of_layers_are_globs_of_just_these_parameters() -> None:
    landscape = noisy()  # nn.MultiheadAttention owns parameters and has a child that owns others
    for label, mine in layers(landscape, "*").items():
        assert matching(landscape, label) == mine


def test_batch_norm_without_running_statistics_does_not_depend_on_the_chunk() -> None:
    losses = []
    for chunk in (10, 37):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            norm = nn.BatchNorm1d(5, track_running_stats=False)
            module = nn.Sequential(nn.Linear(6, 5), norm, nn.Linear(5, 4))
        landscape = landscape_around(module, data((6,)), chunk=chunk)
        losses.append(landscape.evaluate(landscape.start(), landscape.train).loss)
        landscape.evaluate(landscape.start(), landscape.train, "batch")
        assert not norm.track_running_stats
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
