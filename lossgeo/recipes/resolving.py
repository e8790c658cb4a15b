"""From a document to runs: every combination that a sweep asks for, validated, each with its id.

The digest of the resolved recipe is the id of the run. It covers every field, defaults included, and the content of the
user's own components that the recipe names, of the modules that they import from beside themselves and of the files
that they say they read: a changed value is another run, the order of keys is not.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lossgeo.components.beside import brought_by, declared, named
from lossgeo.components.component import Component, components, dump, file_of, identity
from lossgeo.components.finding import hint
from lossgeo.components.parsing import Problem, parse
from lossgeo.errors import UsageError
from lossgeo.landscapes.datasets import Dataset
from lossgeo.recipes.documents import MAX_BYTES, MAX_PROBLEMS, Document, RecipeError, read_document
from lossgeo.recipes.recipe import Recipe
from lossgeo.recipes.sweeps import PARTS, Setting, expand, override


@dataclass(frozen=True)
class Resolved:
    """One run as asked for: the recipe, what the sweep set in it, and the user's files that it needs."""

    recipe: Recipe
    swept: Setting
    used: tuple[Path, ...]  # the user's files that hold components of this recipe

    @property
    def plain(self) -> dict[str, Any]:
        """The recipe as plain data, every default written out; a recipe that loads to the same run."""
        plain: dict[str, Any] = dump(self.recipe)
        return {key: value for key, value in plain.items() if value is not None}

    @cached_property
    def modules(self) -> dict[str, bytes]:
        """The content of the user's components and of what they import from beside themselves, as read, by place.

        Raises:
            UsageError: two files have one place.
        """
        found: dict[str, bytes] = {}
        for component in self._own():
            bundle = brought_by(type(component))
            for place, content in bundle.copies().items() if bundle else ():
                if found.setdefault(place, content) != content:
                    raise UsageError(f"two components bring along different files {place}; rename one")
        return found

    @cached_property
    def files(self) -> dict[str, Path]:
        """The files that the user's components say they read, by the name that they give them.

        Raises:
            UsageError: one is not there, two have one name, or a component names one that it does not declare.
        """
        found: dict[str, Path] = {}
        for component in self._own():
            for name, path in declared(component).items():
                if not found.setdefault(name, path).samefile(path) or name in self.modules:
                    raise UsageError(f"two components bring along different files {name}; rename one")
            if not isinstance(component, Dataset) and (other := named(component)) is not None:
                raise UsageError(
                    f"{file_of(component)}: names {other!r}, a file that is no part of the run's id; say "
                    f"`files = ({other!r},)` in the class, and read self.beside({other!r})"
                )
        return found

    @cached_property
    def content(self) -> dict[str, str]:
        """SHA-256 of all that the user's components bring along, by place."""
        modules = {place: hashlib.sha256(content).hexdigest() for place, content in self.modules.items()}
        return modules | {name: sha256_of_file(path) for name, path in self.files.items()}

    def changed(self) -> str | None:
        """A file that a component reads and that is another now than when the id was made; None: there is none."""
        files = self.files.items()
        return next((n for n, path in files if not path.is_file() or sha256_of_file(path) != self.content[n]), None)

    def _own(self) -> list[Component]:
        own = {file.absolute() for file in self.used}
        return [component for component in components(self.recipe) if own and file_of(component) in own]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every value, and of the content of all that the user's components bring along."""
        content = self.content
        asked = {key: value for key, value in identity(self.recipe).items() if value is not None}
        text = json.dumps([asked, content], sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def id(self) -> str:
        """The first eight hex digits of the digest."""
        return self.digest[:8]

    @property
    def slug(self) -> str:
        """What the sweep set, readable in a file name: `batch_size=16,seed=0`."""
        plain = self.plain
        shown = {key: _lookup(plain, key) for key in sorted(self.swept or {"seed": 0})}
        parts = [f"{key.rpartition('.')[2]}={_word(value)}" for key, value in shown.items()]
        return re.sub(r"[^A-Za-z0-9_.,=+-]+", "-", ",".join(parts))[:80]


def sha256_of_file(path: Path) -> str:
    """The digest of a file's content now."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lookup(plain: Any, dotted: str) -> Any:
    for key in dotted.split("."):
        plain = plain[int(key)] if isinstance(plain, list) else plain.get(key) if isinstance(plain, dict) else None
    return plain


def _word(value: Any) -> str:
    if isinstance(value, dict):
        return str(value.get("name", "-".join(_word(v) for v in value.values())))
    return "-".join(map(_word, value)) if isinstance(value, list) else str(value)


def read_recipe(source: str, stdin: bytes | None = None) -> Document:
    """The document behind a name on the command line: a path, `-`, or the name of a recipe that lossgeo ships.

    Raises:
        UsageError: neither a file nor a shipped recipe.
        RecipeError: not a YAML mapping.
    """
    if source == "-":
        return _named(read_document(stdin or b"", "<stdin>"), "stdin")
    path = Path(source)
    if not os.path.isfile(path):  # unlike Path.is_file it takes a name of any length
        shipped = {p.stem: p for p in sorted(shipped_recipes().glob("*.yaml"))}
        if source not in shipped:
            raise UsageError(f"{source}: no such file, nor a recipe that comes with lossgeo; {hint(source, shipped)}")
        path = shipped[source]
    try:
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)  # enough to see that a file is too long
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    return _named(read_document(text, str(path)), path.stem)


def _named(document: Document, name: str) -> Document:
    if "name" in document.plain:
        return document
    word = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).lstrip("_.-")[:100] or "recipe"
    return replace(document, plain={"name": word, **document.plain})


def shipped_recipes() -> Path:
    """The folder of recipes: inside an installed package, beside it in a checkout."""
    inside = Path(__file__).parent / "shipped"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"


def resolve(
    document: Document,
    sets: list[str] | None = None,
    sweeps: list[str] | None = None,
    search: tuple[Path, ...] = (),
    whole: bool = False,
) -> list[Resolved]:
    """Every run of a recipe, validated; equal runs once. No data are read and nothing is written.

    `whole`: the document is a run's own, in which a key that is missing joined later.

    Raises:
        RecipeError: everything that is wrong, each with its place.
    """
    changed = override(document, sets or [], sweeps or [])
    lines = list(changed.complaints)
    runs: dict[str, Resolved] = {}
    try:
        for resolved, setting in expand(changed):
            recipe, problems = parse(Recipe, resolved.plain, search, whole=whole)
            if recipe is None:
                lines += _error(resolved, problems).lines
                if len(lines) > MAX_PROBLEMS:
                    break
                continue
            own = {file_of(component) for component in components(recipe)} if search else set()
            run = Resolved(recipe, setting, tuple(f for f in search if f.absolute() in own))
            same = runs.setdefault(run.id, run)
            if same.digest != run.digest:
                lines.append(f"{document.name}: two runs got the id {run.id} by chance; change the recipe's `name`")
    except RecipeError as error:
        # the sweep itself is wrong: say so together with what is wrong in any run
        _, problems = parse(Recipe, {key: value for key, value in changed.plain.items() if key not in PARTS}, search)
        always = [p for p in problems if p.keys and not p.message.startswith("is missing")]
        lines += [*error.lines, *_error(changed, always).lines]
    if lines:
        raise RecipeError(lines)
    return list(runs.values())


def _error(document: Document, problems: list[Problem]) -> RecipeError:
    """`sweep`, `zip` and `list` are keys of a file too, though no run has them."""
    choices = [*Recipe.model_fields, *PARTS]
    return document.error(
        [
            Problem(p.keys, f"unknown key; {hint(str(p.keys[0]), choices)}")
            if len(p.keys) == 1 and p.keys[0] not in Recipe.model_fields
            else p
            for p in problems
        ]
    )
