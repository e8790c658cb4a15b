"""Finding runs, reading them, and telling what was swept."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lossgeo.errors import NothingToReport, RunError, UsageError
from lossgeo.reports.analysis.study import Study, last
from tests.support.synthetic import eigenvalue, id_of, recipe, tables_of_a_run, write_run


def test_runs_are_found_anywhere_below_and_once(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a" / "deep", id_of(1), recipe(seed=1))
    write_run(tmp_path / "b", id_of(0), recipe(seed=0))
    (first / "checkpoints").mkdir()
    (first / "checkpoints" / "run.json").write_text("{}")  # a run's own subfolders are not searched
    (tmp_path / "link").symlink_to(first)
    study = Study.open([tmp_path, first, tmp_path / "link", tmp_path / "a"])
    assert [run.id for run in study.runs] == [id_of(0), id_of(1)]


def test_of_two_copies_the_one_that_got_further_counts(tmp_path: Path) -> None:
    write_run(tmp_path / "old", id_of(1), recipe(), status="stopped", step=50)
    write_run(tmp_path / "new", id_of(1), recipe(), status="done", step=200)
    (run,) = Study.open([tmp_path / "old", tmp_path / "new"]).runs
    assert run.status == "done"


def test_wrong_paths_say_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: no such folder"):
        Study.open([tmp_path / "nowhere"])
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        Study.open([tmp_path / "file"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingToReport, match="no run"):
        Study.open([tmp_path / "empty"])


def test_swept_keys_and_settings(tmp_path: Path) -> None:
    write_run(tmp_path, id_of(1), recipe(batch_size=1024, model={"hidden": [8, 8]}))
    write_run(tmp_path, id_of(2), recipe(batch_size="full", model={"hidden": [8, 16]}))
    write_run(tmp_path, id_of(3), recipe(batch_size=16, model={"hidden": [8]}, claim={"says": "another"}))
    study = Study.open([tmp_path])
    assert study.swept == ("model.hidden.1", "batch_size")  # not name, not the claim
    assert study.settings.loc[id_of(3)].to_dict() == {"model.hidden.1": None, "batch_size": 16}
    assert list(study.settings["batch_size"]) == [1024, "full", 16]  # 8, 16, then no second layer


def test_runs_stand_in_the_order_of_their_settings(tmp_path: Path) -> None:
    for number, size in enumerate(["full", 1024, 64, 128]):
        write_run(tmp_path, id_of(number), recipe(batch_size=size))
    assert [run.recipe["batch_size"] for run in Study.open([tmp_path]).runs] == [64, 128, 1024, "full"]


def test_names_are_swept_when_recipes_differ(tmp_path: Path) -> None:
    write_run(tmp_path, id_of(1), recipe(name="a"))
    write_run(tmp_path, id_of(2), recipe(name="b"))
    assert Study.open([tmp_path]).swept == ("name",)


def test_tables_are_joined_and_absent_ones_are_absent(tmp_path: Path) -> None:
    write_run(tmp_path, id_of(1), recipe(seed=1), tables_of_a_run(2.0))
    write_run(tmp_path, id_of(2), recipe(seed=2), {"evaluations": tables_of_a_run(3.0, accuracy=None)["evaluations"]})
    write_run(tmp_path, id_of(3), recipe(seed=3))
    study = Study.open([tmp_path])
    assert set(study.table("evaluations")["run"]) == {id_of(1), id_of(2)}
    assert set(study.table("eigenvalues")["run"]) == {id_of(1)}
    assert len(study.table("density")) == 0
    final = last(study.evaluations())
    assert final.loc[id_of(1), "test_accuracy"] == pytest.approx(0.95)
    assert final["test_accuracy"].isna()[id_of(2)]
    assert last(study.top_eigenvalues("hessian")).loc[id_of(1), "lambda_max"] == 2.0
    assert last(study.top_eigenvalues("hessian"), 199).loc[id_of(1), "step"] == 100
    assert len(study.top_eigenvalues("fisher")) == len(study.traces("fisher")) == 0


def test_replicas_are_averaged_over_what_a_probe_found(tmp_path: Path) -> None:
    rows = [
        eigenvalue(100, 4.0, probe="eigenvalues-a", replica=0),
        eigenvalue(100, 6.0, probe="eigenvalues-a", replica=1, converged=False),
        eigenvalue(100, 50.0, probe="eigenvalues-b", operator="fisher"),
        eigenvalue(100, 3.0, probe="eigenvalues-d", samples=10),
    ]
    write_run(tmp_path, id_of(1), recipe(seed=1), {"eigenvalues": rows})
    write_run(tmp_path, id_of(2), recipe(seed=2), {"eigenvalues": [eigenvalue(100, 9.0, probe="eigenvalues-c")]})
    study = Study.open([tmp_path])
    top = study.top_eigenvalues("hessian").set_index("run")
    assert top["lambda_max"].to_dict() == {id_of(1): 5.0, id_of(2): 9.0}
    assert not top.loc[id_of(1), "converged"]
    assert study.choices("hessian") == ["eigenvalues-a", "eigenvalues-d"]
    assert list(study.top_eigenvalues("hessian", "eigenvalues-d")["lambda_max"]) == [3.0]


def test_a_failure_belongs_to_the_operator_of_its_probe(tmp_path: Path) -> None:
    failed = {"step": 200, "probe": "eigenvalues", "failure": "RuntimeError: out of memory"}
    write_run(tmp_path, id_of(1), recipe(seed=1), {"eigenvalues": [eigenvalue(100, 4.0), failed]})
    study = Study.open([tmp_path])
    assert last(study.top_eigenvalues("hessian")).loc[id_of(1), "failure"] == failed["failure"]
    assert len(study.top_eigenvalues("fisher")) == 0


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[]"),
        ("run.json", '{"run": "1"}'),
        ("recipe.yaml", "a: [1"),
        ("recipe.yaml", "- 1"),
        ("eigenvalues.parquet", "PAR1 torn"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, file: str, content: str) -> None:
    folder = write_run(tmp_path, id_of(1), recipe())
    (folder / file).write_text(content)
    with pytest.raises(RunError, match=file.replace(".", r"\.")):
        Study.open([tmp_path]).table("eigenvalues")


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path, id_of(1), recipe())
    (folder / "recipe.yaml").unlink()
    with pytest.raises(RunError, match=r"recipe\.yaml"):
        Study.open([tmp_path])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_a_folder_that_may_not_be_listed_is_named(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(RunError, match="closed"):
        Study.open([tmp_path])


def test_manifests_may_hold_more_than_this_version_knows(tmp_path: Path) -> None:
    folder = write_run(tmp_path, id_of(1), recipe())
    facts = json.loads((folder / "run.json").read_text()) | {"future": {"a": [1]}}
    (folder / "run.json").write_text(json.dumps(facts))
    assert Study.open([folder]).runs[0].manifest["future"] == {"a": [1]}
