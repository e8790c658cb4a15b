"""What a command says: its data on standard output; progress, warnings and errors on standard error.

On a terminal a bar for all runs and one for each at work; elsewhere one plain line a minute.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

if TYPE_CHECKING:
    from rich.progress import Progress as Bar, TaskID

    from lossgeo.runs.training import Progress

MINUTE = 60.0  # seconds between two plain lines


def emit(lines: Iterable[str]) -> None:
    """Data, a line each, on standard output; a reader who closed it ends the command quietly."""
    try:
        for line in lines:
            print(line, flush=True)
    except BrokenPipeError as error:
        # the reader has what it wanted (`| head -1`); nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit from error


def say(line: str) -> None:
    """One line on standard error; a reader who closed it is no reason to end."""
    try:
        print(line, file=sys.stderr, flush=True)
    except BrokenPipeError:
        # nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Display(Protocol):
    """Where the progress of runs is shown."""

    def show(self, run: Path, progress: Progress) -> None:
        """How far the run in this folder is."""

    def over(self, run: Path) -> None:
        """It has ended."""

    def aside(self, speak: Callable[[], None]) -> None:
        """Let something else be written."""


@contextmanager
def display(runs: int, quiet: bool) -> Iterator[Display]:
    """The display that fits standard error; `quiet`: none at all, warnings included."""
    if quiet:
        yield _Nothing()
    elif not sys.stderr.isatty():
        yield _Lines(runs)
    else:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress as Bar, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        # rich would send what goes to standard output to its own console, which is standard error
        bars = Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
        with bars:
            yield _Bars(bars, runs)


def _measured(progress: Progress) -> str:
    return "" if progress.loss is None else f", loss {progress.loss:.4g}"


class _Nothing:
    def show(self, run: Path, progress: Progress) -> None:
        pass

    def over(self, run: Path) -> None:
        pass

    def aside(self, speak: Callable[[], None]) -> None:
        speak()


class _Lines:
    def __init__(self, runs: int) -> None:
        self.runs, self.ended, self.told = runs, 0, time.monotonic()
        self.said: set[str] = set()

    def show(self, run: Path, progress: Progress) -> None:
        if progress.data and progress.data not in self.said:  # the runs of a sweep share their data
            self.said.add(progress.data)
            say(progress.data)
        if progress.note:
            say(f"warning: {progress.note}")
        if time.monotonic() - self.told > MINUTE:
            self.told = time.monotonic()
            how_far = f"step {progress.step} of {progress.steps}{_measured(progress)}"
            say(f"{self.ended}/{self.runs} runs done; {run.name}: {how_far}")

    def over(self, run: Path) -> None:
        self.ended += 1

    def aside(self, speak: Callable[[], None]) -> None:
        speak()


class _Bars:
    def __init__(self, bars: Bar, runs: int) -> None:
        self.bars = bars
        self.said: set[str] = set()
        self.tasks: dict[Path, TaskID] = {}
        self.all = bars.add_task("runs", total=runs)

    def show(self, run: Path, progress: Progress) -> None:
        if progress.data and progress.data not in self.said:
            self.said.add(understood := progress.data)
            self.aside(lambda: say(understood))
        if progress.note:
            self.aside(lambda: say(f"warning: {progress.note}"))
        if run not in self.tasks:
            self.tasks[run] = self.bars.add_task(run.name, total=progress.steps)
        self.bars.update(
            self.tasks[run],
            completed=progress.step,
            total=progress.steps,
            description=run.name + _measured(progress),
        )

    def over(self, run: Path) -> None:
        if run in self.tasks:
            self.bars.remove_task(self.tasks.pop(run))
        self.bars.advance(self.all)

    def aside(self, speak: Callable[[], None]) -> None:
        self.bars.stop()
        speak()
        self.bars.start()
