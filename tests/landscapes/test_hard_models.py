"""The whole engine on models that break others: every operator and probe against a dense matrix of another route."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.models.mlp import MLP
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.task import Examples, Task
from lossgeo.probes.density import Density
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from lossgeo.randomness import generator
from lossgeo.runs.building import landscape_and_data
from tests.support.dense import CASES, DIFFERENCES, ROUNDING, Dense
from tests.support.mortal import mortal
from tests.support.networks import (
    CLASSES,
    N,
    Noisy,
    Slower,
    apart,
    data,
    directions,
    here,
    landscape_around,
    landscape_of,
    measured,
    untouched,
)
from tests.support.program import ENVIRONMENT, a_run

# products in float32 against a matrix in float64: an eps of 1.2e-7 in every one of some ten operations in a row, and
# gradients of different examples that cancel in part
SINGLE = 3e-6
# float32's best step errs by eps^(2/3) = 2e-5 of the third derivative, which is some ten times the second here
SINGLE_DIFFERENCES = 2e-3


class Attention(nn.Module):
    """torch's attention layer, and its attention function, on a sequence of three."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.last = nn.Linear(4, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        h = self.embed(inputs.unflatten(1, (3, 2)))
        h = self.norm(h + self.attention(h, h, h, need_weights=False)[0])
        q = h.unflatten(2, (2, 2)).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
        return self.last(mixed.transpose(1, 2).flatten(2).mean(1))


class Tied(nn.Module):
    """One matrix there and back, and one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.there = nn.Linear(6, 5)
        self.back = nn.Linear(5, 6, bias=False)
        self.again = nn.Linear(5, 5)
        self.same = self.again
        self.last = nn.Linear(5, CLASSES)
        self.back.weight = nn.Parameter(torch.zeros(6, 5))
        self.back.weight = self.there.weight  # (5, 6), used transposed

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        h = torch.tanh(self.there(inputs))
        h = torch.tanh(self.there(torch.tanh(h @ self.back.weight)))
        return self.last(torch.tanh(self.same(torch.tanh(self.again(h)))))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.layer = kind(2, 3, batch_first=True)
        self.last = nn.Linear(3, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.last(self.layer(inputs.unflatten(1, (3, 2)))[0][:, -1])


def frozen_backbone() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8).requires_grad_(False), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, CLASSES))


class Unused(nn.Module):
    """A head that nothing goes through, a parameter of no layer, and a scale that only some examples see."""

    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(6, CLASSES)
        self.unused = nn.Linear(6, 3)
        self.alone = nn.Parameter(torch.ones(()))
        self.sometimes = nn.Parameter(torch.ones(CLASSES))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.used(inputs)
        return torch.where(inputs[:, :1] > 0, outputs * self.sometimes, outputs)


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


MODULES: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "tied weights": Tied,
    "frozen backbone": frozen_backbone,
    "unused parameters": Unused,
    "dropout, batch norm and attention": Noisy,
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
}

# (landscape in a precision, mode of batch norm)
MODELS: dict[str, tuple[Callable[[torch.dtype], Landscape], str]] = {
    "batch norm resnet, eval": (lambda dtype: landscape_of("resnet", chunk=10, dtype=dtype), "eval"),
    "batch norm resnet, batch": (lambda dtype: landscape_of("resnet", chunk=10, dtype=dtype), "batch"),
    "transformer": (lambda dtype: landscape_of("transformer", chunk=10, dtype=dtype), "eval"),
    **{
        name: (lambda dtype, make=make: landscape_around(made(make), data((6,)), dtype=dtype), "eval")
        for name, make in MODULES.items()
    },
    "frozen backbone, batch": (lambda dtype: landscape_around(made(frozen_backbone), data((6,)), dtype=dtype), "batch"),
}


def agree(
    landscape: Landscape,
    batch_norm: str,
    tolerance: float = ROUNDING,
    differences: float = DIFFERENCES,
    without: str | None = None,
) -> Dense:
    """Every operator against its dense matrix, and contributions against their sum; leaves the model as it was."""
    dense = Dense(landscape, batch_norm)
    theta = landscape.start()
    with untouched(landscape, theta):
        near = LocalLoss(landscape, Point(0, theta, {}, Slower()), landscape.train, batch_norm)
        for name, case in CASES.items():
            if name == without or (name == "finite_difference" and landscape.dtype == torch.bfloat16):
                continue  # differences refuse
            allowed = differences if name == "finite_difference" else tolerance
            operator = case.operator.at(near)
            vectors = directions(operator.size)
            product = operator @ vectors.to(operator.dtype)
            if case.matrix is not None:
                assert apart(product, case.matrix(dense) @ vectors) <= allowed, name
            if operator.contributions is not None:
                forms = operator.contributions(vectors.T.to(operator.dtype)).forms.sum(1)
                assert apart(forms, (vectors * product).sum(0)) <= allowed, name
    return dense


# --- probes ----------------------------------------------------------------------------------------------------------


def eigenvalues_agree(landscape: Landscape, spectrum: np.ndarray, batch_norm: str, tolerance: float) -> None:
    top = min(2, len(spectrum))
    rows = measured(Eigenvalues(top=2, bottom=1, tolerance=tolerance, batch_norm=batch_norm), landscape)
    norm = np.abs(spectrum).max()
    assert [(r["end"], r["rank"]) for r in rows] == [*(("top", k) for k in range(top)), ("bottom", 0)]
    for row, true in zip(rows, [*spectrum[::-1][:top], spectrum[0]], strict=True):
        assert row["converged"]
        # the tolerance asked for, where an eigenvalue near zero is resolved relative to the norm
        assert abs(row["eigenvalue"] - true) <= tolerance * max(abs(true), 0.01 * norm) + 1e-14 * norm
        assert row["bound"] <= tolerance * max(abs(true), 0.01 * norm) * 1.01 + 1e-14 * norm


def trace_agrees(landscape: Landscape, spectrum: np.ndarray, batch_norm: str, deflate: int) -> None:
    (row,) = measured(Trace(vectors=20, tolerance=0.0, deflate=deflate, batch_norm=batch_norm), landscape)
    norm, squares = np.abs(spectrum).max(), (spectrum**2).sum()
    # 4 sigma, with what rounding leaves where nothing else is left
    rounding = 1e-5 if row["precision"] == "float32" else 1e-12
    assert abs(row["value"] - spectrum.sum()) <= 4 * row["stderr"] + rounding * norm * len(spectrum) ** 0.5
    assert abs(row["squares"] - squares) <= 4 * row["squares_stderr"] + rounding * squares
    assert row["low"] <= row["value"] <= row["high"]
    assert row["data_stderr"] is None  # all the examples were measured


def density_agrees(landscape: Landscape, spectrum: np.ndarray, batch_norm: str) -> None:
    vectors, size = 4, len(spectrum)
    rows = measured(Density(steps=20, vectors=vectors, deflate=2, batch_norm=batch_norm), landscape)
    norm, rounding = np.abs(spectrum).max(), 1e-5 if rows[0]["precision"] == "float32" else 1e-12
    nodes, weights = (np.array([row[key] for row in rows]) for key in ("node", "weight"))
    assert {row["vector"] for row in rows} == set(range(vectors))
    assert (weights >= 0).all()
    for k in range(vectors):
        mine = np.array([row["vector"] == k for row in rows])
        assert weights[mine].sum() == pytest.approx(1, abs=rounding)
    assert (nodes >= spectrum[0] - rounding * norm).all()
    assert (nodes <= spectrum[-1] + rounding * norm).all()
    for power in (1, 2):
        # 4 sigma of the mean of u'f(A)u over vectors u uniform over directions, without what is taken out of it
        sigma = np.sqrt(2 * (spectrum ** (2 * power)).sum() / size / (size + 2) / vectors)
        found = (weights * nodes**power).sum() / vectors
        assert abs(found - (spectrum**power).mean()) <= 4 * sigma + rounding * norm**power


@pytest.mark.parametrize("name", MODELS)
def test_every_operator_and_probe_is_right(name: str) -> None:
    make, batch_norm = MODELS[name]
    landscape = make(torch.float64)
    spectrum = np.linalg.eigvalsh(agree(landscape, batch_norm).hessian.numpy())
    eigenvalues_agree(landscape, spectrum, batch_norm, 1e-8)
    for deflate in (0, 3):
        trace_agrees(landscape, spectrum, batch_norm, deflate)
    density_agrees(landscape, spectrum, batch_norm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_every_operator_and_probe_is_right_in_single_and_half_precision(name: str, dtype: torch.dtype) -> None:
    make, batch_norm = MODELS[name]
    landscape = make(dtype)
    spectrum = np.linalg.eigvalsh(agree(landscape, batch_norm, SINGLE, SINGLE_DIFFERENCES).hessian.numpy())
    eigenvalues_agree(landscape, spectrum, batch_norm, 1e-3)
    if dtype == torch.bfloat16:  # whose products are float32's
        eigenvalues_agree(landscape, spectrum, batch_norm, 1e-7)  # in float64, of these parameters
        trace_agrees(landscape, spectrum, batch_norm, 3)
        density_agrees(landscape, spectrum, batch_norm)


def test_dropout_in_the_model_is_as_if_it_were_not_there() -> None:
    class Quiet(Noisy):
        def __init__(self) -> None:
            super().__init__()
            self.layers[2] = nn.Identity()
            self.attention.dropout = 0.0

    with_dropout, without = (landscape_around(made(make), data((6,))) for make in (Noisy, Quiet))
    for case in CASES.values():
        vectors = directions(case.operator.at(here(without)).size)
        assert torch.equal(case.operator.at(here(with_dropout)) @ vectors, case.operator.at(here(without)) @ vectors)


def test_a_transformer_on_text(tmp_path: Path) -> None:
    """Through the recipe. Too many parameters for matrices: products, by forward mode on the model written out."""
    run = a_run(
        tmp_path,
        model={"name": "transformer", "width": 8, "heads": 2, "layers": 1, "tie_weights": True},
        dataset={"name": "text", "context": 8, "train": 40, "test": 10},
        batch_size=8,
        dtype="float64",
    )
    landscape, _ = landscape_and_data(run.recipe, "cpu")
    dense = Dense(landscape)
    near = here(landscape)
    v = directions(landscape.size, 1)[:, 0]
    hessian, gauss_newton = dense.products(v)
    for name, product in (("hessian", hessian), ("gauss_newton", gauss_newton), ("fisher", gauss_newton)):
        assert apart(CASES[name].operator.at(near) @ v, product) <= ROUNDING, name
    rows = measured(Eigenvalues(top=1, bottom=1, tolerance=1e-3), landscape)
    vectors = Eigenvalues(top=1, bottom=1, save_vectors=True).run(landscape, near.point, {}, 0).vectors
    for row, end in zip(rows, ("top", "bottom"), strict=True):
        (u,) = next(t for key, t in vectors.items() if key.endswith(end))
        # the Rayleigh quotient of a vector with an error of 1e-3 or so is right to the square of that
        assert float(u @ dense.products(u)[0]) == pytest.approx(row["eigenvalue"], rel=1e-3)


# --- the smallest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["mlp", "cnn", "transformer"])
@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_one_example(network: str, loss: str) -> None:
    landscape = landscape_of(network, loss, n=1)
    dense = agree(landscape, "eval", without="gradient_covariance")
    spectrum = np.linalg.eigvalsh(dense.hessian.numpy())
    eigenvalues_agree(landscape, spectrum, "eval", 1e-8)
    trace_agrees(landscape, spectrum, "eval", 0)
    # its own gradient does not vary
    covariance = CASES["gradient_covariance"].operator.at(here(landscape))
    moment = CASES["gradient_covariance, uncentered"].operator.at(here(landscape))
    vectors = directions(landscape.size)
    assert (covariance @ vectors).norm() <= ROUNDING * (moment @ vectors).norm()
    assert moment.contributions(vectors.T).stderr().isinf().all()


def test_one_example_of_many_has_no_bracket() -> None:
    landscape = landscape_of("mlp")
    for row in measured(Eigenvalues(samples=1), landscape):
        assert row["samples"] == 1
        assert row.get("low") is None
        assert row.get("high") is None
    (row,) = measured(Trace(samples=1), landscape)
    assert row["data_stderr"] == float("inf")
    assert (row["low"], row["high"]) == (None, None)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_one_parameter(dtype: torch.dtype) -> None:
    """f = w x, L = mean (f - y)^2 / 2, so that all there is to find is mean x^2."""
    x, y = directions(N, 2, seed=1).T.reshape(2, N, 1)
    module = MLP(hidden=(), bias=False).build(Task((1,), 1, "values"), generator(0, "initialization"))
    landscape = landscape_around(module, Examples(x, y), "mse", dtype=dtype)
    curvature = float(landscape.train.inputs.double().square().mean())
    rounding = 1e-12 if dtype == torch.float64 else 1e-6
    assert landscape.size == 1
    for operator in ("hessian", "gauss_newton", "fisher"):
        product = CASES[operator].operator.at(here(landscape)) @ torch.ones(1, dtype=here(landscape).dtype)
        assert float(product) == pytest.approx(curvature, rel=rounding)
    rows = measured(Eigenvalues(top=3, bottom=2), landscape)
    assert [(r["end"], r["rank"]) for r in rows] == [("top", 0), ("bottom", 0)]
    for row in rows:
        assert row["eigenvalue"] == pytest.approx(curvature, rel=rounding)
        assert row["converged"]
    (row,) = measured(Trace(vectors=4), landscape)
    assert row["value"] == pytest.approx(curvature, rel=rounding)
    assert row["squares"] == pytest.approx(curvature**2, rel=rounding)
    rows = measured(Density(vectors=2, deflate=0), landscape)
    assert [(r["node"], r["weight"]) for r in rows] == 2 * [(pytest.approx(curvature, rel=rounding), 1)]


# --- the largest -----------------------------------------------------------------------------------------------------

GIGABYTES = 2

CHILD = """
import json, resource, sys
import torch
torch.set_num_threads(1)
from lossgeo import Examples, Landscape, Point, Task
from lossgeo.landscapes.losses.cross_entropy import CrossEntropy
from lossgeo.landscapes.models.mlp import MLP
from lossgeo.probes.density import Density
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from lossgeo.randomness import generator

task = Task((64,), 10, "classes")
module = MLP(hidden=(3130, 3130)).build(task, generator(0, "initialization"))
stream = torch.Generator().manual_seed(0)
examples = Examples(torch.randn(64, 64, generator=stream), torch.randint(0, 10, (64,), generator=stream))
landscape = Landscape(module, CrossEntropy(), task, examples, examples, chunk=32)
theta = landscape.start()
landscape.gradient(theta, landscape.train)
landscape.mean_gradient(theta, landscape.train)
with open("/proc/self/statm") as file:
    before = int(file.read().split()[1]) * resource.getpagesize()  # now, which is no more than the peak until now
probe = {"eigenvalues": Eigenvalues, "trace": Trace, "density": Density}[sys.argv[1]](**json.loads(sys.argv[2]))
rows = probe.run(landscape, Point(0, theta, {}), {}, 0).rows
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"size": landscape.size, "grown": peak - before, "rows": rows}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("probe", "settings"),
    [
        ("eigenvalues", {"top": 5, "bottom": 0, "budget": 150, "tolerance": 1e-2}),
        ("eigenvalues", {"top": 2, "bottom": 1, "budget": 40, "tolerance": 1e-2, "samples": 40, "data_error": False}),
        ("trace", {"vectors": 24, "tolerance": 0}),
        ("density", {"steps": 60, "vectors": 1, "deflate": 3}),
    ],
)
def test_ten_million_parameters_stay_under_the_cap(probe: str, settings: dict[str, object]) -> None:
    settings |= {"memory": GIGABYTES}
    child = subprocess.run(
        mortal(sys.executable, "-c", CHILD, probe, json.dumps(settings)),
        capture_output=True,
        text=True,
        timeout=1200,
        env=ENVIRONMENT,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    found = json.loads(child.stdout)
    assert found["size"] > 10_000_000
    assert [row["failure"] for row in found["rows"] if row.get("failure")] == []
    assert {row["graph"] for row in found["rows"]} == {"kept"}  # so that both graphs and vectors are under the cap
    assert found["grown"] <= GIGABYTES * 2**30
    if probe == "eigenvalues" and "samples" not in settings:
        assert all(row["converged"] for row in found["rows"])  # after restarts: half of the room holds 20 vectors
