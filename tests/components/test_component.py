"""Conformance of every component in the folders, and how components are found, read and written."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import pytest

from lossgeo.components.catalog import catalog
from lossgeo.components.component import Component, Value, components, dump, file_of, identity
from lossgeo.components.finding import find, names, used_files
from lossgeo.components.parsing import parse, show
from lossgeo.errors import UsageError
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.models.mlp import MLP
from lossgeo.optimizers import Optimizer
from lossgeo.optimizers.schedules import Schedule
from lossgeo.probes import Probe
from lossgeo.recipes.recipe import Recipe
from tests.support.components import EVERY, INTERFACES, OWN, REQUIRED, plain, write

MODELS = "cnn, deep_linear, logistic, mlp, resnet, transformer"
every_component = pytest.mark.parametrize(("folder", "name"), EVERY)


def example(folder: str, name: str) -> Component:
    made, problems = parse(INTERFACES[folder], plain(folder, name))
    assert made is not None, problems
    return made


def messages(cls: type[Value], given: Any, search: tuple[Path, ...] = ()) -> list[str]:
    return [f"{'.'.join(map(str, p.keys))}: {p.message}" for p in parse(cls, given, search)[1]]


# --- conformance -----------------------------------------------------------------------------------------------------


def test_all_the_interfaces_are_found() -> None:
    assert set(INTERFACES) >= {
        "datasets", "executors", "losses", "models", "operators", "optimizers", "probes", "reports", "schedules"
    }  # fmt: skip
    assert len(EVERY) >= 33
    assert {key for key in REQUIRED if key not in EVERY} == set()


@every_component
def test_a_file_holds_one_final_described_component(folder: str, name: str) -> None:
    cls = find(INTERFACES[folder], name)
    assert cls.component_name() == name == file_of(example(folder, name)).stem
    assert getattr(cls, "__final__", False), f"{cls.__name__} should be @final"
    assert cls.__name__.lower() == name.replace("_", ""), "the file is the snake case of the class"
    assert inspect.getdoc(cls), f"{cls.__name__} has no docstring"
    assert "name" not in cls.model_fields
    missing = [key for key, field in cls.model_fields.items() if not field.description]
    assert missing == []


@every_component
def test_a_component_is_a_frozen_value(folder: str, name: str) -> None:
    one, other = example(folder, name), example(folder, name)
    assert one == other
    assert hash(one) == hash(other)
    for key in type(one).model_fields:
        with pytest.raises((ValueError, AttributeError)):
            setattr(one, key, getattr(one, key))


@every_component
def test_what_is_dumped_is_parsed_back(folder: str, name: str) -> None:
    one = example(folder, name)
    written = dump(one)
    assert set(written) == {"name", *type(one).model_fields}
    assert parse(INTERFACES[folder], json.loads(json.dumps(written))) == (one, [])


@every_component
def test_a_bare_name_is_enough_exactly_where_nothing_is_required(folder: str, name: str) -> None:
    made, problems = parse(INTERFACES[folder], name)
    required = [key for key, field in find(INTERFACES[folder], name).model_fields.items() if field.is_required()]
    assert [p.keys for p in problems] == [(key,) for key in required]
    assert all(p.message.startswith("is missing (") for p in problems)
    assert (made == example(folder, name)) == (not required)


@every_component
def test_a_misspelt_key_and_a_wrong_type_are_found_at_once(folder: str, name: str) -> None:
    cls = find(INTERFACES[folder], name)
    for key in cls.model_fields:
        problems = parse(INTERFACES[folder], {**plain(folder, name), f"{key}x": 1, key: {"no": "such"}})[1]
        unknown = [p for p in problems if p.keys == (f"{key}x",)]
        assert [p.message for p in unknown] == [f"unknown key; did you mean {key!r}?"]
        assert any(p.keys[:1] == (key,) for p in problems)


def defaults(cls: type[Value]) -> Iterator[tuple[str, Any]]:
    for key, field in cls.model_fields.items():
        if not field.is_required():
            yield key, field.default


@pytest.mark.parametrize("cls", [Recipe, *(find(INTERFACES[f], n) for f, n in EVERY)], ids=lambda c: c.__name__)
def test_defaults_are_valid_and_components_among_them_plain(cls: type[Value]) -> None:
    for key, default in defaults(cls):
        if isinstance(default, Component):
            # a user's file may take its name over, which keeps the name and nothing else
            assert default == type(default)(), key


def test_every_key_of_a_recipe_is_described() -> None:
    pending: list[type[Value]] = [Recipe]
    seen = set()
    while pending:
        cls = pending.pop()
        seen.add(cls)
        for key, field in cls.model_fields.items():
            assert field.description, f"{cls.__name__}.{key}"
            inside = [v for v in vars(sys.modules[cls.__module__]).values() if inspect.isclass(v)]
            pending += [
                v for v in inside if issubclass(v, Value) and v not in seen and v in annotated(field.annotation)
            ]
    assert {cls.__name__ for cls in seen} >= {"Recipe", "Claim", "Stop", "Checkpoints", "Times", "Model", "Probe"}


def annotated(annotation: Any) -> set[Any]:
    inside = getattr(annotation, "__args__", ())
    return {annotation, *(found for argument in inside for found in annotated(argument))}


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("os", "../x", "a.b", "__init__", "_private", "_moments", "_activation", "", " ", "sgd ", "SGD", "sgd.py"),
        *("lossgeo.optimizers.sgd", "..optimizers.sgd", "/etc/passwd", "sgd\n", "sgd\0", "s\uff47d", "subprocess", "é"),
        "x" * 5000,
    ],
)
def test_a_name_finds_a_component_or_nothing(name: str) -> None:
    before = set(sys.modules)
    for interface in (Model, Optimizer, Probe):
        with pytest.raises(UsageError, match=f"no {interface.__name__.lower()} is named"):
            find(interface, name)
    assert {m for m in set(sys.modules) - before if not m.startswith("lossgeo.")} == set()


def test_a_component_of_another_kind_is_unknown_too() -> None:
    assert messages(Model, "digits") == [
        f": no model is named 'digits'; choose from {MODELS}, or bring your own with --use PATH"
    ]


@pytest.mark.parametrize(
    ("given", "near"),
    [("sdg", "sgd"), ("SGD", "sgd"), ("adamW", "adamw"), ("rms_prop", "rmsprop"), ("Adam", "adam")],
)
def test_near_names_are_suggested(given: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{near}'"):
        find(Optimizer, given)


def test_what_is_no_component_at_all() -> None:
    choices = "adam, adamw, noisy_gd, perturbed_gd, rmsprop, sgd"
    assert messages(Optimizer, None) == [": should be a name or a mapping with `name`, not null"]
    assert messages(Optimizer, 3) == [": should be a name or a mapping with `name`, not 3"]
    assert messages(Optimizer, ("sgd",)) == [": should be a name or a mapping with `name`, not a list of 1"]
    assert messages(Optimizer, {"lr": 1}) == [f": `name` should say which of the optimizers to use: {choices}"]
    assert messages(Optimizer, {"name": None}) == [f"name: `name` should say which of the optimizers to use: {choices}"]


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"hidden": "64"}, "hidden: should be a list, not '64' (widths of the hidden layers)"),
        ({"hidden": [64, 0]}, "hidden.1: should be at least 1, not 0 (widths of the hidden layers)"),
        ({"hidden": [64, 6.5]}, "hidden.1: should be a whole number, not 6.5 (widths of the hidden layers)"),
        ({"hidden": [[64]]}, "hidden.0: should be a whole number, not a list of 1 (widths of the hidden layers)"),
        ({"gain": float("nan")}, "gain: should be a finite number, not .nan"),
        ({"gain": float("-inf")}, "gain: should be a finite number, not -.inf"),
        ({"gain": True}, "gain: should be a number, not true"),
        ({"gain": 10**399}, f"gain: should be a number, not 1{'0' * 56}..."),
        ({"bias": "nein"}, "bias: should be true or false, not 'nein' (whether layers have biases)"),
        ({"bias": 0}, "bias: should be true or false, not 0 (whether layers have biases)"),
        ({"bias": None}, "bias: should be true or false, not null (whether layers have biases)"),
    ],
)
def test_wrong_values_are_said_in_the_words_of_a_recipe(given: dict[str, Any], said: str) -> None:
    (message,) = messages(Model, {"name": "mlp", **given})
    assert message.startswith(said)


def test_the_branches_of_a_union_make_one_message() -> None:
    assert messages(Probe, {"name": "trace", "samples": 1.5})[0].startswith(
        "samples: should be a whole number or 'all' or 'auto', not 1.5 ("
    )
    assert messages(Probe, {"name": "trace", "at": [1, "lost"]})[0].startswith(
        "at.1: should be a whole number or 'first' or 'last', not 'lost' ("
    )
    assert messages(INTERFACES["datasets"], {"name": "file", "path": "x.csv", "inputs": ["a", 3]})[0].startswith(
        "inputs.1: should be text, not 3 ("
    )


@pytest.mark.parametrize(("word", "value"), [("yes", True), ("No", False), ("off", False), ("ON", True)])
def test_yes_and_no_are_booleans_where_a_boolean_is_wanted(word: str, value: bool) -> None:
    made, _ = parse(Model, {"name": "mlp", "bias": word})
    assert made == MLP(bias=value)
    assert messages(Schedule, word)[0].startswith(f": no schedule is named {word!r}")


def test_a_number_written_whole_is_the_same_value() -> None:
    whole, fraction = (parse(Optimizer, {"name": "sgd", "lr": lr})[0] for lr in (1, 1.0))
    assert json.dumps(dump(whole)) == json.dumps(dump(fraction))


def test_the_components_inside_a_value() -> None:
    probe, _ = parse(Probe, {"name": "trace", "operator": "hessian"})
    assert probe is not None
    assert [c.component_name() for c in components((probe, 3))] == ["trace", "hessian"]


def test_values_are_shown_on_one_short_line() -> None:
    for value in ("x" * 10**6, "\n\x1b", {"a": 1}, [1] * 1000, 10**399, -(10**90), 1e300, None, float("nan"), "é"):
        assert len(show(value)) <= 60
        assert show(value).isprintable()


# --- the user's own --------------------------------------------------------------------------------------------------


def refusal(*paths: Path) -> str:
    with pytest.raises(UsageError) as caught:
        used_files(paths)
    return str(caught.value)


def test_a_users_file_is_found_by_its_name(tmp_path: Path) -> None:
    file = write(tmp_path / "my-own.py", OWN.format(name="MyOwn"))
    search = used_files([tmp_path])
    assert search == (file,)
    assert used_files([file, tmp_path, file]) == (file,)
    made, problems = parse(Model, {"name": "my-own", "width": 5}, search)
    assert problems == []
    assert dump(made) == {"name": "my-own", "width": 5, "initialization": "default", "gain": 1.0}
    assert "my-own" in names(Model, search)
    assert "my-own" in catalog(Model, search)
    assert messages(Model, "my-owm", search)[0].endswith("did you mean 'my-own'?")
    assert messages(Model, "my-own") == [
        f": no model is named 'my-own'; choose from {MODELS}, or bring your own with --use PATH"
    ]


def test_a_users_file_wins_over_a_built_in_even_as_a_default(tmp_path: Path) -> None:
    search = used_files([write(tmp_path / "mlp.py", OWN.format(name="MLP"))])
    made, _ = parse(Model, {"name": "mlp", "width": 5}, search)
    assert made is not None
    assert file_of(made) == tmp_path / "mlp.py"
    assert isinstance(parse(Model, "mlp")[0], MLP)
    own = """
from typing import final
from lossgeo.operators.hessian import Hessian as Theirs
from lossgeo import Operator
@final
class Hessian(Operator):
    def at(self, *given):
        return Theirs().at(*given)
"""
    search = used_files([write(tmp_path / "hessian.py", own)])
    for given in ("trace", {"name": "trace", "operator": "hessian"}):
        probe, _ = parse(Probe, given, search)
        assert probe is not None
        assert file_of(probe.operator) == tmp_path / "hessian.py"


def test_a_users_file_of_another_kind(tmp_path: Path) -> None:
    search = used_files(
        [write(tmp_path / "sgd.py", OWN.format(name="SGD")), write(tmp_path / "b.py", OWN.format(name="B"))]
    )
    assert parse(Optimizer, "sgd", search) == parse(Optimizer, "sgd")
    (message,) = messages(Optimizer, "b", search)
    assert message.startswith(
        f": no optimizer is named 'b'; {tmp_path / 'b.py'} holds a model of that name; choose from"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_package", "own.py:1: importing it failed: ModuleNotFoundError: No module named"),
        ("x = 1\n1 / 0", "own.py:2: importing it failed: ZeroDivisionError: division by zero"),
        ("def f(:", "own.py: importing it failed: SyntaxError: invalid syntax"),
        ("raise SystemExit(0)", "own.py:1: importing it failed: SystemExit: 0"),
        ("x = 1", "own.py: holds 0 public components; a file holds exactly one"),
        (OWN.format(name="A") + OWN.format(name="B"), "own.py: holds 2 public components; a file holds exactly one"),
        (OWN.format(name="_A"), "own.py: holds 0 public components"),
        (
            "from lossgeo import Model\nclass A(Model): pass",
            "own.py: holds 0 public components (A lacks module); a file holds exactly one",
        ),
        (OWN.format(name="A") + "    name: str = 'x'\n", "own.py: `name` chooses the component in a recipe"),
        (OWN.format(name="A") + "Alias = A\n", ""),
    ],
)
def test_what_is_wrong_with_a_users_file_is_said(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path / "own.py", text)
    for _ in range(2):  # a file that failed once is not taken for loaded
        if said:
            assert said in refusal(file)
        else:
            assert used_files([file]) == (file,)


def test_what_is_wrong_with_the_path_is_said(tmp_path: Path) -> None:
    assert "no Python file there" in refusal(tmp_path / "missing.py")
    assert "no Python file there" in refusal(tmp_path)
    assert "no Python file there" in refusal(write(tmp_path / "x.txt", OWN))
    write(tmp_path / "_helper.py", "1 / 0")
    assert "no Python file there" in refusal(tmp_path)
    one, two = (write(tmp_path / folder / "own.py", OWN.format(name="Own")) for folder in "ab")
    assert "rename one" in refusal(one, two)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "own.py").symlink_to(one)
    assert used_files([one, tmp_path / "c"]) == (one,)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_said(tmp_path: Path) -> None:
    file = write(tmp_path / "own.py", OWN.format(name="Own"))
    file.chmod(0)
    assert "cannot be read" in refusal(file)


def test_copies_and_versions_of_a_file_live_side_by_side(tmp_path: Path) -> None:
    files = [write(tmp_path / folder / "own.py", OWN.format(name="Own")) for folder in "ab"]
    one, two = (parse(Model, "own", used_files([file]))[0] for file in files)
    assert one is not None
    assert two is not None
    assert [file_of(one), file_of(two)] == files
    write(files[0], OWN.format(name="Own").replace("default=3", "default=4"))
    new = parse(Model, "own", used_files([files[0]]))[0]
    assert (dump(one)["width"], dump(new)["width"]) == (3, 4)


class Before(Value):
    old: int = 1


class After(Before):
    joined: ClassVar[Mapping[str, Any]] = MappingProxyType({"new": "as before"})

    new: str = "otherwise"


def test_a_key_that_joined_later_counts_where_it_changes_what_was_done() -> None:
    assert identity(After(new="as before")) == identity(Before()) == {"old": 1}
    assert identity(After()) == dump(After()) == {"old": 1, "new": "otherwise"}
    assert identity((After(new="as before"),)) == [{"old": 1}]
    assert dump(After(new="as before")) == {"old": 1, "new": "as before"}
