"""Whether autograd's second derivatives are derivatives of its first ones: asked once for a landscape and a mode.

A layer may get its gradient right and the gradient's derivative wrong, without an error: a fused kernel of torch's, a
custom function that is differentiable once or keeps an intermediate on ctx, a value that was detached. The product with
the Hessian is then another map, often no symmetric one. Checks, on a few of the examples, in float64:

    (g(theta + h u) - g(theta - h u)) / 2h = H u      for the Hessian, u random
    (f(theta + h u) - f(theta - h u)) / 2h = J u      for the outputs f
    w . J u = u . J'w                                 for the Jacobian, exact but for rounding

The point is taken close to theta, where no kink lies by construction, and a mismatch has to come back a second time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch

from lossgeo.curvature.culprit import culprit
from lossgeo.curvature.differences import ASYMMETRY, against_differences, mismatched, size
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.landscapes.flat_module import moderate, near, relative
from lossgeo.landscapes.rehearsal import CANNOT, handful
from lossgeo.landscapes.task import Examples

VECTORS = 12  # that the checks hold at once
ADJOINT = 1e-8  # of |u| |J v|: sums in another order
SEEN = 0.01  # of a gradient, up to which float32 may be off and still sees it
SATURATED = 10.0  # times ROUNDING, of what a relative change does


def require_hessian(here: LocalLoss) -> None:
    """Refuse products with a Hessian that is not the derivative of the gradient.

    Cost: once for a landscape and a mode, three passes of 8 examples where the product agrees; 17 more before it is
    refused, and some for each layer. Where nothing shows, as in a saturated network, up to nine; where not even with
    moderate weights, as for a Hessian of zero, the next point is asked again.

    Raises:
        ValueError: names the layer.
    """
    here.landscape.once(("hessian", here.mode), lambda: _held(here, _hessian_is_wrong))


def require_adjoint(here: LocalLoss) -> None:
    """Refuse products with the Jacobian of the outputs that do not belong to those with its transpose.

    Cost: once for a landscape and a mode, a pass of 8 examples; more before it is refused, as for the Hessian.

    Raises:
        ValueError: names the layer.
    """
    here.landscape.once(("adjoint", here.mode), lambda: _held(here, _adjoint_is_wrong))


def require_jacobian(here: LocalLoss) -> None:
    """Refuse products with a Jacobian that is not the derivative of the outputs, as where a gradient is made up.

    Cost: once for a landscape and a mode, three passes of 8 examples; more before it is refused.

    Raises:
        ValueError: names the layer.
    """
    here.landscape.once(("jacobian", here.mode), lambda: _held(here, _jacobian_is_wrong))


def require_curved_loss(here: LocalLoss) -> None:
    """Refuse a loss whose second derivative by the outputs is not the derivative of its first.

    Cost: once for a landscape and a mode, a pass of 8 examples.

    Raises:
        ValueError: names the loss.
    """
    here.landscape.once(("loss", here.mode), lambda: _held(here, _loss_is_wrong))


def _held(here: LocalLoss, is_wrong: Callable[[LocalLoss, int], bool | None]) -> float:
    """1.0 where nothing is wrong; NaN where it cannot be told, as where the loss is not finite."""
    theta = here.theta
    # differences hold a dozen vectors
    affordable = VECTORS * 8 * here.theta.numel() <= here.memory
    try:
        for precision in (torch.float64, here.dtype) if affordable else (here.dtype,):
            wrong = None
            try:
                for tried in _close(here, precision):
                    wrong = is_wrong(tried, 0)
                    if wrong is not None:
                        break
                wrong = wrong and is_wrong(tried, 1)
            except CANNOT as error:
                if "deriv" in str(error) or "differentia" in str(error):
                    found = culprit(tried) or "some layer"
                    raise ValueError(
                        f"autograd has no second derivative of {found} ({str(error).partition(chr(10))[0][:120]}): use "
                        "`operator: finite_difference`, or write the layer in other operations"
                    ) from error
                if precision == here.dtype:
                    return math.nan  # the measurement itself will say what it is
                continue
            if wrong:
                found = culprit(tried) or "no layer shows it on its own"
                raise ValueError(
                    f"autograd's second derivative is not that of the gradient, by differences: {found}; a custom "
                    "function that is differentiable once, keeps an intermediate on ctx or detaches a value does this: "
                    "write its backward in differentiable operations on ctx.saved_tensors, or use `operator: "
                    "finite_difference`"
                )
            return math.nan if wrong is None else 1.0
    finally:
        here.landscape.flat.go_to(theta)
    return math.nan


def _close(here: LocalLoss, precision: torch.dtype) -> Iterator[LocalLoss]:
    """Over a few examples: close to the point; at it; and, where neither told, with weights at which layers are bent.

    A trained network may be right to the last digit about all of the few, or saturated by them, and then nothing shows.
    """
    flat, theta, few = here.landscape.flat, here.theta, handful(here.examples)
    yield here.at_few(few, near(theta, flat.sizes, precision))
    yield here.at_few(few, theta.to(precision).clone())
    yield here.at_few(few, near(moderate(theta, flat.shapes), flat.sizes, precision))


# --- the checks ------------------------------------------------------------------------------------------------------


def _hessian_is_wrong(here: LocalLoss, seed: int) -> bool | None:
    (piece, share), *_ = here.pieces()

    def value() -> torch.Tensor:
        return share * here.loss.mean(here.landscape.module(piece.inputs), piece.targets)

    with here.measuring(here.theta), torch.enable_grad():
        return mismatched(value, list(here.learning), seed, lambda: _floors(here, seed))


def _floors(here: LocalLoss, seed: int) -> list[float]:
    """The size that rounding is to be compared to, by parameter; infinite where float32 does not see the gradient.

    Two things count: the parameter's own gradient, as if nothing in it canceled, and what a relative change of any
    parameter does. A saturated tanh has the slope 1 - 1, some units of rounding that no difference repeats: beside a
    slope of 1 it is nothing.
    """
    exact = _summands(here, seed)
    try:
        rough = _summands(here.at_few(here.examples, here.theta.float()), seed)
    except CANNOT:
        rough = exact
    finally:
        here.landscape.flat.go_to(here.theta)
    scales = [size(p) or math.sqrt(p.numel()) for p in here.learning]  # of `relative`
    most = SATURATED * max((scale * size(g) for scale, g in zip(scales, exact, strict=True)), default=0.0)
    seen = [size(e - r.to(e)) <= SEEN * size(e) for e, r in zip(exact, rough, strict=True)]
    return [
        max(size(g), most / scale) if told else math.inf for scale, g, told in zip(scales, exact, seen, strict=True)
    ]


def _summands(here: LocalLoss, seed: int) -> list[torch.Tensor]:
    (piece, _), *_ = here.pieces()
    with here.measuring(here.theta):
        outputs = here.landscape.module(piece.inputs)
        found = torch.autograd.grad(outputs, here.learning, _slopes(here, outputs, seed), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g.clone() for p, g in zip(here.learning, found, strict=True)]


def _slopes(here: LocalLoss, outputs: torch.Tensor, seed: int) -> torch.Tensor:
    """Derivatives of a mean by outputs, of the size they have where target and output do not cancel."""
    signs = torch.randint(0, 2, outputs.shape, generator=torch.Generator().manual_seed(seed))
    return (2 * signs - 1).to(outputs) / max(here.total, 1.0)


def _pushed(here: LocalLoss, stream: torch.Generator) -> tuple[Examples, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The examples, their outputs with the graph, a random vector v (P,) and J v, like the outputs."""
    (piece, _), *_ = here.pieces()
    outputs = here.outputs(piece.inputs)
    dummy = torch.zeros_like(outputs, requires_grad=True)
    pulled = here.derivatives((outputs,), (dummy,), graph=True)
    pieces = [relative(p.detach(), stream) for p in here.learning]
    (pushed,) = here.derivatives(pulled, pieces, keep=True, by=(dummy,))
    vector = here.flat(tuple(pieces))
    return piece, outputs, vector, torch.zeros_like(outputs) if pushed is None else pushed


def _adjoint_is_wrong(here: LocalLoss, seed: int) -> bool | None:
    stream = torch.Generator().manual_seed(seed)
    _, outputs, vector, pushed = _pushed(here, stream)
    cotangent = torch.randn(outputs.shape, generator=stream, dtype=torch.float64).to(outputs)
    one = float((cotangent * pushed).sum())
    other = float((here.flat(here.derivatives((outputs,), (cotangent,))) * vector).sum())
    if not math.isfinite(one + other):
        return None
    apart, scale = abs(one - other), max(abs(one), abs(other), size(pushed) * size(cotangent))
    # a layer that computes in float32 is no wrong one: between the two it has to be found
    slack = ADJOINT if here.dtype == torch.float64 else ASYMMETRY
    return apart > ASYMMETRY * scale or (apart > slack * scale and culprit(here) is not None)


def _jacobian_is_wrong(here: LocalLoss, seed: int) -> bool | None:
    if here.dtype != torch.float64:
        return False
    piece, outputs, vector, pushed = _pushed(here, torch.Generator().manual_seed(seed))
    del outputs
    return against_differences([pushed], lambda h: [here.outputs(piece.inputs, here.theta + h * vector).detach()])


def _loss_is_wrong(here: LocalLoss, seed: int) -> bool | None:
    if here.dtype != torch.float64:
        return False
    (piece, _), *_ = here.pieces()
    outputs = here.outputs(piece.inputs).detach()
    along = relative(outputs, torch.Generator().manual_seed(seed))
    product = here.loss.hvp(outputs, piece.targets, along)
    return against_differences(
        [product],
        lambda h: [here.loss.gradient(outputs + h * along, piece.targets)[1]],
        lambda: [size(_slopes(here, outputs, seed))],
    )
