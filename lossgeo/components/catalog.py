"""What there is to name in a recipe: read off the folders, for `lossgeo list` and for editors."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import lossgeo
from lossgeo.components.component import Component, Value, dump, summary
from lossgeo.components.finding import find, names

C = TypeVar("C", bound=Component)

# as a reader of YAML says it
WORDS = {str: "text", tuple: "list", type(None): "null"}


def interfaces() -> dict[str, type[Component]]:
    """Every folder of components and the interface that its `__init__` defines."""
    found: dict[str, type[Component]] = {}
    for path in (m.name for m in pkgutil.walk_packages(lossgeo.__path__, "lossgeo.") if m.ispkg):
        package = importlib.import_module(path)
        own = (v for v in vars(package).values() if inspect.isclass(v) and v.__module__ == package.__name__)
        for cls in own:
            if issubclass(cls, Component) and Component in cls.__bases__ and inspect.isabstract(cls):
                found[path.rpartition(".")[2]] = cls
    return dict(sorted(found.items()))


def catalog(interface: type[C], search: tuple[Path, ...] = ()) -> dict[str, type[C]]:
    """Every component of an interface by name."""
    return {name: find(interface, name, search) for name in names(interface, search)}


def keys(of: list[type[Component]], search: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """One row a key: which component takes it, its type, its default and what it means.

    The keys of a component come before those that its interface gives to all.
    """
    rows = []
    for interface in of:
        for name, cls in catalog(interface, search).items():
            shared = {"kind": interface.__module__.rpartition(".")[2], "name": name}
            rows.append({**shared, "key": None, "type": None, "default": None, "meaning": summary(cls)})
            for key in sorted(cls.model_fields, key=lambda key: key in interface.model_fields):
                field = cls.model_fields[key]
                default = "required" if field.is_required() else _default(field.default)
                kind = readable(field.annotation)
                rows.append({**shared, "key": key, "type": kind, "default": default, "meaning": field.description})
    return rows


def _default(value: Any) -> str:
    """A default as a recipe would have it, in its shortest form."""
    if isinstance(value, Component) and value == type(value)():
        return value.component_name()
    return value if isinstance(value, str) else json.dumps(dump(value))


def readable(annotation: Any) -> str:
    """A type as a reader of YAML says it: `int | full`, `a list of ints`, `an operator`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return readable(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(dict.fromkeys(readable(argument) for argument in arguments))
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin is tuple:
        item = readable(arguments[0])
        count = "" if arguments[-1] is ... else f"{len(arguments)} "
        return f"a list of ({item})" if " " in item else f"a list of {count}{item if item == 'text' else item + 's'}"
    if isinstance(annotation, type) and issubclass(annotation, Component):
        word = annotation.__name__.lower()
        return f"an {word}" if word[0] in "aeiou" else f"a {word}"
    return WORDS.get(annotation, "a mapping" if issubclass(annotation, Value) else annotation.__name__)
