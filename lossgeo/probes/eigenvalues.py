"""The two ends of an operator's spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, final

import numpy as np
import torch
from pydantic import Field, model_validator

from lossgeo.curvature.sample import Sample
from lossgeo.curvature.spectral.bracket import bracket
from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.lanczos import Eigenpairs, Ends, lanczos, warm_start
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.landscapes.landscape import Memory
from lossgeo.probes._curvature import FLOAT32_TOLERANCE, CurvatureProbe, Found
from lossgeo.tables import Column, Row

# a coarser vector only lowers what it has on the other half, by 1% or so, and widens the bracket
HALVES_TOLERANCE = 0.1


@final
class Eigenvalues(CurvatureProbe):
    """The largest and the smallest eigenvalues, signed, each with its errors; one Lanczos run for both ends.

    Two errors, kept apart. `residual` and the tighter `bound` are the solver's. Measured on a sample, `low` and `high`
    bracket the eigenvalue over all training examples: the sample's own is biased outward, and the vector of one half of
    it, tried on the other half, inward.

    A pair that has converged is an eigenvalue; a list of them may still lack copies of a multiple one, of which a
    Krylov space holds only one. `complete` looks for them. `auto` does where a count of copies would be wrong without
    it: more than one pair is asked for, and the block is one layer's (under mse every eigenvalue of the last one is
    C-fold for C outputs, as are all of a linear model), or the bottom is that of an operator without negative
    eigenvalues, whose kernel has many zeros. An extreme value alone does not depend on copies. A whole Hessian has none
    by symmetry. On 96 Hessians of small networks in training, two start vectors each, `complete` found one pair in 192
    lists of ten that a close neighbor had hidden, no copy, and took 49.6 products for 33.3: so it is off there.

    Cost: one product a step; column `matvecs` says how many it took. `start: warm` saves a part of them, most when
    curvature moves slowly. A bottom close to zero beside the top takes many more. The bracket costs about as much
    again, and grows with `brackets`. `complete` makes it 1.5 times as many for the top ten, 2.1 times for the two
    extreme values, and more for every round of copies.
    """

    top: int = Field(default=1, ge=0, le=1000, description="how many of the largest")
    bottom: int = Field(default=1, ge=0, le=1000, description="how many of the smallest (most negative)")
    tolerance: float = Field(
        default=1e-3, gt=0, lt=1, description="error over the eigenvalue, at which a pair has converged"
    )
    budget: int = Field(
        default=500, ge=1, le=100_000, description="products at the most; pairs may then be unconverged"
    )
    start: Literal["random", "warm"] = Field(
        default="random",
        description="random: afresh, so that density and trace at the same step go on from the same products; warm: "
        "from the last measurement's vectors, fewer products, but the same values only within the tolerance",
    )
    brackets: int = Field(
        default=1, ge=1, description="pairs of each end that get low and high when measured on a sample"
    )
    complete: bool | Literal["auto"] = Field(
        default="auto",
        description="look for missing copies of multiple eigenvalues; auto: where several pairs of one layer or of "
        "a kernel are asked for",
    )
    save_vectors: bool = Field(default=False, description="keep the eigenvectors in the run's folder")

    columns: ClassVar[tuple[Column, ...]] = (
        Column("end", "string", "", "top or bottom"),
        Column("rank", "int", "", "0 is the extreme one of its end"),
        Column("eigenvalue", "float", "unit", "Ritz value over the measured examples"),
        Column("residual", "float", "unit", "norm of A v - eigenvalue v; an eigenvalue lies within it"),
        Column("bound", "float", "unit", "tighter: residual^2 over the gap to the next Ritz value"),
        Column("converged", "bool", "", "whether the error met the tolerance within the budget"),
        Column("stderr", "float", "unit", "over the operator's own random draws; null: it has none"),
        Column("low", "float", "unit", "lower end for the value over all examples; null: these are all"),
        Column("high", "float", "unit", "upper end for the value over all examples; null: these are all"),
        Column(
            "relative_to",
            "float",
            "unit",
            "what the tolerance is a share of: |eigenvalue|, or 1% of the largest for a bottom that cannot be negative",
        ),
        Column(
            "complete",
            "bool",
            "",
            "no eigenvalue beyond the end's last is missing, copies too; false: not looked for, or not to the end",
        ),
    )

    # "auto" does what was done before it, but where copies are likely
    joined: ClassVar[Mapping[str, Any]] = MappingProxyType({"complete": "auto"})

    @model_validator(mode="after")
    def _something_to_do(self) -> Self:
        if self.top + self.bottom == 0:
            raise ValueError("`top` and `bottom` are both 0: nothing to measure")
        return self

    def exacting(self) -> bool:
        return self.tolerance < FLOAT32_TOLERANCE

    def spectrum(self, sample: Sample, memory: Memory, generator: torch.Generator) -> Found:
        krylov = sample.random_krylov(generator) if self.start == "random" else None
        operator = sample.operator
        wanted = (self.top, self.bottom)
        complete = self._complete(sample)
        ends = self._solved(operator, "whole", memory, generator, wanted, self.tolerance, sample.room, krylov, complete)
        kept = {"whole": _start(ends, operator, generator)} if self.start == "warm" else {}
        rows = {"top": _rows("top", ends.top), "bottom": _rows("bottom", ends.bottom)}
        if operator.sampling is not None:
            errors = operator.sampling(torch.cat([ends.top.vectors, ends.bottom.vectors]))
            for row, error in zip([*rows["top"], *rows["bottom"]], errors.tolist(), strict=True):
                row["stderr"] = error
        spread = 0.0 if sample.whole else float("inf")
        if self.data_error and not sample.whole and sample.examples >= 2 and operator.contributions is not None:
            of_halves, spread = self._bracket(sample, ends, rows, memory, generator)
            kept |= of_halves
        vectors = {"top": ends.top.vectors, "bottom": ends.bottom.vectors} if self.save_vectors else {}
        return Found([*rows["top"], *rows["bottom"]], kept, spread, vectors)

    def _complete(self, sample: Sample) -> bool:
        if self.complete != "auto":
            return self.complete
        kernel = sample.operator.semidefinite and self.bottom > 1
        return max(self.top, self.bottom) > 1 and (sample.one_layer or kernel)

    def _bracket(
        self, sample: Sample, ends: Ends, rows: dict[str, list[Row]], memory: Memory, generator: torch.Generator
    ) -> tuple[Memory, float]:
        """Put `low` and `high` into the rows; where the halves may start from next time, and the relative width."""
        complete = self.brackets > 1 and self._complete(sample)
        halves = {f"half{number}": sample.part(number, 2) for number in range(2)}
        tolerance = max(self.tolerance, HALVES_TOLERANCE)
        wanted = (min(self.top, self.brackets), min(self.bottom, self.brackets))  # no more is compared
        found = {
            name: self._solved(
                half,
                name,
                memory,
                generator,
                wanted,
                tolerance,
                half.room,
                None,
                complete,
            )
            for name, half in halves.items()
        }
        widths = []
        for end, sign in (("top", 1), ("bottom", -1)):
            pairs: Eigenpairs = getattr(ends, end)
            k = min(self.brackets, len(pairs.values))
            if k == 0:
                continue
            of_halves = [getattr(f, end).vectors[:k] for f in found.values()]
            values = torch.from_numpy(pairs.values[:k])
            operators = list(halves.values())
            low, high = bracket(sample.operator, operators, values, pairs.vectors[:k], of_halves, sign, sample.left)
            for row, a, b in zip(rows[end], low.tolist(), high.tolist(), strict=False):
                row |= {"low": a, "high": b}
            widths.append(float(high[0] - low[0]) / max(abs(float(values[0])), 1e-300))
        sample.charge(sum(half.products for half in halves.values()) / 2)
        warm = self.start == "warm"
        kept = {name: _start(found[name], half, generator) for name, half in halves.items()} if warm else {}
        return kept, widths[0]  # that of the leading number: the top one, where it was asked for

    def _solved(
        self,
        operator: LinearOperator,
        name: str,
        memory: Memory,
        generator: torch.Generator,
        wanted: tuple[int, int],
        tolerance: float,
        room: int | None,
        krylov: Krylov | None,
        complete: bool,
    ) -> Ends:
        if krylov is None:
            start = memory.get(name)
            if start is None or start.shape != (operator.size,):
                start = direction(operator, generator)
            krylov = Krylov(operator, start.to(operator.device, operator.dtype))
        return lanczos(krylov, *wanted, tolerance, self.budget, generator, room, complete)


def _start(ends: Ends, operator: LinearOperator, generator: torch.Generator) -> torch.Tensor:
    return warm_start(torch.cat([ends.top.vectors, ends.bottom.vectors]), operator, generator)


def _rows(end: str, pairs: Eigenpairs) -> list[Row]:
    names = ("eigenvalue", "residual", "bound", "relative_to")
    columns = np.column_stack([pairs.values, pairs.residuals, pairs.bounds, pairs.scales]).tolist()
    return [
        {
            "end": end,
            "rank": k,
            **dict(zip(names, row, strict=True)),
            "converged": bool(good),
            "complete": pairs.complete,
        }
        for k, (row, good) in enumerate(zip(columns, pairs.converged, strict=True))
    ]
