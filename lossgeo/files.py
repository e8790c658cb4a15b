"""Files that are either the old version or the new one, never something between."""

from __future__ import annotations

import itertools
import os
import stat
from contextlib import suppress
from pathlib import Path


def write_atomically(path: Path, data: bytes, mode: int | None = None) -> None:
    """Put `data` at `path`: written beside it, flushed to the disk, then renamed over it; `mode` else as for a new one.

    Raises:
        OSError: the disk is full or read-only; `path` is as it was and nothing is left beside it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            if mode is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(mode))
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk does not say which file
    finally:
        with suppress(OSError):  # it is there only where something went wrong
            part.unlink()


def write_where_told(path: Path, data: bytes) -> None:
    """Put `data` where a user said: atomically into the regular file that is meant, with its mode and behind its link.

    Devices, pipes and descriptors of the process (`/dev/fd/1`, `>(cmd)`) are written to, and stay what they are.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = path.absolute().as_posix().startswith(("/dev/fd/", "/dev/std", "/proc/"))
    if descriptor or (path.exists() and not path.is_file()):
        with path.open("wb") as file:
            file.write(data)
        return
    meant = Path(os.path.realpath(path))
    write_atomically(meant, data, meant.stat().st_mode if meant.exists() else None)


def remove_parts(folder: Path) -> None:
    """Remove what a killed writer left beside the files of a folder that nobody else is writing to."""
    for part in folder.glob(".*.part"):
        if part.is_file():
            part.unlink()


def set_aside(path: Path, mark: str) -> Path:
    """Rename a file to a name of its own that ends in `.<mark>`, or `.<mark>2`, ...; returns the new path."""
    names = (path.with_name(f"{path.name}.{mark}{n}") for n in itertools.chain([""], itertools.count(2)))
    free = next(name for name in names if not name.exists())
    path.rename(free)
    return free
