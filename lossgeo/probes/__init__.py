"""Probes: measurements at a point, one a file, each filling one table of its own name."""

from __future__ import annotations

import hashlib
import json
import time
from abc import abstractmethod
from typing import Annotated, ClassVar, Literal, final

import torch
from pydantic import Field

from lossgeo.component import Component, dump
from lossgeo.landscape import BatchNormMode, Landscape, Memory, Point
from lossgeo.linear import LinearOperator
from lossgeo.operators import Operator
from lossgeo.operators.hessian import Hessian
from lossgeo.randomness import generator
from lossgeo.tables import Column, Row
from lossgeo.times import Times

COMMON = (
    Column("probe", "string", "", "key of the probe that measured it: its name and a digest of its settings"),
    Column("seconds", "float", "s", "wall time of the whole measurement"),
    Column("failure", "string", "", "why there is no value; null where there is one"),
)

FAILURES = (RuntimeError, ArithmeticError, ValueError, MemoryError)  # torch and numpy derive theirs from these


class Probe(Times, Component):
    """A measurement at a point; its keys `every`, `at` and `log` say when it is due."""

    shared: ClassVar[tuple[Column, ...]] = ()  # filled by the interface
    columns: ClassVar[tuple[Column, ...]]  # filled by the probe

    @abstractmethod
    def measure(
        self, landscape: Landscape, point: Point, memory: Memory, generator: torch.Generator
    ) -> tuple[list[Row], Memory]:
        """Rows for the table, and what the next measurement of this training may start from.

        Leaves parameters, buffers, modes and random numbers as they were. `memory` is empty at the first measurement.
        """

    @classmethod
    def table(cls) -> tuple[Column, ...]:
        """The columns of the probe's table, beside those of every table."""
        return (*COMMON, *cls.shared, *cls.columns)

    @final
    def key(self) -> str:
        """What is measured, without when: names the probe's rows, its memory and its stream of random numbers."""
        asked = {k: v for k, v in dump(self).items() if k not in Times.model_fields}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:6]
        return f"{self.component_name()}-{digest}"

    @final
    def rows(self, landscape: Landscape, point: Point, memory: Memory, seed: int) -> tuple[list[Row], Memory]:
        """Measure; a failure becomes a row with its reason, and the memory stays as it was."""
        begin = time.perf_counter()
        try:
            rows, memory = self.measure(landscape, point, memory, generator(seed, self.key(), point.step))
        except FAILURES as error:
            rows = [{"failure": f"{type(error).__name__}: {' '.join(str(error).split())}"}]
        seconds = time.perf_counter() - begin
        shared = {"step": point.step, "replica": 0, "probe": self.key(), "seconds": seconds}
        return [shared | row for row in rows], memory


class CurvatureProbe(Probe):
    """A probe of an operator over the training data."""

    operator: Operator = Field(default=Hessian(), description="the map that is measured")
    samples: Annotated[int, Field(ge=1)] | Literal["all"] = Field(
        default="all", description="training examples to measure on at the most, the first of the (shuffled) split"
    )
    batch_norm: BatchNormMode = Field(
        default="eval", description="eval: running statistics; batch: statistics of all the measured examples"
    )

    shared: ClassVar[tuple[Column, ...]] = (
        Column("operator", "string", "", "name of the operator"),
        Column("samples", "int", "examples", "training examples it was measured on"),
        Column("batch_norm", "string", "", "eval: running statistics; batch: statistics of the measured examples"),
        Column("matvecs", "int", "products", "products with the operator that the whole measurement took"),
    )

    @abstractmethod
    def spectrum(
        self, operator: LinearOperator, memory: Memory, generator: torch.Generator
    ) -> tuple[list[Row], Memory]:
        """Rows with the probe's own columns."""

    @final
    def measure(
        self, landscape: Landscape, point: Point, memory: Memory, generator: torch.Generator
    ) -> tuple[list[Row], Memory]:
        examples = landscape.train
        if self.samples != "all":
            examples = examples.rows(slice(0, self.samples))
        operator = self.operator.at(landscape, point.theta, examples, self.batch_norm)
        rows, memory = self.spectrum(operator, memory, generator)
        shared = {
            "operator": self.operator.component_name(),
            "samples": examples.size,
            "batch_norm": self.batch_norm,
            "matvecs": operator.products,
        }
        return [shared | row for row in rows], memory
