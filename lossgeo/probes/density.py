"""The density of an operator's spectrum."""

from __future__ import annotations

from typing import ClassVar, final

import numpy as np
import torch
from pydantic import Field

from lossgeo.curvature.sample import Sample
from lossgeo.curvature.spectral.lanczos import lanczos
from lossgeo.curvature.spectral.slq import Quadrature, density
from lossgeo.landscapes.landscape import Memory
from lossgeo.probes._curvature import KNOWN_TOLERANCE, CurvatureProbe, Found
from lossgeo.tables import Column, Row

PARTS = 8  # of a sample, whose spread is the error over examples; seven degrees of freedom


@final
class Density(CurvatureProbe):
    """The spectrum as quadrature nodes: for every random vector, weights that sum to 1 over the nodes.

    The mean over vectors of the sum of w f(x) estimates tr f(A) / P, without bias for polynomials of degree up to 2
    `steps` - 1. Largest eigenpairs that have converged along the way are taken out and count 1/P each. Nothing is
    smoothed here; `lossgeo report spectrum` does that. On a sample, eight disjoint parts of it are measured too, with
    one vector: their spread is the error over examples.

    Cost: `steps` products a vector, at most; on a sample about one vector more.
    Source: Golub & Meurant 2010, chapter 6; Ubaru, Chen & Saad 2017, Algorithm 1; Ghorbani, Krishnan & Xiao 2019.
    """

    steps: int = Field(default=80, ge=2, le=10_000, description="Lanczos steps a vector")
    vectors: int = Field(default=4, ge=1, le=10_000, description="random start vectors")
    deflate: int = Field(default=10, ge=0, le=1000, description="how many of the largest eigenpairs to take out")

    columns: ClassVar[tuple[Column, ...]] = (
        Column("part", "int", "", "0: all the measured examples; 1 to 8: disjoint parts of them"),
        Column("vector", "int", "", "random start vector, from 0"),
        Column("node", "float", "unit", "where the quadrature puts a share of the spectrum"),
        Column("weight", "float", "", "that share; the weights of a part and vector sum to 1"),
        Column("known", "bool", "", "an eigenvalue that was found and taken out, with the weight 1/P"),
    )

    def spectrum(self, sample: Sample, memory: Memory, generator: torch.Generator) -> Found:
        operator = sample.operator
        first = sample.random_krylov(generator)
        steps = self.steps if sample.room is None else max(2, min(self.steps, sample.room))
        known = None
        if self.deflate:
            known = lanczos(first, self.deflate, 0, KNOWN_TOLERANCE, steps, generator, sample.room).top.only_converged()
        found = density(operator, steps, self.vectors, generator, known, first)
        rows = _rows(0, found)
        if sample.whole or not self.data_error or sample.examples < PARTS:
            return Found(rows, {}, 0.0 if sample.whole else float("inf"))
        means = []
        state = generator.get_state()
        for number in range(PARTS):
            generator.set_state(state)  # one start vector for all parts, so that only the examples differ
            part = sample.part(number, PARTS)
            of_part = density(part, steps, 1, generator)
            sample.charge(part.products / PARTS)
            rows += _rows(number + 1, of_part)
            means.append(of_part.trace.value)
        spread = float(np.std(means, ddof=1)) / PARTS**0.5 / max(abs(float(np.mean(means))), 1e-300)
        return Found(rows, {}, spread)


def _rows(part: int, found: Quadrature) -> list[Row]:
    columns = (found.vector.tolist(), found.node.tolist(), found.weight.tolist(), found.known.tolist())
    return [
        {"part": part, "vector": vector, "node": node, "weight": weight, "known": known}
        for vector, node, weight, known in zip(*columns, strict=True)
    ]
