"""Every operator against dense matrices made by another route, on every kind of network, loss, chunk and block."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from lossgeo.components.finding import names
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.finite_difference import FiniteDifference
from lossgeo.curvature.operators.fisher import Fisher
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.operators.ntk import NTK
from lossgeo.curvature.operators.preconditioned import Preconditioned
from lossgeo.curvature.spectral.linear_operator import Contributions, LinearOperator
from lossgeo.errors import UsageError
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.point import Point
from lossgeo.optimizers import Optimizer
from lossgeo.optimizers.adam import Adam
from lossgeo.optimizers.rmsprop import RMSprop
from lossgeo.optimizers.sgd import SGD
from tests.support.dense import CASES, DIFFERENCES, ROUNDING, Dense
from tests.support.networks import (
    CLASSES,
    LOSSES,
    MODES,
    N,
    Slower,
    apart,
    data,
    directions,
    here,
    landscape_around,
    landscape_of,
)
from tests.support.steps import batch_loss

# a sum over chunks in another order
REORDERED = 1e-12

DENSE = {name: case for name, case in CASES.items() if case.matrix is not None}
EXACT = {name: case for name, case in CASES.items() if name != "finite_difference"}
OF_EXAMPLES = {name: case for name, case in CASES.items() if case.forms is not None}


@cache
def dense_of(network: str, loss: str, batch_norm: str) -> Dense:
    return Dense(landscape_of(network, loss), batch_norm)


def matrix(operator: LinearOperator) -> torch.Tensor:
    return operator @ torch.eye(operator.size, dtype=operator.dtype)


def test_every_operator_in_the_folder_has_a_dense_reference() -> None:
    assert {case.operator.component_name() for case in DENSE.values()} == set(names(Operator))


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("network", "batch_norm"), MODES)
def test_products_are_those_of_the_dense_matrix(network: str, batch_norm: str, loss: str) -> None:
    dense = dense_of(network, loss, batch_norm)
    near = here(landscape_of(network, loss, chunk=10), batch_norm)
    for name, case in DENSE.items():
        operator, wanted = case.operator.at(near), case.matrix(dense)
        assert (operator.size, operator.dtype) == (len(wanted), torch.float64), name
        vectors = directions(operator.size)
        assert apart(operator @ vectors, wanted @ vectors) <= case.tolerance, name


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("network", "batch_norm"), MODES)
def test_contributions_are_those_of_the_examples(network: str, batch_norm: str, loss: str) -> None:
    dense = dense_of(network, loss, batch_norm)
    near = here(landscape_of(network, loss, chunk=10), batch_norm)
    vectors = directions(near.size).T
    for name, case in OF_EXAMPLES.items():
        operator = case.operator.at(near)
        found = operator.contributions(vectors)
        assert apart(found.forms, case.forms(dense, vectors)) <= ROUNDING, name
        assert apart(found.shares, dense.shares) <= ROUNDING, name
        assert apart(found.forms.sum(1), (vectors * (operator @ vectors.T).T).sum(1)) <= ROUNDING, name


def test_operators_that_are_no_mean_over_examples_say_so() -> None:
    near = here(landscape_of("mlp"))
    for name in ("ntk", "finite_difference"):
        assert CASES[name].operator.at(near).contributions is None
    assert Preconditioned(of=FiniteDifference()).at(near).contributions is None
    sampled = Fisher(draws=3).at(near)
    found = sampled.contributions(directions(near.size).T)
    assert (found.forms >= 0).all()
    assert apart(found.forms.sum(1), (directions(near.size) * (sampled @ directions(near.size))).sum(0)) <= ROUNDING


def test_the_standard_error_is_that_of_a_ratio() -> None:
    stream = np.random.default_rng(0)
    values, weights = stream.normal(size=(2, N)), stream.uniform(0, 3, size=N)
    shares = weights / weights.sum()
    found = Contributions(torch.tensor(shares * values), torch.tensor(shares), N).stderr()
    mean = (shares * values).sum(1, keepdims=True)
    # Cochran 1977, 6.13, for the ratio of the means of weights * values and weights
    residuals = weights * (values - mean)
    expected = np.sqrt((residuals**2).sum(1) / (N - 1) / N) / weights.mean()
    assert found.numpy() == pytest.approx(expected, rel=1e-13)
    equal = torch.full((N,), 1 / N, dtype=torch.float64)
    plain = Contributions(torch.tensor(values) / N, equal, N).stderr()
    assert plain.numpy() == pytest.approx(values.std(1, ddof=1) / N**0.5, rel=1e-13)
    # the same deviation stands behind more examples
    assert Contributions(torch.tensor(values) / N, equal, 4 * N).stderr().numpy() == pytest.approx(plain.numpy() / 2)
    assert Contributions(torch.ones(2, 1), torch.ones(1), 1).stderr().isinf().all()


@pytest.mark.parametrize("name", OF_EXAMPLES)
def test_the_standard_error_is_the_spread_over_samples_of_the_population(name: str) -> None:
    operator, repeats, n = CASES[name].operator, 200, 60
    landscape = landscape_of("mlp", "mse", n=repeats * n)
    vector = landscape.mean_gradient(landscape.start(), landscape.train)[None]  # centered or not is two things there
    point = Point(0, landscape.start(), {}, Slower())
    values, errors = [], []
    for k in range(repeats):
        near = LocalLoss(landscape, point, landscape.train.rows(slice(k * n, (k + 1) * n)))
        found = operator.at(near).contributions(vector)
        values.append(float(found.forms.sum()))
        errors.append(float(found.stderr()[0]))
    spread = float(np.std(values, ddof=1))
    # 4 sigma: the deviation of a deviation from 200 values is 1/sqrt(2 * 199) = 5% of it for a normal law; the
    # linearized error lacks terms of order 1/n = 2% beside it
    assert float(np.sqrt(np.mean(np.square(errors)))) == pytest.approx(spread, rel=0.22)


# --- by chance -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "loss"), [("mlp", "cross_entropy"), ("mlp", "mse"), ("mlp", "weighted"), ("transformer", "weighted")]
)
def test_sampled_fisher_is_unbiased_and_knows_its_error(network: str, loss: str) -> None:
    near = here(landscape_of(network, loss))
    vectors = directions(near.size).T
    exact = torch.einsum("kp,pq,kq->k", vectors, dense_of(network, loss, "eval").fisher, vectors)
    seeds = 100
    values, errors = torch.zeros(2, seeds, 3, dtype=torch.float64)
    for seed in range(seeds):
        operator = Fisher(draws=4, seed=seed).at(near)
        values[seed] = operator.contributions(vectors).forms.sum(1)
        errors[seed] = operator.sampling(vectors)
    spread = values.std(0)
    assert ((values.mean(0) - exact).abs() <= 4 * spread / seeds**0.5).all()
    # 4 sigma for the ratio of two deviations of a normal law, from 100 values and from 100 times 3 degrees of freedom
    ratio = errors.square().mean(0).sqrt() / spread
    assert ((ratio - 1).abs() <= 4 * (1 / (2 * 99) + 1 / (2 * 300)) ** 0.5).all()


def test_draws_follow_the_seed_alone_and_more_of_them_err_less() -> None:
    landscape = landscape_of("cnn")
    vectors = directions(landscape.size)

    def product(draws: int, seed: int) -> torch.Tensor:
        return Fisher(draws=draws, seed=seed).at(here(landscape)) @ vectors

    assert torch.equal(product(4, 0), product(4, 0))
    assert not torch.equal(product(4, 0), product(4, 1))
    few, many = (Fisher(draws=m).at(here(landscape)).sampling(vectors.T) for m in (10, 1000))
    # the error falls as 1/sqrt(M); from 10 draws it is itself known to 1/sqrt(18), and 4 sigma are 94%
    assert (few / many).numpy() == pytest.approx(10, rel=0.95)
    assert apart(product(10_000, 0), Fisher().at(here(landscape)) @ vectors) < 0.1


def test_a_loss_that_cannot_draw_targets_refuses_sampled_fisher() -> None:
    class Cosh(Loss):
        accepts = ("values",)

        def prepare(self, targets: torch.Tensor, task: object, dtype: torch.dtype) -> torch.Tensor:
            return targets.to(dtype)

        def mean(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return (outputs - targets).cosh().sum() / len(targets)

        def weight(self, targets: torch.Tensor) -> float:
            return float(len(targets))

    landscape = landscape_around(nn.Linear(6, 2), data((6,))._replace(targets=torch.randn(N, 2)), "mse")
    landscape.loss = Cosh()
    near = here(landscape)
    with pytest.raises(UsageError, match="gauss_newton"):
        Fisher(draws=2).at(near)
    # a loss that says no more than its mean has exact ones all the same
    found = {
        n: CASES[n].operator.at(near) @ directions(near.size) for n in ("hessian", "gauss_newton", "finite_difference")
    }
    assert apart(found["hessian"], found["gauss_newton"]) <= ROUNDING  # the model is linear
    assert apart(found["finite_difference"], found["hessian"]) <= DIFFERENCES
    forms = {
        n: CASES[n].operator.at(near).contributions(directions(near.size).T).forms for n in ("hessian", "gauss_newton")
    }
    assert apart(forms["hessian"], forms["gauss_newton"]) <= ROUNDING


# --- what every operator keeps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_products_take_one_vector_or_columns_and_are_counted(name: str) -> None:
    operator = CASES[name].operator.at(here(landscape_of("cnn", chunk=10)))
    vectors = directions(operator.size)
    together = operator @ vectors
    assert operator.products == 3
    assert operator.seconds > 0
    assert torch.equal(together[:, 1], operator @ vectors[:, 1])
    assert operator.products == 4
    for wrong in (vectors[:-1], vectors[:-1, 0], vectors[None]):
        with pytest.raises(ValueError, match="takes"):
            operator @ wrong
    assert operator.products == 4


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("network", "batch_norm"), MODES)
def test_every_operator_is_symmetric(network: str, batch_norm: str, name: str) -> None:
    operator = CASES[name].operator.at(here(landscape_of(network, chunk=10), batch_norm))
    u, v, _ = directions(operator.size).T
    left, right = u @ (operator @ v), v @ (operator @ u)
    size = u.norm() * (operator @ v).norm()
    assert abs(left - right) <= CASES[name].tolerance * size


@pytest.mark.parametrize(
    ("network", "loss"),
    [("mlp", "mse"), ("mlp", "weighted"), ("cnn", "weighted"), ("resnet", "mse"), ("transformer", "weighted")],
)
def test_any_chunk_size_gives_the_same(network: str, loss: str) -> None:
    n = 23  # prime; the weighted loss counts nothing in the second chunk of ten
    whole = here(landscape_of(network, loss, chunk=n, n=n))
    vectors = {name: directions(case.operator.at(whole).size, 1) for name, case in EXACT.items()}
    products = {name: case.operator.at(whole) @ vectors[name] for name, case in EXACT.items()}
    forms = {name: case.operator.at(whole).contributions(vectors[name].T) for name, case in OF_EXAMPLES.items()}
    for chunk in (1, 10, 22):
        ragged = here(landscape_of(network, loss, chunk=chunk, n=n))
        for name, case in EXACT.items():
            operator = case.operator.at(ragged)
            assert apart(operator @ vectors[name], products[name]) <= REORDERED, (name, chunk)
            if name in forms:
                found = operator.contributions(vectors[name].T)
                assert apart(found.forms, forms[name].forms) <= REORDERED, (name, chunk)
                assert apart(found.shares, forms[name].shares) <= REORDERED, (name, chunk)


@pytest.mark.parametrize("name", CASES)
def test_a_block_is_the_block_of_the_matrix(name: str) -> None:
    case = CASES[name]
    landscape = landscape_of("resnet", chunk=10)
    every = [n for n, _ in landscape.module.named_parameters()]
    dense = dense_of("resnet", "cross_entropy", "eval")
    whole = None if case.matrix else matrix(case.operator.at(here(landscape)))
    for block in (every[:1], every[2:5], every[::-3]):
        near = here(landscape, names=block)
        operator = case.operator.at(near)
        where = dense.positions(block)
        if name == "ntk":
            wanted = dense.kernel(where)
        else:
            assert operator.size == near.size == len(where)
            wanted = (case.matrix(dense) if whole is None else whole)[where][:, where]
        vectors = directions(operator.size)
        assert apart(operator @ vectors, wanted @ vectors) <= case.tolerance
        if operator.contributions is not None:
            forms = operator.contributions(vectors.T).forms.sum(1)
            assert apart(forms, torch.einsum("pk,pq,qk->k", vectors, wanted, vectors)) <= case.tolerance


class Odd(nn.Module):
    """A frozen layer, a used one, and one that nothing depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(6, 5).requires_grad_(False)
        self.used = nn.Linear(5, CLASSES)
        self.unused = nn.Linear(2, 2)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.used(torch.tanh(self.frozen(inputs)))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_frozen_and_unused_parameters_give_zero_rows(name: str, loss: str) -> None:
    case = CASES[name]
    landscape = landscape_around(Odd(), data((6,)), loss)
    dense = Dense(landscape)
    operator = case.operator.at(here(landscape))
    vectors = directions(operator.size)
    product = operator @ vectors
    if case.matrix is not None:
        # the model is linear in what it learns, so that differences have no error but rounding over h
        assert apart(product, case.matrix(dense) @ vectors) <= case.tolerance
    if name != "ntk":
        used = dense.positions(["used.weight", "used.bias"])
        rest = torch.ones(operator.size, dtype=torch.bool).index_fill(0, used, False)
        assert (product[rest] == 0).all()
        assert (product[used] != 0).all()
    for idle in (["frozen.weight", "frozen.bias"], ["unused.bias"], ["frozen.bias", "unused.weight"]):
        nothing = case.operator.at(here(landscape, names=idle))
        assert (nothing @ directions(nothing.size) == 0).all()
        if nothing.contributions is not None:
            assert (nothing.contributions(directions(nothing.size).T).forms == 0).all()


@pytest.mark.parametrize(("network", "batch_norm", "partly"), [("cnn", "eval", True), ("resnet", "batch", False)])
@pytest.mark.parametrize("name", EXACT)
def test_graphs_that_do_not_fit_the_memory_are_rebuilt_and_give_the_same(
    name: str, network: str, batch_norm: str, partly: bool
) -> None:
    operator = EXACT[name].operator
    landscape = landscape_of(network, chunk=10)
    kept = operator.at(here(landscape, batch_norm))
    assert kept.note == "kept"
    vector = directions(kept.size, 1)[:, 0]
    wanted = kept @ vector
    forms = kept.contributions(vector[None]).forms if kept.contributions else None
    notes, room = set(), 0
    for memory in [1, *(2**k for k in range(14, 23))]:
        some = operator.at(here(landscape, batch_norm, memory=memory))
        if some.room is not None:
            assert some.room >= room
            room = some.room
            assert room * some.size * 8 <= memory
        if some.note not in notes:
            for _ in range(2):
                assert torch.equal(some @ vector, wanted)  # the same operations in the same order
            if forms is not None:
                assert torch.equal(some.contributions(vector[None]).forms, forms)
        notes.add(some.note)
    some_of_four = {f"kept {m} of 4" for m in (1, 2, 3)}
    assert notes - some_of_four == {"rebuilt", "kept"}
    assert bool(notes & some_of_four) == partly  # with batch statistics there is one chunk


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("network", ["mlp", "cnn", "resnet", "transformer"])
def test_a_question_about_another_theta_in_between_changes_nothing(network: str, name: str) -> None:
    # kept graphs read the module's own parameters, and the module had gone elsewhere: convolutions took them from there
    landscape = landscape_of(network, chunk=10)
    operator = CASES[name].operator.at(here(landscape))
    vectors = directions(operator.size)
    product = operator @ vectors
    forms = operator.contributions(vectors.T).forms if operator.contributions else None
    errors = operator.sampling(vectors.T) if operator.sampling else None
    elsewhere = landscape.start() + 1
    landscape.evaluate(elsewhere, landscape.train)
    assert torch.equal(operator @ vectors, product)
    landscape.evaluate(elsewhere, landscape.train)
    other = CASES[name].operator.at(LocalLoss(landscape, Point(0, elsewhere, {}, Slower()), landscape.train))
    assert not torch.equal(other @ vectors, product)
    if forms is not None:
        assert torch.equal(operator.contributions(vectors.T).forms, forms)
    landscape.evaluate(elsewhere, landscape.train)
    if errors is not None:
        assert torch.equal(operator.sampling(vectors.T), errors)


@pytest.mark.parametrize("name", CASES)
def test_an_operator_refuses_to_be_used_after_theta_moved(name: str) -> None:
    landscape = landscape_of("mlp", chunk=10)
    theta = landscape.start()
    operator = CASES[name].operator.at(LocalLoss(landscape, Point(0, theta, {}, Slower()), landscape.train))
    vectors = directions(operator.size)
    operator @ vectors
    theta.add_(1e-3)
    with pytest.raises(ValueError, match="theta has changed"):
        operator @ vectors
    for question in (operator.contributions, operator.sampling):
        if question is not None:
            with pytest.raises(ValueError, match="theta has changed"):
                question(vectors.T)


# --- preconditioned --------------------------------------------------------------------------------------------------


def after_steps(optimizer: Optimizer, steps: int) -> tuple[Landscape, Point]:
    landscape = landscape_of("mlp", chunk=10)
    theta, loss = landscape.start(), batch_loss(landscape)
    state = optimizer.init(loss, theta)
    for k in range(steps):
        loss.begin(k, landscape.train.rows(slice(8 * (k % 4), 8 * (k % 4) + 8)))
        theta, state, *_ = optimizer.step(loss, theta, state, optimizer.lr)
    return landscape, Point(steps, theta, state, optimizer)


def adam_scale(optimizer: Adam, point: Point, gradients: torch.Tensor) -> torch.Tensor:
    """D by the definition: v is the exponential mean of the squared gradients, both bias corrections stay in."""
    b1, b2 = optimizer.betas
    t = len(gradients)
    ages = torch.arange(t - 1, -1, -1, dtype=torch.float64)
    v = ((1 - b2) * b2**ages) @ gradients**2 / (1 - b2**t)
    return (1 - b1**t) * (v.sqrt() + optimizer.eps)


def rmsprop_scale(optimizer: RMSprop, point: Point, gradients: torch.Tensor) -> torch.Tensor:
    weights = (1 - optimizer.alpha) * optimizer.alpha ** torch.arange(len(gradients) - 1, -1, -1, dtype=torch.float64)
    v, a = weights @ gradients**2, weights @ gradients
    return (v - a**2 if optimizer.centered else v).sqrt() + optimizer.eps


@pytest.mark.parametrize(
    ("optimizer", "scale_of"),
    [
        (Adam(lr=0.01), adam_scale),
        (Adam(lr=0.01, betas=(0.5, 0.9), eps=1e-3), adam_scale),
        (RMSprop(lr=0.01), rmsprop_scale),
        (RMSprop(lr=0.01, alpha=0.9, centered=True, momentum=0.9), rmsprop_scale),
    ],
    ids=["adam", "adam with other betas", "rmsprop", "rmsprop, centered"],
)
def test_curvature_is_seen_as_the_optimizer_sees_it(
    optimizer: Optimizer, scale_of: Callable[..., torch.Tensor]
) -> None:
    gradients = []
    for steps in range(5):  # each gradient is taken where the steps before it led
        landscape, point = after_steps(optimizer, steps)
        batch = landscape.train.rows(slice(8 * (steps % 4), 8 * (steps % 4) + 8))
        gradients.append(landscape.mean_gradient(point.theta, batch))
    landscape, point = after_steps(optimizer, 5)
    D = scale_of(optimizer, point, torch.stack(gradients))
    wanted = Dense(landscape, theta=point.theta).hessian / (D[:, None] * D).sqrt()
    found = matrix(Preconditioned().at(LocalLoss(landscape, point, landscape.train)))
    # the moments are float64; a fused kernel and a sum in closed form round differently
    assert apart(found, wanted) <= ROUNDING


def test_plain_descent_sees_the_plain_hessian() -> None:
    landscape, point = after_steps(SGD(lr=0.1, momentum=0.9), 3)
    near = LocalLoss(landscape, point, landscape.train)
    vector = directions(near.size, 1)[:, 0]
    assert torch.equal(Preconditioned().at(near) @ vector, Hessian().at(near) @ vector)


@pytest.mark.parametrize("optimizer", [Adam(), RMSprop()], ids=["adam", "rmsprop"])
def test_before_the_first_step_there_is_no_preconditioner(optimizer: Optimizer) -> None:
    landscape, point = after_steps(optimizer, 0)
    near = LocalLoss(landscape, point, landscape.train)
    with pytest.raises(ValueError, match="before the first step"):
        Preconditioned().at(near)


def test_without_an_optimizer_or_parameters_there_is_nothing_to_precondition() -> None:
    landscape = landscape_of("mlp")
    with pytest.raises(ValueError, match="no optimizer is known"):
        Preconditioned().at(LocalLoss(landscape, Point(3, landscape.start(), {}), landscape.train))
    with pytest.raises(ValueError, match="ntk is no map of the parameters"):
        Preconditioned(of=NTK()).at(here(landscape))


def test_sampling_errors_are_preconditioned_too() -> None:
    near = here(landscape_of("mlp"))
    vectors = directions(near.size).T
    D = Slower.diagonal(len(near.theta))
    found = Preconditioned(of=Fisher(draws=5)).at(near).sampling(vectors)
    assert apart(found, Fisher(draws=5).at(near).sampling(vectors / D.sqrt())) <= ROUNDING


# --- finite differences ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("network", "batch_norm"), MODES)
def test_differences_err_as_predicted(network: str, batch_norm: str) -> None:
    dense = dense_of(network, "cross_entropy", batch_norm)
    near = here(landscape_of(network, chunk=10), batch_norm)
    eps = torch.finfo(torch.float64).eps
    h = eps ** (1 / 3) * max(1.0, float(near.theta.norm()))
    v = directions(near.size, 1)[:, 0]
    length = v.norm()
    truncation = length * h**2 / 6 * dense.third(v / length)
    error = FiniteDifference().at(near) @ v - dense.hessian @ v
    # what is left is the rounding of two gradients, a few eps of the sum of their terms' sizes, over 2h
    rounding = length * 10 * eps * dense.gradients.norm(dim=1).sum() / (2 * h)
    assert (error - truncation).norm() <= 0.01 * truncation.norm() + rounding
    assert error.norm() <= DIFFERENCES * (dense.hessian @ v).norm()


def test_differences_take_a_step_of_one_length_whatever_that_of_the_vector() -> None:
    operator = FiniteDifference().at(here(landscape_of("cnn")))
    v = directions(operator.size, 1)[:, 0]
    product = operator @ v
    for power in (-40, -1, 3, 40):  # powers of two scale without rounding
        assert torch.equal(operator @ (v * 2.0**power), product * 2.0**power)
    assert (operator @ torch.zeros_like(v) == 0).all()


def test_differences_are_refused_in_bfloat16_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="bfloat16; use hessian"):
        FiniteDifference().at(here(landscape_of("mlp", dtype=torch.bfloat16)))


# --- precision -------------------------------------------------------------------------------------------------------


def rounded(landscape: Landscape, network: str, loss: str, dtype: torch.dtype) -> Landscape:
    """The same landscape in another precision: parameters, buffers and data are those that the first one rounded to."""
    other = landscape_of(network, loss, chunk=10, dtype=dtype)
    other.flat.restore(landscape.flat.buffers())
    for name in ("train", "test"):
        examples = getattr(landscape, name)
        fitting = (t.to(dtype) if t.is_floating_point() else t for t in examples)
        setattr(other, name, type(examples)(*fitting))
    return other


def product_of(
    landscape: Landscape, start: torch.Tensor, name: str, batch_norm: str, **settings: object
) -> torch.Tensor:
    point = Point(0, start, {}, Slower())
    operator = CASES[name].operator.at(LocalLoss(landscape, point, landscape.train, batch_norm, **settings))
    vectors = directions(operator.size).to(operator.dtype)
    product = operator @ vectors
    assert torch.equal(operator @ vectors, product)
    return product


@pytest.mark.parametrize(("network", "batch_norm"), MODES)
def test_a_float32_landscape_can_be_measured_in_float64(network: str, batch_norm: str) -> None:
    loss = "mse" if network == "cnn" else "cross_entropy"
    landscape = landscape_of(network, loss, chunk=10, dtype=torch.float32)
    other = rounded(landscape, network, loss, torch.float64)
    before = landscape.flat.buffers()
    for name in EXACT:
        if "preconditioned" in name:  # by a diagonal that is rounded to the precision of theta
            continue
        found = product_of(landscape, landscape.start(), name, batch_norm, dtype=torch.float64)
        wanted = product_of(other, landscape.start().double(), name, batch_norm)
        assert found.dtype == torch.float64, name
        # the same operations on the same numbers; 1e-10 is what is promised
        assert apart(found, wanted) <= 1e-10, name
    assert all(torch.equal(b, before[n]) and b.dtype == before[n].dtype for n, b in landscape.flat.buffers().items())


@pytest.mark.parametrize(("network", "batch_norm"), MODES)
def test_a_bfloat16_landscape_is_measured_in_float32_and_stays_as_it_is(network: str, batch_norm: str) -> None:
    landscape = landscape_of(network, chunk=10, dtype=torch.bfloat16)
    other = rounded(landscape, network, "cross_entropy", torch.float32)
    theta, buffers = landscape.start(), landscape.flat.buffers()
    mine = theta.clone()
    landscape.outputs(mine, landscape.train.inputs)
    for name in EXACT:
        if "preconditioned" in name:
            continue
        found = product_of(landscape, mine, name, batch_norm)
        assert found.dtype == torch.float32, name
        # the same operations on the same numbers
        assert apart(found, product_of(other, theta.float(), name, batch_norm).double()) <= 1e-6, name
    assert mine.dtype == torch.bfloat16
    assert torch.equal(mine, theta)
    assert all(torch.equal(b, buffers[n]) and b.dtype == buffers[n].dtype for n, b in landscape.flat.buffers().items())
    landscape.outputs(mine, landscape.train.inputs)
    flat = torch.cat([p.detach().flatten() for p in landscape.module.parameters()])
    assert flat.dtype == torch.bfloat16
    assert torch.equal(flat, theta)
