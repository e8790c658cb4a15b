"""Ways down from saddles of any size, and saddles that are met in turn."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lossgeo.errors import UsageError
from lossgeo.landscapes.critical_point import CriticalPoint
from lossgeo.landscapes.surfaces.quadratic import Quadratic
from lossgeo.saddles.saddle import Saddle, Saddles
from tests.support.spectra import matrix, operator

COPIES = [-2.0] * 3 + [-1.0] * 4 + [-0.5]


def known(spectrum: list[float], index: int, owner: str = "it") -> Saddles:
    a = matrix(spectrum)
    point = CriticalPoint(torch.zeros(len(spectrum), dtype=torch.float64), 0.0, index)
    return Saddles(owner, [point], False, lambda theta: operator(a))


@pytest.mark.parametrize("rest", [20, 700])
@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_every_copy_of_a_negative_eigenvalue_is_a_way_down(rest: int, floor: float) -> None:
    """By the whole Hessian, and by a search, which sees one copy of each from one vector."""
    spectrum = COPIES + [floor] * (rest // 2) + [1.0] * (rest - rest // 2)
    saddle = Saddle.of(known(spectrum, len(COPIES)), 0)
    assert saddle.eigenvalues.numpy() == pytest.approx(COPIES, abs=1e-10)
    images = operator(matrix(spectrum)) @ saddle.directions.T
    assert float((images - saddle.eigenvalues * saddle.directions.T).abs().max()) < 1e-9
    gram = saddle.directions @ saddle.directions.T
    assert torch.allclose(gram, torch.eye(len(COPIES), dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rest", [20, 600])
def test_an_index_that_the_hessian_does_not_have_is_refused(rest: int) -> None:
    with pytest.raises(UsageError, match="is said to have 9 negative eigenvalues, and 8 were found"):
        Saddle.of(known(COPIES + [1.0] * rest, 9), 0)


def test_more_ways_down_than_are_watched_are_refused() -> None:
    surface = Quadratic(spectrum=(-1.0, *[-0.5] * 1000, 1.0), dimension=5000)
    listed = Saddles("it", list(surface.critical_points()), False, lambda theta: pytest.fail("nothing is measured"))
    with pytest.raises(UsageError, match="has 1001 ways down among 5000 parameters; trials are watched along 1000"):
        Saddle.of(listed, 0)


@pytest.mark.parametrize(("zeros", "said"), [(0, "is a minimum"), (2, "is degenerate")])
def test_a_point_without_a_way_down_says_what_it_is(zeros: int, said: str) -> None:
    point = CriticalPoint(torch.zeros(3, dtype=torch.float64), 0.0, 0, zeros)
    listed: Any = Saddles("it", [point], False, lambda theta: pytest.fail("nothing is measured"))
    with pytest.raises(UsageError, match=f"{said}, and no way that leads down from it is known"):
        Saddle.of(listed, 0)
