"""The one rule by which a claim is judged: where its interval lies against the range that the claim expects."""

from __future__ import annotations

from typing import Literal

Verdict = Literal["confirmed", "inconclusive", "contradicted"]


def verdict(interval: tuple[float, float] | None, expected: tuple[float | None, float | None]) -> Verdict:
    """confirmed: the interval lies inside the expected range; contradicted: outside it; inconclusive: across its edge.

    `expected` may be open at either end (None). Without an interval nothing is known, so it is inconclusive.
    """
    if interval is None:
        return "inconclusive"
    low, high = interval
    at_least = float("-inf") if expected[0] is None else expected[0]
    at_most = float("inf") if expected[1] is None else expected[1]
    if high < at_least or low > at_most:
        return "contradicted"
    return "confirmed" if at_least <= low and high <= at_most else "inconclusive"
