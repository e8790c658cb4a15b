"""Runs on this machine, one after the other or in worker processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, final

from pydantic import Field

from lossgeo.documents import Document
from lossgeo.executors import Executor, Outcome, attempt
from lossgeo.recipe import resolve
from lossgeo.runs import Run
from lossgeo.signals import Interrupt
from lossgeo.training import Progress, finished

TRIES = 2  # a worker may die of something that passes, such as memory that another program held
PATIENCE = 0.5  # seconds between two looks at the interrupt


@final
class Local(Executor):
    """Runs in this process, or with `jobs` > 1 in that many workers, the cores shared out between them.

    A run whose worker dies (killed, out of memory) is tried once more in a new worker, from its checkpoint.
    """

    jobs: int = Field(default=1, ge=1, le=1024, description="worker processes")

    def train(self, runs: Sequence[Run], interrupt: Interrupt) -> Iterator[tuple[Run, Progress | Outcome]]:
        waiting = []
        for run in runs:
            if finished(run):
                yield run, Outcome()
            else:
                waiting.append(run)
        jobs = min(self.jobs, len(waiting))
        if jobs > 1:
            yield from _train_in_workers(waiting, interrupt, jobs)
            return
        for run in waiting:
            if interrupt:
                return
            for news in attempt(run, interrupt, workers=1):
                yield run, news


@dataclass
class _Worker:
    process: ForkServerProcess
    connection: Connection
    run: Run | None = None  # what it is at


def _train_in_workers(runs: Sequence[Run], interrupt: Interrupt, jobs: int) -> Iterator[tuple[Run, Progress | Outcome]]:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lossgeo.executors.local"])  # torch is imported once, not once a worker
    waiting = deque(runs)
    tries = {run.id: 0 for run in runs}
    workers: list[_Worker] = []
    told = False
    try:
        while waiting or any(w.run for w in workers):
            if interrupt and not told:
                waiting.clear()
                for worker in workers:
                    worker.process.terminate()  # SIGTERM: a checkpoint, then the end
                told = True
            while waiting and len(workers) < jobs:
                workers.append(_begin(context, jobs))
            for worker in workers:
                if worker.run is None and waiting:
                    worker.run = waiting.popleft()
                    tries[worker.run.id] += 1
                    worker.connection.send(_letter(worker.run))
            busy = [w for w in workers if w.run]
            ready = wait([w.connection for w in busy], timeout=PATIENCE)
            for worker in [w for w in busy if w.connection in ready]:
                run = worker.run
                assert run is not None  # it is busy
                try:
                    news = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    worker.process.join()
                    workers.remove(worker)
                    if tries[run.id] < TRIES and not interrupt:
                        waiting.appendleft(run)
                        note = f"{run.folder}: its worker {_death(worker.process)}; trying once more"
                        yield run, Progress(0, 1, note=note)
                    else:
                        yield run, Outcome(f"its worker {_death(worker.process)}, {tries[run.id]} times", 1)
                    continue
                if isinstance(news, Outcome):
                    worker.run = None
                yield run, news
    finally:
        for worker in workers:
            worker.connection.close()
            worker.process.terminate()
            worker.process.join()


def _begin(context: Any, jobs: int) -> _Worker:
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
    return run.resolved.plain, run.resolved.swept, run.resolved.used, run.folder


def _work(connection: Connection, jobs: int) -> None:
    """Train the runs that come through the connection until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all; the parent passes it on as SIGTERM
    interrupt = Interrupt()
    with interrupt.listening(signal.SIGTERM):
        while not interrupt:
            try:
                plain, swept, used, folder = connection.recv()
            except EOFError:
                return
            run = _opened(plain, swept, used, folder)
            for news in attempt(run, interrupt, jobs):
                try:
                    connection.send(news)
                except BrokenPipeError:
                    return  # the parent is gone; the last checkpoint stands


def _opened(plain: dict[str, Any], swept: dict[str, Any], used: tuple[Path, ...], folder: Path) -> Run:
    (found,) = resolve(Document(plain, "recipe"), search=used)
    return Run(type(found)(found.recipe, swept, found.used), folder)
