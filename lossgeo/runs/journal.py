"""What a training writes while it goes on: rows, run.json, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator

from lossgeo.landscapes.landscape import Landscape, Memory
from lossgeo.landscapes.point import Point
from lossgeo.randomness import Noise
from lossgeo.runs.escapes import Escapes
from lossgeo.runs.resuming import packed
from lossgeo.runs.run import Run
from lossgeo.runs.trials import endings
from lossgeo.tables import Row, Table


class Journal:
    """The tables of a run, its manifest and its checkpoints, in the order in which they may be written.

    Tables come before run.json, and both before the checkpoint that going on begins at. `steps` is the length of the
    training, `began` when this process took it up, by `time.perf_counter`.
    """

    def __init__(self, run: Run, tables: dict[str, Table], escapes: Escapes | None, steps: int, began: float) -> None:
        self.tables = tables
        self.seconds_probing = float(run.manifest().get("probe_seconds", 0.0))
        self._run = run
        self._escapes = escapes
        self._steps = steps
        self._began = began - float(run.manifest().get("seconds", 0.0))

    def add(self, table: str, step: int, row: Row) -> None:
        """Add a row of a step."""
        self.tables[table].append({"run": self._run.id, "replica": 0, "step": step} | row)

    def flush(self, point: Point, status: str, reason: str | None = None) -> None:
        """Write the tables, then run.json."""
        if self._escapes is not None:
            self.tables["escapes"].keep(False for _ in self.tables["escapes"].rows)
            for row in self._escapes.rows(point):
                self.add("escapes", point.step, row)
        for table in self.tables.values():
            table.flush()
        trials = {"trials": endings(point.trials)} if point.trials else {}
        self._run.note(
            **trials,
            status=status,
            reason=reason,
            step=point.step,
            seconds=round(time.perf_counter() - self._began, 3),
            probe_seconds=round(self.seconds_probing, 3),
        )

    def save(
        self,
        landscape: Landscape,
        point: Point,
        noise: Noise,
        memories: dict[str, Memory],
        status: str,
        reason: str | None = None,
    ) -> None:
        """Write tables and manifest, then everything that going on from here needs."""
        self.flush(point, status, reason)
        self._run.save(point.step, packed(landscape, point, noise.layers, memories))

    def clear(self, point: Point, diverged: bool) -> None:
        """Remove the checkpoints that have served: with `keep: last` all but the last, else those that a stop left.

        A stop and the clock write some between the due ones; kept, they would set the run apart from its equals.
        """
        checkpoint = self._run.recipe.checkpoint
        for step, path in self._run.checkpoints().items():
            between = step < point.step and not checkpoint.due(step, self._steps)
            if between or (checkpoint.keep == "last" and not diverged and step != point.step):
                path.unlink()

    def timed(self, notes: Iterator[str | None]) -> Iterator[str | None]:
        """What measuring tells, its time counted as that of probes."""
        begin = time.perf_counter()
        for note in notes:
            self.seconds_probing += time.perf_counter() - begin
            yield note
            begin = time.perf_counter()
        self.seconds_probing += time.perf_counter() - begin
