"""What the two probes of critical points share: the kind of a point, and the columns that tell it.

Strict and degenerate are two flags, not two ends of one scale. diag(1, -1, 0) has a negative eigenvalue, so that it is
a strict saddle, and a zero one, so that it is degenerate.
"""

from __future__ import annotations

from typing import ClassVar, Self, final

import numpy as np
import torch
from pydantic import Field, model_validator

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.finite_difference import FiniteDifference
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.spectral.extremes import Extremes, extremes, inertia
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.slq import density
from lossgeo.curvature.spectral.spectral_density import Rule, Share, SpectralDensity
from lossgeo.probes._curvature import CurvatureProbe
from lossgeo.tables import DECAY, Column, Row

SMALLEST = 1e-10  # an eigenvalue below it is zero, however small the largest is
TOLERANCE = 1e-6  # of the extreme eigenvalues where the whole spectrum is not computed
BUDGET = 1000  # products for these


class CriticalPointProbe(CurvatureProbe):
    """A probe of the Hessian that says what kind of point it is at: a row a point of the table `critical_points`.

    An eigenvalue is zero up to `zero` times the largest |lambda|. kind is minimum (none negative), maximum (none
    positive, none zero) or saddle, where the gradient norm is within `gradient_tolerance`; else not critical. strict:
    at least one is negative; degenerate: at least one is zero. second_order: |g| <= accuracy and lambda_min >=
    -sqrt(hessian_lipschitz accuracy), an approximate second-order stationary point.

    Up to `exact` parameters the whole spectrum is computed. Beyond, the ends are found by Lanczos and the counts
    estimated by quadrature, with 95% intervals; kind and flags then follow the ends, and degenerate is null where the
    interval leaves it open.
    """

    gradient_tolerance: float = Field(default=1e-5, gt=0, description="gradient norm up to which a point is critical")
    zero: float = Field(default=1e-6, gt=0, lt=1, description="share of the largest |lambda| up to which one is zero")
    exact: int = Field(
        default=2500, ge=0, le=20_000, description="parameters up to which the spectrum is computed whole"
    )
    steps: int = Field(default=80, ge=2, le=10_000, description="beyond: Lanczos steps a vector")
    vectors: int = Field(default=4, ge=1, le=10_000, description="beyond: random start vectors")
    accuracy: float | None = Field(default=None, gt=0, description="eps of second_order; null: gradient_tolerance")
    hessian_lipschitz: float = Field(default=1.0, gt=0, description="rho of second_order")

    columns: ClassVar[tuple[Column, ...]] = (
        Column("start", "int", "", "number of the search, from 0; null: the point itself"),
        Column("noise", "float", "parameter", "deviation of the displacement that the search began with"),
        Column("iterations", "int", "", "of the search"),
        Column("accepted", "bool", "", "whether the search ended at a critical point; null: there was none"),
        Column("flat", "bool", "", "not accepted, with H g close to zero though g is not"),
        Column("moved", "float", "parameter", "distance from the point of the trajectory to where the search ended"),
        Column("loss", "float", "loss", f"over the measured examples{DECAY}"),
        Column("gradient_norm", "float", "loss / parameter", f"Euclidean, over the group of parameters{DECAY}"),
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

    @classmethod
    def table_name(cls) -> str:
        return "critical_points"

    @model_validator(mode="after")
    def _of_the_hessian(self) -> Self:
        if not isinstance(self.operator, Hessian | FiniteDifference):
            raise ValueError(f"{self.operator.component_name()} does not say what kind of point it is: use hessian")
        return self

    @final
    def exacting(self) -> bool:
        return True  # zero is told from small

    @final
    def classified(self, here: LocalLoss, operator: LinearOperator, g: torch.Tensor, generator: torch.Generator) -> Row:
        """What kind of point it is at, g being its gradient (P,) and `operator` its Hessian.

        Costs a product for each parameter up to `exact`; else steps x vectors, and what the ends take.
        """
        loss, norm = here.value(), float(torch.linalg.vector_norm(g))
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

    def _cutoff(self, ends: Extremes) -> float:
        return max(self.zero * ends.scale, SMALLEST)

    def _whole(self, operator: LinearOperator) -> Row:
        """All eigenvalues, of the matrix made symmetric; they are off by its rounding."""
        columns = operator.columns()
        if not bool(columns.isfinite().all()):
            raise ArithmeticError("a product with the operator is not finite")
        values = torch.linalg.eigvalsh((columns + columns.T) / 2).double().cpu().numpy()
        error = float(torch.linalg.matrix_norm(columns - columns.T)) / 2 + 1e-15 * float(np.abs(values).max())
        ends = Extremes(float(values[0]), error, float(values[-1]), error)
        cutoff = self._cutoff(ends)
        counts = inertia(values, cutoff)._asdict()
        every = {f"{name}{end}": float(n) for name, n in counts.items() for end in ("", "_low", "_high")}
        return {**_of_ends(ends), **every, "cutoff": cutoff, "spectrum": values.tolist()}

    def _estimated(self, operator: LinearOperator, generator: torch.Generator) -> Row:
        ends = extremes(operator, generator, TOLERANCE, BUDGET)
        cutoff = self._cutoff(ends)
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
        return {**_of_ends(ends), **counts, "cutoff": cutoff}


def _of_ends(ends: Extremes) -> Row:
    return {
        "lambda_min": ends.low,
        "lambda_min_error": ends.low_error,
        "lambda_max": ends.high,
        "lambda_max_error": ends.high_error,
    }
