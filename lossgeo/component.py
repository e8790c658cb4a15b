"""Components: frozen values that a recipe can name, found by the name of their file.

`lossgeo/optimizers/sgd.py` holds one public final class `SGD(Optimizer)`, and that file is its whole registration. The
folder's `__init__.py` holds the interface, an abstract `Component`. From the class come the recipe's keys, what
`lossgeo list` prints, the JSON Schema, the digest and the conformance tests.

The decision a reader would question: `parse` and `dump` walk the fields themselves instead of leaving nested values to
pydantic. Pydantic cannot choose a class by the name of a file, runs no sibling's checks once a custom validator raised,
and its serializer drops the fields of a subclass in silence, which would give two learning rates one run id.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import math
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails

from lossgeo.errors import UsageError

Keys = tuple[str | int, ...]  # the way from a recipe's root to a value, such as ("probes", 0, "top")

# what YAML 1.1 and people call booleans; read so only where a field is a boolean, a string elsewhere
YES_NO = {"yes": True, "on": True, "no": False, "off": False}

# from pydantic's words to a recipe writer's
READABLE = (
    (r"^(Input|String|Tuple|Value error,) ", ""),
    (r"a valid boolean", "true or false"),
    (r"a valid tuple", "a list"),
    (r"a valid string", "text"),
    (r"a valid integer", "a whole number"),
    (r"\bvalid ", ""),
    (r"greater than or equal to", "at least"),
    (r"less than or equal to", "at most"),
    (r"greater than", "above"),
    (r"less than", "below"),
    (r" after validation", ""),
)


class Value(BaseModel):
    """A frozen, strictly typed group of recipe keys; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for key, field in cls.model_fields.items():
            if not field.is_required():
                properties[key]["default"] = dump(field.default)  # pydantic's own would lack the component's name
        return schema


class Component(Value):
    """What a recipe can name. The interfaces are `lossgeo.<folder>.<Interface>`, the components the folder's files."""

    # (module, extra of pyproject.toml) of a package that is not always there
    extra: ClassVar[tuple[str, str] | None] = None

    @classmethod
    def component_name(cls) -> str:
        """The name in recipes: the file's name."""
        return _stem(inspect.getfile(cls))

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        if inspect.isabstract(cls):
            concrete = [find(cls, name) for name in names(cls)]
            bare = [c.component_name() for c in concrete if not any(f.is_required() for f in c.model_fields.values())]
            by_name = {"enum": bare, "description": f"any of the {_folder(cls)}, with its defaults"}
            mappings = [c.__get_pydantic_json_schema__(c.__pydantic_core_schema__, handler) for c in concrete]
            return {"anyOf": [*([by_name] if bare else []), *mappings]}
        schema = handler.resolve_ref_schema(super().__get_pydantic_json_schema__(core, handler))
        name = {"const": cls.component_name(), "description": summary(cls)}
        schema["properties"] = {"name": name, **schema.get("properties", {})}
        schema["required"] = ["name"]  # what else is required, a sweep may give
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
    known = (
        re.fullmatch(r"[a-z][a-z0-9_]{0,99}", name) is not None and importlib.util.find_spec(module_name) is not None
    )
    if not known:
        kind = _kind(interface)
        way_out = hint(name, names(interface, search))
        own = "" if way_out.startswith("did you mean") else ", or bring your own with --use PATH"
        raise UsageError(f"no {kind} is named {show(name)}; {other}{way_out}{own}")
    return _the_class(importlib.import_module(module_name))  # type: ignore[return-value]  # by the folder's conformance test


def used_files(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The Python files behind `--use PATH`: the file itself, or every `*.py` of a folder that is not private (`_x.py`).

    Each has to stand by itself, since it is copied into the folders of the runs that need it.

    Raises:
        UsageError: nothing is there, a file cannot be imported or does not hold exactly one component, or two files
            have one name.
    """
    files: dict[str, Path] = {}
    for path in paths:
        inside = sorted(f for f in path.glob("*.py") if not f.name.startswith("_")) if path.is_dir() else [path]
        found = [f for f in inside if f.suffix == ".py" and f.is_file()]
        if not found:
            raise UsageError(f"--use {path}: no Python file there; name a .py file or a folder that holds some")
        for file in found:
            if not files.setdefault(file.name, file).samefile(file):
                raise UsageError(f"--use {path}: {file} and {files[file.name]} have one name; rename one")
    for file in files.values():
        _the_class(_load(file))
    return tuple(files.values())


def _load(file: Path) -> ModuleType:
    """A user's file as a module, named after place and content so that versions and runs' copies can live together."""
    file = file.absolute()  # not resolved: a link's own name is the component's
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"--use {file}: cannot be read: {error.strerror}") from error
    digest = hashlib.sha256(str(file).encode("utf-8", "surrogateescape") + b"\0" + content).hexdigest()[:12]
    name = f"lossgeo_used_{digest}_{file.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "a .py file always has a loader"
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything; the cause keeps the traceback
        del sys.modules[name]
        own = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
        where = f"{file}:{own[-1]}" if own else file
        raise UsageError(f"--use {where}: importing it failed: {type(error).__name__}: {error}") from error
    return module


def _the_class(module: ModuleType) -> type[Component]:
    public = [
        value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Component) and value.__module__ == module.__name__
        if not name.startswith("_")
    ]
    own = [cls for cls in dict.fromkeys(public) if not inspect.isabstract(cls)]
    if len(own) != 1:
        lacking = [f"{c.__name__} lacks {', '.join(sorted(c.__abstractmethods__))}" for c in public if c not in own]
        why = f" ({'; '.join(lacking)})" if lacking else ""
        raise UsageError(f"{module.__file__}: holds {len(own)} public components{why}; a file holds exactly one")
    if "name" in own[0].model_fields:
        raise UsageError(f"{module.__file__}: `name` chooses the component in a recipe; call the field something else")
    return own[0]


@cache
def _stem(file: str) -> str:
    return Path(file).stem


def _folder(interface: type[Component]) -> str:
    return interface.__module__.rpartition(".")[2]


def _kind(cls: type[Component]) -> str:
    """The interface in a word, for one of its components too."""
    return next((c for c in cls.__mro__ if Component in c.__bases__), cls).__name__.lower()


def hint(name: str, choices: Iterable[str]) -> str:
    """The way out for a misspelt name: the nearest choice, or all of them."""
    near = difflib.get_close_matches(name.lower(), choices := list(choices), n=1, cutoff=0.5)
    if not choices:
        return "there are none to choose from"
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(choices)}"


# --- reading and writing ---------------------------------------------------------------------------------------------


def parse(cls: type[V], plain: Any, search: tuple[Path, ...] = (), keys: Keys = ()) -> tuple[V | None, list[Problem]]:
    """A value of `cls` (for an interface: of the component named in `plain`) and everything wrong with `plain`.

    `plain` is what a YAML document can say. A component is written `{name: sgd, lr: 0.1}` or just `sgd`. The value is
    None exactly when there are problems.
    """
    concrete: type[V] = cls
    fields = {"name": plain} if issubclass(cls, Component) and isinstance(plain, str) else plain
    if not isinstance(fields, dict):
        wanted = "a name or a mapping with `name`" if issubclass(cls, Component) else "a mapping of keys to values"
        return None, [Problem(keys, f"should be {wanted}, not {show(plain)}")]
    if issubclass(cls, Component):
        fields = dict(fields)
        name = fields.pop("name", None)
        named = (*keys, "name") if fields is not plain and isinstance(plain, dict) and "name" in plain else keys
        if not isinstance(name, str):
            choices = ", ".join(names(cls, search))
            return None, [Problem(named, f"`name` should say which of the {_folder(cls)} to use: {choices}")]
        try:
            concrete = find(cls, name, search)
        except UsageError as error:
            return None, [Problem(named, str(error))]
        if concrete.extra is not None and importlib.util.find_spec(concrete.extra[0]) is None:
            module, extra = concrete.extra
            return None, [Problem(named, f"{name!r} needs the package {module!r}: pip install 'lossgeo[{extra}]'")]
    return _parse_fields(concrete, fields, search, keys)


def _parse_fields(
    cls: type[V], plain: dict[str, Any], search: tuple[Path, ...], keys: Keys
) -> tuple[V | None, list[Problem]]:
    known = cls.model_fields
    problems = [Problem((*keys, key), f"unknown key; {hint(key, known)}") for key in plain if key not in known]
    values: dict[str, Any] = {}
    broken: set[str] = set()
    for key, value in {**_taken_over(cls, search), **plain}.items():
        if key not in known:
            continue
        made, wrong = _parse_field(known[key].annotation, _tuples(value), search, (*keys, key))
        if wrong:
            problems += wrong
            broken.add(key)
        else:
            values[key] = made
    try:
        whole = cls.model_validate(values)
    except ValidationError as error:
        # a field that is already reported counts as missing here
        details = [d for d in error.errors(include_url=False) if not d["loc"] or d["loc"][0] not in broken]
        problems += _from_pydantic(cls, keys, details)
        return None, problems
    return (None, problems) if problems else (whole, [])


def _taken_over(cls: type[Value], search: tuple[Path, ...]) -> dict[str, str]:
    """The defaults whose name a file of the user's has taken: there too the user's component wins."""
    taken = {file.stem for file in search}
    defaults = {
        key: f.default.component_name() for key, f in cls.model_fields.items() if isinstance(f.default, Component)
    }
    return {key: name for key, name in defaults.items() if name in taken}


def _parse_field(annotation: Any, value: Any, search: tuple[Path, ...], keys: Keys) -> tuple[Any, list[Problem]]:
    """The value of one field as pydantic takes it; for plain types pydantic itself says what is wrong."""
    member, many = _member(annotation)
    if member is None or (value is None and type(None) in get_args(annotation)):
        return YES_NO.get(value.lower(), value) if annotation is bool and isinstance(value, str) else value, []
    if not many:
        return parse(member, value, search, keys)
    if not isinstance(value, tuple):
        return None, [Problem(keys, f"should be a list, not {show(value)}")]
    parsed = [parse(member, item, search, (*keys, i)) for i, item in enumerate(value)]
    return tuple(made for made, _ in parsed), [problem for _, wrong in parsed for problem in wrong]


def _from_pydantic(cls: type[Value], keys: Keys, details: list[ErrorDetails]) -> list[Problem]:
    """What pydantic found, one problem a place; the branches of a union, such as int | "full", make one sentence."""
    found: dict[Keys, list[ErrorDetails]] = {}
    for detail in details:
        # in a union, pydantic adds the branch's own name to the way; it means nothing to a reader
        where = tuple(part for i, part in enumerate(detail["loc"]) if i == 0 or isinstance(part, int))
        found.setdefault(where, []).append(detail)
    # of a union with a list, the branch that got into the list is the one that was meant
    inner = [w for w in found if w == () or not any(len(o) > len(w) and o[: len(w)] == w for o in found)]
    return [Problem((*keys, *where), _sentence(cls, where, found[where])) for where in inner]


def _sentence(cls: type[Value], where: Keys, details: list[ErrorDetails]) -> str:
    said = [str(detail["msg"]) for detail in details]
    if not where:
        return "; ".join(message.removeprefix("Value error, ") for message in said)
    description = cls.model_fields[str(where[0])].description
    meaning = f" ({description})" if description else ""
    if details[0]["type"] == "missing":
        return f"is missing{meaning}"
    for pattern, words in READABLE:
        said = [re.sub(pattern, words, message) for message in said]
    first, *others = dict.fromkeys(said)
    message = " or ".join([first, *(other.removeprefix("should be ") for other in others)])
    given = "" if ", not " in message else f", not {show(details[0]['input'])}"
    return f"{message}{given}{meaning}"


def _member(annotation: Any) -> tuple[type[Value] | None, bool]:
    """The Value class inside an annotation, if any, and whether it comes as a tuple of them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        inside, _ = _member(arguments[0])
        return inside, inside is not None
    if origin in (Union, UnionType):
        return next((m for m in map(_member, arguments) if m[0] is not None), (None, False))
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return annotation, False
    return None, False


def _tuples(value: Any) -> Any:
    """Lists as tuples all the way down: frozen values hold no lists."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def show(value: Any) -> str:
    """A value in a message, as YAML has it: one short line, and never megabytes of it."""
    if isinstance(value, dict | tuple | list):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("nan", ".nan").replace("inf", ".inf")
    text = repr(value[:60] if isinstance(value, str) else value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
