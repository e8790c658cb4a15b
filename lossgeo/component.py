"""Components: frozen values that a recipe can name, found by the name of their file.

`lossgeo/optimizers/sgd.py` holds one public final class `SGD(Optimizer)`, and that file is its whole registration. The
folder's `__init__.py` holds the interface, an abstract `Component`. From the class come the recipe's keys, `lossgeo list`,
the JSON Schema, the digest and the conformance tests.

The decision a reader would question: `parse` and `dump` walk the fields themselves instead of leaving nested values to
pydantic. Pydantic cannot choose a class by the name of a file, runs no sibling's checks once a custom validator raised, and
its serializer drops the fields of a subclass in silence, which would give two learning rates one run id.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from lossgeo.errors import UsageError

Keys = tuple[str | int, ...]  # the way from a recipe's root to a value, such as ("probes", 0, "top")

# what YAML 1.1 and people call booleans; read so only where a field is a boolean, a string elsewhere
YES_NO = {"yes": True, "on": True, "no": False, "off": False}


class Value(BaseModel):
    """A frozen, strictly typed group of recipe keys; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(core)


class Component(Value):
    """What a recipe can name. Abstract: the interfaces are `lossgeo.<folder>.<Interface>`, the components their files."""

    extra: ClassVar[tuple[str, str] | None] = (
        None  # (module, extra of pyproject.toml) of a package that is not always there
    )

    @classmethod
    def component_name(cls) -> str:
        """The name in recipes: the file's name."""
        return _stem(sys.modules[cls.__module__])

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if inspect.isabstract(cls):
            concrete = [find(cls, name) for name in names(cls)]
            by_name = {"enum": names(cls), "description": f"any of the {_folder(cls)}, with its defaults"}
            return {"anyOf": [by_name, *(handler(c.__pydantic_core_schema__) for c in concrete)]}
        schema = handler.resolve_ref_schema(handler(core))
        name = {"const": cls.component_name(), "description": summary(cls)}
        schema["properties"] = {"name": name, **schema.get("properties", {})}
        schema["required"] = ["name", *schema.get("required", [])]
        return schema


V = TypeVar("V", bound=Value)
C = TypeVar("C", bound=Component)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe: where (`keys`), and what, with the way out."""

    keys: Keys
    message: str


# --- finding ---------------------------------------------------------------------------------------------------------


def names(interface: type[Component], search: Iterable[Path] = ()) -> list[str]:
    """The components of an interface: its folder's files, then those of the user's files that implement it."""
    package = importlib.import_module(interface.__module__)
    own = [m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")]
    own = [n for n in own if issubclass(_the_class(importlib.import_module(f"{package.__name__}.{n}")), interface)]
    used = [f.stem for f in search if issubclass(_the_class(_load(f)), interface)]
    return sorted({*own, *used})


def find(interface: type[C], name: str, search: Iterable[Path] = ()) -> type[C]:
    """The class of the component `name`; imports only the file of that name.

    Raises:
        UsageError: no such file, with the nearest names; or the file holds another kind of component.
    """
    for file in search:
        if file.stem == name:
            used = _the_class(_load(file))
            if issubclass(used, interface):
                return used
    module_name = f"{interface.__module__}.{name}"
    known = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None and importlib.util.find_spec(module_name) is not None
    if not known:
        everything = names(interface, search)
        raise UsageError(f"no {_kind(interface)} is named {name!r}; {_hint(name, everything)}")
    return _the_class(importlib.import_module(module_name))  # type: ignore[return-value]  # by the folder's conformance test


def used_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The Python files behind `--use PATH`: the file itself, or every `*.py` of a folder.

    Raises:
        UsageError: nothing is there, or a file does not hold exactly one component.
    """
    files: list[Path] = []
    for path in paths:
        found = (
            sorted(path.glob("*.py")) if path.is_dir() else [path] if path.suffix == ".py" and path.is_file() else []
        )
        if not found:
            raise UsageError(f"--use {path}: no Python file there; name a .py file or a folder that holds some")
        files += found
    for file in files:
        _the_class(_load(file))
    return tuple(files)


def _load(file: Path) -> ModuleType:
    """A user's file as a module; its content is part of the module's name, so two versions of one file can live together."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    name = f"lossgeo_used_{digest}_{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None  # a .py file always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code may raise anything; the traceback is kept as the cause
        del sys.modules[name]
        raise UsageError(f"--use {file}: importing it failed: {type(error).__name__}: {error}") from error
    return module


def _the_class(module: ModuleType) -> type[Component]:
    own = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Component) and value.__module__ == module.__name__
        if not name.startswith("_") and not inspect.isabstract(value)
    ]
    if len(own) != 1:
        raise UsageError(
            f"{module.__file__}: holds {len(own)} public components; a file holds exactly one, of its own name"
        )
    return own[0]


def _stem(module: ModuleType) -> str:
    assert module.__file__ is not None  # components come from files
    return Path(module.__file__).stem


def _folder(interface: type[Component]) -> str:
    return interface.__module__.rpartition(".")[2]


def _kind(interface: type[Component]) -> str:
    return interface.__name__.lower()


def _hint(name: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(choices) or 'none: there are none yet'}"


# --- reading and writing ---------------------------------------------------------------------------------------------


def parse(cls: type[V], plain: Any, search: tuple[Path, ...] = (), keys: Keys = ()) -> tuple[V | None, list[Problem]]:
    """A value of `cls` (for an interface: of the component named in `plain`) and everything wrong with `plain`.

    `plain` is what a YAML document can say. A component is written `{name: sgd, lr: 0.1}` or
    just `sgd`. The value is None exactly when there are problems.
    """
    concrete: type[V] = cls
    fields = {"name": plain} if issubclass(cls, Component) and isinstance(plain, str) else plain
    if not isinstance(fields, dict):
        wanted = "a name or a mapping with `name`" if issubclass(cls, Component) else "a mapping of keys to values"
        return None, [Problem(keys, f"should be {wanted}, not {_show(plain)}")]
    if issubclass(cls, Component):
        fields = dict(fields)
        name = fields.pop("name", None)
        if not isinstance(name, str):
            return None, [Problem(keys, f"`name` is missing: it says which of the {_folder(cls)} to use")]
        try:
            concrete = find(cls, name, search)
        except UsageError as error:
            return None, [Problem((*keys, "name") if isinstance(plain, dict) else keys, str(error))]
        if concrete.extra is not None and importlib.util.find_spec(concrete.extra[0]) is None:  # type: ignore[attr-defined]
            module, extra = concrete.extra  # type: ignore[attr-defined]
            return None, [Problem(keys, f"{name!r} needs the package {module!r}: pip install 'lossgeo[{extra}]'")]
    return _parse_fields(concrete, fields, search, keys)


def _parse_fields(
    cls: type[V], plain: dict[Any, Any], search: tuple[Path, ...], keys: Keys
) -> tuple[V | None, list[Problem]]:
    known = cls.model_fields
    problems = [
        Problem((*keys, key), f"unknown key; {_hint(str(key), list(known))}") for key in plain if key not in known
    ]
    values: dict[str, Any] = {}
    broken: set[str] = set()
    for key, value in plain.items():
        if key not in known:
            continue
        value = _tuples(value)
        member, many = _member(known[key].annotation)
        if member is None or (value is None and not many):
            values[key] = YES_NO.get(value.lower(), value) if _is_bool(known[key].annotation, value) else value
            continue
        if many and not isinstance(value, tuple):
            problems.append(Problem((*keys, key), f"should be a list, not {_show(value)}"))
            broken.add(key)
            continue
        items = [(value, (*keys, key))] if not many else [(v, (*keys, key, i)) for i, v in enumerate(value)]
        parsed = [parse(member, item, search, where) for item, where in items]
        wrong = [problem for _, found in parsed for problem in found]
        problems += wrong
        if wrong:
            broken.add(key)
        else:
            values[key] = tuple(v for v, _ in parsed) if many else parsed[0][0]
    try:
        made = cls.model_validate(values)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            where = tuple(detail["loc"])
            if where and where[0] in broken:
                continue  # a member that is already reported, and so counts as missing here
            problems.append(_from_pydantic(cls, keys, where, dict(detail)))
        made = None
    if not problems:
        return made, []
    return None, list(dict.fromkeys(problems))


def _from_pydantic(cls: type[Value], keys: Keys, where: Keys, detail: dict[str, Any]) -> Problem:
    field = cls.model_fields.get(str(where[0])) if where else None
    meaning = f" ({field.description})" if field is not None and field.description else ""
    # in a union such as int | "full", pydantic appends the branch's own name to the way; it means nothing to a reader
    readable = tuple(part for part in where if isinstance(part, int) or part in cls.model_fields)
    if detail["type"] == "missing":
        return Problem((*keys, *readable), f"is missing{meaning}")
    message = str(detail["msg"]).removeprefix("Value error, ")
    if message.startswith("Input should"):
        message = f"{message.removeprefix('Input ')}, not {_show(detail['input'])}"
    return Problem((*keys, *readable), f"{message}{meaning if where else ''}")


def _member(annotation: Any) -> tuple[type[Value] | None, bool]:
    """The Value class inside an annotation, if any, and whether it comes as a tuple of them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return _member(arguments[0])[0], _member(arguments[0])[0] is not None
    if origin in (Union, UnionType):
        inside = [m for m in (_member(a)[0] for a in arguments) if m is not None]
        return (inside[0], False) if inside else (None, False)
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return annotation, False
    return None, False


def _tuples(value: Any) -> Any:
    """Lists as tuples all the way down: frozen values hold no lists."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _is_bool(annotation: Any, value: Any) -> bool:
    return annotation is bool and isinstance(value, str)


def _show(value: Any) -> str:
    """A value in a message: short, and never megabytes of it."""
    if isinstance(value, dict | tuple):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dump(value: Any) -> Any:
    """The plain data that `parse` reads back as an equal value: every field, defaults included, in the fields' order."""
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
