"""YAML text -> plain data that remembers where every value stands.

Built from PyYAML's events rather than its loader, because a recipe is read more strictly than YAML 1.1 allows: numbers and
booleans as YAML 1.2 has them (`1e-3` is a number), equal keys refused, no tags, and sizes bounded before anything is built,
so that a hostile file costs a message and not the machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from lossgeo.component import Keys, Problem
from lossgeo.errors import UsageError

# Bounds far above any recipe: a sweep of a thousand values takes 10 kB. They keep reading below a second.
MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 50_000
MAX_DIGITS = 400  # Python itself refuses integers beyond 4,300 digits

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
WORDS = {
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class RecipeError(UsageError):
    """Everything wrong with a recipe, one line each: where, which key, what, the way out."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(dict.fromkeys(lines)))
        self.lines = lines


@dataclass(frozen=True)
class Document:
    """A mapping read from YAML, and where its parts stand."""

    plain: dict[str, Any]
    name: str  # the file, as the user wrote it
    places: dict[Keys, str] = field(default_factory=dict)  # keys -> "file:line:column", or the option that set them

    def place(self, keys: Keys) -> str:
        """Where a value stands; for one that does not exist, where its nearest parent stands."""
        while keys and keys not in self.places:
            keys = keys[:-1]
        return self.places.get(keys, self.name)

    def error(self, problems: list[Problem]) -> RecipeError:
        """The problems as one error, each with its place, in the order of the file."""
        return RecipeError([f"{self.place(p.keys)}: {_dotted(p.keys)}{p.message}" for p in problems])


def _dotted(keys: Keys) -> str:
    return f"{'.'.join(map(str, keys))}: " if keys else ""


def read_document(text: bytes, name: str) -> Document:
    """The document in `text`; sequences become tuples. `name` stands in messages.

    Raises:
        RecipeError: not UTF-8, not YAML, not one mapping, too large or too deep, equal keys, or tags.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(
            [f"{name}: longer than {MAX_BYTES // 1024} kB; a recipe is a page, data go into files of their own"]
        )
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise RecipeError([f"{name}:{line}:1: not UTF-8 text"]) from error
    builder = _Builder(name)
    try:
        for event in yaml.parse(decoded, Loader=LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise RecipeError([f"{name}{where}: not YAML: {error.problem or error.context}"]) from error
    except yaml.YAMLError as error:
        raise RecipeError([f"{name}: not YAML: {' '.join(str(error).split())}"]) from error
    if builder.problems:
        raise RecipeError(builder.problems)
    if not isinstance(builder.root, dict):
        raise RecipeError([f"{name}:1:1: a recipe is a mapping of keys to values, such as `model: mlp`"])
    return Document(builder.root, name, builder.places)


def read_value(text: str, option: str) -> Any:
    """One YAML value from the command line, such as `0.1`, `[16, 64]` or `{name: adam, lr: 1e-3}`."""
    return read_document(f"value: {text}".encode(), option).plain.get("value")


def read_named(text: str, option: str) -> Any:
    """A component from the command line, `NAME` or `NAME:key=value,key=value`, as plain data."""
    name, colon, settings = text.partition(":")
    if not colon:
        return name
    # a comma ends a setting only where the next one begins, so that lists need no quoting: at=[first,last],top=5
    flow = re.sub(r"(^|,)\s*([A-Za-z_]+)=", r"\1 \2: ", settings)
    read = read_value(f"{{{flow}}}", option)
    if not isinstance(read, dict) or "=" not in settings:
        raise RecipeError([f"{option}: write NAME:key=value,key=value"])
    return {"name": name, **read}


def scalar(text: str) -> Any:
    """A plain (unquoted) YAML scalar as YAML 1.2's core schema reads it."""
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        digits = text.lstrip("+-")
        return int(text, 0) if digits[:2] in ("0o", "0x") else int(text)
    return float(text) if FLOAT.fullmatch(text) else text


@dataclass
class _Open:
    """A collection that is being read."""

    made: Any  # dict or list
    keys: Keys
    anchor: str | None
    size: int = 1  # nodes inside, with aliases counted as often as they are named
    key: str | None = None  # the mapping key whose value comes next
    seen: set[str] = field(default_factory=set)


class _Builder:
    """Events in, plain data and places out; never recursive, so depth costs nothing."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.root: Any = None
        self.places: dict[Keys, str] = {}
        self.problems: list[str] = []
        self.stack: list[_Open] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.documents = 0

    def take(self, event: Any) -> None:
        place = f"{self.name}:{event.start_mark.line + 1}:{event.start_mark.column + 1}"
        if getattr(event, "tag", None) is not None:
            raise RecipeError([f"{place}: tags such as {event.tag!r} are not used in recipes; write the plain value"])
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    raise RecipeError([f"{place}: a second document begins; a recipe file holds one"])
            case yaml.ScalarEvent():
                plain = event.style is None or event.style == ""
                if self._key(event.value, place):
                    return
                if len(event.value) > MAX_DIGITS and plain and FLOAT.fullmatch(event.value):
                    raise RecipeError([f"{place}: a number of {len(event.value)} digits"])
                self._add(scalar(event.value) if plain else event.value, 1, place, event.anchor)
            case yaml.AliasEvent():
                if self._expects_key():
                    raise RecipeError([f"{place}: an alias cannot be a key"])
                if event.anchor not in self.anchors:
                    raise RecipeError([f"{place}: *{event.anchor} names an anchor that is not complete at this point"])
                made, size = self.anchors[event.anchor]
                self._add(made, size, place, None)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                if self._expects_key():
                    raise RecipeError([f"{place}: a key is a word, not a list or a mapping"])
                if len(self.stack) >= MAX_DEPTH:
                    raise RecipeError([f"{place}: nested deeper than {MAX_DEPTH} levels"])
                keys = self._child_keys()
                self.places.setdefault(keys, place)
                made: Any = {} if isinstance(event, yaml.MappingStartEvent) else []
                self.stack.append(_Open(made, keys, event.anchor))
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                top = self.stack.pop()
                done = tuple(top.made) if isinstance(top.made, list) else top.made
                self._add(done, top.size, place, top.anchor, top.keys)

    def _expects_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1].made, dict) and self.stack[-1].key is None

    def _child_keys(self) -> Keys:
        if not self.stack:
            return ()
        top = self.stack[-1]
        return (*top.keys, top.key if top.key is not None else len(top.made))

    def _key(self, text: str, place: str) -> bool:
        """Take a scalar as a mapping key, where one is due."""
        if not self._expects_key():
            return False
        top = self.stack[-1]
        if text in top.seen:
            dotted = ".".join(map(str, (*top.keys, text)))
            self.problems.append(f"{place}: {dotted}: this key stands here twice; keep one")
        top.seen.add(text)
        top.key = text
        self.places[(*top.keys, text)] = place
        return True

    def _add(self, value: Any, size: int, place: str, anchor: str | None, keys: Keys | None = None) -> None:
        """Put a finished value where it belongs."""
        if keys is None:
            self.places.setdefault(self._child_keys(), place)
        if anchor is not None:
            self.anchors[anchor] = (value, size)
        if not self.stack:
            self.root = value
            return
        top = self.stack[-1]
        top.size += size
        if top.size > MAX_NODES:
            raise RecipeError([f"{place}: more than {MAX_NODES} values, aliases expanded"])
        if top.key is None:
            top.made.append(value)
        else:
            top.made[top.key] = value
            top.key = None
