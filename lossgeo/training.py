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

from lossgeo.batches import batches
from lossgeo.containment import contained
from lossgeo.datasets import Data
from lossgeo.errors import Stopped
from lossgeo.landscape import Landscape, Memory
from lossgeo.machine import cores, environment, fastest_threads, pick_device
from lossgeo.packing import packed
from lossgeo.randomness import generator
from lossgeo.resuming import finished, opened, resumed
from lossgeo.runs import Manifest, Run
from lossgeo.signals import Interrupt
from lossgeo.tables import Row
from lossgeo.task import Examples
from lossgeo.times import Agenda

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
        landscape, data = run.recipe.landscape(pick_device(run.recipe.device))
        for probe in run.recipe.probes:
            probe.check(landscape)
    with run.locked():
        if finished(run):  # by the process that held it until now
            return
        run.check_data(data.sha256)
        with contained(run, noted=True):
            edited = run.make()
            yield from _Training(run, landscape, data, interrupt, workers, edited).loop()


class _Training:
    """One run on its way: the point, the probes' memories, the tables."""

    def __init__(
        self, run: Run, landscape: Landscape, data: Data, interrupt: Interrupt, workers: int, notes: list[str]
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
        self.threads = self._threads(manifest, workers)
        torch.set_num_threads(self.threads)
        self.start = landscape.start()
        first = landscape.evaluate(self.start, landscape.train).loss
        # never infinite, so that an infinite loss is above it
        self.limit = min(self.recipe.divergence * first, sys.float_info.max) if first > 0 else sys.float_info.max
        self.diverged: str | None = None  # why, once it has
        self.loss = first  # the last one seen
        self.noise = generator(self.recipe.seed, "noise")
        self.memories: dict[str, Memory] = {probe.key(): {} for probe in self.recipe.probes}
        recipe, steps = self.recipe, self.steps
        self.log, self.evaluations, self.checkpoints = (
            Agenda(times, steps) for times in (recipe.log, recipe.evaluate, recipe.checkpoint)
        )
        self.probes = [(probe, Agenda(probe, steps)) for probe in recipe.probes]
        self._describe(data)
        self.point, lost = resumed(run, landscape, self.noise, self.memories)
        self.notes = [*notes, *lost]
        self.tables = opened(run, self.point.step)
        # measured before: by a process that was killed after its last checkpoint, or by `lossgeo probe`
        self.measured = {(r.get("probe"), r["step"]) for t in self.tables.values() for r in t.rows}

    def loop(self) -> Iterator[Progress]:
        """Train to the end; raises what `train` says."""
        yield from (self._progress(note) for note in self.notes)
        stream = batches(self.landscape.train, self.batch_size, self.recipe.seed, self.point.step)
        told = written = saved = time.perf_counter()
        while True:
            if self.interrupt and self.diverged is None:
                self._checkpoint("stopped", "by a signal")
                raise Stopped(self.interrupt.signum)
            ended = self._assess()
            if self.diverged is not None:  # such a point is nothing to go on from, nor to measure at
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
        self._flush("diverged" if self.diverged else "done", self.diverged)

    # --- between the steps -------------------------------------------------------------------------------------------

    def _assess(self) -> bool:
        """Evaluate where it is due, and say whether training ends here."""
        step = self.point.step
        ended = step >= self.steps or self.diverged is not None
        if not (self.evaluations.due(step) or (ended and self.recipe.evaluate.at_end)):
            return ended
        wanted = self.recipe.stop
        theta, landscape = self.point.theta, self.landscape
        shared = {
            "epoch": step / self.per_epoch,
            "parameter_norm": float(torch.linalg.vector_norm(theta)),
            "distance": float(torch.linalg.vector_norm(theta - self.start)),
        }
        train, test = (landscape.evaluate(theta, examples) for examples in (landscape.train, landscape.test))
        norm = None
        if wanted.gradient_norm_below is not None:
            norm = float(torch.linalg.vector_norm(landscape.mean_gradient(theta, landscape.train)))
        self._row("evaluations", shared | train._asdict() | {"split": "train", "gradient_norm": norm})
        self._row("evaluations", shared | test._asdict() | {"split": "test"})
        if self.diverged is None and not train.loss <= self.limit:
            self._diverge("training", train.loss)
        met = (
            (wanted.train_loss_below is not None and train.loss < wanted.train_loss_below)
            or (wanted.train_accuracy_above is not None and (train.accuracy or 0.0) > wanted.train_accuracy_above)
            or (wanted.gradient_norm_below is not None and norm is not None and norm < wanted.gradient_norm_below)
        )
        return ended or met or self.diverged is not None

    def _probe(self, ended: bool) -> None:
        """Measure what is due."""
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
        """Take steps until something is due, news of the progress too, or a signal comes or the loss diverges."""
        point, landscape, noise, limit = self.point, self.landscape, self.noise, self.limit
        optimizer, factor, steps = self.recipe.optimizer, self.recipe.schedule.factor, self.steps
        logged = self.log.due(point.step)
        agendas = (self.log, self.evaluations, self.checkpoints, *(agenda for _, agenda in self.probes))
        until = min(agenda.following(point.step) for agenda in agendas)
        news = time.perf_counter() + NEWS_SECONDS
        while point.step < until:
            lr = optimizer.lr * factor(point.step, steps)
            taken = optimizer.step(landscape, next(stream), point.theta, point.state, lr, noise)
            self.loss = loss = taken.loss.item()
            diverged = not loss <= limit  # NaN compares false
            if logged or diverged:
                norm = float(torch.linalg.vector_norm(taken.gradient))
                self._row(
                    "steps", {"epoch": point.step / self.per_epoch, "loss": loss, "gradient_norm": norm, "lr": lr}
                )
                logged = False
            if diverged:
                self._diverge("batch", loss)
            point.theta, point.state = taken.theta, taken.state
            point.step += 1
            if diverged or self.interrupt or time.perf_counter() > news:
                return

    def _diverge(self, which: str, loss: float) -> None:
        self.diverged = f"{which} loss {loss:.4g} at step {self.point.step}, not below the limit of {self.limit:.4g}"

    # --- what is kept ------------------------------------------------------------------------------------------------

    def _row(self, table: str, row: Row) -> None:
        self.tables[table].append({"run": self.run.id, "replica": 0, "step": self.point.step} | row)

    def _flush(self, status: str, reason: str | None = None) -> None:
        """Write the tables, then run.json."""
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
        self.run.save(point.step, packed(self.landscape, point, self.noise, self.memories))

    def _clear(self) -> None:
        """Remove the checkpoints that have served: with `keep: last` all but the last, else those that a stop left.

        A stop and the clock write some between the due ones; kept, they would set the run apart from its equals.
        """
        only_last = self.recipe.checkpoint.keep == "last" and self.diverged is None
        for step, path in self.run.checkpoints().items():
            between = step < self.point.step and not self.recipe.checkpoint.due(step, self.steps)
            if between or (only_last and step != self.point.step):
                path.unlink()

    # --- beginning and going on --------------------------------------------------------------------------------------

    def _threads(self, manifest: Manifest, workers: int) -> int:
        wanted = manifest.get("threads", self.recipe.threads)
        if wanted != "auto":
            return int(wanted)
        if workers > 1:
            return max(1, cores() // workers)
        return fastest_threads(self.landscape, self.landscape.train.rows(slice(0, self.batch_size)))

    def _describe(self, data: Data) -> None:
        """Write down what the run is and what it runs on."""
        described = {
            "name": self.recipe.dataset.component_name(),
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
        return Progress(self.point.step, self.steps, self.loss, note)
