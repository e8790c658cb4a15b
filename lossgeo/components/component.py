"""Components: frozen values that a recipe can name; the file is the registration, the class says all there is to say.

`lossgeo/optimizers/sgd.py` holds one public final class `SGD(Optimizer)`, and the folder's `__init__.py` the
interface, an abstract `Component`. From the class come the recipe's keys, what `lossgeo list` prints, the JSON Schema,
the digest and the conformance tests.

`dump` (and `parse`, in `parsing`) walk the fields themselves instead of leaving nested values to pydantic, whose
serializer drops the fields of a subclass in silence: two learning rates would get one run id.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from lossgeo.errors import UsageError


class Value(BaseModel):
    """A frozen, strictly typed group of recipe keys; unknown keys, NaN and infinity are refused."""

    # keys that stand somewhere else now, and where
    elsewhere: ClassVar[Mapping[str, str]] = MappingProxyType({})
    # keys that joined when runs had been made, each with the value that does what was done without it
    joined: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Component(Value):
    """What a recipe can name. An interface stands in a folder's `__init__`, its components are the folder's files."""

    # (module, extra of pyproject.toml) of a package that is not always there
    extra: ClassVar[tuple[str, str] | None] = None
    # names of files beside a user's component that it reads, or absolute ones; a property, where fields name them.
    # Their content is in the run's id, and the run's folder keeps them.
    files: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def component_name(cls) -> str:
        """The name in recipes: the file's name."""
        return _stem(inspect.getfile(cls))

    def beside(self, name: str) -> Path:
        """The place of a file that `files` names: beside the component, wherever that stands now.

        Raises:
            UsageError: `files` does not name it.
        """
        if name not in self.files:
            raise UsageError(f"`files` of {file_of(self)} does not name {name!r}, so it is no part of the run's id")
        return file_of(self).parent / name


@cache
def _stem(file: str) -> str:
    return Path(file).stem


def dump(value: Any) -> Any:
    """The plain data that `parse` reads back as an equal value: every field, defaults too, in the fields' order."""
    return _plain(value, lambda owner, field: True)


def identity(value: Any) -> Any:
    """What digests are made of: `dump` without the keys that joined later, where these do what was done before.

    A run that was made before a key joined keeps its id.
    """

    def said(owner: Value, field: str) -> bool:
        return field not in owner.joined or getattr(owner, field) != owner.joined[field]

    return _plain(value, said)


def _plain(value: Any, said: Callable[[Value, str], bool]) -> Any:
    if isinstance(value, Value):
        name = {"name": value.component_name()} if isinstance(value, Component) else {}
        fields = [field for field in type(value).model_fields if said(value, field)]
        return {**name, **{field: _plain(getattr(value, field), said) for field in fields}}
    if isinstance(value, tuple):
        return [_plain(item, said) for item in value]
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
