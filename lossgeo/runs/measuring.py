"""The one place where a probe is run, remembered, tabled and its failure told, in training and by `lossgeo probe`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import torch

from lossgeo.landscapes.landscape import Landscape, Memory
from lossgeo.landscapes.point import Point
from lossgeo.probes import Measurement, Probe
from lossgeo.randomness import trial_seed
from lossgeo.runs.run import Run
from lossgeo.tables import Table


class Measuring:
    """The probes of a run on their way through its points.

    `tables` holds a table for every probe's `table_name`, by that name; `memories`, by a probe's key, what its next
    measurement may start from.
    """

    def __init__(
        self,
        run: Run,
        landscape: Landscape,
        probes: Sequence[Probe],
        tables: Mapping[str, Table],
        memories: dict[str, Memory],
    ) -> None:
        self.memories = memories
        self._run = run
        self._landscape = landscape
        self._tables = tables
        # (key, step) -> a failure of any trial. What is there was measured by a process that was killed after its last
        # checkpoint, or by `lossgeo probe`.
        self._there: dict[tuple[str, int], str | None] = {}
        for row in (row for name in {p.table_name() for p in probes} for row in tables[name].rows):
            at = (row["probe"], row["step"])
            self._there[at] = self._there.get(at) or row["failure"]
        self._failures: Counter[str] = Counter()  # steps, by probe
        self._told: set[tuple[str, str]] = set()

    def missing(self, probe: Probe, step: int) -> bool:
        """Whether a probe has no row without a failure at a step; a failure may have passed."""
        return self._there.get((probe.key(), step), "never measured") is not None

    def at(self, point: Point, probes: Sequence[Probe]) -> Iterator[str | None]:
        """Measure at a point, of trials at each in turn; after every probe a sentence for the user, if there is one.

        The probes of one trial share what they compute, and only one trial's is held at a time.
        """
        trials = [point] if point.theta.ndim == 1 else (point.trial(number) for number in range(len(point.theta)))
        last = 0 if point.theta.ndim == 1 else len(point.theta) - 1
        found: dict[str, list[Measurement]] = {probe.key(): [] for probe in probes}
        for number, trial in enumerate(trials):
            mark = f"trial{number}:" if point.theta.ndim == 2 else ""
            for probe in probes:
                memory = self.memories[probe.key()]
                mine = {name.removeprefix(mark): t for name, t in memory.items() if name.startswith(mark)}
                measured = probe.run(self._landscape, trial, mine, trial_seed(self._run.recipe.seed, number))
                found[probe.key()].append(_marked(measured, number, mark))
                if number == last:
                    yield self._keep(probe, point.step, found[probe.key()])
        point.forget()

    def summary(self) -> Iterator[str]:
        """A sentence for every probe that failed at more than one step."""
        for name, steps in self._failures.items():
            if steps > 1:
                yield f"{self._run.folder}: {name} failed at {steps} steps; column `failure` of its table says why"

    def _keep(self, probe: Probe, step: int, found: Sequence[Measurement]) -> str | None:
        """Put a measurement into memory, file and table; what to tell of it."""
        key, name, table = probe.key(), probe.component_name(), self._tables[probe.table_name()]
        self.memories[key] = {n: t for measured in found for n, t in measured.memory.items()}
        vectors: dict[str, torch.Tensor] = {n: t for measured in found for n, t in measured.vectors.items()}
        if vectors:
            self._run.keep(key, step, vectors)
        if (key, step) in self._there:
            table.drop(key, step)
        rows = [row for measured in found for row in measured.rows]
        for row in rows:
            table.append({"run": self._run.id} | row)
        reasons = list(dict.fromkeys(row["failure"] for row in rows if row.get("failure")))
        self._there[key, step] = reasons[-1] if reasons else None
        self._failures[name] += bool(reasons)
        new = [reason for reason in reasons if (key, reason) not in self._told]
        self._told |= {(key, reason) for reason in new}
        return f"{self._run.folder}: {name} at step {step} failed: {'; '.join(new)}" if new else None


def _marked(found: Measurement, number: int, mark: str) -> Measurement:
    """What one of several trials gave: its rows say which, and so do the names of its tensors."""
    return Measurement(
        [row | {"replica": number} for row in found.rows],
        {mark + name: tensor for name, tensor in found.memory.items()},
        {mark + name: tensor for name, tensor in found.vectors.items()},
    )
