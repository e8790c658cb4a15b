"""The only training loop: steps, and between them what is due: log rows, evaluations, checkpoints, probes.

At every step that something is due the order is: evaluate, checkpoint, probe. So a checkpoint holds the point before
any probe saw it, and `lossgeo probe` on that checkpoint measures what the probe in the training measured.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lossgeo.components.times import Agenda
from lossgeo.errors import Stopped
from lossgeo.landscapes.batches import batches, trial_batches
from lossgeo.landscapes.datasets import Data
from lossgeo.landscapes.landscape import Landscape, Memory
from lossgeo.landscapes.task import Examples
from lossgeo.randomness import Noise
from lossgeo.runs.building import landscape_and_data, starts, watch_of
from lossgeo.runs.escapes import Escapes
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.machine import cores, environment, fastest_threads, pick_device
from lossgeo.runs.resuming import finished, opened, packed, resume
from lossgeo.runs.run import Manifest, Run, contained
from lossgeo.runs.trials import SingleRun, Trajectory, Trials
from lossgeo.saddles.saddle import Watch
from lossgeo.tables import Row

FLUSH_SECONDS = 10.0  # between two writes of the tables where no checkpoint comes first
SAFETY_SECONDS = 60.0  # the most work that a kill may cost, where no checkpoint is due
NEWS_SECONDS = 0.2  # between two reports of progress


@dataclass(frozen=True)
class Progress:
    """How far a run is; `note` is a sentence for the user."""

    step: int
    steps: int
    loss: float | None = None
    note: str | None = None


def train(run: Run, interrupt: Interrupt, workers: int = 1) -> Iterator[Progress]:
    """Train a run to its end, from its last checkpoint if it has one. Nothing is left to do for a finished run.

    `workers`: how many runs share the machine.

    Raises:
        UsageError: data, model and loss do not fit together, or the folder cannot be written; nothing was.
        RunError: the run is in use by another process, its data changed since it was begun, the disk is full or gone
            (what was written before is whole), or a component of the user's raised something.
        Stopped: a signal came; the checkpoint is written.
    """
    if finished(run):
        return
    torch.set_num_threads(1)  # whatever the count is later, the start is the same to the last bit
    with contained(run):
        landscape, data = landscape_and_data(run.recipe, pick_device(run.recipe.device))
        for probe in run.recipe.probes:
            probe.check(landscape)
        watch, start = watch_of(run.recipe, landscape), starts(run.recipe, landscape)
    with run.locked():
        if finished(run):  # by the process that held it until now
            return
        run.check_data(data.sha256)
        with contained(run, noted=True):
            edited = run.make()
            yield from _Training(run, landscape, data, start, watch, interrupt, workers, edited).loop()


class _Training:
    """One run on its way: the point, the probes' memories, the tables."""

    def __init__(
        self,
        run: Run,
        landscape: Landscape,
        data: Data,
        start: torch.Tensor,
        watch: Watch | None,
        interrupt: Interrupt,
        workers: int,
        notes: list[str],
    ) -> None:
        self.run = run
        self.recipe = run.recipe
        self.landscape = landscape
        self.interrupt = interrupt
        size = self.recipe.batch_size
        self.batch_size = landscape.train.size if size == "full" else size
        self.per_epoch = math.ceil(landscape.train.size / self.batch_size)
        self.steps = self.recipe.steps or self.per_epoch * (self.recipe.epochs or 0)
        manifest = run.manifest()
        self.began = time.perf_counter() - float(manifest.get("seconds", 0.0))
        self.probing = float(manifest.get("probe_seconds", 0.0))
        self.start = start
        self.threads = self._threads(manifest, workers)
        torch.set_num_threads(self.threads)
        self.noise = Noise(self.recipe.seed, self._running if self.start.ndim == 2 else None)
        self.memories: dict[str, Memory] = {probe.key(): {} for probe in self.recipe.probes}
        recipe, steps = self.recipe, self.steps
        self.log, self.evaluations, self.checkpoints = (
            Agenda(times, steps) for times in (recipe.log, recipe.evaluate, recipe.checkpoint)
        )
        self.probes = [(probe, Agenda(probe, steps)) for probe in recipe.probes]
        self._describe(data)
        self.point, lost = resume(run, landscape, self.start, self.noise.layers, self.memories)
        self.trajectory = self._trajectory(watch)
        self.escapes = None if watch is None else Escapes(recipe, landscape, data, watch, start, self.batch_size)
        self.notes = [*notes, *lost]
        self.tables = opened(run, self.point.step)
        # measured before: by a process that was killed after its last checkpoint, or by `lossgeo probe`
        self.measured = {(r.get("probe"), r["step"]) for t in self.tables.values() for r in t.rows}

    def loop(self) -> Iterator[Progress]:
        """Train to the end; raises what `train` says."""
        yield from (self._progress(note) for note in self.notes)
        stream = self._stream()
        told = written = saved = time.perf_counter()
        while True:
            if self.interrupt and self.trajectory.diverged is None:
                self._checkpoint("stopped", "by a signal")
                raise Stopped(self.interrupt.signum)
            ended = self._assess()
            if self.trajectory.diverged is not None:  # such a point is nothing to go on from, nor to measure at
                self._clear()
                break
            if self.checkpoints.due(self.point.step) or ended or time.perf_counter() - saved > SAFETY_SECONDS:
                self._checkpoint("running")
                self._clear()
                written = saved = time.perf_counter()
            self._probe(ended)
            if ended:
                break
            self._advance(stream)
            now = time.perf_counter()
            if now - written > FLUSH_SECONDS:
                self._flush("running")
                written = now
            if now - told > NEWS_SECONDS:
                yield self._progress()
                told = now
        self._flush("diverged" if self.trajectory.diverged else "done", self.trajectory.diverged)

    # --- between the steps -------------------------------------------------------------------------------------------

    def _assess(self) -> bool:
        """Evaluate where it is due, and say whether training ends here."""
        step, trajectory, landscape, wanted = self.point.step, self.trajectory, self.landscape, self.recipe.stop
        ended = step >= self.steps or trajectory.done
        if step >= self.steps:
            trajectory.close(step, landscape)
        if not (self.evaluations.due(step) or (ended and self.recipe.evaluate.at_end)):
            return ended
        theta, numbers = trajectory.positions(), trajectory.active()
        start = self.start.view(-1, landscape.size)[numbers]
        train = landscape.evaluations(theta, landscape.train)
        test = landscape.evaluations(theta, landscape.test) if landscape.test.size else []
        sizes = torch.linalg.vector_norm(theta, dim=-1).tolist()
        distances = torch.linalg.vector_norm(theta - start, dim=-1).tolist()
        norms: list[float | None] = [None] * len(numbers)
        if wanted.gradient_norm_below is not None:
            norms = [float(torch.linalg.vector_norm(landscape.mean_gradient(row, landscape.train))) for row in theta]
        for i, number in enumerate(numbers):
            shared = {
                "replica": number,
                "epoch": step / self.per_epoch,
                "parameter_norm": sizes[i],
                "distance": distances[i],
            }
            self._row("evaluations", shared | train[i]._asdict() | {"split": "train", "gradient_norm": norms[i]})
            if test:
                self._row("evaluations", shared | test[i]._asdict() | {"split": "test"})
        trajectory.assess(step, train, [wanted.met(e, norm) for e, norm in zip(train, norms, strict=True)])
        return ended or trajectory.done

    def _probe(self, ended: bool) -> None:
        """Measure what is due."""
        self.point.last = ended
        for probe, agenda in self.probes:
            if agenda.due(self.point.step) or (ended and probe.at_end):
                begin = time.perf_counter()
                key = probe.key()
                found = probe.measured(self.landscape, self.point, self.memories[key], self.recipe.seed)
                self.memories[key] = found.memory
                if found.vectors:
                    self.run.keep(key, self.point.step, found.vectors)
                if (key, self.point.step) in self.measured:
                    self.tables[probe.component_name()].drop(key, self.point.step)
                for row in found.rows:
                    self._row(probe.component_name(), row)
                self.probing += time.perf_counter() - begin
        self.point.scratch.clear()

    def _advance(self, stream: Iterator[Examples]) -> None:
        """Take steps until something is due, news of the progress too, or a signal comes or nobody is on the way."""
        point, landscape, noise, trajectory = self.point, self.landscape, self.noise, self.trajectory
        optimizer, factor, steps = self.recipe.optimizer, self.recipe.schedule.factor, self.steps
        logged = self.log.due(point.step)
        agendas = (self.log, self.evaluations, self.checkpoints, *(agenda for _, agenda in self.probes))
        until = min(agenda.following(point.step) for agenda in agendas)
        news = time.perf_counter() + NEWS_SECONDS
        over = False
        while point.step < until and not over:
            trajectory.watch(point.step)
            lr = optimizer.lr * factor(point.step, steps)
            noise.begin(point.step)
            taken = optimizer.step(landscape, next(stream), trajectory.theta, trajectory.state, lr, noise)
            over = trajectory.advance(taken, point.step)
            if logged or (over and trajectory.diverged is not None):
                for row in trajectory.rows(taken):
                    self._row("steps", {"epoch": point.step / self.per_epoch, "lr": lr} | row)
                logged = False
            point.step += 1
            if self.interrupt or time.perf_counter() > news:
                break
        trajectory.sync()

    # --- what is kept ------------------------------------------------------------------------------------------------

    def _row(self, table: str, row: Row) -> None:
        self.tables[table].append({"run": self.run.id, "replica": 0, "step": self.point.step} | row)

    def _flush(self, status: str, reason: str | None = None) -> None:
        """Write the tables, then run.json."""
        if self.escapes is not None:
            self.tables["escapes"].keep(False for _ in self.tables["escapes"].rows)
            for row in self.escapes.rows(self.point):
                self._row("escapes", row)
        for table in self.tables.values():
            table.flush()
        seconds = time.perf_counter() - self.began
        self.run.note(
            status=status,
            reason=reason,
            step=self.point.step,
            seconds=round(seconds, 3),
            probe_seconds=round(self.probing, 3),
        )

    def _checkpoint(self, status: str, reason: str | None = None) -> None:
        """Write tables and manifest, then everything that going on from here needs."""
        self._flush(status, reason)
        point = self.point
        self.run.save(point.step, packed(self.landscape, point, self.noise.layers, self.memories))

    def _clear(self) -> None:
        """Remove the checkpoints that have served: with `keep: last` all but the last, else those that a stop left.

        A stop and the clock write some between the due ones; kept, they would set the run apart from its equals.
        """
        only_last = self.recipe.checkpoint.keep == "last" and self.trajectory.diverged is None
        for step, path in self.run.checkpoints().items():
            between = step < self.point.step and not self.recipe.checkpoint.due(step, self.steps)
            if between or (only_last and step != self.point.step):
                path.unlink()

    # --- beginning and going on --------------------------------------------------------------------------------------

    def _running(self) -> torch.Tensor:
        return self.trajectory.computed if isinstance(self.trajectory, Trials) else torch.zeros(1, dtype=torch.int64)

    def _trajectory(self, watch: Watch | None) -> Trajectory:
        """The way of one, or of many side by side."""
        landscape, largest = self.landscape, sys.float_info.max
        first = [e.loss for e in landscape.evaluations(self.start.view(-1, landscape.size), landscape.train)]
        # never infinite, so that an infinite loss is above it
        limits = [min(self.recipe.divergence * loss, largest) if loss > 0 else largest for loss in first]
        if self.start.ndim == 1:
            return SingleRun(self.point, limits[0], first[0])
        bounds, mean = torch.tensor(limits, dtype=torch.float64), sum(first) / len(first)
        return Trials(self.point, bounds, mean, watch, exact=landscape.surface is not None)

    def _stream(self) -> Iterator[Examples]:
        train, size, seed, step = self.landscape.train, self.batch_size, self.recipe.seed, self.point.step
        if self.start.ndim == 1:
            return batches(train, size, seed, step)
        return trial_batches(train, size, seed, len(self.start), step, self._running)

    def _threads(self, manifest: Manifest, workers: int) -> int:
        wanted = manifest.get("threads", self.recipe.threads)
        if wanted != "auto":
            return int(wanted)
        if workers > 1:
            return max(1, cores() // workers)
        batch = self.landscape.train.rows(slice(0, self.batch_size))
        if self.start.ndim == 2:
            batch = Examples(*(whole.expand(len(self.start), *whole.shape) for whole in batch))
        return fastest_threads(self.landscape, self.start, batch)

    def _describe(self, data: Data) -> None:
        """Write down what the run is and what it runs on."""
        described = {
            "name": data.name,
            "source": data.source,
            "sha256": data.sha256,
            "train": data.train.size,
            "test": data.test.size,
            "inputs": data.task.inputs,
            "outputs": data.task.outputs,
        }
        self.run.note(
            reason=None,
            traceback=None,
            swept=self.run.resolved.swept,
            steps=self.steps,
            parameters=self.landscape.size,
            device=str(self.landscape.device),
            threads=self.threads,
            data=described,
            **environment(),
        )

    def _progress(self, note: str | None = None) -> Progress:
        return Progress(self.point.step, self.steps, self.trajectory.loss, note)
