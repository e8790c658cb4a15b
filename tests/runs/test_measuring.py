"""The one loop for probes: what they share, what they remember, what is told of their failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lossgeo.runs.run import Run
from tests.support.program import a_run, last_theta, lossgeo, news, rows, trained, written

SMALL: dict[str, Any] = {
    "model": {"name": "mlp", "hidden": [4]},
    "dataset": {"name": "wine"},
    "batch_size": "full",
    "steps": 4,
    "optimizer": {"name": "sgd", "lr": 0.01},
    "checkpoint": {"at": ["last"]},
}
BOTH = [
    {"name": "eigenvalues", "top": 3, "bottom": 0, "tolerance": 1e-6, "precision": "float64", "at": [2]},
    {"name": "density", "steps": 5, "vectors": 1, "deflate": 0, "precision": "float64", "at": [2]},
]

COUNTING = '''"""Counts its measurements, of every trial by itself."""

from typing import ClassVar, final

import torch

from lossgeo import Column, Measurement, Probe


@final
class Counting(Probe):
    """The norm of theta, and how often it was measured."""

    columns: ClassVar = (Column("norm", "float", "parameter", "|theta|"), Column("count", "int", "", "so far"))

    def measure(self, landscape, point, memory, generator):
        count = memory.get("count", torch.tensor(0)) + 1
        row = {"norm": float(point.theta.norm()), "count": int(count)}
        return Measurement([row], {"count": count}, {"theta": point.theta})
'''

FAILING = COUNTING.replace(
    'row = {"norm"', 'torch.linalg.cholesky(-torch.eye(2)) if count > 2 else None\n        row = {"norm"'
)


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_density_after_eigenvalues_takes_no_new_products(tmp_path: Path, replicas: int) -> None:
    run = trained(tmp_path, **SMALL, replicas=replicas, probes=BOTH)
    found = rows(run.folder, "density")
    assert [row["failure"] for row in found] == [None] * len(found)
    assert {row["replica"] for row in found} == set(range(replicas))
    assert {row["matvecs"] for row in found} == {0}
    assert all(row["matvecs"] >= 5 for row in rows(run.folder, "eigenvalues"))


def test_sharing_moves_no_value(tmp_path: Path) -> None:
    alone = trained(tmp_path / "alone", **SMALL, replicas=2, probes=BOTH[1:])
    shared = trained(tmp_path / "shared", **SMALL, replicas=2, probes=BOTH)
    pairs = zip(rows(alone.folder, "density"), rows(shared.folder, "density"), strict=True)
    for one, other in pairs:
        assert (one["node"], one["weight"], one["replica"]) == (other["node"], other["weight"], other["replica"])


def counting(folder: Path, text: str = COUNTING) -> Path:
    path = folder / "counting.py"
    path.write_text(text)
    return path


def test_a_probe_of_a_users_works_with_replicas_as_one_new_file(tmp_path: Path) -> None:
    probes = [{"name": "counting", "every": 1}]
    run = trained(tmp_path / "out", use=[counting(tmp_path)], **SMALL, replicas=3, probes=probes)
    found = rows(run.folder, "counting")
    assert [(row["step"], row["replica"], row["count"]) for row in found] == [
        (step, replica, step + 1) for step in range(5) for replica in range(3)
    ]
    assert len({row["norm"] for row in found}) == 15
    assert len(list((run.folder / "eigenvectors").iterdir())) == 5


def failures(run: Run) -> list[str | None]:
    return [row["failure"] for row in rows(run.folder, "counting")]


def test_a_failure_is_told_once_and_counted_in_training_as_by_probe(tmp_path: Path) -> None:
    use = [counting(tmp_path, FAILING)]
    probes = [{"name": "counting", "every": 1}]
    changes = {**SMALL, "checkpoint": {"every": 1}}
    run = a_run(tmp_path / "out", use=use, **changes, probes=probes)
    told = [item.note for item in news(run) if item.note]
    assert [failure is None for failure in failures(run)] == [True, True, False, False, False]
    assert len(told) == 2
    assert told[0].startswith(f"{run.folder}: counting at step 2 failed: _LinAlgError: ")
    assert told[1] == f"{run.folder}: counting failed at 3 steps; column `failure` of its table says why"
    recipe = written(tmp_path, **changes)
    shown = lossgeo("train", recipe, "--use", use[0], "--set", "probes=[{name: counting, every: 1}]", cwd=tmp_path)
    assert shown.returncode == 0
    assert "warning: outputs/tiny/" in shown.stderr
    assert "counting at step 2 failed" in shown.stderr
    later = trained(tmp_path / "later", **changes)
    probed = lossgeo("probe", later.folder, "--probe", "counting", "--at", "all", "--use", use[0], cwd=tmp_path)
    assert "counting at step 2 failed" in probed.stderr
    assert "counting failed at 3 steps" in probed.stderr


def test_a_step_at_which_one_trial_failed_is_measured_again(tmp_path: Path) -> None:
    row, fails = 'row = {"norm"', "torch.linalg.cholesky(-torch.eye(2)) if point.theta[0] {} else None"
    lucky = COUNTING.replace(row, f"{fails}\n        {row}")
    changes = {**SMALL, "replicas": 2}
    run = trained(tmp_path / "out", **changes)
    first, second = (float(theta[0]) for theta in last_theta(run))
    sign = ">" if first > second else "<"
    use = counting(tmp_path, lucky.replace("{}", f"{sign} {(first + second) / 2}"))
    for _ in range(2):
        done = lossgeo("probe", run.folder, "--probe", "counting", "--use", use, cwd=tmp_path)
        assert "counting at step 4 failed" in done.stderr
        found = rows(run.folder, "counting")
        assert [(row["replica"], row["failure"] is None) for row in found] == [(0, False), (1, True)]
