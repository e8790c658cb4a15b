"""Every recipe that lossgeo ships: its header, its line in the index, and the real program on a shrunk copy."""

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

ROOT = Path(__file__).parents[2]
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


def head(name: str) -> dict[str, str]:
    """The comment that a recipe opens with: what stands behind each of its words, on one line."""
    text = (shipped_recipes() / f"{name}.yaml").read_text()
    first, *lines = text[: text.index("\nname:")].splitlines()
    assert first.startswith("# yaml-language-server: $schema=")
    assert all(line.startswith("# ") for line in lines)
    parts = re.split(r"^# ([A-Z][a-z]+): ", "\n".join(lines), flags=re.MULTILINE)
    texts = (" ".join(text.replace("\n#", "\n").split()) for text in parts[2::2])
    return dict(zip(parts[1::2], texts, strict=True))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_opens_with_question_command_expectation_and_time(name: str) -> None:
    said = head(name)
    assert list(said) == ["Question", "Command", "Expect", "Takes", "Source"]
    assert said["Question"].endswith("?")
    assert said["Command"].startswith(f"lossgeo train {name}")
    assert " on two cores" in said["Takes"]


def test_the_index_has_every_recipe_once_with_its_question_command_and_time() -> None:
    index = (ROOT / "recipes" / "README.md").read_text()
    entries = re.findall(r"^\*\*(.+)\*\*\n\[(.+)\]\((.+)\), (.+):\n\n((?:    .+\n)+)", index, re.MULTILINE)
    assert sorted(name for _, name, *_ in entries) == RECIPES
    assert index.count(".yaml") == len(RECIPES)
    for question, name, file, takes, commands in entries:
        said = head(name)
        assert file == f"{name}.yaml"
        assert question == said["Question"][0].upper() + said["Question"][1:]
        assert takes == said["Takes"].replace(" on two cores", "")
        assert [line.strip() for line in commands.splitlines()] == said["Command"].split(", then ")


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
    for table in {"steps", "evaluations", *(probe.table_name() for probe in recipe.probes)}:
        rows = pq.read_table(tmp_path / folder / f"{table}.parquet").to_pylist()
        assert rows, table
        assert not [row["failure"] for row in rows if row.get("failure")]
