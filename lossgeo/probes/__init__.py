"""Probes: measurements at a point, one a file, each filling one table."""

from __future__ import annotations

import hashlib
import json
import time
from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar, NamedTuple, final

import torch

from lossgeo.components.component import Component, identity
from lossgeo.components.times import Times
from lossgeo.errors import UsageError
from lossgeo.landscapes.landscape import Landscape, Memory
from lossgeo.landscapes.point import Point
from lossgeo.randomness import generator
from lossgeo.tables import Column, Row

COMMON = (
    Column("probe", "string", "", "key of the probe that measured it: its name and a digest of its settings"),
    Column("seconds", "float", "s", "wall time of the whole measurement"),
    Column("failure", "string", "", "why there is no value; null where there is one"),
)

# torch and numpy derive theirs from these
FAILURES = (RuntimeError, ArithmeticError, ValueError, MemoryError, UsageError)


class Measurement(NamedTuple):
    """What a probe found at a point."""

    rows: list[Row]
    memory: Memory  # what the next measurement of this training may start from
    vectors: Mapping[str, torch.Tensor] = MappingProxyType({})  # for a file of the run, where they were asked for


class Probe(Times, Component):
    """A measurement at a point; its keys `every`, `at` and `log` say when it is due."""

    shared: ClassVar[tuple[Column, ...]] = ()  # filled by the interface
    columns: ClassVar[tuple[Column, ...]]  # filled by the probe

    @abstractmethod
    def measure(self, landscape: Landscape, point: Point, memory: Memory, generator: torch.Generator) -> Measurement:
        """Rows for the table, and what is kept.

        Leaves parameters, buffers, modes and random numbers as they were. `memory` is empty at the first measurement.
        """

    def check(self, landscape: Landscape) -> None:
        """Refuse what can never be measured on this landscape, before anything is trained.

        Raises:
            UsageError: with the way out.
        """

    def stream(self) -> str:
        """Names the random numbers of a measurement, together with the run's seed and the step."""
        return self.key()

    @classmethod
    def table_name(cls) -> str:
        """The table that the probe fills; probes with the same columns may share one."""
        return cls.component_name()

    @classmethod
    def table(cls) -> tuple[Column, ...]:
        """The columns of the probe's table, beside those of every table."""
        return (*COMMON, *cls.shared, *cls.columns)

    @final
    def key(self) -> str:
        """What is measured, without when: names the probe's rows, its memory and its stream of random numbers."""
        asked = {k: v for k, v in identity(self).items() if k not in Times.model_fields}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:6]
        return f"{self.component_name()}-{digest}"

    @final
    def run(self, landscape: Landscape, point: Point, memory: Memory, seed: int) -> Measurement:
        """Measure at the point of a single run or trial; a failure is a row with its reason, and leaves the memory."""
        begin = time.perf_counter()
        try:
            found = self.measure(landscape, point, memory, generator(seed, self.stream(), point.step))
        except FAILURES as error:
            found = Measurement([{"failure": f"{type(error).__name__}: {' '.join(str(error).split())}"}], memory)
        seconds = time.perf_counter() - begin
        shared = {"step": point.step, "replica": 0, "probe": self.key(), "seconds": seconds}
        return found._replace(rows=[shared | row for row in found.rows])
