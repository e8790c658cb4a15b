"""What the third and fourth derivative say of a critical point where the second leaves open what it is.

Let H have no negative eigenvalue (else -f is looked at; where H = 0, both), N be its kernel and R the rest. Near the
point f is, in other coordinates, the quadratic form of R beside a function of N alone (the splitting lemma), which
along a unit vector v of N is

    g(t) = T(v,v,v) t^3 / 6 + [Q(v,v,v,v) - 3 T(v,v,.)_R' H_R^-1 T(v,v,.)_R] t^4 / 24 + ...,

T and Q the third and fourth derivative of f. So T(v,v,v) != 0 makes a saddle, whatever else there is; with T = 0 on N a
negative fourth coefficient makes one where H has a positive eigenvalue, and a minimum takes a positive one along every
direction of N. That is a question of one number in one dimension and of five in two; in more, directions are tried, and
what these do not prove stays open. A valley whose floor is flat has g = 0 and stays open too.

Derivatives are differences of products H(theta + s v) v, and a number counts where its term is `SURE` times all that
it could be mistaken for at some distance: the gradient and the eigenvalues that were taken for zero, the other term,
and the errors, which the same differences of a lower order tell.

Source: Gromoll & Meyer 1969, section 2, for the splitting lemma; Fornberg 1988, table 1, for the differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

Finding = Literal["minimum", "maximum", "saddle"]
Product = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # a displacement s v and v, (P,): H(theta + s v) v

LENGTHS = (1e-3, 1e-2, 1e-1)  # of the displacements; the shortest that decides counts, being the most local
SHORTER = tuple(10.0**-n for n in range(5))  # shares of a displacement at which terms are compared
SURE = 10.0  # times everything else
ROUNDING = 64.0  # epsilons of the norm: the error of a product; sums over thousands of terms were below 20
TRIES = 8  # directions of a kernel of three dimensions or more; a cubic form has zeros in a set of measure zero
ANGLES = 5  # directions of a plane that tell a quartic form on it, which has five coefficients
FINE = 720  # angles at which that form is then looked at; it turns over four times at the most


class Along(NamedTuple):
    """The Taylor coefficients of g along a direction, and what they are uncertain by."""

    first: float  # |gradient . v|
    second: float  # |v' H v|
    third: float
    third_error: float
    fourth: float
    fourth_error: float
    response: float  # |x| t^2 is how far the rest moves along with t v; beyond t itself the expansion says nothing

    def cubic(self, t: float) -> bool:
        """Whether the third derivative decides at a distance t."""
        others = self._below(t) + self.third_error * t**3 / 6 + (abs(self.fourth) + self.fourth_error) * t**4 / 24
        return abs(self.third) * t**3 / 6 > SURE * others

    def quartic(self, t: float) -> bool:
        """Whether the fourth does."""
        others = self._below(t) + (abs(self.third) + self.third_error) * t**3 / 6 + self.fourth_error * t**4 / 24
        return self.response * t <= 1 and abs(self.fourth) * t**4 / 24 > SURE * others

    def _below(self, t: float) -> float:
        return self.first * t + self.second * t**2 / 2


@dataclass(frozen=True)
class Kernel:
    """The kernel of the Hessian at a critical point, and what is known of the rest."""

    product: Product
    unit: float  # of the displacements: how large parameters are
    gradient: torch.Tensor  # (P,)
    vectors: torch.Tensor  # (P, K) orthonormal: the kernel, or some of it
    whole: bool  # whether it is all of it
    rest: torch.Tensor  # (P, M) eigenvectors of the other eigenvalues; none where these are not known
    values: torch.Tensor  # (M,) their eigenvalues
    scale: float  # the largest |eigenvalue|
    rising: bool  # whether an eigenvalue is positive
    falling: bool  # or negative; not both

    def kind(self, generator: torch.Generator) -> Finding | None:
        """What the point is; None where third and fourth derivatives do not decide it.

        Costs four products at four other points, and one here, for each direction and length: at the most 15 for a
        kernel of one dimension, 75 for two and 120 for more.
        """
        for length in LENGTHS:
            found = self._at(length * self.unit, generator)
            if found is not None:
                return found
        return None

    def _at(self, length: float, generator: torch.Generator) -> Finding | None:
        seen: list[Along] = []
        for v in self._directions(generator):
            seen.append(self._along(v, length))
            if any(seen[-1].cubic(t) for t in self._distances(length)):
                return "saddle"
        dimension = self.vectors.shape[1]
        signs = {self._sign(along, length) for along in (_everywhere(seen) if dimension == 2 else seen)}
        if (-1.0 in signs and (self.rising or 1.0 in signs)) or (1.0 in signs and self.falling):
            return "saddle"
        if not self.whole or dimension > 2:
            return None
        return "minimum" if signs == {1.0} else "maximum" if signs == {-1.0} else None

    def _distances(self, length: float) -> list[float]:
        return [2 * length * share for share in SHORTER]

    def _sign(self, along: Along, length: float) -> float | None:
        """Of the fourth coefficient, where it decides."""
        sure = any(along.quartic(t) for t in self._distances(length))
        return math.copysign(1.0, along.fourth) if sure else None

    def _directions(self, generator: torch.Generator) -> torch.Tensor:
        """Unit vectors (D, P) of the kernel."""
        dimension = self.vectors.shape[1]
        if dimension == 1:
            return self.vectors.T
        if dimension == 2:
            angles = math.pi / ANGLES * torch.arange(ANGLES, dtype=torch.float64)
            weights = torch.stack([angles.cos(), angles.sin()])
        else:
            weights = torch.randn(dimension, TRIES, generator=generator, dtype=torch.float64)
            weights = weights / torch.linalg.vector_norm(weights, dim=0)
        return (self.vectors @ weights.to(self.vectors)).T

    def _along(self, v: torch.Tensor, h: float) -> Along:
        zero, ahead, behind, far_ahead, far_behind = (self.product(s * h * v, v) for s in (0.0, 1.0, -1.0, 2.0, -2.0))
        # of order h^4, and of order h^2 for the error
        third = (8 * (ahead - behind) - (far_ahead - far_behind)) / (12 * h)
        fourth = (16 * (ahead + behind) - (far_ahead + far_behind) - 30 * zero) / (12 * h * h)
        coarse = ((ahead - behind) / (2 * h), (ahead + behind - 2 * zero) / (h * h))
        largest = max(float(p.abs().max()) for p in (ahead, behind, far_ahead, far_behind))
        rounding = ROUNDING * torch.finfo(v.dtype).eps * max(self.scale, largest)
        errors = [float(torch.linalg.vector_norm(a - b)) for a, b in zip((third, fourth), coarse, strict=True)]
        third_error, fourth_error = errors[0] + 1.5 * rounding / h, errors[1] + 5.4 * rounding / (h * h)
        t = self.rest.T @ third
        solved = t / self.values
        moved = self.gradient @ (self.rest @ solved)  # by which v'Hv is off, for the gradient left along the rest
        return Along(
            first=abs(float(self.gradient @ v)),
            second=abs(float(zero @ v)) + abs(float(moved)) + rounding,
            third=float(third @ v),
            third_error=third_error,
            fourth=float(fourth @ v) - 3 * float(t @ solved),
            fourth_error=fourth_error
            + 3 * float((2 * t.abs() * third_error + third_error**2).div(self.values.abs()).sum()),
            response=float(torch.linalg.vector_norm(solved)) / 2,
        )


def _everywhere(seen: list[Along]) -> list[Along]:
    """What five directions of a plane tell of all its directions: the least and the largest fourth coefficient.

    A quartic form on a plane has the harmonics 0, 2 and 4 of the angle, which five equidistant angles determine.
    """
    angles = math.pi / ANGLES * torch.arange(ANGLES, dtype=torch.float64)

    def harmonics(at: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.ones_like(at), *(f(n * at) for n in (2, 4) for f in (torch.cos, torch.sin))], 1)

    found = torch.tensor([along.fourth for along in seen], dtype=torch.float64)
    everywhere = harmonics(torch.linspace(0, math.pi, FINE, dtype=torch.float64)) @ torch.linalg.solve(
        harmonics(angles), found
    )
    # the five numbers' errors add up at an angle by a factor below 3, and a cubic form has no more than four numbers
    worst = {
        name: 3 * max(abs(getattr(along, name)) for along in seen)
        for name in ("first", "second", "third", "third_error", "fourth_error", "response")
    }
    return [Along(fourth=float(end), **worst) for end in (everywhere.min(), everywhere.max())]
