"""What goes wrong in one run stays in that run: the others go on."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lossgeo.errors import LossgeoError, RunError
from lossgeo.runs.run import FULL, Run


@contextmanager
def contained(run: Run, noted: bool = False) -> Iterator[None]:
    """Turn whatever is raised inside into a RunError; `noted`: and write it into run.json."""
    try:
        yield
    except LossgeoError:
        raise
    except (Exception, SystemExit) as error:  # a user's model may raise anything, and the other runs have to go on
        reason = _reason(run, error)
        if noted:
            with suppress(OSError, RunError):  # a full disk may not take it
                run.note(status="failed", reason=reason, traceback=traceback.format_exc())
        raise RunError(reason) from error


def _reason(run: Run, error: BaseException) -> str:
    """What was raised, in one line, and where in a user's file."""
    text = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in FULL:
        return f"{text}; free some space, and the same command goes on from the last checkpoint"
    own = {str(file.resolve()) for file in run.resolved.used}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if str(Path(f.filename).resolve()) in own]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {text}{where}"
