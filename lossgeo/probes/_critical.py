"""What the two probes of critical points share: the kind of a point, and the columns that tell it.

Strict and degenerate are two flags, not two ends of one scale. diag(1, -1, 0) has a negative eigenvalue, so that it is
a strict saddle, and a zero one, so that it is degenerate.
"""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple, Self, final

import numpy as np
import torch
from pydantic import Field, model_validator

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.finite_difference import FiniteDifference
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.spectral.extremes import Extremes, inertia
from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.lanczos import Ends, lanczos
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.slq import density
from lossgeo.curvature.spectral.spectral_density import Rule, SpectralDensity
from lossgeo.probes._counts import Counts
from lossgeo.probes._curvature import CurvatureProbe
from lossgeo.probes._fingerprint import fingerprint
from lossgeo.probes._kernel import ROUNDING, TRIES, Kernel
from lossgeo.tables import DECAY, Column, Row

SMALLEST = 1e-10  # an eigenvalue below it is zero, however small the largest is
TOLERANCE = 1e-6  # of the extreme eigenvalues where the whole spectrum is not computed
BUDGET = 1000  # products for these


class CriticalPointProbe(CurvatureProbe):
    """A probe of the Hessian that says what kind of point it is at: a row a point of the table `critical_points`.

    An eigenvalue is zero up to `zero` times the largest |lambda|. Where the gradient norm is within
    `gradient_tolerance`, kind is saddle (one is negative, one positive), minimum (all positive) or maximum (all
    negative). Else the point is degenerate, unless third and fourth derivatives along the zero ones decide: a cubic
    term along one of them makes a saddle, a quartic one of the right sign a saddle or, with at most two zero ones, a
    minimum or maximum. A flat floor stays degenerate. strict: at least one is negative; degenerate: at least one is
    zero. second_order: |g| <= accuracy and lambda_min >= -sqrt(hessian_lipschitz accuracy), an approximate
    second-order stationary point.

    Up to `exact` parameters the whole spectrum is computed. Beyond, the ends are found by Lanczos and the counts
    estimated by quadrature, with 95% intervals, as far as the ends do not settle them; kind and flags follow the ends.
    What the interval or an end that has not converged leaves open is null.
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
        Column("index_low", "float", "", "lower end of its 95% interval; the index itself where it was counted"),
        Column("index_high", "float", "", "upper end of its 95% interval; the index itself where it was counted"),
        Column("expected_index", "float", "", "by theory for a critical point like this one; null: none is known"),
        Column("expected_loss", "float", "loss", "of the known critical point that this one is compared with"),
        Column("cutoff", "float", "loss / parameter^2", "|lambda| up to which an eigenvalue counts as zero"),
        Column("kind", "string", "", "minimum, maximum, saddle, degenerate or not critical; null: an end is not known"),
        Column("strict", "bool", "", "at least one eigenvalue is negative"),
        Column("degenerate", "bool", "", "at least one eigenvalue is zero"),
        Column("second_order", "bool", "", "an approximate second-order stationary point"),
        Column("whole", "bool", "", "whether the whole spectrum was computed; else counts are estimates"),
        Column("spectrum", "floats", "loss / parameter^2", "all eigenvalues, ascending, where it was"),
        Column("function", "floats", "", "of a critical point: sums by which it is told from others, up to symmetry"),
        Column("function_error", "float", "", "how far a step of Newton's moves them; null: there is no spectrum"),
        Column("origin", "floats", "", "the same sums where the search began, before any noise"),
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

        Costs a product for each parameter up to `exact`; else steps x vectors, and what the ends take. Where only
        higher derivatives can tell, up to 96 products at other points.
        """
        loss, norm = here.value(), float(torch.linalg.vector_norm(g))
        critical = norm <= self.gradient_tolerance
        found = self._whole(operator) if operator.size <= self.exact else self._estimated(operator, generator)
        ends, cutoff, counts = found.ends, found.cutoff, found.counts
        accuracy = self.gradient_tolerance if self.accuracy is None else self.accuracy
        row = {
            "loss": loss,
            "gradient_norm": norm,
            "lambda_min": ends.low,
            "lambda_min_error": ends.low_error,
            "lambda_max": ends.high,
            "lambda_max_error": ends.high_error,
            "cutoff": cutoff,
            **counts.columns(),
            "kind": "not critical",
            "strict": counts.some("negative"),
            "degenerate": counts.some("zero"),
            "second_order": norm <= accuracy and ends.low >= -((self.hessian_lipschitz * accuracy) ** 0.5),
            "whole": found.values is not None,
            "spectrum": None if found.values is None else found.values.tolist(),
        }
        if not critical:
            return row
        theory = None
        if here.size == here.landscape.size:
            theory = here.landscape.known.theory(here.theta, loss, counts.negative.value)
        numbers = fingerprint(here, here.theta)
        further = None if found.values is None else fingerprint(here, here.moved(-found.newton(g)))
        return row | {
            "expected_index": None if theory is None else theory.index,
            "expected_loss": None if theory is None else theory.loss,
            "kind": self._kind(here, operator, g, found, generator),
            "function": numbers.tolist(),
            "function_error": None if further is None else float((further - numbers).abs().max()),
        }

    def _kind(
        self, here: LocalLoss, operator: LinearOperator, g: torch.Tensor, found: Spectrum, generator: torch.Generator
    ) -> str | None:
        """By the signs of the eigenvalues, and where these leave it open by higher derivatives."""
        falling, flat, rising = (found.counts.some(sign) for sign in ("negative", "zero", "positive"))
        if falling and rising:
            return "saddle"
        if falling is None or rising is None or flat is None:
            return None
        if not flat:
            return "minimum" if rising else "maximum"

        def product(displacement: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            if not bool(displacement.any()):
                return operator @ v
            return self.operator.at(here.elsewhere(here.moved(displacement))) @ v

        kernel = Kernel(
            product,
            max(1.0, float(here.theta.abs().max())),
            g,
            found.vectors[:, found.zero],
            found.values is not None,
            found.vectors[:, ~found.zero],
            found.of_vectors[~found.zero],
            found.ends.scale,
            rising,
            falling,
        )
        return kernel.kind(generator) or "degenerate"

    def _cutoff(self, ends: Extremes) -> float:
        return max(self.zero * ends.scale, SMALLEST)

    def _whole(self, operator: LinearOperator) -> Spectrum:
        """All eigenvalues, of the matrix made symmetric; they are off by its rounding."""
        columns = operator.columns()
        if not bool(columns.isfinite().all()):
            raise ArithmeticError("a product with the operator is not finite")
        of_vectors, vectors = torch.linalg.eigh((columns + columns.T) / 2)
        values = of_vectors.double().cpu().numpy()
        error = float(torch.linalg.matrix_norm(columns - columns.T)) / 2 + 1e-15 * float(np.abs(values).max())
        ends = Extremes(float(values[0]), error, float(values[-1]), error)
        cutoff = self._cutoff(ends)
        return Spectrum(ends, cutoff, Counts.counted(*inertia(values, cutoff)), of_vectors, vectors, values)

    def _estimated(self, operator: LinearOperator, generator: torch.Generator) -> Spectrum:
        start = direction(operator, generator)
        tolerance = min(TOLERANCE, self.zero)  # of a cutoff at least a hundredth, FLOOR being what it is
        found = lanczos(Krylov(operator, start), 1, 1, tolerance, BUDGET, generator, operator.room)
        bottom, top = found.bottom, found.top
        nodes = density(operator, self.steps, self.vectors, generator, None, None)
        by_vector = [nodes.vector == v for v in range(self.vectors)]
        every = next((nodes.node[v] for v in by_vector if int(v.sum()) == operator.size), None)
        if every is not None:  # as many steps as there are dimensions: the nodes are the spectrum
            rounding = ROUNDING * torch.finfo(start.dtype).eps * float(np.abs(every).max())
            ends = Extremes(float(every.min()), rounding, float(every.max()), rounding)
            cutoff = self._cutoff(ends)
            counts = Counts.counted(*inertia(every, cutoff))
        else:
            ends = Extremes(
                float(bottom.values[0]), float(bottom.bounds[0]), float(top.values[0]), float(top.bounds[0])
            )
            cutoff = self._cutoff(ends)
            # fewer nodes than steps: the vector's Krylov space ended, and the nodes are all the eigenvalues it reaches
            rules = tuple(Rule(nodes.node[v], nodes.weight[v], int(v.sum()) < self.steps) for v in by_vector)
            shares = SpectralDensity(operator.size, np.empty(0), rules).signs(cutoff)
            counts = Counts.estimated(shares, operator.size, _reached(ends, nodes.node, found, cutoff), cutoff)
        of_vectors = start.new_tensor([ends.low, ends.high])
        vectors = torch.cat([bottom.vectors, top.vectors]).T
        if ends.scale <= cutoff:  # H = 0: both ends may be one vector, and any will do
            anywhere = torch.stack([direction(operator, generator) for _ in range(min(operator.size, TRIES))], 1)
            vectors, of_vectors = torch.linalg.qr(anywhere).Q, start.new_zeros(anywhere.shape[1])
        return Spectrum(ends, cutoff, counts, of_vectors, vectors, None)


def _reached(ends: Extremes, nodes: np.ndarray, found: Ends, cutoff: float) -> Extremes:
    """How far the spectrum reaches, by its ends and by nodes, which lie inside; an error is infinite where none holds.

    It holds of an end that has converged, or is zero as far as matters to a cutoff, and that no node contradicts.
    """
    low, high, slack = float(nodes.min()), float(nodes.max()), 0.01 * cutoff
    low_known, high_known = (bool(end.converged[0]) or end.bounds[0] <= slack for end in (found.bottom, found.top))
    low_known = low_known and low >= ends.low - ends.low_error - slack
    high_known = high_known and high <= ends.high + ends.high_error + slack
    return Extremes(
        min(ends.low, low),
        ends.low_error if low_known else math.inf,
        max(ends.high, high),
        ends.high_error if high_known else math.inf,
    )


class Spectrum(NamedTuple):
    """What is known of the eigenvalues at a point: all of them, or the two ends and counts."""

    ends: Extremes
    cutoff: float
    counts: Counts
    of_vectors: torch.Tensor  # (K,) the eigenvalues of the vectors, ascending
    vectors: torch.Tensor  # (P, K)
    values: np.ndarray | None  # (P,) ascending, float64; None: only the ends are known

    @property
    def zero(self) -> torch.Tensor:
        """Which of the vectors (K,) belong to an eigenvalue that counts as zero."""
        return self.of_vectors.abs() <= self.cutoff

    def newton(self, g: torch.Tensor) -> torch.Tensor:
        """H^+ g (P,), zero eigenvalues left out."""
        shares = torch.where(self.zero, 0.0, 1.0 / torch.where(self.zero, 1.0, self.of_vectors))
        return self.vectors @ (shares * (self.vectors.T @ g))
