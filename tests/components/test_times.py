"""When something is due."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from lossgeo.components.times import MAX_STEPS, Agenda, Times
from tests.support.counting import calls_of

STEPS = st.integers(1, 300)
TIMES = st.builds(
    Times,
    every=st.none() | st.integers(1, 400),
    at=st.none()
    | st.lists(st.integers(0, 400) | st.sampled_from(["first", "last"]), min_size=1, max_size=5).map(tuple),
    log=st.none() | st.integers(1, 30),
)


def due(times: Times, steps: int) -> list[int]:
    return [step for step in range(steps + 1) if times.due(step, steps)]


@pytest.mark.parametrize(
    ("options", "steps", "found"),
    [
        ({}, 10, [0, 10]),
        ({"every": 4}, 10, [0, 4, 8, 10]),
        ({"every": 100}, 10, [0, 10]),
        ({"at": ("first",)}, 10, [0]),
        ({"at": ("last",)}, 10, [10]),
        ({"at": (3, 7, 99)}, 10, [3, 7]),
        ({"at": (0, 10)}, 10, [0, 10]),
        ({"log": 4}, 10_000, [0, 1, 10, 100, 1000, 10_000]),
        ({"log": 20}, 4, [0, 1, 2, 3, 4]),
        ({"log": 1}, 1, [0, 1]),
        ({"every": 4, "at": (3,)}, 10, [0, 3, 4, 8, 10]),
        ({"at": (3,), "log": 1}, 10, [0, 1, 3, 10]),
    ],
)
def test_due(options: dict[str, Any], steps: int, found: list[int]) -> None:
    assert due(Times(**options), steps) == found


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TIMES, STEPS)
def test_following_walks_over_every_due_step_and_nothing_else_but_the_end(times: Times, steps: int) -> None:
    step, walked = 0, []
    while step < steps:
        assert times.following(step, steps) > step
        step = times.following(step, steps)
        walked.append(step)
    assert walked == sorted(set(walked))
    assert set(due(times, steps)) - {0} <= set(walked)
    assert set(walked) <= {*due(times, steps), steps}


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TIMES, STEPS, st.integers(0, 300), st.lists(st.integers(1, 7), min_size=1, max_size=30))
def test_an_agenda_says_what_the_times_say(times: Times, steps: int, start: int, strides: list[int]) -> None:
    # training begins anywhere, and a block of steps may end before the next one that is due
    agenda = Agenda(times, steps)
    step = min(start, steps)
    for stride in strides:
        assert agenda.due(step) == times.due(step, steps)
        if step < steps:
            assert agenda.following(step) == times.following(step, steps)
        step = min(step + stride, steps)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(TIMES, STEPS)
def test_what_is_due_is_the_union_of_what_the_keys_ask_for(times: Times, steps: int) -> None:
    asked = [Times(**{key: value}) for key, value in times if value is not None] or [Times()]
    assert due(times, steps) == sorted({step for one in asked for step in due(one, steps)})
    assert times.at_end == any(one.at_end for one in asked)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 100), st.integers(1, 10**6))
def test_log_is_about_as_many_steps_as_asked_with_shrinking_gaps_in_ratio(log: int, steps: int) -> None:
    times, found, step = Times(log=log), [], 0
    while step < steps:
        assert times.following(step, steps) > step
        step = times.following(step, steps)
        found.append(step)
    assert found[0] == 1
    assert found[-1] == steps
    assert len(found) <= log + 1


@pytest.mark.parametrize(
    "options",
    [{"every": 0}, {"every": MAX_STEPS + 1}, {"at": ()}, {"at": (-1,)}, {"at": ("end",)}, {"log": 0}, {"log": 10_001}],
)
def test_out_of_bounds(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Times(**options)


def test_asking_costs_little_even_with_many_marks() -> None:
    times = Times(log=10_000)
    times.due(0, 10**7)

    def ask() -> None:
        for step in range(1000):
            times.due(step, 10**7)
            times.following(step, 10**7)

    assert calls_of(ask, most=20_000) < 20_000  # found: 7,000; without a cache twice 10,000 a step
