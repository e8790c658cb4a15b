"""Processes that end with the one that started them, even when that one is killed: a training left behind runs on.

    python tests/support/mortal.py PROGRAM ARGUMENT...

Linux does it when asked; where nobody can be asked, processes are as mortal as they were.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PRCTL = getattr(ctypes.CDLL(None), "prctl", None)
PR_SET_PDEATHSIG = 1


def die_with_the_parent() -> None:
    """Ask the kernel to kill this process when the one that started it is gone."""
    if PRCTL is not None:
        PRCTL(PR_SET_PDEATHSIG, signal.SIGKILL)


def mortal(*command: object) -> list[str]:
    """A command that runs another one, in the same process, as one that dies with its parent."""
    return [sys.executable, "-IS", __file__, *map(str, command)]


if __name__ == "__main__":
    die_with_the_parent()
    os.execvp(sys.argv[1], sys.argv[1:])
