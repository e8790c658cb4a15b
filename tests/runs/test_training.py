"""The training loop: batches, ends, divergence, what is recorded; and that watching changes nothing."""

from __future__ import annotations

import itertools
import math
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import lossgeo.landscapes.batches
from lossgeo.errors import UsageError
from lossgeo.landscapes.batches import batches
from lossgeo.landscapes.task import Examples
from lossgeo.runs import machine, training
from lossgeo.runs.building import landscape_and_data
from tests.support.mortal import die_with_the_parent
from tests.support.program import EIGENVALUES, TRACE, a_run, checkpoints, manifest, news, rows, tables, trained

# --- batches ---------------------------------------------------------------------------------------------------------


def examples(count: int) -> Examples:
    return Examples(torch.arange(3.0 * count).view(count, 3), torch.arange(count))


def taken(count: int, size: int, number: int, step: int = 0, seed: int = 0) -> list[Examples]:
    return list(itertools.islice(batches(examples(count), size, seed, step), number))


@pytest.mark.parametrize("block", [1, 2, 3, 100], ids=lambda n: f"{n} batches gathered")
@pytest.mark.parametrize(("count", "size"), [(10, 3), (12, 4), (7, 6), (5, 1)])
def test_every_epoch_visits_every_example_once_in_a_new_order(
    count: int, size: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lossgeo.landscapes.batches, "GATHERED", block * size * 12)  # an example has 12 bytes
    per_epoch = math.ceil(count / size)
    orders = []
    for epoch in range(3):
        epoch_batches = taken(count, size, per_epoch, step=epoch * per_epoch)
        assert [b.size for b in epoch_batches] == [size] * (per_epoch - 1) + [count - size * (per_epoch - 1)]
        order = torch.cat([b.targets for b in epoch_batches])
        assert sorted(order.tolist()) == list(range(count))
        assert torch.equal(torch.cat([b.inputs for b in epoch_batches]), examples(count).inputs[order])
        orders.append(order.tolist())
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.parametrize("block", [1, 2, 100])
def test_the_stream_is_the_same_from_every_step_on_and_however_it_is_gathered(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = taken(10, 3, 14)
    monkeypatch.setattr(lossgeo.landscapes.batches, "GATHERED", block * 3 * 12)
    for step in range(13):
        for expected, found in zip(whole[step:], taken(10, 3, 14 - step, step), strict=True):
            assert torch.equal(expected.targets, found.targets)
            assert torch.equal(expected.inputs, found.inputs)


def test_views_lie_alike_in_memory_wherever_training_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lossgeo.landscapes.batches, "GATHERED", 2 * 3 * 12)
    whole = [b.inputs.storage_offset() for b in taken(10, 3, 8)]
    assert len(set(whole)) > 1, "batches are views into a block"
    for step in range(8):
        assert [b.inputs.storage_offset() for b in taken(10, 3, 8 - step, step)] == whole[step:]


def test_the_seed_orders_and_full_keeps_the_data_as_they_are() -> None:
    first, second = (torch.cat([b.targets for b in taken(10, 3, 4, seed=seed)]).tolist() for seed in (0, 1))
    assert first != second
    for size in (10, 11):
        for batch in taken(10, size, 3):
            assert torch.equal(batch.targets, torch.arange(10))


# --- lengths and ends ------------------------------------------------------------------------------------------------


def test_epochs_count_ragged_batches_and_the_last_step_has_everything(tmp_path: Path) -> None:
    run = trained(
        tmp_path, steps=None, epochs=2, batch_size=1000, checkpoint={"every": 100}, probes=[TRACE | {"every": 100}]
    )
    assert manifest(run.folder)["steps"] == 4  # 1438 examples: 1000 and 438
    assert [r["step"] for r in rows(run.folder, "evaluations")] == [0, 0, 4, 4]
    assert [r["epoch"] for r in rows(run.folder, "evaluations")] == [0, 0, 2, 2]
    assert list(run.checkpoints()) == [0, 4]
    assert [r["step"] for r in rows(run.folder, "trace")] == [0, 4]


def test_full_batch_is_gradient_descent(tmp_path: Path) -> None:
    run = trained(tmp_path, batch_size="full", steps=3, log={"every": 1}, evaluate={"every": 1})
    steps, whole = rows(run.folder, "steps"), rows(run.folder, "evaluations")
    losses = {r["step"]: r["loss"] for r in whole if r["split"] == "train"}
    for row in steps:  # in one chunk and in two: equal up to the rounding of float32 sums
        assert row["loss"] == pytest.approx(losses[row["step"]], rel=1e-6)
    assert [r["epoch"] for r in steps] == [0, 1, 2]


STOPS = [
    ("train_loss_below", 0.9, lambda row, bound: row["loss"] < bound),
    ("train_accuracy_above", 0.8, lambda row, bound: row["accuracy"] > bound),
    ("gradient_norm_below", 0.55, lambda row, bound: row["gradient_norm"] < bound),
]


@pytest.mark.parametrize(("rule", "bound", "met"), STOPS, ids=[rule for rule, *_ in STOPS])
def test_a_rule_ends_training_at_the_first_evaluation_that_meets_it(
    tmp_path: Path, rule: str, bound: float, met: Any
) -> None:
    run = trained(
        tmp_path,
        stop={rule: bound},
        steps=2000,
        evaluate={"every": 7},
        checkpoint={"every": 1000},
        probes=[TRACE | {"at": ["last"]}],
    )
    train = [r for r in rows(run.folder, "evaluations") if r["split"] == "train"]
    assert [met(r, bound) for r in train] == [False] * (len(train) - 1) + [True]
    end = train[-1]["step"]
    assert 7 <= end < 2000
    assert end % 7 == 0
    facts = manifest(run.folder)
    assert (facts["status"], facts["step"], facts["steps"]) == ("done", end, 2000)
    assert list(run.checkpoints()) == [0, end]
    assert [r["step"] for r in rows(run.folder, "trace")] == [end]
    assert max(r["step"] for r in rows(run.folder, "steps")) < end
    if rule == "gradient_norm_below":
        landscape, _ = landscape_and_data(run.recipe, "cpu")
        theta = load_file(run.checkpoints()[end])["theta"]
        norm = float(torch.linalg.vector_norm(landscape.mean_gradient(theta, landscape.train)))
        assert train[-1]["gradient_norm"] == norm
    else:
        assert {r["gradient_norm"] for r in train} == {None}


def test_a_rule_met_at_the_start_ends_there(tmp_path: Path) -> None:
    run = trained(tmp_path, stop={"train_loss_below": 100})
    assert manifest(run.folder)["step"] == 0
    assert manifest(run.folder)["status"] == "done"
    assert list(run.checkpoints()) == [0]
    assert rows(run.folder, "steps") == []


def test_the_schedule_and_its_warmup_are_in_the_logged_rates(tmp_path: Path) -> None:
    schedule = {"name": "cosine", "warmup": 8}
    run = trained(tmp_path, schedule=schedule, steps=30, log={"every": 1})
    found = {r["step"]: r["lr"] for r in rows(run.folder, "steps")}
    assert list(found) == list(range(30))
    for step, lr in found.items():
        assert lr == 0.1 * run.recipe.schedule.factor(step, 30)
    rising = [found[step] for step in range(8)]
    assert rising == sorted(set(rising)), "the rate rises during warm-up"
    assert rising[0] < 0.02
    assert found[29] < 0.01


@pytest.mark.parametrize("log", [{"every": 7}, {"at": ["first", 5, 11]}, {"log": 6}])
def test_steps_are_logged_when_due(tmp_path: Path, log: Any) -> None:
    run = trained(tmp_path, log=log, steps=30)
    assert [r["step"] for r in rows(run.folder, "steps")] == [s for s in range(30) if run.recipe.log.due(s, 30)]


def test_news_come_and_signals_are_seen_even_where_nothing_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "NEWS_SECONDS", 0.0)
    seldom = {"at": ["first", "last"]}
    run = a_run(tmp_path, log=seldom, evaluate=seldom, checkpoint=seldom, steps=50)
    assert [p.step for p in news(run)] == list(range(51))  # the first says what the data were taken for
    assert [r["step"] for r in rows(run.folder, "evaluations")] == [0, 0, 50, 50]
    assert [r["step"] for r in rows(run.folder, "steps")] == [0]


# --- divergence ------------------------------------------------------------------------------------------------------


def losses_by_hand(steps: int, **changes: Any) -> list[float]:
    """Batch losses of plain SGD, by a loop that shares nothing with ours but model, data and batches."""
    found = a_run(Path("outputs"), **changes)
    landscape, _ = landscape_and_data(found.recipe, "cpu")
    theta, module = landscape.start(), landscape.module
    torch.nn.utils.vector_to_parameters(theta, module.parameters())
    optimizer = torch.optim.SGD(module.parameters(), lr=found.recipe.optimizer.lr)
    losses = []
    stream = batches(landscape.train, int(found.recipe.batch_size), 0, 0)
    for batch in itertools.islice(stream, steps):
        loss = torch.nn.functional.cross_entropy(module(batch.inputs), batch.targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("lr", [50.0, 1e30], ids=["above the multiple", "not a number"])
def test_divergence_is_a_result_with_its_step(tmp_path: Path, lr: float) -> None:
    changes: dict[str, Any] = {
        "optimizer": {"name": "sgd", "lr": lr},
        "divergence": 4.0,
        "model": "logistic",
        "log": {"every": 1000},
        "probes": [TRACE | {"every": 1}],
        "checkpoint": {"every": 1},
    }
    run = trained(tmp_path, **changes)
    limit = 4.0 * next(r["loss"] for r in rows(run.folder, "evaluations") if r["step"] == 0)
    by_hand = losses_by_hand(10, **changes)
    step = next(s for s, loss in enumerate(by_hand) if not loss <= limit)
    facts = manifest(run.folder)
    assert facts["status"] == "diverged"
    assert f"batch loss {by_hand[step]:.4g} at step {step}" in facts["reason"]
    last = rows(run.folder, "steps")[-1]
    assert last["step"] == step, "the step that diverged is in the table, though no row was due"
    assert last["loss"] == pytest.approx(by_hand[step], nan_ok=True)
    # a diverged point is nothing to go on from, and nothing is measured there
    assert max(run.checkpoints()) <= step
    assert max(r["step"] for r in rows(run.folder, "trace")) <= step
    before = tables(run.folder), checkpoints(run.folder), (run.folder / "run.json").read_bytes()
    assert news(run) == [], "it is not trained again"
    assert (tables(run.folder), checkpoints(run.folder), (run.folder / "run.json").read_bytes()) == before


def test_a_loss_that_is_infinite_from_the_start_is_divergence(tmp_path: Path) -> None:
    changes = {
        "loss": "mse",
        "dataset": "diabetes",
        "model": {"name": "mlp", "hidden": [8] * 8, "activation": "relu", "gain": 1e6},
    }
    run = trained(tmp_path, **changes, batch_size=32)
    facts = manifest(run.folder)
    assert (facts["status"], facts["step"]) == ("diverged", 0)
    assert "training loss" in facts["reason"]
    assert rows(run.folder, "evaluations")[0]["loss"] in (math.inf, pytest.approx(math.nan, nan_ok=True))


def test_a_gradient_that_explodes_while_the_loss_stays_finite_is_told_by_the_evaluation(tmp_path: Path) -> None:
    optimizer = {"name": "sgd", "lr": 1e30}
    run = trained(tmp_path, optimizer=optimizer, steps=1)  # one batch, whose loss is still fine
    facts = manifest(run.folder)
    assert (facts["status"], facts["step"]) == ("diverged", 1)
    assert "training loss" in facts["reason"]
    assert "at step 1" in facts["reason"]


# --- watching --------------------------------------------------------------------------------------------------------

MODELS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adam": {"optimizer": {"name": "adam", "lr": 0.01}},
    "batch norm": {
        "model": {"name": "resnet", "width": 2, "blocks": 1, "normalization": "batch"},
        "steps": 6,
        "dataset": {"name": "digits", "train": 300},
    },
}


@pytest.mark.parametrize("model", MODELS)
def test_watching_changes_nothing(tmp_path: Path, model: str) -> None:
    changes = {"steps": 12, "checkpoint": {"every": 3}, "evaluate": {"every": 4}, "log": {"every": 1}} | MODELS[model]
    plain = trained(tmp_path, **changes)
    batch = {"batch_norm": "batch"} if model == "batch norm" else {}
    watched = trained(tmp_path, probes=[EIGENVALUES | {"every": 1} | batch, TRACE | {"every": 1}], **changes)
    assert len(rows(watched.folder, "trace")) == changes["steps"] + 1
    assert {r["failure"] for r in rows(watched.folder, "eigenvalues")} == {None}
    without = ("run",)
    assert tables(plain.folder, without) == {
        name: table for name, table in tables(watched.folder, without).items() if name in ("steps", "evaluations")
    }
    assert plain.checkpoints().keys() == watched.checkpoints().keys()
    for step in plain.checkpoints():
        one, other = plain.load(step), watched.load(step)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


# --- what is recorded ------------------------------------------------------------------------------------------------


def test_the_manifest_says_what_was_trained_on_what(tmp_path: Path) -> None:
    run = trained(tmp_path, probes=[TRACE | {"every": 30}])
    facts = manifest(run.folder)
    assert facts["run"] == run.id
    assert facts["recipe"] == "tiny"
    assert (facts["status"], facts["reason"], facts["step"], facts["steps"]) == ("done", None, 60, 60)
    assert facts["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert (facts["device"], facts["threads"]) == ("cpu", 1)
    assert facts["versions"]["torch"] == torch.__version__
    assert {"lossgeo", "python", "numpy", "scipy", "pandas", "pyarrow"} <= facts["versions"].keys()
    assert facts["git_commit"] is None or len(facts["git_commit"].rstrip("+")) == 40
    assert 0 < facts["probe_seconds"] < facts["seconds"]
    data = facts["data"]
    assert (data["name"], data["train"], data["test"], data["outputs"]) == ("digits", 1438, 359, 10)
    assert data["inputs"] == [1, 8, 8]
    assert len(data["sha256"]) == 64
    assert "load_digits" in data["source"]
    assert (run.folder / "recipe.yaml").exists()


def test_theta_in_a_checkpoint_is_in_the_order_of_the_named_parameters(tmp_path: Path) -> None:
    run = trained(tmp_path, steps=5)
    landscape, _ = landscape_and_data(run.recipe, "cpu")
    whole = torch.cat([p.detach().reshape(-1) for _, p in landscape.module.named_parameters()])
    assert torch.equal(load_file(run.checkpoints()[0])["theta"], whole)
    distance = torch.linalg.vector_norm(load_file(run.checkpoints()[5])["theta"] - whole)
    last = rows(run.folder, "evaluations")[-1]
    assert last["distance"] == float(distance)


def test_auto_threads_are_measured_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "fastest_threads", lambda landscape, theta, batch: 2)
    run = trained(tmp_path, threads="auto", steps=40)
    assert manifest(run.folder)["threads"] == 2

    def never(*_: Any) -> int:
        raise AssertionError("measured again")

    monkeypatch.setattr(machine, "fastest_threads", never)
    run.note(status="stopped")  # as if a signal had come at the end
    news(run)
    assert torch.get_num_threads() == 2
    assert manifest(run.folder)["threads"] == 2
    torch.set_num_threads(1)


def test_workers_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)
    run = a_run(tmp_path, threads="auto", steps=1)
    list(training.train(run, training.Interrupt(), workers=3))
    assert manifest(run.folder)["threads"] == 2
    torch.set_num_threads(1)


def test_calibration_chooses_one_or_all(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    landscape, _ = landscape_and_data(run.recipe, "cpu")
    before = landscape.start()
    batch = landscape.train.rows(slice(0, 64))
    assert machine.fastest_threads(landscape, before.clone(), batch) in (1, machine.cores())
    assert torch.equal(landscape.start(), before)
    torch.set_num_threads(1)


def test_keep_last_keeps_the_last(tmp_path: Path) -> None:
    run = trained(tmp_path, checkpoint={"every": 20, "keep": "last"})
    assert list(run.checkpoints()) == [60]


def test_what_does_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batch_size 5000 of 1438"):
        trained(tmp_path, batch_size=5000)
    assert list(tmp_path.iterdir()) == []


def _train_with_probes(out: Path) -> None:
    die_with_the_parent()
    trained(out, steps=400, evaluate={"every": 2}, log={"every": 1}, checkpoint={"every": 5})


def test_tables_are_readable_while_the_run_goes_on(tmp_path: Path) -> None:
    writer = multiprocessing.get_context("fork").Process(target=_train_with_probes, args=(tmp_path,))
    writer.start()
    seen = set()
    while writer.is_alive():
        for file in tmp_path.glob("tiny/*/steps.parquet"):
            found = [r["step"] for r in rows(file.parent, "steps")]
            assert found == sorted(set(found))
            seen.add(len(found))
            assert manifest(file.parent)["status"] in ("running", "done")
    writer.join()
    assert writer.exitcode == 0
    assert len(seen) > 5


def test_a_gradient_norm_of_zero_meets_its_rule(tmp_path: Path) -> None:
    """At the minimum of a surface the gradient is exactly 0.0, which is below any threshold."""
    on_surface = {"model": None, "dataset": None, "loss": None, "batch_size": "full"}
    surface = {"name": "quadratic", "spectrum": [1.0, 2.0]}
    stop = {"gradient_norm_below": 1e-6}
    run = a_run(
        tmp_path, surface=surface, optimizer={"name": "sgd", "lr": 0.5}, steps=4000, stop=stop, **on_surface,
        evaluate={"every": 2000},
    )  # fmt: skip
    news(run)
    assert manifest(run.folder)["step"] == 2000
    assert rows(run.folder, "evaluations")[-1]["gradient_norm"] == 0.0
