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
from lossgeo.curvature.batch_loss import BatchLoss
from lossgeo.errors import Stopped
from lossgeo.landscapes.batches import batches, trial_batches
from lossgeo.landscapes.datasets import Data
from lossgeo.landscapes.landscape import Landscape, Memory
from lossgeo.landscapes.task import Examples
from lossgeo.optimizers.schedules import Rates
from lossgeo.randomness import Noise
from lossgeo.runs.building import landscape_and_data, starts, watch_of
from lossgeo.runs.escapes import Escapes
from lossgeo.runs.interrupt import Interrupt
from lossgeo.runs.journal import Journal
from lossgeo.runs.machine import environment, pick_device, thread_count
from lossgeo.runs.measuring import Measuring
from lossgeo.runs.resuming import finished, opened, resume
from lossgeo.runs.run import Run, contained
from lossgeo.runs.trials import SingleRun, Trajectory, Trials
from lossgeo.saddles.saddle import Watch

FLUSH_SECONDS = 10.0  # between two writes of the tables where no checkpoint comes first
SAFETY_SECONDS = 60.0  # the most work that a kill may cost, where no checkpoint is due
NEWS_SECONDS = 0.2  # between two reports of progress


@dataclass(frozen=True)
class Progress:
    """How far a run is; `note` is a warning for the user, `data` what its data were taken for."""

    step: int
    steps: int
    loss: float | None = None
    note: str | None = None
    data: str | None = None


def train(run: Run, interrupt: Interrupt, workers: int = 1) -> Iterator[Progress]:
    """Train a run to its end, from its last checkpoint if it has one. Nothing is left to do for a finished run.

    `workers`: how many runs share the machine.

    Raises:
        UsageError: data, model, loss and optimizer do not fit together, or the folder cannot be written; nothing was.
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
        run.check_files()
    with run.locked():
        if finished(run):  # by the process that held it until now
            return
        run.check_data(data.sha256)
        with contained(run, noted=True):
            edited = run.make()
            training = _Training(run, landscape, data, start, watch, interrupt, workers)
            yield from training.loop(edited)


class _Training:
    """One run on its way: steps, and what is due between them."""

    def __init__(
        self,
        run: Run,
        landscape: Landscape,
        data: Data,
        start: torch.Tensor,
        watch: Watch | None,
        interrupt: Interrupt,
        workers: int,
    ) -> None:
        recipe, began = run.recipe, time.perf_counter()
        self.recipe, self.landscape, self.start, self.interrupt = recipe, landscape, start, interrupt
        self.data = data
        self.batch_size = landscape.train.size if recipe.batch_size == "full" else recipe.batch_size
        self.per_epoch = math.ceil(landscape.train.size / self.batch_size)
        self.steps = recipe.steps or self.per_epoch * (recipe.epochs or 0)
        batch = landscape.train.rows(slice(0, self.batch_size))
        threads = thread_count(run.manifest().get("threads", recipe.threads), workers, landscape, start, batch)
        torch.set_num_threads(threads)
        run.note(
            reason=None,
            traceback=None,
            swept=run.resolved.swept,
            steps=self.steps,
            parameters=landscape.size,
            device=str(landscape.device),
            threads=threads,
            data=data.described(),
            understood=data.understood,
            **environment(),
        )
        self.log, self.evaluations, self.checkpoints = (
            Agenda(times, self.steps) for times in (recipe.log, recipe.evaluate, recipe.checkpoint)
        )
        self.probes = [(probe, Agenda(probe, self.steps)) for probe in recipe.probes]
        trials = start.ndim == 2
        self.rates = Rates(recipe.optimizer.lr, recipe.schedule, self.steps)
        self.noise = Noise(recipe.seed, self._computed if trials else None)
        self.loss = BatchLoss(landscape, self.noise, trials)
        memories: dict[str, Memory] = {probe.key(): {} for probe in recipe.probes}
        self.point, self.notes = resume(run, landscape, self.loss, start, self.rates, self.noise.layers, memories)
        self.trajectory = self._trajectory(watch)
        tables = opened(run, self.point.step)
        self.measuring = Measuring(run, landscape, recipe.probes, tables, memories)
        escapes = None if watch is None else Escapes(recipe, landscape, data, watch, start, self.batch_size, self.rates)
        self.journal = Journal(run, tables, escapes, self.steps, began)

    def loop(self, notes: list[str]) -> Iterator[Progress]:
        """Train to the end; raises what `train` says."""
        if self.landscape.has_outputs:
            yield Progress(self.point.step, self.steps, data=f"{self.recipe.name}: {self.data.understood}")
        yield from (self._progress(note) for note in [*notes, *self.notes])
        stream = self._stream()
        told = written = saved = time.perf_counter()
        while True:
            if self.interrupt and self.trajectory.diverged is None:
                self._save("stopped", "by a signal")
                raise Stopped(self.interrupt.signum)
            ended = self._assess()
            if self.trajectory.diverged is not None:  # such a point is nothing to go on from, nor to measure at
                self.journal.clear(self.point, diverged=True)
                break
            if self.checkpoints.due(self.point.step) or ended or time.perf_counter() - saved > SAFETY_SECONDS:
                self._save("running")
                self.journal.clear(self.point, diverged=False)
                written = saved = time.perf_counter()
            yield from (self._progress(note) for note in self._probe(ended) if note is not None)
            if ended:
                break
            self._advance(stream)
            now = time.perf_counter()
            if now - written > FLUSH_SECONDS:
                self.journal.flush(self.point, "running")
                written = now
            if now - told > NEWS_SECONDS:
                yield self._progress()
                told = now
        self.journal.flush(self.point, "diverged" if self.trajectory.diverged else "done", self.trajectory.diverged)
        yield from (self._progress(note) for note in self.measuring.summary())

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
            on_train = train[i]._asdict() | {"split": "train", "gradient_norm": norms[i]}
            self.journal.add("evaluations", step, shared | on_train)
            if test:
                self.journal.add("evaluations", step, shared | test[i]._asdict() | {"split": "test"})
        trajectory.assess(step, train, [wanted.met(e, norm) for e, norm in zip(train, norms, strict=True)])
        return ended or trajectory.done

    def _probe(self, ended: bool) -> Iterator[str | None]:
        """Measure what is due; what to tell of it."""
        step, self.point.last = self.point.step, ended
        due = [probe for probe, agenda in self.probes if agenda.due(step) or (ended and probe.at_end)]
        return self.journal.timed(self.measuring.at(self.point, due)) if due else iter(())

    def _advance(self, stream: Iterator[Examples]) -> None:
        """Take steps until something is due, news of the progress too, or a signal comes or nobody is on the way."""
        point, loss, trajectory = self.point, self.loss, self.trajectory
        optimizer, rates, frozen = self.recipe.optimizer, self.rates, self.landscape.frozen
        logged = self.log.due(point.step)
        agendas = (self.log, self.evaluations, self.checkpoints, *(agenda for _, agenda in self.probes))
        until = min(agenda.following(point.step) for agenda in agendas)
        news = time.perf_counter() + NEWS_SECONDS
        over = False
        while point.step < until and not over:
            trajectory.watch(point.step)
            lr = rates(point.step)
            loss.begin(point.step, next(stream))
            decay = self.landscape.decay
            before = None if decay is None else trajectory.theta.clone()  # the step may write into it
            still = None if frozen is None else trajectory.theta[..., frozen]
            taken = optimizer.step(loss, trajectory.theta, trajectory.state, lr)
            if still is not None:  # decay and noise of the optimizer are for what learns
                taken.theta[..., frozen] = still
            if decay is not None and before is not None:
                lost, gradient = self.landscape.penalty(before).to(taken.loss), decay.to(before) * before
                taken = taken._replace(loss=taken.loss + lost, gradient=taken.gradient + gradient)
            over = trajectory.advance(taken, point.step)
            if logged or (over and trajectory.diverged is not None):
                limit = optimizer.threshold(lr, self.recipe.include_decay)
                shared = {
                    "epoch": point.step / self.per_epoch,
                    "lr": lr,
                    "threshold": None if limit is None else limit.value,
                    "threshold_of": None if limit is None else limit.of,
                }
                for row in trajectory.rows(taken):
                    self.journal.add("steps", point.step, shared | row)
                logged = False
            point.step += 1
            if self.interrupt or time.perf_counter() > news:
                break
        trajectory.sync()

    def _save(self, status: str, reason: str | None = None) -> None:
        self.journal.save(self.landscape, self.point, self.noise, self.measuring.memories, status, reason)

    # --- beginning ---------------------------------------------------------------------------------------------------

    def _computed(self) -> torch.Tensor:
        """The numbers of the trials that are computed."""
        return self.trajectory.computed if isinstance(self.trajectory, Trials) else torch.zeros(1, dtype=torch.int64)

    def _trajectory(self, watch: Watch | None) -> Trajectory:
        landscape, largest = self.landscape, sys.float_info.max
        first = [e.loss for e in landscape.evaluations(self.start.view(-1, landscape.size), landscape.train)]
        # never infinite, so that an infinite loss is above it
        limits = [min(self.recipe.divergence * loss, largest) if loss > 0 else largest for loss in first]
        if self.start.ndim == 1:
            return SingleRun(self.point, limits[0], first[0])
        bounds, mean = torch.tensor(limits, dtype=torch.float64), sum(first) / len(first)
        return Trials(self.point, bounds, mean, watch, exact=landscape.formula is not None)

    def _stream(self) -> Iterator[Examples]:
        train, size, seed, step = self.landscape.train, self.batch_size, self.recipe.seed, self.point.step
        if self.start.ndim == 1:
            return batches(train, size, seed, step)
        return trial_batches(train, size, seed, len(self.start), step, self._computed)

    def _progress(self, note: str | None = None) -> Progress:
        return Progress(self.point.step, self.steps, self.trajectory.loss, note)
