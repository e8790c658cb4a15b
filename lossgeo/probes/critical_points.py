"""What kind of point is it? The signs of the Hessian's eigenvalues, and whether the gradient vanishes.

The decision a reader would question: strict and degenerate are two flags, not two ends of one scale. diag(1, -1, 0) has
a negative eigenvalue, so that it is a strict saddle, and a zero one, so that it is degenerate.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self, final

import numpy as np
import torch
from pydantic import Field, model_validator

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.finite_difference import FiniteDifference
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.sample import Sample
from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.lanczos import lanczos
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.slq import density
from lossgeo.curvature.spectral.spectral_density import Rule, Share, SpectralDensity
from lossgeo.landscapes.landscape import Memory
from lossgeo.probes._curvature import CurvatureProbe, Found
from lossgeo.saddles.refiners import Refiner
from lossgeo.tables import Column, Row

SMALLEST = 1e-10  # an eigenvalue below it is zero, however small the largest is
TOLERANCE = 1e-6  # of the extreme eigenvalues where the whole spectrum is not computed
BUDGET = 1000  # products for these
FLAT = 5e-4  # of |H g| over |H| |g|, below which a point is gradient-flat

Deviation = Annotated[float, Field(ge=0, le=1e6)]


@final
class CriticalPoints(CurvatureProbe):
    """Gradient norm, extreme eigenvalues, and how many are negative, zero and positive: the index and the kind.

    An eigenvalue is zero up to `zero` times the largest |lambda|. kind is minimum (none negative), maximum (none
    positive, none zero) or saddle, where the gradient norm is within `gradient_tolerance`; else not critical. strict:
    at least one is negative; degenerate: at least one is zero. second_order: |g| <= accuracy and lambda_min >=
    -sqrt(hessian_lipschitz accuracy), an approximate second-order stationary point.

    Up to `exact` parameters the whole spectrum is computed. Beyond, the ends are found by Lanczos and the counts
    estimated by quadrature, with 95% intervals; kind and flags then follow the ends, and degenerate is null where the
    interval leaves it open.

    With `refine` a critical point near is looked for first, from `starts` points with a Gaussian displacement whose
    deviation is drawn between the two of `noise`, on a logarithmic scale. Every search has a row: accepted where its
    gradient norm is within the tolerance; flat where |H g| is so small beside |H| |g| that no such method can go on.

    Cost: a product for each parameter up to `exact`; else steps x vectors and what the ends take; and the searches.
    Source: cutoffs as in Frye et al. 2021; Jin et al. 2017, definition 3, for second_order.
    """

    gradient_tolerance: float = Field(default=1e-5, gt=0, description="gradient norm up to which a point is critical")
    zero: float = Field(default=1e-6, gt=0, lt=1, description="share of the largest |lambda| up to which one is zero")
    exact: int = Field(
        default=2500, ge=0, le=20_000, description="parameters up to which the spectrum is computed whole"
    )
    steps: int = Field(default=80, ge=2, le=10_000, description="beyond: Lanczos steps a vector")
    vectors: int = Field(default=4, ge=1, le=10_000, description="beyond: random start vectors")
    refine: Refiner | None = Field(default=None, description="look for a critical point near by this method first")
    starts: int = Field(default=1, ge=1, le=100_000, description="searches from a point")
    noise: tuple[Deviation, Deviation] = Field(
        default=(0.0, 0.0), description="smallest and largest deviation of the displacement before a search"
    )
    accuracy: float | None = Field(default=None, gt=0, description="eps of second_order; null: gradient_tolerance")
    hessian_lipschitz: float = Field(default=1.0, gt=0, description="rho of second_order")

    columns: ClassVar[tuple[Column, ...]] = (
        Column("start", "int", "", "number of the search, from 0; null: the point itself"),
        Column("noise", "float", "parameter", "deviation of the displacement that the search began with"),
        Column("iterations", "int", "", "of the search"),
        Column("accepted", "bool", "", "whether the search ended at a critical point; null: there was none"),
        Column("flat", "bool", "", "not accepted, with H g close to zero though g is not"),
        Column("moved", "float", "parameter", "distance from the point of the trajectory to where the search ended"),
        Column("loss", "float", "loss", "over the measured examples"),
        Column("gradient_norm", "float", "loss / parameter", "Euclidean norm over the group of parameters"),
        Column("lambda_min", "float", "loss / parameter^2", "the smallest eigenvalue"),
        Column("lambda_min_error", "float", "loss / parameter^2", "the solver's bound of its error"),
        Column("lambda_max", "float", "loss / parameter^2", "the largest eigenvalue"),
        Column("lambda_max_error", "float", "loss / parameter^2", "the solver's bound of its error"),
        *(
            Column(f"{sign}{end}", "float", "", f"eigenvalues that are {sign}{meaning}")
            for sign in ("negative", "zero", "positive")
            for end, meaning in (("", ""), ("_low", ": lower end"), ("_high", ": upper end"))
        ),
        Column("index", "float", "", "the number of negative ones"),
        Column("expected_index", "float", "", "by theory for a critical point like this one; null: none is known"),
        Column("expected_loss", "float", "loss", "of the known critical point that this one is compared with"),
        Column("cutoff", "float", "loss / parameter^2", "|lambda| up to which an eigenvalue counts as zero"),
        Column("kind", "string", "", "minimum, maximum, saddle or not critical"),
        Column("strict", "bool", "", "at least one eigenvalue is negative"),
        Column("degenerate", "bool", "", "at least one eigenvalue is zero"),
        Column("second_order", "bool", "", "an approximate second-order stationary point"),
        Column("whole", "bool", "", "whether the whole spectrum was computed; else counts are estimates"),
        Column("spectrum", "floats", "loss / parameter^2", "all eigenvalues, ascending, where it was"),
    )

    @model_validator(mode="after")
    def _of_the_hessian(self) -> Self:
        low, high = self.noise
        if low > high or (low == 0 < high):
            raise ValueError("`noise` should rise from a deviation above 0, or be one number twice")
        if not isinstance(self.operator, Hessian | FiniteDifference):
            raise ValueError(f"{self.operator.component_name()} does not say what kind of point it is: use hessian")
        return self

    def exacting(self) -> bool:
        return True  # zero is told from small

    def spectrum(self, sample: Sample, memory: Memory, generator: torch.Generator) -> Found:
        spread = 0.0 if sample.whole else float("inf")
        if self.refine is None:
            g = sample.here.gradient()
            return Found([self._classified(sample.here, sample.operator, g, generator)], {}, spread)
        rows = [self._searched(sample.here, self.refine, number, generator) for number in range(self.starts)]
        return Found(rows, {}, spread)

    def _searched(self, here: LocalLoss, refine: Refiner, number: int, generator: torch.Generator) -> Row:
        low, high = self.noise
        share = float(torch.rand((), generator=generator, dtype=torch.float64))
        deviation = low if low == high else float(low ** (1 - share) * high**share)
        away = deviation * torch.randn(here.size, generator=generator, dtype=torch.float64)

        def around(displacement: torch.Tensor) -> LocalLoss:
            return here.elsewhere(here.moved(displacement.to(here.device, here.dtype)))

        def gradient(displacement: torch.Tensor) -> torch.Tensor:
            return around(displacement).gradient()

        def hessian(displacement: torch.Tensor) -> LinearOperator:
            return self.operator.at(around(displacement))

        begin = away.to(here.device, here.dtype)
        found = refine.search(gradient, hessian, begin, self.gradient_tolerance)
        there = around(found.theta)
        operator = self.operator.at(there)
        g = there.gradient()
        row = self._classified(there, operator, g, generator)
        norm = row["gradient_norm"]
        accepted = norm <= self.gradient_tolerance
        bend = float(torch.linalg.vector_norm(operator @ g))
        size = max(abs(row["lambda_min"]), abs(row["lambda_max"])) * norm
        return row | {
            "start": number,
            "noise": deviation,
            "iterations": found.iterations,
            "accepted": accepted,
            "flat": not accepted and bend < FLAT * size,
            "moved": float(torch.linalg.vector_norm(found.theta)),
        }

    def _classified(
        self, here: LocalLoss, operator: LinearOperator, g: torch.Tensor, generator: torch.Generator
    ) -> Row:
        loss = here.value()
        norm = float(torch.linalg.vector_norm(g))
        found = self._whole(operator) if operator.size <= self.exact else self._estimated(operator, generator)
        low, high = found["lambda_min"], found["lambda_max"]
        cutoff, critical = found["cutoff"], norm <= self.gradient_tolerance
        strict, rising = low < -cutoff, high > cutoff
        # a count is a whole number, an estimate of it is not
        degenerate = True if found["zero_low"] > 0.5 else False if found["zero_high"] < 0.5 else None
        kind = "minimum" if not strict else "saddle" if rising or degenerate is not False else "maximum"
        accuracy = self.gradient_tolerance if self.accuracy is None else self.accuracy
        theory = None
        if critical and here.size == here.landscape.size:
            theory = here.landscape.known.theory(here.theta, loss, found["negative"])
        return {
            "loss": loss,
            "gradient_norm": norm,
            **found,
            "index": found["negative"],
            "expected_index": None if theory is None else theory.index,
            "expected_loss": None if theory is None else theory.loss,
            "kind": kind if critical else "not critical",
            "strict": strict,
            "degenerate": degenerate,
            "second_order": norm <= accuracy and low >= -((self.hessian_lipschitz * accuracy) ** 0.5),
            "whole": operator.size <= self.exact,
        }

    def _cutoff(self, low: float, high: float) -> float:
        return max(self.zero * max(abs(low), abs(high)), SMALLEST)

    def _whole(self, operator: LinearOperator) -> Row:
        """All eigenvalues, of the matrix made symmetric; they are off by its rounding."""
        matrix = operator @ torch.eye(operator.size, dtype=operator.dtype, device=operator.device)
        if not bool(matrix.isfinite().all()):
            raise ArithmeticError("a product with the operator is not finite")
        values = torch.linalg.eigvalsh((matrix + matrix.T) / 2).double().cpu().numpy()
        error = float(torch.linalg.matrix_norm(matrix - matrix.T)) / 2 + 1e-15 * float(np.abs(values).max())
        cutoff = self._cutoff(float(values[0]), float(values[-1]))
        counts = {
            "negative": int((values < -cutoff).sum()),
            "zero": int((np.abs(values) <= cutoff).sum()),
            "positive": int((values > cutoff).sum()),
        }
        every = {f"{name}{end}": float(n) for name, n in counts.items() for end in ("", "_low", "_high")}
        ends = _ends(values[0], error, values[-1], error)
        return {**ends, **every, "cutoff": cutoff, "spectrum": values.tolist()}

    def _estimated(self, operator: LinearOperator, generator: torch.Generator) -> Row:
        krylov = Krylov(operator, direction(operator, generator))
        ends = lanczos(krylov, 1, 1, TOLERANCE, BUDGET, generator, operator.room)
        low, high = float(ends.bottom.values[0]), float(ends.top.values[0])
        cutoff = self._cutoff(low, high)
        nodes = density(operator, self.steps, self.vectors, generator, None, None)
        rules = tuple(Rule(nodes.node[nodes.vector == v], nodes.weight[nodes.vector == v]) for v in range(self.vectors))
        spread = SpectralDensity(operator.size, np.empty(0), rules)
        shares = {
            "negative": spread.mass(high=-cutoff),
            "zero": spread.mass(-cutoff, cutoff),
            "positive": spread.mass(low=cutoff),
        }
        counts = {
            f"{name}{end}": operator.size * part
            for name, share in shares.items()
            for end, part in zip(("", "_low", "_high"), Share(*share), strict=True)
        }
        errors = float(ends.bottom.bounds[0]), float(ends.top.bounds[0])
        return {**_ends(low, errors[0], high, errors[1]), **counts, "cutoff": cutoff}


def _ends(low: float, low_error: float, high: float, high_error: float) -> Row:
    return {
        "lambda_min": float(low),
        "lambda_min_error": low_error,
        "lambda_max": float(high),
        "lambda_max_error": high_error,
    }
