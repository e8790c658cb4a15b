"""`lossgeo list` and the JSON Schema say what the folders hold, and the schema agrees with the reader."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from lossgeo import formats
from lossgeo.components.catalog import keys, readable
from lossgeo.components.component import dump
from lossgeo.components.finding import find
from lossgeo.components.parsing import parse
from lossgeo.probes import Probe
from lossgeo.recipes.recipe import Recipe
from lossgeo.recipes.resolving import shipped_recipes
from lossgeo.recipes.schema import schema
from tests.support.components import EVERY, INTERFACES, REQUIRED, plain
from tests.support.recipes import BASE, PLACES, base_of, of, placed

NAMED = [(f, n) for f, n in EVERY if f in PLACES]
every_named_component = pytest.mark.parametrize(("folder", "name"), NAMED)


@cache
def validator() -> jsonschema.Draft202012Validator:
    made = schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def accepts(recipe: object) -> bool:
    return bool(validator().is_valid(recipe))


# --- the schema ------------------------------------------------------------------------------------------------------


def test_the_schema_is_json_and_valid_by_the_metaschema() -> None:
    made = schema()
    assert json.loads(json.dumps(made)) == made
    assert made["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert accepts(BASE)


def test_every_shipped_recipe_is_accepted() -> None:
    shipped = sorted(shipped_recipes().glob("*.yaml"))
    assert len(shipped) >= 1
    for path in shipped:
        # PyYAML reads 1e-3 as text, which an editor does not; the recipes' own reader has no plain lists
        loaded = yaml.safe_load(path.read_text())
        errors = [
            f"{path.name}: {error.json_path}: {error.message}" for error in validator().iter_errors(numbers(loaded))
        ]
        assert errors == []


def numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


@every_named_component
def test_every_component_is_accepted_short_and_written_out(folder: str, name: str) -> None:
    way = PLACES[folder]
    made, _ = parse(INTERFACES[folder], plain(folder, name))
    base = base_of(folder)
    assert accepts(placed(base, way, plain(folder, name)))
    assert accepts(placed(base, way, dump(made)))
    assert accepts(of(placed(base, way, plain(folder, name))).plain)
    # a name alone, exactly where nothing is required
    assert accepts(placed(base, way, name)) == ((folder, name) not in REQUIRED)


@every_named_component
def test_misspelt_keys_and_wrong_types_are_rejected(folder: str, name: str) -> None:
    way, cls = PLACES[folder], find(INTERFACES[folder], name)
    assert not accepts(placed(base_of(folder), way, {**plain(folder, name), "misspelt": 1}))
    for key in cls.model_fields:
        assert not accepts(placed(base_of(folder), way, {**plain(folder, name), key: {"no": "such"}})), key


def test_the_recipes_own_keys_are_checked() -> None:
    for key in Recipe.model_fields:
        assert not accepts({**BASE, key: {"no": "such"}}), key
        assert not accepts({**BASE, f"{key}x": 1}), key
    for wrong in (
        {"batch_size": "fulll"},
        {"steps": 0},
        {"probes": "trace"},
        {"seed": 1.5},
        {"model": "mlpp"},
        {"steps": "3"},
    ):
        assert not accepts({**BASE, **wrong}), wrong
    assert not accepts([])


def test_sweeps_are_part_of_it_and_may_give_what_is_missing() -> None:
    without = {key: value for key, value in BASE.items() if key not in ("optimizer", "name")}
    assert not accepts(without)
    assert accepts({**without, "optimizer": "sgd"})
    for sweep in (
        {"sweep": {"batch_size": [16, "full"], "seed": {"range": 5}, "optimizer.lr": {"log": [1e-3, 1, 7]}}},
        {"zip": {"optimizer": ["sgd", "adam"], "seed": {"range": [0, 4, 2]}}},
        {"list": [{"optimizer": "sgd", "batch_size": 16}]},
    ):
        assert accepts({**without, **sweep}), sweep
    for sweep in (
        {"sweep": {"seed": 3}},
        {"sweep": {"seed": []}},
        {"sweep": {"seed": {"rnge": 3}}},
        {"sweep": {"seed": {"range": 3, "log": [1, 2, 3]}}},
        {"sweep": {"seed": {"log": [1, 2]}}},
        {"zip": [1]},
        {"list": {"a": 1}},
        {"list": []},
    ):
        assert not accepts({**BASE, **sweep}), sweep


def test_every_key_carries_its_description_and_a_valid_default() -> None:
    made = schema()
    described = 0
    pending: list[Any] = [made]
    while pending:
        node = pending.pop()
        if isinstance(node, dict) and isinstance(node.get("properties"), dict):
            for key, described_key in node["properties"].items():
                assert described_key.get("description"), key
                described += 1
                if "default" in described_key:
                    whole = {"$defs": made["$defs"], **described_key}
                    jsonschema.Draft202012Validator(whole).validate(described_key["default"])
        pending += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    assert described >= 150


# --- the list --------------------------------------------------------------------------------------------------------


def test_every_key_of_every_component_has_a_row() -> None:
    rows = keys(list(INTERFACES.values()))
    found = {(row["kind"], row["name"], row["key"]) for row in rows}
    expected = {(f, n, key) for f, n in EVERY for key in (None, *find(INTERFACES[f], n).model_fields)}
    assert found == expected
    assert len(rows) == len(expected)
    assert all(row["meaning"] for row in rows)


def test_types_and_defaults_read_well() -> None:
    rows = {(row["name"], row["key"]): (row["type"], row["default"]) for row in keys(list(INTERFACES.values()))}
    assert rows["sgd", "lr"] == ("float", "0.001")
    assert rows["mlp", "hidden"] == ("a list of ints", "[64, 64]")
    assert rows["mlp", "bias"] == ("bool", "true")
    assert rows["trace", "samples"] == ("int | all | auto", "all")
    assert rows["trace", "operator"] == ("an operator", "hessian")
    assert rows["trace", "at"] == ("a list of (int | first | last) | null", "null")
    assert rows["adam", "betas"] == ("a list of 2 floats", "[0.9, 0.999]")
    assert rows["digits", "test"] == ("int | float", "0.2")
    assert rows["file", "path"] == ("text", "required")
    assert rows["file", "inputs"] == ("text | a list of text | null", "null")
    assert rows["resnet", "normalization"] == ("none | batch | layer", "batch")
    for kind, _ in rows.values():
        assert kind is None or not set(kind) & set("<>{}='\"."), kind
    assert readable(tuple[Probe, ...]) == "a list of (a probe)"


def test_a_components_own_keys_come_first() -> None:
    order = [row["key"] for row in keys([Probe]) if row["name"] == "eigenvalues"]
    assert order.index("top") < order.index("every")
    assert order[0] is None


def test_the_list_prints_in_every_format() -> None:
    rows = keys([Probe])
    for name, format_ in formats.FORMATS.items():
        text = format_(rows)
        assert "eigenvalues" in text, name
    assert all(line.count("\t") == 5 for line in formats.FORMATS["tsv"](rows).splitlines())
