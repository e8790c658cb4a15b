"""From plain data, as a YAML document says it, to a validated value, with everything that is wrong told at once.

The fields are walked here instead of being left to pydantic, which cannot choose a class by the name of a file, and
runs no sibling's checks once a custom validator raised.
"""

from __future__ import annotations

import importlib.util
import math
import re
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lossgeo.components.component import Component, Value, dump
from lossgeo.components.finding import find, folder_of, hint, names
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

V = TypeVar("V", bound=Value)


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe: where (`keys`), and what, with the way out."""

    keys: Keys
    message: str


def parse(
    cls: type[V], plain: Any, search: tuple[Path, ...] = (), keys: Keys = (), whole: bool = False
) -> tuple[V | None, list[Problem]]:
    """A value of `cls` (for an interface: of the component named in `plain`) and everything wrong with `plain`.

    `plain` is what a YAML document can say. A component is written `{name: sgd, lr: 0.1}` or just `sgd`. With `whole`
    it was a dump once: a key that is missing joined later, and its value is the one that does what was done before.
    The value is None exactly when there are problems.
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
            return None, [Problem(named, f"`name` should say which of the {folder_of(cls)} to use: {choices}")]
        try:
            concrete = find(cls, name, search)
        except UsageError as error:
            return None, [Problem(named, str(error))]
        if concrete.extra is not None and importlib.util.find_spec(concrete.extra[0]) is None:
            module, extra = concrete.extra
            return None, [Problem(named, f"{name!r} needs the package {module!r}: pip install 'lossgeo[{extra}]'")]
    return _parse_fields(concrete, fields, search, keys, whole)


def _parse_fields(
    cls: type[V], plain: dict[str, Any], search: tuple[Path, ...], keys: Keys, whole: bool
) -> tuple[V | None, list[Problem]]:
    known = cls.model_fields
    problems = [
        Problem((*keys, key), f"unknown key; {cls.elsewhere.get(key) or hint(key, known)}")
        for key in plain
        if key not in known
    ]
    values: dict[str, Any] = {}
    broken: set[str] = set()
    for key, value in {**_taken_over(cls, search), **(_before(cls) if whole else {}), **plain}.items():
        if key not in known:
            continue
        parsed, wrong = _parse_field(known[key].annotation, _tuples(value), search, (*keys, key), whole)
        if wrong:
            problems += wrong
            broken.add(key)
        else:
            values[key] = parsed
    try:
        made = cls.model_validate(values)
    except ValidationError as error:
        # a field that is already reported counts as missing here
        details = [d for d in error.errors(include_url=False) if not d["loc"] or d["loc"][0] not in broken]
        problems += _from_pydantic(cls, keys, details)
        return None, problems
    return (None, problems) if problems else (made, [])


def _taken_over(cls: type[Value], search: tuple[Path, ...]) -> dict[str, str]:
    """The defaults whose name a file of the user's has taken: there too the user's component wins."""
    taken = {file.stem for file in search}
    defaults = {
        key: f.default.component_name() for key, f in cls.model_fields.items() if isinstance(f.default, Component)
    }
    return {key: name for key, name in defaults.items() if name in taken}


def _before(cls: type[Value]) -> dict[str, Any]:
    """The keys that joined later, each with the value that does what was done before."""
    return {key: dump(value) for key, value in cls.joined.items()}


def _parse_field(
    annotation: Any, value: Any, search: tuple[Path, ...], keys: Keys, whole: bool
) -> tuple[Any, list[Problem]]:
    """The value of one field as pydantic takes it; for plain types pydantic itself says what is wrong."""
    member, many = _member(annotation)
    if member is None or (value is None and type(None) in get_args(annotation)):
        return YES_NO.get(value.lower(), value) if annotation is bool and isinstance(value, str) else value, []
    if not many:
        return parse(member, value, search, keys, whole)
    if not isinstance(value, tuple):
        return None, [Problem(keys, f"should be a list, not {show(value)}")]
    parsed = [parse(member, item, search, (*keys, i), whole) for i, item in enumerate(value)]
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
