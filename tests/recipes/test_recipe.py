"""A recipe, what it resolves to, and the id of a run: every value counts and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
import yaml

from lossgeo.components.component import Component, Value, dump
from lossgeo.components.finding import find, used_files
from lossgeo.components.parsing import parse
from lossgeo.errors import UsageError
from lossgeo.recipes.documents import MAX_BYTES, RecipeError, read_document, write_document
from lossgeo.recipes.recipe import Recipe
from lossgeo.recipes.resolving import Resolved, read_recipe, resolve, shipped_recipes
from tests.support.components import EVERY, INTERFACES, OWN, plain, write
from tests.support.recipes import BASE, OF_SURFACES, ON_SURFACE, PLACES, base_of, of, placed

# what a component needs to have before one of its keys can be changed alone
COMPANIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("optimizers", "sgd"): {"momentum": 0.9},
    ("models", "transformer"): {"heads": 1},
}
# keys that have one value only: targets that are values have no classes
FIXED = {
    ("datasets", name, key)
    for name in ("diabetes", "linear_teacher", "teacher_student")
    for key in ("classes", "label_noise")
}
# tokens are no numbers, nor are they noisy labels
FIXED |= {("datasets", "text", key) for key in ("classes", "label_noise", "standardize")}
CANDIDATES: tuple[Any, ...] = (
    *(
        True,
        False,
        1,
        2,
        3,
        5,
        50,
        0.5,
        0.25,
        0.9,
        2.5,
        "x",
        "other.csv",
        [3],
        [6, 12],
        [0.5, 0.25],
        [0.9, 0.5],
        [2, 5],
    ),
    *(
        "always",
        "no_channels",
        "relu",
        "gelu",
        "he",
        "batch",
        "none",
        "max",
        "classes",
        "values",
        "full",
        "all",
        "last",
        "float64",
        "warm",
        "hutchinson",
        "auto",
        "cpu",
        "adam",
    ),
    *(
        "adam",
        "gauss_newton",
        "fisher",
        "step",
        "logistic",
        "wine",
        "cross_entropy",
        "eigenvalues",
        "runs",
        ["trace", "eigenvalues"],
        {"every": 5},
    ),
    *("finite_difference", [{"low": 0.5}]),
    *("newton_mr", [0.1, 0.5], 1e-5, 0.3, "himmelblau", [2.0, -0.5], [float(i) for i in range(2, 18)]),
    *({"at": "saddle", "offset": 0.1}, {"distance": 7.0}),
    {"smoothness": 2.0, "hessian_lipschitz": 1.0, "accuracy": 0.1},
    *({"says": "else", "source": "us", "report": "runs"}, {"train_loss_below": 0.5}, {"name": "step", "every": 3}),
)


def values(cls: type[Value], way: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    """The ways to all keys of a value and of the values inside it, components left out."""
    for key, field in cls.model_fields.items():
        yield (*way, key)
        members = () if get_origin(field.annotation) is tuple else getattr(field.annotation, "__args__", ())
        inside = [t for t in (field.annotation, *members) if isinstance(t, type)]
        for nested in inside:
            if issubclass(nested, Value) and not issubclass(nested, Component):
                yield from values(nested, (*way, key))


def changed(base: dict[str, Any], way: tuple[str | int, ...]) -> Resolved | None:
    """A valid run that differs from the base in this key alone, if one of the candidates makes one."""
    before: Any = of(base).plain
    for step in way:
        before = before.get(step) if isinstance(before, dict) else before[step]
    for candidate in CANDIDATES:
        try:
            run = of(placed(base, way, candidate))
        except RecipeError:
            continue
        after: Any = run.plain
        for step in way:
            after = after.get(step) if isinstance(after, dict) else after[step]
        if after != before:
            return run
    return None


# --- the digest ------------------------------------------------------------------------------------------------------


def test_changing_any_one_key_of_a_recipe_changes_the_id() -> None:
    ids = {of(BASE).id}
    ways = list(values(Recipe, ()))
    for way in ways:
        if way == ("epochs",):  # the keys that cannot change alone
            run: Resolved | None = of({**BASE, "steps": None, "epochs": 10})
        elif way == ("escape", "loss_drop"):
            run = of({**ON_SURFACE, "escape": {"loss_drop": 1.0}})
        elif way == ("start", "at"):  # it has one value
            run = of({key: value for key, value in ON_SURFACE.items() if key != "start"})
        elif way == ("start", "plant"):  # for networks alone
            run = of({**BASE, "start": {"plant": "origin"}})
        else:
            run = changed(ON_SURFACE if way[0] in OF_SURFACES else BASE, way)
        assert run is not None, f"no candidate changes {way}"
        assert run.id not in ids, way
        ids.add(run.id)
    assert len(ways) >= 36
    assert len(ids) == 1 + len(ways)


@pytest.mark.parametrize(("folder", "name"), [(f, n) for f, n in EVERY if f in PLACES])
def test_changing_any_one_key_of_a_component_changes_the_id(folder: str, name: str) -> None:
    way = PLACES[folder]
    base = placed(base_of(folder), way, {**plain(folder, name), **COMPANIONS.get((folder, name), {})})
    ids = {of(base).id}
    keys = [key for key in find(INTERFACES[folder], name).model_fields if (folder, name, key) not in FIXED]
    for key in keys:
        run = changed(base, (*way, key))
        assert run is not None, f"no candidate changes {key}"
        ids.add(run.id)
    assert len(ids) == 1 + len(keys)


def test_the_folders_that_no_recipe_names_are_known() -> None:
    assert set(INTERFACES) - set(PLACES) == {"reports", "executors"}


def test_components_without_keys_have_ids_of_their_own() -> None:
    ids = {of({**BASE, "loss": name}).id for name in ("mse", "cross_entropy")}
    assert len(ids) == 2


@pytest.mark.parametrize(("folder", "name"), [(f, n) for f, n in EVERY if f in PLACES])
def test_writing_a_default_out_changes_nothing(folder: str, name: str) -> None:
    way = PLACES[folder]
    short = placed(base_of(folder), way, plain(folder, name))
    made, _ = parse(INTERFACES[folder], plain(folder, name))
    assert of(placed(base_of(folder), way, dump(made))).id == of(short).id


def test_the_whole_recipe_written_out_is_the_same_run() -> None:
    for text in (yaml.safe_dump(of(BASE).plain).encode(), write_document(of(BASE).plain), json.dumps(of(BASE).plain)):
        (again,) = resolve(read_document(text if isinstance(text, bytes) else text.encode(), "f.yaml"))
        assert again.id == of(BASE).id
        assert again.plain == of(BASE).plain


def test_the_order_of_keys_changes_nothing() -> None:
    def backwards(value: Any) -> Any:
        return {k: backwards(value[k]) for k in reversed(value)} if isinstance(value, dict) else value

    assert of(backwards(of(BASE).plain)).id == of(BASE).id


@pytest.mark.parametrize(("folder", "name"), [(f, n) for f, n in EVERY if f in PLACES])
def test_the_recipe_of_a_run_folder_loads_to_the_same_id(folder: str, name: str) -> None:
    run = of(placed(base_of(folder), PLACES[folder], plain(folder, name)))
    (again,) = resolve(read_document(yaml.safe_dump(run.plain, sort_keys=False, allow_unicode=True).encode(), "f"))
    assert again.id == run.id


@pytest.mark.parametrize("name", ["1e-3", "0o17", "017", "0x1f", "1_000", "1.5", "2024", "null", "true", "no", "1e5"])
def test_names_that_look_like_something_else_are_written_as_text(name: str) -> None:
    run = of({**BASE, "name": name, "claim": {"says": name, "source": name, "report": "runs"}})
    assert run.recipe.name == name
    assert of(run.plain).id == run.id


def test_two_runs_with_one_id_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resolved, "id", property(lambda run: "00000000"))
    with pytest.raises(RecipeError, match="two runs got the id 00000000 by chance"):
        resolve(read_document(write_document({**BASE, "sweep": {"seed": [1, 2]}}), "f.yaml"))
    assert len(resolve(read_document(write_document({**BASE, "sweep": {"seed": [1, 1]}}), "f.yaml"))) == 1


# --- the user's own components ---------------------------------------------------------------------------------------


def test_the_content_of_a_users_file_counts_where_it_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "own.py", OWN.format(name="Own"))
    other = write(tmp_path / "other.py", OWN.format(name="Other"))
    search = used_files([tmp_path])
    first = of({**BASE, "model": "own"}, search)
    assert first.used == (file,)
    assert of(BASE, search).used == ()
    assert of(BASE, search).id == of(BASE).id
    write(other, OWN.format(name="Other") + "# changed\n")
    assert of({**BASE, "model": "own"}, used_files([tmp_path])).id == first.id
    write(file, OWN.format(name="Own") + "# changed\n")
    assert of({**BASE, "model": "own"}, used_files([tmp_path])).id != first.id


def test_a_copy_of_a_users_file_gives_the_same_id_in_one_process(tmp_path: Path) -> None:
    file = write(tmp_path / "own.py", OWN.format(name="Own"))
    copy = write(tmp_path / "run" / "components" / "own.py", file.read_text())
    first = of({**BASE, "model": {"name": "own", "width": 5}}, used_files([file]))
    again = of(first.plain, used_files([copy.parent]))
    assert again.used == (copy,)
    assert again.id == first.id


def test_a_recipe_alone_executes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "evil.py", f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("evil", "./evil", "../evil", "evil.py", str(tmp_path / "evil.py"), "lossgeo.models.mlp", "_rows"):
        with pytest.raises(RecipeError, match="no model is named"):
            of({**BASE, "model": name})
    for key in ("use", "import", "components", "__class__", "__init__", "model_config", "extra"):
        with pytest.raises(RecipeError, match="unknown key"):
            of({**BASE, "model": {"name": "mlp", key: "evil.py"}})
        with pytest.raises(RecipeError, match="unknown key"):
            of({**BASE, key: "evil.py"})
    assert not (tmp_path / "executed").exists()


# --- what belongs together -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 3}, "give either `steps` or `epochs`, one of them"),
        ({"steps": None}, "give either `steps` or `epochs`, one of them"),
        ({"batch_size": 0}, "batch_size: should be at least 1 or 'full', not 0 (examples a step"),
        ({"batch_size": True}, "batch_size: should be a whole number or 'full', not true"),
        ({"threads": 0}, "threads: should be at least 1 or 'auto', not 0"),
        ({"dataset": "diabetes", "loss": "cross_entropy"}, "dataset 'diabetes' has values; use `loss: mse`"),
        ({"probes": ["trace", {"name": "trace", "every": 3}]}, "probes.0 and probes.1 measure the same thing"),
        (
            {"claim": {"says": "a", "source": "b", "report": "sharpnes"}},
            "claim: no report is named 'sharpnes'; did you",
        ),
        ({"claim": {"says": "a"}}, "claim.source: is missing (where it was made)"),
        ({"device": "gpu"}, "device: should match pattern"),
        ({"seed": -1}, "seed: should be at least 0, not -1"),
        ({"seed": 2**63}, "seed: should be below 9223372036854775808"),
        ({"name": "../x"}, "name: should match pattern"),
        ({"name": ""}, "name: should match pattern"),
        ({"stop": {"train_accuracy_above": 1}}, "stop.train_accuracy_above: should be below 1, not 1"),
        ({"checkpoint": {"keep": "al"}}, "checkpoint.keep: should be 'all' or 'last', not 'al'"),
        ({"divergence": 10**399}, "divergence: should be a number"),
    ],
)
def test_what_does_not_fit_together(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        of({**BASE, **change})
    assert said in str(caught.value)


def test_a_missing_package_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", only_without("mnist1d"))
    with pytest.raises(RecipeError, match=r"'mnist1d' needs the package 'mnist1d': pip install 'lossgeo\[data\]'"):
        of({**BASE, "dataset": "mnist1d"})


def only_without(absent: str) -> Any:
    import importlib.util

    real = importlib.util.find_spec
    return lambda name, package=None: None if name == absent else real(name, package)


def test_all_errors_come_at_once_in_the_order_of_the_file() -> None:
    text = b"""model: {name: mlp, hiden: [64], activation: tanhh}
dataset: digit
loss: mse
optimizer: {name: sgd, lr: abc, momentum: .nan}
batch_size: abc
stpes: 3
steps: -1
probes:
  - {name: eigenvalues, top: 3.5}
  - tracee
"""
    with pytest.raises(RecipeError) as caught:
        resolve(read_document(text, "a.yaml"))
    assert [line.split(": ")[:2] for line in caught.value.lines] == [
        ["a.yaml:1:1", "name"],
        ["a.yaml:1:20", "model.hiden"],
        ["a.yaml:1:33", "model.activation"],
        ["a.yaml:2:1", "dataset"],
        ["a.yaml:4:24", "optimizer.lr"],
        ["a.yaml:4:33", "optimizer.momentum"],
        ["a.yaml:5:1", "batch_size"],
        ["a.yaml:6:1", "stpes"],
        ["a.yaml:7:1", "steps"],
        ["a.yaml:9:25", "probes.0.top"],
        ["a.yaml:10:5", "probes.1"],
    ]


def test_top_level_suggestions_know_the_sweeps_too() -> None:
    for key, near in (
        ("sweeep", "sweep"),
        ("zp", "zip"),
        ("lst", "list"),
        ("optimiser", "optimizer"),
        ("epoch", "epochs"),
    ):
        with pytest.raises(RecipeError, match=f"{key}: unknown key; did you mean '{near}'"):
            of({**BASE, key: [1]})


# --- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("a.yaml", "a"),
        ("my recipe (2).yaml", "my-recipe-2-"),
        ("_x.yaml", "x"),
        ("опыт.yaml", "recipe"),
        ("...yaml", "recipe"),
        ("x" * 200 + ".yaml", "x" * 100),
    ],
)
def test_a_recipe_without_a_name_is_called_after_its_file(tmp_path: Path, file: str, name: str) -> None:
    path = tmp_path / file
    path.write_bytes(write_document({k: v for k, v in BASE.items() if k != "name"}))
    (run,) = resolve(read_recipe(str(path)))
    assert run.recipe.name == name


def test_a_recipe_from_standard_input() -> None:
    (run,) = resolve(read_recipe("-", write_document({k: v for k, v in BASE.items() if k != "name"})))
    assert run.recipe.name == "stdin"
    with pytest.raises(RecipeError, match=r"^<stdin>:1:1: "):
        read_recipe("-", b"")
    with pytest.raises(RecipeError, match=r"^<stdin>:1:1: "):
        read_recipe("-", None)


@pytest.mark.parametrize("source", ["missing", "x" * 5000, "a\0b", "", "/", ".", "../quickstart", "quickstart.yaml/x"])
def test_what_is_no_recipe_file_is_told_with_the_shipped_ones(source: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"no such file, nor a recipe that comes with lossgeo; .*quickstart"):
        read_recipe(source)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    with path.open("wb") as file:
        file.truncate(10**12)  # sparse: a terabyte of zeros
    with pytest.raises(RecipeError, match=f"longer than {MAX_BYTES // 1024} kB"):
        read_recipe(str(path))


def test_every_shipped_recipe_resolves_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = sorted(shipped_recipes().glob("*.yaml"))
    assert len(shipped) >= 1
    for path in shipped:
        by_name, by_path = resolve(read_recipe(path.stem)), resolve(read_recipe(str(path)))
        assert [run.id for run in by_name] == [run.id for run in by_path]
        assert path.read_text().startswith("# yaml-language-server: $schema=")


# --- names of folders ------------------------------------------------------------------------------------------------


def test_the_slug_says_what_was_swept_in_a_word_each() -> None:
    sweep = {
        "optimizer": [{"name": "adam", "lr": 0.5}],
        "model.hidden": [[4, 4]],
        "probes.0.top": [2],
        "probes": [["eigenvalues"]],
        "claim": [None],
    }
    (run,) = resolve(read_document(write_document({**BASE, "sweep": sweep}), "f.yaml"))
    assert run.slug == "claim=None,hidden=4-4,optimizer=adam,probes=eigenvalues,top=2"
    (run,) = resolve(read_document(write_document({**BASE, "sweep": {"claim.says": ["a/b é\n" * 50]}}), "f.yaml"))
    assert set(run.slug) <= set("abcdefghijklmnopqrstuvwxyz=-")
    assert len(run.slug) <= 80
