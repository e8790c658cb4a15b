"""The same numbers from the libraries that others use, where these are right: small models in float64.

The libraries are no dependency of the tests. `.ci/run` installs them and runs this file again; elsewhere each test that
lacks its library is skipped and says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import LinearOperator as ScipyOperator, eigsh
from torch import nn
from torch.nn import functional

from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.fisher import Fisher
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.curvature.operators.gradient_covariance import GradientCovariance
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.lanczos import Ends, lanczos
from lossgeo.curvature.spectral.linear_operator import LinearOperator
from lossgeo.landscapes.landscape import Landscape
from lossgeo.randomness import generator
from tests.support.networks import CLASSES, apart, directions, here, landscape_of

EXAMPLES = 36  # for those that average batches as if they were of one size
BATCH = 12

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed here; .ci/run runs this with it")


def ends(operator: LinearOperator, top: int, bottom: int) -> Ends:
    stream = generator(0, "test")
    found = lanczos(Krylov(operator, direction(operator, stream)), top, bottom, 1e-10, 10_000, stream, operator.room)
    assert found.top.converged.all()
    assert found.bottom.converged.all()
    return found


def batches(landscape: Landscape, size: int) -> Batches:
    inputs, targets = landscape.train
    return list(zip(inputs.split(size), targets.split(size), strict=True))


# --- curvlinops ------------------------------------------------------------------------------------------------------

# ours is half the squared distance, torch's MSELoss the mean over outputs too, 2/C times ours; its matrices follow, but
# that curvlinops divides sums of (2 r'J)^2 by C too
CRITERIA = {"cross_entropy": (nn.CrossEntropyLoss, 1.0, 1.0), "mse": (nn.MSELoss, 2 / CLASSES, 4 / CLASSES)}
CURVLINOPS: dict[str, tuple[Operator, str, int]] = {
    "hessian": (Hessian(), "HessianLinearOperator", 1),
    "gauss_newton": (GaussNewton(), "GGNLinearOperator", 1),
    "fisher": (Fisher(), "GGNLinearOperator", 1),
    "empirical_fisher": (GradientCovariance(centered=False), "EFLinearOperator", 2),
}


@pytest.mark.parametrize("loss", CRITERIA)
@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("name", CURVLINOPS)
def test_products_equal_those_of_curvlinops(name: str, network: str, loss: str) -> None:
    curvlinops = library("curvlinops")
    operator, theirs, scale = CURVLINOPS[name]
    landscape = landscape_of(network, loss, chunk=10)
    mine = operator.at(here(landscape))
    parameters = list(landscape.module.parameters())
    criterion = CRITERIA[loss][0]()
    other = getattr(curvlinops, theirs)(landscape.module.eval(), criterion, parameters, batches(landscape, 15))
    vectors = directions(mine.size)
    assert apart(mine @ vectors, (other @ vectors).detach() / CRITERIA[loss][scale]) < 1e-10


# --- hessian-eigenthings ---------------------------------------------------------------------------------------------


EIGENTHINGS: dict[str, Operator] = {
    "hessian": Hessian(),
    "gauss_newton": GaussNewton(),
    "empirical_fisher": GradientCovariance(centered=False),
}


def eigenthings(name: str, landscape: Landscape) -> Any:
    """One of its operators; batches of one size, since it averages them as if they were."""
    he = library("hessian_eigenthings")
    data, criterion = batches(landscape, BATCH), functional.cross_entropy
    if name == "hessian":
        return he.HessianOperator(landscape.module, data, he.supervised_loss(criterion))
    if name == "gauss_newton":
        outer = he.supervised_loss_of_output(criterion)
        return he.GGNOperator(landscape.module, data, he.supervised_forward, outer)
    return he.EmpiricalFisherOperator(landscape.module, data, he.supervised_per_sample_loss(criterion))


@pytest.mark.parametrize("name", EIGENTHINGS)
def test_products_equal_those_of_hessian_eigenthings(name: str) -> None:
    landscape = landscape_of("mlp", chunk=10, n=EXAMPLES)
    mine = EIGENTHINGS[name].at(here(landscape))
    other = eigenthings(name, landscape)
    for vector in directions(mine.size).T:
        assert apart(mine @ vector, (other @ vector).detach()) < 1e-10


def test_both_ends_equal_those_of_hessian_eigenthings_given_steps_enough() -> None:
    he = library("hessian_eigenthings")
    landscape = landscape_of("mlp", chunk=10, n=EXAMPLES)
    found = ends(Hessian().at(here(landscape)), 5, 2)
    for end, which in ((found.top, "LA"), (found.bottom, "SA")):
        # as many steps as parameters, and orthogonalized, which beyond 50 it does not do by itself
        other = he.lanczos(
            eigenthings("hessian", landscape), k=len(end.values), max_iter=landscape.size, which=which,
            reorthogonalize=True, seed=0,
        )  # fmt: skip
        np.testing.assert_allclose(end.values, other.eigenvalues, rtol=1e-9)
        overlaps = (end.vectors * other.eigenvectors).sum(1).abs()
        assert float((1 - overlaps).abs().max()) < 1e-8


# --- PyHessian -------------------------------------------------------------------------------------------------------


@pytest.fixture
def float64_by_default() -> Iterator[None]:
    """PyHessian makes its vectors in torch's default precision from torch's global generator."""
    state = torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch: PyHessian keeps a graph in .grad
        yield
    torch.set_default_dtype(torch.float32)
    torch.random.set_rng_state(state)


@pytest.mark.usefixtures("float64_by_default")
def test_top_eigenvalues_and_trace_equal_those_of_pyhessian() -> None:
    pyhessian = library("pyhessian")
    landscape = landscape_of("mlp", chunk=10)
    operator = Hessian().at(here(landscape))
    found = ends(operator, 2, 0)
    dense = operator @ torch.eye(operator.size, dtype=torch.float64)
    spectrum = torch.linalg.eigvalsh(dense)
    assert float(-spectrum[0]) < float(spectrum[-2])  # else its largest by modulus would not be ours
    other = pyhessian.hessian(landscape.module, nn.CrossEntropyLoss(), dataloader=batches(landscape, 15), cuda=False)
    values, _ = other.eigenvalues(maxIter=2000, tol=1e-12, top_n=2)
    unit = 1 / (1 + 1e-6)  # the length of its unit vectors: it divides by the norm plus 1e-6
    np.testing.assert_allclose(found.top.values, np.array(values) / unit**2, rtol=1e-8)
    samples = np.array(other.trace(maxIter=200, tol=0))
    stderr = samples.std(ddof=1) / len(samples) ** 0.5
    assert abs(samples.mean() - float(dense.trace())) < 4 * stderr


# --- SciPy -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["mlp", "cnn", "resnet"])
def test_both_ends_equal_those_of_arpack_on_our_operator(network: str) -> None:
    operator = Hessian().at(here(landscape_of(network, chunk=10)))
    found = ends(operator, 4, 2)
    plain = ScipyOperator(
        (operator.size, operator.size), lambda v: (operator @ torch.from_numpy(v.ravel())).numpy(), dtype=np.float64
    )
    start = np.random.default_rng(0).standard_normal(operator.size)
    for end, which in ((found.top, "LA"), (found.bottom, "SA")):
        values = eigsh(plain, len(end.values), which=which, v0=start, tol=1e-12, return_eigenvectors=False)
        np.testing.assert_allclose(np.sort(end.values), np.sort(values), rtol=1e-9)
