"""The rows of a Lanczos run within a limit on memory, and across the parts that it has.

A Krylov space is used as it is for as long as it goes on, since others use it too. A restart needs its memory, so the
space then gives it up; a new part works on a copy where there is room for one.

A part is what one start vector leads to. A second one begins where the first can lead no further, because its space is
invariant, or where it need not, because its pairs are locked: a Krylov space holds one copy of each eigenvalue, and the
others are found from a fresh vector orthogonal to what is there.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from lossgeo.curvature.spectral.krylov import BLOCK, Krylov, combine, direction, outside, reserved, step

SPARE = 3  # rows beyond the wanted pairs, without which a restart has nowhere to go
SPREAD = 8.0  # asymmetries, the largest of a step, in the rounding of a product; see `LinearOperator.rounding`
COLUMNS = 1 << 16  # of the basis at a time, where a restart writes its rows over the old ones


class Ritz(NamedTuple):
    """What M rows know of an operator."""

    values: np.ndarray  # (M,) ascending
    residuals: np.ndarray  # (M,) without the rounding of products
    components: np.ndarray  # (M,) of the present part's start vector along the Ritz vectors
    leaks: np.ndarray  # (M,) couplings of the present part's Ritz vectors to the row that would come next
    present: np.ndarray  # (M,) bool: of the present part
    weights: np.ndarray  # (M, M), columns: the Ritz vectors' coordinates in the rows
    rounding: float  # what a product may be off by
    full: bool  # the rows span everything, so that the pairs are exact
    later: bool  # the present part is not the first

    def unseen(self, value: float) -> float:
        """How large a component along an eigenvector of that eigenvalue the present part's start vector can have.

        With c the eigenvector's coordinates in the part's rows and d that in the row that would come next, x c = T c +
        d arm, so that the component s . c of the start vector s is

            b  =  d s (x - T)^-1 arm,    |d| <= 1,        or, over the Ritz vectors,  |b| <= |sum s_i a_i / (x - t_i)|.

        It falls geometrically with the steps where x is outside the Ritz values, as for the next Lanczos polynomial p
        |b| <= 1 / |p(x)|. Products that are off by `rounding` add as much times |s (x - T)^-1|.

        Source: Kuczynski & Wozniakowski 1992 bound by the steps alone what is known here by the Ritz values.
        """
        s, a = self.components[self.present], self.leaks[self.present]
        if not a.any():
            return 0.0
        distances = value - self.values[self.present]
        distances = np.where(distances == 0.0, np.finfo(np.float64).tiny, distances)
        shares = s / distances
        with np.errstate(over="ignore", invalid="ignore"):
            found = abs(float(shares @ a)) + self.rounding * float(np.linalg.norm(shares))
        return found if found < 1.0 else 1.0


class Space:
    """The rows and the small matrix V A V': those of a Krylov space, until a restart or a new part needs its own."""

    def __init__(self, krylov: Krylov, top: int, bottom: int, room: int, capped: bool) -> None:
        self.top, self.bottom = top, bottom
        self.rows = 0
        self.part = 0  # the row where the present part begins
        self.coupling = np.inf  # of the last row to what is outside; 0: nothing is
        self._krylov = krylov
        self._operator = krylov.operator
        self._room = room
        self._capped = capped
        self._own: torch.Tensor | None = None
        self._next = krylov.known[:0]
        self._small = np.zeros((0, 0))
        self._arm = np.zeros(0)  # couplings of the rows to the next one
        self._start = np.ones(1)  # coordinates of the present part's start vector
        self._left = np.zeros(0)  # residuals of the finished parts' rows
        self.asymmetry = 0.0  # the largest that a step has seen; see `Krylov`
        krylov.reserve(room if capped else 0)

    @property
    def basis(self) -> torch.Tensor:
        return (self._krylov.basis if self._own is None else self._own)[: self.rows]

    @property
    def full(self) -> bool:
        """Whether the rows span everything, so that the pairs are exact."""
        return self.rows + len(self._krylov.known) == self._operator.size

    def grow(self, generator: torch.Generator) -> None:
        """One row more, for one product; the Krylov space's as long as that goes on."""
        if self._own is None and self.coupling > 0.0 and self.rows < self._room:
            self.rows += 1
            if self._krylov.steps < self.rows:
                self._krylov.extend()
            self.coupling = self._krylov.beta[self.rows - 1]
            self.asymmetry = max(self.asymmetry, self._krylov.asymmetry[self.rows - 1])
            return
        own = self._taken_over() if self._own is None else self._own
        if self.rows == self._room:
            self._restart(own)
        if self.coupling == 0.0:
            self._next = outside(direction(self._operator, generator), torch.cat([self.basis, self._krylov.known]))
            crossed = np.linalg.norm(self._small[: self.part, self.part :], axis=0)
            self._left = np.append(self._left, crossed)
            self.part = self.rows
            self._arm = np.zeros(self.rows)
            self._start = np.append(np.zeros(self.rows), 1.0)
        if self.rows == len(own):
            self._own = own = reserved(own, min(self.rows + BLOCK, self._room))
        own[self.rows] = self._next
        self.rows += 1
        norm = float(np.abs(self._small).max())
        couplings = np.flatnonzero(self._arm)  # none where a part begins; to many rows where a restart has mixed them
        before = float(self._arm[-1]) if couplings.tolist() == [self.rows - 2] else None
        taken = step(self._operator, own[: self.rows], self._krylov.known, norm, before)
        self.coupling, self._next = taken.beta, taken.following
        if before is not None:
            self.asymmetry = max(self.asymmetry, taken.crossed(slice(self.part, None)))
        arm = self._arm.copy()
        arm[: self.part] = taken.couplings[: self.part].double().cpu().numpy()
        self._small = np.block([[self._small, arm[:, None]], [arm, taken.alpha]])
        self._arm = np.append(np.zeros(self.rows - 1), self.coupling)
        self._start = np.append(self._start, np.zeros(self.rows - len(self._start)))

    def lock(self, ritz: Ritz, chosen: np.ndarray) -> None:
        """Keep the chosen Ritz vectors alone, as a finished part; the next row begins another one.

        The Krylov space stays as it is, but where there is no room for it beside as many rows again.
        """
        if self._own is None and self._capped and 2 * self.rows > self._room:
            self._taken_over()
        self._compress(ritz, chosen)
        self._left = ritz.residuals[chosen]
        self._start = np.zeros(self.rows)
        self.part = self.rows
        self.coupling = 0.0

    def ritz(self) -> Ritz:
        weights = np.zeros((self.rows, self.rows))
        if self._own is None:
            values, weights = self._krylov.ritz(self.rows)
            present = np.ones(self.rows, dtype=bool)
            left = np.zeros(self.rows)
            arm = self.coupling * weights[-1]
        else:  # finished parts and the present one are solved apart, so that no Ritz vector mixes them
            blocks = [slice(0, self.part), slice(self.part, self.rows)]
            if self.full:  # nothing is left outside, and what couples them no longer an error
                blocks = [slice(0, self.rows)]
            solved = [np.linalg.eigh(self._small[block, block]) for block in blocks]
            for block, (_, columns) in zip(blocks, solved, strict=True):
                weights[block, block] = columns
            values = np.concatenate([of_block for of_block, _ in solved])
            order = np.argsort(values, kind="stable")
            values, weights = values[order], weights[:, order]
            present = (weights[self.part :] != 0.0).any(0)
            # only copies mix here, and those of different parts, whose residuals have nothing in common
            left = np.where(present, 0.0, np.sqrt(self._left**2 @ weights[: self.part] ** 2))
            crossed = self._small[: self.part, self.part :] @ weights[self.part :]
            left += np.where(present, np.linalg.norm(crossed, axis=0), 0.0)
            if self.full:
                left = np.zeros(self.rows)
            arm = self._arm @ weights
        components = self._start @ weights[: len(self._start)]
        norm = float(np.abs(values).max())
        rounding = self._operator.rounding(norm) + SPREAD * self.asymmetry
        residuals = np.hypot(arm, left)
        return Ritz(values, residuals, components, arm, present, weights, rounding, self.full, self.part > 0)

    def _taken_over(self) -> torch.Tensor:
        """Rows of our own: the Krylov space's, which gives them up where there is no room for a copy."""
        alpha, beta = self._krylov.alpha[: self.rows], self._krylov.beta[: self.rows - 1]
        self._small = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
        self._arm = np.append(np.zeros(self.rows - 1), self.coupling)
        self._start = np.append(1.0, np.zeros(self.rows - 1))
        if self.rows == self._room or (self._capped and 2 * self.rows > self._room):
            self._own, self._next = self._krylov.release(self.rows)
        else:
            self._own = reserved(self._krylov.basis[: self.rows], self.rows + BLOCK)
        return self._own

    def _restart(self, own: torch.Tensor) -> None:
        """Replace the rows by the wanted Ritz vectors and half as many more as there is room for, over the old ones.

        Both ends of the present part stay among them, since they are to say whether it holds a missing copy.
        """
        ritz = self.ritz()
        more = (self._room - self.top - self.bottom - (2 if self.part else 0)) // 2
        at_bottom = 0 if not self.bottom else more // 2 if self.top else more
        kept = np.zeros(self.rows, dtype=bool)
        kept[: self.bottom + at_bottom] = True
        kept[self.rows - self.top - (more - at_bottom) :] = True
        if self.part:
            kept[np.flatnonzero(ritz.present)[[0, -1]]] = True
        chosen = np.concatenate([np.flatnonzero(kept & ~ritz.present), np.flatnonzero(kept & ritz.present)])
        arm, left = ritz.leaks[chosen], ritz.residuals[chosen]
        start = self._start @ ritz.weights[:, chosen]
        self._compress(ritz, chosen)
        self.part = int((kept & ~ritz.present).sum())
        self._arm, self._start, self._left = arm, start, left[: self.part]

    def _compress(self, ritz: Ritz, chosen: np.ndarray) -> None:
        """The chosen Ritz vectors as rows, written over the old ones where these are our own."""
        weights = ritz.weights[:, chosen]
        if self._own is None:
            self._own = combine(weights, self._krylov.basis[: self.rows])
            self._small = np.diag(ritz.values[chosen])
        else:
            for columns in torch.split(self._own, COLUMNS, dim=1):
                columns[: len(chosen)] = combine(weights, columns[: self.rows])
            self._small = weights.T @ self._small @ weights
        self.rows = len(chosen)
