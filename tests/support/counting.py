"""Work counted, where a clock would say how busy the machine is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


class TooMuchWork(AssertionError):
    pass


def calls_of(action: Callable[[], Any], most: int = 100_000_000) -> int:
    """How many functions an action calls, Python's and C's; it is ended where it would call more."""
    count = 0

    def called(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        if event in ("call", "c_call"):
            count += 1
            if count > most:
                raise TooMuchWork(f"more than {most} calls")

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        action()
    finally:
        sys.setprofile(before)
    return count
