"""Small networks of every kind that has traps of its own, with data that no chunk size divides."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from lossgeo.components.finding import find
from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.landscapes.datasets import Dataset
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses import Loss
from lossgeo.landscapes.models import Model
from lossgeo.landscapes.point import Point, Preconditioner
from lossgeo.landscapes.task import Examples, Task
from lossgeo.probes import Probe
from lossgeo.randomness import generator
from lossgeo.tables import Row

N = 37  # prime: no chunk size divides it
CLASSES = 4
LENGTH = 3  # of a sequence of tokens, whose vocabulary are the classes

# (model, its settings, shape of an input)
NETWORKS = {
    "mlp": ("mlp", {"hidden": (7, 5)}, (6,)),
    "cnn": ("cnn", {"channels": (3, 4), "activation": "tanh"}, (1, 8, 8)),
    "resnet": ("resnet", {"width": 3, "blocks": 1, "normalization": "batch", "activation": "tanh"}, (1, 6, 6)),
    "transformer": ("transformer", {"width": 6, "heads": 2, "layers": 1, "mlp_ratio": 1}, (LENGTH,)),
}

# every network in the modes of batch norm that make a difference to it
MODES = [(network, "eval") for network in NETWORKS] + [("resnet", "batch")]

UNCOUNTED = -1
# (loss, its settings)
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "cross_entropy": ("cross_entropy", {}),
    "mse": ("mse", {}),
    "weighted": ("cross_entropy", {"ignore_index": UNCOUNTED, "class_weights": (0.5, 2.0, 1.0, 3.0)}),
}


def data(shape: tuple[int, ...], n: int = N, seed: int = 0) -> Examples:
    stream = torch.Generator().manual_seed(seed)
    inputs = torch.randn(n, *shape, generator=stream, dtype=torch.float64)
    return Examples(inputs, torch.randint(0, CLASSES, (n,), generator=stream))


def tokens(n: int = N, seed: int = 0) -> Examples:
    stream = torch.Generator().manual_seed(seed)
    inputs, targets = torch.randint(0, CLASSES, (2, n, LENGTH), generator=stream)
    return Examples(inputs, targets)


def partly_uncounted(examples: Examples) -> Examples:
    """One chunk of ten examples does not count at all, and one place elsewhere does not."""
    targets = examples.targets.clone()
    targets[10:20] = UNCOUNTED
    targets[3] = UNCOUNTED
    if targets.ndim == 2:
        targets[5, 1:] = UNCOUNTED
    return Examples(examples.inputs, targets)


def landscape_on(model: Model, dataset: Dataset, loss: Loss) -> Landscape:
    """A model on a dataset as a training sees it, in float64."""
    data = dataset.load()
    module = model.build(data.task, generator(0, "initialization"))
    return Landscape(module, loss, data.task, data.train, data.test, torch.float64)


def landscape_of(
    network: str, loss: str = "cross_entropy", chunk: int | None = None, dtype: torch.dtype = torch.float64, n: int = N
) -> Landscape:
    name, settings, shape = NETWORKS[network]
    sequences = network == "transformer"
    task = Task(shape, CLASSES, "classes", CLASSES if sequences else None)
    module = find(Model, name)(**settings).build(task, generator(3, "initialization"))
    with torch.no_grad():  # statistics that a wrong mode would show
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 2.0, generator=torch.Generator().manual_seed(len(name)))
        if sequences:  # GPT-2's small start would leave attention flat
            for embedding in (module.tokens, module.positions):
                embedding.weight.mul_(25)
    train, test = (tokens(k, s) if sequences else data(shape, k, s) for k, s in ((n, 0), (11, 1)))
    if loss == "weighted":
        train = partly_uncounted(train)
    loss, options = LOSSES[loss]
    return Landscape(module, find(Loss, loss)(**options), task, train, test, dtype, chunk=chunk)


def landscape_around(
    module: nn.Module,
    examples: Examples,
    loss: str = "cross_entropy",
    dtype: torch.dtype = torch.float64,
    chunk: int | None = 10,
) -> Landscape:
    """A module of a test's own; its examples are flat and of classes, or have values as targets."""
    values = examples.targets.is_floating_point()
    outputs = examples.targets.shape[1] if values else CLASSES
    task = Task(tuple(examples.inputs.shape[1:]), outputs, "values" if values else "classes")
    loss, options = LOSSES[loss]
    return Landscape(module, find(Loss, loss)(**options), task, examples, examples, dtype, chunk=chunk)


class Slower:
    """An optimizer, as far as a measurement needs it, that divides every parameter's step by another number."""

    @staticmethod
    def diagonal(size: int) -> torch.Tensor:
        return torch.linspace(0.5, 3.0, size, dtype=torch.float64)

    def preconditioner(self, theta: torch.Tensor, state: dict[str, torch.Tensor]) -> Preconditioner:
        return Preconditioner.diagonal(self.diagonal(len(theta)))


def here(landscape: Landscape, batch_norm: str = "eval", **settings: Any) -> LocalLoss:
    """The landscape around its start, over its training examples."""
    point = Point(0, landscape.start(), {}, Slower())
    return LocalLoss(landscape, point, landscape.train, batch_norm, **settings)


def directions(size: int, count: int = 3, seed: int = 5) -> torch.Tensor:
    """Random vectors as columns (P, K). A matrix that maps them right is right, but with probability zero."""
    return torch.randn(size, count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def apart(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The distance of two tensors over the size of the second."""
    return float((found.double() - wanted).norm() / wanted.norm())


class Noisy(nn.Module):
    """Batch norm, dropout and attention, on a flat input: everything that a careless measurement would move."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.5, batch_first=True)
        self.last = nn.Linear(8, CLASSES)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = self.layers(inputs).unflatten(1, (2, 4))
        return self.last((rows + self.attention(rows, rows, rows, need_weights=False)[0]).flatten(1))


def noisy(dtype: torch.dtype = torch.float32) -> Landscape:
    """A landscape in the middle of a training, with flags and gradients as nobody leaves them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Noisy()
    landscape = landscape_around(module, data((6,)), dtype=dtype)
    landscape.gradient(landscape.start(), landscape.train.rows(slice(0, 8)))
    module.layers[1].eval()
    module.attention.eval()
    next(module.parameters()).grad = torch.ones(8, 6, dtype=dtype)
    return landscape


def _process() -> dict[str, Any]:
    """What belongs to the process and not to a measurement in it."""
    backends = torch.backends
    return {
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # the global state is what may not move
        "python": random.getstate(),
        "cudnn": (backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic),
        "tf32": (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision()),
        "attention": (
            backends.cuda.flash_sdp_enabled(),
            backends.cuda.mem_efficient_sdp_enabled(),
            backends.cuda.math_sdp_enabled(),
            backends.cuda.cudnn_sdp_enabled(),
            backends.mha.get_fastpath_enabled(),
        ),
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def _bits(tensor: torch.Tensor | None) -> tuple[Any, ...] | None:
    if tensor is None:
        return None
    return tensor.dtype, tuple(tensor.shape), tensor.detach().contiguous().view(torch.uint8).numpy().tobytes()


def _model(landscape: Landscape, theta: torch.Tensor) -> dict[str, Any]:
    module = landscape.module
    plain = {
        name: {k: v for k, v in vars(m).items() if isinstance(v, int | float | str | None | bool)}
        for name, m in module.named_modules()
    }
    hooks = {name: len(m._forward_hooks) + len(m._backward_hooks) for name, m in module.named_modules()}
    return {
        "theta": _bits(theta),
        "buffers": {name: _bits(b.reshape(-1)) for name, b in module.named_buffers()},
        "gradients": {name: (p.requires_grad, _bits(p.grad)) for name, p in module.named_parameters()},
        "attributes": plain,  # training, track_running_stats and whatever else is no tensor
        "hooks": hooks,
        "train": tuple(map(_bits, landscape.train)),
    }


@contextmanager
def untouched(landscape: Landscape, theta: torch.Tensor) -> Iterator[None]:
    """What happens inside leaves the model at theta and the process as they were, to the last bit."""
    version = theta._version
    before = _process(), _model(landscape, theta)
    yield
    after = _process(), _model(landscape, theta)
    for were, are in zip(before, after, strict=True):
        for name, value in were.items():
            assert are[name] == value, name
    assert theta._version == version
    landscape.outputs(theta, landscape.train.inputs[:2])
    flat = torch.cat([p.detach().reshape(-1) for p in landscape.module.parameters()])
    assert _bits(flat) == _bits(theta)  # asked for again, the parameters are theta


def measured(probe: Probe, landscape: Landscape, seed: int = 0) -> list[Row]:
    """The rows of a probe at the start; none failed, nothing is moved."""
    theta = landscape.start()
    with untouched(landscape, theta):
        rows = probe.run(landscape, Point(0, theta, {}, Slower()), {}, seed).rows
    assert [row["failure"] for row in rows if row.get("failure")] == []
    return rows
