"""How many eigenvalues are negative, zero and positive: counted, or estimated within what the two ends allow."""

from __future__ import annotations

from typing import Literal, NamedTuple, Self

from lossgeo.curvature.spectral.extremes import Extremes
from lossgeo.curvature.spectral.spectral_density import Share
from lossgeo.tables import Row

Sign = Literal["negative", "zero", "positive"]


class Count(NamedTuple):
    """A number of eigenvalues with its 95% interval."""

    value: float
    low: float
    high: float


class Counts(NamedTuple):
    """By the signs; the values add up to the number of parameters."""

    negative: Count
    zero: Count
    positive: Count

    @classmethod
    def counted(cls, negative: int, zero: int, positive: int) -> Self:
        """From a whole spectrum."""
        return cls(*(Count(float(n), float(n), float(n)) for n in (negative, zero, positive)))

    @classmethod
    def estimated(cls, shares: tuple[Share, Share, Share], size: int, ends: Extremes, cutoff: float) -> Self:
        """From shares of the spectrum, of the three signs, and its ends.

        An end that lies on one side of a cut, its error included, leaves nothing beyond; and the eigenvalue that an end
        is counts itself.
        """
        # Ritz values lie inside the spectrum, so that an end reaches as far as its value at least
        least = [float(ends.low < -cutoff), float(_inside(ends, cutoff)), float(ends.high > cutoff)]
        empty = (
            ends.low - ends.low_error >= -cutoff,
            ends.low - ends.low_error > cutoff or ends.high + ends.high_error < -cutoff,
            ends.high + ends.high_error <= cutoff,
        )
        # what the others need at least a sign cannot have, and what the others cannot have it needs
        most = [0.0 if none else size - sum(least) + own for none, own in zip(empty, least, strict=True)]
        least = [max(own, size - sum(most) + top) for own, top in zip(least, most, strict=True)]
        negative, zero, positive = (
            Count(*(min(max(size * end, a), b) for end in share))
            for share, a, b in zip(shares, least, most, strict=True)
        )
        open_ = size - sum(least)
        weights = [count.value - own for count, own in zip((negative, zero, positive), least, strict=True)]
        total = sum(weights)
        if not total > 0:  # the quadrature saw nothing where the ends leave something
            weights = [float(not none) for none in empty]
            total = sum(weights)
        values = [own + open_ * weight / total for own, weight in zip(least, weights, strict=True)]
        return cls(
            *(
                Count(value, min(count.low, value), max(count.high, value))
                for value, count in zip(values, (negative, zero, positive), strict=True)
            )
        )

    def some(self, sign: Sign) -> bool | None:
        """Whether there is at least one; None: the interval leaves it open."""
        count: Count = getattr(self, sign)
        # a count is a whole number, an estimate of it is not
        return True if count.low > 0.5 else False if count.high < 0.5 else None

    def columns(self) -> Row:
        """The columns of the three signs, and the index, which is the first."""
        named = {**self._asdict(), "index": self.negative}
        ends = ("", "_low", "_high")
        return {f"{name}{end}": n for name, count in named.items() for end, n in zip(ends, count, strict=True)}


def _inside(ends: Extremes, cutoff: float) -> bool:
    """Whether one of the ends is an eigenvalue that counts as zero."""
    return any(
        -cutoff <= end - error and end + error <= cutoff
        for end, error in ((ends.low, ends.low_error), (ends.high, ends.high_error))
    )
