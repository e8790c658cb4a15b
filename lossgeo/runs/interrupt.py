"""Ctrl-C and SIGTERM as a flag that the training loop reads between two steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Whether a signal has asked for the end, and which. Falsy until then."""

    def __init__(self) -> None:
        self.signum = 0

    def __bool__(self) -> bool:
        return self.signum != 0

    def ask(self, signum: int) -> None:
        """Ask for the end as a signal would, unless one has."""
        self.signum = self.signum or signum

    def _take(self, signum: int, frame: FrameType | None) -> None:
        if self.signum:  # asked twice: do not wait for the step or the probe at hand
            raise KeyboardInterrupt
        self.signum = signum

    @contextmanager
    def listening(self, *signums: signal.Signals) -> Iterator[Interrupt]:
        """Take the signals while inside; the handlers from before come back afterwards."""
        before = {signum: signal.signal(signum, self._take) for signum in signums}
        try:
            yield self
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler or signal.SIG_DFL)  # None: it was not set from Python
