"""A Krylov space that grows by one product at a time: what Lanczos, quadrature and deflated traces have in common.

The space is an object that can be carried on with. Whoever asks for 30 steps from a start vector gets the same 30
numbers as whoever asked for 80, so a probe may go on where another one stopped, and what it finds does not depend on
whether it did.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch

from lossgeo.curvature.spectral.linear_operator import LinearOperator

BLOCK = 32  # rows of the basis allocated at a time
UNSYMMETRIC = 1e-3  # of the norm, which rounding does not reach: 2e-5 was the largest seen, in float32
ROUNDINGS = 12  # of a product: softmax and target that cancel were seen to make six of one
ZERO = 1e4  # roundings of numbers of size 1, up to which an operator may be nothing else
SECOND_PASS = 0.7  # Gram-Schmidt again when the norm fell below this share (Daniel et al. 1976); once more is enough


class Krylov:
    """V of orthonormal rows with A V' = V' T + beta r e', T = V A V' tridiagonal, r a unit vector orthogonal to V.

    `basis` (M, P) is V, `alpha` (M,) the diagonal of T, `beta` (M,) the couplings below it: beta[j] belongs to rows j
    and j + 1, and the last one to the vector that would come next; 0 where the space is invariant and nothing would.
    `asymmetry` (M,): the norm of what a product had along rows that a symmetric map does not couple it to. Rounding, as
    it is in this operator at this point, and whatever else makes the map unsymmetric; for an exact one it is 0. With
    `known` (K, P), orthonormal rows, everything happens in their orthogonal complement.

    Full reorthogonalization, because without it converged directions come back as copies of themselves.
    Cost: one product and a pass over the basis a step; M + K vectors of memory, and for a moment twice as
    many whenever M grows past what is reserved.
    Source: Golub & Van Loan, 4th ed., section 10.1 to 10.3; Parlett 1998, chapter 13.

    Raises:
        ValueError: the start vector is zero, not finite, or lies within the known rows.
    """

    def __init__(self, operator: LinearOperator, start: torch.Tensor, known: torch.Tensor | None = None) -> None:
        self.operator = operator
        self.known = start.new_empty(0, operator.size) if known is None else known
        self.alpha: list[float] = []
        self.beta: list[float] = []
        self.asymmetry: list[float] = []
        self.released = False
        self._rows = start.new_empty(0, operator.size)
        self._next = outside(start, self.known)

    @property
    def steps(self) -> int:
        return len(self.alpha)

    @property
    def basis(self) -> torch.Tensor:
        self._refuse_released()
        return self._rows[: self.steps]

    @property
    def invariant(self) -> bool:
        """Whether the space holds everything that the start vector can reach."""
        return bool(self.beta) and self.beta[-1] == 0.0

    def extend(self) -> None:
        """One step more.

        Raises:
            ArithmeticError: the operator returned a non-finite vector, or is not symmetric.
            ValueError: the space is invariant, so that nothing can be added, or its rows have been released.
        """
        self._refuse_released()
        if self.invariant:
            raise ValueError(f"the Krylov space is invariant after {self.steps} steps; no further one exists")
        rows = self.steps + 1
        if rows > len(self._rows):
            self.reserve(rows + BLOCK)
        self._rows[rows - 1] = self._next
        norm = max(map(abs, [*self.alpha, *self.beta]), default=0.0)
        before = self.beta[-1] if self.beta else None
        taken = step(self.operator, self._rows[:rows], self.known, norm, before)
        self._next = taken.following
        self.alpha.append(taken.alpha)
        self.beta.append(taken.beta)
        self.asymmetry.append(taken.crossed(slice(None)))
        require_symmetric(self.operator, self.asymmetry[-1], max(norm, abs(taken.alpha), taken.beta))

    def ritz(self, steps: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (M,), ascending, and eigenvectors (M, M), columns, of T after `steps` steps, in float64."""
        steps = self.steps if steps is None else steps
        if steps == 1:
            return np.array(self.alpha[:1]), np.ones((1, 1))
        values, weights = scipy.linalg.eigh_tridiagonal(self.alpha[:steps], self.beta[: steps - 1])
        return values, weights

    def reserve(self, rows: int) -> None:
        """Allocate that many rows at once, P at the most, so that none of them is copied while the space grows."""
        self._refuse_released()
        if rows > len(self._rows):  # those that are only reserved are not worth a copy
            self._rows = reserved(self._rows[: self.steps], rows)

    def release(self, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows with the basis in the first ones, and the vector that follows `steps` of them; for a restart.

        The memory is handed over to be written into. `alpha`, `beta` and `ritz` stay; the space cannot grow any more.
        """
        self._refuse_released()
        rows, following = self._rows, self._next if steps == self.steps else self._rows[steps].clone()
        self.released = True
        self._rows = self._next = rows.new_empty(0, self.operator.size)
        return rows, following

    def _refuse_released(self) -> None:
        if self.released:
            raise ValueError("a restart has taken this Krylov space's basis; build another one from its start vector")


def require_symmetric(operator: LinearOperator, crossed: float, largest: float, reach: float = 1.0) -> None:
    """Refuse a map for which x'Ay and y'Ax differ by `crossed`, where products have a length of up to `largest`.

    `reach` is how many times the rounding of a product x'Ay may have: 1 for unit vectors, sqrt(P) for signs.

    Raises:
        ArithmeticError: that is more than rounding.
    """
    # an operator that is zero but for rounding is not symmetric either
    zero = ZERO * torch.finfo(operator.dtype).eps
    if crossed > UNSYMMETRIC * largest + reach * (operator.rounding(ROUNDINGS * largest) + zero):
        raise ArithmeticError(
            f"the operator is not symmetric, by {crossed / largest:.1g} of a product: a layer's second derivative is "
            "wrong here"
        )


class Step(NamedTuple):
    """What one product with the last row adds."""

    alpha: float  # its part along that row
    beta: float  # the norm of what is outside all rows
    following: torch.Tensor  # the unit vector of that
    couplings: torch.Tensor  # (M,) with all rows, beside alpha and the one to the row before

    def crossed(self, rows: slice) -> float:
        """The norm of the couplings with some of the rows."""
        return float(torch.linalg.vector_norm(self.couplings[rows]))


def step(operator: LinearOperator, rows: torch.Tensor, known: torch.Tensor, norm: float, before: float | None) -> Step:
    """The product with the last row, taken apart.

    `before` is the coupling of the last row to the one before, where it has one to no other. What the product has
    along these two is taken out first: the pass over all rows then finds only rounding, and need not be repeated.

    beta is 0 where it is no more than the rounding of a product with an operator of `norm` or more, or where nothing is
    outside.

    Raises:
        ArithmeticError: the operator returned a non-finite vector.
    """
    image = operator @ rows[-1]
    alpha = dot(rows[-1], image)
    rest = image - alpha * rows[-1]
    if before is not None:
        rest.add_(rows[-2], alpha=-before)
    rest, couplings = parted(rest, rows)
    rest = orthogonal(rest, known)
    beta = float(torch.linalg.vector_norm(rest))
    if not np.isfinite(alpha + beta):
        raise ArithmeticError("a product with the operator is not finite")
    negligible = 10 * torch.finfo(operator.dtype).eps * max(norm, abs(alpha))
    if beta <= negligible or len(rows) + len(known) >= operator.size:
        return Step(alpha, 0.0, rest, couplings)
    return Step(alpha, beta, rest / beta, couplings)


def reserved(rows: torch.Tensor, count: int) -> torch.Tensor:
    """The rows, with memory for `count` of them, or for as many as there are dimensions."""
    count = min(count, rows.shape[1])
    if count <= len(rows):
        return rows
    # not by torch.cat, which writes into all of it: memory that is only reserved must not be touched
    larger = rows.new_empty(count, rows.shape[1])
    larger[: len(rows)] = rows
    return larger


def dot(a: torch.Tensor, b: torch.Tensor) -> float:
    # torch sums elementwise products pairwise, with an error of 1e-9 where its dot product of 1e7 floats loses 2e-6
    return float((a * b).sum())


def orthogonal(vector: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """The part of a vector orthogonal to the rows of the basis, by classical Gram-Schmidt, twice where needed."""
    return parted(vector, basis)[0] if len(basis) else vector


def parted(vector: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The part orthogonal to the rows of the basis, and what the vector had along them, (M,)."""
    before = float(torch.linalg.vector_norm(vector))
    along = basis @ vector
    vector = torch.addmv(vector, basis.T, along, alpha=-1)
    if float(torch.linalg.vector_norm(vector)) < SECOND_PASS * before:
        vector = torch.addmv(vector, basis.T, basis @ vector, alpha=-1)
    return vector, along


def outside(vector: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """The unit vector of a vector's part orthogonal to the rows of the basis.

    Raises:
        ValueError: there is no such part beyond rounding.
    """
    part = vector
    for _ in range(2):  # the second time on a unit vector, so that a small part is as orthogonal as a large one
        part = orthogonal(part, basis)
        norm = float(torch.linalg.vector_norm(part))
        if not 0.0 < norm < np.inf:
            raise ValueError(f"no direction can start from a vector whose part outside the known ones has norm {norm}")
        part = part / norm
    return part


def direction(operator: LinearOperator, generator: torch.Generator) -> torch.Tensor:
    """A random unit vector (P,), uniform over directions; drawn on the CPU, so that a seed is the same everywhere."""
    drawn = torch.randn(operator.size, generator=generator, dtype=torch.float64)
    drawn /= torch.linalg.vector_norm(drawn)
    return drawn.to(operator.device, operator.dtype)


def combine(weights: np.ndarray, basis: torch.Tensor) -> torch.Tensor:
    """Ritz vectors (K, P) from their coordinates (M, K) in the basis (M, P)."""
    return torch.from_numpy(np.ascontiguousarray(weights.T)).to(basis.device, basis.dtype) @ basis
