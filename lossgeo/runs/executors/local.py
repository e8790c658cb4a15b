"""Runs on this machine, one after the other or in worker processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, final

from pydantic import Field

from lossgeo.components.component import components
from lossgeo.errors import LossgeoError, RunError, Stopped
from lossgeo.recipes.documents import Document
from lossgeo.recipes.resolving import resolve
from lossgeo.runs.executors import Executor, News, Outcome, attempt, ended
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.run import Run
from lossgeo.runs.training import Progress, train

TRIES = 2  # a worker may die of something that passes, such as memory that another program held
PATIENCE = 0.5  # seconds between two looks at the interrupt


@final
class Local(Executor):
    """Runs in this process, or with `jobs` > 1 in that many workers, the cores shared out between them.

    A run whose worker dies (killed, out of memory) is tried once more in a new worker, from its checkpoint.
    """

    jobs: int = Field(default=1, ge=1, le=1024, description="worker processes")

    def train(self, runs: Sequence[Run], interrupt: Interrupt) -> News:
        waiting = []
        for run in runs:
            outcome = ended(run)
            if outcome is None:
                waiting.append(run)
            else:
                yield run, outcome
        jobs = min(self.jobs, len(waiting))
        if jobs > 1:
            yield from _Crew(waiting, jobs, interrupt).train()
            return
        for run in waiting:
            if interrupt:
                return
            for news in attempt(train(run, interrupt)):
                yield run, news


@dataclass
class _Worker:
    process: ForkServerProcess
    connection: Connection
    run: Run | None = None  # what it is at


class _Crew:
    """Workers, the runs they are at, and the runs that wait."""

    def __init__(self, runs: Sequence[Run], jobs: int, interrupt: Interrupt) -> None:
        self.waiting = deque(runs)
        self.tries = {run.id: 0 for run in runs}
        self.jobs = jobs
        self.interrupt = interrupt
        self.told = False  # of the interrupt
        self.workers: list[_Worker] = []

    def train(self) -> News:
        """The news of all runs; leaves no worker behind."""
        _start_server(self.waiting)
        try:
            while self.waiting or any(worker.run for worker in self.workers):
                if self.interrupt and not self.told:
                    self._stop()
                self._share_out()
                at_work = [(worker, worker.run) for worker in self.workers if worker.run]
                ready = wait([worker.connection for worker, _ in at_work], timeout=PATIENCE)
                for worker, run in at_work:
                    if worker.connection in ready:
                        yield run, self._heard(worker, run)
        finally:
            self._dismiss()

    def _stop(self) -> None:
        self.told = True
        self.waiting.clear()
        for worker in self.workers:
            worker.process.terminate()  # SIGTERM: a checkpoint, then the end

    def _share_out(self) -> None:
        """A run for every worker that has none."""
        while self.waiting and len(self.workers) < self.jobs:
            self.workers.append(_begin(self.jobs))
        for worker in self.workers:
            if worker.run is None and self.waiting:
                worker.run = self.waiting.popleft()
                self.tries[worker.run.id] += 1
                with suppress(OSError):  # it is dead, which the next look at the connection finds
                    worker.connection.send(_letter(worker.run))

    def _heard(self, worker: _Worker, run: Run) -> Progress | Outcome:
        try:
            news: Progress | Outcome = worker.connection.recv()
        except (EOFError, OSError):  # it is dead
            return self._lost(worker, run)
        if isinstance(news, Outcome):
            worker.run = None
        return news

    def _lost(self, worker: _Worker, run: Run) -> Progress | Outcome:
        worker.process.join()
        self.workers.remove(worker)
        if self.interrupt and worker.process.exitcode == -signal.SIGTERM:  # told to stop before it could listen
            stopped = Stopped(self.interrupt.signum)
            return Outcome(str(stopped), stopped.exit_code, stopped=True)
        if self.interrupt or self.tries[run.id] == TRIES:
            times = f", {TRIES} times" if self.tries[run.id] == TRIES else ""
            return Outcome(f"its worker {_death(worker.process)}{times}", RunError.exit_code)
        self.waiting.appendleft(run)
        return Progress(0, 1, note=f"{run.folder}: its worker {_death(worker.process)}; trying once more")

    def _dismiss(self) -> None:
        for worker in self.workers:
            worker.connection.close()  # an idle one ends by itself
            if worker.run:
                worker.process.terminate()
        for worker in self.workers:
            worker.process.join()


def _start_server(runs: Iterable[Run]) -> None:
    """Start the process that workers are forked from, so that what the runs need is imported once, not once a worker.

    It must outlive signals that go to the whole group (Ctrl-C, a batch system's SIGTERM), since its workers have to
    write a checkpoint first; it ends with this process. A signal that is blocked stays blocked in a new program, and
    one that comes here meanwhile waits.
    """
    named = {type(component).__module__ for run in runs for component in components(run.recipe)}
    own = sorted(module for module in named if module.startswith("lossgeo."))  # not a user's, which may do anything
    # pyarrow imports pandas with the first table that it makes
    multiprocessing.set_forkserver_preload([__name__, "pandas", *own])
    resource_tracker.ensure_running()  # which would unblock the signals again, if the server had to start it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(jobs: int) -> _Worker:
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, jobs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _death(process: ForkServerProcess) -> str:
    code = process.exitcode or 0
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    return f"ended with exit code {code}"


def _letter(run: Run) -> tuple[Any, ...]:
    """A run as plain data: a user's component classes cannot travel between processes, their files can."""
    return run.resolved.plain, run.resolved.swept, run.resolved.used, run.folder, run.id


def _work(connection: Connection, jobs: int) -> None:
    """Train the runs that come through the connection until it closes."""
    interrupt = Interrupt()
    with interrupt.listening(signal.SIGTERM):  # SIGINT stays blocked: the parent passes a Ctrl-C on as SIGTERM
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        try:
            while not interrupt:
                _answer(connection, connection.recv(), interrupt, jobs)
        except (EOFError, OSError, KeyboardInterrupt):
            return  # nobody is there any more, or nobody wants to wait


def _answer(connection: Connection, letter: tuple[Any, ...], interrupt: Interrupt, jobs: int) -> None:
    """Train the run of a letter and send the news of it."""
    try:
        run = _opened(*letter)
    except LossgeoError as error:
        connection.send(Outcome(str(error), error.exit_code))
        return
    for news in attempt(train(run, interrupt, jobs)):
        try:
            connection.send(news)
        except OSError:  # the parent is gone: what a signal does, a checkpoint and the end
            interrupt.ask(signal.SIGTERM)


def _opened(plain: dict[str, Any], swept: dict[str, Any], used: tuple[Path, ...], folder: Path, run_id: str) -> Run:
    (found,) = resolve(Document(plain, "recipe"), search=used)
    if found.id != run_id:
        raise RunError("a component's file was changed since the command began; give the command again")
    return Run(type(found)(found.recipe, swept, found.used), folder, run_id)
