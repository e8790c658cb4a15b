"""Components: frozen values that a recipe can name; the file is the registration, the class says all there is to say.

`lossgeo/optimizers/sgd.py` holds one public final class `SGD(Optimizer)`, and the folder's `__init__.py` the
interface, an abstract `Component`. From the class come the recipe's keys, what `lossgeo list` prints, the JSON Schema,
the digest and the conformance tests.

`dump` (and `parse`, in `parsing`) walk the fields themselves instead of leaving nested values to pydantic, whose
serializer drops the fields of a subclass in silence: two learning rates would get one run id.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A frozen, strictly typed group of recipe keys; unknown keys, NaN and infinity are refused."""

    # keys that stand somewhere else now, and where
    elsewhere: ClassVar[Mapping[str, str]] = MappingProxyType({})

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Component(Value):
    """What a recipe can name. An interface stands in a folder's `__init__`, its components are the folder's files."""

    # (module, extra of pyproject.toml) of a package that is not always there
    extra: ClassVar[tuple[str, str] | None] = None

    @classmethod
    def component_name(cls) -> str:
        """The name in recipes: the file's name."""
        return _stem(inspect.getfile(cls))


@cache
def _stem(file: str) -> str:
    return Path(file).stem


def dump(value: Any) -> Any:
    """The plain data that `parse` reads back as an equal value: every field, defaults too, in the fields' order."""
    if isinstance(value, Value):
        name = {"name": value.component_name()} if isinstance(value, Component) else {}
        return {**name, **{field: dump(getattr(value, field)) for field in type(value).model_fields}}
    if isinstance(value, tuple):
        return [dump(item) for item in value]
    return value


def components(value: Any) -> Iterator[Component]:
    """Every component inside a value, itself included."""
    if isinstance(value, Component):
        yield value
    if isinstance(value, Value):
        for field in type(value).model_fields:
            yield from components(getattr(value, field))
    if isinstance(value, tuple):
        for item in value:
            yield from components(item)


def file_of(component: Component) -> Path:
    """The file that a component came from."""
    return Path(inspect.getfile(type(component)))


def summary(cls: type) -> str:
    """The first line of a component's docstring."""
    return (inspect.getdoc(cls) or "").partition("\n")[0]
