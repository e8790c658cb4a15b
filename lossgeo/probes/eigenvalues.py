"""The two ends of an operator's spectrum."""

from __future__ import annotations

from typing import ClassVar, Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.landscape import Memory
from lossgeo.linear import LinearOperator
from lossgeo.probes import CurvatureProbe
from lossgeo.spectral.lanczos import Eigenpairs, lanczos
from lossgeo.tables import Column, Row


@final
class Eigenvalues(CurvatureProbe):
    """The largest and the smallest eigenvalues, signed, each with its residual; one Lanczos run for both ends.

    Cost: one product a step, until the wanted pairs have been good for three steps. The top 3 of the quickstart take 23
    products at the start and 34 to 60 at the edge of stability, where eigenvalues crowd; a bottom close to zero beside
    the top takes many more. Column `matvecs` says how many it was.
    """

    top: int = Field(default=1, ge=0, le=1000, description="how many of the largest")
    bottom: int = Field(default=1, ge=0, le=1000, description="how many of the smallest (most negative)")
    tolerance: float = Field(
        default=1e-3, gt=0, lt=1, description="residual over the eigenvalue, at which a pair has converged"
    )
    budget: int = Field(
        default=500, ge=1, le=100_000, description="products at the most; pairs may then be unconverged"
    )

    columns: ClassVar[tuple[Column, ...]] = (
        Column("end", "string", "", "top or bottom"),
        Column("rank", "int", "", "0 is the extreme one of its end"),
        Column("eigenvalue", "float", "loss / parameter^2", "Ritz value"),
        Column("residual", "float", "loss / parameter^2", "norm of A v - eigenvalue v; an eigenvalue lies within it"),
        Column("converged", "bool", "", "whether the residual met the tolerance within the budget"),
    )

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.top + self.bottom == 0:
            raise ValueError("`top` and `bottom` are both 0: nothing to measure")
        return self

    def spectrum(
        self, operator: LinearOperator, memory: Memory, generator: torch.Generator
    ) -> tuple[list[Row], Memory]:
        ends = lanczos(operator, self.top, self.bottom, self.tolerance, self.budget, generator)
        return [*_rows("top", ends.top), *_rows("bottom", ends.bottom)], memory


def _rows(end: str, pairs: Eigenpairs) -> list[Row]:
    columns = zip(pairs.values.tolist(), pairs.residuals.tolist(), pairs.converged.tolist(), strict=True)
    return [
        {"end": end, "rank": rank, "eigenvalue": value, "residual": residual, "converged": converged}
        for rank, (value, residual, converged) in enumerate(columns)
    ]
