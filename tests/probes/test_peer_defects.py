"""What other tools get wrong, each once: the twenty rows of the survey of peers, in its order.

Every docstring says which tool gives what instead. The versions are those of the survey: PyHessian 0.1,
hessian-eigenthings 1.0.0a6, curvlinops 3.0.1, Landscaper 1.3.1, loss-landscape (Goldstein) 2018, loss-landscapes
(De Bernardi) 3.0.6, HessFormer 2025.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lossgeo import CurvatureProbe, formats
from lossgeo.components.finding import find, names
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.finite_difference import FiniteDifference
from lossgeo.curvature.operators.fisher import Fisher
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.curvature.operators.gradient_covariance import GradientCovariance
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.spectral.krylov import Krylov, direction, orthogonal
from lossgeo.curvature.spectral.lanczos import lanczos
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.curvature.spectral.slq import density
from lossgeo.curvature.spectral.trace import trace
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses.cross_entropy import CrossEntropy
from lossgeo.landscapes.models.mlp import MLP
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.task import Examples, Task
from lossgeo.probes import Probe
from lossgeo.probes.density import Density
from lossgeo.probes.eigenvalues import Eigenvalues
from lossgeo.probes.trace import Trace
from lossgeo.randomness import generator
from lossgeo.reports.analysis.study import Study
from lossgeo.reports.curves import Curves
from lossgeo.saddles.refiners.levenberg_marquardt import LevenbergMarquardt
from lossgeo.tables import Column, Table
from tests.support.dense import DIFFERENCES, Dense
from tests.support.networks import (
    CLASSES,
    N,
    apart,
    data,
    directions,
    here,
    landscape_around,
    landscape_of,
    measured,
    noisy,
    partly_uncounted,
    untouched,
)
from tests.support.program import rows as rows_of, tables, trained
from tests.support.synthetic import id_of, recipe, tables_of_a_run, write_run


def values(rows: list[dict[str, Any]], end: str) -> np.ndarray:
    return np.array([row["eigenvalue"] for row in rows if row["end"] == end])


def regression(spectrum: np.ndarray, seed: int = 0) -> Landscape:
    """A linear regression whose Hessian has that spectrum, in directions of no coordinate."""
    P = len(spectrum)
    stream = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(P, P, generator=stream, dtype=torch.float64))
    U, _ = torch.linalg.qr(torch.randn(2 * P, P, generator=stream, dtype=torch.float64))
    inputs = U * (2 * P * torch.from_numpy(spectrum)).sqrt() @ Q.T
    targets = torch.randn(2 * P, 1, generator=stream, dtype=torch.float64)
    module = MLP(hidden=(), bias=False).build(Task((P,), 1, "values"), generator(0, "initialization"))
    return landscape_around(module, Examples(inputs, targets), "mse", chunk=None)


def given(matrix: torch.Tensor) -> LinearOperator:
    return LinearOperator(len(matrix), lambda v: matrix @ v, matrix.dtype, matrix.device)


def test_01_a_pair_of_opposite_eigenvalues_is_two_signed_eigenvalues() -> None:
    """PyHessian (and Landscaper, LLA, Cockpit by the same method) look for the largest |eigenvalue| and deflate: for
    0.385 and -0.378 they report -0.302 and 0.383, with relative residuals of up to 0.75.

    The saddle of a linear network at zero has nothing but such pairs.
    """
    examples = Examples(data((5,)).inputs, directions(N, 2))
    model = MLP(hidden=(1,), activation="identity", bias=False, initialization="zero")
    landscape = landscape_around(model.build(Task((5,), 2, "values"), generator(0, "i")), examples, "mse")
    singular = torch.linalg.svdvals(examples.targets.T @ examples.inputs / N).numpy()
    rows = measured(Eigenvalues(top=2, bottom=2, tolerance=1e-6), landscape)
    assert values(rows, "top") == pytest.approx(singular, rel=1e-6)
    assert values(rows, "bottom") == pytest.approx(-singular, rel=1e-6)
    assert all(row["converged"] and row["residual"] <= 1e-6 * abs(row["eigenvalue"]) for row in rows)


def test_02_no_ghost_copies_in_150_steps() -> None:
    """hessian-eigenthings turns reorthogonalization off beyond 50 steps: ten copies of 50.0, all `converged=True`, for
    a spectrum that begins 50, 30, 20. curvlinops' fast_lanczos and zyushun never have it.
    """
    outliers = np.array([50, 30, 20, 15, 12, 10, 8, 7, 6, 5.0])
    spectrum = np.concatenate([outliers, np.linspace(0.001, 1, 190)])
    landscape = regression(spectrum)
    krylov = Krylov(Hessian().at(here(landscape)), direction(given(torch.eye(200).double()), generator(0, "test")))
    while krylov.steps < 150:
        krylov.extend()
    ritz, _ = krylov.ritz()
    assert ritz[::-1][:10] == pytest.approx(outliers, rel=1e-10)
    assert ritz[::-1][10] <= 1 + 1e-10
    gram = krylov.basis @ krylov.basis.T
    assert (gram - torch.eye(150)).abs().max() <= 1e-12
    rows = measured(Eigenvalues(top=10, bottom=0, tolerance=1e-10, budget=200), landscape)
    assert values(rows, "top") == pytest.approx(outliers, rel=1e-9)
    rows = measured(Density(steps=150, vectors=2, deflate=0), landscape)
    for vector in range(2):  # one node each
        nodes = np.array([row["node"] for row in rows if row["vector"] == vector])
        assert np.sort(nodes[nodes > 2])[::-1] == pytest.approx(outliers, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_03_vectors_are_orthonormal(dtype: torch.dtype) -> None:
    """PyHessian and Landscaper skip the orthogonalization of the last step: vectors overlap by up to 0.12."""
    landscape = landscape_of("cnn", dtype=dtype)
    for start in ("warm", "random"):
        probe = Eigenvalues(top=8, bottom=4, tolerance=1e-4, save_vectors=True, start=start)
        found = probe.run(landscape, Point(0, landscape.start(), {}), {}, 0).vectors
        vectors = torch.cat(list(found.values())).double()
        assert vectors.shape == (12, landscape.size)
        assert (vectors @ vectors.T - torch.eye(12)).abs().max() <= 1e-6


OPERATORS: list[Operator] = [Hessian(), GaussNewton(), Fisher(), GradientCovariance()]


def test_04_a_ragged_last_batch_counts_by_its_size() -> None:
    """hessian-eigenthings averages batches without their sizes: 33 examples as 32 + 1 gave a trace of 164.7 for 15.9.
    loss-landscape sums them without dividing at all.
    """
    whole, ragged = (landscape_of("mlp", chunk=chunk, n=33) for chunk in (33, 32))
    vectors = directions(whole.size)
    for operator in OPERATORS:
        assert apart(operator.at(here(ragged)) @ vectors, operator.at(here(whole)) @ vectors) <= 1e-12
    traces = [measured(Trace(vectors=8, tolerance=0), landscape)[0]["value"] for landscape in (ragged, whole)]
    assert traces[0] == pytest.approx(traces[1], rel=1e-12)


@pytest.mark.parametrize("network", ["mlp", "transformer"])
@pytest.mark.parametrize(
    "loss",
    [CrossEntropy(ignore_index=-1), CrossEntropy(ignore_index=-1, class_weights=(0.1, 1.0, 5.0, 2.0))],
    ids=["ignored", "ignored and weighted"],
)
def test_05_what_does_not_count_is_not_counted(network: str, loss: CrossEntropy) -> None:
    """curvlinops weighs batches by their sizes: with 18 of 40 labels ignored over two batches a trace of 4.134 for
    3.642. hessian-eigenthings averages sequences of different numbers of tokens alike.
    """
    base = landscape_of(network)
    examples = partly_uncounted(base.train)  # one batch of ten without a single target among them
    vectors = directions(base.size)
    made = [Landscape(base.module, loss, base.task, examples, examples, torch.float64, chunk=c) for c in (N, 10, 1)]
    for operator in OPERATORS:
        whole, *batched = (operator.at(here(landscape)) @ vectors for landscape in made)
        for product in batched:
            assert apart(product, whole) <= 1e-12
    assert apart(Hessian().at(here(made[1])) @ vectors, Dense(made[1]).hessian @ vectors) <= 1e-12


SHORT_SEARCH = LevenbergMarquardt(iterations=5)


@pytest.mark.parametrize("batch_norm", ["eval", "batch"])
@pytest.mark.parametrize("name", names(Probe))
def test_06_a_probe_leaves_everything_as_it_was(name: str, batch_norm: str) -> None:
    """PyHessian leaves model.eval() and a .grad with a graph; hessian-eigenthings moved a running mean by 0.18;
    loss-landscapes moves the parameters by 0.7 of their norm and sets requires_grad to False.
    """
    landscape = noisy()
    cls = find(Probe, name)
    rest: list[dict[str, Any]] = [{"samples": 20}, {"precision": "float64"}, {"memory": 1e-4}]
    tried = [{"per_layer": True}, *(rest if batch_norm == "eval" else [])]
    short = {"density": {"steps": 10, "vectors": 2}, "critical_point_search": {"refine": SHORT_SEARCH}}
    small: dict[str, Any] = {"batch_norm": batch_norm} | short.get(name, {})
    for settings in [small | more for more in tried] if issubclass(cls, CurvatureProbe) else [{}]:
        probe, theta = cls(**settings), landscape.start()
        with untouched(landscape, theta):
            found = probe.run(landscape, Point(5, theta, {}), {}, 0)
        assert [row["failure"] for row in found.rows if row.get("failure")] == []
        assert len(found.rows) > 0


MODELS: dict[str, dict[str, Any]] = {
    "mlp": {},
    "batch norm": {
        "model": {"name": "resnet", "width": 2, "blocks": 1, "normalization": "batch"},
        "dataset": {"name": "digits", "train": 100, "test": 20},
        "batch_size": 25,
    },
    "dropout": {
        "model": {"name": "transformer", "width": 4, "heads": 2, "layers": 1, "dropout": 0.2},
        "dataset": {"name": "text", "context": 6, "train": 60, "test": 10},
        "optimizer": {"name": "adam", "lr": 0.01},
        "batch_size": 20,
    },
}


@pytest.mark.parametrize("model", MODELS)
def test_07_training_with_every_probe_at_every_step_is_training_without(tmp_path: Path, model: str) -> None:
    """No peer offers it. To the last bit: losses, evaluations, parameters, optimizer state, buffers and noise."""
    changes = {"steps": 3, "checkpoint": {"every": 2}, "evaluate": {"every": 2}, "log": {"every": 1}} | MODELS[model]
    cheap = {"every": 1, "samples": 50, "batch_norm": "batch" if model == "batch norm" else "eval"}
    probes = [
        {"name": "eigenvalues", "top": 2, "budget": 12, **cheap},
        {"name": "eigenvalues", "operator": "gauss_newton", "start": "random", "budget": 12, **cheap},
        {"name": "eigenvalues", "per_layer": True, "budget": 5, **cheap},
        {"name": "trace", "vectors": 4, "deflate": 1, **cheap},
        {"name": "trace", "operator": {"name": "fisher", "draws": 2}, "vectors": 4, **cheap},
        {"name": "density", "steps": 5, "vectors": 2, "deflate": 1, **cheap},
    ]
    plain, watched = trained(tmp_path, **changes), trained(tmp_path, probes=probes, **changes)
    for table in ("eigenvalues", "trace", "density"):
        rows = rows_of(watched.folder, table)
        assert {row["step"] for row in rows} == set(range(4))
        assert {row["failure"] for row in rows} == {None}
    of_training = {t: r for t, r in tables(watched.folder, ("run",)).items() if t in ("steps", "evaluations")}
    assert tables(plain.folder, ("run",)) == of_training
    assert list(plain.checkpoints()) == list(watched.checkpoints()) == [0, 2, 3]
    for step in plain.checkpoints():
        one, other = plain.load(step), watched.load(step)
        assert set(one) == {name for name in other if not name.startswith("memory/")}
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_08_batch_norm_in_training_mode_is_that_of_the_statistics_written_out() -> None:
    """curvlinops raises, for torch.func and the update of the statistics; PyHessian forces eval and says nothing."""
    landscape = landscape_of("resnet", chunk=10)
    dense = Dense(landscape, "batch")
    vectors = directions(landscape.size)
    assert apart(Hessian().at(here(landscape, "batch")) @ vectors, dense.hessian @ vectors) <= 1e-12
    spectrum = np.linalg.eigvalsh(dense.hessian.numpy())
    rows = measured(Eigenvalues(top=1, bottom=1, tolerance=1e-8, batch_norm="batch"), landscape)
    assert [row["eigenvalue"] for row in rows] == pytest.approx(spectrum[[-1, 0]], rel=1e-8)
    assert {row["batch_norm"] for row in rows} == {"batch"}
    (row,) = measured(Eigenvalues(bottom=0, tolerance=1e-8), landscape)
    assert row["eigenvalue"] != pytest.approx(spectrum[-1], rel=0.01)  # the mode makes a difference, and is in the row
    assert row["batch_norm"] == "eval"


def test_09_attention_has_second_derivatives() -> None:
    """torch's fused attention has none on the CPU, which stops curvlinops and every double backward."""
    landscape = landscape_of("transformer", chunk=10)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # the trap is there
        loss = landscape.module(landscape.train.inputs).square().sum()
    (slope,) = torch.autograd.grad(loss, landscape.module.tokens.weight, create_graph=True)
    with pytest.raises(RuntimeError, match=r"derivative for .* is not implemented"):
        torch.autograd.grad(slope.square().sum(), landscape.module.tokens.weight)
    vectors = directions(landscape.size)
    assert apart(Hessian().at(here(landscape)) @ vectors, Dense(landscape).hessian @ vectors) <= 1e-12


def test_10_frozen_and_unused_parameters_have_no_curvature() -> None:
    """PyHessian crashes on both, hessian-eigenthings on the unused ones."""

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.frozen = nn.Linear(6, 5).requires_grad_(False)
            self.used = nn.Linear(5, CLASSES)
            self.unused = nn.Linear(2, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.used(torch.tanh(self.frozen(inputs)))

    landscape = landscape_around(Odd(), data((6,)))
    dense = Dense(landscape)
    where = dense.positions(["used.weight", "used.bias"])
    product = Hessian().at(here(landscape)) @ torch.ones(landscape.size).double()
    assert (product[where] != 0).all()
    assert (product.index_fill(0, where, 0) == 0).all()
    spectrum = np.linalg.eigvalsh(dense.hessian.numpy())
    rows = measured(Eigenvalues(top=2, bottom=1, tolerance=1e-8), landscape)
    assert [row["eigenvalue"] for row in rows] == pytest.approx(spectrum[[-1, -2, 0]], rel=1e-8, abs=1e-10)
    assert len(measured(Density(steps=10), landscape)) > 0
    assert measured(Trace(), landscape)[0]["value"] > 0


def test_11_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """PyHessian's rule, asked for 1e-3, stops 11% off in the median and 43% at worst, and gives no interval; Landscaper
    copies it; the others give none either.
    """
    H = Dense(landscape_of("cnn", "mse")).hessian
    spectrum = np.linalg.eigvalsh(H.numpy())
    operator = given((H + H.T) / 2)
    holds = {"trace": 0, "trace after deflation": 0, "mass of the outliers": 0}
    seeds = 200
    for seed in range(seeds):
        plain = trace(operator, "hutchinson", 12, 0.0, generator(seed, "test"))
        holds["trace"] += plain.low <= spectrum.sum() <= plain.high
        krylov = Krylov(operator, direction(operator, generator(seed, "start")))
        known = lanczos(krylov, 3, 0, 1e-3, 200, generator(seed, "lanczos")).top.only_converged()
        rest = trace(operator, "auto", 12, 0.0, generator(seed, "test"), known)
        holds["trace after deflation"] += rest.low <= spectrum.sum() <= rest.high
        found = density(operator, 40, 6, generator(seed, "density"))
        # where no eigenvalues are near, so that the quadrature's own error is nothing
        mass = found.average(found.node > spectrum[-6:-4].mean())
        holds["mass of the outliers"] += mass.low <= 5 / len(spectrum) <= mass.high
    assert all(180 <= count <= 199 for count in holds.values()), holds


def test_12_quadrature_weights_are_a_distribution_with_the_moments_of_the_spectrum() -> None:
    """Landscaper's weights are complex and the whole matrix of eigenvectors; its plots leave them out."""
    landscape = landscape_of("cnn", chunk=10)
    spectrum = np.linalg.eigvalsh(Dense(landscape).hessian.numpy())
    for deflate in (0, 4):
        rows = measured(Density(steps=30, vectors=10, deflate=deflate), landscape)
        node, weight, vector = (np.array([row[key] for row in rows]) for key in ("node", "weight", "vector"))
        assert weight.dtype == np.float64
        assert (weight >= 0).all()
        assert np.bincount(vector, weight) == pytest.approx(np.ones(10), abs=1e-12)
        for power in (1, 2, 3):
            # 4 sigma over ten directions u: Var u'f(A)u <= 2 ||f(A)||^2 / P (P + 2)
            sigma = np.sqrt(2 * (spectrum ** (2 * power)).sum() / len(spectrum) / (len(spectrum) + 2) / 10)
            assert abs((weight * node**power).sum() / 10 - (spectrum**power).mean()) <= 4 * sigma


def test_13_random_directions_are_as_orthogonal_as_chance_has_it() -> None:
    """Landscaper's "orthogonal" directions came out parallel, cos = -0.9995; those of loss-landscapes are uniform on
    [0, 1), cos 0.87 with the vector of ones. The version with slices arrives with slices.
    """
    P, pairs = 500, 400
    operator = given(torch.eye(P, dtype=torch.float64))
    stream = generator(0, "test")
    drawn = torch.stack([direction(operator, stream) for _ in range(2 * pairs)])
    assert torch.allclose(drawn.norm(dim=1), torch.ones(2 * pairs).double(), rtol=1e-14)
    cosines = (drawn[::2] * drawn[1::2]).sum(1)
    # P cos^2 is 1 on average with a variance of 2, and cos 0 with 1/P: 4 sigma
    assert abs(float(cosines.square().mean()) * P - 1) <= 4 * (2 / pairs) ** 0.5
    assert abs(float(cosines.mean())) <= 4 / (P * pairs) ** 0.5
    ones = torch.ones(P).double() / P**0.5
    assert float((drawn @ ones).abs().max()) <= 5 / P**0.5
    basis = drawn[:1]
    for vector in drawn[1:20]:
        other = orthogonal(vector, basis)
        basis = torch.cat([basis, other[None] / other.norm()])
    assert (basis @ basis.T - torch.eye(20)).abs().max() <= 1e-15 * 10


@pytest.mark.parametrize("network", ["mlp", "resnet", "transformer"])
def test_14_no_displacement_is_no_displacement(network: str) -> None:
    """Landscaper's grid of an even number of points misses its center by 0.0056, loss-landscapes never evaluates the
    start. The coordinates of slices arrive with slices.
    """
    landscape = landscape_of(network, chunk=10)
    theta, v = landscape.start(), directions(landscape.size, 1)[:, 0]
    value = landscape.evaluate(theta, landscape.train)
    assert landscape.evaluate(theta + 0.0 * v, landscape.train) == value
    assert landscape.evaluate(theta + v, landscape.train) != value
    assert landscape.evaluate(here(landscape).moved(0.0 * v), landscape.train) == value
    assert landscape.evaluate(theta, landscape.train) == value


def test_15_what_is_no_number_stays_none(tmp_path: Path) -> None:
    """Landscaper replaces NaN by the mean and infinity by the largest value, and adds noise to that."""
    odd = [math.nan, math.inf, -math.inf, None, 1.0]
    table = Table(tmp_path / "t.parquet", (Column("value", "float", "", "a number, or none"),))
    for step, value in enumerate(odd):
        table.append({"run": "r", "replica": 0, "step": step, "value": value})
    table.flush()
    again = Table.open(tmp_path / "t.parquet", table.columns[3:])
    assert [repr(row["value"]) for row in again.rows] == [repr(value) for value in odd]
    for text in (formats.tsv, formats.csv):
        lines = text([{"value": value, "and": "more"} for value in odd]).splitlines()
        assert [line.removesuffix("more")[:-1] for line in lines[1:]] == ["nan", "inf", "-inf", "", "1.0"]
    write_run(tmp_path, id_of(1), recipe(), tables_of_a_run(math.inf, train_loss=math.nan))
    rows = Curves().render(Study.open([tmp_path])).rows
    assert {row["lambda_max"] for row in rows} == {None}, "a report says missing, never another number"
    assert {row["train_loss"] for row in rows} == {None}


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_16_the_loss_bends_along_an_eigenvector_by_its_eigenvalue(network: str) -> None:
    """Landscaper rescales eigenvectors layer by layer before it walks along them: cos 0.64 with what it names. The
    version with slices arrives with slices.
    """
    landscape = landscape_of(network, "mse", chunk=10)
    theta = landscape.start()
    probe = Eigenvalues(top=2, bottom=1, tolerance=1e-6, save_vectors=True)
    found = probe.run(landscape, Point(0, theta, {}), {}, 0)
    vectors = torch.cat([found.vectors["*:top"], found.vectors["*:bottom"]])
    h = 1e-3

    def loss(displacement: torch.Tensor) -> float:
        return landscape.evaluate(theta + displacement, landscape.train).loss

    top = found.rows[0]["eigenvalue"]
    for row, v in zip(found.rows, vectors, strict=True):
        bent = (loss(h * v) - 2 * loss(0 * v) + loss(-h * v)) / h**2
        # h^2 / 12 of the fourth derivative, and 4 eps of the loss over h^2 = 1e-9
        assert bent == pytest.approx(row["eigenvalue"], abs=1e-5 * top)


def test_17_an_operator_is_taken_at_theta_and_of_the_training_loss() -> None:
    """HessFormer evaluates at theta = v and takes mean(logits) for the loss, so its spectrum is not the model's."""
    landscapes = {loss: landscape_of("mlp", loss, chunk=10) for loss in ("cross_entropy", "mse")}
    products = {}
    for loss, landscape in landscapes.items():
        operator = Hessian().at(here(landscape))
        u, v, _ = directions(landscape.size).T
        # linear in v, as nothing is that depends on v by where it is taken
        assert apart(operator @ (2 * u - 3 * v), 2 * (operator @ u) - 3 * (operator @ v)) <= 1e-12
        theta, h = landscape.start(), 1e-5
        ahead, behind = (landscape.mean_gradient(theta + s * v, landscape.train) for s in (h, -h))
        # h^2 / 6 of a third derivative of the gradient, and eps / h
        assert apart(operator @ v, (ahead - behind) / (2 * h)) <= 1e-8
        there = LocalLoss(landscape, Point(0, theta + 0.5, {}), landscape.train)
        assert apart(Hessian().at(there) @ v, operator @ v) > 0.01
        products[loss] = operator @ v
    assert apart(products["mse"], products["cross_entropy"]) > 0.01


def test_18_differences_take_a_step_that_rounding_leaves() -> None:
    """hessian-eigenthings does not scale its step by 1/|v|: errors grow from 1.6e-4 for a unit vector to 2.2e-3 for
    random signs on 5,800 parameters. In bfloat16 its step moves 3 to 83% of the weights, and it is recommended there.
    """
    landscape = landscape_of("cnn", chunk=10)
    dense = Dense(landscape).hessian
    operator = FiniteDifference().at(here(landscape))
    signs = directions(landscape.size, 1)[:, 0].sign()
    for vector in (signs / signs.norm(), signs, 1e6 * signs):
        assert apart(operator @ vector, dense @ vector) <= DIFFERENCES
    half = landscape_of("cnn", dtype=torch.bfloat16)
    (row,) = Eigenvalues(operator=FiniteDifference()).run(half, Point(0, half.start(), {}), {}, 0).rows
    assert "bfloat16; use hessian" in row["failure"]
    assert "eigenvalue" not in row


@pytest.mark.parametrize(("network", "chunks"), [("mlp", (10, 1)), ("resnet", (10,)), ("transformer", (10,))])
def test_19_a_probe_s_batch_size_is_no_setting(network: str, chunks: tuple[int, ...]) -> None:
    """Eigenvalues of loss-landscape scale with the number of batches; those of hessian-eigenthings move with it."""
    probes = [Eigenvalues(top=2, bottom=1, tolerance=1e-9), Trace(vectors=6), Density(steps=10, vectors=2, deflate=0)]
    numbers = []
    for chunk in (N, *chunks):
        landscape = landscape_of(network, chunk=chunk)
        rows = [row for probe in probes for row in measured(probe, landscape)]
        numbers.append(
            [row[k] for row in rows for k in ("eigenvalue", "value", "stderr", "node", "weight") if k in row]
        )
    for other in numbers[1:]:
        assert other == pytest.approx(numbers[0], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(
    "spectrum", [[2.0] * 12, [3.0, 3.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0], [0.0] * 9, [4.0, *[0.0] * 20]]
)
def test_20_an_exhausted_krylov_space_is_an_answer(spectrum: list[float]) -> None:
    """curvlinops and HessFormer divide by the coupling that has become zero, and NaN spreads."""
    landscape = regression(np.array(spectrum))
    size = len(spectrum)
    found, counts = np.unique(spectrum, return_counts=True)
    rounding = 1e-10 * max(1.0, found.max())
    top, bottom = min(3, size), min(2, size)
    rows = measured(Eigenvalues(top=top, bottom=bottom, tolerance=1e-8), landscape)
    assert values(rows, "top") == pytest.approx(np.sort(spectrum)[::-1][:top], abs=rounding)
    assert values(rows, "bottom") == pytest.approx(np.sort(spectrum)[:bottom], abs=rounding)
    for deflate in (0, 2):
        rows = measured(Density(steps=20, vectors=20, deflate=deflate), landscape)
        node, weight = (np.array([row[key] for row in rows]) for key in ("node", "weight"))
        assert np.isfinite(weight).all()
        assert (np.abs(node[:, None] - found).min(1) <= rounding).all()
        for value, count in zip(found, counts, strict=True):
            share = weight[np.abs(node - value) <= rounding].sum() / 20
            # 4 sigma of the squared length of a random direction's part in `count` of `size` dimensions
            sigma = np.sqrt(2 * count * (size - count) / (size + 2) / 20) / size
            assert abs(share - count / size) <= 4 * sigma + 1e-12
    (row,) = measured(Trace(vectors=10, tolerance=0), landscape)
    assert abs(row["value"] - sum(spectrum)) <= 4 * row["stderr"] + rounding * size
