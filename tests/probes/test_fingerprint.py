"""Points that are one up to a symmetry of the network or surface have the same numbers, others have not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from lossgeo.landscapes.datasets.digits import Digits
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses.cross_entropy import CrossEntropy
from lossgeo.landscapes.models.mlp import MLP
from lossgeo.landscapes.surfaces import Surface
from lossgeo.landscapes.surfaces.linear_autoencoder import LinearAutoencoder
from lossgeo.landscapes.surfaces.octopus import Octopus
from lossgeo.landscapes.surfaces.rastrigin import Rastrigin
from lossgeo.landscapes.surfaces.spherical_p_spin import SphericalPSpin
from lossgeo.randomness import generator
from tests.support.critical import found
from tests.support.networks import landscape_on
from tests.support.surfaces import landscape_over

UNITS = 5


def numbers(landscape: Landscape, theta: torch.Tensor) -> torch.Tensor:
    row = found(landscape, theta, gradient_tolerance=1e9, exact=0, steps=2, vectors=1)  # at whatever point
    return torch.tensor(row["function"], dtype=torch.float64)


def of_network(activation: Any, chunk: int | None = None) -> Landscape:
    made = landscape_on(
        MLP(hidden=(UNITS,), activation=activation), Digits(classes=3, components=4, train=90), CrossEntropy()
    )
    made.chunk = chunk or made.chunk
    return made


def changed(landscape: Landscape, change: str) -> torch.Tensor:
    """theta after a symmetry of a network with one hidden layer and a softmax."""
    first, second = (layer for layer in landscape.module.modules() if isinstance(layer, nn.Linear))
    stream = generator(0, "symmetry")
    w, b, v, c = (p.detach().clone() for p in (first.weight, first.bias, second.weight, second.bias))
    factor = torch.ones(UNITS, dtype=torch.float64)
    if change == "exchanged":
        order = torch.randperm(UNITS, generator=stream)
        w, b, v = w[order], b[order], v[:, order]
    if change == "turned":
        factor = torch.randint(0, 2, (UNITS,), generator=stream).double() * 2 - 1
    if change == "scaled":
        factor = torch.rand(UNITS, generator=stream, dtype=torch.float64) + 0.5
    if change == "shifted":
        v, c = v + torch.randn(UNITS, generator=stream, dtype=torch.float64), c + 3.0
    if change == "another":
        c = c + torch.tensor([1e-4, 0.0, 0.0], dtype=torch.float64)
    return torch.cat([t.flatten() for t in (factor[:, None] * w, factor * b, v / factor, c)])


@pytest.mark.parametrize(
    ("activation", "change"),
    [("tanh", "exchanged"), ("tanh", "turned"), ("tanh", "shifted"), ("relu", "exchanged"), ("relu", "scaled")],
)
def test_a_symmetry_of_a_network_leaves_its_numbers(activation: str, change: str) -> None:
    landscape = of_network(activation)
    start = numbers(landscape, changed(landscape, "nothing"))
    assert torch.allclose(numbers(landscape, changed(landscape, change)), start, rtol=0, atol=1e-12)
    assert float((numbers(landscape, changed(landscape, "another")) - start).abs().max()) > 1e-6


def test_idle_weights_do_not_count_and_chunks_do_not_either() -> None:
    """Without outgoing weights it is the constant function whatever the other weights are."""
    landscape, chunked = of_network("tanh"), of_network("tanh", chunk=7)
    rows = []
    for seed in range(2):
        theta = torch.randn(landscape.size, generator=generator(seed, "theta"), dtype=torch.float64)
        theta[5 * UNITS :] = 0.0
        rows.append(numbers(landscape, theta))
        assert torch.allclose(numbers(chunked, theta), rows[-1], rtol=0, atol=1e-12)
    assert torch.allclose(*rows, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "surface", [Octopus(dimension=4), Rastrigin(dimension=4), SphericalPSpin(dimension=6, p=4)], ids=repr
)
def test_a_symmetry_of_a_surface_leaves_its_numbers(surface: Surface) -> None:
    landscape, theta = landscape_over(surface), surface.start(generator(1, "start"))
    there = numbers(landscape, theta)
    turned = -theta.flip(0) if isinstance(surface, Rastrigin) else -theta
    assert float(surface.value(turned)) == pytest.approx(float(surface.value(theta)), rel=1e-12)
    assert torch.allclose(numbers(landscape, turned), there, rtol=0, atol=1e-12)
    assert not torch.allclose(numbers(landscape, theta + 1e-4), there, rtol=0, atol=1e-6)


def test_a_family_of_points_of_the_autoencoder_is_one_point() -> None:
    surface = LinearAutoencoder(inputs=4, hidden=2)
    landscape, theta = landscape_over(surface), surface.start(generator(0, "start"))
    g = torch.tensor([[1.0, 0.3], [-0.2, 2.0]], dtype=torch.float64)
    encoder, decoder = theta[:8].view(2, 4), theta[8:].view(4, 2)
    other = torch.cat([(g @ encoder).flatten(), (decoder @ torch.linalg.inv(g)).flatten()])
    assert torch.allclose(numbers(landscape, other), numbers(landscape, theta), rtol=0, atol=1e-12)
