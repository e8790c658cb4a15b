"""The trace of an operator."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from pydantic import Field

from lossgeo.landscape import Memory
from lossgeo.linear import LinearOperator
from lossgeo.probes import CurvatureProbe
from lossgeo.spectral.trace import hutchinson
from lossgeo.tables import Column, Row


@final
class Trace(CurvatureProbe):
    """tr A by Hutchinson's estimator, with its standard error over the random vectors.

    Cost: one product a vector.
    """

    vectors: int = Field(default=32, ge=2, le=100_000, description="random sign vectors at the most")
    tolerance: float = Field(default=0.01, ge=0, lt=1, description="stop once stderr / |trace| is this small")

    columns: ClassVar[tuple[Column, ...]] = (
        Column("method", "string", "", "the estimator"),
        Column("value", "float", "loss / parameter^2", "estimate of the trace"),
        Column("stderr", "float", "loss / parameter^2", "standard error over the random vectors"),
        Column("converged", "bool", "", "whether the standard error met the tolerance"),
    )

    def spectrum(
        self, operator: LinearOperator, memory: Memory, generator: torch.Generator
    ) -> tuple[list[Row], Memory]:
        estimate = hutchinson(operator, self.vectors, self.tolerance, generator)
        row = {
            "method": "hutchinson",
            "value": estimate.value,
            "stderr": estimate.stderr,
            "converged": estimate.converged,
        }
        return [row], memory
