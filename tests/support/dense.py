"""Every operator as a dense matrix, by a route that shares nothing with lossgeo's.

The loss is written out again. The outputs go through torch.func, forward mode where lossgeo uses reverse mode twice,
over all examples at once; batch norm and attention are arithmetic. B of the Gauss-Newton matrix is autograd's second
derivative of the loss by the outputs, and Fisher's mean over targets goes through all of them.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.finite_difference import FiniteDifference
from lossgeo.curvature.operators.fisher import Fisher
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.curvature.operators.gradient_covariance import GradientCovariance
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.operators.ntk import NTK
from lossgeo.curvature.operators.preconditioned import Preconditioned
from lossgeo.landscapes.landscape import Landscape
from tests.support.networks import Slower


class WrittenOutNorm(nn.Module):
    """Batch norm by the batch's own statistics, or layer norm, as arithmetic.

    torch 2.13's own layers cannot be the oracle here: their forward-over-reverse derivatives are wrong, batch norm's in
    training mode and layer norm's in any. The Hessians come out unsymmetric, off by 3% and 12%, where central
    differences agree with reverse-over-reverse to 4e-10.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm | nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.last = -len(norm.normalized_shape) if isinstance(norm, nn.LayerNorm) else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.last is None:
            over, shape = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
        else:
            over, shape = tuple(range(self.last, 0)), self.weight.shape
        centered = x - x.mean(over, keepdim=True)
        scale = (centered**2).mean(over, keepdim=True) + self.eps
        return centered / scale.sqrt() * self.weight.view(shape) + self.bias.view(shape)


def written_out(module: nn.Module, batch_norm: str) -> nn.Module:
    """The module with such norms in it replaced, parameters in the same order."""
    for name, child in module.named_children():
        by_statistics = isinstance(child, nn.modules.batchnorm._BatchNorm) and batch_norm == "batch"
        if by_statistics or isinstance(child, nn.LayerNorm):
            setattr(module, name, WrittenOutNorm(child))
        else:
            written_out(child, batch_norm)
    return module


@contextmanager
def written_out_attention() -> Iterator[None]:
    """softmax(q k' / sqrt(d)) v as arithmetic, for torch's kernels have no forward-mode derivative."""

    def attention(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
    ) -> torch.Tensor:
        assert dropout_p == 0
        scores = q @ k.mT / q.shape[-1] ** 0.5
        if is_causal:
            later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, -1e300)
        if attn_mask is not None:
            scores = scores + attn_mask
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        return weights / weights.sum(-1, keepdim=True) @ v

    kernel, fast = nn.functional.scaled_dot_product_attention, torch.backends.mha.get_fastpath_enabled()
    nn.functional.scaled_dot_product_attention = attention
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = kernel
        torch.backends.mha.set_fastpath_enabled(fast)


class Dense:
    """The derivatives of a landscape at theta (default: its start) over its training examples, in float64.

    Frozen parameters have zero derivatives. Sizes: N examples with R rows of C outputs in all, P parameters.
    """

    def __init__(self, landscape: Landscape, batch_norm: str = "eval", theta: torch.Tensor | None = None) -> None:
        module = copy.deepcopy(landscape.module).double().eval()
        self.module = written_out(module, batch_norm)
        self.theta = (landscape.start() if theta is None else theta).detach().double()
        self.shapes = {name: p.shape for name, p in module.named_parameters()}
        self.sizes = [p.numel() for p in module.parameters()]
        self.learns = torch.cat([torch.full((p.numel(),), p.requires_grad) for p in module.parameters()])
        self.buffers = {name: b.detach().clone() for name, b in module.named_buffers()}
        self.inputs = landscape.train.inputs.double() if landscape.task.vocabulary is None else landscape.train.inputs
        self.targets = landscape.train.targets
        self.n = len(self.targets)
        self.squares = self.targets.is_floating_point()
        # of every row (R,): what its cost counts; of every example (N,): its share of the mean
        self.weights = self._weights(getattr(landscape.loss, "class_weights", None))
        self.total = self.weights.sum()
        self.shares = self.weights.view(self.n, -1).sum(1) / self.total

    def positions(self, names: Sequence[str]) -> torch.Tensor:
        """Where the parameters of a block stand among all."""
        starts = [0, *itertools.accumulate(self.sizes)]
        where = dict(zip(self.shapes, itertools.pairwise(starts), strict=True))
        return torch.cat([torch.arange(*where[name]) for name in names])

    # --- the loss, written out ---------------------------------------------------------------------------------------

    def outputs(self, theta: torch.Tensor) -> torch.Tensor:
        theta = torch.where(self.learns, theta, self.theta)
        pieces = zip(self.shapes.items(), theta.split(self.sizes), strict=True)
        parameters = {name: piece.reshape(shape) for (name, shape), piece in pieces}
        return functional_call(self.module, (parameters, self.buffers), (self.inputs,))

    def _weights(self, class_weights: Sequence[float] | None) -> torch.Tensor:
        if self.squares:
            return torch.ones(self.targets[..., 0].numel(), dtype=torch.float64)
        y = self.targets.flatten()
        of_class = torch.tensor(class_weights or [1.0] * 100, dtype=torch.float64)
        return torch.where(y < 0, 0.0, of_class[y.clamp(min=0)])

    def costs_of_outputs(self, f: torch.Tensor) -> torch.Tensor:
        """Every example's part of the mean loss (N,)."""
        if self.squares:
            rows = ((f - self.targets) ** 2 / 2).sum(-1)
        else:
            log_p = f - f.exp().sum(-1, keepdim=True).log()
            rows = -log_p.flatten(0, -2)[torch.arange(len(self.weights)), self.targets.flatten().clamp(min=0)]
        return (rows.flatten() * self.weights).view(self.n, -1).sum(1) / self.total

    def costs(self, theta: torch.Tensor) -> torch.Tensor:
        return self.costs_of_outputs(self.outputs(theta))

    def loss(self, theta: torch.Tensor) -> torch.Tensor:
        return self.costs(theta).sum()

    # --- derivatives -------------------------------------------------------------------------------------------------

    @cached_property
    def gradient(self) -> torch.Tensor:
        with written_out_attention():
            return grad(self.loss)(self.theta)

    @cached_property
    def gradients(self) -> torch.Tensor:
        """Of every example's part of the mean loss (N, P)."""
        with written_out_attention():
            return jacrev(self.costs)(self.theta)

    @cached_property
    def jacobian(self) -> torch.Tensor:
        """(R, C, P)"""
        with written_out_attention():
            jacobian = jacfwd(self.outputs)(self.theta)
        return jacobian.flatten(0, -3)

    @cached_property
    def f(self) -> torch.Tensor:
        with written_out_attention(), torch.no_grad():
            return self.outputs(self.theta)

    def bent(self, vectors: torch.Tensor) -> torch.Tensor:
        """Of every example, v'A_i v (K, N) for A the Hessian: the second derivative of its cost along v."""

        def along(v: torch.Tensor) -> torch.Tensor:
            def slope(theta: torch.Tensor) -> torch.Tensor:
                return jvp(self.costs, (theta,), (v,))[1]

            return jvp(slope, (self.theta,), (v,))[1]

        with written_out_attention():
            return torch.stack([along(v) for v in vectors])

    def third(self, direction: torch.Tensor) -> torch.Tensor:
        """d^3/dt^3 of the gradient (P,) along a direction."""
        derivative: Callable[[torch.Tensor], torch.Tensor] = grad(self.loss)
        for _ in range(3):
            derivative = self._along(derivative, direction)
        with written_out_attention():
            return derivative(self.theta)

    @staticmethod
    def _along(function: Callable[[torch.Tensor], torch.Tensor], v: torch.Tensor) -> Callable[..., torch.Tensor]:
        return lambda theta: jvp(function, (theta,), (v,))[1]

    def products(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """H v and G v, where the matrices would be too large."""
        v = torch.where(self.learns, v, 0.0)
        with written_out_attention():
            bent = jvp(grad(self.loss), (self.theta,), (v,))[1]
            f, tangents = jvp(self.outputs, (self.theta,), (v,))
            slope = grad(lambda f: self.costs_of_outputs(f).sum())
            (pulled,) = vjp(self.outputs, self.theta)[1](jvp(slope, (f,), (tangents,))[1])
        return bent, pulled

    # --- operators ---------------------------------------------------------------------------------------------------

    @cached_property
    def hessian(self) -> torch.Tensor:
        with written_out_attention():
            return hessian(self.loss)(self.theta).detach()

    @cached_property
    def output_curvature(self) -> torch.Tensor:
        """B (R, C, R, C)"""
        rows = self.f.flatten(0, -2).shape
        return hessian(lambda f: self.costs_of_outputs(f.view(self.f.shape)).sum())(self.f.reshape(rows))

    @cached_property
    def gauss_newton(self) -> torch.Tensor:
        half = torch.tensordot(self.output_curvature, self.jacobian, 2)
        return torch.tensordot(self.jacobian, half, ([0, 1], [0, 1]))

    @cached_property
    def fisher_slopes(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For every target that the model can draw: its probability (Y, R), and the slope (Y, R, C) at it.

        The normal law has a continuum of them, but slopes are linear in the deviation: signs have its two moments.
        """
        f = self.f.flatten(0, -2)
        if self.squares:
            signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=f.shape[1])), dtype=torch.float64)
            return torch.full((len(signs), len(f)), 1 / len(signs)).double(), signs[:, None].expand(-1, len(f), -1)

        def cost(f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return f.exp().sum().log() - f[y]

        classes = torch.arange(f.shape[1])
        slopes = torch.stack([vmap(grad(cost), (0, None))(f, y) for y in classes])
        return (f - f.exp().sum(1, keepdim=True).log()).exp().T, slopes

    @cached_property
    def fisher(self) -> torch.Tensor:
        p, slopes = self.fisher_slopes
        scores = torch.einsum("yrc,rcp->yrp", slopes, self.jacobian)
        return torch.einsum("yr,yrp,yrq->pq", p * self.weights / self.total, scores, scores)

    @cached_property
    def ntk(self) -> torch.Tensor:
        return self.kernel(torch.arange(len(self.theta)))

    def kernel(self, block: torch.Tensor) -> torch.Tensor:
        rows = self.jacobian[..., block].flatten(0, 1)
        return rows @ rows.T / len(self.jacobian)

    @cached_property
    def moment(self) -> torch.Tensor:
        """Uncentered: sum of s_i g_i g_i', where `gradients` are s_i g_i."""
        counting = self.shares > 0
        g = self.gradients[counting]
        return g.T @ (g / self.shares[counting, None])

    @cached_property
    def covariance(self) -> torch.Tensor:
        counting = self.shares > 0
        g = self.gradients[counting] / self.shares[counting, None] - self.gradients.sum(0)
        return g.T @ (g * self.shares[counting, None])


# --- every operator ---------------------------------------------------------------------------------------------------

# both routes are float64 and differ by the order of their sums over hundreds of terms: 1e-15 to 1e-14 was seen
ROUNDING = 1e-12
# central differences with h = 6e-6 |theta|: the third derivative times h^2 / 6, seen up to 3e-9 (batch statistics), and
# rounding over h; test_operators tests the error itself
DIFFERENCES = 1e-7


@dataclass(frozen=True)
class Case:
    """An operator, its dense matrix, and what each example adds to v'Av (K, N) for v in (K, P)."""

    operator: Operator
    matrix: Callable[[Dense], torch.Tensor] | None = None
    forms: Callable[[Dense, torch.Tensor], torch.Tensor] | None = None
    tolerance: float = ROUNDING


def scale(dense: Dense) -> torch.Tensor:
    return Slower.diagonal(len(dense.theta)).rsqrt()


def scaled(dense: Dense, matrix: torch.Tensor) -> torch.Tensor:
    return scale(dense)[:, None] * matrix * scale(dense)


def along(dense: Dense, vectors: torch.Tensor) -> torch.Tensor:
    """The rows of J v, (K, R, C)."""
    return torch.einsum("rcp,kp->krc", dense.jacobian, vectors)


def by_example(dense: Dense, rows: torch.Tensor) -> torch.Tensor:
    return rows.view(len(rows), dense.n, -1).sum(2)


def gauss_newton_forms(dense: Dense, vectors: torch.Tensor) -> torch.Tensor:
    B = torch.einsum("rcrd->rcd", dense.output_curvature)
    tangents = along(dense, vectors)
    return by_example(dense, torch.einsum("krc,rcd,krd->kr", tangents, B, tangents))


def fisher_forms(dense: Dense, vectors: torch.Tensor) -> torch.Tensor:
    p, slopes = dense.fisher_slopes
    scores = torch.einsum("yrc,krc->kyr", slopes, along(dense, vectors))
    return by_example(dense, (scores**2 * p * dense.weights / dense.total).sum(1))


def moment_forms(dense: Dense, vectors: torch.Tensor, center: bool = False) -> torch.Tensor:
    counting = dense.shares > 0
    values = torch.zeros(len(vectors), dense.n, dtype=torch.float64)
    values[:, counting] = vectors @ (dense.gradients[counting] / dense.shares[counting, None]).T
    mean = vectors @ dense.gradients.sum(0)
    return dense.shares * (values - mean[:, None] * center) ** 2


CASES: dict[str, Case] = {
    "hessian": Case(Hessian(), lambda d: d.hessian, Dense.bent),
    "gauss_newton": Case(GaussNewton(), lambda d: d.gauss_newton, gauss_newton_forms),
    "fisher": Case(Fisher(), lambda d: d.fisher, fisher_forms),
    # by chance, so that its values have tests of their own; what holds for every operator holds for it too
    "fisher, sampled": Case(Fisher(draws=3)),
    "gradient_covariance": Case(
        GradientCovariance(), lambda d: d.covariance, lambda d, v: moment_forms(d, v, center=True)
    ),
    "gradient_covariance, uncentered": Case(GradientCovariance(centered=False), lambda d: d.moment, moment_forms),
    "ntk": Case(NTK(), lambda d: d.ntk),
    "preconditioned": Case(Preconditioned(), lambda d: scaled(d, d.hessian), lambda d, v: Dense.bent(d, v * scale(d))),
    "preconditioned gauss_newton": Case(
        Preconditioned(of=GaussNewton()),
        lambda d: scaled(d, d.gauss_newton),
        lambda d, v: gauss_newton_forms(d, v * scale(d)),
    ),
    "finite_difference": Case(FiniteDifference(), lambda d: d.hessian, tolerance=DIFFERENCES),
}
