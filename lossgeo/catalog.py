"""What there is to name in a recipe: read off the folders, for `lossgeo list` and for editors."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path
from typing import Any, get_args

import lossgeo
from lossgeo.component import Component, Value, dump, find, names, summary
from lossgeo.recipe import Recipe


def interfaces() -> dict[str, type[Component]]:
    """Every folder of components and the interface that its `__init__` defines."""
    found = {}
    for folder in (m.name for m in pkgutil.iter_modules(lossgeo.__path__) if m.ispkg):
        package = importlib.import_module(f"lossgeo.{folder}")
        own = (v for v in vars(package).values() if inspect.isclass(v) and v.__module__ == package.__name__)
        for cls in own:
            if issubclass(cls, Component) and Component in cls.__mro__[1:] and inspect.isabstract(cls):
                found.setdefault(folder, cls)
    return found


def catalog(interface: type[Component], search: tuple[Path, ...] = ()) -> dict[str, type[Component]]:
    """Every component of an interface by name."""
    return {name: find(interface, name, search) for name in names(interface, search)}


def keys(of: list[type[Component]], search: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """One row a key: which component takes it, its type, its default and what it means."""
    rows = []
    for interface in of:
        for name, cls in catalog(interface, search).items():
            shared = {"kind": interface.__module__.rpartition(".")[2], "name": name}
            rows.append({**shared, "key": None, "type": None, "default": None, "meaning": summary(cls)})
            for key, field in cls.model_fields.items():
                default = "required" if field.is_required() else json.dumps(dump(field.default))
                kind = _type(field.annotation)
                rows.append({**shared, "key": key, "type": kind, "default": default, "meaning": field.description})
    return rows


def _type(annotation: Any) -> str:
    """A type as a reader of YAML says it."""
    if isinstance(annotation, type) and not get_args(annotation):
        return f"a {annotation.__name__.lower()}" if issubclass(annotation, Value) else annotation.__name__
    text = re.sub(r"typing\.|lossgeo\.[a-z_.]*|, FieldInfo\([^)]*\)", "", str(annotation))
    return text.replace("NoneType", "None")


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, for editors."""
    made = Recipe.model_json_schema()
    axis = {
        "anyOf": [
            {"type": "array", "minItems": 1},
            {"type": "object", "properties": {"range": {"type": ["integer", "array"]}}, "required": ["range"]},
            {
                "type": "object",
                "properties": {"log": {"type": "array", "minItems": 3, "maxItems": 3}},
                "required": ["log"],
            },
        ]
    }
    axes = {"type": "object", "additionalProperties": axis}
    made["properties"] |= {
        "sweep": {**axes, "description": "a grid: dotted keys to lists of values"},
        "zip": {**axes, "description": "axes that advance together"},
        "list": {"type": "array", "items": {"type": "object"}, "description": "settings of dotted keys, one by one"},
    }
    # what a sweep sets, or the file's name gives, need not stand in the file itself
    made["required"] = [key for key in made["required"] if key not in ("name", "batch_size")]
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "lossgeo recipe"
    return made
