"""Ten million parameters in two gibibytes: whether the engine keeps what it was told about memory."""

from __future__ import annotations

import json
import resource
import time
from typing import Any

import torch
from torch import nn

from lossgeo.curvature.local_loss import LocalLoss
from lossgeo.curvature.operators.hessian import Hessian
from lossgeo.curvature.spectral.krylov import Krylov, direction
from lossgeo.curvature.spectral.lanczos import lanczos
from lossgeo.landscapes.landscape import Landscape
from lossgeo.landscapes.losses.cross_entropy import CrossEntropy
from lossgeo.landscapes.point import Point
from lossgeo.landscapes.task import Examples, Task
from lossgeo.randomness import generator

from .contest import peak
from .workloads import WORKLOADS, mlp, problem

LIMIT = 2  # GiB of the process: the system refuses it more
MEMORY = 1  # GiB for graphs and vectors; libraries, data, theta and the gradient buffer take the rest
WIDTH = 2816


def large() -> dict[str, Any]:
    """The top 10 of an untrained MLP on 1,024 images; a process that takes more than LIMIT dies of it."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT * 2**30, LIMIT * 2**30))
    data = problem("b")
    torch.manual_seed(0)
    module = mlp((784, WIDTH, WIDTH, 10), nn.ReLU)
    examples = Examples(data.inputs[:1024], data.targets[:1024])
    task = Task(WORKLOADS["b"].shape, 10, "classes")
    landscape = Landscape(module, CrossEntropy(), task, examples, examples.rows(slice(2)))
    begin = time.perf_counter()
    here = LocalLoss(landscape, Point(0, landscape.start(), {}), examples, memory=MEMORY * 2**30)
    operator = Hessian().at(here)
    stream = generator(0, "bench")
    ends = lanczos(Krylov(operator, direction(operator, stream)), 10, 0, 1e-3, 1000, stream, operator.room)
    return {
        "size": landscape.size,
        "memory": MEMORY,
        "limit": LIMIT,
        "products": operator.products,
        "note": operator.note,
        "converged": int(ends.top.converged.sum()),
        "seconds": time.perf_counter() - begin,
        "peak": peak(),
    }


if __name__ == "__main__":
    print(json.dumps(large()))
