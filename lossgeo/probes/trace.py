"""The trace of an operator."""

from __future__ import annotations

import math
from typing import ClassVar, Self, final

import torch
from pydantic import Field, model_validator

from lossgeo.curvature.sample import Sample
from lossgeo.curvature.spectral.lanczos import Eigenpairs, lanczos
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.trace import Method, trace
from lossgeo.landscapes.landscape import Memory
from lossgeo.probes._curvature import KNOWN_TOLERANCE, CurvatureProbe, Found
from lossgeo.tables import Column

OVER_EXAMPLES = 8  # vectors whose quadratic forms are taken example by example
QUANTILE = 1.96


@final
class Trace(CurvatureProbe):
    """tr A with its standard error over the random vectors and, on a sample, over the examples.

    With `deflate: K` the K largest eigenpairs are found first and taken out: a few outliers carry most of the variance.
    At the same step as an `eigenvalues` probe with `start: random` their products are shared and cost nothing more.

    Cost: at most `vectors` products, and those that finding the eigenpairs takes; on a sample, eight quadratic forms
    example by example.
    """

    method: Method = Field(
        default="auto",
        description="the estimator; auto: deflated, or hutchinson where products are few; exact replaces them where "
        "`vectors` covers all dimensions",
    )
    vectors: int = Field(default=32, ge=2, le=100_000, description="products at the most")
    deflate: int = Field(default=0, ge=0, le=1000, description="how many of the largest eigenpairs to take out first")
    tolerance: float = Field(default=0.01, ge=0, lt=1, description="stop once stderr / |trace| is this small")

    columns: ClassVar[tuple[Column, ...]] = (
        Column("method", "string", "", "the estimator"),
        Column("value", "float", "unit", "estimate of the trace"),
        Column("stderr", "float", "unit", "standard error over the random vectors"),
        Column("data_stderr", "float", "unit", "standard error over examples; null: these are all"),
        Column("low", "float", "unit", "lower end of the 95% interval, over vectors, examples and draws"),
        Column("high", "float", "unit", "upper end of the 95% interval, over vectors, examples and draws"),
        Column("converged", "bool", "", "whether the standard error met the tolerance"),
        Column("squares", "float", "unit^2", "estimate of the trace of A^2, the squared Frobenius norm"),
        Column("squares_stderr", "float", "unit^2", "its standard error over the random vectors"),
        Column("squares_low", "float", "unit^2", "lower end of the 95% interval, over vectors alone"),
        Column("squares_high", "float", "unit^2", "upper end of the 95% interval; null: of too few vectors"),
        Column("draws_stderr", "float", "unit", "standard error over the operator's own draws; null: none"),
    )

    @model_validator(mode="after")
    def _taken_out_of_something(self) -> Self:
        if self.deflate and self.method not in ("auto", "deflated"):
            raise ValueError(f"method {self.method!r} takes no eigenpairs out; set deflate: 0, or method: deflated")
        return self

    def spectrum(self, sample: Sample, memory: Memory, generator: torch.Generator) -> Found:
        operator = sample.operator
        known: Eigenpairs | None = None
        if self.deflate:
            krylov = sample.random_krylov(generator)
            known = lanczos(
                krylov, self.deflate, 0, KNOWN_TOLERANCE, operator.size, generator, sample.room
            ).top.only_converged()
        estimate = trace(operator, self.method, self.vectors, self.tolerance, generator, known)
        over_examples, of_examples = None, 0.0
        if self.data_error and not sample.whole and operator.contributions is not None:
            signs = torch.randint(0, 2, (min(self.vectors, OVER_EXAMPLES), operator.size), generator=generator)
            signs = (2 * signs - 1).to(operator.device, operator.dtype)
            of_signs = operator.contributions(signs)
            of_trace = of_signs._replace(forms=of_signs.forms.mean(0, keepdim=True))
            over_examples, of_examples = float(of_trace.stderr(sample.left)[0]), float(of_trace.aside(sample.left)[0])
        over_draws = self._over_draws(sample.operator, estimate.method, generator)
        aside = math.hypot(of_examples, QUANTILE * (over_draws or 0.0))
        below, above = estimate.value - estimate.low, estimate.high - estimate.value
        row = {
            "method": estimate.method,
            "value": estimate.value,
            "stderr": estimate.stderr,
            "data_stderr": over_examples,
            "low": _known(estimate.value - (below**2 + aside**2) ** 0.5),
            "high": _known(estimate.value + (above**2 + aside**2) ** 0.5),
            "converged": estimate.converged,
            "squares": estimate.squares,
            "squares_stderr": estimate.squares_stderr,
            "squares_low": _known(estimate.squares_low),
            "squares_high": _known(estimate.squares_high),
            "draws_stderr": over_draws,
        }
        unknown = 0.0 if sample.whole else float("inf")
        spread = unknown if over_examples is None else over_examples / max(abs(estimate.value), 1e-300)
        return Found([row], {}, spread)

    def _over_draws(self, operator: LinearOperator, method: str, generator: torch.Generator) -> float | None:
        """The standard error of the trace over the draws that the operator is made of; None where there are none.

        By K random signs z. The variance of the mean of their forms z'Az has that of each in it over K, which is not
        the trace's but theirs: (K Var mean - mean of the Var) / (K - 1) is the trace's, without bias. Where every
        dimension is taken, the sum over unit vectors is the trace.
        """
        if operator.sampling is None:
            return None
        if method == "exact" and operator.size <= self.vectors:
            units = torch.eye(operator.size, dtype=operator.dtype, device=operator.device)
            return float(operator.sampling(units, torch.ones(1, operator.size))[0])
        signs = torch.randint(0, 2, (OVER_EXAMPLES, operator.size), generator=generator)
        signs = (2 * signs - 1).to(operator.device, operator.dtype)
        # the mean of the forms, and each of them
        sums = torch.cat([torch.full((1, OVER_EXAMPLES), 1 / OVER_EXAMPLES), torch.eye(OVER_EXAMPLES)])
        of_mean, *of_each = operator.sampling(signs, sums).square().tolist()
        each = sum(of_each) / OVER_EXAMPLES
        return math.sqrt(max(0.0, (OVER_EXAMPLES * of_mean - each) / (OVER_EXAMPLES - 1)))


def _known(end: float) -> float | None:
    return end if math.isfinite(end) else None
