"""Executors: how the runs of a recipe are spread over processes or machines."""

from __future__ import annotations

import traceback
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lossgeo.component import Component
from lossgeo.errors import LossgeoError, RunError, Stopped
from lossgeo.runs import Run
from lossgeo.signals import Interrupt
from lossgeo.training import Progress, train


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    failure: str | None = None  # the reason, in one line
    exit_code: int = 0


class Executor(Component):
    """Trains runs."""

    @abstractmethod
    def train(self, runs: Sequence[Run], interrupt: Interrupt) -> Iterator[tuple[Run, Progress | Outcome]]:
        """News of the runs as they come; each run's last is its outcome. A failed run does not end the others.

        Once `interrupt` is set, the runs at work are stopped, each with a checkpoint, and none is begun.
        """


def attempt(run: Run, interrupt: Interrupt, workers: int) -> Iterator[Progress | Outcome]:
    """Train one run; whatever goes wrong becomes its outcome, and is written into its run.json."""
    try:
        yield from train(run, interrupt, workers)
    except Stopped as stopped:
        yield Outcome(str(stopped), stopped.exit_code)
    except LossgeoError as error:
        # nothing is noted in a folder that another process may hold, or that was never made
        yield Outcome(str(error), error.exit_code)
    except Exception as error:  # a user's model may raise anything, and the other runs have to go on
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        yield Outcome(_noted(run, reason, traceback.format_exc()), RunError.exit_code)
    else:
        yield Outcome()


def _noted(run: Run, reason: str, trace: str) -> str:
    """Write the failure into run.json, if the disk takes it."""
    try:
        run.note(status="failed", reason=reason, traceback=trace)
    except OSError as error:
        return f"{reason} (and run.json could not be written: {error.strerror})"
    return reason
