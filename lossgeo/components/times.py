"""At which steps something is due: every so many, at named steps, or evenly on a logarithmic axis."""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field

from lossgeo.components.component import Value

MAX_STEPS = 99_999_999  # eight digits in a checkpoint's name

StepNumber = Annotated[int, Field(ge=0, le=MAX_STEPS)]


class Times(Value):
    """The union of what its keys ask for; with none of them, the first and the last step.

    `every` and `log` hold the first and the last step of the training too, wherever a stopping rule puts the last.
    """

    every: int | None = Field(default=None, ge=1, le=MAX_STEPS, description="due at 0, n, 2n, ... and at the end")
    at: tuple[StepNumber | Literal["first", "last"], ...] | None = Field(
        default=None, min_length=1, description="due at these steps; first and last are words for the ends"
    )
    log: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="due at about this many steps, evenly spaced in log(step), and at the ends",
    )

    def due(self, step: int, steps: int) -> bool:
        """Whether it is due at `step` of a training that may take `steps`."""
        return (
            (step == 0 and self._ends(0))
            or (step == steps and self.at_end)
            or (self.every is not None and step % self.every == 0)
            or step in self._marks(steps)
        )

    def following(self, step: int, steps: int) -> int:
        """The next step after `step` at which it is due, `steps` at the latest."""
        marks = self._marks(steps)
        later = list(marks[bisect_right(marks, step) :][:1])
        if self.every is not None:
            later.append((step // self.every + 1) * self.every)
        return min([*later, steps])

    @property
    def at_end(self) -> bool:
        """Whether it is due where training ends, whichever step that is."""
        return self._ends(1)

    def _ends(self, which: Literal[0, 1]) -> bool:
        named = self.at is not None and ("first", "last")[which] in self.at
        return named or self.every is not None or self.log is not None or self.at is None

    def _marks(self, steps: int) -> tuple[int, ...]:
        return _marks(self.at or (), self.log, steps)


class Agenda:
    """`Times` on their way through one training: what is next is worked out once, not at every step.

    Ask with steps that never fall, and whether a step is due before what follows it.
    """

    def __init__(self, times: Times, steps: int) -> None:
        self.times = times
        self.steps = steps
        self.next = 0

    def due(self, step: int) -> bool:
        """Whether it is due at `step`."""
        if self.next < step:
            self.next = self.times.following(step - 1, self.steps)
        return step == self.next and self.times.due(step, self.steps)

    def following(self, step: int) -> int:
        """The next step after `step` at which it is due, the last step of the training at the latest."""
        if self.next <= step:
            self.next = self.times.following(step, self.steps)
        return self.next


@lru_cache(maxsize=256)  # `log` may hold ten thousand
def _marks(at: tuple[int | str, ...], log: int | None, steps: int) -> tuple[int, ...]:
    """The steps that `at` and `log` name, in order."""
    marks = {m for m in at if isinstance(m, int)}
    if log is not None:
        marks |= {round(steps ** (i / log)) for i in range(log + 1)}  # 1 ... steps
    return tuple(sorted(marks))
