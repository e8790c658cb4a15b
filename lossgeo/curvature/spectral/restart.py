"""The rows of a Lanczos run within a limit on memory, and across invariant parts.

A Krylov space is used as it is for as long as it goes on, since others use it too. A restart needs its memory, so the
space then gives it up; a new part works on a copy where there is room for one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from lossgeo.curvature.spectral.krylov import BLOCK, Krylov, combine, direction, outside, reserved, step

SPARE = 3  # rows beyond the wanted pairs, without which a restart has nowhere to go
COLUMNS = 1 << 16  # of the basis at a time, where a restart writes its rows over the old ones


class Ritz(NamedTuple):
    """What M rows know of an operator."""

    values: np.ndarray  # (M,) ascending
    residuals: np.ndarray  # (M,)
    components: np.ndarray  # (M,) of the present part's start vector along the Ritz vectors, absolute
    weights: np.ndarray  # (M, M), columns: the Ritz vectors' coordinates in the rows


class Space:
    """The rows and the small matrix V A V': those of a Krylov space, until a restart or a new part needs its own."""

    def __init__(self, krylov: Krylov, top: int, bottom: int, room: int, capped: bool) -> None:
        self.top, self.bottom = top, bottom
        self.rows = 0
        self.part = 0  # the row where the present invariant part begins
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
            return
        own = self._taken_over() if self._own is None else self._own
        if self.rows == self._room:
            self._restart(own)
        if self.coupling == 0.0:
            self._next = outside(direction(self._operator, generator), torch.cat([self.basis, self._krylov.known]))
            self.part = self.rows
            self._start = np.append(np.zeros(self.rows), 1.0)
        if self.rows == len(own):
            self._own = own = reserved(own, min(self.rows + BLOCK, self._room))
        own[self.rows] = self._next
        self.rows += 1
        norm = float(np.abs(self._small).max())
        couplings = np.flatnonzero(self._arm)  # none where a part begins; to many rows where a restart has mixed them
        before = float(self._arm[-1]) if couplings.tolist() == [self.rows - 2] else None
        alpha, self.coupling, self._next = step(self._operator, own[: self.rows], self._krylov.known, norm, before)
        self._small = np.block([[self._small, self._arm[:, None]], [self._arm, alpha]])
        self._arm = np.append(np.zeros(self.rows - 1), self.coupling)
        self._start = np.append(self._start, np.zeros(self.rows - len(self._start)))

    def ritz(self) -> Ritz:
        weights = np.zeros((self.rows, self.rows))
        if self._own is None:
            values, weights = self._krylov.ritz(self.rows)
        else:  # finished parts and the present one are solved apart, so that no Ritz vector mixes them
            blocks = [slice(0, self.part), slice(self.part, self.rows)]
            solved = [np.linalg.eigh(self._small[block, block]) for block in blocks]
            for block, (_, columns) in zip(blocks, solved, strict=True):
                weights[block, block] = columns
            values = np.concatenate([of_block for of_block, _ in solved])
            order = np.argsort(values, kind="stable")
            values, weights = values[order], weights[:, order]
        components = np.abs(self._start @ weights[: len(self._start)])
        return Ritz(values, self.coupling * np.abs(weights[-1]), components, weights)

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
        inside = (ritz.weights[self.part :] != 0.0).any(0)
        more = (self._room - self.top - self.bottom - (2 if self.part else 0)) // 2
        at_bottom = 0 if not self.bottom else more // 2 if self.top else more
        kept = np.zeros(self.rows, dtype=bool)
        kept[: self.bottom + at_bottom] = True
        kept[self.rows - self.top - (more - at_bottom) :] = True
        if self.part:
            kept[np.flatnonzero(inside)[[0, -1]]] = True
        chosen = np.concatenate([np.flatnonzero(kept & ~inside), np.flatnonzero(kept & inside)])
        weights = ritz.weights[:, chosen]
        for columns in torch.split(own, COLUMNS, dim=1):
            columns[: len(chosen)] = combine(weights, columns[: self.rows])
        self._small = np.diag(ritz.values[chosen])
        self._arm = self.coupling * weights[-1]
        self._start = self._start @ weights
        self.part = int((kept & ~inside).sum())
        self.rows = len(chosen)
