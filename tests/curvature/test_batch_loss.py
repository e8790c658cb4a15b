"""What a step asks of the loss: one function, however often and in whichever way it is asked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from lossgeo.curvature.operators import Operator
from lossgeo.curvature.operators.gauss_newton import GaussNewton
from lossgeo.curvature.operators.hessian import Hessian
from tests.support.networks import apart, data, directions, landscape_around, landscape_of, noisy, untouched
from tests.support.program import lossgeo, rows, trained, written
from tests.support.steps import batch_loss

NEWTON = '''"""Damped Newton steps."""

from typing import ClassVar, final

import torch
from pydantic import Field

from lossgeo import Hessian, Operator, Optimizer, Step


@final
class Newton(Optimizer):
    """theta <- theta - lr (H + damping)^-1 g, by as many products with H as there are parameters."""

    takes_trials: ClassVar[bool] = False

    operator: Operator = Field(default=Hessian(), description="the curvature it divides by")
    damping: float = Field(default=1e-3, ge=0, description="added to every eigenvalue")

    def init(self, loss, theta):
        return {}

    def step(self, loss, theta, state, lr):
        value, gradient = loss.gradient(theta)
        matrix = loss.curvature(self.operator, theta).dense()
        shifted = matrix + self.damping * torch.eye(len(theta)).to(matrix)
        return Step(theta - lr * torch.linalg.solve(shifted, gradient), state, value, gradient)
'''


def test_two_gradients_of_one_step_are_equal_under_dropout() -> None:
    landscape = noisy(torch.float64)
    landscape.module.train()
    loss, theta = batch_loss(landscape, landscape.train.rows(slice(0, 8))), landscape.start()
    first, gradient = (t.clone() for t in loss.gradient(theta))
    again, same = loss.gradient(theta)
    assert float(again) == float(first)
    assert torch.equal(same, gradient)
    assert float(loss.value(theta)) == float(first)
    loss.begin(1, landscape.train.rows(slice(0, 8)))
    assert float(loss.gradient(theta)[0]) != float(first), "another step has other masks"


def test_only_the_first_gradient_of_a_step_moves_batch_statistics() -> None:
    landscape = landscape_of("resnet")
    landscape.module.train()
    loss, theta = batch_loss(landscape, landscape.train.rows(slice(0, 8))), landscape.start()
    before = landscape.flat.buffers()
    loss.value(theta)
    assert all(torch.equal(b, before[name]) for name, b in landscape.flat.buffers().items())
    loss.gradient(theta)
    moved = landscape.flat.buffers()
    assert any(not torch.equal(b, before[name]) for name, b in moved.items())
    loss.gradient(theta)
    loss.curvature(Hessian(), theta) @ torch.ones_like(theta)
    assert all(torch.equal(b, moved[name]) for name, b in landscape.flat.buffers().items())


@pytest.mark.parametrize("operator", [Hessian(), GaussNewton()], ids=["hessian", "gauss_newton"])
def test_curvature_under_dropout_is_that_of_the_masked_loss(operator: Operator) -> None:
    """Against central differences of the step's own gradients; the outputs are linear in the masked parameters' last
    layer, so for mse the Gauss-Newton matrix of that layer is the Hessian's."""
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 2))
    examples = data((6,))
    values = examples._replace(targets=torch.randn(len(examples.targets), 2, dtype=torch.float64))
    landscape = landscape_around(module, values, loss="mse")
    landscape.module.train()
    theta = landscape.start()
    loss = batch_loss(landscape, landscape.train.rows(slice(0, 16)))
    vector = directions(landscape.size, 1)[:, 0]
    if isinstance(operator, GaussNewton):
        vector[: 6 * 5 + 5] = 0.0
    with untouched(landscape, theta):
        product = loss.curvature(operator, theta) @ vector
    h = 1e-5
    ahead, behind = (loss.gradient(theta + sign * h * vector)[1].clone() for sign in (1, -1))
    wanted = (ahead - behind) / (2 * h)
    if isinstance(operator, GaussNewton):
        product, wanted = product[6 * 5 + 5 :], wanted[6 * 5 + 5 :]
    assert apart(product, wanted) <= 1e-8
    assert float(product.norm()) > 0.1


def test_trials_have_values_and_gradients_and_no_curvature() -> None:
    landscape = landscape_of("mlp")
    theta = torch.stack([landscape.start(), landscape.start() * 1.1])
    batch = landscape.train._make(whole.expand(2, *whole.shape) for whole in landscape.train)
    loss = batch_loss(landscape, batch, trials=True)
    values, gradients = loss.gradient(theta)
    assert torch.equal(loss.value(theta), values)
    assert gradients.shape == theta.shape
    with pytest.raises(ValueError, match="takes_trials: ClassVar"):
        loss.curvature(Hessian(), theta)


def test_shapes_are_those_of_the_parameters() -> None:
    landscape = landscape_of("mlp")
    assert batch_loss(landscape).shapes == [p.shape for p in landscape.module.parameters()]
    assert sum(shape.numel() for shape in batch_loss(landscape).shapes) == landscape.size


def test_curvature_is_that_of_the_batch() -> None:
    landscape = landscape_of("mlp", loss="mse")
    theta, vector = landscape.start(), directions(landscape.size, 1)[:, 0]
    parts = [landscape.train.rows(rows) for rows in (slice(0, 9), slice(9, landscape.train.size))]
    whole = batch_loss(landscape).curvature(Hessian(), theta) @ vector
    products = [batch_loss(landscape, part).curvature(Hessian(), theta) @ vector for part in parts]
    shares = [part.size / landscape.train.size for part in parts]
    assert apart(shares[0] * products[0] + shares[1] * products[1], whole) <= 1e-13
    assert apart(products[0], whole) > 1e-2


class Fused(nn.Module):
    """Dropout whose masks depend on the kernels in use, as those of fused attention do on a GPU."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training and torch.backends.cuda.flash_sdp_enabled():
            torch.rand(3)
        return nn.functional.dropout(inputs, 0.5, self.training)


def test_other_masks_where_curvature_is_taken_are_refused() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), Fused(), nn.Linear(5, 4))
    landscape = landscape_around(module, data((6,)))
    landscape.module.train()
    with pytest.raises(ValueError, match="a layer draws other random numbers there"):
        batch_loss(landscape).curvature(Hessian(), landscape.start())


def test_a_batch_in_which_nothing_counts_has_no_curvature() -> None:
    landscape = landscape_of("mlp", loss="weighted")
    loss, theta = batch_loss(landscape, landscape.train.rows(slice(10, 20))), landscape.start()
    assert float(loss.value(theta)) == 0.0
    assert not (loss.curvature(Hessian(), theta) @ torch.ones_like(theta)).any()


def test_contributions_under_masks_are_those_of_the_whole_batch() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 4))
    landscape = landscape_around(module, data((6,), n=300))
    landscape.module.train()
    map_ = batch_loss(landscape).curvature(Hessian(), landscape.start())
    vector = directions(landscape.size, 1)[:, 0]
    found = map_.contributions(vector[None])
    assert found.forms.shape == (1, 300)
    assert float(found.forms.sum()) == pytest.approx(float(vector @ (map_ @ vector)), rel=1e-12)


# --- an optimizer that asks for curvature, in one new file -----------------------------------------------------------


@pytest.fixture
def newton(tmp_path: Path) -> Path:
    path = tmp_path / "newton.py"
    path.write_text(NEWTON)
    return path


def test_newtons_method_is_one_new_file(tmp_path: Path, newton: Path) -> None:
    """Least squares in one step, up to the damping; by products over its batch."""
    changes = {
        "model": "logistic",
        "dataset": {"name": "linear_teacher", "examples": 200, "standardize": False},
        "loss": "mse",
        "dtype": "float64",
        "batch_size": "full",
        "optimizer": {"name": "newton", "lr": 1.0, "damping": 1e-12},
        "steps": 2,
        "log": {"every": 1},
        "evaluate": {"every": 1},
    }
    run = trained(tmp_path / "out", use=[newton], **changes)
    train = [row["loss"] for row in rows(run.folder, "evaluations") if row["split"] == "train"]
    assert train[1] < 0.9 * train[0]
    assert train[2] == pytest.approx(train[1], rel=1e-9)
    assert rows(run.folder, "steps")[1]["gradient_norm"] < 1e-9 * rows(run.folder, "steps")[0]["gradient_norm"]


def test_it_takes_a_surface_alone_and_refuses_trials_before_training(tmp_path: Path, newton: Path) -> None:
    on_surface = {"model": None, "dataset": None, "loss": None, "batch_size": "full", "surface": "rosenbrock"}
    optimizer = {"name": "newton", "lr": 1.0, "damping": 0.0}
    run = trained(tmp_path / "out", use=[newton], optimizer=optimizer, steps=30, **on_surface)
    assert rows(run.folder, "evaluations")[-1]["loss"] < 1e-20
    recipe = written(tmp_path, optimizer={"name": "newton", "lr": 1.0}, replicas=3)
    refused = lossgeo("train", recipe, "--use", newton, cwd=tmp_path)
    assert refused.returncode == 2
    assert "optimizer 'newton' steps one run at a time, not trials: sweep over `seed`" in refused.stderr
    assert not list((tmp_path / "outputs").glob("*/*/*.parquet"))


def test_the_door_before_this_one_is_refused_in_words(tmp_path: Path) -> None:
    old = tmp_path / "still.py"
    old.write_text(
        "from typing import final\nfrom lossgeo.optimizers import Optimizer, Step\n\n@final\nclass Still(Optimizer):\n"
        '    """Stays."""\n    def init(self, landscape, theta):\n        return {}\n'
        "    def step(self, landscape, batch, theta, state, lr, noise):\n        return Step(theta, state, 0, theta)\n"
    )
    recipe = written(tmp_path, optimizer={"name": "still", "lr": 0.1})
    refused = lossgeo("train", recipe, "--use", old, cwd=tmp_path)
    assert refused.returncode == 2
    assert "optimizer 'still' has `step(landscape, batch, theta, state, lr, noise)`" in refused.stderr
    assert "step(loss, theta, state, lr)" in refused.stderr
