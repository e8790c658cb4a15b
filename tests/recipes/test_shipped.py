"""Every recipe that lossgeo ships: its header, and the real program on a shrunk copy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lossgeo.components.parsing import parse
from lossgeo.recipes.recipe import Recipe
from lossgeo.recipes.resolving import read_recipe, resolve, shipped_recipes
from tests.support.program import lossgeo

RECIPES = sorted(path.stem for path in shipped_recipes().glob("*.yaml"))

# what makes a run short; the sweep stays, with its first values
SHRUNK = ["steps=4", "evaluate={every: 2}", "log={every: 2}", "threads=1"]
OF_DATA, OF_TRIALS = ["dataset.train=100", "dataset.test=20"], ["replicas=3"]


def test_the_recipes_are_all_here() -> None:
    assert RECIPES == [
        "autoencoder_index",
        "catapult",
        "character_transformer",
        "duplicated_unit",
        "escape_momentum",
        "escape_rate",
        "escape_time",
        "hessian_spectrum",
        "index_against_loss",
        "loss_concentration",
        "minimum_probability",
        "neuron_splitting",
        "octopus_dimension",
        "octopus_stages",
        "plateau_times",
        "quickstart",
        "saddle_dimension",
        "saddle_noise",
        "saddle_to_saddle",
        "sharpness_mnist5k",
        "sharpness_vs_batch_size",
        "spin_glass_index",
        "spin_glass_threshold",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_question_command_expectation_and_time(name: str) -> None:
    text = (shipped_recipes() / f"{name}.yaml").read_text()
    header = text[: text.index("\nname:")]
    assert header.startswith("# yaml-language-server: $schema=")
    for word in ("Question:", "Command:", "Expect:", "Takes:"):
        assert re.search(rf"^# {word} ", header, re.MULTILINE), word
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"lossgeo train {name}" in header


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_by_name_through_the_program(name: str, tmp_path: Path) -> None:
    plain = read_recipe(name).plain
    swept = {**plain.get("sweep", {}), **plain.get("zip", {})}
    pinned = [f"{key}={json.dumps(values[0] if isinstance(values, tuple) else 0)}" for key, values in swept.items()]
    shrunk = [*SHRUNK, *(OF_TRIALS if "surface" in plain or "start" in plain else OF_DATA)]
    sets = [option for setting in [*shrunk, *pinned] for option in ("--set", setting)]
    done = lossgeo("train", name, *sets, "--out", "outputs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder, *others = done.stdout.splitlines()
    assert len(others) == len(plain.get("list", [0])) - 1
    manifest = json.loads((tmp_path / folder / "run.json").read_text())
    assert manifest["status"] == "done"
    assert manifest["recipe"] == name
    recipe, problems = parse(Recipe, resolve(read_recipe(str(tmp_path / folder / "recipe.yaml")))[0].plain)
    assert problems == []
    assert recipe is not None
    for table in {"steps", "evaluations", *(probe.component_name() for probe in recipe.probes)}:
        rows = pq.read_table(tmp_path / folder / f"{table}.parquet").to_pylist()
        assert rows, table
        assert not [row["failure"] for row in rows if row.get("failure")]
