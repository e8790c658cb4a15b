"""Everything that ends a command early, each with its exit code.

A message says what is wrong, where, and the way out. The command line prints it and exits with `exit_code`; nothing
else in the program decides about exit codes.
"""

from __future__ import annotations


class LossgeoError(Exception):
    """A failure with a message meant for the user."""

    exit_code = 1


class UsageError(LossgeoError):
    """The recipe or the arguments are wrong; nothing was computed."""

    exit_code = 2


class RunError(LossgeoError):
    """One run cannot go on (locked, unreadable, disk full); the others do."""


class NothingToReport(LossgeoError):
    """The runs named hold nothing that this report could show."""

    exit_code = 3


class Stopped(LossgeoError):
    """A signal asked for the end; the checkpoint is written and the same command goes on from it."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}; the same command goes on from the checkpoint")
        # 128 + 2 is the shell's own code for Ctrl-C; 75 is EX_TEMPFAIL, which tells a scheduler to try again
        self.exit_code = 130 if signum == 2 else 75
        self.signum = signum
