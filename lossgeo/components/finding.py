"""From a name to a class: the file of that name in the interface's folder, or among the user's own files.

Only that file is imported. A recipe alone can never import or execute anything else, since a name is one plain word.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from lossgeo.components.beside import bundle_of, load
from lossgeo.components.component import Component
from lossgeo.components.old_names import old_names
from lossgeo.components.reads import watched
from lossgeo.errors import UsageError

C = TypeVar("C", bound=Component)


def names(interface: type[Component], search: Iterable[Path] = ()) -> list[str]:
    """The components of an interface: its folder's files, then those of the user's files that implement it."""
    package = importlib.import_module(interface.__module__)
    own = [m.name for m in pkgutil.iter_modules(package.__path__) if not (m.ispkg or m.name.startswith("_"))]
    own = [n for n in own if issubclass(_the_class(importlib.import_module(f"{package.__name__}.{n}")), interface)]
    used = [f.stem for f in search if issubclass(_the_class(_load(f)), interface)]
    return sorted({*own, *used})


def find(interface: type[C], name: str, search: Iterable[Path] = ()) -> type[C]:
    """The class of the component `name`, the user's before a built-in; imports only the files of that name.

    Raises:
        UsageError: no such component, with the nearest names.
    """
    search = tuple(search)
    other = ""
    for file in search:
        if file.stem == name:
            used = _the_class(_load(file))
            if issubclass(used, interface):
                return used
            other = f"{file} holds a {_kind(used)} of that name; "
    module_name = f"{interface.__module__}.{name}"
    # a plain word cannot leave the folder: not `os.path`, not `../x`, not `__init__` or a private module
    spec = importlib.util.find_spec(module_name) if re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name) else None
    if spec is None or spec.submodule_search_locations is not None:  # a folder inside holds another interface
        kind = _kind(interface)
        way_out = hint(name, names(interface, search))
        own = "" if way_out.startswith("did you mean") else ", or bring your own with --use PATH"
        raise UsageError(f"no {kind} is named {name!r:.60}; {other}{way_out}{own}")
    return _the_class(importlib.import_module(module_name))  # type: ignore[return-value]  # by the folder's conformance test


def used_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The Python files behind `--use PATH`: the file itself, or every `*.py` of a folder that is not private (`_x.py`).

    A file of a folder that others there import and that holds no component is a part of these.

    Raises:
        UsageError: nothing is there, a file cannot be imported or does not hold exactly one component, or two files
            have one name.
    """
    files: dict[str, Path] = {}
    alone: set[Path] = set()
    for path in paths:
        alone |= set() if path.is_dir() else {path}
        inside = sorted(f for f in path.glob("*.py") if not f.name.startswith("_")) if path.is_dir() else [path]
        found = [f for f in inside if f.suffix == ".py" and f.is_file()]
        if not found:
            raise UsageError(f"--use {path}: no Python file there; name a .py file or a folder that holds some")
        for file in found:
            if not files.setdefault(file.name, file).samefile(file):
                raise UsageError(f"--use {path}: {file} and {files[file.name]} have one name; rename one")
    modules = {file: _load(file) for file in files.values()}
    parts = {
        source.path
        for file in files.values()
        for source in bundle_of(file.absolute()).sources.values()
        if source.path != file.absolute()
    }
    found = [f for f, m in modules.items() if f in alone or f.absolute() not in parts or _holds_one(m)]
    for file in found:
        _the_class(modules[file])
    return tuple(found)


def _load(file: Path) -> ModuleType:
    """A user's file as a module, of a name of its own for every version of it and of what it imports from beside it."""
    bundle = bundle_of(file.absolute())  # not resolved: a link's own name is the component's
    if bundle.module in sys.modules:
        return sys.modules[bundle.module]
    try:
        with old_names(), watched():
            return load(bundle)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # the user's own code may raise anything; the cause keeps the traceback
        own = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(bundle.file)]
        where = f"{bundle.file}:{own[-1]}" if own else bundle.file
        raise UsageError(f"--use {where}: importing it failed: {type(error).__name__}: {error}") from error


def _components(module: ModuleType) -> list[type[Component]]:
    """The public components that a module defines, those that lack a method too."""
    found = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Component) and value.__module__ == module.__name__
        if not name.startswith("_")
    ]
    return list(dict.fromkeys(found))


def _holds_one(module: ModuleType) -> bool:
    return len([cls for cls in _components(module) if not inspect.isabstract(cls)]) == 1


def _the_class(module: ModuleType) -> type[Component]:
    public = _components(module)
    own = [cls for cls in public if not inspect.isabstract(cls)]
    if len(own) != 1:
        lacking = [f"{c.__name__} lacks {', '.join(sorted(c.__abstractmethods__))}" for c in public if c not in own]
        why = f" ({'; '.join(lacking)})" if lacking else ""
        raise UsageError(f"{module.__file__}: holds {len(own)} public components{why}; a file holds exactly one")
    if "name" in own[0].model_fields:
        raise UsageError(f"{module.__file__}: `name` chooses the component in a recipe; call the field something else")
    return own[0]


def folder_of(interface: type[Component]) -> str:
    return interface.__module__.rpartition(".")[2]


def _kind(cls: type[Component]) -> str:
    """The interface in a word, for one of its components too."""
    return next((c for c in cls.__mro__ if Component in c.__bases__), cls).__name__.lower()


def hint(name: str, choices: Iterable[str]) -> str:
    """The way out for a misspelt name: the nearest choice, or all of them."""
    choices = list(choices)
    lower = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    if not choices:
        return "there are none to choose from"
    return f"did you mean {lower[near[0]]!r}?" if near else f"choose from {', '.join(choices)}"
