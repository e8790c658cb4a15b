"""The JSON Schema of a recipe file, with which editors complete and check YAML.

Pydantic makes the schema of a class; what it cannot know is added here: which files may stand where an interface is
asked for, that a component is named, and that a file may sweep.
"""

from __future__ import annotations

import inspect
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from lossgeo.components.component import Component, Value, dump, summary
from lossgeo.components.finding import find, folder_of, names
from lossgeo.recipes.recipe import Recipe


def schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file, for editors."""
    made = Recipe.model_json_schema(schema_generator=_Schema)
    bounds = {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3}
    log = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}
    axis = {
        "anyOf": [
            {"type": "array", "minItems": 1, "description": "the values one by one"},
            _axis("range", {"anyOf": [{"type": "integer"}, bounds]}, "end, [first, end] or [first, end, step]"),
            _axis("log", log, "[first, last, count], with equal ratios"),
        ]
    }
    axes = {"type": "object", "additionalProperties": axis}
    settings = {"type": "array", "minItems": 1, "items": {"type": "object"}}
    parts = {
        "sweep": {**axes, "description": "a grid: dotted keys to lists of values"},
        "zip": {**axes, "description": "axes that advance together"},
        "list": {**settings, "description": "settings of dotted keys, one by one"},
    }
    made["properties"] |= parts
    # the file's name gives `name`, and a sweep may give any of the others
    required = [key for key in made.pop("required") if key != "name"]
    made["anyOf"] = [{"required": required}, *({"required": [part]} for part in parts)]
    made["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    made["title"] = "lossgeo recipe"
    made["description"] = "What to train and what to measure on the way."
    return made


class _Schema(GenerateJsonSchema):
    """Pydantic's generator, with an interface as any of its components and a component as a mapping with a name.

    Inside a component that holds another of its own interface, those that would hold a third are left out.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._inside: list[type[Component]] = []

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        cls: type[Value] = schema["cls"]
        if issubclass(cls, Component) and inspect.isabstract(cls):
            concrete = [find(cls, name) for name in names(cls)]
            if cls in self._inside:
                concrete = [c for c in concrete if all(f.annotation is not cls for f in c.model_fields.values())]
            bare = [c.component_name() for c in concrete if not any(f.is_required() for f in c.model_fields.values())]
            by_name = {"enum": bare, "description": f"any of the {folder_of(cls)}, with its defaults"}
            self._inside.append(cls)
            mappings = [self.generate_inner(c.__pydantic_core_schema__) for c in concrete]
            self._inside.pop()
            return {"anyOf": [*([by_name] if bare else []), *mappings]}
        made = super().model_schema(schema)
        for key, field in cls.model_fields.items():
            if not field.is_required():
                made["properties"][key]["default"] = dump(field.default)  # pydantic's own would lack a component's name
        if issubclass(cls, Component):
            name = {"const": cls.component_name(), "description": summary(cls)}
            made["properties"] = {"name": name, **made.get("properties", {})}
            made["required"] = ["name"]  # what else is required, a sweep may give
        return made


def _axis(key: str, values: dict[str, Any], description: str) -> dict[str, Any]:
    properties = {key: {**values, "description": description}}
    return {"type": "object", "properties": properties, "required": [key], "additionalProperties": False}
