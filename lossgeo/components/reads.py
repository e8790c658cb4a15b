"""What a user's component may read: what is in the run's id. Any other file could change, and the run would not know.

Python tells of every file that it opens. Where a component's code stands on the stack at that moment, the file has to
be one of these: a module or file that the component brought along, a part of Python, of an installed package or of the
system, a cache, or what this process itself has made. Libraries that open files in C or Rust, such as safetensors, h5py
and pyarrow, tell nothing; neither do threads and processes that a component starts.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from lossgeo.errors import UsageError

_CACHES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME", "HF_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
_GIVEN = tuple(
    os.path.realpath(path)
    for path in (
        *(sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")),
        *(sys.prefix, sys.base_prefix, sys.exec_prefix, str(Path(__file__).parents[1])),
        *("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64", "/bin", "/sbin"),
    )
    if os.path.realpath(path) != "/"
)

_RUNS = str(Path(__file__).parents[1] / "runs") + os.sep

_code: set[str] = set()  # the files whose code is a component's
_brought: set[str] = set()  # real paths that are part of an id
_made: set[str] = set()  # files and folders that this process has made
_found: list[str] = []  # what was read and is not part of an id
_depth = {"watched": 0, "counted": 0}


def watch(files: Iterable[Path]) -> None:
    """The code in these files, which are part of an id, is a component's."""
    if not _code:
        sys.addaudithook(_hook)
    for file in files:
        _code.add(str(file))
        allow(file)


def allow(file: Path) -> None:
    """This file is part of an id."""
    _brought.add(os.path.realpath(file))


@contextmanager
def watched() -> Iterator[None]:
    """Inside, a component may read nothing that is not part of the id.

    Raises:
        UsageError: it did, and kept the refusal to itself.
    """
    if not _depth["watched"]:
        _found.clear()
    _depth["watched"] += 1
    try:
        yield
    except Exception as error:
        if _found and not isinstance(error, UsageError):
            raise UsageError(_found[0]) from error
        raise
    finally:
        _depth["watched"] -= 1
    if _found:
        raise UsageError(_found[0])


@contextmanager
def counted() -> Iterator[None]:
    """Inside, a component may read what it likes: what it makes of it is compared when the run goes on.

    That is so where lossgeo asked for it, not where a component did.
    """
    asked = int(_component(sys._getframe(1)) is None)
    _depth["counted"] += asked
    try:
        yield
    finally:
        _depth["counted"] -= asked


def installed(path: str) -> bool:
    """Whether a file is Python's own, an installed package's or the system's."""
    parts = Path(path).parts
    return bool({"site-packages", "dist-packages"} & set(parts)) or _below(os.path.realpath(path), _GIVEN)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _depth["watched"] or _depth["counted"] or event not in ("open", "tempfile.mkdtemp", "tempfile.mkstemp"):
        return
    path = arguments[0]
    if isinstance(path, int) or (frame := _component(sys._getframe(1))) is None:
        return
    try:
        name = os.fsdecode(path)
    except TypeError:
        return
    flags = int(arguments[2] or 0) if event == "open" else 0
    real = os.path.realpath(name)
    if event != "open" or flags & os.O_TRUNC or (flags & os.O_CREAT and not os.path.exists(real)):
        _made.add(real)
        return
    if flags & os.O_ACCMODE == os.O_WRONLY or not os.path.isfile(real) or _allowed(name, real):
        return
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    source = importlib.util.source_from_cache(real) if real.endswith(".pyc") else real
    if real.endswith((".py", ".pyc")):
        way_out = "put it beside that file and import it by name, or install it"
        reason = f"imports {source}, which neither stands beside it nor is installed; {way_out}"
    elif real in _brought:
        reason = f"reads {name!r} relative to the working directory; read self.beside({os.path.basename(name)!r})"
    else:
        way_out = f"put it beside that file, say `files = ({os.path.basename(name)!r},)` in the class"
        reason = f"reads {name!r}, which is no part of the run's id; {way_out}, and read self.beside(...)"
    _found.append(f"{where} {reason}")
    raise UsageError(_found[-1])


def _component(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of a component's code; None: it is the run that opens, begun by an executor perhaps."""
    while frame is not None and frame.f_code.co_filename not in _code:
        frame = None if frame.f_code.co_filename.startswith(_RUNS) else frame.f_back
    return frame


def _allowed(name: str, real: str) -> bool:
    if real in _brought:
        return os.path.isabs(name)
    home = os.path.expanduser("~")
    caches = [os.environ[key] for key in _CACHES if os.environ.get(key)]
    caches += [f"{home}/.cache", f"{home}/.config", f"{home}/.triton"]
    compiled = any(part.startswith("torchinductor_") for part in Path(real).parts)
    return installed(real) or compiled or _below(real, [*_made, *map(os.path.realpath, caches)])


def _below(real: str, roots: Iterable[str]) -> bool:
    return any(real == root or real.startswith(f"{root}{os.sep}") for root in roots)
