"""The networks that the benchmark looks at, trained by plain torch; of lossgeo only the data are used.

What takes long to make is kept in a folder under the system's temporary one, under a name that says what it depends on.
"""

from __future__ import annotations

import copy
import hashlib
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from lossgeo.landscapes.datasets import Dataset
from lossgeo.landscapes.datasets.digits import Digits
from lossgeo.landscapes.datasets.mnist5k import MNIST5k

KEPT = Path(tempfile.gettempdir()) / "lossgeo-bench"
STEPS = 300  # of SGD with momentum before anything is measured
SEEDS = 5  # rounds of the benchmark, each with start vectors of its own


@dataclass(frozen=True)
class Workload:
    """A network, its data, and how it was trained."""

    name: str
    title: str
    dataset: Dataset
    shape: tuple[int, ...]  # of one input
    examples: int  # that the curvature is measured on
    batch: int
    lr: float
    network: Callable[[], nn.Module]
    chunk: int  # examples that lossgeo takes at once, its default for such a network


def mlp(widths: tuple[int, ...], activation: type[nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def _cnn() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 9, 128), nn.ReLU(), nn.Linear(128, 10))


WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            "a", "MLP 64-64-64-10, tanh, digits", Digits(), (64,), 1797, 32, 0.05,
            lambda: mlp((64, 64, 64, 10), nn.Tanh), 1024,
        ),
        Workload(
            "b", "MLP 784-512-512-10, ReLU, MNIST-5k", MNIST5k(), (784,), 2048, 128, 0.05,
            lambda: mlp((784, 512, 512, 10), nn.ReLU), 1024,
        ),
        Workload(
            "c", "CNN 16-32-64 (3 x 3, ReLU, average pooling) and 576-128-10, MNIST-5k", MNIST5k(), (1, 28, 28), 1024,
            64, 0.05, _cnn, 256,
        ),
    )
}  # fmt: skip


@dataclass
class Problem:
    """A workload at its trained point."""

    workload: Workload
    module: nn.Module  # float32, never handed out: contestants get copies
    inputs: torch.Tensor  # (N, ...)
    targets: torch.Tensor  # (N,)

    @property
    def size(self) -> int:
        return sum(p.numel() for p in self.module.parameters())

    def copy(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        return copy.deepcopy(self.module).to(dtype)

    def batches(self, batch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(zip(self.inputs.split(batch), self.targets.split(batch), strict=True))

    def digest(self) -> str:
        return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in self.module.parameters())).hexdigest()[:12]


def problem(name: str) -> Problem:
    """The workload after 300 steps of SGD with momentum 0.9 on all the data of its dataset, in its first N examples."""
    workload = WORKLOADS[name]
    raw = workload.dataset.read(torch.Generator())
    order = torch.randperm(len(raw.targets), generator=torch.Generator().manual_seed(0))
    inputs = torch.as_tensor(raw.inputs, dtype=torch.float32).reshape(-1, *workload.shape)[order]
    targets = torch.as_tensor(raw.targets, dtype=torch.int64)[order]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = workload.network()

    def trained() -> dict[str, torch.Tensor]:
        optimizer = torch.optim.SGD(module.parameters(), lr=workload.lr, momentum=0.9)
        stream = torch.Generator().manual_seed(1)
        for _ in range(STEPS):
            rows = torch.randint(len(targets), (workload.batch,), generator=stream)
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs[rows]), targets[rows]).backward()
            optimizer.step()
        return module.state_dict()

    module.load_state_dict(kept(f"{name}-{STEPS}-{workload.batch}-{workload.lr}-{torch.__version__}", trained))
    for parameter in module.parameters():
        parameter.grad = None
    return Problem(workload, module.eval(), inputs[: workload.examples], targets[: workload.examples])


def kept(name: str, make: Callable[[], Any]) -> Any:
    path = KEPT / f"{name}.pt"
    if not path.exists():
        KEPT.mkdir(exist_ok=True)
        torch.save(make(), path)
    return torch.load(path, weights_only=False)


# --- what a gradient costs, and how little a product can -------------------------------------------------------------


def gradient(problem: Problem, batch: int) -> Callable[[], object]:
    """The gradient over all examples by plain autograd: the unit in which products are counted."""
    module = problem.copy()
    parameters, total, pieces = list(module.parameters()), len(problem.targets), problem.batches(batch)

    def once() -> list[torch.Tensor]:
        sums: list[torch.Tensor] = []
        for inputs, targets in pieces:
            loss = functional.cross_entropy(module(inputs), targets) * (len(targets) / total)
            parts = torch.autograd.grad(loss, parameters)
            sums = [whole.add_(part) for whole, part in zip(sums, parts, strict=True)] if sums else list(parts)
        return sums

    return once


def least_product(problem: Problem) -> float:
    """Multiply-adds of a Hessian-vector product with all activations at hand, over those of a gradient.

    A layer of m multiply-adds forward takes m more for its weights' gradient and m for its inputs', which the first
    layer does not need: 3 m and 2 m. The derivatives of these along a vector have two terms each, W h' + V h forward
    and so on, but the first layer's inputs do not move: 6 m and 2 m. So

        product / gradient = (2 m_1 + 6 sum_{l>1} m_l) / (2 m_1 + 3 sum_{l>1} m_l)
    """
    counts: list[int] = []
    module = problem.copy()

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        counts.append(output[0].numel() * layer.weight[0].numel())

    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            layer.register_forward_hook(count)
    module(problem.inputs[:1])
    first, rest = counts[0], sum(counts[1:])
    return (2 * first + 6 * rest) / (2 * first + 3 * rest)


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin
