"""What the nodes and weights of a density measurement say about a spectrum, and how surely. No torch.

A random unit vector u in n dimensions weighs every eigenvalue by (u'q)^2; M Lanczos steps see that measure through a
Gauss rule, exact for polynomials of degree 2 M - 1. So a share of the spectrum in an interval has three errors:

vectors     The share over one vector varies by 2 p (1 - p) / (n + 2), that over V of them like a proportion p among
            nu = V (n + 2) / 2 tosses, exactly; the interval is Wilson's. (Student's interval over the 4 vectors of a
            measurement would be 1.6 times as wide, and too short where p is a few eigenvalues: they are skew.)
resolution  Between nodes M steps cannot tell where the mass lies: the rule with a node at the cut bounds it on both
            sides. The bounds are sharp; after summing the nodes instead, cuts near a bulk were wrong by up to 0.3.
examples    Of K disjoint parts, s / sqrt(K) is the standard error of the whole sample. But a share leans: fewer
            examples than parameters leave more eigenvalues at zero and push the others outwards. Mean over parts
            minus sample shows it; taken to fall like examples^-1/2, it is added to the half-width. Of both remains
            what the rest of the population can still change. On digits networks
            of 610 parameters, 8 parts, the interval for |lambda| up to 1% of the largest held the truth over all 1,797
            examples in 85 to 100% of cases at 128 and 512 of them, with s / sqrt(K) alone in 23 to 93%. For the share
            below -1% it was 65 to 100% at 512 and at most 12% at 128, where a sample does not show how far it is off.

As to the second, the value of a share is the middle of its bounds, and the interval is as wide as they are, however
many vectors there are. So where bounds are close it holds the truth in 95% of cases, elsewhere more often. More vectors
help against the first error, more steps against the second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.linalg import eigh_tridiagonal

Vector = NDArray[np.float64]

CONFIDENCE = 0.95
NEGLIGIBLE = 1e-16  # of a weight: less than its rounding error
MEETING = 1e-6  # nodes of several random vectors as close as this, over the largest, are eigenvalues: no others meet


class Share(NamedTuple):
    """A share of the spectrum with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rule:
    """The Gauss rule of one random vector: nodes (M,), ascending, and weights (M,) that sum to 1.

    `exact`: the nodes are all the eigenvalues that the vector can reach, so nothing lies between them.
    """

    nodes: Vector
    weights: Vector
    exact: bool = False

    @cached_property
    def jacobi(self) -> tuple[Vector, Vector]:
        """The tridiagonal matrix T, (M,) and (M - 1,), with these nodes as eigenvalues and e_1 spread by the weights.

        Lanczos on the diagonal matrix of the nodes, fully reorthogonalized. Source: de Boor & Golub 1978.
        """
        kept = self.weights > NEGLIGIBLE
        nodes, start = self.nodes[kept], np.sqrt(self.weights[kept])
        basis = [start / np.linalg.norm(start)]
        alpha: list[float] = []
        beta: list[float] = []
        while True:
            rest = nodes * basis[-1]
            alpha.append(float(rest @ basis[-1]))
            if len(basis) == len(nodes):
                return np.array(alpha), np.array(beta)
            rows = np.array(basis)
            for _ in range(2):
                rest = rest - rows.T @ (rows @ rest)
            beta.append(float(np.linalg.norm(rest)))
            basis.append(rest / beta[-1])

    def below(self, cut: float) -> tuple[float, float]:
        """Sharp bounds of the vector's mass below `cut`: no measure with these moments leaves them, some reach them.

        T with its last diagonal entry changed until `cut` is an eigenvalue is the Gauss-Radau rule with a node there;
        the mass below lies between the sum of its weights before that node and the sum with it.

        Source: Chebyshev-Markov-Stieltjes inequalities, Szego 1939, section 3.41; the rule: Golub 1973.
        """
        if self.exact or math.isinf(cut):
            mass = float(self.weights[self.nodes < cut].sum())
            return mass, mass
        alpha, beta = self.jacobi
        if len(alpha) == 1:
            return 0.0, 1.0
        scale = float(np.ptp(self.nodes)) + abs(cut)
        pivot = alpha[0] - cut  # of the elimination in T - cut, down to its last row
        for diagonal, coupling in zip(alpha[1:-1], beta[:-1], strict=True):
            pivot = diagonal - cut - coupling**2 / (pivot or MEETING**2 * scale)
        if abs(pivot) < MEETING * scale:  # the cut is a node of the rule with one step less
            alpha, beta = alpha[:-1], beta[:-1]
        else:
            alpha = np.append(alpha[:-1], cut + beta[-1] ** 2 / pivot)
        nodes, vectors = eigh_tridiagonal(alpha, beta)
        weights = vectors[0] ** 2
        at = int(np.argmin(np.abs(nodes - cut)))
        low = min(float(weights[:at].sum()), 1.0)
        return low, min(low + float(weights[at]), 1.0)

    def inside(self, low: float, high: float) -> tuple[float, float]:
        """Bounds of the vector's mass in [low, high]."""
        if self.exact:
            mass = float(self.weights[(self.nodes >= low) & (self.nodes <= high)].sum())
            return mass, mass
        (low_least, low_most), (high_least, high_most) = self.below(low), self.below(high)
        return max(high_least - low_most, 0.0), high_most - low_least


@dataclass(frozen=True)
class SpectralDensity:
    """The spectrum of an operator of dimension `size`: eigenvalues that are known, and rules over the rest, if any."""

    size: int
    known: Vector
    rules: tuple[Rule, ...]
    parts: tuple[SpectralDensity, ...] = ()  # over disjoint parts of the examples, where these are not all
    left: float = 1.0  # the share of the population that was not measured; 1 where that has no end

    @staticmethod
    def read(rows: pd.DataFrame | Sequence[Mapping[str, Any]], left: float = 1.0) -> SpectralDensity:
        """From the rows of one measurement, of one group of parameters."""
        columns = pd.DataFrame(rows)
        size = int(columns["size"].iloc[0])
        part, vector = columns["part"].to_numpy(int), columns["vector"].to_numpy(int)
        node, weight = columns["node"].to_numpy(float), columns["weight"].to_numpy(float)
        known = columns["known"].to_numpy(bool)

        def of(number: int, parts: tuple[SpectralDensity, ...] = ()) -> SpectralDensity:
            mine = part == number
            vectors = [mine & (vector == which) for which in np.unique(vector[mine])]
            taken = np.sort(node[vectors[0] & known])
            spectra = [(node[chosen & ~known], weight[chosen & ~known]) for chosen in vectors]
            if all(len(nodes) >= size - len(taken) for nodes, _ in spectra):  # as many steps as there are dimensions
                return SpectralDensity(size, np.sort(np.concatenate([taken, spectra[0][0]])), (), parts, left)
            return SpectralDensity(size, taken, _rules(spectra), parts, left)

        return of(0, tuple(of(number) for number in np.unique(part) if number > 0))

    @property
    def _unknown(self) -> int:
        return self.size - len(self.known)

    @property
    def nodes(self) -> Vector:
        """All nodes, those of every vector, unordered; the largest is an eigenvalue as nearly as any probe finds it."""
        return np.concatenate([self.known, *(rule.nodes for rule in self.rules)])

    def mass(self, low: float = -math.inf, high: float = math.inf) -> Share:
        """The share of the eigenvalues in [low, high]."""
        value, least, most = self._mass(low, high)
        aside = self._over_examples([part._mass(low, high)[0] for part in self.parts], value)
        return Share(
            value,
            max(value - math.hypot(value - least, aside), 0.0),
            min(value + math.hypot(most - value, aside), 1.0),
        )

    def signs(self, cut: float) -> tuple[Share, Share, Share]:
        """The shares below -`cut`, from there to `cut`, both included, and above it; they add up to 1."""
        negative, zero = self.mass(high=math.nextafter(-cut, -math.inf)), self.mass(-cut, cut)
        positive = self.mass(low=math.nextafter(cut, math.inf))
        rest = max(1.0 - negative.value - positive.value, 0.0)
        return negative, Share(rest, min(zero.low, rest), max(zero.high, rest)), positive

    def _mass(self, low: float, high: float) -> Share:
        """The same for these very examples."""
        taken = float(np.sum((self.known >= low) & (self.known <= high))) / self.size
        if not self.rules:
            return Share(taken, taken, taken)
        least, most = np.mean([rule.inside(low, high) for rule in self.rules], axis=0)
        tosses = len(self.rules) * (self._unknown + 2) / 2
        rest = self._unknown / self.size
        ends = (wilson(float(least), tosses)[0], wilson(float(most), tosses)[1])
        return Share(taken + rest * float(least + most) / 2, taken + rest * ends[0], taken + rest * ends[1])

    def _over_examples(self, parts: Sequence[float], whole: float) -> float:
        """Half-width of a 95% interval over examples; 0 where there are no parts to tell it."""
        count = len(parts)
        if count < 2:
            return 0.0
        error = math.sqrt(self.left) * float(np.std(parts, ddof=1)) / math.sqrt(count)
        bias = (float(np.mean(parts)) - whole) / (math.sqrt(count) - 1) * (1 - math.sqrt(1 - self.left))
        # added, not squared and added: the one is a random error, the other the distance of a value that stays
        return float(stats.t.isf((1 - CONFIDENCE) / 2, count - 1)) * error + abs(bias)

    def moment(self, order: int) -> tuple[float, float]:
        """tr A^order / P, and its standard error over the random vectors: 2 Var(lambda^order) / (n + 2) for one."""
        taken = float(np.sum(self.known**order)) / self.size
        if not self.rules:
            return taken, 0.0
        power, square = (
            float(np.mean([rule.weights @ rule.nodes**k for rule in self.rules])) for k in (order, 2 * order)
        )
        spread = 2 * max(square - power**2, 0.0) / (self._unknown + 2) / len(self.rules)
        rest = self._unknown / self.size
        return taken + rest * power, rest * math.sqrt(spread)

    def open(self, cut: float) -> float:
        """How much of the mass in [-cut, cut] the nodes leave open, however many vectors there are."""
        bounds = [rule.inside(-cut, cut) for rule in self.rules] or [(0.0, 0.0)]
        least, most = np.mean(bounds, axis=0)
        return float(most - least) * self._unknown / self.size

    def cumulative(self, at: ArrayLike) -> Vector:
        """The share of the eigenvalues below each of `at`, as the nodes step up."""
        nodes, weights = self._flat()
        order = np.argsort(nodes)
        total = np.concatenate([[0.0], np.cumsum(weights[order])])
        return total[np.searchsorted(nodes[order], np.asarray(at, dtype=float))]

    def smooth(self, at: ArrayLike, width: float) -> Vector:
        """The density at `at`, its nodes spread by Gaussian kernels of standard deviation `width`."""
        nodes, weights = self._flat()
        return _spread(nodes, weights, np.asarray(at, dtype=float), width)

    def smooth_log(self, at: ArrayLike, width: float, sign: int, beyond: float = 0.0) -> Vector:
        """The density per decade of |lambda| at log10 |lambda| = `at`, over the nodes with sign x lambda > `beyond`.

        Kernels have the standard deviation `width`, in decades. Source: Papyan 2020 (spectrum of log |A|).
        """
        nodes, weights = self._flat()
        chosen = sign * nodes > beyond
        return _spread(np.log10(sign * nodes[chosen]), weights[chosen], np.asarray(at, dtype=float), width)

    def _flat(self) -> tuple[Vector, Vector]:
        """All nodes, with weights that sum to 1 over all of them."""
        rest = self._unknown / self.size / max(len(self.rules), 1)
        weights = [np.full(len(self.known), 1 / self.size), *(rest * rule.weights for rule in self.rules)]
        return self.nodes, np.concatenate(weights)


def mass(rows: pd.DataFrame | Sequence[Mapping[str, Any]], low: float = -math.inf, high: float = math.inf) -> Share:
    """The share of the eigenvalues in [low, high], from the rows of one measurement."""
    return SpectralDensity.read(rows).mass(low, high)


class Outliers(NamedTuple):
    """How many eigenvalues stand apart at the top, where the line is drawn, and how wide the gap is, as a ratio."""

    number: int
    edge: float
    gap: float


def outliers(eigenvalues: Sequence[float], limit: int | None = None) -> Outliers | None:
    """The widest gap among the top eigenvalues, on a logarithmic scale: those above it are outliers.

        n = argmax_{1 <= i <= limit} ln(lambda_i / lambda_{i+1}),        edge = sqrt(lambda_n lambda_{n+1})

    with limit = 2 C for C classes, whose means make C (or C - 1) outliers and, weaker, more behind them. An eigenvalue
    below 1e-6 of the first one counts as that much: it is zero. None without two eigenvalues or where none is
    positive. There is always a widest gap: a ratio near 1 says that nothing stands apart.

    Source: Sagun et al. 2017 (outliers of the number of classes); Papyan 2020 (C, then C (C - 1)).
    """
    values = np.sort(np.asarray(eigenvalues, dtype=float))[::-1]
    if len(values) < 2 or values[0] <= 0:
        return None
    values = np.maximum(values, 1e-6 * values[0])
    gaps = np.log(values[:-1] / values[1:])[:limit]
    n = int(np.argmax(gaps)) + 1
    return Outliers(n, float(np.sqrt(values[n - 1] * values[n])), float(np.exp(gaps[n - 1])))


def wilson(share: float, tosses: float) -> tuple[float, float]:
    """95% interval of a probability after a share of so many tosses. Source: Wilson 1927."""
    square = float(stats.norm.isf((1 - CONFIDENCE) / 2)) ** 2 / tosses
    middle = (share + square / 2) / (1 + square)
    half = math.sqrt(square * share * (1 - share) + square**2 / 4) / (1 + square)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def _rules(spectra: Sequence[tuple[Vector, Vector]]) -> tuple[Rule, ...]:
    ordered = [(nodes[order], weights[order]) for nodes, weights in spectra for order in [np.argsort(nodes)]]
    first = ordered[0][0]
    # two steps are the fewest, so that a single node means that the vector's Krylov space has ended
    exact = (len(ordered) > 1 or len(first) == 1) and all(
        len(nodes) == len(first) and np.allclose(nodes, first, rtol=0.0, atol=MEETING * float(np.abs(first).max()))
        for nodes, _ in ordered[1:]
    )
    return tuple(Rule(nodes, weights / weights.sum(), exact) for nodes, weights in ordered)


def _spread(nodes: Vector, weights: Vector, at: Vector, width: float) -> Vector:
    kernels = np.exp(-0.5 * ((at[:, None] - nodes) / width) ** 2)
    return np.asarray(kernels @ weights / (width * math.sqrt(2 * math.pi)))
