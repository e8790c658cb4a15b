"""One recipe, many runs: grids, axes in step, settings one by one, and the command line over all of them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from lossgeo.recipes.documents import Document, RecipeError, read_document
from lossgeo.recipes.resolving import Resolved, resolve
from lossgeo.recipes.sweeps import MAX_RUNS, expand, override, put
from tests.support.counting import calls_of

BASE = """name: base
model: {name: mlp, hidden: [8, 8]}
dataset: digits
loss: mse
optimizer: sgd
batch_size: 16
steps: 10
probes:
  - trace
  - {name: eigenvalues, top: 2}
"""


def runs(extra: str = "", sets: tuple[str, ...] = (), sweeps: tuple[str, ...] = ()) -> list[Resolved]:
    return resolve(read_document((BASE + extra).encode(), "f.yaml"), list(sets), list(sweeps))


def complaints(extra: str = "", sets: tuple[str, ...] = (), sweeps: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        runs(extra, sets, sweeps)
    return caught.value.lines


def settings_of(extra: str = "", **options: Any) -> list[dict[str, Any]]:
    return [run.swept for run in runs(extra, **options)]


# --- what a sweep makes ----------------------------------------------------------------------------------------------


def test_no_sweep_is_one_run() -> None:
    (run,) = runs()
    assert run.swept == {}
    assert run.slug == "seed=0"


def test_a_grid_multiplies() -> None:
    assert settings_of("sweep: {batch_size: [16, 64], seed: {range: 3}}") == [
        {"batch_size": b, "seed": s} for b, s in itertools.product([16, 64], range(3))
    ]


def test_zip_advances_together_and_list_goes_one_by_one() -> None:
    made = settings_of(
        "sweep: {seed: [0, 1]}\n"
        "zip: {batch_size: [16, 64], optimizer.lr: [0.1, 0.4]}\n"
        "list: [{steps: 5}, {steps: 7, model.hidden: []}]\n"
    )
    assert len(made) == 2 * 2 * 2
    assert made[0] == {"seed": 0, "batch_size": 16, "optimizer.lr": 0.1, "steps": 5}
    assert made[-1] == {"seed": 1, "batch_size": 64, "optimizer.lr": 0.4, "steps": 7, "model.hidden": ()}
    assert {(m["batch_size"], m["optimizer.lr"]) for m in made} == {(16, 0.1), (64, 0.4)}


@pytest.mark.parametrize(
    ("spec", "values"),
    [
        ("{range: 5}", [0, 1, 2, 3, 4]),
        ("{range: [2, 5]}", [2, 3, 4]),
        ("{range: [10, 0, -4]}", [10, 6, 2]),
        ("{log: [1e-3, 1, 7]}", [1e-3, 0.00316228, 0.01, 0.0316228, 0.1, 0.316228, 1]),
        ("{log: [1, 1e-2, 3]}", [1, 0.1, 0.01]),
        ("{log: [16, 1024, 7]}", [16, 32, 64, 128, 256, 512, 1024]),
        ("{log: [1e-300, 1e300, 3]}", [1e-300, 1.0, 1e300]),
    ],
)
def test_axes(spec: str, values: list[float]) -> None:
    document = read_document(f"sweep: {{x: {spec}}}".encode(), "f.yaml")
    made = [setting["x"] for _, setting in expand(document)]
    assert made == pytest.approx(values, rel=1e-12)
    assert [type(v) for v in made] == [type(v) for v in values]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300), st.integers(2, 50))
def test_a_log_axis_has_its_ends_and_equal_ratios(first: float, last: float, n: int) -> None:
    document = Document({"sweep": {"x": {"log": (first, last, n)}}}, "f.yaml")
    made = [setting["x"] for _, setting in expand(document)]
    assert len(made) == n
    assert (made[0], made[-1]) == (first, last)
    logs = [math.log(v) for v in made]
    step = (logs[-1] - logs[0]) / (n - 1)
    assert logs == pytest.approx([logs[0] + i * step for i in range(n)], abs=2e-5)  # six digits are written


def test_equal_runs_are_made_once() -> None:
    assert len(runs("sweep: {batch_size: [16, 16, 32]}")) == 2
    assert len(runs("sweep: {optimizer.lr: [1, 1.0]}")) == 1


def test_the_order_of_a_grid_means_nothing() -> None:
    one = runs("sweep: {optimizer: [sgd, adam], optimizer.lr: [0.1, 0.2], seed: [0, 1]}")
    other = runs("sweep: {seed: [1, 0], optimizer.lr: [0.2, 0.1], optimizer: [adam, sgd]}")
    assert len(one) == 8
    assert {r.id for r in one} == {r.id for r in other}
    assert {(r.plain["optimizer"]["name"], r.plain["optimizer"]["lr"]) for r in other} == {
        ("sgd", 0.1), ("sgd", 0.2), ("adam", 0.1), ("adam", 0.2)
    }  # fmt: skip
    assert {r.slug for r in one} == {r.slug for r in other}


def test_a_sweep_leaves_the_document_as_it_was() -> None:
    document = read_document((BASE + "sweep: {model.hidden.0: [1, 2], probes.1.top: [3, 4]}").encode(), "f.yaml")
    made = resolve(document, ["optimizer.lr=0.5"], ["seed=1,2"])
    assert [(r.plain["model"]["hidden"], r.plain["probes"][1]["top"]) for r in made[::2]] == [
        ([1, 8], 3), ([1, 8], 4), ([2, 8], 3), ([2, 8], 4)
    ]  # fmt: skip
    assert document == read_document(
        (BASE + "sweep: {model.hidden.0: [1, 2], probes.1.top: [3, 4]}").encode(), "f.yaml"
    )


def test_aliases_are_not_changed_together() -> None:
    (run,) = runs("evaluate: &x {every: 5}\ncheckpoint: *x\n", sets=("evaluate.every=7",))
    assert (run.plain["evaluate"]["every"], run.plain["checkpoint"]["every"]) == (7, 5)


# --- putting a value in its place ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("optimizer.lr", 0.5, {"optimizer": {"name": "sgd", "lr": 0.5}}),
        ("optimizer", "adam", {"optimizer": "adam"}),
        ("probes.0.top", 3, {"probes": ({"name": "trace", "top": 3}, {"name": "eigenvalues", "top": 2})}),
        ("probes.1", "trace", {"probes": ("trace", "trace")}),
        ("new.a.b", 1, {"new": {"a": {"b": 1}}}),
        ("null.a", 1, {"null": {"a": 1}}),
    ],
)
def test_put(key: str, value: object, found: dict[str, Any]) -> None:
    plain = {"optimizer": "sgd", "probes": ("trace", {"name": "eigenvalues", "top": 2}), "null": None}
    assert put(plain, key, value) is None
    assert plain == plain | found


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("probes.2.top", "probes is a list of 2; name an item by its number, from 0"),
        ("probes.-1.top", "probes is a list of 2"),
        ("probes.top", "probes is a list of 2"),
        ("probes.99999999999999999999", "probes is a list of 2"),
        ("probes." + "9" * 5000, "probes is a list of 2"),
        ("steps.a.b", "steps is 10 and has no keys"),
    ],
)
def test_put_refuses_what_leads_nowhere(key: str, said: str) -> None:
    plain = {"steps": 10, "probes": ("trace", "trace")}
    before = dict(plain)
    assert str(put(plain, key, 1)).startswith(said)
    assert plain == before
    assert said in complaints(sets=(f"{key}=1",))[0]
    assert said in complaints(f"sweep:\n  ? {key}\n  : [1]")[0]


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "way", "value"),
    [
        ("optimizer.lr=1e-2", ("optimizer", "lr"), 0.01),
        ("model.hidden=[4, 4]", ("model", "hidden"), [4, 4]),
        ("model.hidden.1=4", ("model", "hidden"), [8, 4]),
        ("model.bias=no", ("model", "bias"), False),
        ("probes.1.top=5", ("probes", 1, "top"), 5),
        ("probes.0.every=5", ("probes", 0, "every"), 5),
        ("probes=[]", ("probes",), []),
        ("optimizer={name: adam, lr: 0.5}", ("optimizer", "lr"), 0.5),
        ("schedule={name: step, every: 3}", ("schedule", "every"), 3),
        ("stop.train_loss_below=0.1", ("stop", "train_loss_below"), 0.1),
        ("name=other", ("name",), "other"),
        ("claim={says: 'a=b', source: c, report: runs}", ("claim", "says"), "a=b"),
    ],
)
def test_set(option: str, way: tuple[Any, ...], value: object) -> None:
    (run,) = runs(sets=(option,))
    found: Any = run.plain
    for step in way:
        found = found[step]
    assert found == value


def test_the_last_of_two_sets_holds() -> None:
    (run,) = runs(sets=("optimizer.lr=0.1", "optimizer=adam", "optimizer.lr=0.2"))
    assert (run.plain["optimizer"]["name"], run.plain["optimizer"]["lr"]) == ("adam", 0.2)


def test_a_set_key_is_not_swept_any_more() -> None:
    extra = (
        "sweep: {batch_size: [16, 64], seed: [0, 1]}\nzip: {steps: [1, 2]}\nlist: [{model.gain: 2}, {model.gain: 3}]\n"
    )
    assert len(runs(extra)) == 16
    assert len(runs(extra, sets=("batch_size=32",))) == 8
    assert len(runs(extra, sets=("batch_size=32", "steps=5"))) == 4
    (run,) = runs(extra, sets=("batch_size=32", "steps=5", "model.gain=1", "seed=7"))
    assert run.swept == {}
    assert [run.plain[key] for key in ("batch_size", "steps", "seed")] == [32, 5, 7]


def test_a_key_set_inside_a_swept_component_is_set_in_each() -> None:
    for extra in (
        "sweep: {optimizer: [sgd, adam]}",
        "zip: {optimizer: [sgd, adam]}",
        "list: [{optimizer: sgd}, {optimizer: adam}]",
    ):
        made = runs(extra, sets=("optimizer.lr=0.5",))
        assert [(r.plain["optimizer"]["name"], r.plain["optimizer"]["lr"]) for r in made] == [
            ("sgd", 0.5),
            ("adam", 0.5),
        ]
    made = runs("sweep: {optimizer.lr: [0.1, 0.2]}", sets=("optimizer=adam",))
    assert [(r.plain["optimizer"]["name"], r.plain["optimizer"]["lr"]) for r in made] == [("adam", 0.1), ("adam", 0.2)]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("batch_size=16,32,full", [16, 32, "full"]),
        ("batch_size=[16, 32]", [16, 32]),
        ("batch_size={range: [1, 4]}", [1, 2, 3]),
        ("batch_size={log: [1, 100, 3]}", [1, 10, 100]),
        ("batch_size=16", [16]),
        ("model.hidden=[4, 4],[]", [(4, 4), ()]),
        ("optimizer=sgd,{name: adam, lr: 1}", ["sgd", {"name": "adam", "lr": 1}]),
        ("optimizer={name: adam}", [{"name": "adam"}]),
    ],
)
def test_sweep(option: str, values: list[Any]) -> None:
    key = option.partition("=")[0]
    assert [setting[key] for setting in settings_of(sweeps=(option,))] == values


def test_an_option_takes_the_place_of_the_files_axis() -> None:
    for extra in ("sweep: {seed: [0, 1, 2]}", "zip: {seed: [0, 1, 2]}", "list: [{seed: 0}, {seed: 1}]"):
        assert settings_of(extra, sweeps=("seed=5,6",)) == [{"seed": 5}, {"seed": 6}]
    assert len(runs("sweep: {seed: [0, 1]}", sweeps=("batch_size=1,2", "steps=1,2,3"))) == 12


# --- what is refused, and where --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("sweep: [1]", "f.yaml:11:1: sweep: should be a mapping of keys to lists"),
        ("zip: 3", "f.yaml:11:1: zip: should be a mapping of keys to lists"),
        ("list: {a: 1}", "f.yaml:11:1: list: should be a list of settings"),
        ("list: [1]", "f.yaml:11:1: list: should be a list of settings"),
        ("list: []", "f.yaml:11:1: list: should be a list of settings"),
        ("sweep: {seed: 3}", "f.yaml:11:9: sweep.seed: should be a list of values, {range: 5}"),
        ("sweep: {seed: []}", "f.yaml:11:9: sweep.seed: should be a list of values"),
        ("sweep: {seed: {range: 0}}", "f.yaml:11:9: sweep.seed: should be a list of values"),
        ("sweep: {seed: {range: [1, 5, 0]}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {range: true}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {range: 2.5}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {range: []}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {range: 3, log: [1, 2, 3]}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {rnge: 3}}", "f.yaml:11:9: sweep.seed: should be a list of values"),
        ("sweep: {seed: {log: [0, 1, 3]}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {log: [1, .inf, 3]}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {log: [1, .nan, 3]}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {log: [1, 2]}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {log: [1, 2, true]}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {log: [1, 2, 1]}}", "f.yaml:11:9: sweep.seed: should be a list"),
        (f"sweep: {{seed: {{log: [1{'0' * 350}, 2, 3]}}}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {range: 1000000000000000000000}}", "f.yaml:11:9: sweep.seed: should be a list"),
        ("sweep: {seed: {range: [0, -9999999999999999, -1]}}", "f.yaml:11:9: sweep.seed: should be a list"),
        (
            "sweep: {seed: {range: 10000}, steps: {range: [1, 9999]}}",
            "f.yaml:11:1: sweep: makes 99980000 runs; 10000 are",
        ),
        (
            "zip: {seed: [1, 2], steps: [1, 2, 3]}",
            "f.yaml:11:1: zip: axes in step need equal lengths, not seed: 2, steps: 3",
        ),
        ("sweep: {seed: [1]}\nzip: {seed: [2]}", "f.yaml:12:7: zip.seed: is swept in two places; keep one"),
        ("sweep: {seed: [1]}\nlist: [{seed: 2}]", "f.yaml:11:9: sweep.seed: is swept in two places; keep one"),
        ("sweep: {sweep: [1]}", "f.yaml:11:9: sweep.sweep: a sweep sets keys of the recipe"),
        ("sweep: {zip.seed: [[1]]}", "f.yaml:11:9: sweep.zip.seed: a sweep sets keys of the recipe"),
        (
            "sweep: {" + ", ".join(f"k{i}: [1]" for i in range(101)) + "}",
            "f.yaml:11:1: sweep: 101 keys are swept; 100 are",
        ),
    ],
)
def test_a_wrong_sweep_is_one_message_at_its_place(extra: str, said: str) -> None:
    (message,) = complaints(extra)
    assert message.startswith(said)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ("sweep:\n  optimizer.lrr: [1, 2, 3]", "f.yaml:12:3: optimizer.lrr: unknown key; did you mean 'lr'?"),
        ("sweep:\n  optimzer.lr: [1]", "f.yaml:12:3: optimzer: unknown key; did you mean 'optimizer'?"),
        ("sweep: {batch_size: [16, abc]}", "f.yaml:11:9: batch_size: should be a whole number or 'full', not 'abc'"),
        ("sweep: {seed: {range: [-1, 2]}}", "f.yaml:11:9: seed: should be at least 0, not -1"),
        ("zip: {optimizer: [sgd, sdg]}", "f.yaml:11:7: optimizer: no optimizer is named 'sdg'; did you mean 'sgd'?"),
        ("list: [{seed: 1}, {seed: x}]", "f.yaml:11:20: seed: should be a whole number, not 'x'"),
        ("sweep: {optimizer: [{name: sgd, lrr: 3}]}", "f.yaml:11:9: optimizer.lrr: unknown key; did you mean 'lr'?"),
        ("sweep: {probes.7.top: [1]}", "f.yaml:11:9: probes.7.top: probes is a list of 2"),
    ],
)
def test_a_wrong_swept_value_is_told_at_the_axis(extra: str, said: str) -> None:
    (message,) = complaints(extra)
    assert message.startswith(said)


@pytest.mark.parametrize(
    ("sets", "sweeps", "said"),
    [
        (("optimizer.lrr=1",), (), "--set optimizer.lrr=1: optimizer.lrr: unknown key; did you mean 'lr'?"),
        (
            ("optimizer={name: adam, lr: x}",),
            (),
            "--set optimizer={name: adam, lr: x}: optimizer.lr: should be a number",
        ),
        (("seed",), (), "--set seed: write --set key=value"),
        (("=3",), (), "--set =3: write --set key=value"),
        (("a..b=3",), (), "--set a..b=3: write --set key=value"),
        (("seed=[1",), (), "--set seed=[1: not YAML: "),
        (("seed=1\nsteps: 3",), (), "--set 'seed=1\\nsteps: 3': not YAML: "),
        (("seed=\udcff",), (), "--set 'seed=\\udcff': not UTF-8 text"),
        (("batch_size=.nan",), (), "--set batch_size=.nan: batch_size: should be a whole number or 'full', not .nan"),
        (("seed=1",), ("seed=2,3",), "--set seed=1: seed: there is a --sweep of this key too; keep one"),
        ((), ("seed",), "--sweep seed: write --sweep key=a,b,c"),
        ((), ("seed=",), "--sweep seed=: sweep.seed: should be a list of values"),
        ((), ("seed=1,[",), "--sweep seed=1,[: not YAML: "),
        ((), ("optimizer.lrr=1,2",), "--sweep optimizer.lrr=1,2: optimizer.lrr: unknown key; did you mean 'lr'?"),
        ((), ("seed=1,x",), "--sweep seed=1,x: seed: should be a whole number, not 'x'"),
        ((), ("seed={range: 1000000000}",), "--sweep seed={range: 1000000000}: sweep.seed: should be a list of values"),
    ],
)
def test_a_wrong_option_is_named(sets: tuple[str, ...], sweeps: tuple[str, ...], said: str) -> None:
    (message,) = complaints(sets=sets, sweeps=sweeps)
    assert message.startswith(said)


def test_everything_wrong_is_told_at_once() -> None:
    extra = "stepps: 3\nseed: x\nsweep: {batch_size: 3, optimizer.lr: [1]}\n"
    lines = complaints(extra, sets=("model.hiden=[3]", "seed"), sweeps=("loss=mse,[",))
    assert [line.split(": ")[0] for line in lines] == [
        "--sweep loss=mse,[",
        "--set seed",
        "f.yaml:13:9",
        "f.yaml:11:1",
        "f.yaml:12:1",
        "--set model.hiden=[3]",
    ]


def test_huge_sweeps_are_refused_at_once() -> None:
    said = []
    for axis in ("{range: 999999999999999999999}", "{log: [1, 2, 99999999999]}"):
        calls_of(lambda axis=axis: said.append(complaints(sweeps=(f"seed={axis}",))[0]), most=20_000)  # found: 2,000
    many = "".join(["sweep: {", *(f"k{i}: {{range: 9999}}, " for i in range(50)), "}"])
    calls_of(lambda: said.append(complaints(many)[0]), most=20 * 50 * 9999)  # found: five for each value of an axis
    assert all(word in line for word, line in zip(("should be", "should be", "makes"), said, strict=True))


def test_the_work_of_a_sweep_grows_like_its_runs() -> None:
    assert len(runs(sweeps=(f"seed={{range: {MAX_RUNS}}}",))) == MAX_RUNS
    few, many = (calls_of(lambda n=n: runs(sweeps=(f"seed={{range: {n}}}",))) for n in (100, 1000))
    assert few < many < 10.5 * few


def test_override_alone_changes_nothing_else() -> None:
    document = read_document(BASE.encode(), "f.yaml")
    assert override(document, [], []) == document
