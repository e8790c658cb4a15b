"""Every schedule in the folder keeps the interface's promises; those that torch has too agree with it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError
from torch.optim import lr_scheduler as theirs

import lossgeo.optimizers.schedules
from lossgeo.components.finding import find, names
from lossgeo.optimizers.schedules import Rates, Schedule
from lossgeo.optimizers.schedules.constant import Constant
from lossgeo.optimizers.schedules.cosine import Cosine
from lossgeo.optimizers.schedules.exponential import Exponential
from lossgeo.optimizers.schedules.linear import Linear
from lossgeo.optimizers.schedules.piecewise import Piecewise
from lossgeo.optimizers.schedules.step import Step

NAMES = names(Schedule)
# of the schedules that have no default: a new one with required keys needs a line here
REQUIRED: dict[str, dict[str, Any]] = {
    "step": {"every": 7},
    "exponential": {"gamma": 0.9},
    "piecewise": {"boundaries": (5, 11), "factors": (0.5, 0.01)},
}
every_schedule = pytest.mark.parametrize("name", NAMES)


def example(name: str, **options: Any) -> Schedule:
    return find(Schedule, name)(**REQUIRED.get(name, {}) | options)


# --- every schedule --------------------------------------------------------------------------------------------------


def test_the_folder_is_the_list() -> None:
    files = {
        f.stem for f in Path(lossgeo.optimizers.schedules.__file__).parent.glob("*.py") if not f.stem.startswith("_")
    }
    assert set(NAMES) == files
    assert {"constant", "step", "exponential", "cosine", "linear", "piecewise"} <= files


@every_schedule
def test_is_final_frozen_and_described(name: str) -> None:
    cls = find(Schedule, name)
    assert cls.__name__.lower() == name.replace("_", "")
    assert getattr(cls, "__final__", False)
    assert all(field.description for field in cls.model_fields.values())
    with pytest.raises(ValidationError, match="frozen"):
        example(name).warmup = 1
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        example(name, warmup=-1)


@pytest.mark.parametrize("name", REQUIRED)
def test_what_has_no_default_is_required(name: str) -> None:
    with pytest.raises(ValidationError, match="Field required") as caught:
        find(Schedule, name)()
    assert {error["loc"][0] for error in caught.value.errors()} == set(REQUIRED[name])


@every_schedule
@settings(max_examples=30, deadline=None)  # a busy machine is not a failure
@given(data=st.data())
def test_promises(name: str, data: st.DataObject) -> None:
    steps = data.draw(st.integers(0, 300), "steps")
    warmup = data.draw(st.integers(0, 320), "warmup")
    cold, warm = example(name), example(name, warmup=warmup)
    factors = [warm.factor(step, steps) for step in range(steps + 1)]
    assert all(type(f) is float and 0 <= f <= 1 for f in factors)
    climb = factors[:warmup]
    assert climb == [(step + 1) / warmup for step in range(len(climb))]
    assert factors[warmup:] == [cold.factor(step, steps - warmup) for step in range(len(factors) - warmup)]
    assert warm.factor(warmup, max(steps, warmup)) == 1.0  # the shape begins at the base rate
    for beyond in (steps + 1, 2 * steps + 3, 10**9):
        assert warm.factor(beyond, steps) == factors[steps]


# --- torch -----------------------------------------------------------------------------------------------------------

STEPS = 60
Twin = Callable[[torch.optim.Optimizer, int], theirs.LRScheduler]  # of an optimizer and the steps after the warm-up
PAIRS: list[tuple[Schedule, Twin]] = [
    (Constant(), lambda o, n: theirs.ConstantLR(o, factor=1.0)),
    (Step(every=7, gamma=0.5), lambda o, n: theirs.StepLR(o, 7, gamma=0.5)),
    (Step(every=7), lambda o, n: theirs.StepLR(o, 7)),
    (Exponential(gamma=0.97), lambda o, n: theirs.ExponentialLR(o, 0.97)),
    (Cosine(), theirs.CosineAnnealingLR),
    (Cosine(final=0.1), lambda o, n: theirs.CosineAnnealingLR(o, n, eta_min=0.1 * 0.3)),
    (Linear(), lambda o, n: theirs.LinearLR(o, 1.0, 0.0, n)),
    (Linear(final=0.25), lambda o, n: theirs.LinearLR(o, 1.0, 0.25, n)),
    (
        Piecewise(boundaries=(5, 11, 12), factors=(0.5, 0.25, 0.125)),
        lambda o, n: theirs.MultiStepLR(o, [5, 11, 12], gamma=0.5),
    ),
]


@pytest.mark.parametrize("warmup", [0, 1, 2, 10])
@pytest.mark.parametrize(("ours", "twin"), PAIRS, ids=[repr(ours) for ours, _ in PAIRS])
def test_equals_torch(ours: Schedule, twin: Twin, warmup: int) -> None:
    """torch multiplies the last rate where we use the closed form, so roundings add up over the steps."""
    ours = type(ours)(**ours.model_dump() | {"warmup": warmup})
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    if warmup == 0:
        scheduler = twin(optimizer, STEPS)
    else:
        climb = (
            theirs.LinearLR(optimizer, 1 / warmup, 1.0, warmup - 1) if warmup > 1 else theirs.ConstantLR(optimizer, 1.0)
        )
        scheduler = theirs.SequentialLR(optimizer, [climb, twin(optimizer, STEPS - warmup)], [warmup])
    for step in range(STEPS):
        rate = optimizer.param_groups[0]["lr"]
        assert math.isclose(0.3 * ours.factor(step, STEPS), rate, rel_tol=1e-12, abs_tol=1e-15), step
        optimizer.step()
        with warnings.catch_warnings():  # SequentialLR calls its members in a way that torch itself deprecates
            warnings.simplefilter("ignore")
            scheduler.step()


def test_every_schedule_has_a_twin_or_a_reason() -> None:
    assert {type(ours).component_name() for ours, _ in PAIRS} >= {
        "constant", "step", "exponential", "cosine", "linear", "piecewise",
    }  # fmt: skip


# --- closed forms and refusals ---------------------------------------------------------------------------------------


def test_ends_are_exact() -> None:
    for final in (0.0, 0.1, 1.0, 30.0):
        for schedule in (Cosine(final=final), Linear(final=final)):
            assert schedule.factor(0, 100) == 1.0
            assert schedule.factor(100, 100) == final
            assert math.isclose(schedule.factor(50, 100), (1 + final) / 2, rel_tol=1e-15)


def test_limits() -> None:
    for schedule in (
        Step(every=3, gamma=1.0),
        Step(every=101),
        Exponential(gamma=1.0),
        Cosine(final=1.0),
        Linear(final=1.0),
    ):
        assert [schedule.factor(step, 100) for step in range(101)] == [1.0] * 101
    exponential, step = Exponential(gamma=0.5), Step(every=1, gamma=0.5)
    assert (
        [exponential.factor(t, 9) for t in range(9)]
        == [step.factor(t, 9) for t in range(9)]
        == [0.5**t for t in range(9)]
    )


def test_boundaries_belong_to_what_follows() -> None:
    schedule = Piecewise(boundaries=(2, 4), factors=(3.0, 0.0), warmup=1)
    assert [schedule.factor(step, 7) for step in range(7)] == [1.0, 1.0, 1.0, 3.0, 3.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("boundaries", "factors", "message"),
    [
        ((5, 11), (0.1,), "2 boundaries and 1 factors: give one factor for each boundary"),
        ((11, 5), (0.1, 0.01), r"boundaries \[11, 5\] do not increase: sort them"),
        ((5, 5), (0.1, 0.01), "do not increase"),
        ((), (), "at least 1 item"),
        ((0,), (0.1,), "greater than or equal to 1"),
        ((5,), (-0.1,), "greater than or equal to 0"),
    ],
)
def test_piecewise_refuses(boundaries: tuple[int, ...], factors: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Piecewise(boundaries=boundaries, factors=factors)


@pytest.mark.parametrize("gamma", [0.0, -0.5, 1.5])
def test_decay_is_a_decay(gamma: float) -> None:
    with pytest.raises(ValidationError, match=r"greater than 0|less than or equal to 1"):
        Exponential(gamma=gamma)
    with pytest.raises(ValidationError, match=r"greater than 0|less than or equal to 1"):
        Step(every=1, gamma=gamma)


# --- the rates of a training -----------------------------------------------------------------------------------------


@every_schedule
@pytest.mark.parametrize(("warmup", "steps"), [(0, 40), (10, 40), (50, 40)])
def test_the_rate_stays_from_where_it_is_said_to(name: str, warmup: int, steps: int) -> None:
    rates = Rates(0.3, example(name, warmup=warmup), steps)
    assert 0 <= rates.settled <= steps
    assert {rates(step) for step in range(rates.settled, 3 * steps)} == {rates(rates.settled)}
    assert rates(3) == 0.3 * rates.schedule.factor(3, steps)


def test_a_constant_rate_is_settled_once_it_is_warm() -> None:
    assert Rates(0.1, Constant(warmup=7), 10**8).settled == 7
    assert Rates(0.1, Piecewise(boundaries=(5,), factors=(0.1,)), 10**8).settled == 5


@every_schedule
@pytest.mark.parametrize("warmup", [0, 15])
def test_a_sum_of_speeds_is_reached_between_two_steps(name: str, warmup: int) -> None:
    rates = Rates(0.3, example(name, warmup=warmup), 10_000)
    sums = np.concatenate([[0.0], np.cumsum([rates(step) ** 2 for step in range(12_000)])])
    wanted = np.array([0.0, 0.003, 0.5 * sums[9_000], sums[9_000], 0.5 * (sums[9_000] + sums[9_001]), sums[11_000]])
    found = rates.until(wanted, lambda rate: rate * rate)
    reached = np.interp(found, np.arange(len(sums)), sums)
    np.testing.assert_allclose(reached, wanted, rtol=1e-12)
    never = rates.until(np.array([1e9]), lambda rate: rate * rate).item()
    assert np.isinf(never) == (rates(10_000) == 0)
