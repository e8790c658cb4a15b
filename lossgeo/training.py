"""The only training loop: steps, and between them what is due: log rows, evaluations, checkpoints, probes.

At every step that something is due the order is: evaluate, checkpoint, probe. So a checkpoint holds the point before any
probe saw it, and `lossgeo probe` on that checkpoint measures what the probe in the training measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lossgeo.datasets import Data
from lossgeo.errors import RunError, Stopped
from lossgeo.landscape import Landscape, Memory, Point
from lossgeo.machine import cores, environment, fastest_threads, pick_device
from lossgeo.randomness import generator
from lossgeo.runs import FINISHED, Manifest, Run, Tensors
from lossgeo.signals import Interrupt
from lossgeo.tables import Column, Row, Table, read
from lossgeo.task import Examples

STEPS = (
    Column("epoch", "float", "epochs", "passes over the training data so far"),
    Column("loss", "float", "loss", "on the batch, before the step"),
    Column("gradient_norm", "float", "loss / parameter", "Euclidean norm of the batch's gradient, before the step"),
    Column("lr", "float", "", "learning rate of the step"),
)
EVALUATIONS = (
    Column("epoch", "float", "epochs", "passes over the training data so far"),
    Column("split", "string", "", "train or test: the whole of it"),
    Column("loss", "float", "loss", "mean over the examples"),
    Column("accuracy", "float", "fraction", "share of examples whose class is right; null where targets are values"),
    Column("gradient_norm", "float", "loss / parameter", "of the full gradient; null where no rule asks for it"),
    Column("parameter_norm", "float", "parameter", "Euclidean norm of theta"),
    Column("distance", "float", "parameter", "Euclidean distance from the start"),
)

GATHERED = 64 * 1024 * 1024  # bytes of shuffled examples laid out at a time; whole epochs of small data
FLUSH_SECONDS = 10.0  # between two writes of the tables where no checkpoint comes first
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
        RunError: the run is in use by another process, or its data changed since it was begun.
        Stopped: a signal came; the checkpoint is written.
        OSError: the disk is full or gone; what was written before is whole.
    """
    if finished(run):
        return
    torch.set_num_threads(1)  # whatever the count is later, the start is the same to the last bit
    landscape, data = run.recipe.landscape(pick_device(run.recipe.device))
    run.make()
    with run.locked():
        yield from _Training(run, landscape, data, interrupt, workers).loop()


def finished(run: Run) -> bool:
    """Whether nothing is left to train: the run has ended, and all its tables can be read."""
    return run.manifest().get("status") in FINISHED and not _torn(run)


def _torn(run: Run) -> list[Path]:
    """The run's tables that cannot be read."""
    torn = []
    for path in sorted(run.folder.glob("*.parquet")):
        try:
            read(path)
        except RunError:
            torn.append(path)
    return torn


def batches(train: Examples, size: int, seed: int, step: int) -> Iterator[Examples]:
    """The batches from `step` on: every epoch a new order without replacement, the last batch of an epoch ragged.

    The order of an epoch is a function of the seed and the epoch alone, so a step number is all that resuming needs.
    Examples are gathered many batches at a time and handed out as views. Those blocks begin at the same batches wherever
    training resumes, since the alignment of a view in memory can change the last bit of a product.
    """
    if size >= train.size:
        while True:
            yield train
    per_epoch = math.ceil(train.size / size)
    example = train.inputs[0].numel() * train.inputs.element_size()
    block = max(1, GATHERED // (size * example))  # batches in a block
    epoch, skip = divmod(step, per_epoch)
    while True:
        order = torch.randperm(train.size, generator=generator(seed, "batches", epoch)).to(train.inputs.device)
        for begin in range(skip // block * block, per_epoch, block):
            rows = train.rows(order[begin * size : (begin + block) * size])
            pieces = zip(rows.inputs.split(size), rows.targets.split(size), strict=True)
            for number, piece in enumerate(pieces, start=begin):
                if number >= skip:
                    yield Examples(*piece)
        epoch, skip = epoch + 1, 0


class _Training:
    """One run on its way: the point, the probes' memories, the tables."""

    def __init__(self, run: Run, landscape: Landscape, data: Data, interrupt: Interrupt, workers: int) -> None:
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
        self.limit = self.recipe.divergence * first if first > 0 else math.inf
        self.notes: list[str] = []
        self.diverged: str | None = None  # why, once it has
        self.loss = first  # the last one seen
        self.noise = generator(self.recipe.seed, "noise")
        self.memories: dict[str, Memory] = {probe.key(): {} for probe in self.recipe.probes}
        self._describe(data)
        self.point = self._resumed()
        self.tables = self._opened()

    def loop(self) -> Iterator[Progress]:
        """Train to the end; raises what `train` says."""
        yield from (self._progress(note) for note in self.notes)
        stream = batches(self.landscape.train, self.batch_size, self.recipe.seed, self.point.step)
        told = written = time.perf_counter()
        while True:
            if self.interrupt:
                self._checkpoint("stopped", "by a signal")
                raise Stopped(self.interrupt.signum)
            ended = self._assess()
            if ended or self.recipe.checkpoint.due(self.point.step, self.steps):
                self._checkpoint("running")
                written = time.perf_counter()
            if self.diverged is None:
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
        step, times = self.point.step, self.recipe.evaluate
        ended = step >= self.steps or self.diverged is not None
        if not (times.due(step, self.steps) or (ended and times.at_end)):
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
        for probe in self.recipe.probes:
            if probe.due(self.point.step, self.steps) or (ended and probe.at_end):
                begin = time.perf_counter()
                rows, self.memories[probe.key()] = probe.rows(
                    self.landscape, self.point, self.memories[probe.key()], self.recipe.seed
                )
                for row in rows:
                    self._row(probe.component_name(), row)
                self.probing += time.perf_counter() - begin

    def _advance(self, stream: Iterator[Examples]) -> None:
        """Take steps until something is due, a signal comes or the loss diverges; at least one."""
        recipe, point, landscape = self.recipe, self.point, self.landscape
        optimizer, schedule, steps, limit = recipe.optimizer, recipe.schedule, self.steps, self.limit
        logged = recipe.log.due(point.step, steps)
        times = (recipe.log, recipe.evaluate, recipe.checkpoint, *recipe.probes)
        until = min(t.following(point.step, steps) for t in times)
        while point.step < until:
            lr = optimizer.lr * schedule.factor(point.step, steps)
            taken = optimizer.step(landscape, next(stream), point.theta, point.state, lr, self.noise)
            self.loss = loss = taken.loss.item()
            if logged:
                norm = float(torch.linalg.vector_norm(taken.gradient))
                self._row(
                    "steps", {"epoch": point.step / self.per_epoch, "loss": loss, "gradient_norm": norm, "lr": lr}
                )
                logged = False
            point.theta, point.state = taken.theta, taken.state
            point.step += 1
            if not loss <= limit:  # NaN compares false
                self._diverge("batch", loss)
                return
            if self.interrupt:
                return

    def _diverge(self, which: str, loss: float) -> None:
        self.diverged = f"{which} loss {loss:.3g} by step {self.point.step}, above {self.limit:.3g}"

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
        groups = {"state": point.state, "buffers": self.landscape.buffers()}
        groups |= {f"memory/{key}": memory for key, memory in self.memories.items()}
        tensors = {f"{group}/{name}": t for group, members in groups.items() for name, t in members.items()}
        self.run.save(point.step, {"theta": point.theta, "noise": self.noise.get_state(), **tensors})

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
        self.run.check_data(data.sha256)
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
            run=self.run.id,
            recipe=self.recipe.name,
            status="running",
            reason=None,
            swept=self.run.resolved.swept,
            steps=self.steps,
            parameters=self.landscape.size,
            device=str(self.landscape.device),
            threads=self.threads,
            data=described,
            **environment(),
        )

    def _resumed(self) -> Point:
        """The point of the newest whole checkpoint, or the start."""
        theta = self.landscape.start()
        fresh = Point(0, theta, self.recipe.optimizer.init(self.landscape, theta))
        torn = _torn(self.run)
        if torn:
            # rows before the checkpoint cannot be had back but by training again, which gives the same ones
            for path in torn:
                path.rename(path.with_suffix(".torn"))
            self.notes.append(f"{torn[0]} was torn and is kept as {torn[0].stem}.torn; training again from the start")
            return fresh
        for step in reversed(self.run.checkpoints()):
            try:
                tensors = self.run.load(step)
            except RunError as error:
                self.notes.append(str(error))
                continue
            return restored(self.landscape, step, tensors, self.noise, self.memories)
        return fresh

    def _opened(self) -> dict[str, Table]:
        """The tables, without the rows that will be measured again."""
        step, again = self.point.step, set(self.memories)
        kinds = {"steps": STEPS, "evaluations": EVALUATIONS}
        kinds |= {probe.component_name(): probe.table() for probe in self.recipe.probes}
        tables = {name: self.run.table(name, columns) for name, columns in kinds.items()}
        for table in tables.values():
            table.keep(r["step"] < step or r.get("probe", "") not in {"", *again} for r in table.rows)
        return tables

    def _progress(self, note: str | None = None) -> Progress:
        return Progress(self.point.step, self.steps, self.loss, note)


def restored(
    landscape: Landscape,
    step: int,
    tensors: Tensors,
    noise: torch.Generator | None = None,
    memories: dict[str, Memory] | None = None,
) -> Point:
    """The point of a checkpoint, with the landscape's buffers, the noise stream and the probes' memories set to it."""
    groups: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, member = name.rpartition("/")
        groups.setdefault(group, {})[member] = tensor
    landscape.restore(groups.get("buffers", {}))
    if noise is not None:
        noise.set_state(groups[""]["noise"])
    for key in memories if memories is not None else ():
        memories[key] = groups.get(f"memory/{key}", {})
    theta = groups[""]["theta"].to(landscape.device)
    # what stands beside theta lives where theta lives; counters and the like stay on the CPU
    state = {n: t.to(theta.device) if t.shape == theta.shape else t for n, t in groups.get("state", {}).items()}
    return Point(step, theta, state)
