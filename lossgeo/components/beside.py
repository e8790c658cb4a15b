"""What a user's file brings along: the modules that it imports from beside itself, wherever in its source it does.

Such a module is part of the component: its content is in the run's id, its copy in the run's folder. So the source is
read, not the import watched: an import inside a function counts too, and what runs is what was read. Each version of a
file and its modules is a package of its own, so versions and runs' copies live side by side in one process.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from lossgeo.components.component import Component
from lossgeo.components.reads import allow, installed, watch
from lossgeo.errors import UsageError

PACKAGE = "lossgeo_used_"  # and 12 hex digits
# files that libraries open in C or Rust, of which Python does not tell
UNSEEN = (".safetensors", ".h5", ".hdf5", ".nc", ".parquet", ".feather", ".arrow", ".db", ".sqlite")


@dataclass(frozen=True)
class Source:
    """One file of a bundle, as it was read."""

    path: Path
    content: bytes
    is_package: bool


@dataclass(frozen=True)
class Bundle:
    """A user's file and the modules that it imports from beside itself, themselves or by each other."""

    file: Path
    sources: Mapping[str, Source]  # by dotted name below the folder: `net`, `helper`, `parts.layers`
    strings: frozenset[str]  # all that stand in them, one of which may name a file

    @cached_property
    def package(self) -> str:
        """The package that its modules are in, named after places and contents."""
        digest = hashlib.sha256()
        for source in self.sources.values():
            digest.update(str(source.path).encode("utf-8", "surrogateescape") + b"\0" + source.content + b"\0")
        return PACKAGE + digest.hexdigest()[:12]

    @property
    def module(self) -> str:
        """The name of the file's own module."""
        return f"{self.package}.{_own(self.file)}"

    def copies(self) -> dict[str, bytes]:
        """The content of every file by its place beside the component: `net.py`, `parts/__init__.py`."""
        own = _own(self.file)
        return {
            self.file.name if name == own else _place(name, source): source.content
            for name, source in self.sources.items()
        }


def bundle_of(file: Path) -> Bundle:
    """Read a user's file and, by their imports, the modules beside it.

    Raises:
        UsageError: one of them cannot be read.
    """
    # where a link points to, what is imported stands beside the file itself
    folders = list(dict.fromkeys([str(file.parent), str(file.resolve().parent)]))
    sources = {_own(file): Source(file, _read(file), False)}
    strings: set[str] = set()
    waiting = [_own(file)]
    while waiting:
        name = waiting.pop()
        source = sources[name]
        if source.path.suffix != ".py":
            continue
        imports, words = _parsed(source.content)
        strings |= words
        for level, module, alias in imports:
            for part in _steps(_absolute(level, module, alias, name, source.is_package)):
                if part not in sources and (found := _beside(part, folders, sources)) is not None:
                    sources[part] = found
                    waiting.append(part)
    return Bundle(file, MappingProxyType(sources), frozenset(strings))


def _own(file: Path) -> str:
    return file.stem.replace(".", "_")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"--use {path}: cannot be read: {error.strerror}") from error


@lru_cache(maxsize=256)
def _parsed(content: bytes) -> tuple[tuple[tuple[int, str, str], ...], frozenset[str]]:
    """What a source imports, each as (dots in front, module, name taken from it), and the strings in it."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return (), frozenset()  # told with its line when it is imported
    imports: list[tuple[int, str, str]] = []
    strings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(0, alias.name, "") for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            imports += [(node.level, node.module or "", alias.name) for alias in node.names]
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            strings.add(node.value)
    return tuple(imports), frozenset(strings)


def _absolute(level: int, module: str, alias: str, name: str, is_package: bool) -> str:
    """The dotted name below the folder of what the module `name` imports."""
    home = name.split(".") if is_package else name.split(".")[:-1]
    above = home[: len(home) - level + 1] if level else []
    return ".".join(part for part in (*above, module, alias) if part)


def _steps(dotted: str) -> Iterator[str]:
    """`a`, `a.b`, `a.b.c`"""
    parts = dotted.split(".")
    yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _beside(name: str, folders: Sequence[str], known: Mapping[str, Source]) -> Source | None:
    """The module of that name that stands beside the file, or in a package that does."""
    above, _, last = name.rpartition(".")
    if above and not (above in known and known[above].is_package):
        return None
    if not above and _of_python(last):
        return None
    spec = PathFinder.find_spec(last, [str(known[above].path.parent)] if above else folders)
    if spec is None:
        return None
    if spec.origin is None:  # a folder without __init__.py is a package where nothing else has its name
        if not above and _installed(last):
            return None
        inside = Path(next(iter(spec.submodule_search_locations or ())))
        return Source(inside / "__init__.py", b"", True) if any(inside.rglob("*.py")) else None
    return Source(Path(spec.origin), _read(Path(spec.origin)), spec.submodule_search_locations is not None)


def _of_python(name: str) -> bool:
    return name in sys.stdlib_module_names or name == "lossgeo"


def _installed(name: str) -> bool:
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return found is not None and found.origin is not None and installed(found.origin)


def _place(name: str, source: Source) -> str:
    folder = name.replace(".", "/")
    return f"{folder}/__init__.py" if source.is_package else f"{folder}{''.join(source.path.suffixes[-1:])}"


def declared(component: Component) -> dict[str, Path]:
    """The files that a user's component says it reads, by the name it gives them.

    Raises:
        UsageError: one is not there, is not beside it, or the source names another that is.
    """
    bundle = brought_by(type(component))
    if bundle is None:
        return {}
    folder, found = bundle.file.parent, {}
    for name in component.files:
        path = folder / name
        if not path.is_file():
            raise UsageError(f"{bundle.file}: `files` names {name!r}, and there is no file {path}")
        if ".." in Path(name).parts:
            raise UsageError(
                f"{bundle.file}: `files` names {name!r}; put it beside that file, or name it from the root"
            )
        allow(path)
        found[name] = path
    return found


def named(component: Component) -> str | None:
    """A file that a user's component names, that Python would not tell of, and that is no part of the run's id.

    None: there is none. Names put together from pieces are not seen.
    """
    bundle = brought_by(type(component))
    if bundle is None:
        return None
    for text in sorted(bundle.strings - {*component.files}):
        if text.endswith(UNSEEN) and len(text) < 256:
            places = (bundle.file.parent / text, Path(text).absolute())
            if any(place.is_file() and not installed(str(place)) for place in places):
                return text
    return None


# --- importing -------------------------------------------------------------------------------------------------------

_BUNDLES: dict[str, Bundle] = {}  # by package


def brought_by(cls: type) -> Bundle | None:
    """What the file of a component brought along; None for one of lossgeo's own."""
    return _BUNDLES.get(cls.__module__.partition(".")[0])


def load(bundle: Bundle) -> ModuleType:
    """The module of a bundle's file, executed from what was read; whatever that raises."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    _BUNDLES[bundle.package] = bundle
    watch(source.path for source in bundle.sources.values())
    return importlib.import_module(bundle.module)


class _Finder(MetaPathFinder, Loader):
    """Finds and makes the modules of bundles; no bytecode is kept, whose date might be that of another version."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        bundle = _BUNDLES.get(package)
        if bundle is None:
            return None
        source = bundle.sources.get(name)
        if source is not None and source.path.suffix != ".py":
            return importlib.util.spec_from_file_location(fullname, source.path)
        if source is None and name:
            return None
        found = ModuleSpec(fullname, self, is_package=not name or bool(source and source.is_package))
        if source is not None:
            found.origin, found.has_location = str(source.path), True
            if source.is_package:
                found.submodule_search_locations = [str(source.path.parent)]
        return found

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        package, _, name = module.__name__.partition(".")
        if not name:
            return
        source = _BUNDLES[package].sources[name]
        vars(module)["__builtins__"] = vars(builtins) | {"__import__": _importing(_BUNDLES[package])}
        exec(compile(source.content, str(source.path), "exec"), vars(module))


def _importing(bundle: Bundle) -> Any:
    """`__import__` for the modules of a bundle, which finds those beside the file under their plain names."""

    names = {name for name in bundle.sources if "." not in name}
    own = _own(bundle.file)
    if _of_python(own) or _installed(own):
        names.remove(own)  # what it means is the module whose name it has taken

    def import_(
        name: str,
        globals_: Mapping[str, Any] | None = None,
        locals_: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or top not in names:
            return builtins.__import__(name, globals_, locals_, fromlist or (), level)
        made = builtins.__import__(f"{bundle.package}.{name}", globals_, locals_, fromlist or (), 0)
        return made if fromlist else sys.modules[f"{bundle.package}.{top}"]

    return import_
