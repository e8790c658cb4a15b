"""Every loss against numpy, and the interface's promises for every loss in the folder."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lossgeo.finding import find, names
from lossgeo.losses import Loss
from lossgeo.task import Targets, Task

LOSSES = names(Loss)
CASES = [(name, kind) for name in LOSSES for kind in find(Loss, name).accepts]

N, C = 7, 3  # 7 is prime: no chunking of it is even


def _example(kind: Targets, seed: int = 0) -> tuple[np.ndarray, np.ndarray, Task]:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, C, N) if kind == "classes" else rng.normal(size=(N, C))
    return rng.normal(size=(N, C)) * 3, targets, Task((4,), C, kind)


def _by_hand(name: str, outputs: np.ndarray, targets: np.ndarray) -> float:
    """The definitions, one example at a time in Python's own arithmetic."""
    costs = []
    for f, y in zip(outputs.tolist(), targets.tolist(), strict=True):
        if name == "cross_entropy":
            costs.append(math.log(math.fsum(math.exp(c) for c in f)) - f[y])
        else:
            goal = y if isinstance(y, list) else [1.0 if c == y else 0.0 for c in range(C)]
            costs.append(math.fsum((a - b) ** 2 for a, b in zip(f, goal, strict=True)) / 2)
    return math.fsum(costs) / len(costs)


def test_the_folder_holds_the_losses_that_are_tested_by_hand() -> None:
    assert LOSSES == ["cross_entropy", "mse"]
    assert CASES == [("cross_entropy", "classes"), ("mse", "classes"), ("mse", "values")]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_mean_is_the_definition(name: str, kind: Targets) -> None:
    outputs, targets, task = _example(kind)
    loss = find(Loss, name)()
    prepared = loss.prepare(torch.from_numpy(targets), task, torch.float64)
    mean = loss.mean(torch.from_numpy(outputs), prepared)
    assert mean.shape == ()
    assert mean.item() == pytest.approx(_by_hand(name, outputs, targets), rel=1e-14)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_chunks_combine_by_their_weights(name: str, kind: Targets) -> None:
    outputs, targets, task = _example(kind)
    loss = find(Loss, name)()
    f, y = torch.from_numpy(outputs), loss.prepare(torch.from_numpy(targets), task, torch.float64)
    assert loss.weight(y) == N
    parts = [slice(0, 5), slice(5, 7)]
    combined = sum(loss.weight(y[p]) * loss.mean(f[p], y[p]).item() for p in parts) / N
    assert combined == pytest.approx(loss.mean(f, y).item(), rel=1e-14)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gradient_is_the_closed_form(name: str, kind: Targets) -> None:
    outputs, targets, task = _example(kind)
    onehot = targets if kind == "values" else np.eye(C)[targets]
    exp = np.exp(outputs)
    expected = (exp / exp.sum(1, keepdims=True) if name == "cross_entropy" else outputs) - onehot
    loss = find(Loss, name)()
    f = torch.from_numpy(outputs).requires_grad_()
    loss.mean(f, loss.prepare(torch.from_numpy(targets), task, torch.float64)).backward()
    np.testing.assert_allclose(f.grad, expected / N, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("generic", [False, True])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_slope_is_the_mean_and_its_derivative(name: str, kind: Targets, generic: bool) -> None:
    outputs, targets, task = _example(kind)
    loss = find(Loss, name)()
    prepared = loss.prepare(torch.from_numpy(targets), task, torch.float64)
    f = torch.from_numpy(outputs).requires_grad_()
    mean = loss.mean(f, prepared)
    mean.backward()
    given = torch.from_numpy(outputs)
    with torch.no_grad():  # as the training loop asks for it
        value, slope = Loss.slope(loss, given, prepared) if generic else loss.slope(given, prepared)
    assert float(value) == pytest.approx(float(mean.detach()), rel=1e-14)
    np.testing.assert_allclose(slope, f.grad, rtol=1e-13, atol=1e-16)
    assert torch.equal(given, torch.from_numpy(_example(kind)[0]))


@pytest.mark.parametrize(("name", "kind"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_prepared_targets_are_idle_and_of_the_run_s_dtype(name: str, kind: Targets, dtype: torch.dtype) -> None:
    outputs, targets, task = _example(kind)
    given = torch.from_numpy(targets)
    before = given.clone()
    loss = find(Loss, name)()
    prepared = loss.prepare(given, task, dtype)
    assert prepared.shape[0] == N
    assert torch.equal(given, before)
    assert loss.mean(torch.from_numpy(outputs).to(dtype), prepared).dtype == dtype


def test_second_derivatives_exist() -> None:
    for name, kind in CASES:
        outputs, targets, task = _example(kind)
        loss = find(Loss, name)()
        y = loss.prepare(torch.from_numpy(targets), task, torch.float64)
        hessian = torch.autograd.functional.hessian(
            lambda f, y=y, loss=loss: loss.mean(f, y), torch.from_numpy(outputs)
        )
        block = hessian[0, :, 0, :].numpy() * N
        p = np.exp(outputs[0]) / np.exp(outputs[0]).sum()
        expected = np.diag(p) - np.outer(p, p) if name == "cross_entropy" else np.eye(C)
        np.testing.assert_allclose(block, expected, rtol=1e-12, atol=1e-15)
