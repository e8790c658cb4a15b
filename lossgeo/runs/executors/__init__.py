"""Executors: how the runs of a recipe are spread over processes or machines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

from lossgeo.components.component import Component
from lossgeo.errors import LossgeoError, Stopped
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.resuming import finished
from lossgeo.runs.run import Run
from lossgeo.runs.training import Progress


@dataclass(frozen=True)
class Outcome:
    """How the work on a run ended."""

    failure: str | None = None  # the reason, in one line
    exit_code: int = 0
    stopped: bool = False  # by a signal, which is no failure


News = Generator[tuple[Run, Progress | Outcome]]


class Executor(Component):
    """Trains runs."""

    @abstractmethod
    def train(self, runs: Sequence[Run], interrupt: Interrupt) -> News:
        """News of the runs as they come; each run's last is its outcome. A failed run does not end the others.

        Once `interrupt` is set, the runs at work are stopped, each with a checkpoint, and none is begun. Closing the
        generator stops them too.
        """


def attempt(work: Iterator[Progress]) -> Iterator[Progress | Outcome]:
    """The news of the work on one run; whatever goes wrong becomes its outcome, which is the last of them."""
    try:
        yield from work
    except Stopped as stopped:
        yield Outcome(str(stopped), stopped.exit_code, stopped=True)
    except LossgeoError as error:
        yield Outcome(str(error), error.exit_code)
    else:
        yield Outcome()


def ended(run: Run) -> Outcome | None:
    """The outcome of a run on which no work is left, or cannot begin; None where there is some to do."""
    try:
        return Outcome() if finished(run) else None
    except LossgeoError as error:
        return Outcome(str(error), error.exit_code)
