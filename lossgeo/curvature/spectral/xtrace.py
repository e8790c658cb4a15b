"""XTrace: every vector is sampled outside the images of all the others, and so serves both ends.

Its own error estimate, the deviation of the leave-one-out estimates over sqrt(k), takes them for independent. Rms error
over that estimate | share of 95% intervals that hold the truth, 400 runs a cell (tests/bench/bench_trace.py):

    products                       8           12           20           30           60
    four outliers and a bulk  1.2 | 94%    1.1 | 94%    1.1 | 95%    1.0 | 97%    1.1 | 92%
    flat                      1.0 | 94%    1.0 | 96%    1.0 | 96%    1.0 | 96%    1.1 | 92%
    one eigenvalue            1.2 | 86%    1.3 | 84%    1.2 | 82%    1.1 | 86%    1.2 | 87%
    decaying                  1.2 | 94%    1.1 | 94%    1.4 | 86%    1.4 | 84%    1.6 | 80%

So where the spectrum decays, as where XTrace is at its best, the error is larger than it says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from lossgeo.curvature.spectral.krylov import direction, dot, orthogonal, require_symmetric
from lossgeo.curvature.spectral.linear_operator import LinearOperator


class LeaveOneOut(NamedTuple):
    """Estimates of tr A and tr A^2 without each of k vectors in turn; a single pair of them where they are `exact`."""

    traces: np.ndarray  # (k,)
    squares: np.ndarray  # (k,)
    products: int
    exact: bool  # the images span the range of A


def leave_one_out(operator: LinearOperator, vectors: int, generator: torch.Generator) -> Iterator[LeaveOneOut]:
    """After each of `vectors` vectors w_i, uniform over directions, with |w_i|^2 = P:

    t_i = tr Q_i A Q_i' + (P - k + 1) u'Au / |u|^2,  where Q_i spans the images A w_j, j != i, and u = (I - Q_i'Q_i) w_i

    Cost: two products a vector; three vectors of memory for each, and fewer of them where `operator.room` is less.
    Source: Epperly, Tropp & Webber 2024, "XTrace", with their normalization of the vectors; tr A^2 the same way.

    Raises:
        ArithmeticError: the operator returned a non-finite vector, or is not symmetric.
    """
    size = operator.size
    limit = min(vectors, size, size if operator.room is None else max(2, operator.room // 3))
    w = q = z = torch.empty(0, size, dtype=operator.dtype, device=operator.device)  # z holds A q
    r, t, x, g = (np.empty((0, 0)) for _ in range(4))  # QY', QAQ', QW', ZZ' with Y = AW
    forms = np.empty(0)  # w'Aw
    for k in range(1, limit + 1):
        drawn = direction(operator, generator) * math.sqrt(size)
        y = operator @ drawn
        row = new_direction(y, q)
        if row is None:
            yield LeaveOneOut(np.array([np.trace(t)]), np.array([np.trace(g)]), 2 * k - 1, True)
            return
        image = operator @ row
        forms = np.append(forms, dot(drawn, y))
        w, q, z = (torch.cat([a, b[None]]) for a, b in ((w, drawn), (q, row), (z, image)))
        r = _bordered(r, q @ y, torch.zeros(k))
        t = _bordered(t, q @ image, q @ image)
        if k > 1:
            crossed = float((z[:-1] @ row - (q @ image)[:-1]).abs().max())
            require_symmetric(operator, crossed, float(torch.linalg.vector_norm(z, dim=1).max()))
        x = _bordered(x, q @ drawn, w @ row)
        g = _bordered(g, z @ image, z @ image)
        if not np.isfinite(r[:, -1].sum() + g[:, -1].sum()):
            raise ArithmeticError("a product with the operator is not finite")
        if k == size:
            yield LeaveOneOut(np.array([np.trace(t)]), np.array([np.trace(g)]), 2 * k, True)
        else:
            yield LeaveOneOut(*_estimates(r, t, x, g, forms, size), 2 * k, False)


def _estimates(
    r: np.ndarray, t: np.ndarray, x: np.ndarray, g: np.ndarray, forms: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """All of them from k x k matrices.

    Q_i'Q_i = Q'(I - s s')Q with s the i-th column of R^-T, normalized: it is orthogonal to the images of the others. So
    u = w - Q'h with h = (I - s s') Q w.
    """
    s = np.linalg.inv(r).T
    s /= np.linalg.norm(s, axis=0)
    h = x - s * (s * x).sum(0)
    share = (size - len(r) + 1) / (size - (h**2).sum(0))
    form = forms - 2 * (h * r).sum(0) + (h * (t @ h)).sum(0)  # u'Au
    square = (r**2).sum(0) - 2 * (h * (t @ r)).sum(0) + (h * (g @ h)).sum(0)  # |Au|^2
    traces = np.trace(t) - (s * (t @ s)).sum(0) + share * form
    squares = np.trace(g) - (s * (g @ s)).sum(0) + share * square
    return traces, squares


def new_direction(image: torch.Tensor, basis: torch.Tensor) -> torch.Tensor | None:
    """The unit vector of an image's part outside the basis; None where that part is rounding.

    Raises:
        ArithmeticError: the image is not finite.
    """
    before = float(torch.linalg.vector_norm(image))
    if not math.isfinite(before):
        raise ArithmeticError("a product with the operator is not finite")
    rest = orthogonal(image, basis)
    norm = float(torch.linalg.vector_norm(rest))
    if norm <= 10 * torch.finfo(image.dtype).eps * before:
        return None
    rest = orthogonal(rest / norm, basis)
    return rest / float(torch.linalg.vector_norm(rest))


def _bordered(matrix: np.ndarray, column: torch.Tensor, row: torch.Tensor) -> np.ndarray:
    """The matrix with one column and one row more; the corner is the column's."""
    right, below = column.double().cpu().numpy(), row.double().cpu().numpy()
    return np.block([[matrix, right[:-1, None]], [below[None, :-1], right[None, -1:]]])
