"""YAML text -> plain data that remembers where every value stands.

Built from PyYAML's events rather than its loader, because a recipe is read more strictly than YAML 1.1 allows: numbers
and booleans as YAML 1.2 has them (`1e-3` is a number), equal keys refused, no tags, and sizes bounded before anything
is built, so that a hostile file costs a message and not the machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from lossgeo.components.parsing import Keys, Problem, show
from lossgeo.errors import UsageError

# Bounds far above any recipe: a sweep of a thousand values takes 10 kB. They keep reading below a second.
MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_NODES = 50_000
MAX_DIGITS = 400  # more than any float has, and far from the 4,300 at which Python refuses to write an integer
MAX_PROBLEMS = 100  # a message longer than this is not read

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NUMBER = re.compile(f"{INTEGER.pattern}|{FLOAT.pattern}")
UNPRINTABLE = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
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
        self.lines = list(dict.fromkeys(lines))
        more = len(self.lines) - MAX_PROBLEMS
        super().__init__("\n".join([*self.lines[:MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]))


@dataclass(frozen=True)
class Document:
    """A mapping read from YAML, and where its parts stand."""

    plain: dict[str, Any]
    name: str  # the file, as the user wrote it
    places: dict[Keys, str] = field(default_factory=dict)  # keys -> "file:line:column", or the option that set them
    complaints: tuple[str, ...] = ()  # what was wrong so far, to be raised together with what validation finds

    def place(self, keys: Keys) -> str:
        """Where a value stands; for one that does not exist, where its nearest parent stands."""
        return self.places.get(self._nearest(keys), self.name)

    def error(self, problems: list[Problem]) -> RecipeError:
        """The problems as one error, each with its place, in the order of the file."""
        order = {keys: i for i, keys in enumerate(self.places)}
        ordered = sorted(problems, key=lambda p: order.get(self._nearest(p.keys), -1))
        return RecipeError([f"{self.place(p.keys)}: {dotted(p.keys)}{p.message}" for p in ordered])

    def _nearest(self, keys: Keys) -> Keys:
        while keys and keys not in self.places:
            keys = keys[:-1]
        return keys


def dotted(keys: Keys) -> str:
    """The way to a value as a message begins: `optimizer.lr: `, or nothing for the whole."""
    words = [str(key) if str(key).isprintable() and len(str(key)) <= 60 else show(key) for key in keys]
    return f"{'.'.join(words)}: " if words else ""


def read_document(text: bytes, name: str) -> Document:
    """The document in `text`; sequences become tuples. `name` stands in messages.

    Raises:
        RecipeError: not UTF-8, not YAML, not one mapping, too large or too deep, or with tags.
    """
    builder = _read(text, name)
    if not isinstance(builder.root, dict):
        what = "there is nothing in it" if builder.root is None else f"this is {show(builder.root)}"
        raise RecipeError([f"{name}:1:1: {what}; a recipe is a mapping of keys to values, such as `model: mlp`"])
    return Document(builder.root, name, builder.places, tuple(builder.problems))


def read_value(text: str, option: str) -> Any:
    """One YAML value from the command line, such as `0.1`, `[16, 64]` or `{name: adam, lr: 1e-3}`.

    Raises:
        RecipeError: not a YAML value; the option stands for the place.
    """
    try:
        # what a shell passed that is not UTF-8 stands in Python as lone surrogates
        builder = _read(text.encode(errors="surrogatepass"), option)
        problems = builder.problems
    except RecipeError as error:
        problems = error.lines
    if problems:
        within = re.compile(re.escape(option) + r"(:\d+:\d+)?: ")  # line and column mean little in an option
        raise RecipeError([f"{option}: {within.sub('', line, count=1)}" for line in problems])
    return builder.root


def _read(text: bytes, name: str) -> _Builder:
    if len(text) > MAX_BYTES:
        raise RecipeError(
            [f"{name}: longer than {MAX_BYTES // 1024} kB; a recipe is a page, data go into files of their own"]
        )
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise RecipeError([f"{name}:{line}:1: not UTF-8 text"]) from error
    if odd := UNPRINTABLE.search(decoded):
        before = decoded[: odd.start()]
        place = f"{name}:{before.count(chr(10)) + 1}:{odd.start() - before.rfind(chr(10))}"
        raise RecipeError([f"{place}: not YAML: it holds the unprintable character U+{ord(odd[0]):04X}"])
    builder = _Builder(name)
    try:
        for event in yaml.parse(decoded, Loader=LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        if "nesting depth" in str(error.problem):  # newer parsers have a limit of their own, and look ahead to it
            raise RecipeError([f"{name}{where}: nested deeper than {MAX_DEPTH} levels"]) from error
        hint = "; indent with spaces, not tabs" if "\t" in decoded and "start any token" in str(error.problem) else ""
        raise RecipeError([f"{name}{where}: not YAML: {error.problem or error.context}{hint}"]) from error
    except yaml.YAMLError as error:
        raise RecipeError([f"{name}: not YAML: {' '.join(str(error).split())}"]) from error
    return builder


def read_named(text: str, option: str) -> Any:
    """A component from the command line, `NAME` or `NAME:key=value,key=value`, as plain data."""
    name, colon, settings = text.partition(":")
    if not colon:
        return name
    # a comma ends a setting only where the next one begins, so that lists need no quoting: at=[first,last],top=5
    flow = re.sub(r"(^|,)\s*(\w+)=", r"\1 \2: ", settings)
    read = read_value(f"{{{flow}}}", option)
    if not isinstance(read, dict) or "=" not in settings:
        raise RecipeError([f"{option}: write NAME:key=value,key=value"])
    return {"name": name, **read}


def write_document(plain: dict[str, Any]) -> bytes:
    """The YAML that `read_document` reads back as the same data; PyYAML alone would leave the text "1e-3" unquoted."""
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, encoding="utf-8")


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.2 takes for a number too, besides what YAML 1.1 does."""


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"(?:{NUMBER.pattern})$"), list("-+.0123456789"))


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
            raise RecipeError(
                [f"{place}: tags such as {show(event.tag)} are not used in recipes; write the plain value"]
            )
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents > 1:
                    raise RecipeError([f"{place}: a second document begins; a recipe file holds one"])
            case yaml.ScalarEvent():
                if not self._key(event.value, place):
                    self._scalar(event, place)
            case yaml.AliasEvent():
                self._alias(event.anchor, place)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._begin({} if isinstance(event, yaml.MappingStartEvent) else [], event.anchor, place)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                top = self.stack.pop()
                done = tuple(top.made) if isinstance(top.made, list) else top.made
                self._add(done, top.size, place, top.anchor, top.keys)

    def _scalar(self, event: yaml.ScalarEvent, place: str) -> None:
        text, plain = event.value, not event.style
        if plain and len(text) > MAX_DIGITS and NUMBER.fullmatch(text):
            raise RecipeError([f"{place}: a number of {len(text)} digits; write it as 1e+300, and below that"])
        self._add(scalar(text) if plain else text, 1, place, event.anchor)

    def _alias(self, anchor: str | None, place: str) -> None:
        if self._expects_key():
            raise RecipeError([f"{place}: an alias cannot be a key"])
        if anchor is None or anchor not in self.anchors:
            raise RecipeError([f"{place}: no anchor named {show(anchor)} is complete here"])
        made, size = self.anchors[anchor]
        self._add(made, size, place, None)

    def _begin(self, made: dict[str, Any] | list[Any], anchor: str | None, place: str) -> None:
        if self._expects_key():
            raise RecipeError([f"{place}: a key is a word, not a list or a mapping"])
        if len(self.stack) >= MAX_DEPTH:
            raise RecipeError([f"{place}: nested deeper than {MAX_DEPTH} levels"])
        keys = self._child_keys()
        self.places.setdefault(keys, place)
        self.stack.append(_Open(made, keys, anchor))

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
        if not text:
            self.problems.append(f"{place}: {dotted(top.keys)}a key is missing here; write `key: value`")
        elif text in top.seen:
            self.problems.append(f"{place}: {dotted((*top.keys, text))}this key stands here twice; keep one")
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
